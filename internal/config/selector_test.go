package config

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSelectors(t *testing.T) {
	const file = `
enabled: true
probes: {redis: false}
instrument:
  - exes: [/srv/**/api]
    user: www-data
    service: {name: shop}
    sampling: {ratio: 0.5}
    propagation: {mode: join}
    probes: {mongodriver: false}
    redact: {query_names: [iban], query_text: true}
  - k8s: {namespace: shop, kind: Deployment, labels: {app: "cart*"}}
exclude:
  - command_line: "*--batch*"
`
	c, err := load(t, file, nil, Flags{})
	if err != nil {
		t.Fatal(err)
	}
	in := c.Instrument
	if len(in) != 2 || in[0].Exes[0] != "/srv/**/api" || in[0].Propagation.Mode != "join" || *in[0].Sampling.Ratio != 0.5 || in[0].Probes["mongodriver"] || in[1].K8s.Labels["app"] != "cart*" ||
		c.Exclude[0].CommandLine != "*--batch*" || c.SelectsNothing() || c.OnlyPIDs() || c.Probes["redis"] {
		t.Errorf("got %+v", c)
	}
	for _, tt := range []struct{ name, file, want string }{
		{"nothing to match", "instrument:\n  - service: {name: x}\n", "agent.yaml:2: instrument[0]"},
		{"unknown key", "instrument:\n  - exec: x\n", "agent.yaml:2: unknown key \"exec\""},
		{"port", "instrument:\n  - ports: [70000]\n", "port 70000"},
		{"ratio", "instrument:\n  - {exes: [x], sampling: {ratio: 2}}\n", "sampling.ratio 2"},
		{"mode", "instrument:\n  - {exes: [x], propagation: {mode: pigeon}}\n", "propagation.mode \"pigeon\""},
		{"pattern", "exclude:\n  - exes: [a]\n  - k8s: {name: \"[\"}\n", "agent.yaml:3: exclude[1]: k8s.name"},
		{"probe", "probes: {nonsense: false}\n", "probe \"nonsense\""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "agent.yaml")
			if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(LoadOptions{File: path, Probes: []string{"redis"}})
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
}

// TestSchema: every key of the file is in the schema, and is refused when it is unknown.
func TestSchema(t *testing.T) {
	data, err := Schema([]string{"redis"})
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Properties map[string]json.RawMessage `json:"properties"`
		Defs       map[string]struct {
			Properties           map[string]json.RawMessage `json:"properties"`
			AdditionalProperties any                        `json:"additionalProperties"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"enabled", "select", "instrument", "exclude", "probes", "otlp", "log"} {
		if s.Properties[key] == nil {
			t.Errorf("no key %s in the schema", key)
		}
	}
	sel := s.Defs["Selector"]
	for _, key := range []string{"exes", "k8s", "sampling", "probes"} {
		if sel.Properties[key] == nil {
			t.Errorf("no key %s in a selector's schema", key)
		}
	}
	if sel.AdditionalProperties != false {
		t.Error("unknown keys of a selector are allowed")
	}
	if !strings.Contains(string(s.Defs["Propagation"].Properties["mode"]), PropagateKernel) {
		t.Errorf("propagation.mode has no words: %s", s.Defs["Propagation"].Properties["mode"])
	}
}

// TestWatch: a change is told whether the file is written, replaced, or, as Kubernetes
// does it, a link that leads elsewhere.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("v1", "a: 1")
	path := filepath.Join(dir, "agent.yaml")
	if err := os.Symlink("v1", path); err != nil {
		t.Fatal(err)
	}
	changes := make(chan struct{}, 8)
	if err := Watch(t.Context(), path, func() { changes <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"link", func() {
			write("v2", "a: 2")
			if err := errors.Join(os.Symlink("v2", path+".tmp"), os.Rename(path+".tmp", path)); err != nil {
				t.Fatal(err)
			}
		}},
		{"written", func() { write("v2", "a: 3") }},
		{"replaced", func() {
			write("new", "a: 4")
			if err := os.Rename(filepath.Join(dir, "new"), path); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		step.do()
		select {
		case <-changes:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: not told", step.name)
		}
	}
	write("other", "x")
	ctx, cancel := context.WithTimeout(t.Context(), 3*settleFor)
	defer cancel()
	select {
	case <-changes:
		t.Error("told of another file's change")
	case <-ctx.Done():
	}
}
