#!/usr/bin/env bash
# Prints the path of a Debian kernel package, downloading it first when the cache
# has none. The mirror is the one this machine's apt uses; the machine's own
# package lists are not touched. The newest package of the series is taken.
#
#   scripts/vm/kernel.sh 5.10|6.1|6.12|7.3 [amd64|arm64]
#
# Exit status: 0 printed, 1 not to be had (standard error says why), 2 usage.
set -euo pipefail

usage() {
  sed -n '2,9p' "$0" >&2
  exit 2
}
series=${1:-}
arch=${2:-amd64}
case $arch in amd64 | arm64) ;; *) usage ;; esac
archive=debian
case $series in
  5.10) suite=bullseye-security archive=debian-security pattern="linux-image-5\.10\.[0-9]+-[0-9]+-cloud-$arch" ;;
  6.1) suite=bookworm pattern="linux-image-6\.1\.[0-9]+-[0-9]+-cloud-$arch" ;;
  6.12) suite=bookworm-backports pattern="linux-image-6\.12\.[0-9]+\+deb12-cloud-$arch" ;;
  7.3) suite=trixie-backports pattern="linux-binary-7\.[0-9.]+\+deb13-cloud-$arch" ;;
  *) usage ;;
esac

cache=${TRACER_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tracer-agent}/kernels
dir=$cache/$series-$arch
mkdir -p "$dir"
have() { find "$dir" -name '*.deb' | sort -V | tail -n 1; }
deb=$(have)
if [ -n "$deb" ]; then
  echo "$deb"
  exit 0
fi

# sources lists the addresses in this machine's apt configuration, in both formats.
sources() {
  find /etc/apt/sources.list /etc/apt/sources.list.d -type f -exec \
    sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' {} + 2>/dev/null | tr ' ' '\n'
}
mirror=$(sources | grep -m 1 "/$archive/\?\$" || true)
if [ -z "$mirror" ]; then
  echo "kernel: no /$archive mirror in this machine's apt sources: put the package into $dir" >&2
  exit 1
fi

apt=$cache/apt-$suite-$arch
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
: >"$apt/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/sources.list"
options=(-q -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists"
  -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root
  -o Acquire::Languages=none -o "APT::Architecture=$arch" -o "APT::Architectures=$arch")
fail() {
  echo "kernel: $1: $(tail -n 1 "$apt/log")" >&2
  exit 1
}
apt-get "${options[@]}" update >"$apt/log" 2>&1 || fail "package list of $suite"
package=$(apt-cache "${options[@]}" pkgnames linux- | grep -xE "$pattern" | sort -V | tail -n 1 || true)
if [ -z "$package" ]; then
  echo "kernel: $suite has no kernel $series for $arch" >&2
  exit 1
fi
(cd "$dir" && apt-get "${options[@]}" download "$package") >>"$apt/log" 2>&1 || fail "download of $package"
have
