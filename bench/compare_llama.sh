#!/usr/bin/env bash
# Decode behind 128 tokens and prefill of 512 in moray and in ik_llama.cpp (or llama.cpp), in turns, and their ratio: one
# shape, random weights, as many threads. The best of several of its options counts, and the best round of both.
#
# usage: bench/compare_llama.sh LLAMA_BENCH LLAMA_QUANTIZE WORK_FOLDER
#        LLAMA_BENCH, LLAMA_QUANTIZE: its programs; WORK_FOLDER: for the models, 24 GB for V2-Lite's shape with 7 layers
#        environment: BUILD (build/release), PYTHON (with gguf; default python3), THREADS (2), ROUNDS (3),
#        RECIPE (recipes/v2-lite.toml), LAYERS (7), WHAT (decode prefill), PAIRS (8bit:Q8_0 4bit:Q4_K_M 4bit:Q4_K
#        bf16:BF16; Q4_K: every matrix of it, the head too), OPTIONS (llama-bench's; then none are tried)
#
# ik_llama.cpp takes a model for V2-Lite by its number of layers, which the second line widens:
#   git clone https://github.com/ikawrakow/ik_llama.cpp && cd ik_llama.cpp
#   sed -i 's/n_layer == 27 || hparams.n_layer == 26/n_layer <= 27/' src/*.cpp src/graphs/build_deepseek2.cpp
#   cmake -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF
#   cmake --build build --target llama-bench llama-quantize
set -euo pipefail

[[ $# == 3 && $1 != -* ]] || { sed -n 's/^# \{0,1\}//; 2,15p' "$0"; [[ $# == 0 || $1 == -* ]]; exit; }
LLAMA_BENCH=$(realpath "$1") LLAMA_QUANTIZE=$(realpath "$2") WORK=$(realpath "$3")
cd "$(dirname "$0")/.."

MORAY=${BUILD:-build/release}/bin/moray
PYTHON=${PYTHON:-python3} THREADS=${THREADS:-2} ROUNDS=${ROUNDS:-3}
RECIPE=${RECIPE:-recipes/v2-lite.toml} LAYERS=${LAYERS:-7}
WHAT=${WHAT:-decode prefill} PAIRS=${PAIRS:-8bit:Q8_0 4bit:Q4_K_M 4bit:Q4_K bf16:BF16}
SHAPE=("$RECIPE" --set "model.num_hidden_layers=$LAYERS")
TRIED=("-mla 3 -fa 1 -fmoe 1 -rtr 1" "-mla 3 -fa 1 -fmoe 1" "-mla 3 -fa 1 -fmoe 1 -rtr 1 -thp 1" "-mla 1 -fa 1 -fmoe 1 -rtr 1")

"$PYTHON" -c 'import gguf' 2>/dev/null || { echo "$PYTHON cannot import gguf (bench/write_gguf.py)" >&2; exit 1; }

# The value of an expression over one JSON document, `it`.
value() { "$PYTHON" -c 'import json, sys; it = json.loads(sys.argv[1]); print(eval("(" + sys.argv[2] + ")"))' "$1" "$2"; }
better() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > b) }'; }

# The GGUF file of a type, made if it is not there; BF16 comes from a random folder.
model() {
  local file=$WORK/$1.gguf
  if [[ ! -e $file && $1 == BF16 ]]; then
    [[ -e $WORK/folder/config.json ]] || "$MORAY" bench make-model "${SHAPE[@]}" "$WORK/folder" --format bf16
    "$PYTHON" bench/write_gguf.py "$WORK/folder" "$file.part" && mv "$file.part" "$file"
    rm -r "$WORK/folder"
  elif [[ ! -e $file ]]; then
    model BF16
    "$LLAMA_QUANTIZE" $([[ $1 != Q4_K ]] || echo --pure) "$WORK/BF16.gguf" "$file.part" "$1" "$THREADS" >&2
    mv "$file.part" "$file"
  fi
}

