"""Where the published benchmark data lies, which is not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

DATA = Path(os.environ.get("MILPVERIFY_DATA", ROOT.parent / "shared" / "data"))


def need(*parts: str) -> Path:
    """The path of a file or folder of the benchmark data; skips the test where it is absent."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the benchmark data; set MILPVERIFY_DATA to its folder")
    return path
