#!/usr/bin/env bash
# FP8 against BF16 on real text, same data and seed (recipes/fp8.toml), beside the noise floor: BF16 against BF16
# from initial weights moved by one unit in the last place. With `ablation` each choice of the FP8 recipe is undone
# one at a time. Interrupted runs go on where they were when the script is called again.
#
#   scripts/fp8_experiment.sh [main|ablation] [TOKENS] [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."

part=${1:-main}
tokens=${2:-$([[ $part == main ]] && echo 10e6 || echo 1e6)}
folder=${3:-runs/fp8-$part-$tokens}
moray=${MORAY:-build/release/bin/moray}
dataset=${DATASET:-build/demo/dataset}

# run NAME ASSIGNMENT...
run() {
  local name=$1 run=$folder/$1 settings=()
  shift
  for assignment in "data.dataset=$dataset" "train.tokens=$tokens" "$@"; do settings+=(--set "$assignment"); done
  local resume=()
  [[ -e $run/metrics.jsonl ]] && resume=(--resume)
  "$moray" train recipes/fp8.toml "${settings[@]}" --run "$run" "${resume[@]}"
}

bf16=(train.precision=bf16 train.adamw.moments=bf16)
run bf16 "${bf16[@]}"
run bf16-perturbed "${bf16[@]}" train.perturb_initial_weights=true
run fp8
if [[ $part == ablation ]]; then
  for choice in linear_inputs attention_output swiglu_inputs dispatch dispatch_gradient; do
    run "fp8-without-$choice" "train.fp8.$choice=bf16"
  done
  run fp8-powers-of-two train.fp8.scales=power_of_two
  run fp8-moments-f32 train.adamw.moments=f32
fi

for run in "$folder"/fp8*/; do
  "$moray" numerics compare "$folder/bf16" "${run%/}" "$folder/bf16-perturbed" --html "${run%/}.html"
done
