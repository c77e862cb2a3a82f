package metrics

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

func TestScores(t *testing.T) {
	served := &telemetry.Instrument{Name: "http.server.request.duration", Kind: telemetry.Histogram, Scored: "http.route"}
	called := &telemetry.Instrument{Name: "http.client.request.duration", Kind: telemetry.Histogram}
	s := NewScores(500 * time.Millisecond)
	key := telemetry.ProcessKey{PID: 7}
	request := func(i *telemetry.Instrument, route string, seconds float64, err string) {
		var kvs []attribute.KeyValue
		if route != "" {
			kvs = append(kvs, attribute.String("http.route", route))
		}
		if err != "" {
			kvs = append(kvs, attribute.String("error.type", err))
		}
		if i.Scored != "" {
			s.add(s.of(key, &telemetry.Measurement{Instrument: i, Attributes: attribute.NewSet(kvs...)}), seconds)
		}
	}
	read, _ := s.Open(key)
	other, _ := s.Open(key)
	scores := func(r Reading) map[string]string {
		out := map[string]string{}
		r(func(i *telemetry.Instrument, v float64, a attribute.Set) {
			out[i.Name+" "+a.Encoded(attribute.DefaultEncoder())] = fmt.Sprintf("%.3f", v)
		})
		return out
	}
	request(served, "/a", 0.5, "")    // satisfies
	request(served, "/a", 2, "")      // is tolerated
	request(served, "/a", 2.1, "")    // is not
	request(served, "/a", 0.1, "503") // is fast and fails
	request(served, "", 0.1, "")
	request(called, "/a", 0.1, "")
	want := map[string]string{
		"http.server.request.apdex http.route=/a": "0.375", "http.server.request.error.ratio http.route=/a": "0.250",
		"http.server.request.apdex ": "0.500", "http.server.request.error.ratio ": "0.200",
	}
	if diff := cmp.Diff(want, scores(read)); diff != "" {
		t.Error(diff)
	}
	if got := scores(read); len(got) > 0 {
		t.Errorf("scores of nothing: %v", got)
	}
	request(served, "/a", 0.1, "")
	if got := scores(read)["http.server.request.apdex http.route=/a"]; got != "1.000" {
		t.Errorf("Apdex since then %s, want 1", got)
	}
	if got := scores(other)["http.server.request.apdex http.route=/a"]; got != "0.500" {
		t.Errorf("Apdex of another destination %s, want 0.5", got)
	}
	for n := range 2 * maxScored {
		request(served, fmt.Sprint("/", n), 0.1, "")
	}
	if got := len(s.processes[key]); got > maxScored {
		t.Errorf("%d routes are kept, want at most %d", got, maxScored)
	}
	s.Remove(key)
	if got := scores(read); len(got) > 0 {
		t.Errorf("scores of a process that ended: %v", got)
	}
}
