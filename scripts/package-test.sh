#!/usr/bin/env bash
# Installs the packages of make package in a bare Debian root and, for rpm, in an empty one:
# files and modes, a changed configuration over an upgrade, removal. Needs root,
# debootstrap and rpm (apt-get install debootstrap rpm).
set -euo pipefail
cd "$(dirname "$0")/.."
arch=$(go env GOHOSTARCH)
deb=$(ls out/package/*_"$arch".deb)
rpm=$(ls out/package/*."$(uname -m)".rpm)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

fail() {
	echo "package-test: $*" >&2
	exit 1
}
# file MODE PATH
file() { [ "$(stat -c '%a %u:%g' "$root$2" 2>/dev/null)" = "$1 0:0" ] || fail "$2 is $(stat -c '%a %u:%g' "$root$2" 2>&1), want $1 0:0"; }
installed() {
	file 755 /usr/bin/tracer-agent
	file 600 /etc/tracer-agent/config.yaml
	file 644 /usr/lib/systemd/system/tracer-agent.service
	file 644 /usr/share/man/man1/tracer-agent-run.1.gz
	file 644 /usr/share/bash-completion/completions/tracer-agent
	file 644 /usr/share/tracer-agent/config.schema.json
	"$root/usr/bin/tracer-agent" config check "$root/etc/tracer-agent/config.yaml" >/dev/null || fail "the configuration is refused"
}
config=/etc/tracer-agent/config.yaml
change() { sed -i 's/^enabled: false/enabled: true/' "$root$config"; }
changed() { grep -q '^enabled: true' "$root$config" || fail "the changed configuration is gone: $1"; }

# A version later than this one, of the same files.
later() {
	ARCH=$arch VERSION=9999.0.0 go run "${NFPM:-github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4}" package --config packaging/nfpm.yaml --packager "$1" --target "$root.$1" >/dev/null
	echo "$root.$1"
}

echo "== $deb"
tar -C "$root" -xf "$(scripts/debian-root.sh)"
inside() { chroot "$root" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
new=$(later deb)
trap 'rm -rf "$root" "$root".deb "$root".rpm' EXIT
cp "$deb" "$root/a.deb"
cp "$new" "$root/b.deb"
inside dpkg -i /a.deb >/dev/null
installed
inside tracer-agent version >/dev/null
change
inside dpkg -i /b.deb >/dev/null
changed 'an upgrade'
inside dpkg -r tracer-agent >/dev/null
[ ! -e "$root/usr/bin/tracer-agent" ] || fail "dpkg -r left the program"
changed 'a removal, which keeps configuration'
inside dpkg -P tracer-agent >/dev/null
[ ! -e "$root/etc/tracer-agent" ] || fail "dpkg -P left the configuration"
[ -z "$(find "$root" -xdev -name '*tracer-agent*' -not -path '*/var/log/*')" ] || fail "left: $(find "$root" -xdev -name '*tracer-agent*')"

echo "== $rpm"
rm -rf "${root:?}"/*
new=$(later rpm)
mkdir -p "$root/var/lib/rpm" "$root/tmp"
onto() { rpm --root "$root" --dbpath /var/lib/rpm --nodeps --noscripts "$@"; }
onto -i "$PWD/$rpm"
installed
change
onto -U "$new"
changed 'an upgrade'
onto -e tracer-agent
[ ! -e "$root/usr/bin/tracer-agent" ] || fail "rpm -e left the program"
[ -e "$root$config.rpmsave" ] || [ -e "$root$config" ] || fail "rpm -e removed a changed configuration"
echo "package-test: all passed"
