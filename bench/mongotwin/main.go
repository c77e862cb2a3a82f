// Command mongotwin makes MongoDB commands as fast as it is asked: plain, or with the
// OpenTelemetry SDK in it (otelmongo 0.40 for the driver v1, OTLP over HTTP, the SDK's batching as it comes).
package main

import (
	"context"
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

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.opentelemetry.io/contrib/instrumentation/go.mongodb.org/mongo-driver/mongo/otelmongo"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/trace"
)

// commands a request: what HTTP costs is shared by as many.
const commands = 20

func main() {
	uri := flag.String("uri", "", "MongoDB server")
	sdk := flag.Bool("sdk", false, "with the SDK")
	flag.Parse()
	ctx := context.Background()
	o := options.Client().ApplyURI(*uri)
	if *sdk {
		exp, err := otlptracehttp.New(ctx)
		if err != nil {
			log.Fatal(err)
		}
		provider := trace.NewTracerProvider(trace.WithBatcher(exp))
		defer provider.Shutdown(ctx)
		otel.SetTracerProvider(provider)
		o.SetMonitor(otelmongo.NewMonitor())
	}
	c, err := mongo.Connect(ctx, o)
	if err != nil {
		log.Fatal(err)
	}
	orders := c.Database("bench").Collection("orders")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range commands {
			filter := bson.D{{Key: "user", Value: "u-4711"}, {Key: "px", Value: bson.D{{Key: "$gt", Value: 5}}}}
			if err := orders.FindOne(r.Context(), filter).Err(); err != nil && !errors.Is(err, mongo.ErrNoDocuments) {
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
