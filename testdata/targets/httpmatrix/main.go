// Command httpmatrix is a net/http server and client with every corner case as
// a route, so that a test drives one case at a time. It builds with Go 1.18 and
// later from the standard library alone; what a version lacks is behind build
// tags. It knows nothing of tracing.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// ready is what the program prints, after the word "ready", once it listens.
type ready struct {
	PID     int    `json:"pid"`
	Go      string `json:"go"`
	HTTP    string `json:"http"`    // HTTP/1
	HTTPS   string `json:"https"`   // HTTP/1 and HTTP/2 over TLS, self-signed
	H2C     string `json:"h2c"`     // unencrypted HTTP/2, empty before Go 1.24
	Flaky   string `json:"flaky"`   // answers once per connection, closes on the second request
	Silent  string `json:"silent"`  // accepts and never answers
	Reset   string `json:"reset"`   // accepts, reads, resets
	Refused string `json:"refused"` // nobody listens
}

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address of the plain HTTP server")
	chain := flag.Int("chain", 0, "start itself this many times in a row, the last one serves")
	gen := flag.Int("gen", 0, "how many programs the process has been before: /exec counts")
	flag.Parse()
	log.SetFlags(0)
	if *chain > 0 {
		runChild(*chain-1, *addr)
		return
	}

	a := newApp()
	plain := listen(*addr)
	a.addr, a.gen = plain.Addr().String(), *gen
	h := a.handler()
	r := ready{PID: os.Getpid(), Go: runtime.Version()}

	r.HTTP = plain.Addr().String()
	go serve(&http.Server{Handler: h, ErrorLog: quiet()}, plain)

	secure := listen("127.0.0.1:0")
	r.HTTPS = secure.Addr().String()
	a.cert = selfSigned()
	go func() {
		s := &http.Server{Handler: h, ErrorLog: quiet(), TLSConfig: &tls.Config{Certificates: []tls.Certificate{a.cert}}}
		log.Print(s.ServeTLS(secure, "", ""))
	}()

	if s := h2cServer(h); s != nil {
		l := listen("127.0.0.1:0")
		r.H2C = l.Addr().String()
		go serve(s, l)
	}
	r.Flaky = raw(flaky)
	r.Silent = raw(silent)
	r.Reset = raw(reset)
	r.Refused = refused()

	line, err := json.Marshal(r)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("ready %s\n", line)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}

func listen(addr string) net.Listener {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	return l
}

func serve(s *http.Server, l net.Listener) { log.Print(s.Serve(l)) }

// quiet drops what net/http logs of the panics that tests cause on purpose.
func quiet() *log.Logger { return log.New(discard{}, "", 0) }

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// runChild runs the same executable with one link less and waits for it.
func runChild(chain int, addr string) {
	c := exec.Command("/proc/self/exe", "-chain", strconv.Itoa(chain), "-addr", addr)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	runtime.LockOSThread()
	if err := c.Run(); err != nil {
		log.Fatal(err)
	}
}

// raw serves connections without net/http and returns its address.
func raw(f func(*net.TCPConn)) string {
	l := listen("127.0.0.1:0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f(c.(*net.TCPConn))
		}
	}()
	return l.Addr().String()
}

// flaky answers the first request of a connection and closes on the second:
// what an idle keep-alive connection that the server closed looks like.
func flaky(c *net.TCPConn) {
	defer c.Close()
	buf := make([]byte, 4096)
	if _, err := c.Read(buf); err != nil {
		return
	}
	fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	c.Read(buf)
}

// refused returns an address that is taken but on which nobody listens.
func refused() string {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		log.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		log.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		log.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", sa.(*syscall.SockaddrInet4).Port)
}

func silent(c *net.TCPConn) {
	defer c.Close()
	buf := make([]byte, 4096)
	for {
		c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}

func reset(c *net.TCPConn) {
	c.Read(make([]byte, 4096))
	c.SetLinger(0)
	c.Close()
}
