package probe

import "testing"

func TestMapExperiment(t *testing.T) {
	for version, want := range map[string]string{
		"go1.24.1":                                "",
		"go1.24.1 X:jsonv2":                       "",
		"go1.24.1 X:noswissmap,jsonv2":            "noswissmap",
		"go1.23.4 X:swissmap":                     "swissmap",
		"go1.26.0 X:nomapsplitgroup,noswissmap":   "nomapsplitgroup,noswissmap",
		"go1.26-custom X:mapsplitgroup (patched)": "mapsplitgroup",
	} {
		if got := mapExperiment(version); got != want {
			t.Errorf("mapExperiment(%q) = %q, want %q", version, got, want)
		}
	}
}
