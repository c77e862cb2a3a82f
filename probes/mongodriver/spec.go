package mongodriver

import (
	_ "embed"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/dbpool"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/offsets"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/probes/wire/mongo"
)

// ID marks this probe's records.
const ID probe.ID = 2

// Name is the probe's name.
const Name = "mongodriver"

//go:embed offsets.json
var offsetsJSON []byte

// Config is what a user may set.
type Config struct {
	// QueryText is how much of a command becomes db.query.text.
	QueryText mongo.TextMode
	// Pools learns of the driver's connection pools; may be nil.
	Pools *dbpool.Registry
}

// driver is one major version of the driver.
type driver struct {
	group, module string
}

var drivers = [2]driver{
	{"v1", "go.mongodb.org/mongo-driver"},
	{"v2", "go.mongodb.org/mongo-driver/v2"},
}

func (d driver) addr() goexe.Field {
	return goexe.Field{Module: d.module, Type: d.module + "/x/mongo/driver/topology.connection", Name: "addr"}
}

// readResults is how many words (*connection).read returns.
const readResults = 7

// New returns the probe.
func New(cfg Config) *probe.Spec {
	s := &probe.Spec{
		ID:       ID,
		Name:     Name,
		Doc:      "the official MongoDB driver, go.mongodb.org/mongo-driver",
		Table:    func() (*offsets.Table, error) { return offsets.Parse(offsetsJSON) },
		Load:     loadBpf,
		InFlight: []probe.InFlight{{Map: "mg_ops", MaxAge: probe.CallMaxAge, Forgotten: "call_forgotten"}},
		Prepare: func(cs *ebpf.CollectionSpec) error {
			if err := cs.Variables["cfg_keep"].Set(uint64(cs.Maps["mg_ops"].MaxEntries / 2)); err != nil {
				return fmt.Errorf("set cfg_keep: %w", err)
			}
			return nil
		},
		AttachExe:  cfg.attachExe,
		NewDecoder: func(env probe.DecoderEnv) probe.Decoder { return newDecoder(env, cfg) },
	}
	for _, d := range drivers {
		s.Points = append(s.Points, d.points()...)
		s.Fields = append(append(s.Fields, d.addr()), d.poolFields()...)
		s.Groups = append(s.Groups, probe.Group{
			Name: d.group, What: "commands of " + d.module,
			Check: func(p *probe.Placed) error { return d.check(p) },
		})
	}
	return s
}

func (d driver) check(p *probe.Placed) error {
	if p.Offset(d.addr()) == probe.OffNone {
		return fmt.Errorf("%w: the offset of %s is not known for this version", probe.ErrRefused, d.addr())
	}
	return nil
}

// points lists starts before ends: the manager attaches from the last to the first.
func (d driver) points() []probe.Point {
	conn := d.module + "/x/mongo/driver/topology.(*connection)."
	write := []string{conn + "writeWireMessage"}
	return []probe.Point{
		{Name: d.group + "_write", Program: "mg_write_" + d.group, Group: d.group,
			Site: probe.Site{Kind: probe.CallSite, Funcs: write, Callees: []string{conn + "write"}}},
		{Name: d.group + "_read", Program: "mg_read_" + d.group, Group: d.group,
			Site: probe.Site{Kind: probe.AfterCall, Funcs: []string{conn + "readWireMessage"},
				Callees: []string{conn + "read"}, Results: readResults}},
		{Name: d.group + "_write_failed", Program: "mg_write_failed", Group: d.group, Optional: true,
			Site: probe.Site{Kind: probe.CallSite, Funcs: write,
				Callees: []string{d.module + "/x/mongo/driver/topology.transformNetworkError"}},
			Lost: "commands that could not be written"},
		{Name: d.group + "_no_reply", Program: "mg_no_reply", Group: d.group, Optional: true,
			Site: probe.Site{Kind: probe.CallSite, Funcs: []string{d.module + "/x/mongo/driver.(*Operation).moreToComeRoundTrip"},
				Callees: []string{d.module + "/x/bsonx/bsoncore.AppendInt32Element"}},
			Lost: "unacknowledged writes"},
	}
}

func (cfg Config) attachExe(c *ebpf.Collection, p *probe.Placed) error {
	var v bpfMgExe
	for i, d := range drivers {
		v.V[i].Addr, v.V[i].Pool = p.Offset(d.addr()), p.Offset(d.poolFields()[0])
		if p.Groups[d.group] {
			cfg.learnPools(p, d)
		}
		for k, r := range p.Points[d.group+"_read"].Results {
			if k >= readResults {
				break
			}
			loc := &v.V[i].End[k]
			loc.Off, loc.Reg = r.Off, r.Reg
			if r.Stack {
				loc.Stack = 1
			}
		}
	}
	return probe.PutExe(c.Maps["mg_exes"], p.ExeID, &v)
}
