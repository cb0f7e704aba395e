#!/bin/bash
# install_tool.sh v1: a virtual environment in the source tree, and the tool with onnxruntime in it.
set -eu
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
if [ -z "${MILPVERIFY_PYTHON:-}" ]; then
    [ -x "$root/.venv/bin/python" ] || python3 -m venv "$root/.venv"
    MILPVERIFY_PYTHON="$root/.venv/bin/python"
fi
cd "$root"
exec "$MILPVERIFY_PYTHON" -m milpverify.vnncomp install "$@"
