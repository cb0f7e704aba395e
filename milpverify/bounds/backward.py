"""Closed-form choices of nu: Fast-Lin (Wong & Kolter's algorithm 1) and CROWN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from milpverify.bounds.dual import DualBound, Neurons, Rule, best_of, dual_bound, dual_range
from milpverify.bounds.interval import interval_layer, interval_rows
from milpverify.bounds.local import Fields, fields
from milpverify.bounds.method import DEFAULT_BUDGET_BYTES, BoundMethod, check_budget, rows_at_once
from milpverify.bounds.problem import DualProblem, LayerPhases, open_neurons
from milpverify.bounds.pruned import pruned_problem
from milpverify.bounds.small import folded_neurons, folding_pays, small_problem
from milpverify.network.arrays import array_namespace
from milpverify.network.operators import Array


def fastlin_rule(j: int, lam: Array, phases: LayerPhases) -> Array:
    """nu = lambda u / (u - l) on unstable neurons: one slope for both signs.

    Source:
        Wong & Kolter 2018, algorithm 1 (alpha fixed to u / (u - l)); Weng et al. 2018 (Fast-Lin).
    """
    return lam * phases.slope


def crown_rule(j: int, lam: Array, phases: LayerPhases) -> Array:
    """nu = lambda u / (u - l) where lambda < 0; where lambda >= 0 the slope 0 or 1 of the smaller triangle.

    Source:
        Zhang et al. 2018 (CROWN), adaptive lower bounds.
    """
    nu = array_namespace(lam).clip(lam, max=0.0) * (phases.slope - phases.lower)
    nu += lam * phases.lower
    return nu


@dataclass(frozen=True)
class Backward(BoundMethod):
    """Closed-form backward bounds through g.

    Attributes:
        intersect: Meet them with intervals, rows too, and run backward only for neurons that intervals leave unstable.
            Off, the result is the pure dual bound of the paper: looser in signs, but neurons that intervals decide have
            backward bounds too, which are narrower than their intervals.
        budget_bytes: Rows are taken in chunks whose arrays fit in about this much memory.
    """

    intersect: bool = True
    budget_bytes: int = DEFAULT_BUDGET_BYTES
    rule: ClassVar[Rule]
    odd: ClassVar[bool]  # whether rule(-lambda) = -rule(lambda), so that one walk bounds both sides

    def __post_init__(self) -> None:
        check_budget(self, self.budget_bytes)

    def layer(self, problem: DualProblem, k: int) -> tuple[np.ndarray, np.ndarray]:
        l, u = interval_layer(problem, k)
        if self.intersect or interval_is_exact(problem, k):
            return self.refine(problem, k, l, u)
        everything = np.arange(l.shape[-1])
        return self._bounded(problem, k, np.full(l.shape, -np.inf), np.full(u.shape, np.inf), everything)

    def refine(self, problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if interval_is_exact(problem, k):
            return l, u
        return self._bounded(problem, k, l, u, open_neurons(l, u))

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        k = len(problem.layers)
        small = problem if problem.is_batch else pruned_problem(problem, k, len(rows))
        found = dual_bound(small, k, rows, type(self).rule)
        return best_of(found, interval_rows(problem, rows)) if self.intersect else found

    def _bounded(
        self, problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray, index: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """l and u met with the bounds of the neurons `index`."""
        l, u = l.copy(), u.copy()
        seen = fields(problem, k)
        if not len(index):
            return l, u
        if seen is not None:
            self._within_fields(problem, k, seen, index, l, u)
            return l, u
        one = not problem.is_batch
        # One fold serves both signs here and whoever condenses later; an odd rule needs but one walk for both anyway.
        fold = one and not type(self).odd and folding_pays(problem, k, len(index))
        sides = 1 if fold or type(self).odd else 2
        for some in _chunks(index, rows_at_once(self, problem, sides, self.budget_bytes)):
            if fold:
                low, high = self._both(small_problem(problem, k, folded_neurons(problem, k, some)), k, Neurons())
            elif one:
                low, high = self._both(pruned_problem(problem, k, sides * len(some), some), k, Neurons())
            else:
                unit = np.zeros((len(some), problem.affine(k).size))
                unit[np.arange(len(some)), some] = 1.0
                low, high = self._both(problem, k, unit)
            l[..., some], u[..., some] = met(l[..., some], u[..., some], low, high)
        return l, u

    def _both(self, problem: DualProblem, k: int, rows: np.ndarray | Neurons) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of the rows, or of all neurons of the layer, each (*batch, m)."""
        if type(self).odd:
            return dual_range(problem, k, Neurons(both=False) if isinstance(rows, Neurons) else rows, type(self).rule)
        if not isinstance(rows, Neurons):
            rows = np.concatenate([rows, -rows])
        value = dual_bound(problem, k, rows, type(self).rule).value
        half = value.shape[-1] // 2
        return value[..., :half], -value[..., half:]

    def _within_fields(
        self, problem: DualProblem, k: int, seen: Fields, index: np.ndarray, l: np.ndarray, u: np.ndarray
    ) -> None:
        wide = [part.shape[1] for part in seen.index]
        regions = max(int(np.prod(problem.batch, dtype=np.int64)), 1)
        step = max(int(self.budget_bytes // (6 * 8 * max(wide) * (1 if type(self).odd else 2) * regions)), 1)
        for some in _chunks(index, step):
            wanted = np.zeros(l.shape[-1], dtype=bool)
            wanted[some] = True
            small, here = seen.problem(problem, wanted)
            low, high = self._both(small, k, Neurons())
            inside = here >= 0
            at = here[inside]
            l[..., at], u[..., at] = met(l[..., at], u[..., at], low[..., inside], high[..., inside])


@dataclass(frozen=True)
class FastLin(Backward):
    """Wong & Kolter's dual bound with fixed slopes u / (u - l)."""

    name: ClassVar[str] = "fastlin"
    rule: ClassVar[Rule] = staticmethod(fastlin_rule)
    odd: ClassVar[bool] = True


@dataclass(frozen=True)
class Crown(Backward):
    """CROWN: the same with the lower slope chosen 0 or 1 per neuron."""

    name: ClassVar[str] = "crown"
    rule: ClassVar[Rule] = staticmethod(crown_rule)
    odd: ClassVar[bool] = False


def met(l: np.ndarray, u: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """l and u met with low and high where l < 0 < u; what is stable stays, whoever else is in the batch."""
    free = (l < 0) & (u > 0)
    return np.where(free, np.maximum(l, low), l), np.where(free, np.minimum(u, high), u)


def interval_is_exact(problem: DualProblem, k: int) -> bool:
    """Whether layer k reads only the input, and the input is a plain box: no dual bound is tighter."""
    return all(source == 0 for source, _ in problem.affine(k).blocks) and problem.region.is_box


def _chunks(index: np.ndarray, step: int) -> list[np.ndarray]:
    return [index[start : start + step] for start in range(0, len(index), step)]
