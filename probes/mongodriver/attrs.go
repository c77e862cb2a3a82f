package mongodriver

import (
	"net"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/tracer-agent/tracer-agent/internal/goerror"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
	"github.com/tracer-agent/tracer-agent/probes/wire/mongo"
)

// Attributes for which the semantic conventions have no name.
const (
	keyN            = attribute.Key("mongodb.response.n")
	keyModified     = attribute.Key("mongodb.response.n_modified")
	keyUpserted     = attribute.Key("mongodb.response.n_upserted")
	keyWriteErrors  = attribute.Key("mongodb.response.write_errors")
	keyConcernError = attribute.Key("mongodb.response.write_concern_error")
	keyUnanswered   = attribute.Key("mongodb.request.unacknowledged")
)

// peer is a server's address, split.
type peer struct {
	host string
	port int
}

const maxPeers = 1024

// attrs collects an operation's attributes.
type attrs struct {
	op   *telemetry.Operation
	list []attribute.KeyValue
}

func (d *decoder) request(op *telemetry.Operation, req *mongo.Request, r *record) *attrs {
	d.attrs = attrs{op: op, list: op.Attributes[:0]}
	a := &d.attrs
	a.list = append(a.list, semconv.DBSystemNameMongoDB, semconv.DBOperationName(req.Command))
	op.Name = req.Command
	if req.DB != "" {
		a.list = append(a.list, semconv.DBNamespace(req.DB))
	}
	switch {
	case req.Collection != "":
		a.list = append(a.list, semconv.DBCollectionName(req.Collection))
		op.Name += " " + req.Collection
	case req.DB != "":
		op.Name += " " + req.DB
	}
	if p := d.peer(r.addr); p.host != "" {
		a.list = append(a.list, semconv.ServerAddress(p.host))
		if p.port != 0 {
			a.list = append(a.list, semconv.ServerPort(p.port))
		}
	}
	if req.Documents > 1 { // the conventions: batches of one are none
		a.list = append(a.list, semconv.DBOperationBatchSize(req.Documents))
	}
	if req.Text != "" {
		a.list = append(a.list, semconv.DBQueryText(req.Text))
	}
	if req.NoReply {
		a.list = append(a.list, keyUnanswered.Bool(true))
	}
	return a
}

// peer splits "host:port"; a socket's path is a host without port.
func (d *decoder) peer(addr []byte) peer {
	if p, ok := d.peers[string(addr)]; ok {
		return p
	}
	if len(d.peers) >= maxPeers {
		clear(d.peers)
	}
	p := peer{host: string(addr)}
	if host, port, err := net.SplitHostPort(p.host); err == nil {
		p.host = host
		p.port, _ = strconv.Atoi(port)
	}
	d.peers[string(addr)] = p
	return p
}

func (a *attrs) fail(errorType, description string) {
	a.list = append(a.list, semconv.ErrorTypeKey.String(errorType))
	a.op.Status, a.op.StatusDescription = codes.Error, description
}

func (a *attrs) network(info *goerror.Info) { a.fail(info.Kind()) }

// reply: a write that failed is an error although the command as a whole is ok.
func (a *attrs) reply(r *mongo.Reply, full bool) {
	count := func(k attribute.Key, n int64) {
		if n >= 0 {
			a.list = append(a.list, k.Int64(n))
		}
	}
	count(keyN, r.N)
	count(keyModified, r.Modified)
	count(keyUpserted, r.Upserted)
	if r.Returned >= 0 {
		a.list = append(a.list, semconv.DBResponseReturnedRows(r.Returned))
	}
	if r.WriteErrors != 0 {
		count(keyWriteErrors, int64(r.WriteErrors))
	}
	if r.ConcernErr.Code != 0 {
		a.list = append(a.list, keyConcernError.String(failureName(&r.ConcernErr)))
	}
	switch {
	case r.Failed:
		a.server(&r.Err, full)
	case r.WriteErrors != 0:
		a.server(&r.WriteErr, full)
	case r.ConcernErr.Code != 0:
		a.server(&r.ConcernErr, full)
	}
}

func failureName(f *mongo.Failure) string {
	if f.CodeName != "" {
		return f.CodeName
	}
	return strconv.FormatInt(f.Code, 10)
}

// server records an error that the server reported. Its text repeats values; they are
// taken out unless values may leave.
func (a *attrs) server(f *mongo.Failure, full bool) {
	if *f == (mongo.Failure{}) { // it was cut off
		a.fail("_OTHER", "")
		return
	}
	text := f.Message
	if !full {
		text = mongo.ScrubMessage(text)
	}
	if f.CodeName != "" {
		text = f.CodeName + ": " + text
	}
	code := strconv.FormatInt(f.Code, 10)
	a.list = append(a.list, semconv.DBResponseStatusCode(code))
	a.fail(code, text)
}
