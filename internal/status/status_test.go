package status

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
)

const hostile = `</td><script>alert(1)</script>"&` + "\x1b[31m"

// TestServer: names of programs are hostile; nothing they say becomes markup.
func TestServer(t *testing.T) {
	var stuck, unready error
	s, err := New(Options{
		Address: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler),
		Ready: func() error { return unready },
		Snapshot: func(context.Context) (Snapshot, error) {
			return Snapshot{
				Version: "1.2.3", Ready: true, Enabled: true,
				Targets:   []Target{{PID: 7, Exe: hostile, Service: hostile, Why: hostile}},
				Probes:    []Probe{{Probe: "nethttp", Point: "start", Class: "emulated", Attached: 1, Hits: 42}},
				Exporters: []Exporter{{Name: "otlp", Waiting: 5, State: hostile}},
				Losses:    []Value{{Name: "lost", Labels: hostile, Value: 3}},
			}, stuck
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	get := func(path, host string) (int, string, http.Header) {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, "http://"+s.Addr()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if host != "" {
			req.Host = host
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body), resp.Header
	}
	for _, path := range []string{"/healthz", "/readyz", "/", "/status.json", "/debug/pprof/heap?debug=1"} {
		code, body, header := get(path, "")
		if code != http.StatusOK || strings.Contains(body, "<script>") {
			t.Errorf("%s: %d, %s", path, code, body)
		}
		if header.Get("Content-Security-Policy") == "" {
			t.Errorf("%s: no policy", path)
		}
	}
	_, body, _ := get("/status.json", "")
	var back Snapshot
	if err := json.Unmarshal([]byte(body), &back); err != nil || back.Targets[0].Exe != hostile || back.Probes[0].Hits != 42 {
		t.Errorf("%v: %s", err, body)
	}
	if _, html, _ := get("/", ""); !strings.Contains(html, "alert(1)") || !strings.Contains(html, "emulated") || strings.Contains(html, "\x1b") {
		t.Errorf("the page shows no targets or probes: %s", html)
	}
	if code, _, _ := get("/", "evil.example"); code != http.StatusForbidden {
		t.Errorf("another name: %d", code)
	}
	unready = errors.New("kernel has no BTF")
	if code, body, _ := get("/readyz", "localhost"); code != http.StatusServiceUnavailable || !strings.Contains(body, "BTF") {
		t.Errorf("not ready: %d %s", code, body)
	}
	stuck = context.DeadlineExceeded
	if code, _, _ := get("/healthz", ""); code != http.StatusServiceUnavailable {
		t.Errorf("stuck: %d", code)
	}
}
