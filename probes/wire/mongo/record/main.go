// Command record makes the corpus of probes/wire/mongo: it runs a target program whose
// driver talks to a real server through a proxy, lets it make its calls, and writes each
// command with its reply into a file; what compresses, see compress.go.
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
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/tools/txtar"

	"github.com/tracer-agent/tracer-agent/probes/wire/mongo"
)

var calls = []string{
	"insertOne", "find", "findIn", "update", "insertMany", "insertBig", "findBig", "insertTwice", "findOne", "findAndModify",
	"count", "countDocuments", "distinct", "aggregate", "lookup", "unknown", "badValue", "hello", "ping", "buildInfo",
	"replace", "delete", "bulkWrite", "createIndex", "listCollections", "transaction", "insertUnacknowledged", "drop",
}

// packed are the calls that are recorded with each compressor, too.
var packed = []string{"insertOne", "find", "update", "insertMany", "insertBig", "insertTwice", "aggregate", "hello", "ping"}

func main() {
	server := flag.String("server", "127.0.0.1:27017", "a real server")
	target := flag.String("target", "", "built testdata/targets/mongo/...")
	driver := flag.String("driver", "", "the target's driver version")
	out := flag.String("out", "", "folder to write to")
	only := flag.String("compressor", "all", "record this one alone; \"\" is none")
	flag.Parse()
	for _, c := range []string{"", "snappy", "zlib", "zstd"} {
		if *only != "all" && *only != c {
			continue
		}
		if err := record(*server, *target, *driver, c, *out); err != nil {
			fmt.Fprintln(os.Stderr, "record:", err)
			os.Exit(1)
		}
	}
}

// tap keeps the messages that pass.
type tap struct {
	compressor string

	mu       sync.Mutex
	requests [][]byte
	replies  map[int32][]byte
	unpacked map[int32]bool // requests that came compressed
}

func record(server, target, driver, compressor, out string) error {
	t := &tap{compressor: compressor, replies: map[int32][]byte{}, unpacked: map[int32]bool{}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	go t.serve(ln, server)
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
	made := calls
	if compressor != "" {
		made = packed
	}
	for _, call := range made {
		mark := t.mark()
		resp, err := http.Get("http://" + ready.HTTP + "/do?op=" + call)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if err := t.write(mark, call, driver, compressor, out); err != nil {
			return err
		}
	}
	return nil
}

func (t *tap) serve(ln net.Listener, server string) {
	for {
		client, err := ln.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", server)
		if err != nil {
			client.Close()
			continue
		}
		go pump(up, client, t.request)
		go pump(client, up, t.reply)
	}
}

// request keeps a message of the driver and returns what the server is to get.
func (t *tap) request(m []byte) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests = append(t.requests, m)
	t.unpacked[int32(binary.LittleEndian.Uint32(m[4:]))] = opcode(m) == opCompressed
	return unpack(m)
}

// reply keeps a message for the driver and returns it as the driver gets it.
func (t *tap) reply(m []byte) (out []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	to := int32(binary.LittleEndian.Uint32(m[8:]))
	if t.compressor != "" {
		m = offer(m, t.compressor)
	}
	if t.unpacked[to] {
		if m, err = pack(m, t.compressor); err != nil {
			return nil, err
		}
	}
	t.replies[to] = m
	return m, nil
}

// pump copies messages as change returns them.
func pump(dst, src net.Conn, change func([]byte) ([]byte, error)) {
	defer dst.Close()
	for {
		m := make([]byte, 16)
		if _, err := io.ReadFull(src, m); err != nil {
			return
		}
		h, err := mongo.ParseHeader(m)
		if err != nil {
			return
		}
		m = append(m, make([]byte, h.Len-len(m))...)
		if _, err := io.ReadFull(src, m[16:]); err != nil {
			return
		}
		if m, err = change(m); err != nil {
			fmt.Fprintln(os.Stderr, "record:", err)
			return
		}
		if _, err := dst.Write(m); err != nil {
			return
		}
	}
}

func (t *tap) mark() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.requests)
}

func (t *tap) write(mark int, call, driver, compressor, out string) error {
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
