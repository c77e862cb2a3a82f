package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// tellTale is a destination that refuses and quotes all that it was sent.
type tellTale struct {
	coltrace.UnimplementedTraceServiceServer
}

func (tellTale) Export(ctx context.Context, _ *coltrace.ExportTraceServiceRequest) (*coltrace.ExportTraceServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	return nil, status.Errorf(codes.InvalidArgument, "refused: %v", md)
}

func (tellTale) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	http.Error(w, fmt.Sprintf("refused: %v", r.Header), http.StatusForbidden)
}

// TestSecretsStay: keys of the configuration and of the environment are in no log at level
// debug, on no page, in no metric of the agent's own and in no complaint about a
// destination, whatever that answers.
func TestSecretsStay(t *testing.T) {
	needs(t)
	const (
		key   = "NRAK-canary-7f3a\"quoted"
		token = "Bearer canary.token.99"
	)
	tg := harness.StartTarget(t, harness.Build{Dir: "testdata/targets/trivial"}.Path(t))
	web := httptest.NewServer(tellTale{})
	defer web.Close()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rpc := grpc.NewServer()
	coltrace.RegisterTraceServiceServer(rpc, tellTale{})
	go func() { _ = rpc.Serve(lis) }()
	defer rpc.Stop()

	for _, c := range []struct {
		name, endpoint, protocol, file string
		env                            []string
	}{
		{"HTTP, by the environment", web.URL, "http/protobuf", "", []string{
			"OTEL_EXPORTER_OTLP_HEADERS=api-key=NRAK-canary-7f3a%22quoted,authorization=Bearer%20canary.token.99"}},
		{"gRPC, by the file", "http://" + lis.Addr().String(), "grpc", fmt.Sprintf("  headers: {api-key: '%s', authorization: '%s'}\n", key, token), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			page := freeAddr(t)
			file := filepath.Join(t.TempDir(), "agent.yaml")
			text := fmt.Sprintf("select: {pids: [%d]}\nlog: {level: debug}\nhealth: {address: '%s'}\nexporters: [otlp]\nbatch: {schedule_delay: 50ms}\n"+
				"metrics: {exporters: [otlp], interval: 500ms}\notlp:\n  endpoint: %s\n  protocol: %s\n%s", tg.PID, page, c.endpoint, c.protocol, c.file)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			agent := harness.StartAgentEnv(t, c.env, "--config", file)
			agent.WaitInstrumented(tg.PID)
			harness.Get(t, tg.URL("/"))
			said := agent.WaitLog("spans lost on export", "exporter=otlp")
			if !strings.Contains(said, "REDACTED") {
				t.Errorf("the destination was not sent the key, or the log does not quote it: %s", said)
			}
			seen := map[string]string{}
			for _, path := range []string{"/", "/status.json", "/debug/pprof/", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1"} {
				seen[path] = fetch(t, "http://"+page+path)
			}
			for _, path := range []string{"/", "/status.json"} { // which quote the destination as well
				if !strings.Contains(seen[path], "REDACTED") {
					t.Errorf("%s does not say how the exporter fares: %s", path, seen[path])
				}
			}
			agent.Metrics() // prints them on standard error
			// A file that is refused is complained about.
			if err := os.WriteFile(file, []byte(text+"nonsense: ["+key), 0o600); err != nil {
				t.Fatal(err)
			}
			agent.WaitLog("refused", "agent.yaml")
			agent.Stop()
			seen["log"] = agent.Stderr()
			for where, text := range seen {
				if i := strings.Index(text, "canary"); i >= 0 {
					t.Errorf("%s holds a secret: ...%s", where, text[max(0, i-200):min(len(text), i+40)])
				}
			}
		})
	}
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || len(body) == 0 {
		t.Fatalf("%s: %d, %d bytes, %v", url, resp.StatusCode, len(body), err)
	}
	return string(body)
}
