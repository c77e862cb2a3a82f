package goexe

import (
	"io"
	"strconv"
	"testing"
)

// sliceReader is a file in memory.
type sliceReader struct{ data []byte }

func (s *sliceReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(len(s.data)) {
		return 0, io.EOF
	}
	n := copy(p, s.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func openBytes(t *testing.T, data []byte) *Exe {
	t.Helper()
	e, err := newExe(&sliceReader{data}, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// exercise asks an Exe everything that an agent asks, but for debug
// information; answers do not matter, only that there are some.
func (e *Exe) exercise() {
	const caller, callee = "net/http.(*Transport).roundTrip", "net/http.(*Transport).getConn"
	parents := []string{"net/http.(*conn).serve"}
	e.Index(Names([]string{"main.main", "net/http.serverHandler.ServeHTTP", caller, callee, "net/http.(*conn).close"}, parents))
	for _, f := range e.funcs.sorted {
		e.EntryPoint(f.Name)
	}
	e.AfterCall(caller, []string{callee}, 3)
	e.Closure(parents, []string{"net/http.(*conn).close"})
	e.AllGs()
	e.TypeName(1)
	e.TypeName(64)
}

func itoa(n int) string { return strconv.Itoa(n) }

func number(t *testing.T, s string, base int) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, base, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
