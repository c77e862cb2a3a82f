package goexe

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// analyse is what an agent asks of an executable before it attaches.
func analyse(tb testing.TB, e *Exe) {
	h2 := h2Names(e.GoVersion())
	closures := []string{"net/http.(*conn).serve", h2 + "serverConn).runHandler"}
	entries := []string{
		"net/http.serverHandler.ServeHTTP", "net/http.(*response).shouldReuseConnection", "net/http.(*Transport).getConn",
		"net/http.(*conn).serve.func1", h2 + "ClientConn).RoundTrip", h2 + "serverConn).runHandler", "runtime.gopanic",
	}
	names := append([]string{
		"net/http.(*Transport).roundTrip", "net/http.(*persistConn).roundTrip", h2 + "responseWriter).handlerDone",
	}, entries...)
	if err := e.Index(Names(names, closures)); err != nil {
		tb.Fatal(err)
	}
	for _, name := range entries {
		if _, err := e.EntryPoint(name); err != nil && !errors.Is(err, ErrNoFunc) { // a client has no server
			tb.Fatal(err)
		}
	}
	if _, err := e.AfterCall("net/http.(*Transport).roundTrip", []string{"net/http.(*persistConn).roundTrip"}, 3); err != nil {
		tb.Fatal(err)
	}
	e.Closure(closures[1:], []string{h2 + "responseWriter).handlerDone"})
	if _, err := e.TypesAddr(); err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkAnalyse is the whole analysis: by table, and by debug information.
// TRACER_BENCH_EXE adds an executable of one's own.
func BenchmarkAnalyse(b *testing.B) {
	paths := map[string]string{
		"plain": gobin(b, "std", "amd64", "1.26.8", "plain"),
		"sw":    gobin(b, "std", "amd64", "1.26.8", "sw"),
		"pie":   gobin(b, "std", "amd64", "1.26.8", "pie"),
	}
	for i, p := range strings.Fields(os.Getenv("TRACER_BENCH_EXE")) {
		paths["own"+itoa(i)] = p
	}
	for name, path := range paths {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e, err := Open(path)
				if err != nil {
					b.Fatal(err)
				}
				analyse(b, e)
				e.Close()
			}
		})
	}
}

func BenchmarkDWARF(b *testing.B) {
	paths := []string{gobin(b, "std", "amd64", "1.26.8", "plain")}
	paths = append(paths, strings.Fields(os.Getenv("TRACER_BENCH_EXE"))...)
	all := []Field{
		{Module: "std", Type: "runtime.g", Name: "goid"}, {Module: "std", Type: "net/http.Request", Name: "Method"},
		{Module: "std", Type: "no.such", Name: "field"}, // makes the pass go to the end
	}
	for i, path := range paths {
		b.Run(itoa(i), func(b *testing.B) {
			e, err := Open(path)
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			if !e.HasDWARF() {
				b.Skip("no debug information")
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.DWARFOffsets(all); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestAnalysisBounds asserts what a user is told: stripped within 100 ms, with
// debug information within 300 ms, and little memory. Three tries, because
// other work on the machine counts against the time.
func TestAnalysisBounds(t *testing.T) {
	for mode, limit := range map[string]time.Duration{"sw": 100 * time.Millisecond, "plain": 300 * time.Millisecond} {
		path := gobin(t, "std", "amd64", "1.26.8", mode)
		best := time.Hour
		var allocated uint64
		for range 3 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			e, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			analyse(t, e)
			if e.HasDWARF() {
				if _, err := e.DWARFOffsets([]Field{{Module: "std", Type: "no.such", Name: "field"}}); err != nil {
					t.Fatal(err)
				}
			}
			best = min(best, time.Since(start))
			runtime.ReadMemStats(&after)
			allocated = after.TotalAlloc - before.TotalAlloc
			e.Close()
		}
		if best > limit {
			t.Errorf("%s: %s, at most %s", mode, best, limit)
		}
		if allocated > 8<<20 {
			t.Errorf("%s: %d bytes allocated in all", mode, allocated)
		}
	}
}
