#!/usr/bin/env bash
# Builds everything, starts a trade backend with its MongoDB (FerretDB) and Redis
# servers, its HTTPS broker, a WebSocket client that watches and a bot that trades,
# traces the programs with the agent and prints their spans as trees. Installs what is
# missing. Stops only what it started. The MongoDB server takes minutes to build the
# first time and is kept.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo 'demo: the agent loads programs into the kernel: run this as root (sudo scripts/demo.sh)' >&2
  exit 1
fi
scripts/bootstrap.sh demo
# shellcheck source=scripts/env.sh
. scripts/env.sh

make --no-print-directory build
work=$(mktemp -d)
started=()
servers=()
cleanup() {
  local pid
  for pid in "${started[@]}" "${servers[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}" "${servers[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap cleanup EXIT
server=${TRACER_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tracer-agent}/demo/mongoserver
if [ ! "$server" -nt testdata/mongoserver/go.sum ]; then
  echo 'demo: building a MongoDB server'
  mkdir -p "$(dirname "$server")"
  (cd testdata/mongoserver && CGO_ENABLED=0 go build -o "$server" .)
fi
for name in broker backend bot watcher; do
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

# listening PORT waits for a server.
listening() {
  local i
  for ((i = 0; i < 200; i++)); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return 0; fi
    sleep 0.05
  done
  echo "demo: nothing listens on port $1" >&2
  return 1
}

# port prints one that nobody listens on.
port() {
  local p
  for ((;;)); do
    p=$((20000 + RANDOM % 10000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null; then echo "$p"; return 0; fi
  done
}

mongo=$(port)
redis=$(port)
mkdir "$work/mongo"
"$server" -addr "127.0.0.1:$mongo" -dir "$work/mongo" >"$work/mongo.log" 2>&1 &
servers=("$!")
redis-server --bind 127.0.0.1 --port "$redis" --save '' --appendonly no --dir "$work" >"$work/redis.log" 2>&1 &
servers+=("$!")
listening "$mongo"
listening "$redis"

"$work/broker" -ca "$work/ca.pem" >"$work/broker.log" 2>&1 &
started+=($!)
url=$(await "$work/broker.log" '^ready')
"$work/backend" -broker "${url#ready }" -ca "$work/ca.pem" \
  -mongo "mongodb://127.0.0.1:$mongo/" -redis "127.0.0.1:$redis" >"$work/backend.log" 2>&1 &
started+=($!)
url=$(await "$work/backend.log" '^ready')

echo
echo "tracing broker (pid ${started[0]}), backend (pid ${started[1]}), watcher and bot (when they start)"
env -u OTEL_EXPORTER_OTLP_ENDPOINT OTEL_METRICS_EXPORTER=prometheus OTEL_EXPORTER_PROMETHEUS_PORT=0 \
  bin/tracer-agent run --exporter tree --config testdata/demo/tracer-agent.yaml \
  --pid "${started[0]}" --pid "${started[1]}" --exe "$work/bot" --exe "$work/watcher" 2>"$work/agent.log" &
agent=$!
started+=("$agent")
await "$work/agent.log" "instrumented.*pid=${started[0]}" >/dev/null
await "$work/agent.log" "instrumented.*pid=${started[1]}" >/dev/null

# An executable that the agent has never seen takes it a moment to look at.
"$work/watcher" -delay 500ms -backend "${url#ready }" >"$work/watcher.log" 2>&1 &
watcher=$!
started+=("$watcher")
await "$work/watcher.log" '^ready' >/dev/null
"$work/bot" -delay 500ms -backend "${url#ready }" | tee "$work/bot.log" >/dev/null
metrics=$(await "$work/agent.log" 'metrics for Prometheus')
sleep 0.5 # the last spans' way
curl -s "${metrics##*url=}" | grep -E '^(trade|signal)_' | grep -v _bucket >"$work/metrics" || true
kill -TERM "$watcher"
wait "$watcher"
# Spans are printed within a moment; the agent flushes what is left when told to stop.
kill -INT "$agent"
wait "$agent" || { cat "$work/agent.log" >&2; exit 1; }
echo
cat "$work/bot.log"
tail -n 1 "$work/watcher.log"
echo 'and, by the rules in testdata/demo/tracer-agent.yaml:'
sed -E 's/\{.*(outcome|error_type)="([^"]*)".*\}/ (\2)/; s/\{[^}]*\}//' "$work/metrics"
