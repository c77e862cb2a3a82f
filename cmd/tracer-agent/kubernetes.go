package main

import (
	"context"
	"fmt"

	"k8s.io/client-go/rest"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/k8s"
)

// podFinder is the pod watcher as selectors want it.
type podFinder struct{ *k8s.Watcher }

// PodOf implements discover.Pods.
func (f podFinder) PodOf(container string) (*discover.Pod, bool) {
	p, known := f.Watcher.PodOf(container)
	if p == nil {
		return nil, known
	}
	return &discover.Pod{
		Namespace: p.Namespace, Name: p.Name, Owners: p.Owners, Labels: p.Labels, Annotations: p.Annotations, Container: p.Container,
	}, true
}

// openKubernetes watches this node's pods, where there is a cluster.
func (a *agent) openKubernetes(cfg config.Kubernetes) error {
	if cfg.Mode == config.KubernetesOff || cfg.Mode == config.KubernetesAuto && cfg.Node == "" {
		return nil
	}
	c, err := rest.InClusterConfig()
	if err != nil {
		if cfg.Mode == config.KubernetesAuto {
			a.log.Info("not in a Kubernetes pod: no pod names", "reason", err)
			return nil
		}
		return fmt.Errorf("kubernetes: %w", err)
	}
	w, err := k8s.New(k8s.Options{Config: c, Node: cfg.Node, Log: a.log, Changed: func() {
		select {
		case a.podNews <- struct{}{}:
		default: // told already
		}
	}})
	if err != nil {
		return err
	}
	a.kube, a.pods = w, podFinder{w}
	return nil
}

// followPods passes news of pods on until ctx is done.
func (a *agent) followPods(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.podNews:
			if err := a.supervisor.PodsChanged(ctx); err != nil {
				return
			}
			a.dir.settle(a.pipeline.Submit)
		}
	}
}
