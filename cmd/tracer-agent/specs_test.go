package main

import (
	"slices"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/httpbody"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// TestGroupsHavePoints: no group is shown that nothing would be attached for, and no point is in
// a group that there is not, with rules that look at bodies and without.
func TestGroupsHavePoints(t *testing.T) {
	points := map[bool]int{}
	for _, rules := range []bool{false, true} {
		var asked looks
		if rules {
			asked.bodies = httpbody.Fields{Request: []string{"a"}, Response: []string{"a"}}
		}
		list, err := specs(config.Default(), false, asked, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			points[rules] += len(s.Points)
			for _, g := range s.Groups {
				if !slices.ContainsFunc(s.Points, func(p probe.Point) bool { return p.Group == g.Name }) {
					t.Errorf("%s: group %s has no point (rules: %t)", s.Name, g.Name, rules)
				}
			}
			for _, p := range s.Points {
				if !slices.ContainsFunc(s.Groups, func(g probe.Group) bool { return p.Group == g.Name }) {
					t.Errorf("%s: point %s is in no group (rules: %t)", s.Name, p.Name, rules)
				}
			}
		}
	}
	if points[true] != points[false]+2 {
		t.Errorf("%d points without rules, %d with: want two more, for HTTP/2", points[false], points[true])
	}
}
