"""Published counterexamples of all suites are counterexamples in exact arithmetic."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import milpverify as mv
from tests.paths import need

# Every so many, where networks are large.
SUITES = {
    "acasxu": 1,
    "collins_rul_cnn": 8,
    "linearizenn": 1,
    "mnist_fc": 3,
    "oval21": 1,
    "reach_prob_density": 1,
    "rl_benchmarks": 1,
    "safenlp": 1,
    "test": 1,
    "tllverifybench": 3,
}


@lru_cache(maxsize=1)
def network(path: Path) -> mv.Network:
    """A network, kept while the next witness is of the same."""
    return mv.from_onnx(path)


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_published_counterexamples_are_confirmed_exactly(suite: str) -> None:
    found = np.load(need(suite, "sat_witnesses.npz"))
    rows = [row[0].split("|") for row in csv.reader(str(line) for line in found["index"])]
    checked = 0
    for i in range(0, len(rows), SUITES[suite]):
        onnx, vnnlib = need(suite, rows[i][0]), need(suite, rows[i][1])
        if onnx.suffix == ".gz":  # matrices of gigabytes
            continue
        net, x = network(onnx), found[f"x{i}"].reshape(-1)
        witnesses = [mv.confirm(net, case, x) for case in mv.read_vnnlib(vnnlib).cases]
        points = [w.x for w in witnesses if w is not None]
        # Published inputs are rounded to float32; no point is moved further than that to lie inside.
        assert any(np.abs(p - x).max() <= 1e-6 * (1 + np.abs(x).max()) for p in points), rows[i]
        checked += 1
    assert checked
