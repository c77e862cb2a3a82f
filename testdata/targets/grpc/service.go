package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A service without generated code: its messages are strings, and what a handler does
// is said by the request, url.Values: see do.

type text = wrapperspb.StringValue

const service = "/trade.v1.Orders/"

var (
	unary = []grpc.MethodDesc{{MethodName: "Place", Handler: place}}
	flows = []grpc.StreamDesc{
		{StreamName: "Watch", Handler: watch, ServerStreams: true},
		{StreamName: "Upload", Handler: upload, ClientStreams: true},
		{StreamName: "Chat", Handler: chat, ServerStreams: true, ClientStreams: true},
	}
)

func register(s *grpc.Server) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "trade.v1.Orders", HandlerType: (*any)(nil), Methods: unary, Streams: flows,
	}, struct{}{})
}

func place(_ any, ctx context.Context, decode func(any) error, wrap grpc.UnaryServerInterceptor) (any, error) {
	in := &text{}
	if err := decode(in); err != nil {
		return nil, err
	}
	handler := func(ctx context.Context, req any) (any, error) { return do(ctx, req.(*text).Value) }
	if wrap == nil {
		return handler(ctx, in)
	}
	return wrap(ctx, in, &grpc.UnaryServerInfo{FullMethod: service + "Place"}, handler)
}

func watch(_ any, ss grpc.ServerStream) error {
	in := &text{}
	if err := ss.RecvMsg(in); err != nil {
		return err
	}
	for i := 0; i < 3; i++ {
		if err := ss.SendMsg(&text{Value: "tick"}); err != nil {
			return err
		}
	}
	_, err := do(ss.Context(), in.Value)
	return err
}

func upload(_ any, ss grpc.ServerStream) error {
	last, n := "", 0
	for {
		in := &text{}
		if err := ss.RecvMsg(in); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		last, n = in.Value, n+1
	}
	if _, err := do(ss.Context(), last); err != nil {
		return err
	}
	return ss.SendMsg(&text{Value: strconv.Itoa(n)})
}

func chat(_ any, ss grpc.ServerStream) error {
	for {
		in := &text{}
		if err := ss.RecvMsg(in); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := do(ss.Context(), in.Value); err != nil {
			return err
		}
		if err := ss.SendMsg(in); err != nil {
			return err
		}
	}
}

// recoverPanics is the interceptor that most services have.
func recoverPanics(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (_ any, err error) {
	if strings.Contains(req.(*text).Value, "crash=") {
		return h(ctx, req)
	}
	defer func() {
		if r := recover(); r != nil {
			err = status.Error(codes.Internal, "handler panicked")
		}
	}()
	return h(ctx, req)
}

// do is what a handler does: sleep=10ms, code=5 with msg=..., panic=..., crash=...,
// goexit=1, http=URL to get, next=ADDR,ADDR,... to call in turn (spawn=1: in a goroutine
// without the context), md=1 to say which traceparent came in, md=all which metadata.
func do(ctx context.Context, command string) (*text, error) {
	q, err := url.ParseQuery(command)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if d, _ := time.ParseDuration(q.Get("sleep")); d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	if n, _ := strconv.Atoi(q.Get("code")); n != 0 {
		return nil, status.Error(codes.Code(n), q.Get("msg"))
	}
	for _, k := range []string{"panic", "crash"} {
		if q.Get(k) != "" {
			panic(q.Get(k))
		}
	}
	if q.Get("goexit") != "" {
		runtime.Goexit()
	}
	if u := q.Get("http"); u != "" {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
		if err != nil {
			return nil, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		resp.Body.Close()
	}
	if next := q.Get("next"); next != "" {
		if err := forward(ctx, q, next); err != nil {
			return nil, err
		}
	}
	if q.Get("md") != "" {
		md, _ := metadata.FromIncomingContext(ctx)
		if q.Get("md") == "all" {
			var lines []string
			for k, v := range md {
				lines = append(lines, k+": "+strings.Join(v, ","))
			}
			sort.Strings(lines)
			return &text{Value: strings.Join(lines, "\n")}, nil
		}
		return &text{Value: strings.Join(md.Get("traceparent"), ",")}, nil
	}
	return &text{Value: "ok"}, nil
}

func forward(ctx context.Context, q url.Values, next string) error {
	addr, rest, _ := strings.Cut(next, ",")
	fwd := url.Values{}
	for k, v := range q {
		fwd[k] = v
	}
	fwd.Set("next", rest)
	call := func(ctx context.Context) error {
		cc, err := dial(addr, "")
		if err != nil {
			return err
		}
		return cc.Invoke(ctx, service+"Place", &text{Value: fwd.Encode()}, &text{})
	}
	if q.Get("spawn") == "" {
		return call(ctx)
	}
	done := make(chan error)
	go func() { done <- call(context.Background()) }()
	return <-done
}
