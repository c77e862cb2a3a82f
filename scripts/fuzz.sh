#!/usr/bin/env bash
# Runs every fuzz test in turn. Usage: fuzz.sh [TIME-PER-TEST]
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}

found=0
while IFS=: read -r file name; do
  found=1
  dir=$(dirname "$file")
  echo "== ./$dir $name"
  go test "./$dir" -run '^$' -fuzz "^$name\$" -fuzztime "$time"
done < <(git ls-files '*_test.go' | xargs grep -o '^func Fuzz[A-Za-z0-9_]*' | sed 's/func //')
if [ $found = 0 ]; then
  echo 'no fuzz test found'
  exit 1
fi
