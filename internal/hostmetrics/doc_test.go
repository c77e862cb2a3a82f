package hostmetrics

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table in docs/metrics.md")

// TestDocumentation keeps the table in docs/metrics.md what the code says.
func TestDocumentation(t *testing.T) {
	const path, begin, end = "../../docs/metrics.md", "<!-- hostmetrics: begin -->\n", "<!-- hostmetrics: end -->"
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| metric | unit | kind | what |\n| --- | --- | --- | --- |\n")
	for _, i := range Instruments() {
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", i.Name, i.Unit, i.Kind, i.Description)
	}
	before, rest, ok1 := strings.Cut(string(doc), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatal("no place for the table")
	}
	want := before + begin + b.String() + end + after
	if want == string(doc) {
		return
	}
	if !*update {
		t.Fatal("docs/metrics.md is not what the code says; run: go test ./internal/hostmetrics -run Documentation -update")
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
