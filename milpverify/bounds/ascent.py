r"""Gradient ascent on the lower slopes alpha.

On an unstable neuron nu = alpha lambda where lambda >= 0 (any 0 <= alpha <= 1) and lambda u / (u - l) where lambda < 0.
The gradient needs no automatic differentiation: d g / d nu_j is the violation of zhat = W z + b at the minimiser of the
Lagrangian, so that one pass backward (lambda) and one pass forward (the relaxed minimiser) give

    d g / d alpha_j = max(lambda_j, 0) zhat_j .

Every row has its own alpha; all rows ascend together, and those that are settled or stall drop out. The ascent runs in
float32 where that cannot overflow: it guides and claims nothing. The bounds come from `bounds.dual` with the slopes.

Source: Xu et al. 2021 (alpha-CROWN); Salman et al. 2019 (its optimum is the triangle LP's); Kingma & Ba 2015 (Adam).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from milpverify.bounds.dual import Rule
from milpverify.bounds.problem import DualProblem, LayerPhases
from milpverify.errors import OptionError
from milpverify.network.arrays import array_namespace, device, to_host
from milpverify.network.operators import Array

DECAY_FIRST, DECAY_SECOND = 0.9, 0.99  # of Adam's moments
CHECK = 5  # steps between two looks at which rows go on
SPARE = 1e-12  # next to gradients that matter
LARGEST = 1e12  # numbers below this leave float32 room for their products
QUIET = np.errstate(over="ignore", invalid="ignore")  # slopes that overflow gain nothing and are not kept


@dataclass(frozen=True)
class Ascent:
    """How to climb.

    Attributes:
        steps: At most this many.
        rate: Step size of Adam at the first step.
        last_rate: Step size at the last one; it falls geometrically in between.
        stall: A row stops when `CHECK` steps gain less than this share of all that it has gained; 0 never stops one.
        ends: No step begins after this time, on `time.monotonic`'s clock.

    Raises:
        OptionError: If one makes no sense.
    """

    steps: int = 20
    rate: float = 0.5
    last_rate: float = 0.05
    stall: float = 0.0
    ends: float = math.inf

    def __post_init__(self) -> None:
        if self.steps < 0 or not 0 < self.last_rate <= self.rate < np.inf or not self.stall >= 0:
            raise OptionError(
                f"Ascent: steps={self.steps}, rate={self.rate}, last_rate={self.last_rate}, stall={self.stall}: give "
                "steps >= 0, rate >= last_rate > 0 and stall >= 0."
            )

    @property
    def late(self) -> bool:
        """Whether time is up."""
        return time.monotonic() > self.ends

    def at(self, step: int) -> float:
        """The step size at a step from 0."""
        return float(self.rate * (self.last_rate / self.rate) ** (step / max(self.steps - 1, 1)))


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer as the ascent walks it, in the ascent's arithmetic."""

    weights: Array  # (n, columns of [x, z_1, ..., z_{j-1}])
    bias: Array  # (n,)
    slope: Array  # (*batch, 1, n): u / (u - l) where unstable, 1 where active, 0 where inactive
    intercept: Array  # (*batch, 1, n): -slope l where unstable, else 0
    fixed: Array | None  # (*batch, 1, n): whether stable; None if no neuron is


