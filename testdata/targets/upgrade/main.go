// Target upgrade takes connections over from net/http with no library: what comes over
// /websocket is sent back until the client is done. /tunnel is no WebSocket.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
)

// take answers 101 and sends back what comes.
func take(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	go func() { // the handler returns, the connection stays
		defer conn.Close()
		io.WriteString(conn, head(r.Header.Get("Upgrade")))
		io.Copy(conn, rw)
	}()
}

func head(protocol string) string {
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: " + protocol + "\r\nConnection: Upgrade\r\n\r\n"
}

func main() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, "upgrade:", err)
		os.Exit(1)
	}
	http.HandleFunc("/websocket", take)
	http.HandleFunc("/tunnel", take)
	http.HandleFunc("/plain", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	http.HandleFunc("/fence/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	ready, _ := json.Marshal(map[string]any{"pid": os.Getpid(), "go": runtime.Version(), "http": ln.Addr().String()})
	fmt.Printf("ready %s\n", ready)
	_ = http.Serve(ln, nil)
}
