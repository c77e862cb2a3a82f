// Command relay is a service of a chain: asked for /hop/ID, it asks the next service for
// the same ID, so that every request says itself which request it belongs to. It knows
// nothing of tracing.
//
//	GET /hop/ID?next=KIND,ADDR;KIND,ADDR...
//
// KIND is h1, tls1, h2 or h2c. Further parameters steer the call to the next service:
//
//	from    local address to call from, on a connection of its own that ends in a reset
//	n       calls, one after the other
//	later   milliseconds after which a goroutine makes the call, when the answer is long given
//
// GET /close-idle closes the connections to other services that are not in use.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ready is what the program prints, after the word "ready", once it listens.
type ready struct {
	PID   int    `json:"pid"`
	HTTP  string `json:"http"`  // HTTP/1
	HTTPS string `json:"https"` // HTTP/1 and HTTP/2 over TLS, self-signed
	H2C   string `json:"h2c"`   // unencrypted HTTP/2
}

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address of the plain server; the others are on the same host")
	flag.Parse()
	log.SetFlags(0)

	mux := http.NewServeMux()
	s := &service{clients: clients()}
	mux.HandleFunc("GET /hop/{id}", s.hop)
	mux.HandleFunc("GET /close-idle", func(http.ResponseWriter, *http.Request) {
		for _, c := range s.clients {
			c.CloseIdleConnections()
		}
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })

	host, _, err := net.SplitHostPort(*addr)
	if err != nil {
		log.Fatal(err)
	}
	plain, secure, clear := listen(*addr), listen(net.JoinHostPort(host, "0")), listen(net.JoinHostPort(host, "0"))
	go serve(&http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}, plain)
	go func() {
		s := &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0),
			TLSConfig: &tls.Config{Certificates: []tls.Certificate{selfSigned()}}}
		log.Print(s.ServeTLS(secure, "", ""))
	}()
	only := new(http.Protocols)
	only.SetUnencryptedHTTP2(true)
	go serve(&http.Server{Handler: mux, Protocols: only}, clear)

	line, err := json.Marshal(ready{os.Getpid(), plain.Addr().String(), secure.Addr().String(), clear.Addr().String()})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("ready %s\n", line)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}

// listen shares its port with whoever else wants to, which a test uses to let another
// program answer there first.
func listen(addr string) net.Listener {
	lc := net.ListenConfig{Control: option(unixReusePort)}
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	return l
}

const unixReusePort = 15 // SO_REUSEPORT, which package syscall does not have

func option(opt int) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var inner error
		if err := c.Control(func(fd uintptr) { inner = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, opt, 1) }); err != nil {
			return err
		}
		return inner
	}
}

func serve(s *http.Server, l net.Listener) { log.Print(s.Serve(l)) }

type service struct{ clients map[string]*http.Client }

func clients() map[string]*http.Client {
	insecure := &tls.Config{InsecureSkipVerify: true}
	clear := &http.Transport{Protocols: new(http.Protocols)}
	clear.Protocols.SetUnencryptedHTTP2(true)
	return map[string]*http.Client{
		"h1":   {Transport: &http.Transport{MaxIdleConnsPerHost: 512}},
		"tls1": {Transport: &http.Transport{MaxIdleConnsPerHost: 512, TLSClientConfig: insecure}},
		"h2":   {Transport: &http.Transport{TLSClientConfig: insecure.Clone(), ForceAttemptHTTP2: true}},
		"h2c":  {Transport: clear},
	}
}

// from is a client for one call on a connection from a given local address, which it
// ends with a reset, so that the address is free at once.
func from(addr string) (*http.Client, error) {
	local, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{LocalAddr: local, Control: option(syscall.SO_REUSEADDR)}
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return c, c.(*net.TCPConn).SetLinger(0)
		},
	}}, nil
}

func (s *service) hop(w http.ResponseWriter, r *http.Request) {
	first, rest, _ := strings.Cut(r.URL.Query().Get("next"), ";")
	kind, addr, ok := strings.Cut(first, ",")
	if !ok {
		fmt.Fprint(w, r.PathValue("id"))
		return
	}
	client := s.clients[kind]
	if local := r.URL.Query().Get("from"); local != "" {
		var err error
		if client, err = from(local); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil {
		n = 1
	}
	scheme := "http"
	if kind == "tls1" || kind == "h2" {
		scheme = "https"
	}
	target := url.URL{Scheme: scheme, Host: addr, Path: "/hop/" + r.PathValue("id"), RawQuery: url.Values{"next": {rest}}.Encode()}
	if later, err := strconv.Atoi(r.URL.Query().Get("later")); err == nil {
		go func() {
			time.Sleep(time.Duration(later) * time.Millisecond)
			if err := pass(context.Background(), io.Discard, client, target.String()); err != nil {
				log.Print(err)
			}
		}()
		return
	}
	for range n {
		if err := pass(r.Context(), w, client, target.String()); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
	}
}

func pass(ctx context.Context, w io.Writer, client *http.Client, target string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", target, resp.Status)
	}
	_, err = io.Copy(w, resp.Body)
	return err
}
