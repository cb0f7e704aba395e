"""Stable neurons folded away: the same function on the region, with only the unstable neurons left.

Over a region, a neuron with l >= 0 is linear and one with u <= 0 is zero. Substituting them leaves dense blocks between
the input, the unstable neurons and the output. The same *in real arithmetic*: the condensed coefficients are rounded
products, so values on the condensed network guide the search and never stand as a claim; programs carry the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milpverify.network.graph import Affine, Bounds, Network
from milpverify.network.operators import Dense

ROWS_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class Condensed:
    """A condensed network and where its neurons came from.

    Attributes:
        net: Canonical form with dense blocks; layer k holds the unstable neurons of layer k, possibly none.
        bounds: l < 0 < u of those neurons.
        kept: Per layer the indices of its neurons in the original layer.
        errors: Per layer, and last for the output, how far a condensed value can be from the exact one where its
            sources are exact; zeros where nobody asked.
    """

    net: Network
    bounds: Bounds
    kept: tuple[np.ndarray, ...]
    errors: tuple[np.ndarray, ...]


def condense(
    net: Network, bounds: Bounds, rows: np.ndarray | None = None, allowances: Sequence[np.ndarray] | None = None
) -> Condensed:
    """Fold the stable neurons of a network away. Floating: the coefficients are rounded products.

    Args:
        net: The network.
        bounds: Proven bounds over the region of interest; outside that region the result is another function.
        rows: Shape (m, n_outputs): keep rows . y as the outputs instead of y.
        allowances: Per layer, and last for the output, what one unit of a multiplier of zhat_k loses to rounding
            (`DualProblem.allowance`); without them `errors` is zero.

    Returns:
        The condensed network; equal to `net` (or rows . net) on the region up to rounding.
    """
    count = len(net.layers)
    unstable = tuple(np.flatnonzero(bounds.unstable(k)) for k in range(1, count + 1))
    active = tuple(bounds.active(k).astype(np.float64) for k in range(1, count + 1))
    if allowances is None:
        allowances = [np.zeros(affine.size) for affine in (*net.layers, net.output)]
    layers, errors = [], []
    for k in range(1, count + 1):
        unit = np.zeros((len(unstable[k - 1]), net.layers[k - 1].size))
        unit[np.arange(len(unit)), unstable[k - 1]] = 1.0
        layer, error = _fold(net, k, unit, unstable, active, allowances)
        layers.append(layer)
        errors.append(error)
    rows = np.eye(net.n_outputs) if rows is None else np.asarray(rows, dtype=np.float64)
    output, error = _fold(net, count + 1, rows, unstable, active, allowances)
    small = Network(net.input_shape, (len(rows),), tuple(layers), output, net.approximations)
    lower = tuple(l[i] for l, i in zip(bounds.lower, unstable, strict=True))
    upper = tuple(u[i] for u, i in zip(bounds.upper, unstable, strict=True))
    return Condensed(small, Bounds(lower, upper, bounds.source), unstable, (*errors, error))


def _fold(
    net: Network,
    k: int,
    rows: np.ndarray,
    unstable: tuple[np.ndarray, ...],
    active: tuple[np.ndarray, ...],
    allowances: Sequence[np.ndarray],
) -> tuple[Affine, np.ndarray]:
    """rows . zhat_k as an affine map of the input and the unstable neurons below, and its error, by backward walks."""
    starts = range(0, max(len(rows), 1), ROWS_AT_ONCE)
    parts = [_walk(net, k, rows[i : i + ROWS_AT_ONCE], unstable, active, allowances) for i in starts]
    bias = np.concatenate([part[0] for part in parts])
    blocks = []
    for source in range(k):
        block = np.concatenate([part[1][source] for part in parts])
        if block.any():
            blocks.append((source, Dense(block)))
    affine = (*net.layers, net.output)[k - 1]
    error = np.concatenate([part[2] for part in parts])
    return Affine(tuple(blocks), ((None, bias),), len(rows), affine.name), error


def _walk(
    net: Network,
    k: int,
    rows: np.ndarray,
    unstable: tuple[np.ndarray, ...],
    active: tuple[np.ndarray, ...],
    allowances: Sequence[np.ndarray],
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Bias (m,), one block (m, n_inputs or n_unstable_j) per source below layer k, and the error (m,)."""
    lam: list[np.ndarray | None] = [None] * k
    blocks = [np.zeros((len(rows), net.n_inputs if j == 0 else len(unstable[j - 1]))) for j in range(k)]
    bias, error = np.zeros(len(rows)), np.zeros(len(rows))
    nu = rows
    for j in range(k, 0, -1):
        if j < k:
            above = lam[j]
            if above is None:
                continue
            blocks[j] = above[:, unstable[j - 1]]
            nu = above * active[j - 1]
        affine = (*net.layers, net.output)[j - 1]
        bias = bias + nu @ affine.bias
        error = error + np.abs(nu) @ allowances[j - 1]
        for source, op in affine.blocks:
            part = op.transpose_apply(nu)
            before = lam[source]
            lam[source] = part if before is None else before + part
    if lam[0] is not None:
        blocks[0] = lam[0]
    return bias, blocks, error
