#!/usr/bin/env bash
# make test-systemd: a Debian with systemd as its first process, in QEMU, into which the
# package of make package is installed: scripts/systemd/assert.sh runs in there, and what it
# says is kept in out/systemd.log, the console beside it. A container will not do: the agent
# needs the initial pid namespace, where systemd must be process 1. Software emulation: no
# KVM is needed, and an agent takes minutes to load its programs. Needs root, debootstrap,
# qemu-system-x86, cpio, busybox-static.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
deb=$(ls out/package/*_amd64.deb)
log=$PWD/out/systemd.log console=$PWD/out/systemd.console.log
root=$(scripts/debian-root.sh systemd systemd-sysv dbus bpftool)
kernel=$(scripts/vm/kernel.sh "${KERNEL:-6.12}")
mkdir -p "$work/root/test" "$work/root/etc/systemd/system/multi-user.target.wants" "$work/deb" "$work/initrd/bin" "$work/initrd/new"
tar -C "$work/root" -xf "$root"
cp "$deb" "$work/root/test/tracer-agent.deb"
cp scripts/systemd/assert.sh "$work/root/test/"
(cd testdata/targets/trivial && CGO_ENABLED=0 GOARCH=amd64 go build -o "$work/root/test/shop" .)
cat >"$work/root/etc/systemd/system/assert.service" <<UNIT
[Unit]
After=basic.target
[Service]
ExecStart=/test/assert.sh
UNIT
ln -s ../assert.service "$work/root/etc/systemd/system/multi-user.target.wants/"
tar -C "$work/root" -cf "$work/initrd/root.tar" .
dpkg-deb --fsys-tarfile "$kernel" | tar -C "$work/deb" -x --wildcards '*/vmlinuz*'
cp "$(command -v busybox)" "$work/initrd/bin/"
# The root is a mount of its own: units have mount namespaces, which the first one cannot give.
cat >"$work/initrd/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t tmpfs -o size=80% root /new
/bin/busybox tar -C /new -xf /root.tar
/bin/busybox rm /root.tar
/bin/busybox mount -t devtmpfs dev /new/dev
exec /bin/busybox switch_root /new /lib/systemd/systemd
INIT
chmod 755 "$work/initrd/init"
(cd "$work/initrd" && find . | cpio -o -H newc --quiet -R 0:0) >"$work/initrd.cpio"
# cx16: QEMU 7's cmpxchg16b spoils the flags now and then when there are two processors,
# which kills Linux 6.12 at its start. A guest that dies early is booted again.
for try in 1 2 3; do
	rm -f "$log" "$console"
	timeout --foreground -k 5 "${LIMIT:-2400}" qemu-system-x86_64 -M pc,usb=off -cpu Haswell-v4,-cx16 -accel tcg,thread=multi \
		-nodefaults -no-user-config -no-reboot -display none -m 2560 -smp 2 -net none -serial "file:$console" -serial "file:$log" \
		-kernel "$(find "$work/deb" -type f -name 'vmlinuz*')" -initrd "$work/initrd.cpio" \
		-append 'quiet loglevel=3 panic=-1 console=ttyS0,115200 tsc=reliable no_timer_check mitigations=off systemd.show_status=1 systemd.getty_auto=0 systemd.condition_needs_update=0' \
		</dev/null 2>"$work/err" || true
	if [ -s "$log" ]; then break; fi
	echo "test-systemd: try $try ended before the test began" >&2
done
touch "$log" "$console"
sed -i 's/\r$//' "$log"
sed '/^@@exit/,$d' "$log"
if ! grep -qax '@@exit 0' "$log"; then
	echo 'test-systemd: failed; the end of the console:' >&2
	tail -n 30 "$console" "$work/err" >&2
	exit 1
fi
echo "test-systemd: all passed"
