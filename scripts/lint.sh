#!/usr/bin/env bash
# go vet, golangci-lint (built from the versions in scripts/lint/go.mod), gofmt,
# clang-format and shellcheck. A tool that is missing is named, and fails the run
# under CI.
set -euo pipefail
cd "$(dirname "$0")/.."
rc=0

missing() {
  echo "lint: $1 is not installed: $2 not checked"
  if [ -n "${CI:-}" ]; then rc=1; fi
}

unformatted=$(git ls-files '*.go' | xargs gofmt -l)
if [ -n "$unformatted" ]; then
  echo "not gofmt-ed (make fmt):"
  echo "$unformatted"
  rc=1
fi

go vet ./... || rc=1
go tool -modfile=scripts/lint/go.mod golangci-lint run ./... || rc=1

if command -v clang-format-19 >/dev/null; then
  git ls-files '*.c' '*.h' | xargs clang-format-19 --dry-run --Werror || rc=1
else
  missing clang-format-19 'the C code'
fi
if command -v shellcheck >/dev/null; then
  git ls-files '*.sh' .ci/run | xargs shellcheck || rc=1
else
  missing shellcheck 'shell scripts'
fi
exit $rc
