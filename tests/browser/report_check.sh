#!/usr/bin/env bash
# Opens the sample reports in headless Chromium: report_check.sh SAMPLE_RUN WORK_FOLDER. Every chart and heatmap must
# appear, scripts smuggled in through a recipe must not run, nothing may be logged. Exits 77 without Chromium.
set -euo pipefail
sample_run=$1 work=$2
command -v chromium >/dev/null || exit 77
"$sample_run" "$work"

check() { # check PAGE CHARTS HEATMAPS MTP_HEATMAPS DASHED_SWATCHES TITLE
  local page=$1
  timeout 120 chromium --headless --no-sandbox --disable-gpu --virtual-time-budget=4000 --enable-logging=stderr \
    --dump-dom "file://$work/$page" >"$work/$page.dom" 2>"$work/$page.log"
  local charts maps
  charts=$(grep -o '<div class="chart"' "$work/$page.dom" | wc -l)
  maps=$(grep -o '<canvas class="map"' "$work/$page.dom" | wc -l)
  [[ $charts == "$2" && $maps == "$3" ]] || { echo "$page: $charts charts, $maps heatmaps"; return 1; }
  local mtp dashed
  mtp=$({ grep -o '<h3>MTP layer</h3>' "$work/$page.dom" || true; } | wc -l)
  dashed=$({ grep -o 'class="swatch" style="background: repeating-linear-gradient' "$work/$page.dom" || true; } | wc -l)
  [[ $mtp == "$4" && $dashed == "$5" ]] || { echo "$page: $mtp heatmaps of MTP, $dashed dashed swatches"; return 1; }
  grep -q "<title>$6 – moray</title>" "$work/$page.dom" || { echo "$page: wrong title"; return 1; }
  ! grep CONSOLE "$work/$page.log" || return 1
}

check report.html 6 5 1 1 balanced
check compare.html 8 10 2 4 "balanced · unbalanced"
