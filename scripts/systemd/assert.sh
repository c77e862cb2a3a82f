#!/bin/bash
# Runs as a service of the systemd that make test-systemd boots: the package is installed,
# started, reloaded, started again and stopped, and a Go service is traced.
# /test holds the package and the program. The last line is "@@exit STATUS".
# shellcheck disable=SC2015,SC2317 # fail ends all; functions are called by soon
set -u
exec </dev/null >>/dev/ttyS1 2>&1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive SYSTEMD_PAGER='' SYSTEMD_COLORS=0
patience=${PATIENCE:-600}
end() {
	[ "$1" = 0 ] || journalctl -u tracer-agent -o short-monotonic --no-pager | tail -n 40
	echo "@@exit $1"
	sleep 1
	systemctl --force --force reboot
	exit "$1"
}
fail() {
	echo "test-systemd: $*"
	end 1
}
soon() {
	local until=$((SECONDS + patience)) what=$1
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $until ] || fail "not in time: $what"
		sleep .5
	done
	echo "ok: $what ($SECONDS s)"
}
said() { journalctl -u tracer-agent -o cat --no-pager | grep -q -- "$1"; }
# get PATH: one request to the Go service.
get() {
	exec 3<>/dev/tcp/127.0.0.1/8080 || return 1
	printf 'GET %s HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n' "$1" >&3
	grep -q '^HTTP/1.1 200' <&3
}
traced() { get "$1" && said "\"url.path\":\"$1\""; }
state() { systemctl show -P "$1" tracer-agent; }
bpf() { bpftool -j prog list | tr '{' '\n' | grep -c '"type":"\(kprobe\|tracing\|raw_tracepoint\)"'; }
uprobes() { bpftool link list | grep -c 'uprobe\|perf_event'; }

echo "systemd $(systemctl --version | sed -n '1s/systemd //p'), kernel $(uname -r), process 1: $(cat /proc/1/comm)"
[ "$(cat /proc/1/comm)" = systemd ] || fail "process 1 is not systemd"
dpkg -i /test/tracer-agent.deb >/dev/null || fail "the package cannot be installed"
[ "$(state LoadState)" = loaded ] || fail "the unit is not there"
[ "$(state ActiveState)" = inactive ] || fail "a first installation starts it"
out=$(systemd-analyze verify --man=no tracer-agent.service 2>&1) || fail "systemd-analyze verify: $out"
[ -z "$out" ] || fail "systemd-analyze verify: $out"
systemd-analyze security --no-pager tracer-agent.service | tail -n 1
cat >/etc/tracer-agent/config.yaml <<-YAML
	enabled: true
	select: {exes: [shop]}
	exporters: [json]
YAML
systemd-run -q --unit=shop /test/shop -addr 127.0.0.1:8080
soon "the service answers" get /

systemctl start tracer-agent || fail "systemctl start"
soon "active" systemctl is-active -q tracer-agent
soon "the service is instrumented" said 'msg=instrumented'
soon "spans in the journal" traced /first
main=$(state MainPID)
grep -E '^(CapEff|NoNewPrivs|Seccomp):' "/proc/$main/status" | tr '\t\n' '  '
echo
grep -q '^NoNewPrivs:.1' "/proc/$main/status" && grep -q '^Seccomp:.2' "/proc/$main/status" || fail "the unit's restrictions are not in force"
[ "$(bpf)" -gt 0 ] && [ "$(uprobes)" -gt 0 ] || fail "no programs: the test is blind"

sed -i 's/^select:.*/&\nservice: {attributes: {round: second}}/' /etc/tracer-agent/config.yaml
systemctl reload tracer-agent || fail "systemctl reload"
soon "reloaded" said 'configuration reloaded'
[ "$(state MainPID)" = "$main" ] || fail "a reload is a new process"
soon "spans after the reload" traced /second
systemctl restart tracer-agent || fail "systemctl restart"
[ "$(state MainPID)" != "$main" ] || fail "a restart is no new process"
soon "spans after the restart" traced /third
kill -9 "$(state MainPID)"
restarted() { [ "$(state NRestarts)" = 1 ] && [ "$(state ActiveState)" = active ]; }
soon "started again after kill -9" restarted
soon "spans after that" traced /fourth

systemctl stop tracer-agent || fail "systemctl stop"
[ "$(state ActiveState) $(state Result)" = 'inactive success' ] || fail "stopped: $(state ActiveState), $(state Result)"
nothing() { [ "$(bpf)" = 0 ] && [ "$(uprobes)" = 0 ]; }
soon "nothing left in the kernel" nothing
get / || fail "the service does not answer any more"
systemctl enable -q tracer-agent && systemctl start tracer-agent
soon "active again" systemctl is-active -q tracer-agent
dpkg -r tracer-agent >/dev/null || fail "the package cannot be removed"
gone() { ! systemctl is-active -q tracer-agent && [ ! -e /etc/systemd/system/multi-user.target.wants/tracer-agent.service ] && nothing; }
soon "removed with its package" gone
[ "$(systemctl show -P NRestarts shop)" = 0 ] && get / || fail "the service was harmed"
end 0
