package config

import (
	"errors"
	"maps"
	"math"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

const endpointExample = "http://localhost:4317 or https://otlp.example.com"

// maxPID is the kernel's PID_MAX_LIMIT.
const maxPID = 1 << 22

// validate checks the merged result and makes it canonical; all errors are
// reported at once.
func (l *loader) validate() error {
	otlp := l.validateOTLP(l.cfg.OTLP)
	if otlp == nil { // what they have in common is reported once
		otlp = l.validateOTLP(l.cfg.MetricsOTLP)
	}
	return errors.Join(l.validateSelect(), l.validateSelectors(), l.validateSampling(), l.validateExporters(),
		otlp, l.validateMetrics(), l.validateBatch(), l.validateDiskQueue(), l.validateHealth(), l.validateKubernetes(), l.validatePropagation(), l.validateDatabases(), l.validatePeers(), l.validateLog())
}

// maxCorrelationHeaders is what the kernel side has room for.
const maxCorrelationHeaders = 6

func (l *loader) validateDatabases() error {
	var errs []error
	for key, text := range map[string]string{"mongodb": l.cfg.MongoDB.QueryText, "redis": l.cfg.Redis.QueryText, "sql": l.cfg.SQL.QueryText} {
		if !slices.Contains(queryTexts, text) {
			errs = append(errs, l.invalid(key+".query_text", "%q: want one of %s", text, strings.Join(queryTexts, ", ")))
		}
	}
	return errors.Join(errs...)
}

func (l *loader) validatePropagation() error {
	p := l.cfg.Propagation
	var errs []error
	if !slices.Contains(propagationModes, p.Mode) {
		errs = append(errs, l.invalid("propagation.mode", "%q: want one of %s", p.Mode, strings.Join(propagationModes, ", ")))
	}
	if len(p.CorrelationHeaders) > maxCorrelationHeaders {
		errs = append(errs, l.invalid("propagation.correlation_headers", "%d headers: at most %d", len(p.CorrelationHeaders), maxCorrelationHeaders))
	}
	for _, h := range p.CorrelationHeaders {
		if h == "" || len(h) > 63 || strings.ContainsAny(h, " \t\r\n:,") {
			errs = append(errs, l.invalid("propagation.correlation_headers", "%q: want a header name of 1 to 63 bytes", h))
		}
	}
	return errors.Join(errs...)
}

// Bounds of peers: every call that is not known yet is compared with all of them.
const (
	maxPeers    = 256
	maxPeerText = 253 // the longest host name
)

func (l *loader) validatePeers() error {
	var errs []error
	if n := len(l.cfg.Peers); n > maxPeers {
		errs = append(errs, l.invalid("peers", "%d rules: at most %d", n, maxPeers))
	}
	for _, p := range l.cfg.Peers {
		if _, err := path.Match(p.Host, ""); err != nil || p.Host == "" || len(p.Host) > maxPeerText || strings.ContainsAny(p.Host, "/ \t\r\n") {
			errs = append(errs, l.invalid("peers", "host %q: want a pattern such as *.broker.example, without a port or path", p.Host))
		}
		if p.Name == "" || len(p.Name) > maxPeerText {
			errs = append(errs, l.invalid("peers", "name %q of host %q: want 1 to %d bytes", p.Name, p.Host, maxPeerText))
		}
	}
	return errors.Join(errs...)
}

func (l *loader) validateSelect() error {
	s := l.cfg.Select
	return errors.Join(l.named("select.pids", "select.ports", "select.exes", s.PIDs, s.Ports, s.Exes), l.globs("select.exclude", s.Exclude))
}

// named checks what names processes.
func (l *loader) named(pidsKey, portsKey, exesKey string, pids, ports []int, exes []string) error {
	var errs []error
	for _, pid := range pids {
		if pid < 1 || pid > maxPID {
			errs = append(errs, l.invalid(pidsKey, "pid %d: want 1 to %d", pid, maxPID))
		}
	}
	for _, port := range ports {
		if port < 1 || port > math.MaxUint16 {
			errs = append(errs, l.invalid(portsKey, "port %d: want 1 to %d", port, math.MaxUint16))
		}
	}
	return errors.Join(append(errs, l.globs(exesKey, exes))...)
}

func (l *loader) globs(key string, patterns []string) error {
	for _, p := range patterns {
		if p == "" {
			return l.invalid(key, "empty pattern; want a path or a pattern such as */my-service")
		}
		if _, err := path.Match(p, ""); err != nil {
			return l.invalid(key, "pattern %q: %v; see the syntax of path.Match", p, err)
		}
	}
	return nil
}

func (l *loader) validateSampling() error {
	s := l.cfg.Sampling
	if !slices.Contains(samplers, s.Sampler) {
		return l.invalid("sampling.sampler", "%q: want one of %s", s.Sampler, strings.Join(samplers, ", "))
	}
	// Written so that NaN fails, too.
	if !(s.Ratio >= 0 && s.Ratio <= 1) {
		return l.invalid("sampling.ratio", "%v: want a number from 0 to 1", s.Ratio)
	}
	return nil
}

func (l *loader) validateExporters() error {
	var out []string
	none := false
	for _, name := range l.cfg.Exporters {
		switch name {
		case ExporterOTLP, ExporterConsole, ExporterTree, ExporterJSON:
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		case ExporterNone:
			none = true
		default:
			return l.invalid("exporters", "%q: want one or more of otlp, console, tree, json, or none", name)
		}
	}
	if none && len(out) > 0 {
		return l.invalid("exporters", "none cannot be combined with %s", strings.Join(out, ", "))
	}
	var printers []string
	for _, name := range out {
		if name != ExporterOTLP {
			printers = append(printers, name)
		}
	}
	if len(printers) > 1 {
		return l.invalid("exporters", "%s all write to standard output; choose one", strings.Join(printers, ", "))
	}
	l.cfg.Exporters = out
	return nil
}

func (l *loader) validateOTLP(o OTLP) error {
	var errs []error
	if o.Protocol != ProtocolGRPC && o.Protocol != ProtocolHTTP {
		errs = append(errs, l.invalid("otlp.protocol", "%q: want %s or %s", o.Protocol, ProtocolGRPC, ProtocolHTTP))
	}
	if o.Compression != CompressionGzip && o.Compression != CompressionNone {
		errs = append(errs, l.invalid("otlp.compression", "%q: want %s or %s", o.Compression, CompressionGzip, CompressionNone))
	}
	if o.Timeout <= 0 {
		errs = append(errs, l.invalid("otlp.timeout", "%v: want more than zero", o.Timeout))
	}
	errs = append(errs, l.endpoint("otlp.endpoint", o.Endpoint, o.Protocol),
		l.endpoint("otlp.traces_endpoint", o.TracesEndpoint, o.Protocol),
		l.endpoint("otlp.metrics_endpoint", o.MetricsEndpoint, o.Protocol))
	if (o.ClientCertificate == "") != (o.ClientKey == "") {
		key := "otlp.client_certificate"
		if o.ClientCertificate == "" {
			key = "otlp.client_key"
		}
		errs = append(errs, l.invalid(key, "client certificate and client key go together; the other one is missing"))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Headers)) {
		if !headerName(name) {
			errs = append(errs, l.invalid("otlp.headers", "%q is not a header name", name))
		} else if !headerValue(o.Headers[name]) {
			errs = append(errs, l.invalid("otlp.headers", "the value of %q has characters that a header cannot carry", name))
		}
	}
	return errors.Join(errs...)
}

