#!/usr/bin/env bash
# Every bench in one call; raw output with command, machine, date and load to docs/results/bench-NAME.txt. About eight
# minutes on two cores. A bench that fails or takes too long is told of, leaves its file as it was and does not stop the others.
#
# usage: bench/all.sh [BUILD_FOLDER] [NAME...]    names as below; default all. Environment: THREADS (default: all
#        cores), RESULTS (docs/results), PYTHON (with torch), DISK (folder on the disk to measure: build folder)
set -uo pipefail
cd "$(dirname "$0")/.." || exit

[[ ${1:-} != -* ]] || { sed -n 's/^# \{0,1\}//; 2,6p' "$0"; exit; }
BUILD=${1:-build/release}
shift || true
[[ -d $BUILD/bin ]] || { printf 'bench: no folder %s/bin: build first\n' "$BUILD" >&2; exit 1; }
THREADS=${THREADS:-$(nproc)}
RESULTS=${RESULTS:-docs/results}
DISK=${DISK:-$BUILD}
mkdir -p "$RESULTS"
failed=0

processor() { sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1; }

# run NAME SECONDS COMMAND...: its output with a heading, to the file and to the terminal. The file appears when the
# bench is through.
run() {
  local name=$1 limit=$2 started status
  shift 2
  [[ ${#WANTED[@]} == 0 || " ${WANTED[*]} " == *" $name "* ]] || return 0
  started=$SECONDS
  {
    printf '# %s\n# %s\n# %s, %s threads used of %s; load average before: %s\n# commit %s\n\n' "${*//$BUILD/build}" \
      "$(date -u '+%Y-%m-%d %H:%M UTC')" "$(processor)" "$THREADS" "$(nproc)" "$(cut -d' ' -f1-3 /proc/loadavg)" \
      "$(git describe --always --dirty 2>/dev/null)"
    timeout "$limit" "$@" 2>&1
    status=$?
    [[ $status == 0 ]] || printf 'FAILED: exit status %d\n' "$status"
    printf '# load average after: %s\n' "$(cut -d' ' -f1-3 /proc/loadavg)"
    exit "$status"
  } | tee "$RESULTS/.$name.tmp"
  status=${PIPESTATUS[0]}
  if [[ $status == 0 ]]; then
    mv "$RESULTS/.$name.tmp" "$RESULTS/bench-$name.txt"
  else
    failed=$((failed + 1))
  fi
  printf '== %s: %d s\n\n' "$name" $((SECONDS - started))
}

# One file of source text, a few megabytes, for tokenizer and data.
text() {
  [[ -s $TEXT ]] || find /usr/lib/python3* src -name '*.py' -o -name '*.cc' -o -name '*.h' 2>/dev/null | sort |
    head -n 800 | xargs -d '\n' cat | head -c 8000000 >"$TEXT"
}

WANTED=("$@")
TEXT=$(mktemp)
trap 'rm -f "$TEXT" "$RESULTS"/.*.tmp' EXIT
text

run limits 60 "$BUILD/bin/moray" bench limits --threads "$THREADS"
# OpenBLAS 0.3.21 takes newer AMD processors for AVX2 machines; its AVX-512 kernels run there, and twice as fast.
if [[ -z ${OPENBLAS_CORETYPE:-} ]] && grep -qw avx512bw /proc/cpuinfo; then export OPENBLAS_CORETYPE=SkylakeX; fi
run matmul 120 "$BUILD/bin/matmul_bench" "$THREADS"
run attention 60 "$BUILD/bin/attention_bench" "$THREADS"
run rows 180 "$BUILD/bin/rows_bench" "$THREADS"
run cross_entropy 30 "$BUILD/bin/cross_entropy_bench" "$THREADS"
run tokenizer 60 "$BUILD/bin/tokenizer_bench" "$TEXT"
run data 60 "$BUILD/bin/data_bench" "$TEXT" "$THREADS"
run checkpoint 60 "$BUILD/bin/checkpoint_bench" "$DISK"
run step 150 "$BUILD/bin/moray" bench step recipes/small.toml --set train.batch_size=8 --steps 2 --scaling --table \
  --threads "$THREADS"
run pytorch 500 env THREADS="$THREADS" bench/compare_pytorch.sh "$BUILD"
printf '%d s in all, %d failed\n' "$SECONDS" "$failed"
exit "$((failed > 0))"
