package main

import (
	"fmt"
	"slices"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/dbpool"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/redact"
	"github.com/tracer-agent/tracer-agent/probes/fasthttp"
	"github.com/tracer-agent/tracer-agent/probes/grpc"
	"github.com/tracer-agent/tracer-agent/probes/mongodriver"
	"github.com/tracer-agent/tracer-agent/probes/nethttp"
	"github.com/tracer-agent/tracer-agent/probes/redis"
	"github.com/tracer-agent/tracer-agent/probes/sql"
	"github.com/tracer-agent/tracer-agent/probes/websocket"
	"github.com/tracer-agent/tracer-agent/probes/wire/mongo"
)

// specs are the probes of this build, a line each. full says that what is only counted
// is decoded like spans, asked what rules look at; pools, which may be nil, learns of
// connection pools.
func specs(cfg config.Config, full bool, asked looks, pools *dbpool.Registry) ([]*probe.Spec, error) {
	var list []*probe.Spec
	for _, newSpec := range []func(config.Config, *dbpool.Registry) (*probe.Spec, error){
		func(cfg config.Config, _ *dbpool.Registry) (*probe.Spec, error) { return httpSpec(cfg, full, asked) },
		redisSpec,
		mongoSpec,
		grpcSpec,
		sqlSpec,
		func(cfg config.Config, _ *dbpool.Registry) (*probe.Spec, error) { return fasthttpSpec(cfg, asked) },
		websocketSpec,
	} {
		s, err := newSpec(cfg, pools)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// probeNames are what the configuration can switch. Specs of the default configuration
// cannot fail; if one did, any name would do.
func probeNames() (names []string) {
	list, err := specs(config.Default(), false, looks{}, nil)
	if err != nil {
		return nil
	}
	for _, s := range list {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return names
}

func httpSpec(cfg config.Config, full bool, asked looks) (*probe.Spec, error) {
	s, err := nethttp.New(nethttp.Config{
		Redact:         redact.New(cfg.Redact.QueryNames),
		CaptureHeaders: cfg.Propagation.CorrelationHeaders,
		Join:           joins(cfg),
		PeerName:       cfg.PeerName,
		CountFull:      full,
		AnswerHeaders:  asked.answers,
		Bodies:         asked.bodies,
		Unseen:         asked.unseenBy("nethttp"),
	})
	if err != nil {
		return nil, fmt.Errorf("probe nethttp: %w", err)
	}
	return s, nil
}

func redisSpec(cfg config.Config, pools *dbpool.Registry) (*probe.Spec, error) {
	return redis.New(redis.Config{QueryText: redis.QueryText(cfg.Redis.QueryText), Pools: pools}), nil
}

func mongoSpec(cfg config.Config, pools *dbpool.Registry) (*probe.Spec, error) {
	text := map[string]mongo.TextMode{
		config.QueryTextOff: mongo.TextOff, config.QueryTextShape: mongo.TextShape, config.QueryTextFull: mongo.TextFull,
	}
	return mongodriver.New(mongodriver.Config{QueryText: text[cfg.MongoDB.QueryText], Pools: pools}), nil
}

func grpcSpec(cfg config.Config, _ *dbpool.Registry) (*probe.Spec, error) {
	return grpc.New(grpc.Config{Join: joins(cfg), StatusMessages: cfg.GRPC.StatusMessages}), nil
}

func fasthttpSpec(cfg config.Config, asked looks) (*probe.Spec, error) {
	s, err := fasthttp.New(fasthttp.Config{
		Redact: redact.New(cfg.Redact.QueryNames), Join: joins(cfg),
		CaptureHeaders: cfg.Propagation.CorrelationHeaders, AnswerHeaders: asked.answers, Bodies: asked.bodies,
	})
	if err != nil {
		return nil, fmt.Errorf("probe fasthttp: %w", err)
	}
	return s, nil
}

func websocketSpec(config.Config, *dbpool.Registry) (*probe.Spec, error) { return websocket.New(), nil }

// joins says whether both ends of a connection are joined for any process; a process's
// own mode may be off all the same.
func joins(cfg config.Config) bool {
	return slices.ContainsFunc(cfg.PropagationModes(), func(mode string) bool { return mode != config.PropagateOff })
}

func sqlSpec(cfg config.Config, pools *dbpool.Registry) (*probe.Spec, error) {
	counted := pools != nil // with metrics
	return sql.New(sql.Config{QueryText: sql.QueryText(cfg.SQL.QueryText), Pools: pools,
		AllEnds: !counted && cfg.Sampling.RootRatio() < 1}), nil
}