@dataclass(frozen=True, eq=False)
class Climb:
    """A dense network below some rows, ready to be ascended. Floating.

    Attributes:
        problem: Dense blocks; stable neurons are allowed and keep their slopes.
        layers: Layers 1..k-1.
        ends: Columns [x, z_1, ...] end here, per source.
        rows: The rows' lambda over all columns, before any nu, shape (*batch or none, m, columns).
        constant: The rows' share of the bias, shape (*batch or none, m).
        box: Centre and radius of the region, (*batch, 1, n_inputs); None where it is no box.
    """

    problem: DualProblem
    layers: tuple[_Layer, ...]
    ends: tuple[int, ...]
    rows: Array
    constant: Array
    box: tuple[Array, Array] | None

    @classmethod
    def of(cls, problem: DualProblem, k: int, rows: np.ndarray) -> Climb:
        """The rows . zhat_k over a problem that bounds the layers below k."""
        xp, place = array_namespace(problem.like), device(problem.like)
        ends = tuple(int(v) for v in np.cumsum([problem.n_inputs, *(problem.affine(j).size for j in range(1, k))]))
        dense = [dense_weights(problem, j, ends) for j in range(1, k + 1)]
        dtype = xp.float32 if tame(problem, k, rows, dense) else xp.float64

        def cast(values: np.ndarray) -> Array:
            return xp.asarray(np.ascontiguousarray(values), dtype=dtype, device=place)

        layers = tuple(_layer(problem, j, dense[j - 1], cast) for j in range(1, k))
        top = cast(rows)
        centre = problem.region.lower / 2 + problem.region.upper / 2
        box = None
        if problem.region.is_box:
            box = cast(centre[..., None, :]), cast((problem.region.upper - centre)[..., None, :])
        return cls(
            problem,
            layers,
            ends,
            top @ cast(dense[-1]),
            top @ cast(problem.affine(k).bias),
            box,
        )

    def start(self) -> list[Array]:
        """CROWN's slopes: 0 or 1, whichever triangle is smaller; shapes (*batch, m, n_j)."""
        xp, shape = array_namespace(self.rows), (*self._batch(), self.rows.shape[-2], 1)
        zero = xp.zeros(shape, dtype=self.rows.dtype, device=device(self.rows))
        return [xp.astype(layer.slope > 0.5, zero.dtype) + zero for layer in self.layers]

    def _batch(self) -> tuple[int, ...]:
        batches = [tuple(layer.slope.shape[:-2]) for layer in self.layers]
        return max([self.problem.batch, *batches], key=len)

    def evaluate(self, alpha: Sequence[Array], rows: Array, constant: Array) -> tuple[Array, list[Array], Array]:
        """g, lambda of every layer, and the minimiser in the region. Floating.

        Args:
            alpha: Per layer (*batch, m, n_j).
            rows, constant: Of the rows that are still climbing.
        """
        xp = array_namespace(rows)
        value = constant + xp.zeros((*self._batch(), 1), dtype=rows.dtype, device=device(rows))
        columns = rows + xp.zeros((*value.shape, 1), dtype=rows.dtype, device=device(rows))
        lam: list[Any] = [None] * len(self.layers)
        for j in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[j]
            h = columns[..., self.ends[j] : self.ends[j + 1]]
            lam[j] = xp.clip(h, min=0.0)
            below = h - lam[j]
            nu = lam[j] * alpha[j] + below * layer.slope
            value = value + nu @ layer.bias + xp.sum(below * layer.intercept, axis=-1)
            columns[..., : self.ends[j]] += nu @ layer.weights
        lam0 = columns[..., : self.ends[0]]
        x = self.minimiser(lam0)
        return value + xp.sum(lam0 * x, axis=-1), lam, x

    def minimiser(self, lam: Array) -> Array:
        """Points of the region that nearly attain min lam.x, shape (*batch, m, n_inputs). Floating."""
        if self.box is not None:
            return self.box[0] - array_namespace(lam).sign(lam) * self.box[1]
        flat = lam.reshape((-1, lam.shape[-1]))
        x = self.problem.region.minimiser(flat)
        return array_namespace(lam).astype(x, lam.dtype).reshape(lam.shape)

    def gradient(self, alpha: Sequence[Array], lam: Sequence[Array], x: Array) -> list[Array]:
        """d g / d alpha, by one pass of the relaxed minimiser upwards. Floating."""
        xp = array_namespace(x)
        values = xp.zeros((*x.shape[:-1], self.ends[-1]), dtype=x.dtype, device=device(x))
        values[..., : self.ends[0]] = x
        slopes: list[Array] = []
        for j, layer in enumerate(self.layers):
            zhat = values[..., : self.ends[j]] @ layer.weights.T + layer.bias
            part = lam[j] * zhat
            slopes.append(part if layer.fixed is None else xp.where(layer.fixed, xp.zeros_like(part), part))
            if j + 1 < len(self.layers):
                z = xp.where(lam[j] > 0, alpha[j] * zhat, layer.slope * zhat + layer.intercept)
                values[..., self.ends[j] : self.ends[j + 1]] = z
        return slopes