# llama WHAT TYPE OPTIONS: tokens/s of its best repetition, and the share of the processors that others used meanwhile
llama() {
  local test="-p 512 -n 0 -r 3"
  [[ $1 == prefill ]] || test="-p 0 -n 0 -gp 128,24 -r 4"
  # shellcheck disable=SC2086  # words on purpose
  "$PYTHON" - "$LLAMA_BENCH" -m "$WORK/$2.gguf" -t "$THREADS" $test $3 -o json <<'END'
import json, os, subprocess, sys
def busy():  # user, nice, system; waiting is none
    return sum(int(x) for x in open("/proc/stat").readline().split()[1:4]) / os.sysconf("SC_CLK_TCK")
begin, clock = busy(), os.times()
output = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
end = os.times()
own = end.children_user + end.children_system - clock.children_user - clock.children_system
others = max(0, busy() - begin - own) / (end.elapsed - clock.elapsed) / os.cpu_count()
print("%.2f %.1f" % (max(json.loads(output)[0]["samples_ts"]), 100 * others))
END
}

compare() {
  local what=$1 ours=${2%%:*} type=${2#*:} line rate others best='' best_rate=0 options moray_rates=() llama_rates=()
  if [[ -n ${OPTIONS:-} ]]; then
    best=$OPTIONS
  else
    for options in "${TRIED[@]}" "${TRIED[@]}"; do
      rate=$(llama "$what" "$type" "$options" 2>/dev/null) || { echo "$what $type $options: failed"; continue; }
      printf '%s %s, %s: %s tokens/s (others %s%%)\n' "$what" "$type" "$options" ${rate% *} ${rate#* }
      rate=${rate% *}
      if better "$rate" "$best_rate"; then best=$options best_rate=$rate; fi
    done
  fi
  for ((round = 1; round <= ROUNDS; round++)); do
    line=$("$MORAY" bench "$what" "${SHAPE[@]}" --format "$ours" --threads "$THREADS" --json)
    [[ $what == prefill ]] || line=$(value "$line" 'json.dumps({**it, **it["decode"][0]})')
    moray_rates+=("$(value "$line" 'it["tokens_per_second"]')")
    read -r rate others <<<"$(llama "$what" "$type" "$best")"
    llama_rates+=("$rate")
    printf '%s round %d: moray %s %.2f tokens/s (%s; others %s), %s %s (%sothers %s%%)\n' "$what" "$round" "$ours" \
      "${moray_rates[-1]}" \
      "$(value "$line" '"%.1f GB/s, %.0f%% of memory" % (it["weight_gb_per_second"], 100 * it["ratio"]) if "decode" in it
                        else "%.1f%% of the multiply-add peak" % (100 * it["ratio"])')" \
      "$(value "$line" '"%.1f%%, stolen %.1f%%" % (100 * it["other_processes"], 100 * it["steal"])')" "$type" "$rate" \
      "$([[ $what == prefill ]] || awk -v r="$rate" -v b="$bytes" 'BEGIN { printf "%.1f GB/s; ", r * b / 1e9 }')" "$others"
  done
  "$PYTHON" - "$what $ours / $type ($best)" "${moray_rates[*]}" "${llama_rates[*]}" <<'END'
import statistics, sys
a, b = ([float(x) for x in text.split()] for text in sys.argv[2:])
print("%s: best %.2f / %.2f = %.2f, median %.2f / %.2f = %.2f" % (sys.argv[1], max(a), max(b), max(a) / max(b),
      statistics.median(a), statistics.median(b), statistics.median(a) / statistics.median(b)))
END
}

mkdir -p "$WORK"
for pair in $PAIRS; do
  model "${pair#*:}"
  bytes=$("$PYTHON" bench/write_gguf.py --bytes "$WORK/${pair#*:}.gguf")
  printf '%s, %s: a token reads %d MB of the GGUF file\n' "$pair" \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" $((bytes / 1000000))
  for what in $WHAT; do compare "$what" "$pair"; done
done
