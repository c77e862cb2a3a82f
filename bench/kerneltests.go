package main

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// runTest runs one of the repository's tests, which measures what takes parts of the
// agent that no command line reaches, and returns the file of figures that it writes to
// the path in the variable result; nothing when the test is skipped.
func (b *bench) runTest(pkg, name, result string, env ...string) (string, error) {
	file := filepath.Join(b.dir, name+".result")
	if err := os.RemoveAll(file); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "test", "-count=1", "-v", "-run", "^"+name+"$", pkg)
	cmd.Dir = ".."
	cmd.Env = append(append(os.Environ(), result+"="+file), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	if bytes.Contains(out, []byte("--- SKIP: "+name)) {
		log.Printf("%s is skipped:\n%s", name, out)
		return "", nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s has measured nothing: %w\n%s", name, err, out)
	}
	return string(text), nil
}

// download compares downloads from nginx over a connection that kernel mode watches with
// the same when it does not. The test needs no sane FIONREAD, which only the agent asks for.
func (b *bench) download() error {
	text, err := b.runTest("./internal/propagate", "TestDownload", "TRACER_DOWNLOAD_RESULT", "TRACER_DOWNLOAD_ROUNDS=301")
	if err != nil || text == "" {
		return err
	}
	var rate, cpu float64
	var rounds int
	if _, err := fmt.Sscan(text, &rate, &cpu, &rounds); err != nil {
		return fmt.Errorf("figures %q: %w", text, err)
	}
	b.report.add(row{what: "mode kernel, downloads of 1 MiB from nginx: throughput / CPU of both ends, watched to unwatched", must: ">= 0.95x / -",
		agent: fmt.Sprintf("%.3fx / %.3fx", rate, cpu), sdk: "-", ok: rate >= 0.95})
	return nil
}

// handing compares the CPU of a program per call with traces handed on by a header, by
// connection and not at all. The helper that writes is left out, so that it runs on
// kernels that refuse it.
func (b *bench) handing() error {
	text, err := b.runTest("./test/kernels", "TestWriteCost", "TRACER_COST_RESULT", "TRACER_COST_ROUNDS=25")
	if err != nil || text == "" {
		return err
	}
	added := map[string]float64{}
	for line := range strings.Lines(text) {
		var mode string
		var cpu, more float64 // ns
		if _, err := fmt.Sscan(line, &mode, &cpu, &more); err != nil {
			return fmt.Errorf("figures %q: %w", text, err)
		}
		added[mode] = more / 1e3
	}
	b.report.add(row{what: "mode memory, CPU added per client call over no propagation (but for the write itself) / mode join", must: "<= 5 µs / -",
		agent: fmt.Sprintf("%+.1f µs / %+.1f µs", added["memory"], added["join"]), sdk: "-", ok: added["memory"] <= 5})
	return nil
}
