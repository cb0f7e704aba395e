r"""Gradient ascent on input-wise multipliers: an upper plane of each neuron with a slope for each of its inputs.

Where lambda < 0 a neuron z = relu(w.t + b), t in [L, U], is bounded from above. With gamma in [0, 1] for each input,

    z <= sum_i gamma_i w_i t_i + R(gamma),      R = max( -sum_i gamma_i m_i,  b + sum_i (1 - gamma_i) h_i ),

with m_i and h_i the least and the largest w_i t_i: both sides of the kink at their worst over the box. In the dual
function this is kappa = lambda gamma w (`bounds.kappa`). All gammas equal to u / (u - l) give the triangle's upper
side; the best ones give the convex hull of one neuron over the box of its inputs, which is where the triangle falls
short. g is concave in kappa, and its gradient comes from the relaxed minimiser as for alpha.

Source: Anderson et al. 2020, theorem 2; Tjandraatmadja et al. 2020; De Palma et al. 2021 (the dual ascent).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from milpverify.bounds.ascent import QUIET, SPARE, Adam, Ascent, Climb, Slopes, dense_weights
from milpverify.bounds.kappa import Kappa, occurrences
from milpverify.bounds.problem import DualProblem
from milpverify.network.arrays import array_namespace, device, to_host
from milpverify.network.operators import Array

MOMENTUM = 0.8  # of gamma's steps
SHARE_RATE = 1.0 / 3.0  # of gamma's step size, for the shares, which all of gamma's gradients depend on


@dataclass(frozen=True, eq=False)
class PlaneInputs:
    """What the unstable neurons of one layer read, in the ascent's arithmetic.

    Attributes:
        columns: numpy (n, r): columns of [x, z_1, ...], -1 fills up.
        take: The same in the namespace, -1 replaced by a column of zeros.
        put: Where a column's entries stand in the flattened (n, r), (columns, most); entry n * r is a zero.
        dense: Whether every neuron reads the first r columns, in order: then nothing needs gathering.
        weights: (n, r).
        low, high: The least and the largest w_i t_i, (n, r).
    """

    columns: np.ndarray
    take: Array
    put: Array
    dense: bool
    weights: Array
    low: Array
    high: Array


@dataclass(frozen=True, eq=False)
class Planes:
    """What the ascent found.

    Attributes:
        slopes: alpha, and the bounds seen, (m,).
        gamma: Per layer, (m, n, r).
        share: Of lambda that the plane serves where lambda < 0, in [0, 1]; the triangle serves the rest, (m, n).
        inputs: Per layer what its neurons read.
        lam: Per layer lambda, (m, n).
    """

    slopes: Slopes
    gamma: tuple[Array, ...]
    share: tuple[Array, ...]
    inputs: tuple[PlaneInputs, ...]
    lam: tuple[Array, ...]

    @property
    def kappa(self) -> tuple[Kappa, ...]:
        """The multipliers for the kernel, used where lambda is negative."""
        parts = []
        for j, (inputs, lam, share) in enumerate(zip(self.inputs, self.lam, self.share, strict=True), start=1):
            if not len(inputs.columns):
                continue
            below = np.minimum(to_host(lam).astype(np.float64), 0.0)
            used = np.where(below < 0, to_host(share).astype(np.float64), 0.0)
            values = (used * below)[..., None] * self.slopes_of(j)
            parts.append(Kappa(j, np.arange(len(inputs.columns)), inputs.columns, values, used))
        return tuple(parts)

    def slopes_of(self, j: int) -> np.ndarray:
        """The planes of layer j: gamma w for what each neuron reads (`inputs[j - 1].columns`), (m, n, r) in float64."""
        return np.asarray(to_host(self.gamma[j - 1]).astype(np.float64) * to_host(self.inputs[j - 1].weights))


@QUIET
def raise_planes(climb: Climb, slopes: Slopes, how: Ascent, share_rate: float = SHARE_RATE) -> Planes:
    """Raise g of every row by gamma, shares and alpha, from slopes that alpha's own ascent found. Floating.

    Args:
        climb: Rows over a condensed problem: one region, every neuron unstable, dense blocks.
        slopes: Where to start.
        how: Steps and step sizes, of gamma and alpha.
        share_rate: Step size of the shares, in those; few steps reach farther with 1, many with less.
    """
    xp, like = array_namespace(climb.rows), climb.rows
    inputs = [plane_inputs(climb.problem, j, climb.ends, climb.rows) for j in range(len(climb.layers))]
    alpha = [xp.asarray(a, copy=True) for a in slopes.alpha]
    shape = [(like.shape[0], *part.weights.shape) for part in inputs]
    gamma = [
        xp.zeros(size, dtype=like.dtype, device=device(like)) + layer.slope[..., None]
        for size, layer in zip(shape, climb.layers, strict=True)
    ]
    share = [xp.ones_like(part) for part in alpha]
    push = [xp.zeros_like(part) for part in gamma]
    pace = replace(how, rate=how.rate * share_rate, last_rate=how.last_rate * share_rate)
    adam, adam_of_shares, n = Adam(alpha), Adam(share), len(alpha)
    best, seen = _evaluate(climb, inputs, alpha, gamma, share)
    kept = [*alpha, *gamma, *share, *seen.lam]
    for step in range(how.steps):
        if how.late:
            break
        by_alpha, by_gamma, by_share = _gradient(climb, inputs, alpha, gamma, share, seen)
        alpha = adam.moved(how, step, alpha, by_alpha)
        share = adam_of_shares.moved(pace, step, share, by_share)
        for j, slope in enumerate(by_gamma):
            push[j] = MOMENTUM * push[j] + slope
            # A neuron's inputs share one step size, so that those that matter more move farther.
            size = xp.sum(xp.abs(push[j]), axis=-1, keepdims=True) / max(slope.shape[-1], 1) + SPARE
            gamma[j] = xp.clip(gamma[j] + push[j] * (how.at(step) / size), min=0.0, max=1.0)
        value, seen = _evaluate(climb, inputs, alpha, gamma, share)
        better = value > best
        best = xp.where(better, value, best)
        for i, part in enumerate((*alpha, *gamma, *share, *seen.lam)):
            kept[i] = xp.where(better.reshape((-1,) + (1,) * (part.ndim - 1)), part, kept[i])
    alphas, gammas, shares, lams = (tuple(kept[i * n : (i + 1) * n]) for i in range(4))
    return Planes(Slopes(alphas, to_host(best)), gammas, shares, tuple(inputs), lams)


def plane_inputs(
    problem: DualProblem, j: int, ends: Sequence[int], like: Array, neurons: np.ndarray | None = None
) -> PlaneInputs:
    """What some neurons of layer j + 1 of a dense problem read (all when None), in the arithmetic of `like`.

    Columns end at `ends`.
    """
    xp = array_namespace(like)
    dense = dense_weights(problem, j + 1, ends)
    dense = dense if neurons is None else dense[neurons]  # in float32 a tiny weight vanishes, and still needs listing
    n, width = dense.shape
    count = (dense != 0).sum(axis=1)
    most = int(count.max(initial=0))
    columns = np.argsort(dense == 0, axis=1, kind="stable")[:, :most]
    columns = np.where(np.arange(most) < count[:, None], columns, -1)
    same = bool(len(columns)) and 2 * count.mean() > width  # gathering would cost more than the zeros
    if same:
        columns = np.broadcast_to(np.arange(width), (n, width))
        most = width
    weights = np.where(columns >= 0, np.take_along_axis(dense, np.maximum(columns, 0), axis=1), 0.0)
    low, high = (np.concatenate(side) for side in zip(*(problem.source_box(s) for s in range(j + 1)), strict=True))
    sides = weights * low[np.maximum(columns, 0)], weights * high[np.maximum(columns, 0)]
    table = occurrences(columns[:0] if same else columns, width)
    place = device(like)

    def cast(values: np.ndarray) -> Array:
        return xp.asarray(np.ascontiguousarray(values), dtype=like.dtype, device=place)

    return PlaneInputs(
        columns,
        xp.asarray(np.where(columns < 0, ends[-1], columns), device=place),
        xp.asarray(np.where(table < 0, n * most, table), device=place),
        same,
        cast(weights),
        cast(np.minimum(*sides)),
        cast(np.maximum(*sides)),
    )


@dataclass(frozen=True, eq=False)
class _Seen:
    """One evaluation of g: per layer lambda, R and whether it is attained above the kink; the region's minimiser."""

    lam: list[Array]
    offsets: list[Array]
    on: list[Array]
    x: Array


