package policy

import (
	"fmt"
	"strings"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
)

// collectorModules make a program an OpenTelemetry Collector, whoever built it.
var collectorModules = []string{"go.opentelemetry.io/collector/otelcol", "go.opentelemetry.io/collector/service"}

// exporterModules are exporters of spans by OTLP of the OpenTelemetry SDK. The linker
// lists a module only when a package of it is in the program.
var exporterModules = []string{
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace",
	"go.opentelemetry.io/otel/exporters/otlp", // before 1.0
}

// Exports says why a program is better left alone: it sends spans of its own, which
// the agent's would double, or it is what spans are sent through. Nil if neither.
func Exports(exe *goexe.Exe) error {
	if strings.HasPrefix(exe.MainPath(), "go.opentelemetry.io/collector/") {
		return fmt.Errorf("an OpenTelemetry Collector; %s", anyway)
	}
	for _, m := range collectorModules {
		if _, ok := exe.Module(m); ok {
			return fmt.Errorf("an OpenTelemetry Collector, it holds %s; %s", m, anyway)
		}
	}
	for _, m := range exporterModules {
		if v, ok := exe.Module(m); ok {
			return fmt.Errorf("it can export spans of its own, with %s %s; %s", m, v, anyway)
		}
	}
	return nil
}

const anyway = "select.exporting: true or --pid watches it all the same"
