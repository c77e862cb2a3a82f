package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrInvalid is wrapped by every error about a setting.
var ErrInvalid = errors.New("invalid configuration")

// Flags are what the command line overrules; a zero field says nothing.
type Flags struct {
	PIDs        []int
	Exes        []string
	Ports       []int
	AllGo       bool
	Exclude     []string
	ServiceName string
	Exporters   []string
	Endpoint    string
	LogLevel    string
	LogFormat   string
	Propagation string
	MaxOverhead *float64 // nil: not given
}

// LoadOptions are the sources of a configuration.
type LoadOptions struct {
	// File is the path of the YAML file; empty for none.
	File string
	// Getenv is os.Getenv, or a test's own.
	Getenv func(string) string
	Flags  Flags
	// Probes are the names of probes that there are; empty: any name will do.
	Probes []string
}

// loader collects a Config and remembers who set what, for the error texts.
type loader struct {
	cfg    Config
	source map[string]string // setting, by its path in the file -> who set it

	probeNames []string
}

// Load reads all sources. Its errors wrap ErrInvalid, or say why the file
// cannot be read.
func Load(o LoadOptions) (Config, error) {
	l := &loader{cfg: Default(), source: map[string]string{}, probeNames: o.Probes}
	if o.File != "" {
		if err := l.file(o.File); err != nil {
			return Config{}, err
		}
	}
	l.cfg.MetricsOTLP = l.cfg.OTLP
	if o.Getenv != nil {
		if err := l.environment(o.Getenv); err != nil {
			return Config{}, err
		}
	}
	l.flags(o.Flags)
	l.resolve()
	if err := l.validate(); err != nil {
		return Config{}, err
	}
	return l.cfg, nil
}

// flags applies the command line.
func (l *loader) flags(f Flags) {
	list(l, "select.pids", "--pid", &l.cfg.Select.PIDs, f.PIDs)
	list(l, "select.exes", "--exe", &l.cfg.Select.Exes, f.Exes)
	list(l, "select.ports", "--port", &l.cfg.Select.Ports, f.Ports)
	list(l, "select.exclude", "--exclude", &l.cfg.Select.Exclude, f.Exclude)
	list(l, "exporters", "--exporter", &l.cfg.Exporters, f.Exporters)
	if f.AllGo {
		l.cfg.Select.AllGo = true
	}
	if f.Endpoint != "" {
		// The flag means "send it there", whatever the environment says about
		// one signal in particular.
		l.cfg.OTLP.TracesEndpoint = ""
		l.cfg.MetricsOTLP.Endpoint, l.cfg.MetricsOTLP.MetricsEndpoint = f.Endpoint, ""
	}
	l.text("service.name", "--service-name", &l.cfg.Service.Name, f.ServiceName)
	if f.MaxOverhead != nil {
		l.cfg.MaxOverhead = *f.MaxOverhead
		l.source["max_overhead"] = "--max-overhead"
	}
	l.text("propagation.mode", "--propagation", &l.cfg.Propagation.Mode, f.Propagation)
	l.text("otlp.endpoint", "--endpoint", &l.cfg.OTLP.Endpoint, f.Endpoint)
	l.text("log.level", "--log-level", &l.cfg.Log.Level, f.LogLevel)
	l.text("log.format", "--log-format", &l.cfg.Log.Format, f.LogFormat)
}

func list[T any](l *loader, path, source string, dst *[]T, v []T) {
	if len(v) > 0 {
		*dst = v
		l.source[path] = source
	}
}

func (l *loader) text(path, source string, dst *string, v string) {
	if v != "" {
		*dst = v
		l.source[path] = source
	}
}

// resolve fills in what depends on other settings.
func (l *loader) resolve() {
	c := &l.cfg
	if len(c.Exporters) == 0 {
		if c.OTLP.Endpoint != "" || c.OTLP.TracesEndpoint != "" {
			c.Exporters = []string{ExporterOTLP}
		} else {
			c.Exporters = []string{ExporterConsole}
		}
	}
	endpoint := c.OTLP.TracesEndpoint
	if endpoint == "" {
		endpoint = c.OTLP.Endpoint
	}
	if c.OTLP.Protocol == "" {
		c.OTLP.Protocol = protocolOf(endpoint)
	}
	if endpoint == "" && slices.Contains(c.Exporters, ExporterOTLP) {
		c.OTLP.Endpoint = localEndpoint(c.OTLP.Protocol)
	}
	l.resolveMetrics()
}

// protocolOf guesses: the specification's default is http/protobuf; 4317 is the port
// of the other one, and guessing wrong there only ever fails.
func protocolOf(endpoint string) string {
	if strings.HasSuffix(strings.TrimRight(endpoint, "/"), ":4317") || strings.HasPrefix(endpoint, "unix:") {
		return ProtocolGRPC
	}
	return ProtocolHTTP
}

func localEndpoint(protocol string) string {
	if protocol == ProtocolGRPC {
		return "http://localhost:4317"
	}
	return "http://localhost:4318"
}

// invalid is an error about one setting.
func (l *loader) invalid(path string, format string, args ...any) error {
	where := path
	if s := l.source[path]; s != "" && s != path {
		where = s
	}
	return fmt.Errorf("%w: %s: %s", ErrInvalid, where, fmt.Sprintf(format, args...))
}
