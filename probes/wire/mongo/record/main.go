// Command record makes the corpus of probes/wire/mongo: it runs a target program whose
// driver talks to a real server through a proxy, lets it make its calls, and writes each
// command with its reply into a file; what compresses, see the package standin.
//
//	go run ./probes/wire/mongo/record -server 127.0.0.1:27017 -target ./mongo -driver "v2.10.0" -out probes/wire/mongo/testdata
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
	"golang.org/x/tools/txtar"

	"github.com/tracer-agent/tracer-agent/probes/wire/mongo"
	"github.com/tracer-agent/tracer-agent/probes/wire/mongo/standin"
)

var calls = []string{
	"insertOne", "find", "findIn", "update", "insertMany", "insertBig", "findBig", "insertTwice", "findOne", "findAndModify",
	"count", "countDocuments", "distinct", "aggregate", "lookup", "unknown", "badValue", "hello", "ping", "buildInfo",
	"replace", "delete", "bulkWrite", "createIndex", "listCollections", "transaction", "insertUnacknowledged", "drop",
}

func main() {
	server := flag.String("server", "127.0.0.1:27017", "a real server")
	target := flag.String("target", "", "built testdata/targets/mongo/...")
	driver := flag.String("driver", "", "the target's driver version")
	out := flag.String("out", "", "folder to write to")
	only := flag.String("compressor", "all", "record this one alone; \"\" is none")
	made := flag.String("calls", "", "of a driver of a mongos, these alone")
	flag.Parse()
	for _, c := range []string{"", "snappy", "zlib", "zstd"} {
		if *only != "all" && *only != c {
			continue
		}
		if err := record(*server, *target, *driver, c, *made, *out); err != nil {
			fmt.Fprintln(os.Stderr, "record:", err)
			os.Exit(1)
		}
	}
}

// tap keeps the messages that pass.
type tap struct {
	mu       sync.Mutex
	requests [][]byte
	replies  map[int32][]byte
}

// saw keeps a message as the driver sent or got it.
func (t *tap) saw(m []byte, fromDriver bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if fromDriver {
		t.requests = append(t.requests, m)
	} else {
		t.replies[int32(binary.LittleEndian.Uint32(m[8:]))] = m
	}
}

// answer is to commands that the server does not know.
func answer(name string, _ bsoncore.Document) bsoncore.Document {
	ok := func(b []byte) []byte { return bsoncore.AppendDoubleElement(b, "ok", 1) }
	empty := bsoncore.BuildDocument(nil, nil)
	switch name {
	case "commitTransaction", "abortTransaction":
		return standin.With(empty, ok)
	case "bulkWrite":
		done := bsoncore.BuildDocument(nil, ok(bsoncore.AppendInt32Element(nil, "n", 1)))
		cursor := bsoncore.BuildDocument(nil, bsoncore.AppendArrayElement(bsoncore.AppendInt64Element(nil, "id", 0), "firstBatch",
			bsoncore.BuildArray(nil, bsoncore.Value{Type: bsoncore.TypeEmbeddedDocument, Data: done})))
		return standin.With(empty, func(b []byte) []byte {
			b = bsoncore.AppendInt32Element(bsoncore.AppendDocumentElement(b, "cursor", cursor), "nErrors", 0)
			b = bsoncore.AppendInt32Element(bsoncore.AppendInt32Element(b, "nInserted", 1), "nMatched", 1)
			return ok(bsoncore.AppendInt32Element(b, "nModified", 1))
		})
	}
	return nil
}

func record(server, target, driver, compressor, only, out string) error {
	t := &tap{replies: map[int32][]byte{}}
	s := &standin.StandIn{Compressor: compressor, Saw: t.saw}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	made := calls
	if only != "" {
		made, s.Mongos, s.Answer = strings.Split(only, ","), true, answer
	}
	go s.Serve(ln, server)
	uri := "mongodb://" + ln.Addr().String() + "/?heartbeatFrequencyMS=100000&compressors=" + compressor
	cmd := exec.Command(target, "-uri", strings.TrimSuffix(uri, "&compressors="))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return err
	}
	var ready struct{ HTTP string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "ready ")), &ready); err != nil {
		return err
	}
	for _, call := range made {
		mark := t.mark()
		resp, err := http.Get("http://" + ready.HTTP + "/do?op=" + call)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if err := t.write(mark, call, driver, compressor, s.Mongos, out); err != nil {
			return err
		}
	}
	return nil
}

func (t *tap) mark() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.requests)
}

func (t *tap) write(mark int, call, driver, compressor string, mongos bool, out string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, m := range t.requests[mark:] {
		h, err := mongo.ParseHeader(m)
		if err != nil {
			return err
		}
		name := call
		if i > 0 {
			name += fmt.Sprint("-", i+1)
		}
		if compressor != "" {
			name += "-z-" + compressor
		}
		stand := ""
		if compressor != "" {
			stand = ",\nwhich compresses in place of the server"
		}
		if mongos {
			stand += ",\nwhich answers what the server does not know as a mongos does"
		}
		ar := &txtar.Archive{
			Comment: fmt.Appendf(nil, "Driver go.mongodb.org/mongo-driver %s, call %q of testdata/targets/mongo, compressor %q;\nserver FerretDB 1.24.2 with SQLite. Recorded by probes/wire/mongo/record%s.\n", driver, call, compressor, stand),
			Files:   []txtar.File{{Name: "request", Data: lines(m)}},
		}
		if r := t.replies[h.RequestID]; r != nil {
			ar.Files = append(ar.Files, txtar.File{Name: "reply", Data: lines(r)})
		}
		ar.Files = append(ar.Files, txtar.File{Name: "want"})
		if err := os.WriteFile(filepath.Join(out, name+".txtar"), txtar.Format(ar), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func lines(m []byte) []byte {
	var out []byte
	for text := base64.StdEncoding.EncodeToString(m); text != ""; {
		n := min(len(text), 100)
		out = append(append(out, text[:n]...), '\n')
		text = text[n:]
	}
	return out
}
