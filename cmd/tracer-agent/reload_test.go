package main

import (
	"strings"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/policy"
)

// TestLeaveAlone: this test is a program with the SDK's OTLP exporter in it, as the agent is.
func TestLeaveAlone(t *testing.T) {
	exe, err := goexe.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	if err := policy.Exports(exe); err == nil || !strings.Contains(err.Error(), "otlptrace") {
		t.Errorf("got %v, want the exporter named", err)
	}
}

// TestNeedRestart: what a reload cannot apply is named by its key.
func TestNeedRestart(t *testing.T) {
	old, next := config.Default(), config.Default()
	next.Select.AllGo, next.Probes, next.Log.Level = true, map[string]bool{"redis": false}, "debug"
	if names := needRestart(old, next); len(names) != 0 {
		t.Errorf("live settings need a restart: %v", names)
	}
	next.Sampling.Ratio, next.OTLP.Endpoint = 0.5, "http://h:4317"
	if names := strings.Join(needRestart(old, next), ","); names != "sampling,otlp" {
		t.Errorf("got %s, want sampling,otlp", names)
	}
}
