// Package status is the agent's window: whether it lives, whether it is ready, what it
// watches and what it has lost, and the Go profiles of itself. It listens on loopback
// unless the configuration says otherwise, changes nothing, and shows no setting that
// could hold a secret. What watched programs chose, such as names, is escaped.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

const (
	snapshotWithin = 2 * time.Second
	readWithin     = 5 * time.Second
	maxHeaderBytes = 16 << 10
)

// Snapshot is what the page shows.
type Snapshot struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	// Ready, or why not.
	Ready   bool     `json:"ready"`
	Why     string   `json:"why,omitempty"`
	Enabled bool     `json:"enabled"`
	Targets []Target `json:"targets"`
	Probes  []Probe  `json:"probes"`
	// Exporters of spans, and how they fare.
	Exporters []Exporter `json:"exporters"`
	// Losses and Metrics are the agent's own counters that are not zero.
	Losses  []Value `json:"losses"`
	Metrics []Value `json:"metrics"`
}

// Target is a selected process.
type Target struct {
	PID         int32    `json:"pid"`
	Service     string   `json:"service,omitempty"`
	Exe         string   `json:"exe"`
	SelectedBy  string   `json:"selected_by"`
	Go          string   `json:"go,omitempty"`
	Watched     bool     `json:"watched"`
	Propagation string   `json:"propagation,omitempty"`
	Probes      []string `json:"probes,omitempty"`
	Why         string   `json:"why,omitempty"`
}

// Exporter is one destination of spans.
type Exporter struct {
	Name    string `json:"name"`
	Waiting int    `json:"spans_waiting"`
	Taken   uint64 `json:"spans_taken"`
	// Tried is when a batch was sent last, nil before the first.
	Tried *time.Time `json:"last_tried,omitempty"`
	// State is "idle", "ok", or what is wrong.
	State string `json:"state"`
}

// Probe is one attach point of all executables.
type Probe struct {
	Probe    string        `json:"probe"`
	Point    string        `json:"point"`
	Class    string        `json:"class"`
	Attached int           `json:"attached"`
	Hits     uint64        `json:"hits"`
	Time     time.Duration `json:"time_ns"`
}

// Value is one counter.
type Value struct {
	Name   string  `json:"name"`
	Labels string  `json:"labels,omitempty"`
	Value  float64 `json:"value"`
}

// Options of a Server.
type Options struct {
	// Address is host:port.
	Address  string
	Snapshot func(context.Context) (Snapshot, error)
	// Ready says why the agent is not ready, nil when it is.
	Ready func() error
	Log   *slog.Logger
}

// Server is the HTTP server; Close ends it.
type Server struct {
	http *http.Server
	addr string
	done chan struct{}
}

// New listens and serves.
func New(o Options) (*Server, error) {
	lis, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("status page: %w", err)
	}
	s := &Server{addr: lis.Addr().String(), done: make(chan struct{})}
	s.http = &http.Server{
		Handler: handler(o), ReadTimeout: readWithin, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			o.Log.Error("the status page ended", "error", err)
		}
	}()
	return s, nil
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.addr }

// Close ends the server and waits for it.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}

func handler(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		// An answer of the slow path says that it is not stuck.
		ctx, cancel := context.WithTimeout(r.Context(), snapshotWithin)
		defer cancel()
		_, err := o.Snapshot(ctx)
		say(w, err)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { say(w, o.Ready()) })
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, r *http.Request) {
		o.show(w, r, "application/json", func(s Snapshot) error {
			enc := json.NewEncoder(w) // which escapes <, > and &
			enc.SetIndent("", "  ")
			return enc.Encode(s)
		})
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		o.show(w, r, "text/html; charset=utf-8", func(s Snapshot) error { return page.Execute(w, s) })
	})
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return guard(mux)
}

// guard refuses names that are none of this host's: a web page in a browser here could
// else read the answers after a change of its name's address.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if host != "localhost" && net.ParseIP(host) == nil {
			http.Error(w, "use an address or localhost", http.StatusForbidden)
			return
		}
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func say(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (o *Options) show(w http.ResponseWriter, r *http.Request, kind string, write func(Snapshot) error) {
	ctx, cancel := context.WithTimeout(r.Context(), snapshotWithin)
	defer cancel()
	s, err := o.Snapshot(ctx)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", kind)
	if err := write(s); err != nil {
		o.Log.Debug("status page", "error", err) // the reader has gone
	}
}
