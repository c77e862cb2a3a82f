package supervise

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// Explain says in one line why an executable is not instrumented and, where there
// is something, what to do about it.
func Explain(err error) string {
	switch {
	case errors.Is(err, goexe.ErrNotELF), errors.Is(err, goexe.ErrNotGo):
		return "not a Go program (no Go build information in the executable)"
	case errors.Is(err, probe.ErrNothingToDo):
		return "a Go program without net/http, or any other library that is traced"
	case errors.Is(err, fs.ErrPermission):
		return "executable cannot be read: " + oneLine(err) + "; run as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
	}
	return oneLine(err)
}

// oneLine keeps a joined error on one line.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; ")
}
