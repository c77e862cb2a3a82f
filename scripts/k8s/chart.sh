#!/usr/bin/env bash
# The chart and the plain manifests that are rendered from it.
#   chart.sh render   writes k8s/manifests/tracer-agent.yaml
#   chart.sh check    helm lint, helm template with every switch, and fails when the plain
#                     manifests are not what the chart gives
#   chart.sh helm     prints where helm is, which is built once from Go's module proxy
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${TRACER_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tracer-agent}
helm=$cache/helm
plain=k8s/manifests/tracer-agent.yaml

need_helm() {
	[ -x "$helm" ] || CGO_ENABLED=0 GOBIN=$cache go install helm.sh/helm/v3/cmd/helm@v3.19.0 >&2
}
# The version, because helm built by go install takes an old one for the cluster's.
template() { "$helm" template tracer-agent k8s/chart --kube-version 1.34.4 --namespace observability "$@"; }
render() {
	echo '# Rendered from k8s/chart by make manifests: change the chart, not this file.'
	# Nobody manages these by helm.
	template | grep -vE '^ *(app.kubernetes.io/managed-by|helm.sh/chart): |^# Source: '
}
# has TEXT ARGS...: the chart rendered with ARGS has the text.
has() {
	local text=$1
	shift
	template "$@" | grep -qF -- "$text" || {
		echo "chart: helm template $* has no '$text'" >&2
		return 1
	}
}

check() {
	"$helm" lint --strict --quiet k8s/chart
	has 'emptyDir: {sizeLimit: 1Gi}' --set stateHostPath=
	has 'agent@sha256:0' --set image.digest=sha256:0
	has 'kind: PodMonitor' --set podMonitor.enabled=true
	has 'kind: ServiceMonitor' --set serviceMonitor.enabled=true
	has 'clusterIP: None' --set serviceMonitor.enabled=true
	has 'containerPort: 9000' --set serviceMonitor.enabled=true,config.metrics.prometheus_port=9000
	has 'kind: NetworkPolicy' --set networkPolicy.enabled=true
	has 'ports: [{port: metrics}]' --set networkPolicy.enabled=true,podMonitor.enabled=true
	has 'priorityClassName: other' --set priorityClassName=other
	has 'secretKeyRef' --set 'env[0].name=OTEL_EXPORTER_OTLP_HEADERS,env[0].valueFrom.secretKeyRef.name=otlp,env[0].valueFrom.secretKeyRef.key=headers'
	if template | grep -nE 'privileged: true|hostNetwork: true|kind: (Secret|Role)$|verbs:.*(get|create|update|patch|delete|\*)'; then
		echo 'chart: more rights than the agent needs' >&2
		return 1
	fi
	diff -u "$plain" <(render) || {
		echo "chart: $plain is not what the chart gives: make manifests" >&2
		return 1
	}
}

case ${1:-} in
render)
	need_helm
	render >"$plain.new"
	mv "$plain.new" "$plain"
	;;
check)
	need_helm
	check
	;;
helm)
	need_helm
	echo "$helm"
	;;
*)
	sed -n '2,7p' "$0"
	exit 2
	;;
esac
