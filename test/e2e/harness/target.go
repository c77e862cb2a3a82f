package harness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Ready is what a target says when it listens; addresses are host:port.
type Ready struct {
	PID     int    `json:"pid"`
	Go      string `json:"go"`
	HTTP    string `json:"http"`
	HTTPS   string `json:"https"`
	H2C     string `json:"h2c"`
	Flaky   string `json:"flaky"`
	Silent  string `json:"silent"`
	Reset   string `json:"reset"`
	Refused string `json:"refused"`
	GRPC    string `json:"grpc"`
	GRPCS   string `json:"grpcs"`
	Workers string `json:"workers"`
	// Servers are further addresses, by what serves there.
	Servers map[string]string `json:"servers"`
}

// Target is a running program that knows nothing of the agent.
type Target struct {
	Ready
	cmd    *exec.Cmd
	stderr *syncBuffer
	exited chan struct{}
}

// readyWait is how long a target may take to listen; generous, because other
// builds may have the processors.
var readyWait = Patience * 30 * time.Second

// StartTarget starts an executable that prints "ready {json}", or "ready URL", and waits for that
// line. It is stopped when the test ends.
func StartTarget(t testing.TB, path string, args ...string) *Target {
	t.Helper()
	return StartTargetEnv(t, nil, path, args...)
}

// StartTargetEnv is StartTarget with environment variables of its own.
func StartTargetEnv(t testing.TB, env []string, path string, args ...string) *Target {
	t.Helper()
	tg := &Target{cmd: exec.Command(path, args...), stderr: &syncBuffer{}, exited: make(chan struct{})}
	tg.cmd.Stderr = tg.stderr
	tg.cmd.Env = append(tg.cmd.Environ(), env...)
	tg.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := tg.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tg.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	t.Cleanup(tg.Stop)

	line := make(chan string, 1)
	go func() {
		defer close(tg.exited)
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			if text, ok := strings.CutPrefix(sc.Text(), "ready "); ok && len(line) == 0 {
				line <- text
			}
		}
		_ = tg.cmd.Wait()
	}()
	select {
	case text := <-line:
		if _, addr, ok := strings.Cut(text, "://"); ok && text[0] != '{' { // the demo's programs
			tg.HTTP, tg.PID = addr, tg.cmd.Process.Pid
			break
		}
		if err := json.Unmarshal([]byte(text), &tg.Ready); err != nil {
			t.Fatalf("%s: ready line %q: %v", path, text, err)
		}
	case <-tg.exited:
		t.Fatalf("%s ended before it was ready: %s", path, tg.stderr.String())
	case <-time.After(readyWait):
		t.Fatalf("%s is not ready after %v: %s", path, readyWait, tg.stderr.String())
	}
	return tg
}

// Stop ends the target and waits for it. Stopping twice is harmless.
func (tg *Target) Stop() {
	_ = tg.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-tg.exited:
	case <-time.After(5 * time.Second):
		_ = tg.cmd.Process.Kill()
		<-tg.exited
	}
}

// Alive says whether the target still runs.
func (tg *Target) Alive() bool {
	select {
	case <-tg.exited:
		return false
	default:
		return true
	}
}

// Stderr is what the target has written there.
func (tg *Target) Stderr() string { return tg.stderr.String() }

// URL is a URL on the target's plain server.
func (tg *Target) URL(pathAndQuery string) string { return "http://" + tg.HTTP + pathAndQuery }

// CallURL is the URL that makes the target call target with the given options,
// as key, value pairs (see testdata/targets/httpmatrix/calls.go).
func (tg *Target) CallURL(target string, options ...string) string {
	q := url.Values{"url": {target}}
	for i := 0; i+1 < len(options); i += 2 {
		q.Add(options[i], options[i+1])
	}
	return tg.URL("/call?" + q.Encode())
}

// Outcome is how a target's own call ended.
type Outcome struct {
	Status int    `json:"status"`
	Proto  string `json:"proto"`
	Bytes  int64  `json:"bytes"`
	Err    string `json:"err"`
}

// Call lets the target make calls and returns their outcomes.
func (tg *Target) Call(t testing.TB, target string, options ...string) []Outcome {
	t.Helper()
	var out []Outcome
	body := Get(t, tg.CallURL(target, options...))
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		t.Fatalf("call %s: answer %q: %v", target, body, err)
	}
	return out
}

// Client makes requests on connections of their own, so that cases do not share one.
var Client = &http.Client{
	Timeout:   30 * time.Second,
	Transport: &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	},
}

// Get requires an answer of 200 and returns its body.
func Get(t testing.TB, url string) string {
	t.Helper()
	body, err := TryGet(url)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// TryGet is Get with an error.
func TryGet(url string) (string, error) { return TryGetBy(Client, url) }

// TryGetBy is TryGet with another client.
func TryGetBy(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("get %s: %s: %s", url, resp.Status, body)
	}
	return string(body), nil
}

// syncBuffer is a bytes.Buffer for one writer and any reader.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
