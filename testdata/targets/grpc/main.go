// Command grpc serves and calls RPCs in every way there is: plaintext, TLS, stream
// workers, over net/http's server. Over plain HTTP it is told what to call: see calls.go.
package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

func listen() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	return l
}

// serve starts a server of its own with the options.
func serve(opts ...grpc.ServerOption) string {
	s := grpc.NewServer(append(opts, grpc.UnaryInterceptor(recoverPanics))...)
	register(s)
	l := listen()
	go func() { log.Fatal(s.Serve(l)) }()
	return l.Addr().String()
}

// refused is an address where nobody listens.
func refused() string {
	l := listen()
	defer l.Close()
	return l.Addr().String()
}

func main() {
	cert := selfSigned()
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}
	ready := map[string]any{
		"pid": os.Getpid(), "go": runtime.Version(),
		"grpc":    serve(),
		"grpcs":   serve(grpc.Creds(credentials.NewTLS(conf))),
		"workers": serve(grpc.NumStreamWorkers(4)),
		"refused": refused(),
	}

	over := grpc.NewServer(grpc.UnaryInterceptor(recoverPanics))
	register(over)
	lh := listen()
	ready["https"] = lh.Addr().String()
	go func() {
		srv := &http.Server{Handler: over, TLSConfig: conf}
		log.Fatal(srv.ServeTLS(lh, "", ""))
	}()

	mux := http.NewServeMux()
	mux.HandleFunc("/call", call)
	mux.HandleFunc("/plain", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	l := listen()
	ready["http"] = l.Addr().String()
	go func() { log.Fatal(http.Serve(l, mux)) }()

	line, err := json.Marshal(ready)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("ready %s\n", line)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}
