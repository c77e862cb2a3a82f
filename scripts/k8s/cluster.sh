#!/usr/bin/env bash
# A Kubernetes of one node for make test-k8s: etcd, API server, controller manager,
# scheduler, kubelet and containerd on this machine, in a network namespace of their own,
# without any registry. One binary, built once from Go's module proxy (minutes), holds
# everything but containerd and runc.
#
#   cluster.sh build | up | down | kubectl ARGS... | image NAME:TAG DIR CMD...
#
# Needs root and: containerd runc iptables containernetworking-plugins conntrack ethtool
# iproute2 openssl gcc libc6-dev.
set -euo pipefail
version=1.34.4
cache=${TRACER_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tracer-agent}
bin=$cache/k8s-lite
dir=${K8S_DIR:-/var/lib/tracer-agent-k8s}
run=/run/tracer-agent-k8s
ns=tracer-k8s
node=node1
ip=10.251.0.1
sock=$run/containerd.sock

inside() { nsenter --net=/run/netns/$ns "$@"; }
kubectl() { inside "$bin" kubectl --kubeconfig "$run/admin.conf" "$@"; }
start() {
	local name=$1
	shift
	setsid nsenter --net=/run/netns/$ns "$@" >"$run/$name.log" 2>&1 </dev/null &
	echo $! >"$run/$name.pid"
}
# until SECONDS COMMAND...: polls, and says what it has waited for in vain.
until_ok() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		if [ $SECONDS -ge $end ]; then
			echo "cluster: gave up on: $*" >&2
			return 1
		fi
		sleep .3
	done
}

build() {
	[ ! -x "$bin" ] || return 0
	local work=$cache/k8s-build mod
	mkdir -p "$work"
	cd "$work"
	mod=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
	{
		printf 'module k8s-lite\n\n'
		sed -n '/^go /p' "$mod"
		printf '\nrequire k8s.io/kubernetes v%s\nreplace (\n' "$version"
		# Its own parts are published with the same number below v0.
		sed -n "s#^\\t\\(k8s.io/[a-z-]*\\) => ./staging.*#\\t\\1 => \\1 v0.${version#1.}#p" "$mod"
		echo ')'
	} >go.mod
	cp "$here/lite.go.txt" main.go
	go mod tidy
	local v=k8s.io/component-base/version
	CGO_ENABLED=0 go build -buildvcs=false -trimpath -o "$bin" \
		-ldflags "-s -w -X $v.gitVersion=v$version -X $v.gitMajor=1 -X $v.gitMinor=34 -X k8s.io/client-go/pkg/version.gitVersion=v$version" .
}

certificates() {
	local pki=$dir/pki
	[ ! -f "$pki/done" ] || return 0
	mkdir -p "$pki"
	cd "$pki"
	openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=test-ca 2>/dev/null
	openssl genrsa -out sa.key 2048 2>/dev/null
	openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
	sign apiserver /CN=kube-apiserver "subjectAltName=DNS:kubernetes,DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:$ip,IP:10.97.0.1"
	sign admin /O=system:masters/CN=admin ''
	sign kubelet "/O=system:nodes/CN=system:node:$node" "subjectAltName=DNS:$node,IP:$ip,IP:127.0.0.1"
	touch "$pki/done"
}
sign() {
	openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2" 2>/dev/null
	openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" \
		-extfile <(printf '%s\n' 'extendedKeyUsage=clientAuth,serverAuth' "$3") 2>/dev/null
}
kubeconfig() {
	cat >"$1" <<-YAML
		apiVersion: v1
		kind: Config
		clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443", certificate-authority: $dir/pki/ca.crt}}]
		users: [{name: u, user: {client-certificate: $dir/pki/$2.crt, client-key: $dir/pki/$2.key}}]
		contexts: [{name: d, context: {cluster: c, user: u}}]
		current-context: d
	YAML
}

# image NAME:TAG DIR CMD...: the folder as an image of one layer, loaded into containerd.
image() {
	local tar
	tar=$(mktemp)
	"$here/../image.sh" "$tar" "$@"
	ctr -a "$sock" -n k8s.io images import "$tar" >/dev/null
	rm -f "$tar"
}

