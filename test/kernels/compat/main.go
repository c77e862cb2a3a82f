// Command compat writes docs/COMPATIBILITY.md from what the tests in other kernels
// said: files KERNEL.jsonl and KERNEL.PART.jsonl, made by scripts/vm/matrix.sh, of which
// the newest counts.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// result is a line that test/kernels prints.
type result struct {
	Kernel   string         `json:"kernel"`
	Arch     string         `json:"arch"`
	Lockdown string         `json:"lockdown"`
	Test     string         `json:"test"`
	Go       string         `json:"go"`
	Outcome  string         `json:"outcome"`
	Facts    map[string]any `json:"facts"`
}

// guest is one virtual machine.
type guest struct {
	kernel, arch, lockdown string
	results                []result
}

func main() {
	in := flag.String("in", "out/kernels", "folder with the KERNEL.jsonl files")
	out := flag.String("out", "docs/COMPATIBILITY.md", "file to write")
	flag.Parse()
	if err := run(*in, *out); err != nil {
		fmt.Fprintln(os.Stderr, "compat:", err)
		os.Exit(1)
	}
}

func run(in, out string) error {
	guests, err := read(in)
	if err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	write(w, guests)
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

func read(dir string) ([]guest, error) {
	files, err := oldestFirst(dir)
	if err != nil {
		return nil, err
	}
	type key struct{ kernel, arch, lockdown string }
	at := map[key]int{}
	var guests []guest
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(b)) {
			var r result
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			k := key{r.Kernel, r.Arch, r.Lockdown}
			i, ok := at[k]
			if !ok {
				i = len(guests)
				at[k] = i
				guests = append(guests, guest{kernel: r.Kernel, arch: r.Arch, lockdown: r.Lockdown})
			}
			guests[i].take(r)
		}
	}
	slices.SortFunc(guests, func(a, b guest) int {
		return cmp.Or(slices.Compare(numbers(a.kernel), numbers(b.kernel)), strings.Compare(a.arch, b.arch),
			strings.Compare(a.lockdown, b.lockdown))
	})
	return guests, nil
}

// oldestFirst lists the files with results, what was written last at the end.
func oldestFirst(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no results: run scripts/vm/matrix.sh first", dir)
	}
	written := map[string]time.Time{}
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		written[name] = info.ModTime()
	}
	slices.SortFunc(files, func(a, b string) int { return written[a].Compare(written[b]) })
	return files, nil
}

// take adds a result; what the same test said before, in another run, holds no more.
// TestBytes is done in pieces.
func (g *guest) take(r result) {
	if !strings.HasPrefix(r.Test, "TestBytes/") {
		g.results = slices.DeleteFunc(g.results, func(old result) bool { return old.Test == r.Test && old.Go == r.Go })
	}
	g.results = append(g.results, r)
}

// numbers are the first two of a kernel's release.
func numbers(release string) []int {
	var out []int
	for _, part := range strings.SplitN(release, ".", 3)[:2] {
		n, err := strconv.Atoi(part)
		if err != nil {
			n = 0
		}
		out = append(out, n)
	}
	return out
}

func write(w io.Writer, guests []guest) {
	fmt.Fprint(w, `# What was tried on which kernel

Written by `+"`make compatibility`"+` from what test/kernels said inside these kernels (QEMU;
Debian's packages). Chain: client and server spans of three services, one trace, with
the exact number of probe hits. Join: the same where no byte is changed, every call found by
its connection, over HTTP, HTTPS and HTTP/2. Memory: a traceparent header written into HTTP/1,
HTTPS and HTTP/2 requests; lockdown forbids it. Kernel: pushed
into plaintext HTTP/1, also on a connection from before the agent; calls go on when the agent
is killed. Whole traces: of requests through three services with the header
written, 16 in flight. Bytes: requests to servers that were compared with what they receive
without the agent, and are the same but for one header. SDK: services that trace themselves
with the OpenTelemetry SDK and traced ones continue each other's traces. gRPC: traceparent
written into the metadata of grpc 1.40 (old), 1.64 (mid) and 1.85; which of them. Hits: per served request / per
call of the newest Go, with the header written. A kernel that is not in the table was not tried; "-": not in
this kernel. On arm64 the programs are loaded and verified; nothing was traced there.

| kernel | arch | lockdown | programs load | largest, verified instructions | chain, by Go version | join | memory | whole traces | bytes | SDK | gRPC | kernel | agent killed, started again | hits |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
`)
	for _, g := range guests {
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", g.kernel, g.arch, g.lockdown,
			g.outcome("TestLoadAll/"), g.fact("TestLoadAll/nethttp", "largest"), g.chains(),
			g.outcome("TestJoinMode/"), g.memory(), g.chainTraces(), g.bytes(), g.outcome("TestSDK/"),
			g.passed("TestGRPCMemory/"), g.kernelMode(),
			g.outcome("TestAgent/kill", "TestAgent/again"), g.hits())
	}
	writeProbes(w, guests)
}

