// Command fasthttp serves with valyala/fasthttp itself, and with fiber on top of it.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// call makes a request of its own, as a client that knows no context.
func call(url string) (int, error) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// trade answers an order, in the way the query says.
func trade(ctx *fasthttp.RequestCtx) {
	var o struct {
		Quantity float64 `json:"quantity"`
	}
	if err := json.Unmarshal(ctx.PostBody(), &o); err != nil {
		ctx.Error(err.Error(), fasthttp.StatusBadRequest)
		return
	}
	answer := fmt.Sprintf(`{"quantity":%v}`, o.Quantity)
	ctx.SetContentType("application/json; charset=utf-8")
	ctx.Response.Header.Set("X-Amount", fmt.Sprint(o.Quantity))
	switch string(ctx.QueryArgs().Peek("as")) {
	case "text":
		ctx.SetContentType("text/plain")
		ctx.SetBodyString(answer)
	case "raw":
		ctx.Response.SetBodyRaw([]byte(answer))
	case "stream":
		ctx.SetBodyStream(strings.NewReader(answer), -1)
	case "swapped":
		ctx.Request.SetBodyString(`{"symbol":"SWAPPED","quantity":100000}`)
		ctx.SetBodyString(answer)
	case "zip":
		ctx.Response.Header.Set("Content-Encoding", "gzip")
		ctx.SetBody(fasthttp.AppendGzipBytes(nil, []byte(answer)))
	case "long":
		ctx.SetBodyString(answer[:len(answer)-1] + `,"x":"` + strings.Repeat("x", 9000) + `"}`)
	default:
		ctx.SetBodyString(answer)
	}
}

func handle(ctx *fasthttp.RequestCtx) {
	switch path := string(ctx.Path()); {
	case path == "/plain":
		ctx.SetBodyString("ok")
	case path == "/echo":
		ctx.SetBody(ctx.PostBody())
	case path == "/status":
		n, _ := strconv.Atoi(string(ctx.QueryArgs().Peek("is")))
		ctx.SetStatusCode(n)
	case path == "/stream":
		ctx.SetBodyStream(strings.NewReader("streamed"), -1)
	case path == "/trades":
		trade(ctx)
	case path == "/slow":
		fasthttp.TimeoutHandler(func(ctx *fasthttp.RequestCtx) {
			trade(ctx)
			<-ctx.Done() // never, before the server ends
		}, 10*time.Millisecond, `{"quantity":512}`)(ctx)
	case path == "/call":
		n, err := call(string(ctx.QueryArgs().Peek("url")))
		if err != nil {
			ctx.Error(err.Error(), 502)
			return
		}
		ctx.SetStatusCode(n)
	default:
		ctx.Error("nothing here", fasthttp.StatusNotFound)
	}
}

func fiber2(l net.Listener) error {
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Use(func(c *fiber.Ctx) error { return c.Next() })
	ok := func(c *fiber.Ctx) error { return c.SendString("ok") }
	app.Get("/plain", ok)
	app.Get("/orders/:id", ok)
	app.Post("/trades/:id", func(c *fiber.Ctx) error {
		var o map[string]any
		if err := c.BodyParser(&o); err != nil {
			return err
		}
		return c.JSON(map[string]any{"quantity": o["quantity"]})
	})
	app.Get("/missing/:id", func(c *fiber.Ctx) error { return fiber.ErrNotFound })
	app.Group("/api").Get("/items/:id", ok)
	sub := fiber.New()
	sub.Get("/users/:id", ok)
	app.Mount("/mounted", sub)
	return app.Listener(l)
}

func main() {
	log.SetFlags(0)
	servers := map[string]func(net.Listener) error{
		"fasthttp": (&fasthttp.Server{Handler: handle, Logger: log.New(io.Discard, "", 0), MaxRequestBodySize: 1000}).Serve,
		"fiber":    fiber2,
		"stream":   (&fasthttp.Server{Handler: handle, Logger: log.New(io.Discard, "", 0), StreamRequestBody: true}).Serve,
	}
	if fiber3 != nil {
		servers["fiber3"] = fiber3
	}
	addrs := map[string]string{}
	for name, serve := range servers {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		addrs[name] = l.Addr().String()
		go func(serve func(net.Listener) error) { log.Fatal(serve(l)) }(serve)
	}
	// The fence of the tests needs a server that always answers.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		log.Fatal(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })))
	}()
	ready, err := json.Marshal(map[string]any{"pid": os.Getpid(), "http": l.Addr().String(), "servers": addrs})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("ready %s\n", ready)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}
