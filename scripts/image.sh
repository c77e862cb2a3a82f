#!/usr/bin/env bash
# Images without a registry, a daemon or a network: what the Dockerfile gives, from a
# binary, the same bytes every time. docker load and ctr images import take them.
#   image.sh agent OUT.tar                     the agent's image, tagged tracer-agent:VERSION
#   image.sh root DIR                          its root file system only
#   image.sh check                             builds it twice, in two folders, and compares
#   image.sh OUT.tar NAME:TAG DIR COMMAND...   any folder as an image of one layer
# GOARCH picks the architecture; VERSION, COMMIT what the agent says of itself.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)

version() { git -C "$top" describe --tags --always 2>/dev/null || echo dev; }
arch() { echo "${GOARCH:-$(go env GOHOSTARCH)}"; }

root() {
	mkdir -p "$1"
	(cd "$top" && CGO_ENABLED=0 GOOS=linux GOARCH=$(arch) go build -trimpath -buildvcs=false \
		-ldflags "-s -w -buildid= -X main.version=${VERSION:-$(version)} -X main.commit=${COMMIT:-none}" -o "$1/tracer-agent" ./cmd/tracer-agent)
}

# pack OUT NAME:TAG DIR CONFIG: CONFIG is the image's config object.
pack() {
	local out=$1 name=$2 dir=$3 config=$4 work sum
	work=$(mktemp -d)
	flat() { tar --owner=0 --group=0 --numeric-owner --sort=name --mtime=@0 --format=ustar --mode=a=rX,u+w "$@"; }
	flat -C "$dir" -cf "$work/layer.tar" .
	sum=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
	printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
		"$(arch)" "$config" "$sum" >"$work/config.json"
	printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$name" >"$work/manifest.json"
	flat -C "$work" -cf "$out" manifest.json config.json layer.tar
	rm -rf "$work"
}

# check builds a second time from a copy elsewhere, with another umask and time zone.
check() {
	local work first second
	work=$(mktemp -d)
	# shellcheck disable=SC2064 # the folder of now
	trap "rm -rf '$work'" EXIT
	mkdir "$work/elsewhere"
	git -C "$top" ls-files -z | tar -C "$top" --null -T - -cf - | tar -C "$work/elsewhere" -xf -
	export VERSION=${VERSION:-$(version)}
	first=$("$0" agent "$work/first.tar" | cut -d' ' -f1)
	second=$(umask 077 && TZ=Asia/Tokyo LC_ALL=C "$work/elsewhere/scripts/image.sh" agent "$work/second.tar" | cut -d' ' -f1)
	[ "$first" = "$second" ] || {
		echo "image: two builds differ: $first, $second" >&2
		return 1
	}
	echo "image: both builds are sha256:$first"
}

case ${1:-} in
root) root "$2" ;;
check) check ;;
agent)
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	chmod 755 "$dir"
	root "$dir"
	pack "$2" "tracer-agent:${VERSION:-$(version)}" "$dir" \
		'{"Entrypoint":["/tracer-agent"],"Cmd":["run","--config","/etc/tracer-agent/config.yaml"],"WorkingDir":"/"}'
	sha256sum "$2"
	;;
'' | -*)
	sed -n '2,8p' "$0"
	exit 2
	;;
*)
	out=$1 name=$2 dir=$3
	shift 3
	pack "$out" "$name" "$dir" "$(printf '{"Entrypoint":[%s],"WorkingDir":"/"}' "$(printf '"%s",' "$@" | sed 's/,$//')")"
	;;
esac
