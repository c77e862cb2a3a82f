// Command backend is the demo's trade backend: it takes signals in a small text
// form, looks up a limit in Redis, asks the broker for a quote over HTTPS, places the
// order there, keeps it in MongoDB and pushes it to those who watch over WebSocket.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

type signal struct {
	action, symbol string
	quantity       int
}

type backend struct {
	broker string
	client *http.Client
	store  *store
	stream *stream
}

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to serve on")
	broker := flag.String("broker", "", "URL of the broker")
	ca := flag.String("ca", "", "file with the broker's certificate")
	mongoURI := flag.String("mongo", "", "MongoDB server; without it orders are kept in memory")
	redisAddr := flag.String("redis", "", "Redis server; without it every limit is the same")
	flag.Parse()

	b := &backend{broker: *broker, stream: &stream{watchers: map[*websocket.Conn]bool{}}}
	var err error
	if b.store, err = openStore(*mongoURI, *redisAddr); err != nil {
		log.Fatal(err)
	}
	if b.client, err = trusting(*ca); err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("ready http://%s\n", l.Addr())
	mux := http.NewServeMux()
	mux.HandleFunc("POST /signals", b.postSignal)
	mux.HandleFunc("GET /orders/{id}", b.getOrder)
	mux.HandleFunc("GET /stream", b.stream.serve)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(s.Serve(l))
}

// trusting returns a client that trusts the certificate in the file.
func trusting(path string) (*http.Client, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New(path + ": no certificate")
	}
	return &http.Client{
		Timeout:   2 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}},
	}, nil
}

func (b *backend) postSignal(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(io.LimitReader(r.Body, 1<<10))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s, err := parse(string(text))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	limit, err := b.store.limit(r.Context(), s.symbol)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if s.quantity > limit {
		http.Error(w, "more than the limit", http.StatusUnprocessableEntity)
		return
	}
	// The quote is asked for in the background, as such code often does it; the
	// order waits for it.
	quote := make(chan error, 1)
	go func() {
		_, err := b.ask(r.Context(), http.MethodGet, "/v1/quotes/"+s.symbol+"?token=demo-secret", "")
		quote <- err
	}()
	if err := <-quote; err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	body := fmt.Sprintf(`{"side":%q,"symbol":%q,"quantity":%d}`, s.action, s.symbol, s.quantity)
	if _, err := b.ask(r.Context(), http.MethodPost, "/v1/orders", body); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	o := order{Action: s.action, Symbol: s.symbol, Quantity: s.quantity}
	if err := b.store.add(r.Context(), &o); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	b.stream.push(fmt.Sprintf("%d %s %d %s", o.ID, o.Action, o.Quantity, o.Symbol))
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, "%d", o.ID)
}

func (b *backend) getOrder(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		http.Error(w, "an order's id is a number", http.StatusBadRequest)
		return
	}
	o, err := b.store.get(r.Context(), id)
	switch {
	case errors.Is(err, errUnknownOrder):
		http.NotFound(w, r)
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	default:
		fmt.Fprintf(w, "%s %d %s", o.Action, o.Quantity, o.Symbol)
	}
}

// ask calls the broker; an answer of 400 or more is an error.
func (b *backend) ask(ctx context.Context, method, path, body string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, b.broker+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return "", err
	}
	if resp.StatusCode >= 400 {
		return "", fmt.Errorf("broker: %s", resp.Status)
	}
	return string(text), nil
}

// parse reads "BUY 10 ACME".
func parse(text string) (signal, error) {
	f := strings.Fields(text)
	if len(f) != 3 || f[0] != "BUY" && f[0] != "SELL" {
		return signal{}, fmt.Errorf("signal %q: want BUY|SELL QUANTITY SYMBOL", text)
	}
	n, err := strconv.Atoi(f[1])
	if err != nil || n <= 0 {
		return signal{}, fmt.Errorf("signal %q: bad quantity", text)
	}
	return signal{f[0], f[2], n}, nil
}
