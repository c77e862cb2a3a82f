package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// ownSteps is how many commands a request for /own/ID of the target makes.
const ownSteps = 10

// ownWant is what the span of a request's command number step must say: the target's
// own.go makes them.
func ownWant(id, step int) map[string]string {
	inserted, duplicates, fresh := 1+id%7, 1+id%3, id%4
	updated := 1 + id%5%inserted
	there := min(id%3, 1)
	m := map[string]string{"db.system.name": "mongodb", "db.namespace": "shop", "db.collection.name": "own"}
	set := func(op string, batch int, kv ...any) map[string]string {
		m["db.operation.name"] = op
		if batch > 1 {
			m["db.operation.batch.size"] = strconv.Itoa(batch)
		}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i].(string)] = fmt.Sprint(kv[i+1])
		}
		return m
	}
	const n, rows, code, kind = "mongodb.response.n", "db.response.returned_rows", "db.response.status_code", "error.type"
	switch step {
	case 0:
		return set("insert", inserted, n, inserted)
	case 1:
		return set("update", updated, n, updated, "mongodb.response.n_modified", updated-1+id%2)
	case 2:
		return set("find", 1, rows, there)
	case 3:
		return set("find", 1, "db.collection.name", "few", rows, 1+id%11)
	case 4:
		return set("insert", duplicates+fresh, n, fresh, "mongodb.response.write_errors", duplicates, code, 11000, kind, 11000)
	case 5:
		return set("find", 1, "db.collection.name", "few", code, 2, kind, 2)
	case 6:
		delete(m, "db.collection.name")
		return set("frobnicate", 1, code, 59, kind, 59)
	case 7:
		return set("findAndModify", 1, n, there)
	case 8:
		return set("count", 1, n, there)
	}
	return set("delete", inserted+fresh, n, inserted+fresh)
}

var ownText = regexp.MustCompile(`own(\d{6})`)

// ownStep finds out which command of which request a span is of, by the command's text.
func ownStep(s *harness.Span) (id, step int) {
	text := s.Attr("db.query.text")
	found := ownText.FindStringSubmatch(text)
	if found == nil {
		return -1, -1
	}
	id, _ = strconv.Atoi(found[1])
	steps := map[string]int{"update own": 1, "find own": 2, "frobnicate shop": 6, "findAndModify own": 7, "count own": 8, "delete own": 9}
	switch step, ok := steps[s.Name]; {
	case ok:
		return id, step
	case s.Name == "insert own" && strings.Contains(text, "ordered: false"):
		return id, 4
	case s.Name == "insert own":
		return id, 0
	case s.Name == "find few" && strings.Contains(text, "$own"):
		return id, 5
	case s.Name == "find few":
		return id, 3
	}
	return id, -1
}

// TestMongoComplete: of 64 requests at a time, each with ten commands on its goroutine and
// on workers, every command has its span, and on it the status and the counts of its own
// reply and the request that made it. TRACER_COMMANDS is how many commands in all.
func TestMongoComplete(t *testing.T) {
	needs(t)
	requests := 100
	if n, err := strconv.Atoi(os.Getenv("TRACER_COMMANDS")); err == nil {
		requests = n / ownSteps
	}
	addr := startMongo(t)
	tg := harness.StartTarget(t, mongoBuilds[0].Path(t), "-uri", "mongodb://"+addr+"/?maxPoolSize=100")
	conf := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(conf, []byte("mongodb: {query_text: full}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := harness.StartAgent(t, "--config", conf, "--pid", strconv.Itoa(tg.PID))
	agent.WaitInstrumented(tg.PID)
	if got := harness.Get(t, tg.URL("/do?op=prepareOwn")); got != "ok" {
		t.Fatal(got)
	}
	agent.Settle(0, 2, tg)
	mark, began := agent.Mark(), time.Now()
	ownLoad(t, tg, requests)
	took := time.Since(began)
	agent.Await(mark, requests*(ownSteps+1))
	checkOwn(t, agent.Settle(mark, requests*(ownSteps+1), tg), requests)
	t.Logf("%d commands of %d requests in %v, each with a span, its own reply and its own parent", requests*ownSteps, requests, took.Round(time.Millisecond))
}

// ownLoad makes the requests, 64 at a time. The server has one writer at a time, and the
// target asks again for as long as it takes: so does the load.
func ownLoad(t *testing.T, tg *harness.Target, requests int) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for id := int(next.Add(1)) - 1; id < requests; id = int(next.Add(1)) - 1 {
				if got, err := harness.TryGetBy(client, tg.URL(fmt.Sprint("/own/", id))); err != nil || got != "ok" {
					t.Errorf("request %d: %q, %v", id, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func checkOwn(t *testing.T, spans []harness.Span, requests int) {
	t.Helper()
	path, seen := map[string]string{}, map[int]bool{}
	for i := range spans {
		if s := &spans[i]; s.Kind == "server" {
			path[s.SpanID] = s.Attr("url.path")
		}
	}
	bad := 0
	wrong := func(format string, args ...any) {
		t.Errorf(format, args...)
		if bad++; bad == 10 {
			t.Fatal("and so on")
		}
	}
	for i := range spans {
		s := &spans[i]
		if s.Attr("db.system.name") != "mongodb" || strings.Contains(s.StatusText, "SQLITE_BUSY") {
			continue // the latter: the target tries again, which is another command
		}
		id, step := ownStep(s)
		if step < 0 || id >= requests || seen[id*ownSteps+step] {
			wrong("of no command, or its second span: %v", s)
			continue
		}
		seen[id*ownSteps+step] = true
		if got, want := path[s.ParentSpanID], fmt.Sprint("/own/", id); got != want {
			wrong("a child of the request %q, want %q: %v", got, want, s)
		}
		got := s.Texts()
		maps.DeleteFunc(got, func(k, _ string) bool { return k == "db.query.text" || strings.HasPrefix(k, "server.") })
		if want := ownWant(id, step); !maps.Equal(got, want) {
			wrong("request %d, command %d (-want +got):\n%s", id, step, cmp.Diff(want, got))
		}
		if named := strings.Contains(s.StatusText, fmt.Sprintf("own%06d", id)); step == 5 && !named || (s.Status == "error") != (ownWant(id, step)["error.type"] != "") {
			wrong("status %s %q: %v", s.Status, s.StatusText, s)
		}
	}
	if len(seen) != requests*ownSteps || len(path) != requests {
		t.Errorf("spans of %d commands of %d, %d requests of %d", len(seen), requests*ownSteps, len(path), requests)
	}
}
