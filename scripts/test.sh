#!/usr/bin/env bash
# Builds presets and runs their tests in one ctest run: scripts/test.sh [--all] [--summary-last] PRESET...
# Without --all the tests labelled long, pypi and browser are left out and listed.
set -euo pipefail
cd "$(dirname "$0")/.."

select=(-LE 'long|pypi|browser')
summary_last=false
presets=()
for argument in "$@"; do
  case $argument in
    --all) select=() ;;
    --summary-last) summary_last=true ;;
    *) presets+=("$argument") ;;
  esac
done

for preset in "${presets[@]}"; do scripts/build.sh "$preset"; done

list_left_out() {
  [[ ${#select[@]} -gt 0 ]] || return 0
  echo "Left to \`make test-all\` (long, PyPI, browser):"
  ctest --test-dir build -N -L 'long|pypi|browser' | awk '/Test +#/ { print "  " $NF }'
}

# One tree above the presets' trees, so that there is one summary.
printf 'subdirs(%s)\n' "${presets[*]}" >build/CTestTestfile.cmake

$summary_last && list_left_out
status=0
ctest --test-dir build -j "$(scripts/jobs.sh)" --output-on-failure "${select[@]}" || status=$?
$summary_last || list_left_out
exit "$status"
