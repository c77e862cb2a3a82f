#!/usr/bin/env bash
# make test-k8s: the chart on a real Kubernetes of one node, two Go services under load, a
# real Collector. It asserts k8s attributes on both services' spans, the very first request
# of a pod that gets it a second after its start, a pod that is made again, an agent that is
# made again without an error of the services, and that nothing is left after the uninstall.
# Every form of the chart, the plain manifests and the Collector example go past the API
# server's validation before.
set -euo pipefail
cd "$(dirname "$0")/../.."
cluster=scripts/k8s/cluster.sh
ip=10.251.0.1
work=$(mktemp -d)
pids=()

cleanup() {
	local rc=$?
	if [ $rc -ne 0 ] && [ -e /run/netns/tracer-k8s ]; then
		$cluster kubectl -n observability logs ds/tracer-agent --tail=30 || true
		$cluster kubectl get pods -A -o wide || true
	fi
	for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
	$cluster down
	rm -rf "$work"
	exit $rc
}
trap cleanup EXIT

fail() {
	echo "test-k8s: $*" >&2
	exit 1
}
# soon SECONDS WHAT COMMAND...
soon() {
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@"; do
		[ $SECONDS -lt $end ] || fail "not in time: $what"
		sleep .3
	done
	echo "ok: $what"
}
inside() { nsenter --net=/run/netns/tracer-k8s "$@"; }

export CGO_ENABLED=0
$cluster build
helm=$(scripts/k8s/chart.sh helm)
collector=$(testdata/collector/build.sh)
mkdir -p "$work/target"
# The very root file system that make image packs.
scripts/image.sh root "$work/agent"
(cd testdata/targets/trivial && go build -trimpath -o "$work/target/shop" .)
(cd testdata/targets/early && go build -trimpath -o "$work/target/early" .)
# The definitions of PodMonitor and ServiceMonitor, as the Prometheus operator has them.
operator=$(go mod download -json github.com/prometheus-operator/prometheus-operator@v0.85.0 | sed -n 's/.*"Dir": "\(.*\)",/\1/p')

# By namespace, because this machine has other Go programs than the cluster's.
scripts/k8s/chart.sh check
template() { "$helm" template tracer-agent k8s/chart --kube-version 1.34.4 --namespace observability "$@"; }
template --set image.repository=docker.io/local/agent,image.tag=test,image.pullPolicy=Never \
	--set config.select.all_go=false --set 'config.instrument[0].all_go=true,config.instrument[0].k8s.namespace=default' \
	--set "config.otlp.endpoint=http://$ip:4317" --set config.batch.schedule_delay=200ms --set stateHostPath= >"$work/agent.yaml"

$cluster up
$cluster image docker.io/local/agent:test "$work/agent" /tracer-agent
$cluster image docker.io/local/shop:test "$work/target" /shop
cat >"$work/collector.yaml" <<YAML
receivers: {otlp: {protocols: {grpc: {endpoint: "$ip:4317"}}}}
exporters: {file: {path: $work/spans.json, flush_interval: 100ms}}
service: {telemetry: {metrics: {level: none}}, pipelines: {traces: {receivers: [otlp], exporters: [file]}}}
YAML
inside "$collector" --config "$work/collector.yaml" >"$work/collector.log" 2>&1 &
pids+=($!)

$cluster kubectl apply -f k8s/manifests/namespace.yaml >/dev/null
for crd in podmonitors servicemonitors; do
	$cluster kubectl create -f "$operator/example/prometheus-operator-crd/monitoring.coreos.com_$crd.yaml" >/dev/null
done
$cluster kubectl wait --for=condition=established --timeout=20s crd --all >/dev/null
valid() { $cluster kubectl apply --dry-run=server --validate=strict "$@" >/dev/null || fail "refused by the API server: $*"; }
template | valid -f -
template --set networkPolicy.enabled=true,podMonitor.enabled=true,serviceMonitor.enabled=true,podLabels.a=b,podAnnotations.c=d,stateHostPath= \
	--set 'imagePullSecrets[0].name=x,env[0].name=A,env[0].valueFrom.secretKeyRef.name=s,env[0].valueFrom.secretKeyRef.key=k' | valid -f -
valid -k k8s/manifests
valid -k deploy/collector
echo "ok: chart, plain manifests and the Collector example are valid"
$cluster kubectl apply -f "$work/agent.yaml" >/dev/null
# A pod that is there before its agent, and one that comes later.
service() {
	cat <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: $1}
spec:
  selector: {matchLabels: {app: $1}}
  template:
    metadata: {labels: {app: $1}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: app, image: "docker.io/local/shop:test", imagePullPolicy: Never, args: [-addr, ":8080", -upstream, "http://10.97.0.80:8080/"]}]
