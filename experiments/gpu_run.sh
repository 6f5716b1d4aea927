#!/usr/bin/env bash
# Train methods on a lent GPU, one after the other, each within its own time limit; the same command goes on.
#
#   Here:   mmccd prepare phantom build/gpu/slices.zarr --healthy 800 --every 8 --slices 30:125 --seed 401
#             --modalities flair,t1,t2
#           python experiments/pack_slices.py build/gpu/slices.zarr build/gpu/slices.safetensors
#           python -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp
#             --platform manylinux_2_17_x86_64 -d build/wheels pydantic==2.X pydantic_core==2.X annotated_types
#             typing_inspection      (versions that fit each other: pip show pydantic pydantic_core)
#   Carry build/gpu/slices.safetensors and build/wheels with the repository.
#   There:  bash experiments/gpu_run.sh                  all methods
#           bash experiments/gpu_run.sh mmccd            one
#           bash experiments/gpu_run.sh inference training   what a slice and what a training step cost, as JSON
#           bash experiments/gpu_run.sh --smoke          a few seconds each, on any machine: does it run?
#   Here:   python experiments/gpu_train.py unpack FOLDER
#
# Settings by environment: DATA, the packed slices; OUT, the folder that is brought back; WORK, the folder of what is
# done (carry it to go on elsewhere); WHEELS, a folder of wheels for what is missing; SEEDS; EACH, seconds of training
# for a seed. Nine trainings of 60 s take ten minutes and a half.
set -u
cd "$(dirname "$0")/.." || exit 2
smoke=0
[ "${1:-}" = --smoke ] && smoke=1 && shift
methods=("$@")
[ ${#methods[@]} -gt 0 ] || methods=(masked mmccd itermask)
python=${PYTHON:-python3}
export WORK=${WORK:-build/gpu} PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
data=${DATA:-build/gpu/slices.safetensors} seeds=${SEEDS:-0 1 2} each=${EACH:-60} more=()
if [ $smoke = 1 ]; then
  seeds=0 each=${EACH:-2} more=(--batch-size 4 --val 1 --rows 1)
  WORK=$WORK/smoke
fi
out=${OUT:-$WORK/out}

if ! $python -c "import pydantic, annotated_types, einops, typer, yaml" 2>/dev/null; then
  site=$(mktemp -d)
  $python -m pip install -q --no-index --no-deps --no-cache-dir --target "$site" "${WHEELS:-build/wheels}"/*.whl || exit 2
  export PYTHONPATH="$PYTHONPATH:$site"
fi
if [ ! -f "$data" ]; then
  [ $smoke = 1 ] || { echo "there is no $data: make it first, as the head of this script says" >&2; exit 2; }
  data=$WORK/slices.safetensors
  $python -m mmccd prepare phantom "$WORK/slices.zarr" --healthy 3 --every 31 --slices 30:125 \
    --modalities flair,t1,t2 --seed 5 &&
    $python experiments/pack_slices.py "$WORK/slices.zarr" "$data" || exit 2
fi

bench() { # a benchmark of benchmarks/, unless its result is there; on a GPU where there is one, small in a smoke test
  local result="$out/bench_$1.json" device words=()
  [ -f "$result" ] && return
  device=$($python -c "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')")
  [ "$1" = inference ] && words=(--packed "$data" --repeats 1 --weights "${WEIGHTS:-mmccd-published-flair-t2}")
  [ "$1" = training ] && [ $smoke = 1 ] && words=(--quick)
  [ "$device" = cuda ] && words+=(--compile)
  mkdir -p "$out"
  timeout --signal=INT --kill-after=30 ${BENCH_SECONDS:-240} \
    $python "benchmarks/$1.py" --device "$device" --out "$result" "${words[@]}"
}

failed=0
for method in "${methods[@]}"; do
  case $method in inference | training)
    bench "$method" || { echo "$method: stopped; the same command begins it again" >&2; failed=1; }
    continue ;;
  esac
  grep -q "^  $method:" experiments/weights.yaml || { echo "$method: not in weights.yaml, left out"; continue; }
  n=$(wc -w <<<"$seeds")
  limit=$((n * (each + each / 4 + 20) + 40)) # validation and start included; a training ends itself before
  [ $smoke = 1 ] && limit=900
  # shellcheck disable=SC2086  # several seeds
  timeout --signal=INT --kill-after=30 $limit $python experiments/gpu_train.py train "$method" --data "$data" \
    --seeds $seeds --seconds "$each" --work "$WORK" --out "$out" "${more[@]}" ||
    { echo "$method: stopped; the same command goes on" >&2; failed=1; }
done
exit $failed
