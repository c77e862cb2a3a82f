package k8s

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestService: names by the OpenTelemetry operator's rules.
func TestService(t *testing.T) {
	owner := func(kind, name string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{Kind: kind, Name: name, UID: "u-1"}}
	}
	for _, tt := range []struct {
		name           string
		meta           metav1.ObjectMeta
		image          string
		service, extra string
		version        string
	}{
		{"deployment", metav1.ObjectMeta{OwnerReferences: owner("ReplicaSet", "cart-5d9f"), Labels: map[string]string{"pod-template-hash": "5d9f"}},
			"reg:5000/cart:1.2", "cart", "k8s.deployment.name=cart", "1.2"},
		{"replica set of nobody", metav1.ObjectMeta{OwnerReferences: owner("ReplicaSet", "cart-5d9f")}, "reg:5000/cart", "cart-5d9f", "k8s.replicaset.uid=u-1", ""},
		{"stateful set", metav1.ObjectMeta{OwnerReferences: owner("StatefulSet", "db")}, "x@sha256:ab", "db", "k8s.statefulset.name=db", "sha256:ab"},
		{"daemon set", metav1.ObjectMeta{OwnerReferences: owner("DaemonSet", "ds")}, "x:1@sha256:ab", "ds", "k8s.daemonset.name=ds", "1@sha256:ab"},
		{"cron job", metav1.ObjectMeta{OwnerReferences: owner("Job", "report-29384756")}, "", "report", "k8s.cronjob.name=report", ""},
		{"job", metav1.ObjectMeta{OwnerReferences: owner("Job", "once")}, "", "once", "k8s.job.name=once", ""},
		{"bare pod", metav1.ObjectMeta{}, "", "pod-1", "k8s.pod.name=pod-1", ""},
		{"label", metav1.ObjectMeta{OwnerReferences: owner("StatefulSet", "db"), Labels: map[string]string{"app.kubernetes.io/name": "shop", "app.kubernetes.io/version": "7"}},
			"x:1", "shop", "k8s.container.name=app", "7"},
		{"instance before name", metav1.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/name": "shop", "app.kubernetes.io/instance": "shop-eu"}}, "", "shop-eu", "service.namespace=ns", ""},
		{"annotation", metav1.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/name": "shop"},
			Annotations: map[string]string{"resource.opentelemetry.io/service.name": "mine", "resource.opentelemetry.io/team": "a"}}, "", "mine", "team=a", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.meta.Name, tt.meta.Namespace = "pod-1", "ns"
			p := newPod(&corev1.Pod{ObjectMeta: tt.meta}, &corev1.ContainerStatus{Name: "app", Image: tt.image})
			got := map[string]string{}
			for _, kv := range p.Attributes() {
				if _, ok := got[string(kv.Key)]; !ok { // the first counts
					got[string(kv.Key)] = kv.Value.String()
				}
			}
			if got["service.name"] != tt.service || got["service.version"] != tt.version {
				t.Errorf("service %q version %q, want %q %q", got["service.name"], got["service.version"], tt.service, tt.version)
			}
			found := false
			for k, v := range got {
				found = found || k+"="+v == tt.extra
			}
			if !found {
				t.Errorf("no %s in %v", tt.extra, got)
			}
		})
	}
}

func TestWatcherState(t *testing.T) {
	changes := 0
	w := &Watcher{pods: map[string]*Pod{}, ofPod: map[string][]string{}, asked: map[string]time.Time{}, changed: func() { changes++ }}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "1"}}
	status := func(id string) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{Name: "c", ContainerID: "containerd://" + id}}
	}
	if p, known := w.PodOf("one"); p != nil || known {
		t.Errorf("got %v, %v before anything is known", p, known)
	}
	pod.Status.ContainerStatuses = status("one")
	w.put(pod)
	if p, known := w.PodOf("one"); p == nil || !known || changes != 1 {
		t.Errorf("got %v, %v and %d changes", p, known, changes)
	}
	pod.Status.ContainerStatuses = status("two") // the container was started again
	w.put(pod)
	if p, _ := w.PodOf("one"); p != nil {
		t.Error("a container that was replaced is still known")
	}
	w.drop("1")
	if len(w.pods) != 0 || len(w.ofPod) != 0 {
		t.Errorf("left behind: %v %v", w.pods, w.ofPod)
	}
}
