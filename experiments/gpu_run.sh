#!/usr/bin/env bash
# Train, test and measure on a lent GPU: stage after stage, each within its own time limit; the same command goes on.
#
#   Here:   mmccd prepare phantom build/gpu/slices.zarr --healthy 800 --every 8 --slices 30:125 --seed 401
#             --modalities flair,t1,t2
#           python experiments/pack_slices.py build/gpu/slices.zarr build/gpu/slices.safetensors
#           python -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp
#             --platform manylinux_2_17_x86_64 -d build/wheels pydantic==2.X pydantic_core==2.X annotated_types
#             typing_inspection pytest iniconfig pluggy packaging pygments
#             (versions that fit each other: pip show pydantic pydantic_core)
#   Carry build/gpu/slices.safetensors and build/wheels with the repository. There have to be PyTorch, NumPy and, for what
#   trains, SciPy; a stage needs no image library and nothing that draws.
#   There:  bash experiments/gpu_run.sh                  all methods
#           bash experiments/gpu_run.sh mmccd            one
#           bash experiments/gpu_run.sh inference training   what a slice and what a training step cost, as JSON
#           bash experiments/gpu_run.sh cuda-tests explorer  tests/gpu, and what a new strip costs in the explorer
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

needed="pydantic, annotated_types, einops, typer, yaml"
[[ " ${methods[*]} " == *" cuda-tests "* ]] && needed="$needed, pytest"
if ! $python -c "import $needed" 2>/dev/null; then
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

device=$($python -c "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')")
within() { # a command, for as long as a stage may take
  timeout --signal=INT --kill-after=30 ${BENCH_SECONDS:-240} $python "$@"
}
cuda_tests() { # tests/gpu, unless they have passed; without a GPU in a smoke test only
  local result="$out/cuda_tests.txt"
  [ -f "$result" ] && return
  [ "$device" = cuda ] || [ $smoke = 1 ] || { echo "there is no GPU to test" >&2; return 1; }
  mkdir -p "$out"
  PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 DATA=$(realpath "$data") MMCCD_TEST_DEVICE=$device \
    within -m pytest -q --noconftest -p no:cacheprovider tests/gpu >"$result.part" 2>&1 ||
    { cat "$result.part" >&2; return 1; }
  mv "$result.part" "$result" && tail -1 "$result"
}
explorer() { # seconds of a new strip, unless they are known
  local result="$out/bench_explorer_engine.json" few=()
  [ -f "$result" ] && return
  [ $smoke = 1 ] && few=(--positions 2 --no-paper)
  mkdir -p "$out"
  within experiments/gpu_explorer.py --data "$data" --device "$device" --out "$result" "${few[@]}"
}
bench() { # a benchmark of benchmarks/, unless its result is there; on a GPU where there is one, small in a smoke test
  local result="$out/bench_$1.json" words=()
  [ -f "$result" ] && return
  [ "$1" = inference ] && words=(--packed "$data" --repeats 1 --weights "${WEIGHTS:-mmccd-published-flair-t2}")
  [ "$1" = training ] && [ $smoke = 1 ] && words=(--quick)
  [ "$device" = cuda ] && words+=(--compile)
  mkdir -p "$out"
  within "benchmarks/$1.py" --device "$device" --out "$result" "${words[@]}"
}

train() { # all seeds of a method
  local n limit
  grep -q "^  $1:" experiments/weights.yaml || { echo "$1: not in weights.yaml, left out"; return; }
  n=$(wc -w <<<"$seeds")
  limit=$((n * (each + each / 4 + 20) + 40)) # validation and start included; a training ends itself before
  [ $smoke = 1 ] && limit=900
  # shellcheck disable=SC2086  # several seeds
  timeout --signal=INT --kill-after=30 $limit $python experiments/gpu_train.py train "$1" --data "$data" \
    --seeds $seeds --seconds "$each" --work "$WORK" --out "$out" "${more[@]}"
}

failed=0
for method in "${methods[@]}"; do
  case $method in
    inference | training) bench "$method" ;;
    cuda-tests | explorer) "${method//-/_}" ;;
    *) train "$method" ;;
  esac || { echo "$method: stopped; the same command goes on, or begins it again" >&2; failed=1; }
done
exit $failed
