package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestCanary: what is secret by its place never leaves the host with default settings:
// values of every field of a document, credentials and secret values of URLs, headers,
// gRPC's metadata and messages, what goes over WebSockets. Keys and values of Redis, literals
// and parameters of SQL and what servers quote of them in errors are looked for in TestRedis,
// TestSQL and TestMongoStandIn.
func TestCanary(t *testing.T) {
	needs(t)
	mongo := harness.StartTarget(t, mongoBuilds[0].Path(t), "-uri", "mongodb://"+startMongo(t)+"/")
	src := harness.Build{Dir: httpmatrix}.Path(t)
	caller, callee := harness.StartTarget(t, src), harness.StartTarget(t, copyExe(t, src, "callee"))
	rpcs := harness.StartTarget(t, harness.Build{Dir: grpcTarget}.Path(t))
	ws := harness.StartTarget(t, harness.Build{Dir: websocketDir}.Path(t))
	agent := harness.Trace(t, mongo, caller, callee, rpcs, ws)
	ops := []string{
		"insertOne", "find", "findIn", "update", "insertMany", "insertBig", "findBig", "insertTwice", "findOne", "findAndModify",
		"count", "countDocuments", "distinct", "aggregate", "lookup", "unknown", "badValue", "replace", "delete", "bulkWrite",
		"createIndex", "listCollections", "transaction", "insertUnacknowledged", "drop",
	}
	mark := agent.Mark()
	for _, op := range ops {
		if _, err := harness.TryGet(mongo.URL("/do?op=" + op)); err != nil {
			t.Fatalf("%s: %v", op, err)
		}
	}
	secret := "http://user:" + canary + "@" + callee.HTTP + "/plain?" + url.Values{
		"token": {canary}, "password": {canary}, "api_key": {canary}, "sig": {canary}, "a": {"1"}}.Encode()
	var options []string
	for _, h := range []string{"Authorization", "Cookie", "X-Api-Key", "Proxy-Authorization", "X-Custom"} {
		options = append(options, "header", h+":"+canary)
	}
	caller.Call(t, secret, options...)
	agent.WaitSpans(mark, 1, func(s harness.Span) bool { return s.Kind == "server" && s.Attr("url.path") == "/plain" })
	for _, method := range []string{"Place", "Chat"} { // the request's URL holds what the call is told
		rpc(t, rpcs, rpcs.GRPC, method, "md", canary, "cmd", "code=9&msg="+canary)
	}
	sayOverWebSocket(t, ws, canary)
	agent.WaitSpans(mark, 1, func(s harness.Span) bool { return s.Name == "websocket" })
	spans := agent.Settle(mark, 0, mongo)
	names := map[string]bool{}
	for _, s := range spans {
		names[s.Name] = true
		// The request that asks for the call has its URL as a value, whose name is no secret's.
		if s.Attr("url.path") != "/call" && strings.Contains(fmt.Sprintf("%+v", s), canary) {
			t.Errorf("a value has left the host: %s", s)
		}
	}
	for _, want := range []string{"find orders", "insert big", "findAndModify orders", "delete orders", "frobnicate shop", "GET", "GET /plain",
		"trade.v1.Orders/Place", "trade.v1.Orders/Chat", "websocket"} {
		if !names[want] {
			t.Errorf("no span %q to look for values in: %v", want, names)
		}
	}
	if log := agent.Stderr(); strings.Contains(log, canary) {
		t.Error("a value is in the log")
	}
}

// sayOverWebSocket sends a message, which is sent back, and closes with a reason.
func sayOverWebSocket(t *testing.T, tg *harness.Target, text string) {
	t.Helper()
	conn, err := net.Dial("tcp", tg.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	frame := func(opcode byte, payload string) string { // masked with zeros
		return string([]byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}) + payload
	}
	r := bufio.NewReader(conn)
	if _, err := io.WriteString(conn, "GET /gorilla HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := http.ReadResponse(r, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, frame(1, text)+frame(8, "\x03\xe8"+text)); err != nil { // 1000: done
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !strings.Contains(string(got), text) {
		t.Fatalf("answer %q, %v", got, err)
	}
}
