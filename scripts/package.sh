#!/usr/bin/env bash
# Packages without a network beyond Go's module proxy: out/package/*.deb and *.rpm for
# amd64 and arm64, a list of what is in each binary (CycloneDX), checksums of all, man pages
# and completions.
#   scripts/package.sh           everything
#   scripts/package.sh assets    man pages, completions and the schema only
set -euo pipefail
cd "$(dirname "$0")/.."
out=out/package
NFPM=${NFPM:-github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4}
CYCLONEDX=${CYCLONEDX:-github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0}
VERSION=${VERSION:-$(git describe --tags --always 2>/dev/null || echo 0.0.0)}
COMMIT=${COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || echo none)}
# Packages are dated like the commit, so that the same commit gives the same bytes.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
# Debian and rpm want a version that begins with a digit.
case $VERSION in
v[0-9]*) VERSION=${VERSION#v} ;;
[0-9]*.*) ;;
*) VERSION=0.0.0~$VERSION ;;
esac

build() {
	mkdir -p "$out/$1"
	CGO_ENABLED=0 GOOS=linux GOARCH=$1 go build -trimpath -buildvcs=false \
		-ldflags "-s -w -buildid= -X main.version=$VERSION -X main.commit=$COMMIT" -o "$out/$1/tracer-agent" ./cmd/tracer-agent
}

assets() {
	local bin
	build "$(go env GOHOSTARCH)"
	bin=$out/$(go env GOHOSTARCH)/tracer-agent
	mkdir -p "$out/man" "$out/completion"
	"$bin" man "$out/man"
	gzip -9nf "$out"/man/*.1
	"$bin" completion bash >"$out/completion/tracer-agent.bash"
	"$bin" completion zsh >"$out/completion/_tracer-agent"
	"$bin" completion fish >"$out/completion/tracer-agent.fish"
	"$bin" config schema >"$out/config.schema.json"
}

assets
[ "${1:-}" != assets ] || exit 0
for arch in amd64 arm64; do
	build "$arch"
	for kind in deb rpm; do
		ARCH=$arch VERSION=$VERSION go run "$NFPM" package --config packaging/nfpm.yaml --packager "$kind" --target "$out/"
	done
	# Without number and time, so that the same binary has the same list.
	go run "$CYCLONEDX" bin -json -std -noserial -notimestamp -version "$VERSION" \
		-output "$out/tracer-agent_${VERSION}_$arch.cdx.json" "$out/$arch/tracer-agent"
done
cd "$out"
sha256sum ./*.deb ./*.rpm ./*.cdx.json >SHA256SUMS
cat SHA256SUMS
