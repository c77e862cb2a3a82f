package metricrules

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/expr-lang/expr/vm"
	"go.opentelemetry.io/otel/attribute"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Bounds of what a configuration may ask for: every operation is tried with every rule.
const (
	MaxRules      = 64
	maxAttributes = 8
	maxText       = 1024 // of one expression
	maxBuckets    = 64
)

// Rule is one metric as the configuration has it.
type Rule struct {
	Name        string `yaml:"name"`
	Kind        string `yaml:"kind"` // counter, gauge, histogram
	Unit        string `yaml:"unit"`
	Description string `yaml:"description"`
	// When says which operations count; empty is all of them.
	When string `yaml:"when"`
	// Value is what is measured; a counter's is 1 when it is empty.
	Value string `yaml:"value"`
	// Attributes are expressions by the attribute they become.
	Attributes map[string]string `yaml:"attributes"`
	// Buckets are the boundaries of an explicit histogram.
	Buckets []float64 `yaml:"buckets"`
}

var kinds = map[string]telemetry.InstrumentKind{
	"counter": telemetry.Counter, "gauge": telemetry.Gauge, "histogram": telemetry.Histogram,
}

// Names as the metrics API allows them, and those of attributes.
var (
	metricName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_./-]{0,254}$`)
	attrName   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,127}$`)
)

// reserved begin the names of the agent's own metrics.
var reserved = []string{
	"http.", "db.", "rpc.", "messaging.", "process.", "container.", "system.", "go.", "apdex", "target",
	"tracer_agent",
}

// compiled is a rule ready to be used.
type compiled struct {
	rule        Rule
	inst        *telemetry.Instrument
	when, value *vm.Program // nil: always, 1
	keys        []attribute.Key
	attrs       []*vm.Program
}

// Set is all rules, compiled. The zero Set has none.
type Set struct {
	rules []compiled
	uses  uses
}

// Compile checks and compiles rules; every error names its rule. isSecret says of a name
// in a JSON body whether its value must not leave the host.
func Compile(rules []Rule, isSecret func(name string) bool) (*Set, error) {
	if len(rules) > MaxRules {
		return nil, fmt.Errorf("%d rules: at most %d", len(rules), MaxRules)
	}
	s := &Set{uses: newUses()}
	instruments := map[string]*telemetry.Instrument{}
	var errs []error
	for i, r := range rules {
		c, err := s.compile(r)
		if err == nil {
			err = c.share(instruments)
		}
		if err == nil {
			err = secret(s.uses.body, isSecret)
		}
		s.uses.body = nil
		if err != nil {
			errs = append(errs, fmt.Errorf("rule %d (%q): %w", i+1, r.Name, err))
			continue
		}
		s.rules = append(s.rules, c)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return s, nil
}

// secret refuses fields whose names say that they are secrets: what a rule measures leaves
// the host.
func secret(paths []string, isSecret func(name string) bool) error {
	for _, path := range paths {
		if slices.ContainsFunc(strings.Split(path, "."), isSecret) {
			return fmt.Errorf("%q of a body or response has the name of a secret: see redact.query_names", path)
		}
	}
	return nil
}

// Len is the number of rules.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.rules)
}

func (s *Set) compile(r Rule) (compiled, error) {
	c := compiled{rule: r}
	if err := r.check(); err != nil {
		return c, err
	}
	c.inst = &telemetry.Instrument{Name: r.Name, Unit: r.Unit, Description: r.Description, Kind: kinds[r.Kind]}
	if c.inst.Kind == telemetry.Histogram {
		if c.inst.Bounds = r.Buckets; len(r.Buckets) == 0 {
			c.inst.Bounds = defaultBounds(r.Unit)
		}
	}
	var err error
	if r.When != "" {
		if c.when, err = s.program(r.When, asBool); err != nil {
			return c, fmt.Errorf("when: %w", err)
		}
	}
	if r.Value != "" {
		if c.value, err = s.program(r.Value, asNumber); err != nil {
			return c, fmt.Errorf("value: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Attributes)) {
		p, err := s.program(r.Attributes[name], asAny)
		if err != nil {
			return c, fmt.Errorf("attribute %s: %w", name, err)
		}
		c.keys, c.attrs = append(c.keys, attribute.Key(name)), append(c.attrs, p)
	}
	return c, nil
}

// defaultBounds are for durations in seconds, else for numbers of any size.
func defaultBounds(unit string) []float64 {
	if unit == "s" {
		return telemetry.DurationBounds
	}
	return []float64{0, 1, 5, 10, 50, 100, 500, 1e3, 5e3, 1e4, 1e5, 1e6, 1e7}
}

// check looks at what needs no compiler.
func (r Rule) check() error {
	kind, known := kinds[r.Kind]
	switch {
	case !metricName.MatchString(r.Name):
		return errors.New("name: want a letter, then letters, digits and _ . / -, at most 255")
	case !known:
		return fmt.Errorf("kind %q: want counter, gauge or histogram", r.Kind)
	case r.Value == "" && kind != telemetry.Counter:
		return fmt.Errorf("value: a %s needs one, for example duration", r.Kind)
	case len(r.Unit) > 63:
		return errors.New("unit: longer than 63 bytes")
	case len(r.Description) > maxText:
		return fmt.Errorf("description: longer than %d bytes", maxText)
	case len(r.Attributes) > maxAttributes:
		return fmt.Errorf("%d attributes: at most %d", len(r.Attributes), maxAttributes)
	case len(r.Buckets) > maxBuckets:
		return fmt.Errorf("%d buckets: at most %d", len(r.Buckets), maxBuckets)
	case len(r.Buckets) > 0 && kind != telemetry.Histogram:
		return errors.New("buckets: only a histogram has them")
	case !ascending(r.Buckets):
		return errors.New("buckets: want ascending numbers")
	}
	for _, prefix := range reserved {
		if strings.HasPrefix(strings.ToLower(r.Name), prefix) {
			return fmt.Errorf("name: %q begins the names of the agent's own metrics", prefix)
		}
	}
	for name := range r.Attributes {
		if !attrName.MatchString(name) {
			return fmt.Errorf("attribute %q: want a letter, then letters, digits and _ . -, at most 128", name)
		}
	}
	return nil
}

func ascending(bounds []float64) bool {
	for i, b := range bounds {
		if b != b || i > 0 && b <= bounds[i-1] {
			return false
		}
	}
	return true
}

// share lets rules of one name add to one metric, which they must then agree about.
func (c *compiled) share(instruments map[string]*telemetry.Instrument) error {
	// Prometheus knows no letter case in what is a . or a _.
	name := strings.ToLower(c.inst.Name)
	old := instruments[name]
	switch {
	case old == nil:
		instruments[name] = c.inst
	case old.Name != c.inst.Name || old.Kind != c.inst.Kind || old.Unit != c.inst.Unit || !slices.Equal(old.Bounds, c.inst.Bounds):
		return errors.New("an earlier rule has the same name and another kind, unit, spelling or other buckets")
	default:
		c.inst = old
	}
	return nil
}
