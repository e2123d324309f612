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
  count() { { grep -o "$1" "$work/$page.dom" || true; } | wc -l; }  # none is a count too
  local found
  found="$(count '<div class="chart"') charts, $(count '<canvas class="map"') heatmaps, $(count '<h3>MTP layer</h3>') of MTP"
  found+=", $(count 'class="swatch" style="background: repeating-linear-gradient') dashed swatches"
  [[ $found == "$2 charts, $3 heatmaps, $4 of MTP, $5 dashed swatches" ]] || { echo "$page: $found"; return 1; }
  grep -q "<title>$6 – moray</title>" "$work/$page.dom" || { echo "$page: wrong title"; return 1; }
  ! grep CONSOLE "$work/$page.log" || return 1
}

check report.html 6 5 1 1 balanced
check compare.html 8 10 2 4 "balanced · unbalanced"
