package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFileBytes bounds a configuration file.
const maxFileBytes = 1 << 20

// file applies a YAML file.
func (l *loader) file(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if len(data) > maxFileBytes {
		return fmt.Errorf("%w: %s: larger than %d bytes", ErrInvalid, path, maxFileBytes)
	}
	return l.yaml(filepath.Base(path), data)
}

// yaml decodes one document; name is for messages.
func (l *loader) yaml(name string, data []byte) error {
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		return yamlError(name, err)
	}
	l.lines(name, "", &root, 0)

	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&l.cfg); err != nil && !errors.Is(err, io.EOF) {
		return yamlError(name, err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %s: more than one YAML document", ErrInvalid, name)
	}
	return nil
}

// lines notes the line of every setting, two levels deep, and of every selector.
func (l *loader) lines(name, prefix string, n *yaml.Node, depth int) {
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	if n.Kind == yaml.SequenceNode && depth == 1 {
		for i, item := range n.Content {
			key := fmt.Sprintf("%s[%d]", strings.TrimSuffix(prefix, "."), i)
			l.source[key] = fmt.Sprintf("%s:%d: %s", name, item.Line, key)
		}
	}
	if n.Kind != yaml.MappingNode || depth > 1 {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := prefix + n.Content[i].Value
		l.source[key] = fmt.Sprintf("%s:%d: %s", name, n.Content[i].Line, key)
		l.lines(name, key+".", n.Content[i+1], depth+1)
	}
}

var (
	unknownField = regexp.MustCompile(`^line (\d+): field (.*) not found in type .*$`)
	wrongType    = regexp.MustCompile("^line (\\d+): cannot unmarshal (?:!!(\\w+) )?(?:`(?s:.*)` )?into (.*)$")
	lineOnly     = regexp.MustCompile(`^line (\d+): (.*)$`)
)

// yamlError puts the package's messages into our words: file, line, key, what
// to do. It does not repeat values: the wrong one may be a password.
func yamlError(name string, err error) error {
	var te *yaml.TypeError
	if !errors.As(err, &te) {
		text := strings.TrimPrefix(err.Error(), "yaml: ")
		if m := lineOnly.FindStringSubmatch(text); m != nil {
			return fmt.Errorf("%w: %s:%s: %s", ErrInvalid, name, m[1], m[2])
		}
		return fmt.Errorf("%w: %s: %s", ErrInvalid, name, text)
	}
	errs := make([]error, 0, len(te.Errors))
	for _, text := range te.Errors {
		switch {
		case unknownField.MatchString(text):
			m := unknownField.FindStringSubmatch(text)
			errs = append(errs, fmt.Errorf("%w: %s:%s: unknown key %q; see docs/configuration.md", ErrInvalid, name, m[1], m[2]))
		case wrongType.MatchString(text):
			m := wrongType.FindStringSubmatch(text)
			errs = append(errs, fmt.Errorf("%w: %s:%s: want %s here", ErrInvalid, name, m[1], plainType(m[3])))
		default:
			errs = append(errs, fmt.Errorf("%w: %s: %s", ErrInvalid, name, text))
		}
	}
	return errors.Join(errs...)
}

// plainType says a Go type in a user's words.
func plainType(t string) string {
	switch {
	case t == "time.Duration":
		return "a duration such as 500ms or 10s"
	case t == "int":
		return "a whole number"
	case t == "float64":
		return "a number"
	case t == "bool":
		return "true or false"
	case t == "string":
		return "a text"
	case strings.HasPrefix(t, "[]"):
		return "a list"
	default:
		return "a block of keys"
	}
}
