package grpc

import (
	"strconv"
	"strings"
)

// Codes of google.golang.org/grpc/codes that are told apart here.
const (
	codeOK               = 0
	codeCanceled         = 1
	codeUnknown          = 2
	codeDeadlineExceeded = 4
	codeUnimplemented    = 12
	codeUnavailable      = 14
)

// codeNames are the codes' canonical names.
var codeNames = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
	"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// serverError are the codes that are the server's fault, as the semantic conventions
// for gRPC have it; for a client every code but OK is an error.
var serverError = map[uint32]bool{
	codeUnknown: true, codeDeadlineExceeded: true, codeUnimplemented: true,
	13: true, codeUnavailable: true, 15: true,
}

type grpcStatus struct {
	code    uint32
	message string
}

func (s grpcStatus) name() string {
	if int(s.code) < len(codeNames) {
		return codeNames[s.code]
	}
	return "CODE(" + strconv.FormatUint(uint64(s.code), 10) + ")"
}

// status is what the RPC ended with; false when no status and no error was seen.
func (d *decoder) status(exeID uint32) (grpcStatus, bool) {
	switch {
	case d.has(bpfGrFlagF_STATUS):
		return grpcStatus{statusCode(d.ev.Status), d.str(bpfGrStrS_MESSAGE)}, true
	case d.has(bpfGrFlagF_ERROR):
		return d.fromError(exeID)
	}
	return grpcStatus{}, false
}

// fromError is the status of an error that is none, as grpc's toRPCErr makes it; false
// when it is the server's connection that failed.
func (d *decoder) fromError(exeID uint32) (grpcStatus, bool) {
	info := d.errorInfo(exeID)
	typ := ""
	if n := len(info.Types); n > 0 {
		typ = info.Types[n-1]
	}
	plain := typ == "*errors.errorString"
	switch {
	case d.has(bpfGrFlagF_UNSENT):
		return grpcStatus{}, false
	case plain && info.Text == "EOF":
		return grpcStatus{code: codeOK}, true
	case typ == "context.deadlineExceededError":
		return grpcStatus{code: codeDeadlineExceeded, message: "context deadline exceeded"}, true
	case plain && info.Text == "context canceled":
		return grpcStatus{code: codeCanceled, message: info.Text}, true
	case typ == "transport.ConnectionError":
		return grpcStatus{code: codeUnavailable, message: info.Text}, true
	}
	return grpcStatus{code: codeUnknown}, true
}

// statusCode finds the code in the first words of a google.rpc.Status. Generators from
// 1.36 on put it first,
//
//	state, Code, Message, Details, unknownFields, sizeCache
//
// those before behind what is theirs,
//
//	state, sizeCache, unknownFields, Code, Message, Details
//
// where unknownFields is nil: a status is made here, not received. A message, or
// details, tell which it is; with neither, the other's words are zero.
func statusCode(w [8]uint64) uint32 {
	newer := w[2] != 0 || w[4] != 0
	if !newer && uint32(w[5]) != 0 {
		return uint32(w[5])
	}
	if !newer && w[6] != 0 {
		return 0 // an older one, with a message and code OK
	}
	return uint32(w[1])
}

// unknownMethod says that grpc itself answered, because the server has no such method:
// then its name is the client's invention and says nothing of the server.
func unknownMethod(message string) bool {
	return strings.HasPrefix(message, "unknown service ") || strings.HasPrefix(message, "unknown method ") ||
		strings.HasPrefix(message, "malformed method name: ")
}

// plain are words of grpc's own messages that say what happened and hold nobody's data.
var plain = []string{
	"connection refused", "connection reset by peer", "no such host", "context deadline exceeded", "context canceled",
	"i/o timeout", "broken pipe", "transport is closing", "error reading from server: EOF",
	"stream terminated by RST_STREAM", "authentication handshake failed", "name resolver error",
}

// description is the whole message if the user wants it, else what of it is plain.
func (d *decoder) description(s grpcStatus) string {
	if d.cfg.StatusMessages {
		return s.message
	}
	for _, p := range plain {
		if strings.Contains(s.message, p) {
			return p
		}
	}
	return ""
}
