"""Interval propagation, rounded outward: the cheapest bounds, and the start of all others."""

from __future__ import annotations

import numpy as np

from milpverify.bounds.dual import DualBound, batch_shape, dot, minimum
from milpverify.bounds.problem import LEAST_NORMAL, DualProblem
from milpverify.network.arrays import to_host


def interval_layer(problem: DualProblem, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of zhat_k from the bounds of its sources. Rounded.

    W c + b -+ |W| r with c, r the centre and radius of the sources' boxes; the allowance of `bounds.dual` with
    nu = +-1 covers the rounding.

    Args:
        problem: Must bound the layers 1..k-1.
        k: The layer, from 1.

    Returns:
        l and u, each of shape (*batch, n_k).

    Source:
        Gowal et al. 2018, section 3.
    """
    affine = problem.affine(k)
    middle, lost = affine.bias, np.full(affine.size, LEAST_NORMAL)
    spread = np.zeros((*batch_shape(problem), affine.size))
    for source, op in affine.blocks:
        low, high = problem.source_box(source)
        centre = low / 2 + high / 2
        radius = np.maximum(high - centre, centre - low)
        middle = middle + to_host(op.apply(problem.convert(centre)))
        spread = spread + to_host(op.absolute.apply(problem.convert(radius)))
        lost = lost + 2.0 * LEAST_NORMAL * to_host(op.underflow_gain(problem.convert(radius)))
    # |c| + r <= 2 A and a rounding, hence the factor four instead of the kernel's two. The sixteen roundings that
    # `roundings` has to spare cover the radius, which is rounded to nearest, and the sums below.
    slack = 4.0 * problem.roundings * 2.0**-53 * problem.scale(k) + 2.0 * affine.bias_error + lost
    slack = slack + problem.error(k) * (1.0 + 2.0**-40)
    return middle - spread - slack, middle + spread + slack


def interval_rows(problem: DualProblem, rows: np.ndarray) -> DualBound:
    """Lower bounds of rows . y, rows (m, n_outputs), from the boxes of the output's sources: nu = 0. Rounded."""
    k = len(problem.layers)
    affine = problem.affine(k)
    C = problem.convert(rows)
    value = dot(C, problem.convert(affine.bias)) - dot(abs(C), problem.convert(problem.allowance(k)))
    value = to_host(value - problem.underflow(k))
    input_lam = problem.convert(np.zeros((*rows.shape[:-1], problem.n_inputs)))
    for source, op in affine.blocks:
        lam = op.transpose_apply(C)
        if source == 0:
            input_lam = lam
            continue
        low, high = (part[..., None, :] for part in problem.source_box(source))
        lam = to_host(lam)
        value = value + np.minimum(lam * low, lam * high).sum(axis=-1)
    value = value + to_host(minimum(problem, input_lam))
    nu = tuple(np.zeros((*value.shape, problem.phases(j).unstable.shape[0])) for j in range(1, k))
    value = np.where(np.isfinite(value), np.nextafter(value, -np.inf), -np.inf)  # an overflow proves nothing
    return DualBound(value, to_host(input_lam), nu)
