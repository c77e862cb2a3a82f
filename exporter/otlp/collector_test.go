package otlp

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/pipeline"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

const apiKey = "s3cret-key=="

// collector is a real OpenTelemetry Collector that refuses requests without the
// right api-key header and writes what it takes to a file.
type collector struct {
	bin, dir   string
	grpc, http string // host:port
	tls        bool
	cmd        *exec.Cmd
	log        bytes.Buffer
}

// newCollector finds the binary that testdata/collector/build.sh made.
func newCollector(t *testing.T, tls bool) *collector {
	t.Helper()
	cache := os.Getenv("TRACER_TEST_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(dir, "tracer-agent")
	}
	bin := filepath.Join(cache, "collector", "otelcol-test")
	if _, err := os.Stat(bin); err != nil {
		if os.Getenv("TRACER_REQUIRE_COLLECTOR") == "1" {
			t.Fatalf("no collector: %v; run testdata/collector/build.sh", err)
		}
		t.Skipf("no collector: %v; testdata/collector/build.sh builds it in some minutes", err)
	}
	c := &collector{bin: bin, dir: t.TempDir(), tls: tls, grpc: freeAddr(t), http: freeAddr(t)}
	if tls {
		writeCertificates(t, c.dir)
	}
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Logf("collector's log:\n%s", c.log.String())
		}
	})
	return c
}

func freeAddr(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}

func (c *collector) path(name string) string { return filepath.Join(c.dir, name) }

