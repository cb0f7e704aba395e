"""Bound methods that search for slopes: alpha-CROWN, and Fast-Lin with one signed step.

The search is floating; every bound is claimed through `bounds.dual`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from milpverify.bounds.ascent import Ascent, Climb, Slopes, ascend, one_step
from milpverify.bounds.backward import Backward, Crown, FastLin, interval_is_exact, met
from milpverify.bounds.dual import DualBound, best_of, dual_bound
from milpverify.bounds.method import DEFAULT_BUDGET_BYTES, BoundMethod, check_budget, rows_at_once
from milpverify.bounds.planes import Planes, raise_planes
from milpverify.bounds.problem import DualProblem, open_neurons
from milpverify.bounds.small import folded_neurons, folded_rows, seen_problem, small_problem
from milpverify.errors import OptionError
from milpverify.network.arrays import to_host

KAPPA_LAYERS = (0.3, 0.02)  # first and last step size of input-wise slopes; few steps shall reach far,
KAPPA_ROWS = (0.3, 0.002)  # and the final rows settle
LAYERS_SHARE_RATE = 0.5  # step size of the planes' shares for layers, in those
KAPPA_NEURONS = 8  # at once: their arrays stay in the cache, and a layer where nothing is gained is soon left
LEAST_GAIN = 0.01  # of the neurons' widths, for which input-wise multipliers go on to the next neurons


@dataclass(frozen=True)
class SlopeSearch(BoundMethod):
    """Bounds of a closed form, and then with lower slopes that are searched for on the condensed problem.

    All unstable neurons of a layer are searched for together, layer after layer.

    Attributes:
        budget_bytes: Rows are taken in chunks whose arrays fit in about this much memory.
    """

    budget_bytes: int = DEFAULT_BUDGET_BYTES

    def __post_init__(self) -> None:
        check_budget(self, self.budget_bytes)

    def closed_form(self) -> Backward:
        """What comes before the search."""
        return Crown(budget_bytes=self.budget_bytes)

    @abstractmethod
    def layer_slopes(self, climb: Climb, partner: np.ndarray) -> Slopes | None:
        """Slopes for +-neurons of a hidden layer, of interest until their sign is settled; None for no search."""

    def layer_after(self, small: DualProblem, k: int, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A further search for the neurons of a condensed problem, whose bounds are l and u so far."""
        return l, u

    @abstractmethod
    def row_slopes(self, climb: Climb) -> Slopes:
        """Slopes for the final rows."""

    def refine(self, problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        l, u = self.closed_form().refine(problem, k, l, u)
        index = open_neurons(l, u)
        if not len(index) or interval_is_exact(problem, k):
            return l, u
        l, u = l.copy(), u.copy()
        step = rows_at_once(self, problem, 4, self.budget_bytes)
        for first in range(0, len(index), step):
            some = index[first : first + step]
            n = len(some)
            if problem.is_batch:
                small, rows = problem, np.zeros((n, problem.affine(k).size))
                rows[np.arange(n), some] = 1.0
            else:
                small, rows = small_problem(problem, k, folded_neurons(problem, k, some)), np.eye(n)
            both = np.concatenate([rows, -rows])
            slopes = self.layer_slopes(Climb.of(small, k, both), np.concatenate([np.arange(n) + n, np.arange(n)]))
            if slopes is None:
                return l, u
            value = dual_bound(small, k, both, slopes.rule()).value
            low, high = met(l[..., some], u[..., some], value[..., :n], -value[..., n:])
            l[..., some], u[..., some] = (low, high) if problem.is_batch else self.layer_after(small, k, low, high)
        return l, u

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        found, k, small, C = self.closed_form().rows(problem, rows), len(problem.layers), problem, rows
        if not problem.is_batch:
            small, C = small_problem(problem, k, folded_rows(problem, k, rows)), np.eye(len(rows))
        for bound in self.row_bounds(Climb.of(small, k, C), C):
            found = best_of(found, bound)
        return found

    def row_bounds(self, climb: Climb, rows: np.ndarray) -> list[DualBound]:
        """Bounds of the final rows, the search's own."""
        return [dual_bound(climb.problem, len(climb.layers) + 1, rows, self.row_slopes(climb).rule())]


@dataclass(frozen=True)
class AlphaCrown(SlopeSearch):
    """CROWN with its lower slopes raised by gradient ascent: alpha-CROWN, for rows and for intermediate bounds.

    Attributes:
        steps: Of the ascent of the final rows.
        layer_steps: Of the ascent of each layer's neurons; 0 leaves CROWN's intermediate bounds.
        ascent: Step sizes and when a row stops.
        kappa_steps: Of a further ascent of the final rows, on multipliers for each input of each neuron
            (`bounds.planes`), which go beyond the triangle relaxation; 0 leaves it out. Not for batches of regions.
        layer_kappa_steps: The same for each layer's neurons, those nearest to a settled sign first, and as long as it
            gains: it costs most, and with few unstable neurons below it is what tightens most.

    Source:
        Xu et al. 2021 (alpha-CROWN); De Palma et al. 2021 (multipliers for each input).
    """

    steps: int = 20
    layer_steps: int = 20
    ascent: Ascent = field(default_factory=Ascent)
    kappa_steps: int = 0
    layer_kappa_steps: int = 0
    name: ClassVar[str] = "alpha"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.steps, self.layer_steps, self.kappa_steps, self.layer_kappa_steps) < 0:
            raise OptionError(
                f"AlphaCrown: steps={self.steps}, layer_steps={self.layer_steps}, kappa_steps={self.kappa_steps} and "
                f"layer_kappa_steps={self.layer_kappa_steps} must not be negative."
            )

    def layer_slopes(self, climb: Climb, partner: np.ndarray) -> Slopes | None:
        if not self.layer_steps:
            return None
        return ascend(climb, replace(self.ascent, steps=self.layer_steps), 0.0, partner)

    def layer_after(self, small: DualProblem, k: int, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self.layer_kappa_steps or k < 2:
            return l, u
        l, u, local = l.copy(), u.copy(), _is_local(small, k)
        groups = self._groups(small, l, u, local)
        before, after, count = 0.0, 0.0, 0
        for some, (low, high) in zip(groups, self.groups_after(small, groups, l, u), strict=False):
            before, after = before + float((u - l)[some].sum()), after + float(np.maximum(high - low, 0.0).sum())
            l[some], u[some] = low, high
            count = count + len(some) if len(open_neurons(low, high)) == len(some) else 0
            if count >= KAPPA_NEURONS and not local:  # so many in a row, and none is settled
                if after > (1.0 - LEAST_GAIN) * before:
                    break
                before, after, count = 0.0, 0.0, 0
        return l, u

    def _groups(self, small: DualProblem, l: np.ndarray, u: np.ndarray, local: bool) -> list[np.ndarray]:
        """The unstable neurons, as many together as fit: those nearest to a settled sign first.

        Local ones in their order: neighbours read much the same, and what they do not read costs nothing.
        """
        unstable = open_neurons(l, u)
        order = np.argsort(np.minimum(-l[unstable], u[unstable]), kind="stable")
        ranked, step = unstable if local else unstable[order], self._neurons_with_kappa(small)
        return [ranked[first : first + step] for first in range(0, len(ranked), step)]

    def groups_after(
        self, small: DualProblem, groups: Sequence[np.ndarray], l: np.ndarray, u: np.ndarray
    ) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """Bounds of each group of neurons, from those of all neurons so far."""
        return (self.neurons_after(seen_problem(small, some), l[some], u[some]) for some in groups)

    def neurons_after(self, small: DualProblem, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of some neurons by input-wise multipliers.

        Args:
            small: The condensed problem whose last layer they are.
            l, u: Their bounds so far.
        """
        k, rows = len(small.layers), np.concatenate([np.eye(len(l)), -np.eye(len(l))])
        climb, how = Climb.of(small, k, rows), Ascent(self.layer_kappa_steps, *KAPPA_LAYERS, ends=self.ascent.ends)
        slopes = ascend(climb, replace(self.ascent, steps=self.layer_steps))
        planes = raise_planes(climb, slopes, how, LAYERS_SHARE_RATE)
        value = dual_bound(small, k, rows, planes.slopes.rule(), planes.kappa).value
        sides = self.sides_after(small, planes, np.maximum(value, np.concatenate([l, -u])))
        return sides[: len(l)], -sides[len(l) :]

    def sides_after(self, small: DualProblem, planes: Planes, sides: np.ndarray) -> np.ndarray:
        """A further search: lower bounds of some neurons and then of their negatives, from the planes that gave them.

        Args: as of `neurons_after`; sides, (2 s,).
        """
        return sides

    def _neurons_with_kappa(self, small: DualProblem) -> int:
        """Neurons taken at once: two rows each, with about ten arrays of all that the neurons below read."""
        entries = sum(layer.size * _widest(small, j) for j, layer in enumerate(small.layers[:-1], start=1))
        return max(min(int(self.budget_bytes // (2 * 10 * 8 * max(entries, 1))), KAPPA_NEURONS), 1)

    def row_slopes(self, climb: Climb) -> Slopes:
        return ascend(climb, replace(self.ascent, steps=self.steps))

    def row_bounds(self, climb: Climb, rows: np.ndarray) -> list[DualBound]:
        k, slopes = len(climb.layers) + 1, self.row_slopes(climb)
        bounds = [dual_bound(climb.problem, k, rows, slopes.rule())]
        if self.kappa_steps and len(rows) and not climb.problem.is_batch:
            planes = raise_planes(climb, slopes, Ascent(self.kappa_steps, *KAPPA_ROWS, ends=self.ascent.ends))
            bounds.append(dual_bound(climb.problem, k, rows, planes.slopes.rule(), planes.kappa))
        return bounds


@dataclass(frozen=True)
class KappaCrown(AlphaCrown):
    """Alpha-CROWN with input-wise multipliers throughout: the tightest bounds here that need no program.

    Slower than alpha by a factor of about ten on dense networks, less on convolutional ones; there is no better way to
    spend a second before a search with few unstable neurons. Over a batch of regions it is `AlphaCrown`. As with every
    ascent, a tighter start can end in a slightly looser bound.

    Source:
        De Palma et al. 2021; Anderson et al. 2020.
    """

    kappa_steps: int = 20
    layer_kappa_steps: int = 20
    name: ClassVar[str] = "kappa"


@dataclass(frozen=True)
class FastLinStep(SlopeSearch):
    """Fast-Lin, and then the slopes that one signed gradient step moves to 0 or 1, wherever those are better.

    Source:
        Wong & Kolter 2018, section 3.1.
    """

    name: ClassVar[str] = "fastlin-step"

    def closed_form(self) -> Backward:
        return FastLin(budget_bytes=self.budget_bytes)

    def layer_slopes(self, climb: Climb, partner: np.ndarray) -> Slopes | None:
        return one_step(climb)

    def row_slopes(self, climb: Climb) -> Slopes:
        return one_step(climb)


def _widest(small: DualProblem, j: int) -> int:
    """How much a neuron of layer j reads at most."""
    count = np.zeros(small.affine(j).size, dtype=int)
    for _, op in small.affine(j).blocks:
        count += (to_host(op.rows_like(np.arange(op.out_size), small.like)) != 0).sum(axis=1)
    return int(count.max(initial=0))


def _is_local(small: DualProblem, k: int) -> bool:
    """Whether the neurons of layer k read less than half of the layers that they read at all: windows."""
    sizes = [small.n_inputs, *(layer.size for layer in small.layers)]
    return 2 * _widest(small, k) < sum(sizes[source] for source, _ in small.affine(k).blocks)
