package goexe

import (
	"fmt"
	"strings"

	"github.com/tracer-agent/tracer-agent/internal/offsets"
)

// Version is the Go release that built an executable.
type Version struct {
	Major, Minor, Patch int
	// Pre is "rc1" or "beta1", "" for a release.
	Pre string
	// Raw is what the build info says: "go1.26.8", "go1.25.3 X:nospinbitmutex".
	Raw string
}

// Oldest and newest supported minor versions of Go 1.
const (
	minGoMinor = 18
	maxGoMinor = 27
)

// Newer says that the release is one this package knows nothing of.
func (v Version) Newer() bool { return v.Major > 1 || v.Minor > maxGoMinor }

// parseGoVersion reads a build info's version; "devel go1.28-abc" counts as a
// pre-release of 1.28.
func parseGoVersion(raw string) (Version, bool) {
	s := strings.TrimPrefix(raw, "devel ")
	devel := s != raw
	s, _, _ = strings.Cut(s, " ")
	s, suffix, hasSuffix := strings.Cut(s, "-") // "go1.25.3-custom": layouts of a stranger
	if !strings.HasPrefix(s, "go") {
		return Version{Raw: raw}, false
	}
	v, ok := offsets.ParseVersion(s)
	if !ok {
		return Version{Raw: raw}, false
	}
	out := Version{Major: v.Major, Minor: v.Minor, Patch: v.Patch, Pre: v.Pre, Raw: raw}
	if out.Pre == "" && (devel || hasSuffix) {
		out.Pre = "devel"
		if suffix != "" {
			out.Pre = suffix
		}
	}
	return out, true
}

// String returns "1.26.8" or "1.27rc1".
func (v Version) String() string {
	return fmt.Sprintf("%d.%d.%d%s", v.Major, v.Minor, v.Patch, v.preSuffix())
}

func (v Version) preSuffix() string {
	if v.Pre == "" {
		return ""
	}
	return "-" + v.Pre
}

// AtLeast reports whether the version is major.minor or later.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// experiment reports whether the toolchain ran with non-default experiments,
// which may lay structs out differently from the release of the same number.
func (v Version) experiment() bool { return strings.Contains(v.Raw, " X:") }