@dataclass(frozen=True, eq=False)
class Slopes:
    """What an ascent found: per layer alpha of shape (*batch, m, n_j), and the floating bounds it saw, (*batch, m)."""

    alpha: tuple[Array, ...]
    value: np.ndarray

    def rule(self) -> Rule:
        """The rule that takes these slopes; the upper slope u / (u - l) where lambda < 0."""

        def rule(j: int, lam: Array, phases: LayerPhases) -> Array:
            xp = array_namespace(lam)
            alpha = xp.astype(self.alpha[j - 1], lam.dtype)
            alpha = alpha if phases.every else xp.take(alpha, phases.unstable, axis=-1)
            return lam * xp.where(lam < 0, phases.slope, alpha)

        return rule


class Adam:
    """Adam's moments for some arrays of numbers in [0, 1]."""

    def __init__(self, values: Sequence[Array]) -> None:
        xp = array_namespace(values[0]) if len(values) else np
        self.first, self.second = [xp.zeros_like(v) for v in values], [xp.zeros_like(v) for v in values]

    def moved(self, how: Ascent, step: int, values: Sequence[Array], slopes: Sequence[Array]) -> list[Array]:
        """The values after a step from 0 along their slopes."""
        after = []
        for i, (value, slope) in enumerate(zip(values, slopes, strict=True)):
            xp = array_namespace(value)
            self.first[i] = DECAY_FIRST * self.first[i] + (1 - DECAY_FIRST) * slope
            self.second[i] = DECAY_SECOND * self.second[i] + (1 - DECAY_SECOND) * slope * slope
            size = xp.sqrt(self.second[i] / (1 - DECAY_SECOND ** (step + 1))) + SPARE
            move = how.at(step) / (1 - DECAY_FIRST ** (step + 1)) * self.first[i] / size
            after.append(xp.clip(value + move, min=0.0, max=1.0))
        return after

    def keep(self, place: Array) -> None:
        """Go on with some rows only."""
        self.first, self.second = [v[place] for v in self.first], [v[place] for v in self.second]


@QUIET
def ascend(climb: Climb, how: Ascent, goal: float = np.inf, partner: np.ndarray | None = None) -> Slopes:
    """Raise g of every row by its alpha, from CROWN's slopes. Floating; the best slopes seen are kept.

    Args:
        climb: The rows and what is below them.
        how: Steps and step sizes.
        goal: A row beyond this is settled and stops.
        partner: Per row another that is of no interest once this one is settled (the other sign of a neuron).
    """
    xp, alpha = array_namespace(climb.rows), climb.start()
    adam, rows, constant = Adam(alpha), climb.rows, climb.constant
    best, lam, x = climb.evaluate(alpha, rows, constant)
    found, origin = [xp.asarray(a, copy=True) for a in alpha], to_host(best).copy()
    alone = best.ndim == 1  # rows of one region stop one by one, those of a batch go on together
    live, mark = np.arange(best.shape[-1]), origin
    for step in range(how.steps):
        if how.late:
            break
        if alone and step % CHECK == 0:
            height = to_host(best).copy()
            going = ~_settled(height, goal, partner)
            if step > CHECK and how.stall:
                going &= height - mark > how.stall * (height - origin)
            mark, stays = height, live[going[live]]
            if not len(stays):
                break
            if len(stays) < len(live):
                place = xp.asarray(np.searchsorted(live, stays), device=device(rows))
                live, rows, constant, x = stays, rows[place], constant[place], x[place]
                alpha, lam = [a[place] for a in alpha], [part[place] for part in lam]
                adam.keep(place)
        alpha = adam.moved(how, step, alpha, climb.gradient(alpha, lam, x))
        value, lam, x = climb.evaluate(alpha, rows, constant)
        index = xp.asarray(live, device=device(rows)) if len(live) < best.shape[-1] else ...
        better = value > best[index]
        for kept, a in zip(found, alpha, strict=True):
            kept[index] = xp.where(better[..., None], a, kept[index])
        best[index] = xp.where(better, value, best[index])
    return Slopes(tuple(found), to_host(best))


