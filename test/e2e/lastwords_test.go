package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestLastWords: a program that ends right after a call, and with it the agent that
// watched nothing else, leaves the call's span whole; what the error is called is read
// from the executable.
func TestLastWords(t *testing.T) {
	needs(t)
	for _, c := range []struct {
		name  string
		start func(t *testing.T) (tg *harness.Target, last func() string) // URL of the last request
		kind  string                                                      // beginning of error.type
	}{
		{"http", func(t *testing.T) (*harness.Target, func() string) {
			tg := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
			return tg, func() string { return tg.CallURL("http://"+tg.Refused+"/x", "exit", "1") }
		}, "connection_refused"},
		{"redis", func(t *testing.T) (*harness.Target, func() string) {
			tg := harness.StartTarget(t, redisTarget.Path(t), "-redis", harness.StartRedis(t).Addr)
			return tg, func() string { return tg.URL("/v9/refused?exit=1") }
		}, "connection_refused"},
		{"mongo", func(t *testing.T) (*harness.Target, func() string) {
			proxy := startMongoProxy(t, startMongo(t), nil)
			tg := harness.StartTarget(t, mongoBuilds[0].Path(t), "-uri", "mongodb://"+proxy.addr+"/?retryReads=false")
			harness.Get(t, tg.URL("/do?op=findOne"))
			return tg, func() string { proxy.cut.Store(true); return tg.URL("/do?op=findOne&exit=1") }
		}, "connection_"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tg, last := c.start(t)
			agent := harness.Trace(t, tg)
			mark := agent.Mark()
			if answer, err := harness.TryGet(last()); err == nil {
				t.Fatalf("the program lives and answers %q", answer)
			}
			s := agent.WaitSpans(mark, 1, harness.Kind("client"))[0]
			if !strings.HasPrefix(s.Attr("error.type"), c.kind) || s.Res("service.name") == "" {
				t.Errorf("error.type %q: %s", s.Attr("error.type"), s)
			}
			if code := agent.Wait(30 * time.Second); code != 0 {
				t.Errorf("the agent ended with %d", code)
			}
		})
	}
}
