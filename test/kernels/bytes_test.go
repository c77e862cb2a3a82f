package kernels

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

const varietyDir = "testdata/targets/variety"

// built is a target that is built for the guest, or here.
func built(t *testing.T, dir string) string {
	t.Helper()
	if !inGuest() {
		return harness.Build{Dir: dir}.Path(t)
	}
	return filepath.Join(os.Getenv("TRACER_TARGETS"), filepath.Base(dir))
}

// byteKinds are the ways in which requests are sent, with each one's share in percent.
var byteKinds = []struct {
	name  string
	share int
}{
	{"http", 35}, {"https", 10}, {"proxy", 10}, {"connect", 5}, {"http2", 30}, {"x-http2", 10},
}

// TestBytes: what a server receives with the agent writing into the client's memory is
// byte for byte what it receives without it, but for exactly one header; a program's
// own traceparent is never joined by another. TRACER_BYTES_REQUESTS is how many
// requests, TRACER_BYTES_FROM the first one's number and TRACER_BYTES_SEED what they
// follow from, so that a long run can be done in pieces and any piece again.
// TRACER_BYTES_SAVE has them be sent without the agent alone, and keeps a sum of each in that
// file; TRACER_BYTES_PLAIN compares with the sums in it, so that an emulated machine need
// not send everything twice.
func TestBytes(t *testing.T) {
	number := func(name string, def int) int {
		if v := os.Getenv(name); v != "" {
			n, err := strconv.Atoi(v)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return n
		}
		return def
	}
	total, from, seed := number("TRACER_BYTES_REQUESTS", 5000), number("TRACER_BYTES_FROM", 0), number("TRACER_BYTES_SEED", 1)
	path := built(t, varietyDir)
	like := coverage{}
	if file := os.Getenv("TRACER_BYTES_SAVE"); file != "" {
		kept := plainSums{}
		without := harness.StartTarget(t, path)
		for _, k := range byteKinds {
			b := &byteRun{t: t, without: without, kind: k.name, seed: seed, like: like}
			kept[k.name] = b.sums(from*k.share/100, total*k.share/100)
		}
		kept.write(t, file)
		like.check(t, total)
		return
	}
	needs(t)
	kept := readPlainSums(t, os.Getenv("TRACER_BYTES_PLAIN"))
	memory := memoryMode(t)
	watched := exeCopy(t, path)
	agent := harness.StartAgentEnv(t, []string{"OTEL_TRACES_EXPORTER=none"}, "--exe", watched, "--propagation", "memory")
	with := harness.StartTarget(t, watched)
	without := harness.StartTarget(t, path)
	agent.WaitInstrumented(with.PID)
	for _, k := range byteKinds {
		t.Run(k.name, func(t *testing.T) {
			facts := report(t, "")
			b := &byteRun{t: t, agent: agent, with: with, without: without, kind: k.name, seed: seed, memory: memory, like: like, kept: kept[k.name]}
			b.compare(from*k.share/100, total*k.share/100, facts)
		})
	}
	if kept == nil {
		like.check(t, total)
	}
}

// byteRun is one kind's comparison.
type byteRun struct {
	t             *testing.T
	agent         *harness.Agent
	with, without *harness.Target
	kind          string
	seed          int
	memory        bool
	like          coverage
	kept          map[int]plainSum // what arrives without the agent, when it is known already
}

// byteWorkers is how many requests are under way at once: as many as write at once. Where
// a processor is emulated, fewer would have it change between programs for each of them.
const byteWorkers = 16

