#!/usr/bin/env bash
# Train on a pod: check the GPU, validate, train (or resume), score, and pack adapter and report on the volume. Start it again after any
# interruption: it goes on from the newest checkpoint. Everything lies under VOLUME; what lies elsewhere is lost with the pod. However it ends, what
# there is is packed and sent, and with STOP_POD=1 the pod is stopped: a training that crashes at night costs no more than one that succeeds.
#
#   cd /workspace/extraction && RUN=bl-8b MINIMUM=0.9 STOP_POD=1 bash runpod/train/start.sh
#
#   VOLUME      holds data/ (splits and images): the repository's own folder on the volume (default: /workspace/extraction)
#   BASE_MODEL  folder of the base model, or its name on the hub       (default: Qwen/Qwen3-VL-8B-Instruct)
#   RUN         name of the run: outputs/RUN, results/RUN.tgz          (default: bl-8b)
#   METHOD      lora or qlora                                          (default: lora)
#   EPOCHS      (default: 3)
#   TRAIN_ARGUMENTS  more for train_lora.py
#   MINIMUM     micro-F1 below which the exit code is 1                 (default: 0)
#   UPLOAD_URL  where results/RUN.tgz is sent with PUT (a signed address); empty: it stays on the volume
#   SEND        1: runpodctl send, before the pod stops; it waits SEND_SECONDS for runpodctl receive (default: 3600)
#   STOP_POD    1: stop this pod when all is done, so that it costs no more (needs RUNPOD_POD_ID, which a pod has)
set -euo pipefail

volume=${VOLUME:-/workspace/extraction}
base=${BASE_MODEL:-Qwen/Qwen3-VL-8B-Instruct}
run=${RUN:-bl-8b}
here=$(cd "$(dirname "$0")/../.." && pwd)
[ -d "$here/scripts" ] || here=/opt/extraction
packed=0

pack() {
  # Adapter, contract, log and report; no checkpoints, no pages.
  local parts=() part
  for part in "outputs/$run" "data/reports/$run.html" "data/reports/$run.json"; do
    [ -e "$part" ] && parts+=("$part")
  done
  [ "${#parts[@]}" -gt 0 ] || { echo "nothing to pack yet"; return 0; }
  tar --create --gzip --file "results/$run.tgz.part" --exclude 'checkpoint-*' "${parts[@]}"
  mv "results/$run.tgz.part" "results/$run.tgz"
  (cd results && sha256sum "$run.tgz" > "$run.tgz.sha256")
  packed=1
  echo "packed: $volume/results/$run.tgz"
}

upload() {
  # From a file descriptor: an argument could be read by others, and the address is a key.
  printf 'url = "%s"\n' "$UPLOAD_URL" | curl --silent --show-error --fail --retry 5 --config - --header "x-ms-blob-type: BlockBlob" --upload-file "results/$run.tgz" \
    && echo "uploaded"
}

finish() {
  local status=$?
  trap - EXIT
  set +e
  pack
  if [ "$packed" = 1 ] && [ -n "${UPLOAD_URL:-}" ]; then
    upload || { echo "error: the upload failed; $volume/results/$run.tgz stays on the volume" >&2; [ "$status" != 0 ] || status=1; }
  fi
  if [ "$packed" = 1 ] && [ "${SEND:-0}" = 1 ]; then
    echo "on your machine: runpodctl receive CODE, with the code that is printed now"
    timeout "${SEND_SECONDS:-3600}" runpodctl send "results/$run.tgz" || echo "nobody received it; it stays on the volume"
  fi
  [ "$status" = 0 ] || echo "error: it ended with code $status; start it again and it goes on" >&2
  if [ "${STOP_POD:-0}" = 1 ]; then
    runpodctl stop pod "${RUNPOD_POD_ID:-}" || echo "error: the pod could not be stopped and costs money; stop it by hand" >&2
  fi
  exit "$status"
}

[ -d "$volume/data/splits" ] || { echo "error: $volume/data/splits is missing; copy data/ to the volume first" >&2; exit 2; }
cd "$volume"
export HF_HOME=${HF_HOME:-$volume/huggingface}
mkdir -p outputs data/predictions data/reports

# One run at a time on a volume: a second pod would write into the same checkpoints.
exec 9> "outputs/.$run.lock"
flock --timeout 10 9 || { echo "error: another pod is training $run on this volume" >&2; exit 2; }
mkdir -p results
# From here on a failure packs, sends and stops.
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

if [ -x /opt/venv/bin/python ]; then
  python=/opt/venv/bin/python
elif [ -n "${PYTHON:-}" ]; then
  python=$PYTHON
else
  python3 "$here/scripts/make_environment.py" main
  python=$here/.venv/bin/python
fi
"$python" "$here/scripts/check_gpu.py"
"$python" "$here/scripts/validate_jsonl.py" data/splits/train.jsonl
"$python" "$here/scripts/verify_image_paths.py" --in data/splits/train.jsonl
read -r -a more <<< "${TRAIN_ARGUMENTS:-}"
validation=()
[ -s data/splits/val.jsonl ] && validation=(--val data/splits/val.jsonl)
if [ ! -f "outputs/$run/adapter_model.safetensors" ] || [ ! -f "outputs/$run/finished" ]; then
  "$python" "$here/scripts/train_lora.py" --model "$base" --train data/splits/train.jsonl "${validation[@]}" \
    --out "outputs/$run" --method "${METHOD:-lora}" --epochs "${EPOCHS:-3}" "${more[@]}" --resume
  touch "outputs/$run/finished"
fi

"$python" "$here/scripts/extract_documents.py" --model "$base" --adapter "outputs/$run" --in data/splits/test.jsonl --out "data/predictions/$run.jsonl"
"$python" "$here/scripts/evaluate_predictions.py" --pred "data/predictions/$run.jsonl" --gold data/splits/test.jsonl \
  --report "data/reports/$run.html" --metrics "data/reports/$run.json" --fail-under "micro_f1=${MINIMUM:-0}"
