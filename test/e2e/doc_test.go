// Package e2e runs the real agent on real programs on the running kernel and
// checks every span that comes out.
package e2e

import (
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/testkernel"
	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// httpmatrix is the target with every net/http corner case as a route.
const httpmatrix = "testdata/targets/httpmatrix"

func TestMain(m *testing.M) { harness.Main(m) }

// needs skips or fails the test where the agent cannot run at all.
func needs(t testing.TB) {
	t.Helper()
	testkernel.Require(t, testkernel.Root, testkernel.BTF, testkernel.RingBuf, testkernel.Uprobe)
}

// traced starts httpmatrix and an agent on it.
func traced(t testing.TB, b harness.Build) (*harness.Target, *harness.Agent) {
	t.Helper()
	needs(t)
	if b.Dir == "" {
		b.Dir = httpmatrix
	}
	tg := harness.StartTarget(t, b.Path(t))
	return tg, harness.Trace(t, tg)
}
