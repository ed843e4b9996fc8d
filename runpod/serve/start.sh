#!/usr/bin/env bash
# Start a RunPod worker. The model: MODEL_DIR (baked in, or on a volume), or MODEL_ARCHIVE (https://) with MODEL_SHA256, unpacked once under
# MODEL_CACHE. MODE=http: the gateway answers on PORT itself (load-balancing endpoint: /ping is its health route). MODE=queue: the SDK's handler takes
# jobs from the queue and asks the gateway on this machine. What SERVE_ARGUMENTS holds goes to serve_container.py. Started as root in the image, it
# makes MODEL_CACHE writable and goes on as the user "extraction".
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
if [ "$(id --user)" = 0 ] && id extraction > /dev/null 2>&1; then
  if [ -n "${MODEL_ARCHIVE:-}" ]; then
    mkdir -p "${MODEL_CACHE:-data/models}"
    chown extraction "${MODEL_CACHE:-data/models}"
  fi
  HOME=$(getent passwd extraction | cut -d: -f6)
  export HOME
  exec setpriv --reuid=extraction --regid=extraction --init-groups bash "$here/start.sh"
fi
handler_file=$here/handler.py
[ -f "$handler_file" ] || handler_file=$here/../../.runpod/handler.py
scripts=$here/../scripts
[ -d "$scripts" ] || scripts=$here/../../scripts
python=${PYTHON:-python3}
mode=${MODE:-http}
read -r -a serve <<< "${SERVE_ARGUMENTS:-}"
read -r -a work <<< "${WORKER_ARGUMENTS:-}"
# An open port wants a key; a load-balancing endpoint has RunPod's own in front, and then says NO_KEY=1.
[ "${NO_KEY:-0}" = 1 ] && serve+=(--no-key)

case $mode in
  http)
    exec "$python" "$scripts/serve_container.py" --host 0.0.0.0 --port "${PORT:-8080}" "${serve[@]}"
    ;;
  queue)
    "$python" "$scripts/serve_container.py" --host 127.0.0.1 --port "${PORT:-8080}" "${serve[@]}" &
    server=$!
    # At its default level the SDK writes every job's output, which is the document's content, into the log.
    export RUNPOD_LOG_LEVEL=${RUNPOD_LOG_LEVEL:-INFO}
    worker=${WORKER_PYTHON:-/opt/worker/bin/python}
    "$worker" "$handler_file" "${work[@]}" &
    handler=$!
    trap 'kill -TERM "$server" "$handler" 2>/dev/null || true' TERM INT
    # Whichever ends first ends the worker: RunPod starts a fresh one.
    status=0
    wait -n "$server" "$handler" || status=$?
    kill -TERM "$server" "$handler" 2>/dev/null || true
    wait || true
    exit "$status"
    ;;
  *)
    echo "error: MODE is http or queue, not $mode" >&2
    exit 2
    ;;
esac
