package kernels

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/redact"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
	"github.com/tracer-agent/tracer-agent/probes/nethttp"
	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// Of goroutines that make a call and end, many times more than there is room for entries:
// each call is a span, half of the room at most is taken by entries that wait for a next
// call.
func TestKeptCalls(t *testing.T) {
	needs(t)
	const room, bursts, each = 256, 24, 100
	all := targets(t)
	path := all[len(all)-1].path
	peer := harness.StartTarget(t, exeCopy(t, path))
	spec := must(nethttp.New(nethttp.Config{Join: true, Redact: redact.New(nil)}))
	var calls atomic.Int64
	manager, err := probe.NewManager(probe.ManagerOptions{
		Specs: []*probe.Spec{spec}, MaxInFlight: room,
		Emit: func(op *telemetry.Operation) {
			if op.Kind == trace.SpanKindClient {
				calls.Add(1)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	tg := startHanding(t, manager, exeCopy(t, path), probe.HandJoin)
	for range bursts {
		url := tg.URL(fmt.Sprintf("/burst?n=%d&c=%d&url=%s", each, each, peer.URL("/plain")))
		if got := harness.Get(t, url); got != strconv.Itoa(each) {
			t.Fatalf("%s of %d calls succeeded", got, each)
		}
	}
	for end := time.Now().Add(harness.Patience * 10 * time.Second); calls.Load() < bursts*each && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	for place, n := range manager.Lost(spec) {
		if n > 0 {
			t.Errorf("%d lost: %s", n, place)
		}
	}
	if n := calls.Load(); n != bursts*each {
		t.Errorf("%d spans of %d calls", n, bursts*each)
	}
	if n := entriesOf(t, "nh_client"); n == 0 || n > room/2+1 {
		t.Errorf("%d entries wait for a next call, want some and at most %d", n, room/2+1)
	}
}

// entriesOf counts those of this process's map of the name.
func entriesOf(t *testing.T, name string) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // closed meanwhile
		}
		_, rest, isMap := strings.Cut(string(text), "map_id:\t")
		if !isMap {
			continue
		}
		number, _, _ := strings.Cut(rest, "\n")
		id, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			continue
		}
		if info, err := m.Info(); err == nil && info.Name == name {
			var key, value []byte
			for it := m.Iterate(); it.Next(&key, &value); {
				n++
			}
		}
		m.Close()
	}
	return n
}
