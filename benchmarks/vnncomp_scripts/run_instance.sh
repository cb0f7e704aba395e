#!/bin/bash
# run_instance.sh v1 CATEGORY ONNX VNNLIB RESULTS TIMEOUT: write sat, unsat, unknown, timeout or error to RESULTS.
set -eu
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${MILPVERIFY_PYTHON:-$root/.venv/bin/python}" -m milpverify.vnncomp run "$@"
