#!/usr/bin/env bash
# Opens the sample reports in headless Chromium: report_check.sh SAMPLE_RUN WORK_FOLDER. Every chart and heatmap must
# appear, scripts smuggled in through a recipe must not run, nothing may be logged. Exits 77 without Chromium.
set -euo pipefail
sample_run=$1 work=$2
command -v chromium >/dev/null || exit 77
"$sample_run" "$work"

check() { # check PAGE CHARTS HEATMAPS TITLE
  local page=$1
  timeout 120 chromium --headless --no-sandbox --disable-gpu --virtual-time-budget=4000 --enable-logging=stderr \
    --dump-dom "file://$work/$page" >"$work/$page.dom" 2>"$work/$page.log"
  local charts maps
  charts=$(grep -o '<div class="chart"' "$work/$page.dom" | wc -l)
  maps=$(grep -o '<canvas class="map"' "$work/$page.dom" | wc -l)
  [[ $charts == "$2" && $maps == "$3" ]] || { echo "$page: $charts charts, $maps heatmaps"; return 1; }
  grep -q "<title>$4 – moray</title>" "$work/$page.dom" || { echo "$page: wrong title"; return 1; }
  ! grep CONSOLE "$work/$page.log" || return 1
}

check report.html 6 5 balanced
check compare.html 8 10 "balanced · unbalanced"
