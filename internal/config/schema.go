package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/invopop/jsonschema"
)

// SchemaID is where the schema of the configuration file is published.
const SchemaID = "https://github.com/tracer-agent/tracer-agent/config.schema.json"

// allowed are the values of settings that are one of a few words, by block and key.
var allowed = map[string]map[string][]string{
	"Sampling":    {"sampler": samplers},
	"OTLP":        {"protocol": {ProtocolGRPC, ProtocolHTTP}, "compression": {CompressionGzip, CompressionNone}},
	"Metrics":     {"temporality": {TemporalityCumulative, TemporalityDelta, TemporalityLowMemory}, "histogram": {HistogramExplicit, HistogramExponential}},
	"Propagation": {"mode": propagationModes},
	"Selector":    {"propagation": propagationModes},
	"Kubernetes":  {"mode": {KubernetesAuto, KubernetesOn, KubernetesOff}},
	"Database":    {"query_text": queryTexts},
	"Log":         {"level": {"debug", "info", "warn", "error", "none"}, "format": {LogText, LogJSON}},
}

// Schema is the JSON schema of the configuration file, made from the structs that it is
// read into; probes are the names of those that can be switched.
func Schema(probes []string) ([]byte, error) {
	r := &jsonschema.Reflector{
		FieldNameTag: "yaml", Anonymous: true, RequiredFromJSONSchemaTags: true, ExpandedStruct: true,
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			if t == reflect.TypeFor[time.Duration]() {
				return &jsonschema.Schema{Type: "string", Pattern: `^([0-9.]+(ns|us|µs|ms|s|m|h))+$`, Description: "a duration such as 500ms or 10s"}
			}
			return nil
		},
	}
	s := r.Reflect(&Config{})
	s.ID, s.Title = SchemaID, "tracer-agent configuration"
	for block, keys := range allowed {
		for key, words := range keys {
			p, ok := s.Definitions[block].Properties.Get(key)
			if !ok {
				return nil, fmt.Errorf("schema of the configuration: no key %s in %s", key, block)
			}
			for _, w := range words {
				p.Enum = append(p.Enum, w)
			}
		}
	}
	switches := &jsonschema.Schema{Type: "object", AdditionalProperties: jsonschema.FalseSchema, Properties: jsonschema.NewProperties()}
	for _, name := range probes {
		switches.Properties.Set(name, &jsonschema.Schema{Type: "boolean"})
	}
	s.Properties.Set("probes", switches)
	s.Definitions["Selector"].Properties.Set("probes", switches)
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("schema of the configuration: %w", err)
	}
	return append(data, '\n'), nil
}
