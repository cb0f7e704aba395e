"""Which neurons to tighten first, where time or their number is limited."""

from __future__ import annotations

import numpy as np

from milpverify.bounds.backward import crown_rule
from milpverify.bounds.dual import dual_bound
from milpverify.bounds.interval import interval_layer
from milpverify.bounds.problem import DualProblem, LayerPhases
from milpverify.network.arrays import to_host
from milpverify.network.operators import Array


def by_weight(problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The neurons `index` of layer k, those first whose triangles can cost the outputs most. Floating, a guide.

    The score is |l| u / (u - l), the height of the triangle, times the sum over the outputs of |lambda| at the neuron
    in a CROWN walk, with the layers above bounded by intervals. The height alone where those overflow.

    Args:
        problem: Bounds the layers below k.
        l, u: Known bounds of layer k.
        index: Unstable neurons of layer k, rising.
    """
    height = -l[index] * u[index] / (u[index] - l[index])
    with np.errstate(over="ignore", invalid="ignore"):
        score = height * _reach(problem, k, l, u)
    if not np.isfinite(score).all():
        score = height
    return index[np.argsort(-score, kind="stable")]


def _reach(problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray) -> np.ndarray:
    """sum |lambda| over the outputs at the unstable neurons of layer k."""
    problem = problem.with_layer(l, u)
    problem.__dict__["cache"] = dict(problem.cache)  # what follows is a guess that no claim may see
    for j in range(k + 1, len(problem.layers)):
        problem = problem.with_layer(*interval_layer(problem, j))
    seen = np.zeros(int(((l < 0) & (u > 0)).sum()))

    def watch(j: int, lam: Array, phases: LayerPhases) -> Array:
        if j == k:
            seen[:] = np.abs(to_host(lam)).sum(axis=0)
        return crown_rule(j, lam, phases)

    n_outputs = problem.layers[-1].size
    dual_bound(problem, len(problem.layers), np.eye(n_outputs), watch)
    return seen
