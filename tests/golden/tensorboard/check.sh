#!/usr/bin/env bash
# Reads event files with TensorBoard from PyPI: check.sh SAMPLE_RUN WORK_FOLDER. Exits 77 where PyPI is out of reach.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
sample_run=$1 work=$2

venv=$work/venv
if ! "$venv/bin/python" -c 'import tensorboard' 2>/dev/null; then
  python3 -m venv "$venv" && "$venv/bin/pip" install --quiet tensorboard==2.21.0 'setuptools<81' || exit 77
fi
"$sample_run" "$work/runs"
for run in balanced unbalanced; do "$venv/bin/python" "$here/check.py" "$work/runs/$run"; done
