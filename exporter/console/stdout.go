package console

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/exporter"
)

// Stdout returns standard output under another file descriptor: the Go runtime
// kills a program that writes to a closed pipe on descriptor 1, while on any
// other one the write returns an error, which exporters report as
// exporter.ErrGone. The caller closes it.
func Stdout() (*os.File, error) {
	fd, err := unix.FcntlInt(os.Stdout.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate standard output: %w", err)
	}
	return os.NewFile(uintptr(fd), "stdout"), nil
}

// IsTerminal says whether f is one; colours belong there only.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// write reports a reader that has gone away as exporter.ErrGone.
func write(w io.Writer, b []byte) error {
	if _, err := w.Write(b); err != nil {
		if errors.Is(err, unix.EPIPE) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, fs.ErrClosed) {
			return fmt.Errorf("print spans: %w: %w", exporter.ErrGone, err)
		}
		return fmt.Errorf("print spans: %w", err)
	}
	return nil
}
