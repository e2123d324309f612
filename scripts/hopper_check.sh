#!/usr/bin/env bash
# Checks moray's arithmetic against a Hopper GPU: builds with nvcc for sm_90a and runs every check of
# src/backend/cuda. With a folder, what a check records goes there: scripts/hopper_check.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."

command -v nvcc > /dev/null || { printf 'hopper_check: nvcc is not in PATH\n' >&2; exit 1; }
build=build/hopper
mkdir -p "$build"
nvcc -std=c++20 -O2 -gencode=arch=compute_90a,code=sm_90a -Isrc \
  -o "$build/tensor_core_check" src/backend/cuda/tensor_core_check.cu src/ops/tensor_core.cc
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
"$build/tensor_core_check" ${1:+"$1/h100.txt"}