// send has a program send the requests to a recorder of their own.
func (b *byteRun) send(tg *harness.Target, from, n int) *recorder {
	b.t.Helper()
	r := startRecorder(b.t, b.kind)
	q := url.Values{"kind": {b.kind}, "to": {r.addr}, "seed": {strconv.Itoa(b.seed)},
		"from": {strconv.Itoa(from)}, "n": {strconv.Itoa(n)}, "workers": {strconv.Itoa(byteWorkers)}}
	client := http.Client{Timeout: 30 * time.Minute}
	resp, err := client.Get(tg.URL("/send?" + q.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text := make([]byte, 1000)
		n, _ := resp.Body.Read(text)
		b.t.Fatalf("send: %s: %s; the recorder: %v", resp.Status, text[:n], r.errs)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.errs) > 0 || len(r.got) != n {
		b.t.Fatalf("%d requests arrived, want %d; %v", len(r.got), n, r.errs)
	}
	return r
}

// piece bounds what is kept in memory.
const piece = 2500

func (b *byteRun) compare(from, n int, facts map[string]any) {
	before := b.agent.Metrics()
	seen := map[string]bool{}
	sum := tally{}
	for done := 0; done < n; done += piece {
		m := min(piece, n-done)
		if b.kept != nil {
			traced := b.send(b.with, from+done, m)
			for i := from + done; i < from+done+m; i++ {
				b.compareKept(i, traced.got[i], seen, &sum)
			}
			continue
		}
		plain, traced := b.send(b.without, from+done, m), b.send(b.with, from+done, m)
		for i := from + done; i < from+done+m; i++ {
			b.like.add(b.kind, plain.got[i])
			b.compareOne(i, plain.got[i], traced.got[i], seen, &sum)
		}
	}
	after := b.agent.Metrics()
	outcome := map[string]int{}
	for _, o := range memoryOutcomes {
		name := fmt.Sprintf(`tracer_agent_propagation_total{probe="nethttp",mode="memory",outcome=%q}`, o)
		outcome[o] = int(after[name] - before[name])
	}
	b.t.Logf("%s: %d requests in %d attempts, %d with our header, %d with their own, %d with neither: %v",
		b.kind, n, sum.attempts, sum.ours, sum.own, sum.none, outcome)
	facts["requests"], facts["attempts"], facts["written"], facts["own"], facts["skipped"] = n, sum.attempts, sum.ours, sum.own, sum.none
	if !b.memory {
		if sum.ours != 0 {
			b.t.Errorf("%d headers were written although memory cannot be", sum.ours)
		}
		return
	}
	// Among very many headers the program's own is not seen: it is one reason to skip.
	kept, skipped := outcome["own_header_kept"], outcome["absence_not_proven"]+outcome["no_room"]+outcome["unknown_buffer"]
	if sum.ours != outcome["written"] || kept > sum.own || kept+skipped != sum.own+sum.none {
		b.t.Errorf("counted are %v", outcome)
	}
	if outcome["write_failed"] != 0 {
		b.t.Errorf("%d writes failed", outcome["write_failed"])
	}
}

var memoryOutcomes = []string{"written", "own_header_kept", "absence_not_proven", "no_room", "unknown_buffer", "write_failed"}

type tally struct{ attempts, ours, own, none int }

func (b *byteRun) compareOne(i int, plain, traced []arrival, seen map[string]bool, sum *tally) {
	b.t.Helper()
	b.checkRefused(i, plain)
	for _, a := range traced {
		if !bytes.Equal(a.text, plain[0].text) {
			b.differ(i, plain[0].text, a.text)
		}
	}
	b.checkHeaders(i, plain[0].named, traced, seen, sum)
}

// compareKept is compareOne with what is known of the request without the agent.
func (b *byteRun) compareKept(i int, traced []arrival, seen map[string]bool, sum *tally) {
	b.t.Helper()
	want, ok := b.kept[i]
	if !ok {
		b.t.Fatalf("request %d is not in the file", i)
	}
	for _, a := range traced {
		if sha256.Sum256(a.text) != want.Sum {
			b.differ(i, b.send(b.without, i, 1).got[i][0].text, a.text)
		}
	}
	b.checkHeaders(i, want.Named, traced, seen, sum)
}

// checkRefused: a request arrives once more each time that it is refused. Whether it is the
// first one of its connection, and so not refused, is up to net/http, which gives up a
// connection whose writer is slow to say that it is done.
func (b *byteRun) checkRefused(i int, sent []arrival) {
	b.t.Helper()
	for at, a := range sent {
		if a.refused != (at < len(sent)-1) {
			b.t.Errorf("request %d: arrived %d times, refused the time %d: %v", i, len(sent), at+1, a.refused)
		}
	}
}

// checkHeaders: each time that a request arrives, it has at most one header of ours, and
// none beside the program's own, of which there are named.
func (b *byteRun) checkHeaders(i, named int, traced []arrival, seen map[string]bool, sum *tally) {
	b.t.Helper()
	b.checkRefused(i, traced)
	for _, a := range traced {
		sum.attempts++
		switch {
		case a.ours != "" && (a.named != 1 || named != 0):
			b.t.Errorf("request %d: %d headers named traceparent, %d without the agent", i, a.named, named)
		case a.ours != "":
			sum.ours++
			if seen[a.ours] || !strings.HasSuffix(a.ours, "-01") {
				b.t.Errorf("request %d: traceparent %s, want one of its own, sampled", i, a.ours)
			}
			seen[a.ours] = true
		case a.named > 0:
			sum.own++
		default:
			sum.none++
		}
	}
}

// differ shows in what a request differs.
func (b *byteRun) differ(i int, want, got []byte) {
	b.t.Helper()
	at := 0
	for at < min(len(want), len(got)) && want[at] == got[at] {
		at++
	}
	lo := max(0, at-200)
	b.t.Fatalf("request %d of seed %d differs at byte %d (%d and %d bytes)\nwithout: %q\nwith:    %q", i, b.seed, at, len(want), len(got),
		want[lo:min(len(want), at+200)], got[lo:min(len(got), at+200)])
}
