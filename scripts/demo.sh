#!/usr/bin/env bash
# Text to samples in a few minutes. Every step is kept in build/demo and runs/demo: called again, the demo goes on
# where it stopped.
#   TEXT=path       your own files instead of the Python standard library
#   DEMO_TOKENS=n   train on n tokens
set -euo pipefail
cd "$(dirname "$0")/.."

moray=build/release/bin/moray
recipe=recipes/tiny.toml
prompt=$'def read_lines(path):\n    """Return the lines of a text file."""\n'
prefix=$'def is_even(n):\n    """True if n is even."""\n    return '
suffix=$'\n\n\ndef is_odd(n):\n    return not is_even(n)\n'

if [[ -t 1 ]]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# Another text is another demo: it gets folders of its own.
if [[ -n ${TEXT:-} ]]; then
  [[ -e $TEXT ]] || { echo "demo: TEXT=$TEXT: no such file or folder" >&2; exit 1; }
  corpus=$(realpath -- "$TEXT")
  name=demo-$(printf '%s' "$corpus" | cksum | cut -d ' ' -f 1)
else
  corpus=$(scripts/demo_corpus.sh)
  name=demo
fi
work=build/$name
run=runs/$name${DEMO_TOKENS:+-$DEMO_TOKENS}
mkdir -p "$work"

title "1. Tokenizer: byte-level BPE, trained on $corpus"
[[ -f $work/tokenizer/tokenizer.json ]] ||
  "$moray" tokenizer train --corpus "$corpus" --vocab-size 4096 --output "$work/tokenizer"

title "2. Dataset: duplicates removed, documents held out, packed into token shards"
[[ -d $work/dataset ]] || "$moray" data build --corpus "$corpus" --tokenizer "$work/tokenizer" --output "$work/dataset"

title "3. Training: a small DeepSeek-V3 (MLA, shared and routed experts, balance bias, MTP) from $recipe"
settings=(--set "data.dataset=$work/dataset")
if [[ -n ${DEMO_TOKENS:-} ]]; then
  [[ $DEMO_TOKENS =~ ^[1-9][0-9]*$ ]] || { echo "demo: DEMO_TOKENS=$DEMO_TOKENS: not a number of tokens" >&2; exit 1; }
  settings+=(--set "train.tokens=$DEMO_TOKENS")
fi
"$moray" train "$recipe" "${settings[@]}" --run "$run" --resume

title "4. It completes a function"
"$moray" generate --model "$run" --prompt "$prompt" --max-tokens 80 --temperature 0.4 --top-p 0.9

title "5. It fills in a middle"
"$moray" generate --model "$run" --prefix "$prefix" --suffix "$suffix" --max-tokens 16 --temperature 0.4 --top-p 0.9

title "6. Held-out text, bits per byte"
evaluation=$("$moray" eval --model "$run" --data "$work/dataset" --json)
number() { grep -o "\"$1\": *[-+.0-9e]*" <<<"$evaluation" | head -n 1 | sed 's/.*: *//'; }
held_out=$work/dataset/held_out.txt
bytes=$(wc -c <"$held_out")
bits_per_byte() { awk -v packed="$1" -v bytes="$bytes" 'BEGIN { printf "%.4f", 8 * packed / bytes }'; }
ours=$(number bits_per_byte)
gzip=$(bits_per_byte "$(gzip -9 -n -c "$held_out" | wc -c)")
xz=null
command -v xz >/dev/null && xz=$(bits_per_byte "$(xz -9 -c "$held_out" | wc -c)")
printf '  %-10s %.4f\n' moray "$ours" 'gzip -9' "$gzip"
[[ $xz == null ]] || printf '  %-10s %.4f   (%s bytes as one stream)\n' 'xz -9' "$xz" "$bytes"
printf '{"bits_per_byte": %s, "gzip_bits_per_byte": %s, "xz_bits_per_byte": %s, "held_out_bytes": %s}\n' \
  "$ours" "$gzip" "$xz" "$bytes" >"$run/evaluation.json"
"$moray" report "$run"
# The same bits on every AVX2 machine, for the same text and tokens.
loss=$(tail -n 1 "$run/metrics.jsonl" | sed 's/.*"loss":\([^,]*\),.*/\1/')
printf '  final loss %s, its bits %s\n' "$loss" "$(perl -e 'print unpack("H*", pack("d>", $ARGV[0]))' "$loss")"

title "What next"
cat <<NEXT
  $moray generate --model $run --prompt 'class Stack:'
      your own prompt; --help lists all options
  $run/report.html
      open it in a browser: loss curves, the load of every expert
  make demo DEMO_TOKENS=20000000
      train longer
  make demo TEXT=path
      the same on your own files
  docs/guide-train.md
      recipes, resuming, larger models
NEXT
