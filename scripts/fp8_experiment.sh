#!/usr/bin/env bash
# FP8 against BF16 on real text, same data and seed (recipes/fp8.toml), beside the noise floor: BF16 against BF16
# from initial weights moved by one unit in the last place. With `ablation` each choice of the FP8 recipe is undone
# one at a time; what differs by less than FP8 does from FP8 with moved weights tells nothing. Interrupted runs go on
# where they were when the script is called again.
#
#   scripts/fp8_experiment.sh [main|ablation] [TOKENS] [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."

part=${1:-main}
tokens=${2:-$([[ $part == main ]] && echo 10e6 || echo 1e6)}
folder=${3:-runs/fp8-$part-$tokens}
moray=${MORAY:-build/release/bin/moray}
work=build/fp8
dataset=$work/dataset

number() { grep -o "\"$1\":[-+.0-9e]*" | head -n 1 | sed 's/.*://'; }

if [[ ! -d $dataset ]]; then
  corpus=$(scripts/fp8_corpus.sh)
  [[ -f $work/tokenizer/tokenizer.json ]] ||
    "$moray" tokenizer train --corpus "$corpus" --vocab-size 4096 --output "$work/tokenizer"
  "$moray" data build --corpus "$corpus" --tokenizer "$work/tokenizer" --output "$dataset"
fi
there=$("$moray" inspect "$dataset" --json | number train_tokens)
awk -v a="$tokens" -v b="$there" 'BEGIN { exit !(a <= b) }' ||
  { echo "fp8_experiment: $tokens tokens, but $dataset has $there: some would be seen twice" >&2; exit 1; }

# run NAME ASSIGNMENT...
run() {
  local run=$folder/$1 settings=()
  shift
  for assignment in "data.dataset=$dataset" "train.tokens=$tokens" "$@"; do settings+=(--set "$assignment"); done
  local resume=()
  [[ -e $run/metrics.jsonl ]] && resume=(--resume)
  "$moray" train recipes/fp8.toml "${settings[@]}" --run "$run" "${resume[@]}"
}

# compare RUN BASELINE [FLOOR]: one line of the table. Bytes: what the layers of one micro-batch keep, and the two
# moments of a parameter.
compare() {
  local run=$1 baseline=$2 floor=${3:-} json kept moments=8
  json=$("$moray" numerics compare "$folder/$baseline" "$folder/$run" ${floor:+"$folder/$floor"} --html "$folder/$run.html" --json)
  kept=$("$moray" inspect "$folder/$run/recipe.toml" --memory --json | number all_bytes)
  grep -q 'moments = "bf16"' "$folder/$run/recipe.toml" && moments=4
  printf '%-38s %-18s %9.4f%% %9.4f%% %+9.4f%% %12.2f %8d\n' "$run" "$baseline" \
    "$(number greatest <<<"$json" | awk '{ print 100 * $1 }')" "$(number rms <<<"$json" | awk '{ print 100 * $1 }')" \
    "$(number mean <<<"$json" | awk '{ print 100 * $1 }')" "$(awk -v b="$kept" 'BEGIN { print b / 1e6 }')" "$moments"
}

bf16=(train.precision=bf16 train.adamw.moments=bf16)
choices=(linear_inputs attention_output swiglu_inputs dispatch dispatch_gradient)
run bf16 "${bf16[@]}"
run fp8
run bf16-perturbed "${bf16[@]}" train.perturb_initial_weights=true
if [[ $part == ablation ]]; then
  run fp8-perturbed train.perturb_initial_weights=true
  for choice in "${choices[@]}"; do run "fp8-without-$choice" "train.fp8.$choice=bf16"; done
  # With norms computed again no linear input is kept at all.
  run fp8-keeping-norms train.recompute_norms=false
  run fp8-keeping-norms-and-inputs-in-bf16 train.recompute_norms=false train.fp8.linear_inputs=bf16
  run fp8-keeping-mla-up train.recompute_mla_up=false
  run fp8-powers-of-two train.fp8.scales=power_of_two
  run bf16-moments-f32 train.precision=bf16
  run fp8-moments-f32 train.adamw.moments=f32
fi

{
  printf '%-38s %-18s %10s %10s %10s %12s %8s\n' run against 'greatest' RMS mean 'kept, MB' moments
  compare bf16-perturbed bf16
  compare fp8 bf16 bf16-perturbed
  if [[ $part == ablation ]]; then
    compare fp8-perturbed fp8
    for choice in "${choices[@]}"; do compare "fp8-without-$choice" bf16 bf16-perturbed; done
    for run in keeping-norms keeping-norms-and-inputs-in-bf16 keeping-mla-up powers-of-two; do
      compare "fp8-$run" bf16 bf16-perturbed
    done
    compare fp8-moments-f32 bf16-moments-f32
  fi
} | tee "$folder/table.txt"
"$moray" numerics compare "$folder/bf16" "$folder/fp8" "$folder/bf16-perturbed"
