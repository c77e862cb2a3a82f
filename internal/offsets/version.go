package offsets

import (
	"cmp"
	"strconv"
	"strings"
)

// Version is a release of Go ("1.26.8", "go1.27rc1") or of a module ("v0.38.0").
type Version struct {
	Major, Minor, Patch int
	// Pre is the pre-release part ("rc1", "0.20240101-abcdef"), "" for a release.
	Pre string
}

// ParseVersion reads "1.26", "1.26.8", "go1.27rc1", "v0.38.0", "v1.2.3-pre+meta".
// Anything else, such as a "devel" toolchain, is not ok.
func ParseVersion(s string) (v Version, ok bool) {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "go"), "v")
	if len(s) > 128 {
		return Version{}, false
	}
	s, _, _ = strings.Cut(s, "+")
	for i, part := range []*int{&v.Major, &v.Minor, &v.Patch} {
		n := 0
		for n < len(s) && n < 8 && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		if n == 0 || n < len(s) && s[n] >= '0' && s[n] <= '9' {
			return Version{}, false
		}
		*part, _ = strconv.Atoi(s[:n]) // at most 8 digits
		s = s[n:]
		if s == "" {
			return v, i > 0
		}
		if s[0] != '.' {
			v.Pre = strings.TrimPrefix(s, "-")
			return v, i > 0 && v.Pre != ""
		}
		s = s[1:]
	}
	return Version{}, false
}

// Compare orders versions; a pre-release comes before its release.
func (v Version) Compare(w Version) int {
	if c := cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch)); c != 0 {
		return c
	}
	switch {
	case v.Pre == w.Pre:
		return 0
	case v.Pre == "":
		return 1
	case w.Pre == "":
		return -1
	}
	return cmp.Compare(v.Pre, w.Pre)
}

// SameMinor reports whether v and w are releases of one minor version.
func (v Version) SameMinor(w Version) bool { return v.Major == w.Major && v.Minor == w.Minor }
