package redis

import (
	"structs"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/offsets"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// redigoErrType is the type of a server's error reply in redigo.
const redigoErrType = "*redis.Error"

func (cfg Config) attachExe(c *ebpf.Collection, p *probe.Placed) error {
	for _, path := range []string{pathV8, pathV9} {
		if _, ok := p.Exe.Module(path); ok {
			cfg.learnPools(p, path)
		}
	}
	if p.Groups[groupRgPools] {
		cfg.learnRedigo(p)
	}
	return probe.PutExe(c.Maps["rd_exes"], p.ExeID, encodeExe(p))
}

// encodeExe builds struct rd_exe.
func encodeExe(p *probe.Placed) *bpfRdExe {
	v := &bpfRdExe{}
	for lib, path := range map[bpfRdLib]string{bpfRdLibLIB_V8: pathV8, bpfRdLibLIB_V9: pathV9} {
		l := &v.Lib[lib]
		f := clientFields(path)
		l.Opt, l.OptAddr, l.OptDb, l.OptRetries = p.Offset(f[0]), p.Offset(f[1]), p.Offset(f[2]), p.Offset(f[3])
		l.CmdArgs, l.CmdErr = p.Offset(f[4]), p.Offset(f[5])
		l.ConnPool = p.Offset(poolFields(path)[0])
	}
	v8, v9, rg := &v.Lib[bpfRdLibLIB_V8], &v.Lib[bpfRdLibLIB_V9], &v.Lib[bpfRdLibLIB_REDIGO]
	setLocs(v8.End[:], p.Points["v8_end"], 0, 1, 2)
	setLocs(v8.BatchEnd[0][:], p.Points["v8_batch_end"], 0, 1)

	version, _ := p.Exe.Module(pathV9)
	e := errWord(version)
	setLocs(v9.End[:], p.Points["v9_end"], 0, e, e+1)
	setLocs(v9.BatchEnd[0][:], p.Points["v9_batch_end"], 0, 1)
	setLocs(v9.BatchEnd[1][:], p.Points["v9_tx_end"], 0, 1)

	f := redigoFields()
	rg.ConnPending, rg.ConnErr, rg.ConnNet = p.Offset(f[0]), p.Offset(f[1]), p.Offset(redigoConn)
	setLocs(rg.Reply[0][:], p.Points["redigo_reply"], 0, 1, 2, 3)
	setLocs(rg.Reply[1][:], p.Points["redigo_reply_2"], 0, 1, 2, 3)
	const tcp, tls = "*net.TCPConn", "*tls.Conn"
	if names, err := p.Exe.TypeNameOffsets([]string{redigoErrType, tcp, tls}); err == nil {
		rg.ErrName = probe.OnlyName(names[redigoErrType]) // else errors of the server's are not told from other replies
		rg.TcpName, rg.TlsName = probe.OnlyName(names[tcp]), probe.OnlyName(names[tls])
	}
	if !setPeer(v, p) {
		rg.TcpName = 0
	}
	return v
}

// setPeer says how a connection leads to its addresses; false if that is not known.
func setPeer(v *bpfRdExe, p *probe.Placed) bool {
	rg, f := &v.Lib[bpfRdLibLIB_REDIGO], peerFields()
	if p.Need(f, "") != nil {
		return false
	}
	const data = 8 // of an interface
	rg.TlsConn, rg.ConnFd = p.Offset(f[0]), p.Offset(f[1])+p.Offset(f[2])
	rg.FdLaddr, rg.FdRaddr = p.Offset(f[3])+data, p.Offset(f[4])+data
	rg.AddrIp, rg.AddrPort = p.Offset(f[5]), p.Offset(f[6])
	return true
}

// errWord is which of the result words of go-redis's _process is the error's first:
// (retry bool, error) up to v9.17, (retry bool, cn *pool.Conn, error) up to v9.22,
// (retry, forced bool, cn *pool.Conn, error) since.
func errWord(version string) int {
	v, ok := offsets.ParseVersion(version)
	switch {
	case !ok || v.Major == 9 && v.Minor >= 23:
		return 3
	case v.Major == 9 && v.Minor >= 18:
		return 2
	default:
		return 1
	}
}

// loc mirrors struct go_loc.
type loc = struct {
	_     structs.HostLayout
	Off   int32
	Stack uint8
	Reg   uint8
	Pad   uint16
}

// setLocs says where the given result words of a point are.
func setLocs(dst []loc, at goexe.Point, words ...int) {
	for i, w := range words {
		if w >= len(at.Results) {
			return
		}
		r := at.Results[w]
		dst[i].Off, dst[i].Reg = r.Off, r.Reg
		if r.Stack {
			dst[i].Stack = 1
		}
	}
}
