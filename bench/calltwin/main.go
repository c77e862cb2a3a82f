// Command calltwin makes calls of one kind as fast as it is asked: MongoDB or Redis commands,
// SQL statements or RPCs; plain, or with the OpenTelemetry SDK in it (otelmongo 0.40 for the
// driver v1, redisotel, otelsql, otelgrpc, OTLP over HTTP, the SDK's batching as it comes).
// -serve makes it the RPCs' server.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/XSAM/otelsql"
	_ "github.com/lib/pq"
	"github.com/redis/go-redis/extra/redisotel/v9"
	"github.com/redis/go-redis/v9"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	mongooptions "go.mongodb.org/mongo-driver/mongo/options"
	"go.opentelemetry.io/contrib/instrumentation/go.mongodb.org/mongo-driver/mongo/otelmongo"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// calls a request: what HTTP costs is shared by as many.
const calls = 20

func main() {
	kind := flag.String("kind", "", "mongo, redis, sql or grpc")
	addr := flag.String("addr", "", "the server's host:port")
	sdk := flag.Bool("sdk", false, "with the SDK")
	serve := flag.Bool("serve", false, "serve RPCs")
	flag.Parse()
	if *serve {
		log.Fatal(serveGRPC(*addr))
	}
	ctx := context.Background()
	if *sdk {
		exp, err := otlptracehttp.New(ctx)
		if err != nil {
			log.Fatal(err)
		}
		provider := trace.NewTracerProvider(trace.WithBatcher(exp))
		defer provider.Shutdown(ctx)
		otel.SetTracerProvider(provider)
	}
	call, err := map[string]func(string, bool) (func(context.Context) error, error){
		"mongo": mongoCalls, "redis": redisCalls, "sql": sqlCalls, "grpc": grpcCalls}[*kind](*addr, *sdk)
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range calls {
			if err := call(r.Context()); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
		}
		io.WriteString(w, "hello\n")
	})
	go func() { log.Fatal(http.Serve(l, h)) }()
	fmt.Printf("ready {\"pid\":%d,\"http\":%q}\n", os.Getpid(), l.Addr())
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}

func mongoCalls(addr string, sdk bool) (func(context.Context) error, error) {
	o := mongooptions.Client().ApplyURI("mongodb://" + addr + "/")
	if sdk {
		o.SetMonitor(otelmongo.NewMonitor())
	}
	c, err := mongo.Connect(context.Background(), o)
	if err != nil {
		return nil, err
	}
	orders := c.Database("bench").Collection("orders")
	return func(ctx context.Context) error {
		filter := bson.D{{Key: "user", Value: "u-4711"}, {Key: "px", Value: bson.D{{Key: "$gt", Value: 5}}}}
		if err := orders.FindOne(ctx, filter).Err(); !errors.Is(err, mongo.ErrNoDocuments) {
			return err
		}
		return nil
	}, nil
}

func redisCalls(addr string, sdk bool) (func(context.Context) error, error) {
	c := redis.NewClient(&redis.Options{Addr: addr})
	if sdk {
		if err := redisotel.InstrumentTracing(c); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) error {
		if err := c.Get(ctx, "user:4711").Err(); !errors.Is(err, redis.Nil) {
			return err
		}
		return nil
	}, nil
}

func sqlCalls(addr string, sdk bool) (func(context.Context) error, error) {
	open := sql.Open
	if sdk {
		open = func(driver, dsn string) (*sql.DB, error) {
			return otelsql.Open(driver, dsn, otelsql.WithAttributes(attribute.String("db.system.name", "postgresql")),
				otelsql.WithSpanOptions(otelsql.SpanOptions{OmitConnResetSession: true, OmitRows: true, OmitConnectorConnect: true}))
		}
	}
	db, err := open("postgres", "postgres://tester@"+addr+"/postgres?sslmode=disable")
	if err != nil {
		return nil, err
	}
	db.SetMaxIdleConns(16)
	return func(ctx context.Context) error {
		_, err := db.ExecContext(ctx, "SELECT 4711 WHERE 1 = 0")
		return err
	}, nil
}

func grpcCalls(addr string, sdk bool) (func(context.Context) error, error) {
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if sdk {
		options = append(options, grpc.WithStatsHandler(otelgrpc.NewClientHandler()))
	}
	conn, err := grpc.NewClient(addr, options...)
	if err != nil {
		return nil, err
	}
	c := grpc_health_v1.NewHealthClient(conn)
	return func(ctx context.Context) error {
		_, err := c.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		return err
	}, nil
}

func serveGRPC(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	fmt.Printf("ready {\"pid\":%d,\"http\":%q}\n", os.Getpid(), l.Addr())
	return s.Serve(l)
}
