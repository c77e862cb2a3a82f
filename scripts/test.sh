#!/usr/bin/env bash
# Runs the tests, installing what they need. As root, every test that needs the
# kernel runs, and a skip that this kernel does not justify fails.
#
#   scripts/test.sh [usual|matrix|large]
#
# "usual" ends inside other kernels, the oldest and the newest that are tried and Debian
# 12's, two at a time, with a part of what make test-kernel runs there: all programs load,
# and calls are handed on in every mode. TRACER_KERNELS names others; empty: none.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/bootstrap.sh dev
# shellcheck source=scripts/env.sh
. scripts/env.sh

if [ "$(id -u)" = 0 ]; then
  export TRACER_REQUIRE_KERNEL=1
else
  echo 'test: not root: tests that load programs into the kernel are skipped'
fi
make --no-print-directory build

case ${1:-usual} in
  usual)
    # The exporter is tried on a real OpenTelemetry Collector, and the Collector is
    # one of the large programs that are traced. Built once: about four minutes.
    testdata/collector/build.sh >/dev/null
    export TRACER_REQUIRE_COLLECTOR=1
    # One package at a time: tests that count what the kernel counts must not
    # meet another test's agent, and two processors are few.
    go test -count=1 -p 1 -timeout 40m ./...
    kernels=${TRACER_KERNELS-5.10 6.1 7.3}
    if [ -n "$kernels" ]; then
      # shellcheck disable=SC2086 # a list
      JOBS=2 TRACER_TEST_PATIENCE=20 MINUTES=20 GO_VERSIONS=1.26.8 RUN='TestLoadAll|TestModePerProcess|TestKernelMode' scripts/vm/matrix.sh $kernels
    fi
    ;;
  matrix)
    TRACER_MATRIX=full go test -count=1 -timeout 80m -v -run 'TestMatrix' ./test/e2e/
    ;;
  large)
    TRACER_LARGE=1 go test -count=1 -timeout 60m -v -run 'TestLarge' ./test/e2e/
    ;;
  *)
    echo "test: unknown set $1: usual, matrix or large" >&2
    exit 2
    ;;
esac
