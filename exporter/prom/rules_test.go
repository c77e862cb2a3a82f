package prom

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestRules: the rules in deploy/ are what Prometheus accepts, and do what their own
// tests say.
func TestRules(t *testing.T) {
	promtool := tool(t, "promtool")
	for _, args := range [][]string{
		{"check", "config", "prometheus.yaml"},
		{"check", "rules", "recording.rules.yaml", "alerts.rules.yaml"},
		{"test", "rules", "rules.test.yaml"},
	} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = filepath.Join("..", "..", "deploy", "prometheus")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}
