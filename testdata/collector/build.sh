#!/bin/sh
# Builds the OpenTelemetry Collector of builder.yaml into the test cache and
# prints the path of the binary. About four minutes on two cores when nothing is
# cached; nothing to do when the binary of this very builder.yaml is there.
#
#   testdata/collector/build.sh            # ${XDG_CACHE_HOME:-~/.cache}/tracer-agent
#   TRACER_TEST_CACHE=/dir testdata/collector/build.sh
#   testdata/collector/build.sh deploy/collector/builder.yaml   # another one
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${TRACER_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tracer-agent}
dir=$cache/collector
config=$here/builder.yaml
if [ $# -gt 0 ]; then
	config=$(realpath "$1")
	dir=$cache/collector-of-$(sed -n 's/^  name: //p' "$config")
fi
version=v$(sed -n 's/^  version: //p' "$config")
mkdir -p "$dir"
bin=$dir/$(sed -n 's/^  name: //p' "$config")

# Two builds at once would write into the same folder.
exec 9>"$dir/.lock"
flock 9

if [ -x "$bin" ] && cmp -s "$config" "$dir/builder.yaml.built"; then
	echo "$bin"
	exit 0
fi

{
	GOBIN=$dir go install "go.opentelemetry.io/collector/cmd/builder@$version"
	rm -rf "$dir/out"
	cd "$dir"
	# The builder's own tidy step wants modules of tests that a proxy may not
	# have; the sources are complete by then, so its error does not matter.
	"$dir/builder" --config "$config" --skip-compilation || [ -f "$dir/out/main.go" ]
	cd "$dir/out"
	CGO_ENABLED=0 GOFLAGS=-mod=mod GOWORK=off nice -n 10 go build -trimpath -o "$bin" .
	cp "$config" "$dir/builder.yaml.built"
} >&2
echo "$bin"
