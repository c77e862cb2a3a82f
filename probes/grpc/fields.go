package grpc

import (
	"slices"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

const (
	module    = "google.golang.org/grpc"
	transport = module + "/internal/transport."
)

func lib(typ, name string) goexe.Field { return goexe.Field{Module: module, Type: typ, Name: name} }

var (
	streamID     = lib(transport+"Stream", "id")
	streamMethod = lib(transport+"Stream", "method")
	streamCtx    = lib(transport+"Stream", "ctx")
	// Up to 1.68 there is but Stream; since then it is a part of ServerStream and
	// ClientStream, at first by pointer.
	streamCt     = lib(transport+"Stream", "ct")
	serverSt     = lib(transport+"ServerStream", "st")
	clientCt     = lib(transport+"ClientStream", "ct")
	serverConn   = lib(transport+"http2Server", "conn")
	serverPeer   = lib(transport+"http2Server", "peer") // begins with the address; before 1.59:
	serverRemote = lib(transport+"http2Server", "remoteAddr")
	clientConn   = lib(transport+"http2Client", "conn")
	clientNext   = lib(transport+"http2Client", "nextID")
	hdrMethod    = lib(transport+"CallHdr", "Method")
	callHdr      = lib(module+".clientStream", "callHdr")
	callCtx      = lib(module+".clientStream", "ctx")
	attemptCs    = lib(module+".csAttempt", "cs")
	// Since 1.73, when waitForResolvedAddrs began to return a bool before its error.
	callDelay   = lib(module+".clientStream", "nameResolutionDelay")
	connTarget  = lib(module+".ClientConn", "target")
	errorStatus = lib(module+"/internal/status.Error", "s")
	statusProto = lib(module+"/internal/status.Status", "s")
	// What a call's header block is made of; since 1.83 in a type of the client's own.
	frameFields  = lib(transport+"headerFrame", "hf")
	clientFrame  = lib(transport+"clientHeaders", "hf")
	clientMax    = lib(transport+"http2Client", "maxSendHeaderListSize")
	loopyFramer  = lib(transport+"loopyWriter", "framer")
	framerWriter = lib(transport+"framer", "writer")
	writerBuf    = lib(transport+"bufWriter", "buf")
	writerHandle = lib(transport+"bufWriter", "bufHandle") // since 1.84, a pointer
	writerN      = lib(transport+"bufWriter", "offset")
	writerBatch  = lib(transport+"bufWriter", "batchSize")
	writerErr    = lib(transport+"bufWriter", "err")
)

func serverFields() []goexe.Field {
	return []goexe.Field{streamID, streamMethod, streamCtx, errorStatus, statusProto}
}

func clientFields() []goexe.Field {
	return []goexe.Field{streamCtx, clientNext, hdrMethod, callHdr, callCtx, attemptCs, connTarget, errorStatus, statusProto}
}

// joinFields lead from a transport to the file descriptor of its connection.
func joinFields() []goexe.Field {
	return []goexe.Field{
		serverConn, clientConn, probe.Std("crypto/tls.Conn", "conn"), probe.Std("net.conn", "fd"),
		probe.Std("net.netFD", "pfd"), probe.Std("internal/poll.FD", "Sysfd"),
	}
}

// writeFields lead to the buffer that a call's header block is written to.
func writeFields() []goexe.Field {
	return []goexe.Field{clientMax, loopyFramer, framerWriter, writerN, writerBatch, writerErr}
}

// allFields is every field the probe can make use of.
func allFields() []goexe.Field {
	fs := append(serverFields(), clientNext, hdrMethod, callHdr, callCtx, attemptCs, connTarget,
		callDelay, streamCt, serverSt, clientCt, serverPeer, serverRemote, frameFields, clientFrame, writerBuf, writerHandle)
	return slices.Concat(fs, writeFields(), joinFields())
}

// either is the offset of the first of the fields that the executable has.
func either(p *probe.Placed, fields ...goexe.Field) uint16 {
	for _, f := range fields {
		if off := p.Offset(f); off != probe.OffNone {
			return off
		}
	}
	return probe.OffNone
}

// need is the error of a group that cannot do without fields.
func need(p *probe.Placed, fields []goexe.Field) error {
	return p.Need(fields, "this version of "+module)
}
