package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const retryPolicy = `{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 3,
	"initialBackoff": "0.01s", "maxBackoff": "0.02s", "backoffMultiplier": 1, "retryableStatusCodes": ["ABORTED"]}}]}`

var (
	connsMu sync.Mutex
	conns   = map[string]*grpc.ClientConn{}
)

// dial returns the connection for an address: kind "", "tls", "retry".
func dial(addr, kind string) (*grpc.ClientConn, error) {
	connsMu.Lock()
	defer connsMu.Unlock()
	if cc := conns[kind+addr]; cc != nil {
		return cc, nil
	}
	creds := insecure.NewCredentials()
	if kind == "tls" {
		creds = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	}
	opts := []grpc.DialOption{grpc.WithTransportCredentials(creds)}
	if kind == "retry" {
		opts = append(opts, grpc.WithDefaultServiceConfig(retryPolicy))
	}
	cc, err := grpc.Dial(addr, opts...)
	if err == nil {
		conns[kind+addr] = cc
	}
	return cc, err
}

type outcome struct {
	Code  string `json:"code"`
	Reply string `json:"reply"`
}

// call makes n calls: addr, kind (see dial), method, cmd (see do), style inline or
// fanout, timeout, cancel (after how long), md (a traceparent to send), fill (how many
// further keys to send), size (of each one's value).
func call(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	n, _ := strconv.Atoi(q.Get("n"))
	if n < 1 {
		n = 1
	}
	out := make([]outcome, n)
	var wg sync.WaitGroup
	for i := range out {
		i := i // this is built with old Go, too
		one := func() {
			ctx, stop := context.WithCancel(r.Context())
			defer stop()
			if d, _ := time.ParseDuration(q.Get("timeout")); d > 0 {
				ctx, stop = context.WithTimeout(ctx, d)
				defer stop()
			}
			if d, _ := time.ParseDuration(q.Get("cancel")); d > 0 {
				time.AfterFunc(d, stop)
			}
			if md := q.Get("md"); md != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", md, "tracestate", q.Get("ts"))
			}
			fill, _ := strconv.Atoi(q.Get("fill"))
			size, _ := strconv.Atoi(q.Get("size"))
			for k := 0; k < fill; k++ {
				ctx = metadata.AppendToOutgoingContext(ctx, "fill-"+strconv.Itoa(k), strconv.Itoa(i)+strings.Repeat("x", size))
			}
			reply, err := rpc(ctx, q.Get("addr"), q.Get("kind"), q.Get("method"), q.Get("cmd"))
			out[i] = outcome{Code: status.Code(err).String(), Reply: reply}
		}
		if q.Get("style") != "fanout" {
			one()
			continue
		}
		wg.Add(1)
		go func() { defer wg.Done(); one() }()
	}
	wg.Wait()
	_ = json.NewEncoder(w).Encode(out)
}

func rpc(ctx context.Context, addr, kind, method, cmd string) (string, error) {
	cc, err := dial(addr, kind)
	if err != nil {
		return "", err
	}
	for i := range flows {
		if flows[i].StreamName == method {
			return stream(ctx, cc, &flows[i], cmd)
		}
	}
	out := &text{}
	if method[0] != '/' {
		method = service + method
	}
	err = cc.Invoke(ctx, method, &text{Value: cmd}, out)
	return out.Value, err
}

// stream sends three messages, or one where one is all, and reads all answers.
func stream(ctx context.Context, cc *grpc.ClientConn, desc *grpc.StreamDesc, cmd string) (string, error) {
	cs, err := cc.NewStream(ctx, desc, service+desc.StreamName)
	if err != nil {
		return "", err
	}
	sends := 1
	if desc.ClientStreams {
		sends = 3
	}
	for ; sends > 0; sends-- {
		if err := cs.SendMsg(&text{Value: cmd}); err != nil {
			break // RecvMsg says why
		}
	}
	if err := cs.CloseSend(); err != nil {
		return "", err
	}
	got := 0
	for {
		out := &text{}
		err := cs.RecvMsg(out)
		if errors.Is(err, io.EOF) {
			return strconv.Itoa(got), nil
		}
		if err != nil {
			return "", err
		}
		got++
		if !desc.ServerStreams {
			return out.Value, nil
		}
	}
}
