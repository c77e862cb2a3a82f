package e2e

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestCanary: what is secret by its place never leaves the host with default settings:
// values of every field of a document, credentials and secret values of URLs, headers.
// Keys and values of Redis and literals of SQL are looked for in TestRedis and TestSQL.
func TestCanary(t *testing.T) {
	needs(t)
	mongo := harness.StartTarget(t, mongoBuilds[0].Path(t), "-uri", "mongodb://"+startMongo(t)+"/")
	src := harness.Build{Dir: httpmatrix}.Path(t)
	caller, callee := harness.StartTarget(t, src), harness.StartTarget(t, copyExe(t, src, "callee"))
	agent := harness.Trace(t, mongo, caller, callee)
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
	spans := agent.Settle(mark, 0, mongo)
	names := map[string]bool{}
	for _, s := range spans {
		names[s.Name] = true
		// The request that asks for the call has its URL as a value, whose name is no secret's.
		if s.Attr("url.path") != "/call" && strings.Contains(fmt.Sprintf("%+v", s), canary) {
			t.Errorf("a value has left the host: %s", s)
		}
	}
	for _, want := range []string{"find orders", "insert big", "findAndModify orders", "delete orders", "frobnicate shop", "GET", "GET /plain"} {
		if !names[want] {
			t.Errorf("no span %q to look for values in: %v", want, names)
		}
	}
	if log := agent.Stderr(); strings.Contains(log, canary) {
		t.Error("a value is in the log")
	}
}
