"""Where the published benchmark data lies, which is not part of the repository."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks.data import DATA, mnist_test

ROOT = Path(__file__).resolve().parents[1]


def need(*parts: str) -> Path:
    """The path of a file or folder of the benchmark data; skips the test where it is absent."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the benchmark data; set MILPVERIFY_DATA to its folder")
    return path


@cache
def mnist() -> tuple[np.ndarray, np.ndarray]:
    """The 10,000 MNIST test images, float64 in [0, 1] of shape (10000, 784), and their labels."""
    need("mnist", "t10k-images-idx3-ubyte.gz")
    need("mnist", "t10k-labels-idx1-ubyte.gz")
    return mnist_test()
