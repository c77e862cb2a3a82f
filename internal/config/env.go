package config

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// environment applies the standard variables. An empty variable is unset, as
// the specification says.
func (l *loader) environment(getenv func(string) string) error {
	e := env{l: l, get: getenv}
	c := &l.cfg

	e.boolean("OTEL_SDK_DISABLED", "disabled", &c.Disabled)
	e.resource()
	e.text("OTEL_TRACES_SAMPLER", "sampling.sampler", &c.Sampling.Sampler)
	e.ratio("OTEL_TRACES_SAMPLER_ARG", "sampling.ratio", &c.Sampling.Ratio)
	e.list("OTEL_TRACES_EXPORTER", "exporters", &c.Exporters)

	e.endpoints()
	e.otlp("", &c.OTLP)
	// The variables for one signal are applied last: they overrule the general ones.
	c.MetricsOTLP = c.OTLP
	e.otlp("METRICS_", &c.MetricsOTLP)
	e.otlp("TRACES_", &c.OTLP)
	e.metrics()

	e.milliseconds("OTEL_BSP_SCHEDULE_DELAY", "batch.schedule_delay", &c.Batch.ScheduleDelay)
	e.milliseconds("OTEL_BSP_EXPORT_TIMEOUT", "batch.export_timeout", &c.Batch.ExportTimeout)
	e.integer("OTEL_BSP_MAX_QUEUE_SIZE", "batch.max_queue_size", &c.Batch.MaxQueueSize)
	e.integer("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "batch.max_batch_size", &c.Batch.MaxBatchSize)
	e.text("K8S_NODE_NAME", "kubernetes.node", &c.Kubernetes.Node)
	e.text("OTEL_LOG_LEVEL", "log.level", &c.Log.Level)
	return e.err
}

// env applies variables until one is wrong.
type env struct {
	l   *loader
	get func(string) string
	err error
}

// value returns a variable that is set, and notes where the setting came from.
func (e *env) value(name, path string) (string, bool) {
	if e.err != nil {
		return "", false
	}
	v := strings.TrimSpace(e.get(name))
	if v == "" {
		return "", false
	}
	e.l.source[path] = name
	return v, true
}

func (e *env) fail(name, format string, args ...any) {
	e.err = fmt.Errorf("%w: %s: %s", ErrInvalid, name, fmt.Sprintf(format, args...))
}

func (e *env) text(name, path string, dst *string) {
	if v, ok := e.value(name, path); ok {
		*dst = v
	}
}

func (e *env) list(name, path string, dst *[]string) {
	v, ok := e.value(name, path)
	if !ok {
		return
	}
	*dst = nil
	for item := range strings.SplitSeq(v, ",") {
		if item = strings.TrimSpace(item); item != "" {
			*dst = append(*dst, item)
		}
	}
}

// boolean: the specification knows only "true", anything else is false. A typo
// in a kill switch is better found than ignored, so other words are errors.
func (e *env) boolean(name, path string, dst *bool) {
	v, ok := e.value(name, path)
	if !ok {
		return
	}
	switch strings.ToLower(v) {
	case "true":
		*dst = true
	case "false":
		*dst = false
	default:
		e.fail(name, "%q: want true or false", v)
	}
}

func (e *env) ratio(name, path string, dst *float64) {
	if v, ok := e.value(name, path); ok {
		f, err := strconv.ParseFloat(v, 64)
		if err != nil {
			e.fail(name, "%q: want a number from 0 to 1", v)
			return
		}
		*dst = f
	}
}

func (e *env) integer(name, path string, dst *int) {
	if v, ok := e.value(name, path); ok {
		n, err := strconv.Atoi(v)
		if err != nil {
			e.fail(name, "%q: want a whole number", v)
			return
		}
		*dst = n
	}
}

func (e *env) milliseconds(name, path string, dst *time.Duration) {
	if v, ok := e.value(name, path); ok {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil {
			e.fail(name, "%q: want a whole number of milliseconds", v)
			return
		}
		*dst = time.Duration(n) * time.Millisecond
	}
}

// otlp applies the variables of one signal, or with "" the general ones.
func (e *env) otlp(signal string, o *OTLP) {
	name := func(suffix string) string { return "OTEL_EXPORTER_OTLP_" + signal + suffix }
	e.text(name("PROTOCOL"), "otlp.protocol", &o.Protocol)
	e.text(name("COMPRESSION"), "otlp.compression", &o.Compression)
	e.milliseconds(name("TIMEOUT"), "otlp.timeout", &o.Timeout)
	e.text(name("CERTIFICATE"), "otlp.certificate", &o.Certificate)
	e.text(name("CLIENT_CERTIFICATE"), "otlp.client_certificate", &o.ClientCertificate)
	e.text(name("CLIENT_KEY"), "otlp.client_key", &o.ClientKey)
	e.headers(name("HEADERS"), o)
}

// endpoints: a general endpoint of the environment overrules one for a signal in
// the file.
func (e *env) endpoints() {
	o := &e.l.cfg.OTLP
	if v, ok := e.value("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp.endpoint"); ok {
		o.Endpoint, o.TracesEndpoint, o.MetricsEndpoint = v, "", ""
	}
	e.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "otlp.traces_endpoint", &o.TracesEndpoint)
	e.text("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "otlp.metrics_endpoint", &o.MetricsEndpoint)
}

// headers reads name=value,name=value with percent-encoded values. Values never
// appear in an error.
func (e *env) headers(name string, o *OTLP) {
	v, ok := e.value(name, "otlp.headers")
	if !ok {
		return
	}
	h, err := ParsePairs(v)
	if err != nil {
		e.fail(name, "%v", err)
		return
	}
	o.Headers = h
}

// resource applies OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES; the name in
// the former wins over one in the latter.
func (e *env) resource() {
	s := &e.l.cfg.Service
	if v, ok := e.value("OTEL_RESOURCE_ATTRIBUTES", "service.attributes"); ok {
		pairs, err := ParsePairs(v)
		if err != nil {
			e.fail("OTEL_RESOURCE_ATTRIBUTES", "%v", err)
			return
		}
		if n := pairs["service.name"]; n != "" {
			s.Name = n
			delete(pairs, "service.name")
		}
		s.Attributes = pairs
	}
	e.text("OTEL_SERVICE_NAME", "service.name", &s.Name)
}

// ParsePairs reads the format that OTEL_RESOURCE_ATTRIBUTES and OTLP headers
// share: key=value, comma separated, values percent-encoded. Its error names
// the position and the key, never a value.
func ParsePairs(s string) (map[string]string, error) {
	out := map[string]string{}
	n := 0
	for item := range strings.SplitSeq(s, ",") {
		n++
		if strings.TrimSpace(item) == "" {
			continue
		}
		key, value, ok := strings.Cut(item, "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" {
			return nil, fmt.Errorf("item %d is not of the form key=value; want key1=value1,key2=value2", n)
		}
		decoded, err := url.PathUnescape(strings.TrimSpace(value))
		if err != nil {
			return nil, fmt.Errorf("the value of %q is not percent-encoded as it should be (a lone %% is written %%25)", key)
		}
		out[key] = decoded
	}
	return out, nil
}
