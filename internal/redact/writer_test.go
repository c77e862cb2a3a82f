package redact

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
)

func TestWriter(t *testing.T) {
	var out bytes.Buffer
	w := NewWriter(&out, []string{"abc", "", "secret-1", `quo"ted\one`, "Basic secret-1"})
	log := slog.New(slog.NewTextHandler(w, nil))
	log.Error("refused", "err", errors.New(`401: key secret-1, quo"ted\one and Basic secret-1 of abc`))
	got := out.String()
	if want := `401: key REDACTED, REDACTED and REDACTED of abc`; !strings.Contains(got, want) {
		t.Errorf("%s, want %s in it", got, want)
	}
	if plain := NewWriter(&out, []string{"abc"}); plain != io.Writer(&out) {
		t.Error("a writer without anything to look for is in the way")
	}
}
