package testkernel

import (
	"errors"
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	missing := errors.New("not there")
	for _, tt := range []struct {
		name    string
		feature Feature
		err     error
		kernel  version
		strict  bool
		want    verdict
	}{
		{"works", UprobeMulti, nil, version{6, 18}, true, verdictRun},
		{"old kernel", UprobeMulti, missing, version{6, 1}, false, verdictSkip},
		{"old kernel, strict", UprobeMulti, missing, version{6, 1}, true, verdictSkip},
		{"new kernel", UprobeMulti, missing, version{6, 6}, false, verdictSkip},
		{"new kernel, strict", UprobeMulti, missing, version{6, 6}, true, verdictFail},
		{"no privilege, strict", Root, missing, version{6, 18}, true, verdictFail},
		{"unknown feature", "warp", missing, version{6, 18}, false, verdictFail},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, reason := judge(tt.feature, tt.err, tt.kernel, tt.strict)
			if got != tt.want {
				t.Errorf("verdict %d, want %d (%s)", got, tt.want, reason)
			}
			if got != verdictRun && !strings.Contains(reason, string(tt.feature)) && tt.feature != "warp" {
				t.Errorf("reason %q does not name the feature", reason)
			}
		})
	}
}

// TestProbesAgreeWithKernel runs every probe: a feature either works or its
// absence has a reason in words.
func TestProbesAgreeWithKernel(t *testing.T) {
	Require(t, Root)
	for f := range table {
		t.Run(string(f), func(t *testing.T) {
			Require(t, f)
			if err := Have(f); err != nil {
				t.Errorf("Require let the test run although the probe said: %v", err)
			}
		})
	}
}
