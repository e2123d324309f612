#!/usr/bin/env bash
# Configures and builds one CMake preset in build/PRESET: scripts/build.sh PRESET [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."

preset=$1
shift
jobs=$(scripts/jobs.sh)
[[ -d build/$preset ]] || printf 'build: %s, %s jobs; the first build takes minutes\n' "$preset" "$jobs" >&2
[[ -f build/$preset/build.ninja ]] || cmake --preset "$preset" >&2
cmake --build --preset "$preset" -j "$jobs" ${1:+--target "$@"} >&2
