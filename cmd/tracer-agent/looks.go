package main

import (
	"log/slog"
	"sync"

	"github.com/tracer-agent/tracer-agent/internal/httpbody"
	"github.com/tracer-agent/tracer-agent/internal/metricrules"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
)

// looks is what rules of metrics look at that operations have only then.
type looks struct {
	bodies  httpbody.Fields
	answers []string // response headers
	unseen  func(probe, what string)
}

// looksOf says what rules look at, and counts what of it cannot be had.
func looksOf(rules *metricrules.Set, self *selfmetrics.Registry, log *slog.Logger) looks {
	l := looks{bodies: httpbody.Fields{Missed: missedBodies(self)}, answers: rules.ResponseHeaders()}
	l.bodies.Request, l.bodies.Response = rules.BodyFields()
	if len(l.bodies.Request)+len(l.bodies.Response)+len(l.answers) == 0 {
		return l
	}
	var said sync.Map
	l.unseen = func(probe, what string) {
		self.Counter("tracer_agent_metric_rule_unseen_total", selfmetrics.L("probe", probe), selfmetrics.L("what", what)).Inc()
		if _, again := said.LoadOrStore([2]string{probe, what}, true); !again {
			log.Warn("rules of metrics look at what is not seen of some operations", "probe", probe, "what", what)
		}
	}
	return l
}

// unseenBy is what a probe is given; nil when no rule looks at anything.
func (l looks) unseenBy(probe string) func(what string) {
	if l.unseen == nil {
		return nil
	}
	return func(what string) { l.unseen(probe, what) }
}

// missedBodies counts bodies that rules ask for and that could not be looked at.
func missedBodies(self *selfmetrics.Registry) func(body, reason string) {
	const name = "tracer_agent_http_body_misses_total"
	return func(body, reason string) {
		self.Counter(name, selfmetrics.L("body", body), selfmetrics.L("reason", reason)).Inc()
	}
}
