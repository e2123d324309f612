#!/usr/bin/env bash
# Configures and builds one CMake preset in build/PRESET: scripts/build.sh PRESET [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."

preset=$1
shift
[[ -f build/$preset/build.ninja ]] || cmake --preset "$preset" >&2
cmake --build --preset "$preset" -j "$(scripts/jobs.sh)" ${1:+--target "$@"} >&2
