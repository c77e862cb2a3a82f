package mongo

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write what the parser says as what is wanted")

// sample is a command and its reply as they were on the wire.
type sample struct {
	path           string
	request, reply []byte
	want           string
}

func samples(t testing.TB) []sample {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	var out []sample
	for _, path := range paths {
		ar, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s := sample{path: path}
		for _, f := range ar.Files {
			switch f.Name {
			case "request":
				s.request = unbase64(t, f.Data)
			case "reply":
				s.reply = unbase64(t, f.Data)
			case "want":
				s.want = string(f.Data)
			}
		}
		out = append(out, s)
	}
	return out
}

func unbase64(t testing.TB, b []byte) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(b), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// said is what the parser makes of a sample.
func said(t testing.TB, s sample) string {
	t.Helper()
	p := NewParser(TextShape)
	req, err := p.Request(s.request, nil)
	if err != nil {
		t.Fatalf("%s: %v", s.path, err)
	}
	out := map[string]any{"request": req}
	if s.reply != nil {
		reply, err := p.Reply(s.reply)
		if err != nil {
			t.Fatalf("%s: %v", s.path, err)
		}
		if reply.ResponseTo != req.RequestID {
			t.Errorf("%s: a reply to %d, not to %d", s.path, reply.ResponseTo, req.RequestID)
		}
		out["reply"] = reply
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

// TestCorpus: messages of real drivers and a real server; the origin is in each file.
func TestCorpus(t *testing.T) {
	for _, s := range samples(t) {
		got := said(t, s)
		if *update {
			rewrite(t, s.path, got)
			continue
		}
		if diff := cmp.Diff(s.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.path, diff)
		}
		req, err := NewParser(TextShape).Request(s.request, nil)
		if err != nil || strings.Contains(req.Text, canary) {
			t.Errorf("%s: a value leaves, %v: %s", s.path, err, req.Text)
		}
	}
}

func rewrite(t *testing.T, path, want string) {
	t.Helper()
	ar, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range ar.Files {
		if f.Name == "want" {
			ar.Files[i].Data = []byte(want)
		}
	}
	if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil { //nolint:gosec // a fixture
		t.Fatal(err)
	}
}

// TestTruncated: every sample cut at every byte gives no panic, and nothing that the
// whole message does not say.
func TestTruncated(t *testing.T) {
	for _, s := range samples(t) {
		p := NewParser(TextShape)
		whole, err := p.Request(s.request, nil)
		if err != nil {
			t.Fatal(err)
		}
		for n := range len(s.request) {
			r, err := p.Request(s.request[:n], nil)
			if err != nil {
				continue
			}
			if r.Command != "" && r.Command != whole.Command || r.DB != "" && r.DB != whole.DB ||
				r.Collection != "" && r.Collection != whole.Collection || r.Documents >= 0 && r.Documents != whole.Documents {
				t.Fatalf("%s: %d of %d bytes say %+v, all say %+v", s.path, n, len(s.request), r, whole)
			}
			if strings.Contains(r.Text, canary) {
				t.Fatalf("%s: %d bytes: a value leaves: %s", s.path, n, r.Text)
			}
		}
		all, err := p.Reply(s.reply)
		if err != nil && len(s.reply) > 0 {
			t.Fatal(err)
		}
		for n := range len(s.reply) {
			r, err := p.Reply(s.reply[:n])
			if err == nil && (r.Returned >= 0 && r.Returned != all.Returned || r.Failed && !all.Failed || r.WriteErrors > all.WriteErrors) {
				t.Fatalf("%s: %d of %d bytes say %+v, all say %+v", s.path, n, len(s.reply), r, all)
			}
		}
	}
}

// TestNoAllocation: a command that is like one before costs no allocation, but for the
// text of an error, which is the span's.
func TestNoAllocation(t *testing.T) {
	for _, s := range samples(t) {
		if strings.Contains(s.path, "-z-") || s.reply == nil {
			continue // decompressors allocate
		}
		p := NewParser(TextShape)
		n := testing.AllocsPerRun(100, func() {
			_, _ = p.Request(s.request, nil)
			_, _ = p.Reply(s.reply)
		})
		texts := 0.0
		r, _ := p.Reply(s.reply)
		for _, f := range []Failure{r.Err, r.WriteErr, r.ConcernErr} {
			if f.Message != "" {
				texts++
			}
		}
		if n > texts {
			t.Errorf("%s: %v allocations for %v texts", s.path, n, texts)
		}
	}
}

// TestThroughput: heads of big messages are parsed at a gigabyte a second at least, in the
// best of many rounds: others may be at work.
func TestThroughput(t *testing.T) {
	m, p := insert16K(t), NewParser(TextShape)
	const rounds, each, want = 50, 100, 1e9
	best := 0.0
	for range rounds {
		began := time.Now()
		for range each {
			if _, err := p.Request(m, nil); err != nil {
				t.Fatal(err)
			}
		}
		best = max(best, float64(each*len(m))/time.Since(began).Seconds())
	}
	if t.Logf("%.1f GB/s", best/1e9); best < want {
		t.Errorf("%.2f GB/s, want 1", best/1e9)
	}
}

// insert16K is a command with documents of 16 kB.
func insert16K(t testing.TB) []byte {
	docs := make([]any, 16)
	for i := range docs {
		docs[i] = d("user", strings.Repeat("x", 1000))
	}
	return msg(t, 0, d("insert", "orders", "ordered", true, "$db", "shop"), "documents", docs...)
}

// BenchmarkInsert16K: the head of a big message is parsed, the rest is not looked at.
func BenchmarkInsert16K(b *testing.B) {
	m, p := insert16K(b), NewParser(TextShape)
	b.SetBytes(int64(len(m)))
	for b.Loop() {
		if _, err := p.Request(m, nil); err != nil {
			b.Fatal(err)
		}
	}
}