network() {
	ip netns add $ns 2>/dev/null || true
	inside ip link set lo up
	inside ip link add node0 type veth peer name node0p 2>/dev/null || true
	inside ip link set node0p up
	inside ip addr replace $ip/24 dev node0
	inside ip link set node0 up
	inside ip route replace default dev node0
	inside sysctl -qw net.ipv4.ip_forward=1
	mkdir -p "$run/cni"
	cat >"$run/cni/10-bridge.conflist" <<-JSON
		{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"hairpinMode":true,
		 "ipam":{"type":"host-local","dataDir":"$run/ipam","ranges":[[{"subnet":"10.245.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},{"type":"portmap","capabilities":{"portMappings":true}}]}
	JSON
}

runtime() {
	cat >"$run/containerd.toml" <<-TOML
		version = 2
		root = "$dir/containerd"
		state = "$run/containerd"
		[grpc]
		  address = "$sock"
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "docker.io/local/pause:1"
		  netns_mounts_under_state_dir = true
		  restrict_oom_score_adj = true
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "/usr/lib/cni"
		    conf_dir = "$run/cni"
		  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		    runtime_type = "io.containerd.runc.v2"
		    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
		      SystemdCgroup = false
	TOML
	start containerd containerd --config "$run/containerd.toml"
	until_ok 20 ctr -a "$sock" version
	local work
	work=$(mktemp -d)
	mkdir "$work/root"
	printf '#include <signal.h>\n#include <unistd.h>\nstatic void q(int s){_exit(0);}\nint main(void){signal(SIGINT,q);signal(SIGTERM,q);for(;;)pause();}\n' >"$work/pause.c"
	gcc -Os -static -o "$work/root/pause" "$work/pause.c"
	image docker.io/local/pause:1 "$work/root" /pause
	rm -rf "$work"
}

up() {
	local pki=$dir/pki
	mkdir -p "$run" "$dir"
	certificates
	kubeconfig "$run/admin.conf" admin
	kubeconfig "$run/kubelet.conf" kubelet
	network
	runtime
	start etcd "$bin" etcd --data-dir "$dir/etcd" --listen-client-urls http://127.0.0.1:2379 \
		--advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync
	start apiserver "$bin" kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --secure-port=6443 \
		--advertise-address=$ip --service-cluster-ip-range=10.97.0.0/16 --allow-privileged=true --authorization-mode=Node,RBAC \
		--client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
		--kubelet-preferred-address-types=InternalIP --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key" \
		--service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$pki/sa.pub" \
		--service-account-signing-key-file="$pki/sa.key"
	until_ok 90 kubectl get --raw /readyz
	start manager "$bin" kube-controller-manager --kubeconfig "$run/admin.conf" --root-ca-file="$pki/ca.crt" \
		--service-account-private-key-file="$pki/sa.key" --use-service-account-credentials=true --leader-elect=false
	start scheduler "$bin" kube-scheduler --kubeconfig "$run/admin.conf" --leader-elect=false
	cat >"$run/kubelet.yaml" <<-YAML
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: $pki/ca.crt}}
		authorization: {mode: AlwaysAllow}
		tlsCertFile: $pki/kubelet.crt
		tlsPrivateKeyFile: $pki/kubelet.key
		cgroupDriver: cgroupfs
		failCgroupV1: false
		failSwapOn: false
		containerRuntimeEndpoint: unix://$sock
		resolvConf: ""
		evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
		imageGCHighThresholdPercent: 100
	YAML
	start kubelet "$bin" kubelet --config "$run/kubelet.yaml" --kubeconfig "$run/kubelet.conf" --hostname-override=$node \
		--node-ip=$ip --root-dir="$dir/kubelet"
	start proxy "$bin" kube-proxy --kubeconfig "$run/admin.conf" --hostname-override=$node --cluster-cidr=10.245.0.0/24 \
		--proxy-mode=iptables --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0
	until_ok 60 kubectl get node $node
	kubectl wait --for=condition=Ready node/$node --timeout=90s >/dev/null
}

stop() {
	local pid
	for name in "$@"; do
		if pid=$(cat "$run/$name.pid" 2>/dev/null); then kill "$pid" 2>/dev/null || true; fi
	done
}

down() {
	[ -d "$run" ] || return 0
	timeout 20 "$0" kubectl delete ds,deploy --all -A --wait=false >/dev/null 2>&1 || true
	timeout 20 "$0" kubectl delete pod --all -A --grace-period=1 --wait=false >/dev/null 2>&1 || true
	for _ in $(seq 60); do
		[ -n "$(ctr -a "$sock" -n k8s.io tasks ls -q 2>/dev/null)" ] || break
		sleep .5
	done
	stop kubelet proxy scheduler manager apiserver etcd
	for task in $(ctr -a "$sock" -n k8s.io tasks ls -q 2>/dev/null); do
		ctr -a "$sock" -n k8s.io tasks kill -s KILL "$task" >/dev/null 2>&1 || true
		ctr -a "$sock" -n k8s.io tasks rm -f "$task" >/dev/null 2>&1 || true
	done
	stop containerd
	sleep 1
	grep -oE " ($dir|$run)/[^ ]*" /proc/self/mounts | tac | while read -r m; do umount -l "$m" 2>/dev/null || true; done
	ip netns delete $ns 2>/dev/null || true
	rm -rf "$run" "$dir"
}

here=$(cd "$(dirname "$0")" && pwd)
command=${1:-}
[ $# -eq 0 ] || shift
case $command in
build | up | down) "$command" ;;
kubectl | image) "$command" "$@" ;;
*)
	sed -n '2,12p' "$0"
	exit 2
	;;
esac