// writeProbes writes what of each probe was loaded, a column for each kernel.
func writeProbes(w io.Writer, guests []guest) {
	fmt.Fprint(w, `
## Probes

How many programs of each the verifier accepted; in brackets the instructions that it looked
at in the largest one, of at most 1,000,000. "Without" are programs left out because the
kernel lacks what they call.

`)
	const prefix = "TestLoadAll/"
	head, rule := "| probe |", "| --- |"
	var names []string
	var columns []guest
	for _, g := range guests {
		found := g.matching(prefix)
		if len(found) == 0 {
			continue
		}
		columns = append(columns, g)
		head += fmt.Sprintf(" %s, %s, lockdown %s |", g.kernel, g.arch, g.lockdown)
		rule += " --- |"
		for _, r := range found {
			if name := strings.TrimPrefix(r.Test, prefix); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	fmt.Fprintf(w, "%s\n%s\n", head, rule)
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(w, "| %s |", name)
		for _, g := range columns {
			fmt.Fprintf(w, " %s |", g.loaded(prefix+name))
		}
		fmt.Fprintln(w)
	}
}

// loaded says what of a probe was loaded.
func (g guest) loaded(test string) string {
	for _, r := range g.results {
		switch {
		case r.Test != test:
		case r.Outcome != "pass":
			return r.Outcome
		default:
			text := fmt.Sprintf("%v (%v)", r.Facts["programs"], r.Facts["largest"])
			if out, _ := r.Facts["left_out"].(string); out != "" {
				text += ", without " + out
			}
			return text
		}
	}
	return "-"
}

func (g guest) matching(prefixes ...string) (out []result) {
	for _, r := range g.results {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(r.Test, p) }) {
			out = append(out, r)
		}
	}
	return out
}

// outcome is "yes" when all of the tests passed.
func (g guest) outcome(prefixes ...string) string {
	rs := g.matching(prefixes...)
	if len(rs) == 0 {
		return "-"
	}
	for _, r := range rs {
		if r.Outcome != "pass" {
			return r.Outcome
		}
	}
	return "yes"
}

// passed lists those of a test's parts that passed, and says which did not.
func (g guest) passed(prefix string) string {
	var out []string
	for _, r := range g.matching(prefix) {
		name := strings.TrimPrefix(r.Test, prefix)
		if r.Outcome != "pass" {
			name += " " + r.Outcome
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return cmp.Or(strings.Join(out, ", "), "-")
}

// fact is of the last such test: the newest Go's.
func (g guest) fact(test, name string) string {
	for _, r := range slices.Backward(g.matching(test)) {
		if v, ok := r.Facts[name]; ok {
			return fmt.Sprint(v)
		}
	}
	return "-"
}

// chains lists the Go versions whose programs were traced over every protocol.
func (g guest) chains() string {
	bad := map[string]bool{}
	var versions []string
	for _, r := range g.matching("TestAgent/chain/") {
		if !slices.Contains(versions, r.Go) {
			versions = append(versions, r.Go)
		}
		bad[r.Go] = bad[r.Go] || r.Outcome != "pass"
	}
	for i, v := range versions {
		if bad[v] {
			versions[i] = v + " failed"
		}
	}
	return cmp.Or(strings.Join(versions, ", "), "-")
}

// chainTraces is how many of TestMemoryChain's traces were whole.
func (g guest) chainTraces() string {
	whole, n := 0.0, 0.0
	for _, r := range g.matching("TestMemoryChain/") {
		w, _ := r.Facts["whole"].(float64)
		m, _ := r.Facts["requests"].(float64)
		whole, n = whole+w, n+m
	}
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f of %.0f", whole, n)
}

// bytes is how many requests were compared, if none differed.
func (g guest) bytes() string {
	n := 0.0
	for _, r := range g.matching("TestBytes/") {
		if r.Outcome != "pass" {
			return r.Outcome
		}
		m, _ := r.Facts["requests"].(float64)
		n += m
	}
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", n)
}

// memory says whether headers were written.
func (g guest) memory() string {
	rs := g.matching("TestAgent/propagation/")
	if len(rs) == 0 {
		return "-"
	}
	for _, r := range rs {
		switch {
		case r.Outcome != "pass":
			return r.Outcome
		case r.Facts["memory"] != true:
			return "refused"
		}
	}
	return "yes"
}

// kernelMode says whether lines were pushed, and if not why.
func (g guest) kernelMode() string {
	rs := g.matching("TestKernelMode")
	switch {
	case len(rs) == 0:
		return "-"
	case rs[0].Outcome != "pass":
		return rs[0].Outcome
	}
	why, _ := rs[0].Facts["refused"].(string)
	switch {
	case strings.Contains(why, "FIONREAD"):
		return "refused: FIONREAD"
	case strings.Contains(why, "5.17"):
		return "refused: before 5.17"
	case why != "":
		return "refused"
	}
	return "yes"
}

func (g guest) hits() string {
	return g.fact("TestAgent/chain/", "hits_per_request") + " / " + g.fact("TestAgent/chain/", "hits_per_call")
}