def _evaluate(
    climb: Climb, inputs: Sequence[PlaneInputs], alpha: Sequence[Array], gamma: Sequence[Array], share: Sequence[Array]
) -> tuple[Array, _Seen]:
    """g (m,), and what it was made of."""
    xp = array_namespace(climb.rows)
    value, columns = climb.constant, xp.asarray(climb.rows, copy=True)
    lam, offsets, on = ([None] * len(climb.layers) for _ in range(3))
    for j in range(len(climb.layers) - 1, -1, -1):
        layer, part, end = climb.layers[j], inputs[j], climb.ends[j]
        h = xp.asarray(columns[:, end : climb.ends[j + 1]], copy=True)
        above = xp.clip(h, min=0.0)
        below = h - above
        by_plane = below * share[j]
        rest = below - by_plane
        off = -xp.sum(gamma[j] * part.low, axis=-1)
        right = layer.bias + xp.sum(part.high - gamma[j] * part.high, axis=-1)
        lam[j], on[j], offsets[j] = h, right >= off, xp.maximum(off, right)
        nu = above * alpha[j] + rest * layer.slope
        value = value + nu @ layer.bias + xp.sum(by_plane * offsets[j] + rest * layer.intercept, axis=-1)
        columns[:, :end] += nu @ layer.weights + scattered(by_plane, gamma[j] * part.weights, part)
    lam0 = columns[:, : climb.ends[0]]
    x = climb.minimiser(lam0)
    return value + xp.sum(lam0 * x, axis=-1), _Seen(lam, offsets, on, x)


