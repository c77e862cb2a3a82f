// Command routers serves the same paths with one router each: on every port
// /plain, /orders/{id}, /api/items/{id} (in a group or mounted), /files/ with a rest, a
// redirect, a handler that panics, and one that answers 404 itself.
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
	"syscall"

	"github.com/gin-gonic/gin"
	chiold "github.com/go-chi/chi"
	"github.com/go-chi/chi/v5"
	"github.com/gorilla/mux"
	"github.com/labstack/echo/v4"
)

func ok(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }
func missing(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "no such order", http.StatusNotFound)
}
func moved(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/plain", http.StatusFound) }
func boom(http.ResponseWriter, *http.Request)      { panic("boom") }

func withGin() http.Handler {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.Use(func(c *gin.Context) { c.Next() })
	e.GET("/plain", gin.WrapF(ok))
	e.GET("/orders/:id", gin.WrapF(ok))
	e.GET("/files/*path", gin.WrapF(ok))
	e.GET("/missing/:id", gin.WrapF(missing))
	e.GET("/moved", gin.WrapF(moved))
	e.GET("/boom/:id", gin.WrapF(boom))
	g := e.Group("/api")
	g.GET("/items/:id", gin.WrapF(ok))
	return e
}

func withChi() http.Handler {
	r := chi.NewRouter()
	r.Use(func(next http.Handler) http.Handler { return next })
	r.Get("/plain", ok)
	r.Get("/orders/{id}", ok)
	r.Get("/files/*", ok)
	r.Get("/missing/{id}", missing)
	r.Get("/moved", moved)
	r.Get("/boom/{id}", boom)
	r.Route("/api", func(r chi.Router) {
		r.Get("/", ok)
		sub := chi.NewRouter()
		sub.Get("/{id}", ok)
		r.Mount("/items", sub)
	})
	return r
}

func withOldChi() http.Handler {
	r := chiold.NewRouter()
	r.Get("/plain", ok)
	r.Get("/orders/{id}", ok)
	r.Get("/files/*", ok)
	r.Get("/missing/{id}", missing)
	r.Get("/moved", moved)
	r.Get("/boom/{id}", boom)
	r.Route("/api", func(r chiold.Router) {
		r.Get("/", ok)
		sub := chiold.NewRouter()
		sub.Get("/{id}", ok)
		r.Mount("/items", sub)
	})
	return r
}

func withEcho() http.Handler {
	e := echo.New()
	wrap := func(h http.HandlerFunc) echo.HandlerFunc { return echo.WrapHandler(h) }
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc { return next })
	e.GET("/plain", wrap(ok))
	e.GET("/orders/:id", wrap(ok))
	e.GET("/files/*", wrap(ok))
	e.GET("/missing/:id", wrap(missing))
	e.GET("/moved", wrap(moved))
	e.GET("/boom/:id", wrap(boom))
	e.Group("/api").GET("/items/:id", wrap(ok))
	return e
}

func withMux() http.Handler {
	r := mux.NewRouter()
	r.HandleFunc("/plain", ok)
	r.HandleFunc("/orders/{id:[0-9]+}", ok)
	r.PathPrefix("/files/").HandlerFunc(ok)
	r.HandleFunc("/missing/{id}", missing)
	r.HandleFunc("/moved", moved)
	r.HandleFunc("/boom/{id}", boom)
	api := r.PathPrefix("/api").Subrouter()
	api.HandleFunc("/items/{id}", ok)
	return r
}

func main() {
	log.SetFlags(0)
	servers := map[string]func() http.Handler{
		"gin": withGin, "chi": withChi, "oldchi": withOldChi, "echo": withEcho, "mux": withMux,
	}
	if withEcho5 != nil {
		servers["echo5"] = withEcho5
	}
	addrs := map[string]string{}
	for name, handler := range servers {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		addrs[name] = l.Addr().String()
		srv := &http.Server{Handler: handler(), ErrorLog: log.New(io.Discard, "", 0)}
		go func() { log.Fatal(srv.Serve(l)) }()
	}
	ready, err := json.Marshal(map[string]any{"pid": os.Getpid(), "http": addrs["mux"], "servers": addrs})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("ready %s\n", ready)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}
