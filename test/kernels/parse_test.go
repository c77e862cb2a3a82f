package kernels

import "testing"

func TestParseStats(t *testing.T) {
	for _, c := range []struct {
		name, log    string
		insns, depth int
		wantErr      bool
	}{
		{name: "one function", insns: 89, depth: 24,
			log: "verification time 9 usec\nstack depth 24\nprocessed 89 insns (limit 1000000)"},
		{name: "several", insns: 517, depth: 48,
			log: "verification time 9 usec\nstack depth 32+48+0\nprocessed 517 insns (limit 1000000)"},
		{name: "Linux 7", insns: 964, depth: 40,
			log: "stack depth max 80\nsubprog 0 (a_b) main insns_self 518 insns_total 964 stack 32\n" +
				"subprog 1 (c) static insns_self 405 insns_total 446 stack 40\nprocessed 964 insns (limit 1)"},
		{name: "no stack", log: "processed 964 insns (limit 1)", wantErr: true},
		{name: "nothing", wantErr: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			insns, depth, err := parseStats(c.log)
			if (err != nil) != c.wantErr || !c.wantErr && (insns != c.insns || depth != c.depth) {
				t.Errorf("%d instructions, %d bytes, %v; want %d, %d, error %v", insns, depth, err, c.insns, c.depth, c.wantErr)
			}
		})
	}
}
