package resource

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/prometheus/procfs"

	"github.com/tracer-agent/tracer-agent/internal/config"
)

const (
	maxPasswdBytes = 1 << 20
	maxLineBytes   = 256
)

// words are what a process says about itself in its environment.
type words struct {
	service    string
	attributes map[string]string
}

// ownWords reads the environment the process was started with, as much of it
// as procfs gives (1 MiB).
func ownWords(proc procfs.Proc) words {
	environ, err := proc.Environ()
	if err != nil {
		return words{}
	}
	return parseEnviron(environ)
}

// parseEnviron finds the standard variables; the first of several counts, as
// in os.Getenv. A malformed OTEL_RESOURCE_ATTRIBUTES is ignored whole, as the
// specification says.
func parseEnviron(environ []string) words {
	var w words
	service, attributes := "", ""
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, "OTEL_SERVICE_NAME="); ok && service == "" {
			service = v
		}
		if v, ok := strings.CutPrefix(kv, "OTEL_RESOURCE_ATTRIBUTES="); ok && attributes == "" {
			attributes = v
		}
	}
	w.service = strings.TrimSpace(service)
	if pairs, err := config.ParsePairs(attributes); err == nil {
		w.attributes = pairs
	}
	return w
}

// firstLine is the first line of the first file that has one.
func firstLine(paths ...string) string {
	for _, p := range paths {
		data, err := readBounded(p, maxLineBytes)
		if err != nil {
			continue
		}
		line, _, _ := strings.Cut(string(data), "\n")
		if line = strings.TrimSpace(line); line != "" {
			return bounded(line)
		}
	}
	return ""
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}
