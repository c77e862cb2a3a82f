# shellcheck shell=bash
# Sourced by the scripts: puts a new enough Go first in PATH, wherever
# bootstrap.sh found or put it.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
for dir in "$root/bin/go/bin" /usr/local/go/bin; do
  if [ -x "$dir/go" ]; then PATH=$dir:$PATH; break; fi
done
export PATH
unset dir
