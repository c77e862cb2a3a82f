package k8s

import (
	"regexp"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	corev1 "k8s.io/api/core/v1"
)

// Pod is what is known of one container and its pod. It is not changed once made.
type Pod struct {
	Namespace, Name, UID, Node string
	Container                  string
	Image                      string
	Restarts                   int
	Start                      string
	Labels, Annotations        map[string]string
	// Owners by kind, the pod itself included.
	Owners map[string]string

	uids map[string]string // of the owners that the pod names, by kind
}

func newPod(p *corev1.Pod, c *corev1.ContainerStatus) *Pod {
	out := &Pod{
		Namespace: p.Namespace, Name: p.Name, UID: string(p.UID), Node: p.Spec.NodeName,
		Container: c.Name, Image: c.Image, Restarts: int(c.RestartCount),
		Labels: p.Labels, Annotations: p.Annotations,
		Owners: map[string]string{"Pod": p.Name}, uids: map[string]string{},
	}
	if p.Status.StartTime != nil {
		out.Start = p.Status.StartTime.UTC().Format("2006-01-02T15:04:05Z")
	}
	for _, o := range p.OwnerReferences {
		out.Owners[o.Kind], out.uids[o.Kind] = o.Name, string(o.UID)
		switch o.Kind {
		case "ReplicaSet":
			if name := deploymentOf(o.Name, p.Labels["pod-template-hash"]); name != "" {
				out.Owners["Deployment"] = name
			}
		case "Job":
			if m := cronJobName.FindStringSubmatch(o.Name); m != nil {
				out.Owners["CronJob"] = m[1]
			}
		}
	}
	return out
}

// deploymentOf takes the hash off a ReplicaSet's name. A ReplicaSet that somebody made
// by hand has no such hash.
func deploymentOf(replicaSet, hash string) string {
	if hash == "" {
		return ""
	}
	name, ok := strings.CutSuffix(replicaSet, "-"+hash)
	if !ok {
		return ""
	}
	return name
}

// cronJobName: a CronJob's jobs end in the minutes since 1970.
var cronJobName = regexp.MustCompile(`^(.+)-\d{8,10}$`)

// The OpenTelemetry operator's annotations for resource attributes.
const annotationPrefix = "resource.opentelemetry.io/"

// owners in the operator's order of precedence, with their attributes.
var owners = []struct {
	kind      string
	name, uid attribute.Key
}{
	{"Deployment", semconv.K8SDeploymentNameKey, ""},
	{"ReplicaSet", semconv.K8SReplicaSetNameKey, semconv.K8SReplicaSetUIDKey},
	{"StatefulSet", semconv.K8SStatefulSetNameKey, semconv.K8SStatefulSetUIDKey},
	{"DaemonSet", semconv.K8SDaemonSetNameKey, semconv.K8SDaemonSetUIDKey},
	{"CronJob", semconv.K8SCronJobNameKey, ""},
	{"Job", semconv.K8SJobNameKey, semconv.K8SJobUIDKey},
}

// Attributes are the pod's resource attributes and, by the rules of the OpenTelemetry
// operator, those of the service. The first value of a key counts.
func (p *Pod) Attributes() []attribute.KeyValue {
	var out []attribute.KeyValue
	add := func(key attribute.Key, value string) {
		if value != "" {
			out = append(out, key.String(value))
		}
	}
	for key, value := range p.Annotations {
		if name, ok := strings.CutPrefix(key, annotationPrefix); ok && name != "" {
			add(attribute.Key(name), value)
		}
	}
	add(semconv.ServiceNameKey, p.serviceName())
	add(semconv.ServiceNamespaceKey, p.Namespace)
	add(semconv.ServiceVersionKey, p.serviceVersion())
	add(semconv.ServiceInstanceIDKey, p.Namespace+"."+p.Name+"."+p.Container)
	add(semconv.K8SNamespaceNameKey, p.Namespace)
	add(semconv.K8SPodNameKey, p.Name)
	add(semconv.K8SPodUIDKey, p.UID)
	add(semconv.K8SNodeNameKey, p.Node)
	add("k8s.pod.start_time", p.Start)
	add(semconv.K8SContainerNameKey, p.Container)
	out = append(out, semconv.K8SContainerRestartCount(p.Restarts))
	for _, o := range owners {
		add(o.name, p.Owners[o.kind])
		if o.uid != "" {
			add(o.uid, p.uids[o.kind])
		}
	}
	return out
}

func (p *Pod) serviceName() string {
	for _, label := range []string{"app.kubernetes.io/instance", "app.kubernetes.io/name"} {
		if v := p.Labels[label]; v != "" {
			return v
		}
	}
	for _, o := range owners {
		if v := p.Owners[o.kind]; v != "" {
			return v
		}
	}
	if p.Name != "" {
		return p.Name
	}
	return p.Container
}

// serviceVersion is a label's, or the image's tag and digest.
func (p *Pod) serviceVersion() string {
	if v := p.Labels["app.kubernetes.io/version"]; v != "" {
		return v
	}
	name, digest, hasDigest := strings.Cut(p.Image, "@")
	tag := ""
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		tag = name[i+1:]
	}
	switch {
	case tag != "" && hasDigest:
		return tag + "@" + digest
	case tag != "":
		return tag
	case hasDigest:
		return digest
	}
	return ""
}