def scattered(below: Array, slopes: Array, part: PlaneInputs) -> Array:
    """lambda (m, n) times slopes (m, n, r), summed into their columns, (m, columns)."""
    xp, m = array_namespace(slopes), slopes.shape[0]
    if part.dense:
        return (below[:, None, :] @ slopes)[:, 0]
    zero = xp.zeros((m, 1), dtype=slopes.dtype, device=device(slopes))
    flat = xp.concat([(below[..., None] * slopes).reshape((m, -1)), zero], axis=-1)
    return xp.sum(xp.take(flat, part.put.reshape((-1,)), axis=-1).reshape((m, *part.put.shape)), axis=-1)


def read_by(values: Array, part: PlaneInputs) -> Array:
    """What the neurons read of values (m, columns): (m, n or 1, r)."""
    if part.dense:
        return values[:, None, : part.weights.shape[1]]
    xp = array_namespace(values)
    return xp.take(values, part.take.reshape((-1,)), axis=-1).reshape((values.shape[0], *part.take.shape))


def _gradient(
    climb: Climb,
    inputs: Sequence[PlaneInputs],
    alpha: Sequence[Array],
    gamma: Sequence[Array],
    share: Sequence[Array],
    seen: _Seen,
) -> tuple[list[Array], list[Array], list[Array]]:
    """d g / d alpha, gamma and share by one pass of the relaxed minimiser upwards. Floating."""
    xp, x, lam = array_namespace(seen.x), seen.x, seen.lam
    values = xp.zeros((x.shape[0], climb.ends[-1] + 1), dtype=x.dtype, device=device(x))
    values[:, : climb.ends[0]] = x
    by_alpha, by_gamma, by_share = [], [], []
    for j, (layer, part) in enumerate(zip(climb.layers, inputs, strict=True)):
        zhat = values[:, : climb.ends[j]] @ layer.weights.T + layer.bias
        above = xp.clip(lam[j], min=0.0)
        below = lam[j] - above
        by_alpha.append(above * zhat)
        wt = part.weights * read_by(values, part)
        own = xp.where(seen.on[j][..., None], part.high, part.low)  # w_i t_i where R is attained
        by_gamma.append((below * share[j])[..., None] * (wt - own))
        triangle = layer.slope * zhat + layer.intercept
        lower = xp.sum(gamma[j] * wt, axis=-1) + seen.offsets[j] - triangle  # the plane, next to the triangle
        by_share.append(below * lower)
        if j + 1 < len(climb.layers):
            z = xp.where(lam[j] > 0, alpha[j] * zhat, triangle + share[j] * lower)
            values[:, climb.ends[j] : climb.ends[j + 1]] = z
    return by_alpha, by_gamma, by_share
