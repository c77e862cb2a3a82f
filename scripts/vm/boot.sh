#!/usr/bin/env bash
# Boots a kernel in QEMU with one static program as all there is, prints what the
# program prints, and exits with its status. Software emulation: no KVM is needed,
# and no time that is measured in there means anything.
#
#   scripts/vm/boot.sh [options] KERNEL.deb PROGRAM [ARGUMENT]...
#     -a amd64|arm64    architecture of all of it (amd64)
#     -f FILE[:DEST]    a further file or folder for the guest (/NAME)
#     -e NAME=VALUE     a variable for the program
#     -k WORDS          words for the kernel's command line
#     -m MIB            memory (2048)
#     -t SECONDS        limit for the whole run (600)
#     -v                the whole console, the kernel's messages too
#
# Exit status: the program's; 124 past the limit or QEMU failed, 125 the guest died.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

usage() {
  sed -n '2,16p' "${BASH_SOURCE[0]}" >&2
  exit 2
}
arch=amd64 files=() vars=() words='' memory=2048 limit=600 verbose=
while getopts a:f:e:k:m:t:v o; do
  case $o in
    a) arch=$OPTARG ;;
    f) files+=("$OPTARG") ;;
    e) vars+=("$OPTARG") ;;
    k) words=$OPTARG ;;
    m) memory=$OPTARG ;;
    t) limit=$OPTARG ;;
    v) verbose=1 ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || usage
package=$1 program=$2
shift 2

case $arch in
  amd64) # "max" instead of a real model makes some kernels panic
    # Without cx16: QEMU 7's cmpxchg16b spoils the flags now and then when there are two
    # processors, of which 6.12's allocator dies. Without erms: what the kernel and Go copy
    # by bytes then is emulated by bytes.
    # shellcheck disable=SC2054 # the comma is QEMU's
    qemu=(qemu-system-x86_64 -M pc,usb=off -cpu Haswell-v4,-cx16,-erms)
    words="console=ttyS0,115200 tsc=reliable no_timer_check $words"
    ;;
  arm64)
    qemu=(qemu-system-aarch64 -M virt -cpu cortex-a72)
    words="console=ttyAMA0 $words"
    ;;
  *) usage ;;
esac

# What costs an emulated kernel much and is of no interest here: accounting and zeroing of
# each allocation, and waiting for its processors when probes come and go.
spare='cgroup_disable=memory init_on_alloc=0 hardened_usercopy=off audit=0 rcupdate.rcu_expedited=1'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/deb" "$work/root/vm" "$work/root/dev"
dpkg-deb --fsys-tarfile "$package" | tar -C "$work/deb" -x --wildcards '*/vmlinuz*'
kernel=$(find "$work/deb" -type f -name 'vmlinuz*' | head -n 1)
if [ -z "$kernel" ]; then
  echo "boot: no kernel in $package" >&2
  exit 2
fi

(cd "$root" && CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -ldflags '-s -w' -o "$work/root/init" ./scripts/vm/init)
cp "$program" "$work/root/vm/prog"
chmod 755 "$work/root/vm/prog"
: >"$work/root/vm/args"
: >"$work/root/vm/env"
if [ $# -gt 0 ]; then printf '%s\0' "$@" >"$work/root/vm/args"; fi
if [ ${#vars[@]} -gt 0 ]; then printf '%s\0' "${vars[@]}" >"$work/root/vm/env"; fi
for f in ${files[@]+"${files[@]}"}; do
  from=${f%%:*} to=/$(basename "${f%%:*}")
  if [[ $f == *:* ]]; then to=${f#*:}; fi
  mkdir -p "$work/root$(dirname "$to")"
  cp -a "$from" "$work/root$to"
done
(cd "$work/root" && find . | cpio -o -H newc --quiet -R 0:0) >"$work/initrd"

# A guest that dies before its program starts was tripped by the emulation, which
# happens now and then: it is booted again.
for try in 1 2 3; do
  status=0
  # in the foreground: whoever ends this script's group ends QEMU, too
  timeout --foreground -k 5 "$limit" "${qemu[@]}" -accel tcg,thread=multi -nodefaults -no-user-config -no-reboot \
    -display none -m "$memory" -smp 2 -net none -serial stdio -kernel "$kernel" -initrd "$work/initrd" \
    -append "quiet loglevel=3 panic=-1 rdinit=/init mitigations=off $spare $words" \
    </dev/null >"$work/raw" 2>"$work/err" || status=$?
  tr -d '\r' <"$work/raw" >"$work/log"
  if grep -qa '^@@vm-start' "$work/log"; then break; fi
  echo "boot: try $try ended before the program started" >&2
done
if [ -n "$verbose" ]; then
  cat "$work/log"
else
  sed -n '/^@@vm-start/,/^@@vm-exit/p' "$work/log" | grep -av '^@@vm-' || true
fi
code=$(sed -n 's/^@@vm-exit \([0-9]*\).*/\1/p' "$work/log" | tail -n 1)
if [ -n "$code" ]; then exit "$code"; fi
cat "$work/err" >&2
if [ "$status" != 0 ]; then
  echo "boot: QEMU failed or ran past $limit s; the end of the console:" >&2
  tail -n 20 "$work/log" >&2
  exit 124
fi
echo 'boot: the guest died before its program ended; the end of the console:' >&2
tail -n 40 "$work/log" >&2
exit 125
