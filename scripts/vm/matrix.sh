#!/usr/bin/env bash
# Runs test/kernels inside other kernels, a virtual machine for each, and
# keeps what each said in out/kernels/KERNEL.jsonl, of which COMPATIBILITY.md is made.
# Installs what it needs by apt when it is missing.
#
#   scripts/vm/matrix.sh KERNEL...      KERNEL is 5.10, 6.1, 6.12 or 7.3;
#                                       6.1-lockdown is 6.1 with lockdown=integrity,
#                                       6.12-arm64 loads the programs on arm64
#   GO_VERSIONS="1.18.10 1.26.8"        builds the traced programs with these
#   RUN=REGEXP                          runs only these tests
#   PART=NAME                           keeps what this part said in KERNEL.NAME.jsonl, for
#                                       runs that are done in pieces
#   TRACER_TEST_PATIENCE=N              stretches time limits, for a machine that is busy
#   MINUTES=18                          how long a kernel's tests may take
#   JOBS=1                              how many virtual machines run at the same time
#   BUILT="amd64 arm64"                 takes what the last run built for these
#   TRACER_BYTES_REQUESTS=N ...         how much TestBytes and TestMemoryChain do
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

if [ $# = 0 ]; then
  sed -n '2,19p' "$0" >&2
  exit 2
fi
versions=${GO_VERSIONS:-1.18.10 1.23.12 1.26.8}
minutes=${MINUTES:-18}
out=$PWD/out/kernels

need=()
want() { command -v "$1" >/dev/null 2>&1 || need+=("$2"); }
want qemu-system-x86_64 qemu-system-x86
case "$*" in *-arm64*) want qemu-system-aarch64 qemu-system-arm ;; esac
want cpio cpio
if [ ${#need[@]} -gt 0 ]; then
  echo "matrix: installing ${need[*]}"
  sudo=
  if [ "$(id -u)" != 0 ]; then sudo=sudo; fi
  export DEBIAN_FRONTEND=noninteractive
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

# build makes the test, the agent and the traced programs for an architecture.
build() {
  local bin=$out/bin-$1 v
  rm -rf "$out/targets-$1"
  mkdir -p "$bin" "$out/targets-$1"
  CGO_ENABLED=0 GOARCH=$1 go test -c -ldflags '-s -w' -o "$bin/kernels.test" ./test/kernels
  CGO_ENABLED=0 GOARCH=$1 go build -trimpath \
    -ldflags '-s -w -X github.com/tracer-agent/tracer-agent/internal/probe.statsFirst=10h' -o "$bin/tracer-agent" ./cmd/tracer-agent
  for v in $versions; do
    (cd testdata/targets/httpmatrix && GOFLAGS=-buildvcs=false GOTOOLCHAIN=go$v CGO_ENABLED=0 GOARCH=$1 \
      go build -o "$out/targets-$1/httpmatrix-go$v" .)
  done
  # These have modules of their own, which the newest of the versions builds.
  for v in variety otelchain grpc; do
    (cd "testdata/targets/$v" && GOFLAGS=-buildvcs=false GOTOOLCHAIN=go${versions##* } CGO_ENABLED=0 GOARCH=$1 \
      go build -o "$out/targets-$1/$v" .)
  done
  # grpc of other times, with the Go of those: as test/kernels has them outside a guest.
  for v in mid=1.22.12 old=1.18.10; do
    (cd testdata/targets/grpc && GOFLAGS=-buildvcs=false GOTOOLCHAIN=go${v#*=} CGO_ENABLED=0 GOARCH=$1 \
      go build -modfile="go.${v%=*}.mod" -o "$out/targets-$1/grpc-${v%=*}" .)
  done
}
for name in "$@"; do
  case $name in
    *-arm64) arm64=1 ;;
    *) amd64=1 ;;
  esac
done
if [ -n "${amd64:-}" ] && [[ " ${BUILT:-} " != *" amd64 "* ]]; then build amd64; fi
if [ -n "${arm64:-}" ] && [[ " ${BUILT:-} " != *" arm64 "* ]]; then build arm64; fi
settings=() plain=()
for name in TRACER_BYTES_REQUESTS TRACER_BYTES_FROM TRACER_BYTES_SEED TRACER_CHAIN_REQUESTS; do
  if [ -n "${!name:-}" ]; then settings+=(-e "$name=${!name}"); fi
done
# What arrives without the agent is found out here, where it takes a second.
if [ -n "${TRACER_BYTES_REQUESTS:-}" ] && [ -n "${amd64:-}" ] && [ "$(uname -m)" = x86_64 ]; then
  TRACER_TARGETS=$out/targets-amd64 TRACER_BYTES_SAVE=$out/plain.gob "$out/bin-amd64/kernels.test" -test.run '^TestBytes$' >"$out/plain.log" 2>&1 ||
    { tail -n 40 "$out/plain.log" >&2; exit 1; }
  plain=(-f "$out/plain.gob:/plain.gob")
  settings+=(-e TRACER_BYTES_PLAIN=/plain.gob)
fi

# The packages come first, one by one: two apt on the same lists get in each other's way.
failed=()
declare -A packages=()
for name in "$@"; do
  arch=amd64
  if [[ $name == *-arm64 ]]; then arch=arm64; fi
  if package=$(scripts/vm/kernel.sh "${name%%-*}" $arch); then packages[$name]=$package; else failed+=("$name"); fi
done

# one runs the tests inside a kernel; its status is 0 when they passed.
one() {
  local name=$1 arch=amd64 words='' only=${RUN:-} said=$out/$1${PART:+.$PART} status
  case $name in
    *-arm64) arch=arm64 only=${RUN:-TestLoadAll} ;;
    *-lockdown) words=lockdown=integrity ;;
  esac
  # A guest that dies in the middle was tripped by the emulation as a rule: once more. What
  # we did to it dies again.
  for try in 1 2 3; do
    status=0
    scripts/vm/boot.sh -a $arch -k "$words" -t $((minutes * 60 + 120)) -f "$out/bin-$arch/tracer-agent:/tracer-agent" -f "$out/targets-$arch:/targets" ${plain[@]+"${plain[@]}"} \
      -e TRACER_AGENT_BIN=/tracer-agent -e TRACER_TARGETS=/targets -e TRACER_RESULTS=1 \
      -e TRACER_REQUIRE_KERNEL=1 -e TRACER_TEST_PATIENCE="${TRACER_TEST_PATIENCE:-6}" ${settings[@]+"${settings[@]}"} \
      "${packages[$name]}" "$out/bin-$arch/kernels.test" -test.v -test.timeout "${minutes}m" ${only:+-test.run "$only"} \
      >"$said.log" || status=$?
    if [ "$status" != 125 ]; then break; fi
    echo "matrix: kernel $name died in try $try" >&2
  done
  sed -n 's/^@@result //p' "$said.log" >"$said.jsonl"
  if [ "$status" = 0 ] && grep -q '"outcome":"pass"' "$said.jsonl"; then
    echo "== kernel $name passed ($(date -u +%H:%M:%S))"
    grep -E '^ *--- (PASS|SKIP)' "$said.log"
    return 0
  fi
  grep -v '^tracer_agent_\|^# ' "$said.log" | tail -n 200
  echo "matrix: kernel $name failed with status $status; all of it: $said.log" >&2
  return 1
}

# A job is a process group of its own, QEMU in it, so that all of it ends when this script
# does: what is started in the background ignores the interrupt of a terminal.
set -m
running=()
stop() {
  trap '' INT TERM
  for job in ${running[@]+"${running[@]}"}; do kill -TERM -- "-${job#*=}" 2>/dev/null || true; done
  wait
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# reap prints what the first job said only when that has ended: in one piece.
reap() {
  local name=${running[0]%%=*}
  wait "${running[0]#*=}" || failed+=("$name")
  running=("${running[@]:1}")
  cat "$out/$name.said"
}
for name in "$@"; do
  if [ -z "${packages[$name]:-}" ]; then continue; fi
  if [ ${#running[@]} -ge "${JOBS:-1}" ]; then reap; fi
  echo "== kernel $name ($(date -u +%H:%M:%S))"
  one "$name" </dev/null >"$out/$name.said" 2>&1 &
  running+=("$name=$!")
done
while [ ${#running[@]} -gt 0 ]; do reap; done
if [ ${#failed[@]} -gt 0 ]; then
  echo "matrix: failed on ${failed[*]}" >&2
  exit 1
fi