def tame(problem: DualProblem, k: int, rows: np.ndarray, dense: Sequence[np.ndarray]) -> bool:
    """Whether float32 has room for the products of these numbers."""
    values = [*problem.lower, *problem.upper, rows, *(problem.values_scale(j) for j in range(k))]
    sizes = [np.abs(v[v != 0]) for v in values]
    # Tiny weights may vanish. Huge ones are not always seen in the values: what they multiply may be zero, or cancel.
    weights = [np.abs(v).max(initial=0.0) for v in (*dense, *(problem.affine(j).bias for j in range(1, k + 1)))]
    tame = all(v.max(initial=1.0) < LARGEST and v.min(initial=1.0) > 1.0 / LARGEST for v in sizes)
    return tame and all(v < LARGEST for v in weights)


def _layer(problem: DualProblem, j: int, dense: np.ndarray, cast: Any) -> _Layer:
    l, u = problem.lower[j - 1], problem.upper[j - 1]
    free = (l < 0) & (u > 0)
    slope = np.where(free, u / np.where(free, u - l, 1.0), l >= 0)
    intercept = np.where(free, -slope * l, 0.0)
    fixed = None
    if not free.all():
        fixed = array_namespace(problem.like).asarray(~free[..., None, :], device=device(problem.like))
    weights, bias = cast(dense), cast(problem.affine(j).bias)
    return _Layer(weights, bias, cast(slope[..., None, :]), cast(intercept[..., None, :]), fixed)


def dense_weights(problem: DualProblem, j: int, ends: Sequence[int]) -> np.ndarray:
    """Dense weights of layer j over the columns [x, z_1, ..., z_{j-1}]."""
    affine = problem.affine(j)
    dense = np.zeros((affine.size, ends[j - 1]))
    for source, op in affine.blocks:
        first = ends[source - 1] if source else 0
        dense[:, first : ends[source]] = to_host(op.rows_like(np.arange(affine.size), problem.like))
    return dense


def _settled(best: np.ndarray, goal: float, partner: np.ndarray | None) -> np.ndarray:
    """Rows beyond the goal, or whose partner is."""
    settled = best > goal
    return settled if partner is None else settled | settled[partner]


@QUIET
def one_step(climb: Climb) -> Slopes:
    """Fast-Lin's slopes, each moved to 0 or 1 by the sign of its gradient. Floating.

    Source:
        Wong & Kolter 2018, section 3.1 (alpha by one step in the manner of the fast gradient sign method).
    """
    xp = array_namespace(climb.rows)
    alpha = [layer.slope + xp.zeros_like(start) for layer, start in zip(climb.layers, climb.start(), strict=True)]
    _, lam, x = climb.evaluate(alpha, climb.rows, climb.constant)
    moved = []
    for a, slope in zip(alpha, climb.gradient(alpha, lam, x), strict=True):
        moved.append(xp.where(slope == 0, a, xp.astype(slope > 0, a.dtype)))
    return Slopes(tuple(moved), to_host(climb.evaluate(moved, climb.rows, climb.constant)[0]))
