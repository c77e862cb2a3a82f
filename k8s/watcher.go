package k8s

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	// waitFor bounds how long a container may be without a pod before it counts as one
	// that Kubernetes does not know.
	waitFor   = 5 * time.Second
	lookEvery = time.Second
	// maxAsked bounds the containers that wait; pods of a node are a few hundred.
	maxAsked = 4096
)

// Options of a Watcher.
type Options struct {
	// Config is how the API server is reached.
	Config *rest.Config
	// Node is the name of the node whose pods are watched.
	Node string
	Log  *slog.Logger
	// Changed is called, from any goroutine, when PodOf may answer otherwise.
	Changed func()
}

// Watcher knows the pods of a node.
type Watcher struct {
	log     *slog.Logger
	changed func()
	synced  func() bool

	mu    sync.Mutex
	pods  map[string]*Pod      // by container id
	ofPod map[string][]string  // container ids, by the pod's uid
	asked map[string]time.Time // containers without a pod, since when
	waits chan struct{}        // told when there is one

	cancel context.CancelFunc
	done   sync.WaitGroup
}

// New starts to watch. It does not wait for the API server: an agent must come up while
// that is down.
func New(o Options) (*Watcher, error) {
	if o.Node == "" {
		return nil, errors.New("kubernetes: the node's name is not known")
	}
	client, err := podClient(o.Config)
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	w := &Watcher{
		log: o.Log, changed: o.Changed,
		pods: map[string]*Pod{}, ofPod: map[string][]string{}, asked: map[string]time.Time{},
		waits: make(chan struct{}, 1),
	}
	own := fields.OneTermEqualSelector("spec.nodeName", o.Node)
	informer := cache.NewSharedInformer(cache.NewListWatchFromClient(client, "pods", corev1.NamespaceAll, own), &corev1.Pod{}, 0)
	if err := w.listen(informer); err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	w.synced = informer.HasSynced
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.done.Go(func() { informer.Run(ctx.Done()) })
	w.done.Go(func() { w.expire(ctx) })
	return w, nil
}

// podClient is a client of the core API that knows pods only: the whole client set would
// be half of the agent.
func podClient(c *rest.Config) (*rest.RESTClient, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	own := rest.CopyConfig(c)
	own.APIPath, own.GroupVersion = "/api", &corev1.SchemeGroupVersion
	own.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	own.ContentType = runtime.ContentTypeProtobuf
	return rest.RESTClientFor(own)
}

func (w *Watcher) listen(informer cache.SharedInformer) error {
	// What is kept of a pod is what is looked at.
	if err := informer.SetTransform(func(obj any) (any, error) {
		if p, ok := obj.(*corev1.Pod); ok {
			p.ManagedFields = nil
			p.Spec = corev1.PodSpec{NodeName: p.Spec.NodeName}
			p.Status.Conditions = nil
		}
		return obj, nil
	}); err != nil {
		return err
	}
	if err := informer.SetWatchErrorHandler(func(_ *cache.Reflector, err error) {
		w.log.Warn("pods cannot be watched; tried again", "error", err)
	}); err != nil {
		return err
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { w.put(obj) },
		UpdateFunc: func(_, obj any) { w.put(obj) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if p, ok := obj.(*corev1.Pod); ok {
				w.drop(string(p.UID))
			}
		},
	})
	return err
}

// put notes a pod's containers, those that have ended included: their last spans may be
// under way.
func (w *Watcher) put(obj any) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	var ids []string
	waited := false
	w.mu.Lock()
	old := w.ofPod[string(p.UID)]
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for i := range list {
			id := bareID(list[i].ContainerID)
			if id == "" {
				continue
			}
			ids = append(ids, id)
			w.pods[id] = newPod(p, &list[i])
			if _, ok := w.asked[id]; ok {
				delete(w.asked, id)
				waited = true
			}
		}
	}
	for _, id := range old {
		if !contains(ids, id) {
			delete(w.pods, id)
		}
	}
	w.ofPod[string(p.UID)] = ids
	w.mu.Unlock()
	if waited && w.changed != nil {
		w.changed()
	}
}

func (w *Watcher) drop(uid string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range w.ofPod[uid] {
		delete(w.pods, id)
	}
	delete(w.ofPod, uid)
}

// PodOf returns the pod of a container. known is false while it may still turn up; nil
// and known: there is none.
func (w *Watcher) PodOf(container string) (pod *Pod, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.pods[container]; p != nil {
		return p, true
	}
	since, ok := w.asked[container]
	if !ok {
		if len(w.asked) >= maxAsked {
			return nil, true
		}
		w.asked[container] = time.Now()
		select {
		case w.waits <- struct{}{}:
		default:
		}
		return nil, false
	}
	return nil, time.Since(since) >= waitFor
}

// expire tells when containers have waited long enough, and forgets them a while later.
// While none waits it sleeps.
func (w *Watcher) expire(ctx context.Context) {
	t := time.NewTimer(lookEvery)
	defer t.Stop()
	looking := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.waits:
			if !looking {
				looking = true
				t.Reset(lookEvery)
			}
		case now := <-t.C:
			told := false
			w.mu.Lock()
			for id, since := range w.asked {
				switch age := now.Sub(since); {
				case age >= 10*waitFor:
					delete(w.asked, id)
				case age >= waitFor && age < waitFor+2*lookEvery:
					told = true
				}
			}
			if looking = len(w.asked) > 0; looking {
				t.Reset(lookEvery)
			}
			w.mu.Unlock()
			if told && w.changed != nil {
				w.changed()
			}
		}
	}
}

// Synced says that the node's pods are known.
func (w *Watcher) Synced() bool { return w.synced() }

// Close ends the watch and waits for it.
func (w *Watcher) Close() error {
	w.cancel()
	w.done.Wait()
	return nil
}

// bareID takes containerd:// and the like away.
func bareID(id string) string {
	_, bare, ok := strings.Cut(id, "://")
	if !ok {
		return id
	}
	return bare
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
