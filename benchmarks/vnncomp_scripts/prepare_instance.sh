#!/bin/bash
# prepare_instance.sh v1 CATEGORY ONNX VNNLIB: can it be read?
set -eu
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${MILPVERIFY_PYTHON:-$root/.venv/bin/python}" -m milpverify.vnncomp prepare "$@"
