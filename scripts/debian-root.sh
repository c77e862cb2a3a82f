#!/usr/bin/env bash
# Prints the path of a tar of a bare Debian root, or of one with the packages named, made
# the first time. Needs root and debootstrap.
#   scripts/debian-root.sh [PACKAGE...]
set -euo pipefail
cache=${TRACER_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tracer-agent}
base=$cache/debian-base.tar
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache"
if [ ! -f "$base" ]; then
	debootstrap --variant=minbase stable "$work/b" >/dev/null
	tar -C "$work/b" -cf "$base.new" .
	mv "$base.new" "$base"
	rm -rf "$work/b"
fi
if [ $# = 0 ]; then
	echo "$base"
	exit
fi
with=$cache/debian-$(printf %s "$*" | tr ' ' -).tar
if [ ! -f "$with" ]; then
	mkdir "$work/b"
	tar -C "$work/b" -xf "$base"
	cp /etc/resolv.conf "$work/b/etc/"
	chroot "$work/b" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -ec \
		'apt-get update -qq; apt-get install -y -qq --no-install-recommends "$@"; apt-get clean
		rm -rf /var/lib/apt/lists/* /usr/share/doc/* /usr/share/locale/* /usr/share/man/*' sh "$@" >"$work/log" 2>&1 || {
		tail -n 5 "$work/log" >&2
		exit 1
	}
	tar -C "$work/b" -cf "$with.new" .
	mv "$with.new" "$with"
fi
echo "$with"
