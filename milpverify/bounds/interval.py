"""Interval propagation, rounded outward: the cheapest bounds, and the start of all others."""

from __future__ import annotations

import numpy as np

from milpverify.bounds.dual import LEAST_NORMAL, DualBound, DualProblem
from milpverify.network.arrays import to_host


def interval_layer(problem: DualProblem, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of zhat_k from the bounds of its sources. Rounded.

    W c + b -+ |W| r with c, r the centre and radius of the sources' boxes; the allowance of `bounds.dual` with
    nu = +-1 covers the rounding.

    Args:
        problem: Must bound the layers 1..k-1.
        k: The layer, from 1.

    Returns:
        l and u, each of shape (n_k,).

    Source:
        Gowal et al. 2018, section 3.
    """
    affine = problem.affine(k)
    middle, spread, lost = affine.bias, np.zeros(affine.size), np.full(affine.size, LEAST_NORMAL)
    for source, op in affine.blocks:
        low, high = source_box(problem, source)
        centre = low / 2 + high / 2
        radius = np.nextafter(np.maximum(high - centre, centre - low), np.inf)
        middle = middle + to_host(op.apply(problem.convert(centre)))
        spread = spread + to_host(op.magnitude().apply(problem.convert(radius)))
        lost = lost + 2.0 * LEAST_NORMAL * to_host(op.underflow_gain(problem.convert(radius)))
    # |c| + r <= 2 A + a rounding, hence the factor four instead of the kernel's two.
    slack = 4.0 * problem.roundings * 2.0**-53 * problem.scale(k) + 2.0 * affine.bias_error + lost
    return np.nextafter(middle - spread - slack, -np.inf), np.nextafter(middle + spread + slack, np.inf)


def interval_rows(problem: DualProblem, rows: np.ndarray) -> DualBound:
    """Lower bounds of rows . y, rows (m, n_outputs), from the boxes of the output's sources: nu = 0. Rounded."""
    k = len(problem.net.layers) + 1
    affine = problem.affine(k)
    value = rows @ affine.bias - np.abs(rows) @ problem.allowance(k) - problem.underflow(k)
    input_lam = np.zeros((len(rows), problem.net.n_inputs))
    for source, op in affine.blocks:
        lam = to_host(op.transpose_apply(problem.convert(rows)))
        if source == 0:
            input_lam = lam
            continue
        low, high = source_box(problem, source)
        value = value + np.minimum(lam * low, lam * high).sum(axis=1)
    value = value + np.asarray(problem.region.minimum(input_lam))
    nu = tuple(np.zeros((len(rows), len(problem.layer(j).unstable))) for j in range(1, k))
    value = np.where(np.isfinite(value), np.nextafter(value, -np.inf), -np.inf)  # an overflow proves nothing
    return DualBound(value, input_lam, nu)


def source_box(problem: DualProblem, source: int) -> tuple[np.ndarray, np.ndarray]:
    """The box of a source: the input region's, or relu of a layer's bounds."""
    if source == 0:
        return problem.region.lower, problem.region.upper
    return np.maximum(problem.lower[source - 1], 0.0), np.maximum(problem.upper[source - 1], 0.0)
