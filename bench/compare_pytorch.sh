#!/usr/bin/env bash
# A whole training step of recipes/small.toml in moray and in PyTorch, in turns, and their ratio. PyTorch's settings are
# tuned first: the best of several ways to run experts, attention and OpenMP's waiting.
#
# usage: bench/compare_pytorch.sh [BUILD_FOLDER]      environment: PYTHON (with torch; default python3), THREADS (2),
#        BATCH (8 samples a step), ROUNDS (2), RECIPE (recipes/small.toml)
set -euo pipefail
cd "$(dirname "$0")/.."

BUILD=${1:-build/release}
PYTHON=${PYTHON:-python3} THREADS=${THREADS:-2} BATCH=${BATCH:-8} ROUNDS=${ROUNDS:-2}
RECIPE=${RECIPE:-recipes/small.toml}
BAR=1.5

"$PYTHON" -c 'import torch' 2>/dev/null || { echo "no PyTorch: $PYTHON cannot import torch (bench/README.md)"; exit 0; }

# The value of a key of one line of JSON.
number() { "$PYTHON" -c 'import json, sys; print(json.loads(sys.argv[1])[sys.argv[2]])' "$1" "$2"; }
better() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > b) }'; }

# settings ("ENVIRONMENT... -- FLAGS..."), samples a step, steps: one line of JSON
pytorch() {
  local environment=${1%%--*} flags=${1#*--}
  # shellcheck disable=SC2086  # words on purpose
  env OMP_NUM_THREADS="$THREADS" $environment "$PYTHON" bench/pytorch_step.py "$RECIPE" --threads "$THREADS" \
    --batch "$2" --steps "$3" ${flags# } 2>/dev/null
}

SETTINGS=(
  "OMP_WAIT_POLICY=active -- --pad-values"
  "OMP_WAIT_POLICY=passive -- --pad-values"
  "OMP_WAIT_POLICY=passive -- --pad-values --grouped"
  "OMP_WAIT_POLICY=passive -- --pad-values --one-pool"
  "OMP_WAIT_POLICY=passive --"
)
best='' best_rate=0
for settings in "${SETTINGS[@]}"; do
  line=$(pytorch "$settings" 2 1) || { echo "PyTorch, $settings: failed"; continue; }
  rate=$(number "$line" tokens_per_second)
  printf 'PyTorch, %s: %.0f tokens/s (2 samples)\n' "$settings" "$rate"
  if better "$rate" "$best_rate"; then best=$settings best_rate=$rate; fi
done
[[ -n $best ]] || { echo "PyTorch could not run the step"; exit 1; }

moray_rate=0 pytorch_rate=0
for ((round = 1; round <= ROUNDS; round++)); do
  line=$("$BUILD/bin/moray" bench step "$RECIPE" --set "train.batch_size=$BATCH" --steps 2 --threads "$THREADS" --json)
  rate=$(number "$line" tokens_per_second)
  printf 'round %d: moray %.0f tokens/s (%.1f%% of the peak)' "$round" "$rate" \
    "$(awk -v r="$(number "$line" ratio)" 'BEGIN { print 100 * r }')"
  if better "$rate" "$moray_rate"; then moray_rate=$rate; fi
  line=$(pytorch "$best" "$BATCH" 2)
  rate=$(number "$line" tokens_per_second)
  printf ', PyTorch %s %.0f tokens/s\n' "$(number "$line" torch)" "$rate"
  if better "$rate" "$pytorch_rate"; then pytorch_rate=$rate; fi
done
awk -v a="$moray_rate" -v b="$pytorch_rate" -v bar="$BAR" -v s="$best" 'BEGIN {
  printf "moray / PyTorch (%s): %.2f, bar %.1f %s\n", s, a / b, bar, (a / b >= bar ? "met" : "MISSED") }'
