package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/goruntime"
	"github.com/tracer-agent/tracer-agent/internal/hostmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

var update = flag.Bool("update", false, "write the tables in docs/metrics.md")

// TestMetricsDocumentation keeps the tables in docs/metrics.md what the code says.
func TestMetricsDocumentation(t *testing.T) {
	const path = "../../docs/metrics.md"
	is, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := string(is)
	for name, all := range map[string][]*telemetry.Instrument{"goruntime": goruntime.Instruments(), "hostmetrics": hostmetrics.Instruments()} {
		begin, end := fmt.Sprintf("<!-- %s: begin -->\n", name), fmt.Sprintf("<!-- %s: end -->", name)
		before, rest, ok1 := strings.Cut(want, begin)
		_, after, ok2 := strings.Cut(rest, end)
		if !ok1 || !ok2 {
			t.Fatalf("no place for the table of %s", name)
		}
		var b strings.Builder
		b.WriteString("| metric | unit | kind | what |\n| --- | --- | --- | --- |\n")
		for _, i := range all {
			fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", i.Name, i.Unit, i.Kind, i.Description)
		}
		want = before + begin + b.String() + end + after
	}
	switch {
	case want == string(is):
	case !*update:
		t.Fatal("docs/metrics.md is not what the code says; run: go test ./cmd/tracer-agent -run Documentation -update")
	default:
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