// start runs the collector and waits until it listens.
func (c *collector) start(t *testing.T) {
	t.Helper()
	tls := ""
	if c.tls {
		tls = fmt.Sprintf(", tls: {cert_file: %s, key_file: %s}", c.path("server.pem"), c.path("server.key"))
	}
	cfg := fmt.Sprintf(`
extensions:
  bearertokenauth: {header: api-key, scheme: "", token: %q}
receivers:
  otlp:
    protocols:
      grpc: {endpoint: %q, auth: {authenticator: bearertokenauth}%s}
      http: {endpoint: %q, auth: {authenticator: bearertokenauth}%s}
exporters:
  file: {path: %s, flush_interval: 50ms}
  file/metrics: {path: %s, flush_interval: 50ms}
service:
  extensions: [bearertokenauth]
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], exporters: [file]}
    metrics: {receivers: [otlp], exporters: [file/metrics]}
`, apiKey, c.grpc, tls, c.http, tls, c.path("spans.json"), c.path("metrics.json"))
	if err := os.WriteFile(c.path("config.yaml"), []byte(cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	c.cmd = exec.Command(c.bin, "--config", c.path("config.yaml"))
	c.cmd.Stdout, c.cmd.Stderr = &c.log, &c.log
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{c.grpc, c.http} {
		eventually(t, 20*time.Second, "collector listens on "+addr, func() bool {
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
}

func (c *collector) stop() {
	if c.cmd != nil {
		c.cmd.Process.Signal(os.Interrupt)
		c.cmd.Wait()
		c.cmd = nil
	}
}

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// received reads the collector's file of spans.
func (c *collector) received(t *testing.T) (out []*tracepb.ResourceSpans) {
	t.Helper()
	for _, traces := range documents[tracepb.TracesData](t, c.path("spans.json")) {
		out = append(out, traces.ResourceSpans...)
	}
	return out
}

// documents reads what the collector's file exporter wrote: one JSON document a line.
func documents[T any, P interface {
	*T
	proto.Message
}](t *testing.T, path string) (out []P) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // being written
		}
		var doc any
		if err := json.Unmarshal(line, &doc); err != nil {
			t.Fatal(err)
		}
		hexToBase64(t, doc)
		fixed, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		m := P(new(T))
		if err := protojson.Unmarshal(fixed, m); err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

// hexToBase64: OTLP's JSON differs from protobuf's in its ids only.
func hexToBase64(t *testing.T, v any) {
	t.Helper()
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			hexToBase64(t, item)
		}
	case map[string]any:
		for key, item := range v {
			if s, ok := item.(string); ok && (key == "traceId" || key == "spanId" || key == "parentSpanId") {
				raw, err := hex.DecodeString(s)
				if err != nil {
					t.Fatal(err)
				}
				v[key] = base64.StdEncoding.EncodeToString(raw)
				continue
			}
			hexToBase64(t, item)
		}
	}
}

func count(spans []*tracepb.ResourceSpans) (n int) {
	for _, rs := range spans {
		for _, ss := range rs.ScopeSpans {
			n += len(ss.Spans)
		}
	}
	return n
}

// writeCertificates makes an authority and a server certificate signed by it.
func writeCertificates(t *testing.T, dir string) {
	t.Helper()
	make := func(name string, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer = key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		keyDER, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for file, block := range map[string]*pem.Block{
			name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "EC PRIVATE KEY", Bytes: keyDER},
		} {
			if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return key
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "collector"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	make("server", server, ca, make("ca", ca, ca, nil))
}

// load makes the configuration as a user would, from the environment.
func load(t *testing.T, env map[string]string) config.OTLP {
	t.Helper()
	cfg, err := config.Load(config.LoadOptions{Getenv: func(k string) string { return env[k] }})
	if err != nil {
		t.Fatal(err)
	}
	return cfg.OTLP
}

func exportTo(t *testing.T, cfg config.OTLP, ops []*telemetry.Operation) error {
	t.Helper()
	e, err := New(context.Background(), cfg, "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	defer e.Shutdown(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return e.ExportSpans(ctx, ops)
}

// varied makes spans that use every field.
func varied() []*telemetry.Operation {
	ops := operations(6)
	bank := &telemetry.Resource{Attributes: []attribute.KeyValue{attribute.String("service.name", "bank")}}
	ops[1].ParentSpanID, ops[1].Kind = ops[0].SpanID, trace.SpanKindClient
	ops[1].Status, ops[1].StatusDescription = codes.Error, "connection refused"
	ops[2].ParentSpanID, ops[2].ParentRemote, ops[2].TraceState, ops[2].Resource = ops[1].SpanID, true, "vendor=1,b=2", bank
	ops[3].Probe, ops[3].Flags = "sql", 3
	ops[4].Events = []telemetry.Event{{
		Name: "exception", Time: epoch,
		Attributes: []attribute.KeyValue{attribute.String("exception.type", "runtime.Error"), attribute.Bool("escaped", false)},
	}}
	ops[5].Attributes = []attribute.KeyValue{
		attribute.StringSlice("list", []string{"a", "b"}), attribute.Float64("f", 0.25), attribute.String("empty", ""),
		attribute.String("text", "ü \u2028 \x00 \xff"), attribute.Int64Slice("ints", []int64{-1, 1 << 60}),
	}
	return ops
}

// TestCollector sends by both protocols, plain and with TLS, and compares what
// the collector wrote with what was sent.
func TestCollector(t *testing.T) {
	for _, tls := range []bool{false, true} {
		for _, protocol := range protocols {
			t.Run(fmt.Sprintf("%s/tls=%v", protocol, tls), func(t *testing.T) {
				c := newCollector(t, tls)
				c.start(t)
				addr, scheme := c.grpc, "http"
				if protocol == config.ProtocolHTTP {
					addr = c.http
				}
				env := map[string]string{
					"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_HEADERS": "api-key=s3cret-key%3D%3D",
					"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
				}
				if tls {
					scheme = "https"
					env["OTEL_EXPORTER_OTLP_CERTIFICATE"] = c.path("ca.pem")
				}
				env["OTEL_EXPORTER_OTLP_ENDPOINT"] = scheme + "://" + addr
				ops := varied()
				if err := exportTo(t, load(t, env), ops); err != nil {
					t.Fatal(err)
				}
				want, _ := newEncoder("1.2.3").encode(ops, 1<<30)
				eventually(t, 10*time.Second, "spans in the collector's file", func() bool { return count(c.received(t)) >= len(ops) })
				if diff := cmp.Diff(decode(t, want), c.received(t), protocmp.Transform()); diff != "" {
					t.Error(diff)
				}

				env["OTEL_EXPORTER_OTLP_HEADERS"] = "api-key=wrong"
				if err := exportTo(t, load(t, env), ops); err == nil || strings.Contains(err.Error(), "deadline") {
					t.Errorf("wrong key: %v, want a refusal at once", err)
				}
				if tls {
					env["OTEL_EXPORTER_OTLP_CERTIFICATE"] = ""
					env["OTEL_EXPORTER_OTLP_TIMEOUT"] = "1500"
					if err := exportTo(t, load(t, env), ops); err == nil {
						t.Error("a certificate of an unknown authority was accepted")
					}
				}
			})
		}
	}
}

// TestCollectorDown: without a collector spans are dropped and counted and
// memory stays bounded; when it comes, sending goes on by itself.
func TestCollectorDown(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			c := newCollector(t, false)
			addr := c.grpc
			if protocol == config.ProtocolHTTP {
				addr = c.http
			}
			e, err := New(context.Background(), load(t, map[string]string{
				"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + addr, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
				"OTEL_EXPORTER_OTLP_HEADERS": "api-key=s3cret-key%3D%3D",
			}), "1.2.3")
			if err != nil {
				t.Fatal(err)
			}
			m := selfmetrics.New()
			p := pipeline.New(pipeline.Options{
				Exporters: []exporter.Exporter{e}, Metrics: m, QueueSize: 2000, BatchSize: 500,
				ScheduleDelay: 50 * time.Millisecond, ExportTimeout: time.Second,
			})
			submitted := 0
			submit := func(n int) {
				for _, op := range operations(n) {
					p.Submit(op)
				}
				submitted += n
			}
			submit(5000)
			before := heap()
			for range 100 {
				submit(1000)
			}
			// 100,000 spans of 2 KB are 200 MB, the queue's are 4.
			if grown := heap() - before; grown > 20<<20 {
				t.Errorf("heap grew by %d bytes without a collector", grown)
			}
			if lost := total(m, selfmetrics.NameRecordsLost); lost < 100_000 {
				t.Errorf("%d of %d spans counted as lost", lost, submitted)
			}

			c.start(t)
			eventually(t, 20*time.Second, "spans arrive again", func() bool {
				submit(1)
				return count(c.received(t)) > 0
			})
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if err := p.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			sent, lost := total(m, selfmetrics.NameSpans), total(m, selfmetrics.NameRecordsLost)
			if sent+lost != submitted {
				t.Errorf("%d sent + %d lost is not %d submitted", sent, lost, submitted)
			}
			eventually(t, 5*time.Second, fmt.Sprintf("%d spans in the collector's file", sent), func() bool {
				return count(c.received(t)) >= sent
			})
		})
	}
}

// total sums up a metric.
func total(m *selfmetrics.Registry, name string) int {
	n := 0.0
	for _, f := range m.Snapshot() {
		if f.Name == name {
			for _, s := range f.Samples {
				n += s.Value
			}
		}
	}
	return int(n)
}

func heap() int64 {
	runtime.GC()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	return int64(ms.HeapAlloc)
}
