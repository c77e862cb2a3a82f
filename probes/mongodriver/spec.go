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

// How many words (*connection).read and DecompressPayload return.
const (
	readResults   = 7
	unpackResults = 5
)

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
		if cfg.Pools != nil {
			s.Points = append(s.Points, d.waitPoints()...)
		}
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
	p.Lazy[d.pack()] = true
	for _, point := range d.decode() {
		p.Lazy[point] = true
	}
	return nil
}

// pack and decode are the points that see what is compressed and has been decompressed. They
// are attached when there is a message that cannot be read, or counted, without.
func (d driver) pack() string { return d.group + "_pack" }

// decode begins with the ends of what is not decoded; with all of them, nothing ends at read.
func (d driver) decode() []string {
	return []string{d.group + "_read_failed", d.group + "_unpack_failed", d.group + "_decode"}
}

func (d driver) connect() string { return d.group + "_connect" }

func (d driver) read() string { return d.group + "_read" }

// points lists starts before ends: the manager attaches from the last to the first.
func (d driver) points() []probe.Point {
	conn := d.module + "/x/mongo/driver/topology.(*connection)."
	write, read := []string{conn + "writeWireMessage"}, []string{conn + "readWireMessage"}
	transform := []string{d.module + "/x/mongo/driver/topology.transformNetworkError"}
	op, decode := d.module+"/x/mongo/driver.Operation.", d.decode()
	return []probe.Point{
		{Name: d.group + "_write", Program: "mg_write_" + d.group, Group: d.group,
			Site: probe.Site{Kind: probe.CallSite, Funcs: write, Callees: []string{conn + "write"}}},
		{Name: d.read(), Program: "mg_read_" + d.group, Group: d.group,
			Site: probe.Site{Kind: probe.AfterCall, Funcs: read, Callees: []string{conn + "read"}, Results: readResults}},
		{Name: d.group + "_write_failed", Program: "mg_write_failed", Group: d.group, Optional: true,
			Site: probe.Site{Kind: probe.CallSite, Funcs: write, Callees: transform}, Lost: "commands that could not be written"},
		{Name: d.group + "_no_reply", Program: "mg_no_reply", Group: d.group, Optional: true,
			Site: probe.Site{Kind: probe.CallSite, Funcs: []string{d.module + "/x/mongo/driver.(*Operation).moreToComeRoundTrip"},
				Callees: []string{d.module + "/x/bsonx/bsoncore.AppendInt32Element"}},
			Lost: "unacknowledged writes"},
		// Behind the ends that wait for it.
		{Name: decode[0], Program: "mg_write_failed", Group: d.group, Optional: true, Needed: true,
			Site: probe.Site{Kind: probe.CallSite, Funcs: read, Callees: transform}, Lost: "nothing, with one hit more where replies are compressed"},
		{Name: decode[1], Program: "mg_unpack_failed_" + d.group, Group: d.group, Optional: true, Needed: true,
			Site: probe.Site{Kind: probe.OnError, Funcs: []string{op + "decompressWireMessage"},
				Callees: []string{d.module + "/x/mongo/driver.DecompressPayload"}, Results: unpackResults},
			Lost: "nothing, with one hit more where replies are compressed"},
		{Name: decode[2], Program: "mg_decode_" + d.group, Group: d.group, Optional: true,
			Site: probe.Site{Kind: probe.CallSite, Funcs: []string{op + "readWireMessage"}, Callees: []string{op + "decodeResult"}},
			Lost: "outcomes in replies of more than a kilobyte that are compressed with zstd"},
		{Name: d.pack(), Program: "mg_pack", Group: d.group, Optional: true,
			Site: probe.Site{Kind: probe.CallSite, Funcs: []string{d.module + "/x/mongo/driver/topology.(*Connection).CompressWireMessage"},
				Callees: []string{d.module + "/x/mongo/driver.CompressPayload"}},
			Lost: "names of commands of more than a kilobyte that are compressed with zstd"},
		// What is remembered of connections holds as long as this one is there.
		{Name: d.connect(), Program: "mg_connect_" + d.group, Group: d.group, Optional: true, Needed: true,
			Lost: "nothing, with the address read at each command",
			Site: probe.Site{Kind: probe.Entry, Funcs: []string{conn + "connect"}, Args: 1}},
	}
}

// waitPoints are where callers wait for a connection: who gets an idle one does not come there.
func (d driver) waitPoints() []probe.Point {
	checkOut := []string{d.module + "/x/mongo/driver/topology.(*pool).checkOut"}
	sel := []string{"runtime.selectgo"}
	const lost = "how long callers wait for connections"
	return []probe.Point{
		{Name: d.group + "_wait", Program: "mg_wait", Group: d.group, Optional: true, Lost: lost,
			Site: probe.Site{Kind: probe.CallSite, Funcs: checkOut, Callees: sel}},
		{Name: d.group + "_waited", Program: "mg_waited_" + d.group, Group: d.group, Optional: true, Lost: lost,
			Site: probe.Site{Kind: probe.AfterCall, Funcs: checkOut, Callees: sel, Results: 1}},
	}
}

func (cfg Config) attachExe(c *ebpf.Collection, p *probe.Placed) error {
	now, err := probe.KtimeNs()
	if err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	v := cfg.encodeExe(p, now)
	return probe.PutExe(c.Maps["mg_exes"], p.ExeID, &v)
}

// encodeExe makes struct mg_exe. A time is unlike those as of which an entry may have remembered
// something: nothing of what was before is known.
func (cfg Config) encodeExe(p *probe.Placed, now uint64) (v bpfMgExe) {
	for i, d := range drivers {
		v.V[i].Addr, v.V[i].Pool = p.Offset(d.addr()), p.Offset(d.poolFields()[0])
		if p.Groups[d.group] {
			cfg.learnPools(p, d)
		}
		if _, ok := p.Points[d.connect()]; ok {
			v.V[i].MadeNs = now
		}
		setLocs(v.V[i].End[:], p.Points[d.read()])
		decode := d.decode()
		_, readFails := p.Points[decode[0]]
		unpackFails, ok := p.Points[decode[1]]
		setLocs(v.V[i].Out[:], unpackFails)
		if readFails && ok {
			v.V[i].Ends = 1
		}
		chosen := [1]bpfGoLoc{}
		setLocs(chosen[:], p.Points[d.group+"_waited"])
		v.V[i].Chosen = chosen[0]
	}
	return v
}

func setLocs(locs []bpfGoLoc, at goexe.Point) {
	for k := range min(len(locs), len(at.Results)) {
		r := at.Results[k]
		locs[k].Off, locs[k].Reg = r.Off, r.Reg
		if r.Stack {
			locs[k].Stack = 1
		}
	}
}
