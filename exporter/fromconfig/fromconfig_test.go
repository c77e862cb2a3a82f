package fromconfig

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
)

func TestOpen(t *testing.T) {
	stdout, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	bad := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bad, []byte("not PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		flags   config.Flags
		env     map[string]string
		want    []string
		wantErr string
	}{
		{"default", config.Flags{}, nil, []string{"console"}, ""},
		{"trees", config.Flags{Exporters: []string{"tree"}}, nil, []string{"tree"}, ""},
		{"several", config.Flags{Exporters: []string{"json", "otlp"}}, nil, []string{"json", "otlp"}, ""},
		{"none", config.Flags{Exporters: []string{"none"}}, nil, nil, ""},
		{"endpoint", config.Flags{Endpoint: "https://127.0.0.1:1"}, nil, []string{"otlp"}, ""},
		{"socket", config.Flags{Endpoint: "unix:///nonexistent.sock"}, nil, []string{"otlp"}, ""},
		{"no certificate file", config.Flags{Endpoint: "https://h"}, map[string]string{"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nonexistent.pem"}, nil, "read OTLP certificate: open /nonexistent.pem"},
		{"no certificate in file", config.Flags{Endpoint: "https://h"}, map[string]string{"OTEL_EXPORTER_OTLP_CERTIFICATE": bad}, nil, "holds no PEM certificate"},
		{"no client certificate", config.Flags{Endpoint: "https://h"}, map[string]string{
			"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": bad, "OTEL_EXPORTER_OTLP_CLIENT_KEY": bad,
		}, nil, "read OTLP client certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := config.Load(config.LoadOptions{Flags: tt.flags, Getenv: func(k string) string { return tt.env[k] }})
			if err != nil {
				t.Fatal(err)
			}
			list, err := Open(context.Background(), cfg, "1.2.3", stdout, slog.New(slog.DiscardHandler), selfmetrics.New())
			if (err == nil) != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
				t.Fatalf("got %v, want %q", err, tt.wantErr)
			}
			var got []string
			for _, e := range list {
				got = append(got, e.Name())
				if err := e.Shutdown(context.Background()); err != nil {
					t.Error(err)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