// endpoint checks a URL without ever repeating a password in it.
func (l *loader) endpoint(key, raw, protocol string) error {
	if raw == "" {
		return nil
	}
	u, err := url.Parse(raw)
	if err == nil && u.User != nil {
		return l.invalid(key, "holds a user name or password; send credentials as a header instead")
	}
	// Nothing of what did not parse is repeated: it may hold a password.
	if err != nil {
		return l.invalid(key, "not a URL; want one such as %s", endpointExample)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return l.invalid(key, "holds a query or a fragment, which OTLP does not send; send credentials as a header instead")
	}
	switch {
	case u.Scheme == "unix" && protocol == ProtocolGRPC && u.Path != "":
	case (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "":
	default:
		return l.invalid(key, "%q: want a URL such as %s", raw, endpointExample)
	}
	return nil
}

// headerName follows the token rule of RFC 9110.
func headerName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// headerValue accepts what both HTTP and gRPC metadata can carry: printable ASCII.
func headerValue(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

const (
	maxQueueSize = 1 << 20
	maxDelay     = time.Hour
)

func (l *loader) validateBatch() error {
	b := &l.cfg.Batch
	var errs []error
	if b.MaxQueueSize < 1 || b.MaxQueueSize > maxQueueSize {
		errs = append(errs, l.invalid("batch.max_queue_size", "%d: want 1 to %d", b.MaxQueueSize, maxQueueSize))
	}
	if b.MaxBatchSize < 1 || b.MaxBatchSize > maxQueueSize {
		errs = append(errs, l.invalid("batch.max_batch_size", "%d: want 1 to %d", b.MaxBatchSize, maxQueueSize))
	}
	if b.ScheduleDelay <= 0 || b.ScheduleDelay > maxDelay {
		errs = append(errs, l.invalid("batch.schedule_delay", "%v: want more than zero, at most %v", b.ScheduleDelay, maxDelay))
	}
	if b.ExportTimeout <= 0 || b.ExportTimeout > maxDelay {
		errs = append(errs, l.invalid("batch.export_timeout", "%v: want more than zero, at most %v", b.ExportTimeout, maxDelay))
	}
	return errors.Join(errs...)
}

// Bounds of the queue on disk: room for one request, and what a host can spare.
const (
	minDiskQueue = 8 << 20
	maxDiskQueue = 1 << 40
)

func (l *loader) validateDiskQueue() error {
	q := l.cfg.DiskQueue
	var errs []error
	if q.Directory != "" && !path.IsAbs(q.Directory) {
		errs = append(errs, l.invalid("disk_queue.directory", "%q: want an absolute path", q.Directory))
	}
	if q.MaxBytes < minDiskQueue || q.MaxBytes > maxDiskQueue {
		errs = append(errs, l.invalid("disk_queue.max_bytes", "%d: want %d to %d", q.MaxBytes, minDiskQueue, maxDiskQueue))
	}
	return errors.Join(errs...)
}

func (l *loader) validateHealth() error {
	a := l.cfg.Health.Address
	if a == "" {
		return nil
	}
	if _, port, err := net.SplitHostPort(a); err != nil || port == "" {
		return l.invalid("health.address", "%q: want host:port such as 127.0.0.1:8461", a)
	}
	return nil
}

func (l *loader) validateKubernetes() error {
	k := l.cfg.Kubernetes
	switch {
	case k.Mode != KubernetesAuto && k.Mode != KubernetesOn && k.Mode != KubernetesOff:
		return l.invalid("kubernetes.mode", "%q: want auto, on or off", k.Mode)
	case k.Mode == KubernetesOn && k.Node == "":
		return l.invalid("kubernetes.node", "empty: want the name of this node, or K8S_NODE_NAME in the environment")
	}
	return nil
}

func (l *loader) validateLog() error {
	var errs []error
	if _, ok := levels[l.cfg.Log.Level]; !ok {
		errs = append(errs, l.invalid("log.level", "%q: want debug, info, warn, error or none", l.cfg.Log.Level))
	}
	if f := l.cfg.Log.Format; f != LogText && f != LogJSON {
		errs = append(errs, l.invalid("log.format", "%q: want %s or %s", f, LogText, LogJSON))
	}
	return errors.Join(errs...)
}