---
apiVersion: v1
kind: Service
metadata: {name: $1}
spec: {clusterIP: $2, selector: {app: $1}, ports: [{port: 8080}]}
YAML
}
service front 10.97.0.70 | $cluster kubectl apply -f - >/dev/null
service back 10.97.0.80 | $cluster kubectl apply -f - >/dev/null
$cluster kubectl rollout status deploy/front deploy/back --timeout=90s >/dev/null
$cluster kubectl -n observability rollout status ds/tracer-agent --timeout=120s

call() { inside curl -sf -m 5 -o /dev/null "http://10.97.0.70:8080/call"; }
# spans SERVICE POD: the Collector has a span of it with everything that Kubernetes says.
spans() {
	python3 - "$work/spans.json" "$1" "$2" <<'PY'
import json, sys
path, service, pod = sys.argv[1:]
want = {"service.name": service, "k8s.deployment.name": service, "k8s.namespace.name": "default", "k8s.pod.name": pod,
        "k8s.node.name": "node1", "k8s.container.name": "app"}
try:
    lines = open(path).read().splitlines()
except OSError:
    sys.exit(1)
for line in lines:
    try:
        batch = json.loads(line)
    except ValueError:
        continue # being written
    for r in batch["resourceSpans"]:
        have = {a["key"]: a["value"].get("stringValue") for a in r["resource"]["attributes"]}
        if all(have.get(k) == v for k, v in want.items()) and have.get("container.id") and have.get("k8s.pod.uid"):
            sys.exit(0)
sys.exit(1)
PY
}
pod_of() { $cluster kubectl get pod -l "app=$1" --field-selector=status.phase=Running -o jsonpath='{.items[0].metadata.name}'; }
traced() { call && spans "$1" "$2"; }
front=$(pod_of front)
back=$(pod_of back)
soon 60 "spans of front with its pod's names" traced front "$front"
soon 30 "spans of back, called by front" traced back "$back"

# Its first request comes a second after its start, and is the only one of that path.
$cluster kubectl apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Pod
metadata: {name: early}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: "docker.io/local/shop:test", imagePullPolicy: Never, command: [/early, -addr, ":8080"]}]
YAML
first() { grep -q '"url.path","value":{"stringValue":"/first"}' "$work/spans.json"; }
soon 30 "the first request of a pod, a second after its start" first
# How long that took from the start of its program on.
python3 - "$work/spans.json" "$(pgrep -of '^/early ')" <($cluster kubectl -n observability logs ds/tracer-agent) <<'PY'
import datetime, re, sys, time
spans, pid, log = sys.argv[1:]
ticks = int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[19])
start = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / 100
line = next(l for l in open(log) if "msg=instrumented" in l and f" pid={pid} " in l)
on = datetime.datetime.fromisoformat(re.search(r"time=(\S+)", line)[1].replace("Z", "+00:00")).timestamp()
began = [int(m) / 1e9 for l in open(spans) for m in re.findall(r'"startTimeUnixNano":"(\d+)"(?:(?!startTimeUnixNano).)*"url.path","value":{"stringValue":"/first"}', l)]
print(f"its probes were on {on - start:.2f} s after its start, its first request began {min(began) - start:.2f} s and its span was here {time.time() - start:.2f} s after")
PY

$cluster kubectl delete pod "$front" --wait=true >/dev/null
$cluster kubectl rollout status deploy/front --timeout=60s >/dev/null
front=$(pod_of front)
soon 60 "spans of the pod that was made again, $front" traced front "$front"

# The agent is made again, twice, under load: no request may fail.
: >"$work/errors"
while [ ! -e "$work/enough" ]; do call || echo x >>"$work/errors"; done &
load=$!
$cluster kubectl -n observability rollout restart ds/tracer-agent >/dev/null
$cluster kubectl -n observability rollout status ds/tracer-agent --timeout=120s >/dev/null
$cluster kubectl -n observability delete pod -l app.kubernetes.io/name=tracer-agent --force --grace-period=0 >/dev/null 2>&1
$cluster kubectl -n observability rollout status ds/tracer-agent --timeout=120s >/dev/null
touch "$work/enough"
wait $load
[ ! -s "$work/errors" ] || fail "$(wc -l <"$work/errors") requests failed while the agent was made again"
echo "ok: no request failed while the agent was rolled and killed"

$cluster kubectl delete -f "$work/agent.yaml" --wait=true >/dev/null
gone() { ! $cluster kubectl get ds,cm,sa,clusterrole,clusterrolebinding -A -o name | grep -q tracer-agent && ! pgrep -f '^/tracer-agent run' >/dev/null; }
soon 60 "nothing left after the uninstall" gone
call || fail "the services do not work after the uninstall"
echo "test-k8s: all passed"
