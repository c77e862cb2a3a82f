package config

import (
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

// Config is everything a user can set.
type Config struct {
	// Disabled is the kill switch OTEL_SDK_DISABLED: the agent starts, attaches
	// to nothing and exports nothing.
	Disabled bool `yaml:"-"`
	// Enabled: false takes the probes off everything, until it is true again.
	Enabled bool   `yaml:"enabled"`
	Select  Select `yaml:"select"`
	// Instrument and Exclude are selectors with more to say than Select has; a
	// process that one of Exclude fits is left alone.
	Instrument []Selector `yaml:"instrument"`
	Exclude    []Match    `yaml:"exclude"`
	// Probes switches probes by name; those not named are on.
	Probes   map[string]bool `yaml:"probes"`
	Service  Service         `yaml:"service"`
	Sampling Sampling        `yaml:"sampling"`
	// Exporters are some of ExporterOTLP and at most one of
	// ExporterConsole, ExporterTree and ExporterJSON, which print;
	// empty after Load when the user said none.
	Exporters []string `yaml:"exporters"`
	OTLP      OTLP     `yaml:"otlp"`
	// MetricsOTLP is OTLP with what the environment says for metrics in particular.
	MetricsOTLP OTLP       `yaml:"-"`
	Metrics     Metrics    `yaml:"metrics"`
	Batch       Batch      `yaml:"batch"`
	Health      Health     `yaml:"health"`
	Kubernetes  Kubernetes `yaml:"kubernetes"`
	// DiskQueue keeps what OTLP cannot deliver.
	DiskQueue DiskQueue `yaml:"disk_queue"`
	Redact    Redact    `yaml:"redact"`
	// MaxOverhead is the percentage of one CPU that the probes may cost each watched
	// process on average; 0 is no limit.
	MaxOverhead float64 `yaml:"max_overhead"`
	// Propagation is how a trace gets from one service to the next.
	Propagation Propagation `yaml:"propagation"`
	GRPC        GRPC        `yaml:"grpc"`
	Redis       Database    `yaml:"redis"`
	SQL         Database    `yaml:"sql"`
	MongoDB     Database    `yaml:"mongodb"`
	// Peers name the services that are called, by host; the first that fits counts.
	Peers []Peer `yaml:"peers"`
	Log   Log    `yaml:"log"`
}

// Peer is the name of the service behind hosts.
type Peer struct {
	// Host is a glob pattern over the host of a call, without its port.
	Host string `yaml:"host"`
	Name string `yaml:"name"`
}

// PeerName returns the name of the service at a host, "" if no rule fits.
func (c *Config) PeerName(host string) string {
	host = strings.ToLower(host)
	for _, p := range c.Peers {
		if ok, err := path.Match(strings.ToLower(p.Host), host); err == nil && ok {
			return p.Name
		}
	}
	return ""
}

// Names of exporters.
const (
	ExporterOTLP    = "otlp"
	ExporterConsole = "console"
	ExporterTree    = "tree"
	ExporterJSON    = "json"
	ExporterNone    = "none"

	ExporterPrometheus = "prometheus" // of metrics only
)

// Select says which processes are watched. A process is watched when any of
// PIDs, Exes, Ports or AllGo names it and Exclude does not.
type Select struct {
	PIDs []int `yaml:"pids"`
	// Exes are glob patterns over the executable's path; a pattern without a
	// slash is matched against the file name.
	Exes  []string `yaml:"exes"`
	Ports []int    `yaml:"ports"`
	AllGo bool     `yaml:"all_go"`
	// Exclude are glob patterns like Exes.
	Exclude []string `yaml:"exclude"`
	// Exporting: watch also programs that export spans of their own, and collectors.
	// A pid that is named is watched in any case.
	Exporting bool `yaml:"exporting"`
}

// Empty says that nothing is selected.
func (s Select) Empty() bool { return len(s.PIDs) == 0 && s.onlyPIDs() }

func (s Select) onlyPIDs() bool { return len(s.Exes) == 0 && len(s.Ports) == 0 && !s.AllGo }

// SelectsNothing says that no process can ever be watched.
func (c *Config) SelectsNothing() bool { return c.Select.Empty() && len(c.Instrument) == 0 }

// OnlyPIDs says that nothing but certain pids is asked for.
func (c *Config) OnlyPIDs() bool {
	return c.Select.onlyPIDs() && !slices.ContainsFunc(c.Instrument, func(s Selector) bool { return len(s.PIDs) == 0 })
}

// Service describes watched processes that do not describe themselves.
type Service struct {
	Name       string            `yaml:"name"`
	Attributes map[string]string `yaml:"attributes"`
}

// Sampling is the head sampler, applied in the kernel.
type Sampling struct {
	Sampler string  `yaml:"sampler"`
	Ratio   float64 `yaml:"ratio"`
}

// Names of samplers.
const (
	AlwaysOn           = "always_on"
	AlwaysOff          = "always_off"
	TraceIDRatio       = "traceidratio"
	ParentBasedOn      = "parentbased_always_on"
	ParentBasedOff     = "parentbased_always_off"
	ParentBasedIDRatio = "parentbased_traceidratio"
)

var samplers = []string{AlwaysOn, AlwaysOff, TraceIDRatio, ParentBasedOn, ParentBasedOff, ParentBasedIDRatio}

// ParentBased says that a caller's decision is followed where there is one.
func (s Sampling) ParentBased() bool { return strings.HasPrefix(s.Sampler, "parentbased_") }

// RootRatio is the share of traces to record, 0 to 1, where no caller decided.
func (s Sampling) RootRatio() float64 {
	switch s.Sampler {
	case AlwaysOff, ParentBasedOff:
		return 0
	case TraceIDRatio, ParentBasedIDRatio:
		return s.Ratio
	default:
		return 1
	}
}

// OTLP says where and how spans are sent.
type OTLP struct {
	// Endpoint is a base URL: for http/protobuf, v1/traces is appended.
	Endpoint string `yaml:"endpoint"`
	// TracesEndpoint overrules Endpoint and is used as it is.
	TracesEndpoint string `yaml:"traces_endpoint"`
	// MetricsEndpoint is the same for metrics.
	MetricsEndpoint string `yaml:"metrics_endpoint"`
	// Protocol is ProtocolGRPC or ProtocolHTTP.
	Protocol    string        `yaml:"protocol"`
	Headers     Headers       `yaml:"headers"`
	Compression string        `yaml:"compression"`
	Timeout     time.Duration `yaml:"timeout"`
	// Certificate is a PEM file with the authorities to trust instead of the
	// host's; ClientCertificate and ClientKey are for mutual TLS.
	Certificate       string `yaml:"certificate"`
	ClientCertificate string `yaml:"client_certificate"`
	ClientKey         string `yaml:"client_key"`
}

// Values of OTLP.Protocol and OTLP.Compression.
const (
	ProtocolGRPC = "grpc"
	ProtocolHTTP = "http/protobuf"

	CompressionGzip = "gzip"
	CompressionNone = "none"
)

// TracesURL is the full URL that spans are sent to.
func (o OTLP) TracesURL() (*url.URL, error) { return o.signalURL(o.TracesEndpoint, "v1/traces") }

// MetricsURL is the full URL that metrics are sent to.
func (o OTLP) MetricsURL() (*url.URL, error) { return o.signalURL(o.MetricsEndpoint, "v1/metrics") }

func (o OTLP) signalURL(own, path string) (*url.URL, error) {
	raw := own
	if raw == "" {
		raw = o.Endpoint
	}
	u, err := url.Parse(raw)
	if err != nil {
		// url.Error repeats the whole value, which may hold a password.
		return nil, fmt.Errorf("OTLP endpoint is not a URL; want one such as %s", endpointExample)
	}
	if own == "" && o.Protocol == ProtocolHTTP {
		u = u.JoinPath(path)
	}
	return u, nil
}

// Headers are sent with every request. Their values are secret: they are
// redacted wherever a Headers is printed.
type Headers map[string]string

const redacted = "REDACTED"

// String lists the names only.
func (h Headers) String() string {
	var b strings.Builder
	for i, name := range slices.Sorted(maps.Keys(h)) {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(name + "=" + redacted)
	}
	return "[" + b.String() + "]"
}

// GoString implements fmt.GoStringer, for %#v.
func (h Headers) GoString() string { return "config.Headers" + h.String() }

// LogValue implements slog.LogValuer.
func (h Headers) LogValue() slog.Value { return slog.StringValue(h.String()) }

// MarshalText covers encoding/json and others that know it.
func (h Headers) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// MarshalYAML covers the YAML package.
func (h Headers) MarshalYAML() (any, error) { return h.String(), nil }

// Secrets are the values that must not show anywhere but in the requests they are for:
// header values, and their words ("Bearer abc").
func (c *Config) Secrets() (out []string) {
	for _, h := range []Headers{c.OTLP.Headers, c.MetricsOTLP.Headers} {
		for _, v := range h {
			out = append(out, v)
			if words := strings.Fields(v); len(words) > 1 {
				out = append(out, words...)
			}
		}
	}
	return out
}

// Batch bounds what waits between the decoders and an exporter.
type Batch struct {
	ScheduleDelay time.Duration `yaml:"schedule_delay"`
	ExportTimeout time.Duration `yaml:"export_timeout"`
	MaxQueueSize  int           `yaml:"max_queue_size"`
	MaxBatchSize  int           `yaml:"max_batch_size"`
}

// Health is the page that says how the agent is.
type Health struct {
	// Address is host:port to listen on, loopback unless said otherwise; empty: nowhere.
	Address string `yaml:"address"`
}

// Kubernetes says whether pods are looked up at the API server.
type Kubernetes struct {
	// Mode is one of the Kubernetes constants.
	Mode string `yaml:"mode"`
	// Node is the name of the node that the agent runs on.
	Node string `yaml:"node"`
}

// Values of Kubernetes.Mode.
const (
	KubernetesAuto = "auto" // in a pod that knows its node's name
	KubernetesOn   = "on"
	KubernetesOff  = "off"
)

// DiskQueue holds spans on disk while their destination is down, and over a restart.
type DiskQueue struct {
	// Directory belongs to one agent; empty: nothing is kept on disk.
	Directory string `yaml:"directory"`
	// MaxBytes bounds what is kept; when it is full, the oldest goes.
	MaxBytes int64 `yaml:"max_bytes"`
}

// Propagation says how the trace id gets to the next service.
type Propagation struct {
	// Mode is one of the Propagate constants.
	Mode string `yaml:"mode"`
	// CorrelationHeaders are request headers recorded on both sides.
	CorrelationHeaders []string `yaml:"correlation_headers"`
}

// Values of Propagation.Mode.
const (
	PropagateAuto   = "auto"   // memory where the kernel allows it, else join
	PropagateMemory = "memory" // the header written into the program's buffer; join for what is not
	PropagateJoin   = "join"   // by connection, when both ends are watched here
	PropagateKernel = "kernel" // join, and a header pushed into plaintext HTTP/1 by the kernel
	PropagateOff    = "off"
)

// PropagationModes are the modes in force, each once.
func (c *Config) PropagationModes() []string {
	modes := []string{c.Propagation.Mode}
	for _, i := range c.Instrument {
		if m := i.Propagation.Mode; m != "" && !slices.Contains(modes, m) {
			modes = append(modes, m)
		}
	}
	return modes
}

var propagationModes = []string{PropagateAuto, PropagateMemory, PropagateJoin, PropagateKernel, PropagateOff}

// Redact adds to the built-in list of secrets.
type Redact struct {
	// QueryNames are further names of query parameters whose values are secret.
	QueryNames []string `yaml:"query_names"`
}

// GRPC is what spans of gRPC hold.
type GRPC struct {
	// StatusMessages: a failed RPC's status message becomes the span's description.
	StatusMessages bool `yaml:"status_messages"`
}

// Database is what spans of one kind of database hold.
type Database struct {
	// QueryText is one of the QueryText constants.
	QueryText string `yaml:"query_text"`
}

// Values of Database.QueryText.
const (
	QueryTextOff   = "off"
	QueryTextShape = "shape" // every value replaced by ?
	QueryTextFull  = "full"
)

var queryTexts = []string{QueryTextOff, QueryTextShape, QueryTextFull}

// Log is about the agent's own log, on standard error.
type Log struct {
	// Level is one of debug, info, warn, error, none.
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// Values of Log.Format.
const (
	LogText = "text"
	LogJSON = "json"
)

// levelNone is above every level that is used.
const levelNone = slog.Level(100)

var levels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn,
	"error": slog.LevelError, "none": levelNone,
}

// SlogLevel is the level as slog knows it.
func (l Log) SlogLevel() slog.Level { return levels[l.Level] }

// Default is what holds when nobody says anything else.
func Default() Config {
	otlp := OTLP{Compression: CompressionNone, Timeout: 10 * time.Second}
	return Config{
		Enabled:     true,
		Sampling:    Sampling{Sampler: ParentBasedOn, Ratio: 1},
		OTLP:        otlp,
		MetricsOTLP: otlp,
		Batch: Batch{
			ScheduleDelay: time.Second, ExportTimeout: 30 * time.Second,
			MaxQueueSize: 8192, MaxBatchSize: 512,
		},
		Kubernetes:  Kubernetes{Mode: KubernetesAuto},
		Health:      Health{Address: "127.0.0.1:8461"},
		DiskQueue:   DiskQueue{MaxBytes: 256 << 20},
		Metrics:     DefaultMetrics(),
		MaxOverhead: 5,
		Propagation: Propagation{
			Mode: PropagateAuto, CorrelationHeaders: []string{"X-Correlation-ID", "X-Request-ID"},
		},
		Redis:   Database{QueryText: QueryTextShape},
		SQL:     Database{QueryText: QueryTextShape},
		MongoDB: Database{QueryText: QueryTextShape},
		Log:     Log{Level: "info", Format: LogText},
	}
}
