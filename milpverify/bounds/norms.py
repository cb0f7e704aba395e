r"""Bounds from operator norms alone: the naive layer-wise bounds that dual bounds are compared with.

Let c be the centre of the region's bounding box, r_k its exact trajectory (r_k = W relu(r) + b through the layers) and
delta_0 the largest half width of the box. A layer moves no further from the trajectory than

    | zhat_k - r_k |_i  <=  sum_s ( sum_j |W_ks|_ij ) delta_s + e_k,i        and        delta_k = max_i of it,

for ReLU never enlarges a distance: the l-inf operator norms multiply up, one number per layer. e_k is the slack of
zhat_k (float32 execution). The trajectory is enclosed by intervals over the degenerate box {c}; no bound of any other
kind is met with these. Balls of other norms, and regions with cuts, count as their bounding box.

Source: Wong & Kolter 2018, section 4.1 (the naive layer-wise bound); Szegedy et al. 2014, section 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from milpverify.bounds.dual import DualBound, dot
from milpverify.bounds.interval import interval_layer, interval_rows
from milpverify.bounds.method import BoundMethod
from milpverify.bounds.problem import LEAST_NORMAL, DualProblem
from milpverify.bounds.semantics import REAL
from milpverify.network.arrays import to_host
from milpverify.network.graph import UNIT, AffineMap
from milpverify.network.operators import LinearOperator
from milpverify.spec.batch import BoxBatch
from milpverify.spec.regions import Box


@dataclass(frozen=True)
class NormBounds(BoundMethod):
    """Products of l-inf operator norms around the centre's trajectory; a row for comparison tables. Rounded.

    `rows` claims its values from the norms of C W, not from g: `DualBound.nu` is empty and `input_lam` zero.
    """

    name: ClassVar[str] = "norms"

    def layer(self, problem: DualProblem, k: int) -> tuple[np.ndarray, np.ndarray]:
        low, high = interval_layer(_centre(problem, k), k)
        reach = _reach(problem, k)
        return np.nextafter(low - reach, -np.inf), np.nextafter(high + reach, np.inf)

    def refine(self, problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.layer(problem, k)
        return np.maximum(l, low), np.minimum(u, high)

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        k = len(problem.layers)
        affine, sizes = problem.affine(k), np.abs(rows)
        gamma, slack = _gamma(affine), problem.error(k)
        reach = dot(sizes, slack) + LEAST_NORMAL
        for source, op in affine.blocks:
            moved = to_host(op.transpose_apply(problem.convert(rows)))
            # C W is rounded: |C| times the row sums of |W| says by how much at most.
            sums = np.abs(moved).sum(axis=-1) + gamma * (sizes @ _row_sums(problem, op))
            reach = reach + sums * _delta(problem, source) + LEAST_NORMAL
        value = interval_rows(_centre(problem, k), rows).value - reach * (1.0 + gamma)
        value = np.where(np.isfinite(value), np.nextafter(value, -np.inf), -np.inf)
        return DualBound(value, np.zeros((*value.shape, problem.n_inputs)))


def _centre(problem: DualProblem, k: int) -> DualProblem:
    """The centre's trajectory: a problem over the degenerate box {c}, in real arithmetic, bounded below layer k."""
    key = ("norms", "centre")
    centre: DualProblem | None = problem.cache.get(key)
    if centre is None:
        point, _ = _box(problem)
        region = BoxBatch(point, point) if problem.batch else Box(point, point)
        centre = replace(problem, region=region, lower=(), upper=(), semantics=REAL, slack=())
    while len(centre.lower) < k - 1:
        centre = centre.with_layer(*interval_layer(centre, len(centre.lower) + 1))
    problem.cache[key] = centre
    return centre


def _box(problem: DualProblem) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half widths of the bounding boxes, shape (*batch, n); c -+ half widths, rounded up, contains them."""
    low, high = problem.region.lower, problem.region.upper
    centre = low / 2 + high / 2
    gap = np.maximum(high - centre, centre - low)
    return centre, np.where(gap > 0, np.nextafter(gap, np.inf), 0.0)


def _reach(problem: DualProblem, k: int) -> np.ndarray:
    """Bounds of |zhat_k - r_k|, shape (*batch, n_k). Rounded up."""
    key = ("norms", k)
    if key not in problem.cache:
        affine = problem.affine(k)
        reach = problem.error(k) + np.zeros((*problem.batch, affine.size)) + LEAST_NORMAL
        for source, op in affine.blocks:
            reach = reach + _row_sums(problem, op) * _delta(problem, source) + LEAST_NORMAL
        problem.cache[key] = reach * (1.0 + _gamma(affine))
    return np.asarray(problem.cache[key])


def _delta(problem: DualProblem, source: int) -> np.ndarray:
    """How far any entry of a source is from the trajectory, shape (*batch, 1). Rounded up."""
    radius = _box(problem)[1] if source == 0 else _reach(problem, source)
    return np.asarray(radius.max(axis=-1, keepdims=True, initial=0.0))


def _row_sums(problem: DualProblem, op: LinearOperator) -> np.ndarray:
    """sum_j |W_ij|, shape (out_size,); exact up to `_gamma`."""
    ones = problem.convert(np.ones(op.in_size))
    return to_host(op.absolute.apply(ones) + 2.0 * LEAST_NORMAL * op.underflow_gain(ones))


def _gamma(affine: AffineMap) -> float:
    """More than the relative error of a sum of sizes over a layer's inputs, in any order of summation."""
    longest = sum(op.roundings + op.in_size + 4 for _, op in affine.blocks) + affine.size + 16
    return 4.0 * longest * UNIT
