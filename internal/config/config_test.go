package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

func load(t *testing.T, file string, env map[string]string, flags Flags) (Config, error) {
	t.Helper()
	o := LoadOptions{Getenv: func(k string) string { return env[k] }, Flags: flags}
	if file != "" {
		o.File = filepath.Join(t.TempDir(), "agent.yaml")
		if err := os.WriteFile(o.File, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Load(o)
}

func TestDefaults(t *testing.T) {
	got, err := load(t, "", nil, Flags{})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Exporters = []string{"console"}
	want.OTLP.Protocol = "http/protobuf"
	want.MetricsOTLP.Protocol, want.MetricsOTLP.Endpoint = "http/protobuf", "http://localhost:4318"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !got.Select.Empty() || got.Sampling.RootRatio() != 1 || !got.Sampling.ParentBased() || got.Log.SlogLevel() != slog.LevelInfo {
		t.Errorf("%+v", got)
	}
	if again, err := load(t, "# nothing\n", nil, Flags{}); err != nil || !cmp.Equal(got, again) {
		t.Errorf("an empty file changes something: %v", err)
	}
}

func TestInstrument(t *testing.T) {
	c, err := load(t, "propagation: {mode: join}\ninstrument:\n- {exes: [api-*], ports: [80], propagation: {mode: memory}}\n- pids: [7]\n", nil, Flags{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"join", "memory"}; !slices.Equal(c.PropagationModes(), want) || c.SelectsNothing() {
		t.Errorf("modes %v, want %v; nothing selected: %v", c.PropagationModes(), want, c.SelectsNothing())
	}
	for file, want := range map[string]string{
		"instrument:\n- propagation: {mode: join}\n":                 "agent.yaml:2: instrument[0]: names no process",
		"instrument:\n- {pids: [1], propagation: {mode: maybe}}\n":   "maybe",
		"instrument:\n- {pids: [0]}\n":                               "pid 0",
		"instrument:\n- {exes: ['[']}\n":                             "pattern",
		"instrument:\n- {pids: [1], propagatoin: {mode: off}}\n":     "propagatoin",
		"instrument: [" + strings.Repeat("{pids: [1]}, ", 257) + "]": "at most 256",
	} {
		if _, err := load(t, file, nil, Flags{}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q in it", file, err, want)
		}
	}
}

// TestPrecedence sets one thing in all places, then takes the strongest away.
func TestPrecedence(t *testing.T) {
	file := "service: {name: file}\notlp: {endpoint: 'http://file:1', traces_endpoint: 'http://filetraces:1'}\nlog: {level: warn}\nexporters: [json]\nselect: {pids: [1]}\n"
	env := map[string]string{
		"OTEL_SERVICE_NAME": "env", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://env:1", "OTEL_LOG_LEVEL": "error",
		"OTEL_TRACES_EXPORTER": "console,otlp",
	}
	flags := Flags{ServiceName: "flag", Endpoint: "http://flag:1", LogLevel: "debug", Exporters: []string{"otlp"}, PIDs: []int{3}}
	summary := func(c Config) string {
		u, err := c.OTLP.TracesURL()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(c.Service.Name, " ", u, " ", c.Log.Level, " ", c.Exporters, " ", c.Select.PIDs)
	}
	for _, tt := range []struct {
		name  string
		file  string
		env   map[string]string
		flags Flags
		want  string
	}{
		{"flags", file, env, flags, "flag http://flag:1/v1/traces debug [otlp] [3]"},
		{"environment", file, env, Flags{}, "env http://env:1/v1/traces error [console otlp] [1]"},
		{"file", file, nil, Flags{}, "file http://filetraces:1 warn [json] [1]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := load(t, tt.file, tt.env, tt.flags)
			if err != nil {
				t.Fatal(err)
			}
			if got := summary(c); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	got, err := load(t, "", map[string]string{
		"OTEL_SDK_DISABLED": "TRUE", "OTEL_RESOURCE_ATTRIBUTES": "service.name=ra,team=a%2Cb, deployment.environment.name = prod ,",
		"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25", "OTEL_TRACES_EXPORTER": "otlp, otlp",
		"OTEL_EXPORTER_OTLP_ENDPOINT": "https://h:4317/", "OTEL_EXPORTER_OTLP_HEADERS": "api-key=general,x=1",
		"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "api-key=a%3Db", "OTEL_EXPORTER_OTLP_TIMEOUT": "1500", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "none",
		"OTEL_EXPORTER_OTLP_CERTIFICATE": "/ca", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/c", "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/k",
		"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_BSP_EXPORT_TIMEOUT": "5000", "OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
		"OTEL_LOG_LEVEL": "none", "OTEL_SERVICE_NAME": " ",
	}, Flags{})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Disabled = true
	want.Service = Service{Name: "ra", Attributes: map[string]string{"team": "a,b", "deployment.environment.name": "prod"}}
	want.Sampling = Sampling{Sampler: ParentBasedIDRatio, Ratio: 0.25}
	want.Exporters = []string{"otlp"}
	want.OTLP = OTLP{
		Endpoint: "https://h:4317/", Protocol: ProtocolGRPC, Headers: Headers{"api-key": "a=b"}, Compression: "none",
		Timeout: 1500 * time.Millisecond, Certificate: "/ca", ClientCertificate: "/c", ClientKey: "/k",
	}
	want.MetricsOTLP = want.OTLP
	want.MetricsOTLP.Headers = Headers{"api-key": "general", "x": "1"}
	want.Metrics.Exporters = []string{"otlp"}
	want.Batch = Batch{ScheduleDelay: 200 * time.Millisecond, ExportTimeout: 5 * time.Second, MaxQueueSize: 100, MaxBatchSize: 10}
	want.Log.Level = "none"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.Sampling.RootRatio() != 0.25 || got.Log.SlogLevel() <= slog.LevelError {
		t.Errorf("ratio %v, level %v", got.Sampling.RootRatio(), got.Log.SlogLevel())
	}
}

// TestMetricsEnvironment is what New Relic's and Datadog's instructions say to set.
func TestMetricsEnvironment(t *testing.T) {
	got, err := load(t, "metrics: {interval: 5s, histogram: explicit_bucket_histogram, process: false}", map[string]string{
		"OTEL_METRICS_EXPORTER": "otlp,prometheus", "OTEL_METRIC_EXPORT_INTERVAL": "10000", "OTEL_METRIC_EXPORT_TIMEOUT": "2000",
		"OTEL_EXPORTER_OTLP_ENDPOINT": "https://otlp.example.com", "OTEL_EXPORTER_OTLP_HEADERS": "api-key=general",
		"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "https://m.example.com:4317", "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "api-key=metrics",
		"OTEL_EXPORTER_OTLP_METRICS_COMPRESSION": "gzip", "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "Delta",
		"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "BASE2_EXPONENTIAL_BUCKET_HISTOGRAM",
		"OTEL_EXPORTER_PROMETHEUS_HOST":                            "0.0.0.0", "OTEL_EXPORTER_PROMETHEUS_PORT": "9999",
	}, Flags{})
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultMetrics()
	want.Exporters = []string{ExporterOTLP, ExporterPrometheus}
	want.Interval, want.Timeout = 10*time.Second, 2*time.Second
	want.Temporality, want.Histogram = TemporalityDelta, HistogramExponential
	want.PrometheusHost, want.PrometheusPort, want.Process = "0.0.0.0", 9999, false
	if diff := cmp.Diff(want, got.Metrics); diff != "" {
		t.Error(diff)
	}
	u, err := got.MetricsOTLP.MetricsURL()
	if err != nil || u.String() != "https://m.example.com:4317" || got.MetricsOTLP.Protocol != ProtocolGRPC {
		t.Errorf("metrics go to %v by %s, %v", u, got.MetricsOTLP.Protocol, err)
	}
	if got.MetricsOTLP.Headers["api-key"] != "metrics" || got.MetricsOTLP.Compression != CompressionGzip {
		t.Errorf("headers and compression of metrics: %v", got.MetricsOTLP)
	}
	if got.OTLP.Protocol != ProtocolHTTP || got.OTLP.Headers["api-key"] != "general" || got.OTLP.Compression != CompressionNone {
		t.Errorf("what is said for metrics holds for traces, too: %+v", got.OTLP)
	}
}

func TestMetricsDestination(t *testing.T) {
	for _, tt := range []struct {
		name  string
		env   map[string]string
		flags Flags
		want  string
	}{
		{"nothing said", nil, Flags{}, "[] http://localhost:4318/v1/metrics"},
		{"endpoint", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1"}, Flags{}, "[otlp] http://h:1/v1/metrics"},
		{"traces only", map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h:1/x"}, Flags{}, "[] http://localhost:4318/v1/metrics"},
		{"metrics only", map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://h:1/x"}, Flags{}, "[otlp] http://h:1/x"},
		{"switched off", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1", "OTEL_METRICS_EXPORTER": "none"}, Flags{}, "[] http://h:1/v1/metrics"},
		{"flag", map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://h:1/x"}, Flags{Endpoint: "http://f:1"}, "[otlp] http://f:1/v1/metrics"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := load(t, "", tt.env, tt.flags)
			if err != nil {
				t.Fatal(err)
			}
			u, err := c.MetricsOTLP.MetricsURL()
			if got := fmt.Sprint(c.Metrics.Exporters, " ", u); err != nil || got != tt.want {
				t.Errorf("got %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}

func TestDestination(t *testing.T) {
	const endpoint, traces = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	for _, tt := range []struct {
		name string
		env  map[string]string
		want string
	}{
		{"nothing said", nil, "[console]"},
		{"endpoint said", map[string]string{endpoint: "http://h:4318"}, "[otlp] http/protobuf http://h:4318/v1/traces"},
		{"path is kept", map[string]string{endpoint: "https://h/base/"}, "[otlp] http/protobuf https://h/base/v1/traces"},
		{"traces endpoint as it is", map[string]string{traces: "http://h:4318/x"}, "[otlp] http/protobuf http://h:4318/x"},
		{"traces endpoint wins", map[string]string{endpoint: "http://a:1", traces: "http://b:2/y"}, "[otlp] http/protobuf http://b:2/y"},
		{"port of gRPC", map[string]string{endpoint: "http://h:4317"}, "[otlp] grpc http://h:4317"},
		{"protocol wins over port", map[string]string{endpoint: "http://h:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "[otlp] http/protobuf http://h:4317/v1/traces"},
		{"socket", map[string]string{endpoint: "unix:///run/otel.sock"}, "[otlp] grpc unix:///run/otel.sock"},
		{"default endpoint", map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, "[otlp] http/protobuf http://localhost:4318/v1/traces"},
		{"default endpoint of gRPC", map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "[otlp] grpc http://localhost:4317"},
		{"none", map[string]string{"OTEL_TRACES_EXPORTER": "none", endpoint: "http://h:1"}, "[]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := load(t, "", tt.env, Flags{})
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprint(c.Exporters)
			if len(c.Exporters) == 1 && c.Exporters[0] == ExporterOTLP {
				u, err := c.OTLP.TracesURL()
				if err != nil {
					t.Fatal(err)
				}
				got += " " + c.OTLP.Protocol + " " + u.String()
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestErrors: each says where, what and what is allowed, and no secret.
func TestErrors(t *testing.T) {
	const canary = "hunter2"
	env := func(k, v string) map[string]string { return map[string]string{k: v} }
	for _, tt := range []struct {
		name string
		file string
		env  map[string]string
		fl   Flags
		want []string
	}{
		{"unknown key", "select:\n  pid: [1]\n", nil, Flags{}, []string{`agent.yaml:2: unknown key "pid"`}},
		{"unknown block", "log:\n  level: info\nlogs: {}\n", nil, Flags{}, []string{`agent.yaml:3: unknown key "logs"`}},
		{"duplicate key", "log: {level: info}\nlog: {level: warn}\n", nil, Flags{}, []string{"agent.yaml", "line 2", "already defined"}},
		{"wrong type", "select:\n  pids: " + canary + "\n", nil, Flags{}, []string{"agent.yaml:2: want a list here"}},
		{"wrong item", "select:\n  pids: [" + canary + "]\n", nil, Flags{}, []string{"agent.yaml:2: want a whole number here"}},
		{"peer without a name", "peers:\n  - {host: broker}\n", nil, Flags{}, []string{"peers", `name "" of host "broker"`}},
		{"peer pattern", "peers:\n  - {host: \"[\", name: x}\n", nil, Flags{}, []string{`host "["`}},
		{"peer with a port", "peers:\n  - {host: \"https://a:1\", name: x}\n", nil, Flags{}, []string{`host "https://a:1"`}},
		{"wrong duration", "batch:\n\n  schedule_delay: 5\n", nil, Flags{}, []string{"agent.yaml:3: want a duration such as 500ms"}},
		{"wrong block", "otlp: [1]\n", nil, Flags{}, []string{"agent.yaml:1: want a block of keys here"}},
		{"not YAML", "enabled: false\nlog: level: info\n", nil, Flags{}, []string{"agent.yaml:2: mapping values are not allowed"}},
		{"two documents", "enabled: false\n---\nenabled: true\n", nil, Flags{}, []string{"agent.yaml: more than one YAML document"}},
		{"bad value in file", "otlp:\n  protocol: carrier pigeon\n", nil, Flags{}, []string{`agent.yaml:2: otlp.protocol: "carrier pigeon": want grpc or http/protobuf`}},
		{"bad value in environment", "otlp:\n  protocol: grpc\n", env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), Flags{}, []string{`OTEL_EXPORTER_OTLP_PROTOCOL: "http/json": want grpc or http/protobuf`}},
		{"bad value of flag", "", nil, Flags{LogLevel: "loud"}, []string{`--log-level: "loud": want debug, info`}},
		{"log format", "", nil, Flags{LogFormat: "xml"}, []string{`--log-format: "xml": want text or json`}},
		{"boolean", "", env("OTEL_SDK_DISABLED", "yes"), Flags{}, []string{`OTEL_SDK_DISABLED: "yes": want true or false`}},
		{"sampler", "", env("OTEL_TRACES_SAMPLER", "sometimes"), Flags{}, []string{`OTEL_TRACES_SAMPLER: "sometimes": want one of always_on`}},
		{"ratio text", "", env("OTEL_TRACES_SAMPLER_ARG", "half"), Flags{}, []string{`OTEL_TRACES_SAMPLER_ARG: "half": want a number from 0 to 1`}},
		{"ratio range", "", env("OTEL_TRACES_SAMPLER_ARG", "1.5"), Flags{}, []string{`OTEL_TRACES_SAMPLER_ARG: 1.5: want a number from 0 to 1`}},
		{"ratio NaN", "", env("OTEL_TRACES_SAMPLER_ARG", "NaN"), Flags{}, []string{`OTEL_TRACES_SAMPLER_ARG: NaN: want`}},
		{"exporter", "", env("OTEL_TRACES_EXPORTER", "zipkin"), Flags{}, []string{`OTEL_TRACES_EXPORTER: "zipkin": want one or more of otlp`}},
		{"none and more", "", env("OTEL_TRACES_EXPORTER", "none,otlp"), Flags{}, []string{"OTEL_TRACES_EXPORTER: none cannot be combined with otlp"}},
		{"two printers", "", nil, Flags{Exporters: []string{"json", "console"}}, []string{"--exporter: json, console all write to standard output"}},
		{"milliseconds", "", env("OTEL_BSP_SCHEDULE_DELAY", "5s"), Flags{}, []string{`OTEL_BSP_SCHEDULE_DELAY: "5s": want a whole number of milliseconds`}},
		{"delay range", "", env("OTEL_BSP_SCHEDULE_DELAY", "-1"), Flags{}, []string{`OTEL_BSP_SCHEDULE_DELAY: -1ms: want more than zero`}},
		{"timeout range", "batch: {export_timeout: 0s}\n", nil, Flags{}, []string{`agent.yaml:1: batch.export_timeout: 0s: want more than zero`}},
		{"queue text", "", env("OTEL_BSP_MAX_QUEUE_SIZE", "many"), Flags{}, []string{`OTEL_BSP_MAX_QUEUE_SIZE: "many": want a whole number`}},
		{"queue range", "", env("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999"), Flags{}, []string{`OTEL_BSP_MAX_QUEUE_SIZE: 99999999999: want 1 to 1048576`}},
		{"batch range", "", env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"), Flags{}, []string{`OTEL_BSP_MAX_EXPORT_BATCH_SIZE: 0: want 1 to`}},
		{"request timeout", "", env("OTEL_EXPORTER_OTLP_TIMEOUT", "0"), Flags{}, []string{`OTEL_EXPORTER_OTLP_TIMEOUT: 0s: want more than zero`}},
		{"compression", "", env("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"), Flags{}, []string{`OTEL_EXPORTER_OTLP_COMPRESSION: "zstd": want gzip or none`}},
		{"endpoint without scheme", "", nil, Flags{Endpoint: "localhost:4317"}, []string{`--endpoint: "localhost:4317": want a URL such as http://localhost:4317`}},
		{"endpoint scheme", "", env("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://h"), Flags{}, []string{`OTEL_EXPORTER_OTLP_ENDPOINT: "ftp://h": want a URL`}},
		{"endpoint with password", "", nil, Flags{Endpoint: "https://user:" + canary + "@h"}, []string{"--endpoint: holds a user name or password; send credentials as a header"}},
		{"endpoint malformed with password", "", nil, Flags{Endpoint: "https://user:" + canary + "@h:x%"}, []string{"--endpoint: not a URL"}},
		{"socket for HTTP", "", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "unix:///x", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, Flags{}, []string{`OTEL_EXPORTER_OTLP_ENDPOINT: "unix:///x": want a URL`}},
		{"header without value", "", env("OTEL_EXPORTER_OTLP_HEADERS", "a=b,"+canary), Flags{}, []string{"OTEL_EXPORTER_OTLP_HEADERS: item 2 is not of the form key=value"}},
		{"header encoding", "", env("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key="+canary+"%"), Flags{}, []string{`OTEL_EXPORTER_OTLP_TRACES_HEADERS: the value of "api-key" is not percent-encoded`}},
		{"header name", "", env("OTEL_EXPORTER_OTLP_HEADERS", "api key="+canary), Flags{}, []string{`OTEL_EXPORTER_OTLP_HEADERS: "api key" is not a header name`}},
		{"header value", "", env("OTEL_EXPORTER_OTLP_HEADERS", "api-key="+canary+"%0A"), Flags{}, []string{`OTEL_EXPORTER_OTLP_HEADERS: the value of "api-key" has characters`}},
		{"key without certificate", "", env("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k"), Flags{}, []string{"OTEL_EXPORTER_OTLP_CLIENT_KEY: client certificate and client key go together"}},
		{"resource attributes", "", env("OTEL_RESOURCE_ATTRIBUTES", "=x"), Flags{}, []string{"OTEL_RESOURCE_ATTRIBUTES: item 1 is not of the form"}},
		{"pid", "", nil, Flags{PIDs: []int{0}}, []string{"--pid: pid 0: want 1 to 4194304"}},
		{"port", "select: {ports: [70000]}\n", nil, Flags{}, []string{"agent.yaml:1: select.ports: port 70000: want 1 to 65535"}},
		{"pattern", "", nil, Flags{Exes: []string{"a["}}, []string{`--exe: pattern "a["`}},
		{"metric rule", "metrics:\n  rules:\n  - {name: trade.latency, kind: counter, when: 'knd == 1'}\n", nil, Flags{},
			[]string{`agent.yaml:2: metrics.rules: rule 1 ("trade.latency"): when: unknown name knd`}},
		{"metric rule's header", "metrics: {rules: [{name: a, kind: gauge, value: 'len(attributes[\"http.request.header.x-a\"])'}]}", nil, Flags{},
			[]string{"add the header to propagation.correlation_headers"}},
		{"metric rule's key", "metrics:\n  rules:\n  - {name: a, knd: counter}\n", nil, Flags{}, []string{`agent.yaml:3: unknown key "knd"`}},
		{"empty pattern", "select: {exclude: ['']}\n", nil, Flags{}, []string{"agent.yaml:1: select.exclude: empty pattern"}},
		{"two at once", "log: {level: x, format: y}\n", nil, Flags{}, []string{"log.level", "log.format"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.file, tt.env, tt.fl)
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("got %v, want ErrInvalid", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("shows what may be a secret: %v", err)
			}
		})
	}
}

func TestPeerName(t *testing.T) {
	c, err := load(t, "peers:\n  - {host: api.broker.example, name: orders}\n  - {host: \"*.BROKER.example\", name: broker}\n", nil, Flags{})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"api.broker.example": "orders", "API.broker.example": "orders", "feed.broker.example": "broker",
		"broker.example": "", "": "", "a.broker.example.evil": "",
	} {
		if got := c.PeerName(host); got != want {
			t.Errorf("%q is %q, want %q", host, got, want)
		}
	}
}

func TestFileErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(LoadOptions{File: filepath.Join(dir, "none.yaml")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Load(LoadOptions{File: dir}); err == nil {
		t.Error("a folder was read as a file")
	}
	big := filepath.Join(dir, "big.yaml")
	if err := os.WriteFile(big, []byte("#"+strings.Repeat("x", maxFileBytes)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(LoadOptions{File: big}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("large file: %v", err)
	}
}

// TestSecretsAreNotPrinted by any of the usual ways to print a Config.
func TestSecretsAreNotPrinted(t *testing.T) {
	c, err := load(t, "", map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "api-key=hunter2,authorization=Basic%20hunter2"}, Flags{})
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "headers", c.OTLP.Headers, "config", c)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "headers", c.OTLP.Headers, "config", c)
	for _, text := range []string{
		fmt.Sprintf("%v", c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), c.OTLP.Headers.String(), string(asJSON), string(asYAML), log.String(),
	} {
		if strings.Contains(text, "hunter2") || !strings.Contains(text, "api-key=REDACTED") {
			t.Errorf("%s", text)
		}
	}
	if c.OTLP.Headers["api-key"] != "hunter2" {
		t.Error("the header itself is lost")
	}
}

func TestSamplers(t *testing.T) {
	for sampler, want := range map[string]string{
		AlwaysOn: "false 1", AlwaysOff: "false 0", TraceIDRatio: "false 0.5",
		ParentBasedOn: "true 1", ParentBasedOff: "true 0", ParentBasedIDRatio: "true 0.5",
	} {
		s := Sampling{Sampler: sampler, Ratio: 0.5}
		if got := fmt.Sprint(s.ParentBased(), " ", s.RootRatio()); got != want {
			t.Errorf("%s: %s, want %s", sampler, got, want)
		}
	}
}

// TestDocumentation: the example in the manual loads and names every key, and
// the manual knows every variable.
func TestDocumentation(t *testing.T) {
	doc, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(doc)
	if block == nil {
		t.Fatal("no example")
	}
	c, err := load(t, string(block[1]), nil, Flags{})
	if err != nil {
		t.Fatal(err)
	}
	def, err := load(t, "", nil, Flags{})
	if err != nil {
		t.Fatal(err)
	}
	c.Metrics.Exporters, c.Metrics.Rules = nil, nil // examples
	for name, pair := range map[string][2]any{
		"metrics": {c.Metrics, def.Metrics},
		"batch":   {c.Batch, def.Batch}, "log": {c.Log, def.Log}, "sampling": {c.Sampling, def.Sampling},
		"compression": {c.OTLP.Compression, def.OTLP.Compression}, "timeout": {c.OTLP.Timeout, def.OTLP.Timeout},
	} {
		if diff := cmp.Diff(pair[1], pair[0]); diff != "" {
			t.Errorf("%s: the example is said to show the defaults: %s", name, diff)
		}
	}
	var node map[string]any
	if err := yaml.Unmarshal(block[1], &node); err != nil {
		t.Fatal(err)
	}
	checkKeys(t, reflect.TypeFor[Config](), node, "")

	var code []byte
	for _, name := range []string{"env.go", "metrics.go"} {
		part, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		code = append(code, part...)
	}
	for _, m := range regexp.MustCompile(`"(OTEL_\w*[A-Z])"|name\("(\w+)"\)`).FindAllStringSubmatch(string(code), -1) {
		v := m[1]
		if v == "" {
			v = "OTEL_EXPORTER_OTLP_" + m[2]
		}
		if !strings.Contains(string(doc), "`"+v+"`") {
			t.Errorf("%s is not documented", v)
		}
	}
}

func checkKeys(t *testing.T, typ reflect.Type, node map[string]any, prefix string) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		key := f.Tag.Get("yaml")
		if key == "-" {
			continue
		}
		v, ok := node[key]
		if !ok || key == "" {
			t.Errorf("%s%s is not in the example", prefix, f.Name)
			continue
		}
		if sub, ok := v.(map[string]any); ok && f.Type.Kind() == reflect.Struct {
			checkKeys(t, f.Type, sub, prefix+key+".")
		}
	}
}

func FuzzYAML(f *testing.F) {
	f.Add("otlp: {headers: {a: b}}\nselect: {pids: [1]}")
	f.Add("a: &a [*a]")
	f.Add("? [1]: 2")
	f.Fuzz(func(t *testing.T, text string) {
		l := &loader{cfg: Default(), source: map[string]string{}}
		if err := l.yaml("f.yaml", []byte(text)); err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%v is not ErrInvalid", err)
			}
			return
		}
		l.resolve()
		if err := l.validate(); err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%v is not ErrInvalid", err)
		}
	})
}

func FuzzPairs(f *testing.F) {
	f.Add("a=b,c=%20")
	f.Add("=,%=%")
	f.Fuzz(func(t *testing.T, s string) {
		pairs, err := ParsePairs(s)
		if (pairs == nil) == (err == nil) {
			t.Errorf("%v, %v", pairs, err)
		}
		for k := range pairs {
			if strings.TrimSpace(k) != k || k == "" {
				t.Errorf("key %q", k)
			}
		}
	})
}
