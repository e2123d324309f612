#!/usr/bin/env bash
# Builds the fuzz targets and runs each for SECONDS, from the seeds in corpus/: run.sh SECONDS. Inputs that fail are
# kept in build/fuzz/failures/. Exits 77 without clang-19.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=$1
command -v clang++-19 >/dev/null || exit 77
scripts/build.sh fuzz fuzz_targets
failures=$PWD/build/fuzz/failures
mkdir -p "$failures"
status=0
for corpus in tests/fuzz/corpus/*/; do
  name=$(basename "$corpus")
  grown=build/fuzz/corpus/$name # what earlier runs found to reach further
  mkdir -p "$grown"
  if ! build/fuzz/bin/"${name}_fuzz" "$grown" "$corpus" -max_total_time="$seconds" -timeout=120 -rss_limit_mb=2048 \
    -max_len=65536 -artifact_prefix="$failures/$name-" -print_final_stats=1 >"build/fuzz/$name.log" 2>&1; then
    status=1
    tail -n 40 "build/fuzz/$name.log"
  fi
  printf '%s: %s inputs, %s coverage points\n' "$name" \
    "$(sed -n 's/^stat::number_of_executed_units: *//p' "build/fuzz/$name.log")" \
    "$(grep -o 'cov: [0-9]*' "build/fuzz/$name.log" | tail -n 1 | cut -c 6-)"
done
exit $status
