#!/usr/bin/env bash
# Installs what is missing on a Debian machine: make, git, and Go 1.26 or newer.
# With "demo" also Redis and curl, with "dev" what the tests and the BPF code need. Does nothing for what is
# there. Needs root only when something has to be installed by apt.
#
#   scripts/bootstrap.sh [demo|dev]
set -euo pipefail
cd "$(dirname "$0")/.."
want_go=1.26.10
min_minor=26

need=()
have() { command -v "$1" >/dev/null 2>&1; }
want() { have "$1" || need+=("$2"); }
want make make
want git git
if [ "${1:-}" = demo ]; then
  want redis-server redis-server
  want curl curl
fi
if [ "${1:-}" = dev ]; then
  want gcc gcc
  want strip binutils
  want flock util-linux
  want taskset util-linux
  want clang-19 clang-19
  want llvm-strip-19 llvm-19
  want clang-format-19 clang-format-19
  want bpftool bpftool
  want shellcheck shellcheck
  want redis-server redis-server
  want promtool prometheus
  want curl curl
  [ -e /usr/lib/postgresql ] || need+=(postgresql)
  [ -e /usr/sbin/mariadbd ] || need+=(mariadb-server-core)
  want ip iproute2
  want ps procps
  want nft nftables
  [ -e /usr/sbin/nginx ] || need+=(nginx-light)
  [ -e /usr/include/bpf/bpf_helpers.h ] || need+=(libbpf-dev)
  [ -e /usr/include/linux/bpf.h ] || need+=(linux-libc-dev)
  [ -e /usr/include/stdlib.h ] || need+=(libc6-dev)
fi

# minor prints Go's minor version, 0 when there is no such program.
minor() {
  local v
  v=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null || true)
  v=${v#go1.}
  v=${v%%[!0-9]*}
  echo "${v:-0}"
}
go_is_there() {
  local p
  for p in go /usr/local/go/bin/go "$PWD/bin/go/bin/go"; do
    if [ "$(minor "$p")" -ge "$min_minor" ]; then return 0; fi
  done
  return 1
}
if ! go_is_there && ! have go; then need+=(golang-go ca-certificates); fi

if [ ${#need[@]} -gt 0 ]; then
  echo "bootstrap: installing ${need[*]}"
  sudo=
  if [ "$(id -u)" != 0 ]; then sudo=sudo; fi
  export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 # no service is started
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

# Debian 12 has Go 1.19 only. Go's own module system holds the newer toolchains:
# any Go since 1.14 can fetch one as a module; it is checked like every module.
if ! go_is_there; then
  mod=golang.org/toolchain@v0.0.1-go$want_go.linux-$(dpkg --print-architecture)
  echo "bootstrap: fetching $mod"
  said=$(cd / && GOFLAGS=-mod=mod GOTOOLCHAIN=local go mod download -json "$mod" 2>&1) || true
  dir=$(sed -n 's/^[[:space:]]*"Dir": "\(.*\)",\{0,1\}$/\1/p' <<<"$said")
  if [ -z "$dir" ]; then
    echo "bootstrap: no $mod, install Go 1.$min_minor or newer by hand, or see to this: $said" >&2
    exit 1
  fi
  mkdir -p bin
  rm -rf bin/go
  cp -r "$dir" bin/go
  chmod -R u+w bin/go
  chmod +x bin/go/bin/* bin/go/pkg/tool/*/*
  # Inside a module there can be no other go.mod; the go command renames them too.
  while IFS= read -r f; do cp "$f" "${f%_go.mod}go.mod"; done < <(find bin/go/src -name _go.mod)
fi
