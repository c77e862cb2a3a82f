#!/usr/bin/env bash
# A release without publishing it: archives, packages, SBOMs and checksums of this commit in
# out/release, by goreleaser, which is built once from Go's module proxy (minutes).
set -euo pipefail
cd "$(dirname "$0")/.."
# The first without known vulnerabilities in the standard library: SECURITY.md.
least=go1.26.10
have=$(go env GOVERSION)
if [ "$(printf '%s\n' "$least" "$have" | sort -V | head -n1)" != "$least" ]; then
  echo "release: $have has known vulnerabilities: GOTOOLCHAIN=$least $0" >&2
  exit 1
fi
cache=${TRACER_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tracer-agent}
tool() { [ -x "$cache/$1" ] || CGO_ENABLED=0 GOBIN=$cache go install "$2"; }
tool goreleaser github.com/goreleaser/goreleaser/v2@v2.15.1
tool cyclonedx-gomod github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
export PATH=$cache:$PATH
goreleaser check
goreleaser release --snapshot --clean
cd out/release
# Each archive and package has its checksum, each binary its SBOM.
sha256sum --check --quiet checksums.txt
ls ./*.tar.gz ./*.deb ./*.rpm ./*.cdx.json
