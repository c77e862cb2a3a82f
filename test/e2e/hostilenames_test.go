package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestHostileNames: a program whose file, arguments, environment and requests hold terminal
// escapes, line ends and HTML is shown as text: in the log, on the console, on the page and
// in the list.
func TestHostileNames(t *testing.T) {
	needs(t)
	const evil = "evil\x1b[2J\x1b]0;owned\x07\r\nlevel=ERROR msg=forged <script>alert(1)<!--"
	path := copyExe(t, harness.Build{Dir: "testdata/targets/trivial"}.Path(t), strings.ReplaceAll(evil, "/", ""))
	tg := harness.StartTargetEnv(t, []string{"OTEL_SERVICE_NAME=" + evil, "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=%1b[31m%0aforged"}, path)

	dir, page := t.TempDir(), freeAddr(t)
	file := func(name string) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not in time: %s; the log:\n%q", what, read("stderr"))
			}
		}
	}
	config := "instrument:\n  - {exes: ['evil*'], command_line: '*evil*'}\nexporters: [tree]\nlog: {level: debug}\nhealth: {address: '" + page + "'}\n"
	if err := os.WriteFile(filepath.Join(dir, "agent.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := exec.Command(harness.AgentPath(t), "run", "--config", filepath.Join(dir, "agent.yaml"))
	agent.Stdout, agent.Stderr = file("stdout"), file("stderr")
	agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = agent.Process.Signal(syscall.SIGTERM)
		_ = agent.Wait()
	}()
	until("instrumented", func() bool { return strings.Contains(read("stderr"), "msg=instrumented") })
	harness.Get(t, tg.URL("/%1b[31m%0aforged?a=%1b[31m"))
	until("a span", func() bool { return strings.Contains(read("stdout"), "GET") })
	html := fetch(t, "http://"+page+"/")
	for _, tag := range []string{"<script>", "<!--"} {
		if strings.Contains(html, tag) {
			t.Errorf("the page holds %s", tag)
		}
	}
	if !strings.Contains(html, "alert(1)") {
		t.Error("the page does not show the program")
	}
	list, err := exec.Command(harness.AgentPath(t), "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"log": read("stderr"), "console": read("stdout"), "page": html, "list": string(list)} {
		if !strings.Contains(text, "evil") {
			t.Errorf("%s says nothing of the program: %q", where, text)
		}
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if i := strings.IndexFunc(line, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }); i >= 0 {
				t.Errorf("%s holds a control character: %q", where, line)
			}
			if strings.HasPrefix(line, "level=ERROR msg=forged") || strings.HasPrefix(line, "forged") {
				t.Errorf("%s holds a forged line: %q", where, line)
			}
		}
	}
}
