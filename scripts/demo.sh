#!/usr/bin/env bash
# Builds everything, starts two small services and a bot that uses them, traces
# all three with the agent and prints their spans as trees. Installs what is
# missing. Stops only what it started.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo 'demo: the agent loads programs into the kernel: run this as root (sudo scripts/demo.sh)' >&2
  exit 1
fi
scripts/bootstrap.sh
# shellcheck source=scripts/env.sh
. scripts/env.sh

make --no-print-directory build
work=$(mktemp -d)
started=()
cleanup() {
  local pid
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap cleanup EXIT
for name in broker backend bot; do
  (cd testdata/demo && go build -o "$work/$name" "./$name")
done

# await FILE PATTERN prints the first line that matches, within ten seconds.
await() {
  local i
  for ((i = 0; i < 200; i++)); do
    if grep -m 1 -- "$2" "$1" 2>/dev/null; then return 0; fi
    sleep 0.05
  done
  echo "demo: no line with '$2':" >&2
  cat "$1" >&2
  return 1
}

"$work/broker" -ca "$work/ca.pem" >"$work/broker.log" 2>&1 &
started+=($!)
url=$(await "$work/broker.log" '^ready')
"$work/backend" -broker "${url#ready }" -ca "$work/ca.pem" >"$work/backend.log" 2>&1 &
started+=($!)
url=$(await "$work/backend.log" '^ready')

echo
echo "tracing broker (pid ${started[0]}), backend (pid ${started[1]}) and bot (when it starts)"
env -u OTEL_EXPORTER_OTLP_ENDPOINT OTEL_METRICS_EXPORTER=prometheus OTEL_EXPORTER_PROMETHEUS_PORT=0 \
  bin/tracer-agent run --exporter tree --config testdata/demo/tracer-agent.yaml \
  --pid "${started[0]}" --pid "${started[1]}" --exe "$work/bot" 2>"$work/agent.log" &
agent=$!
started+=("$agent")
await "$work/agent.log" "instrumented.*pid=${started[0]}" >/dev/null
await "$work/agent.log" "instrumented.*pid=${started[1]}" >/dev/null

# An executable that the agent has never seen takes it a moment to look at.
"$work/bot" -delay 500ms -backend "${url#ready }" | tee "$work/bot.log" >/dev/null
metrics=$(await "$work/agent.log" 'metrics for Prometheus')
sleep 0.5 # the last spans' way
curl -s "$(sed 's/.*url=//' <<<"$metrics")" | grep -E '^(trade|signal)_' | grep -v _bucket >"$work/metrics" || true
# Spans are printed within a moment; the agent flushes what is left when told to stop.
kill -INT "$agent"
wait "$agent" || { cat "$work/agent.log" >&2; exit 1; }
echo
cat "$work/bot.log"
echo 'and, by the rules in testdata/demo/tracer-agent.yaml:'
sed -E 's/\{.*(outcome|error_type)="([^"]*)".*\}/ (\2)/; s/\{[^}]*\}//' "$work/metrics"
