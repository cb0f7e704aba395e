"""LP tightening: each unstable neuron's best bounds over the triangle relaxation of the layers below it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from milpverify.bounds.backward import Crown, interval_is_exact
from milpverify.bounds.dual import DualBound, dual_bound, fixed
from milpverify.bounds.method import BoundMethod
from milpverify.bounds.problem import DualProblem, open_neurons
from milpverify.bounds.slopes import AlphaCrown
from milpverify.bounds.small import folded_neurons, folded_rows
from milpverify.errors import InputError, SolverError
from milpverify.spec.regions import L2Ball
from milpverify.tighten.order import by_weight
from milpverify.tighten.rows import better_rows
from milpverify.tighten.target import Target, check_count, check_limits, one_region, tell
from milpverify.tighten.triangle import Found, Group, Side, TriangleProgram
from milpverify.tighten.workers import Answers, solve

ROWS_AT_ONCE = 512
# Over an L2 ball the triangle relaxation is no LP. Its optimum is that of the slopes alpha, which need none.
BALL = AlphaCrown(steps=100, layer_steps=100)


@dataclass(frozen=True)
class TriangleLP(BoundMethod):
    """Minimise and maximise unstable pre-activations over the triangle relaxation, by warm-started HiGHS.

    HiGHS only chooses nu: the bounds are g's (`bounds.dual`), rounded, and never looser than what was known. An LP that
    fails or runs out of time costs tightness and nothing else.

    Boxes, L1 balls and cuts enter by their rows, exactly; with several cuts, g finds the cuts' multipliers by its own
    means and can fall short of the LP. An L2 ball is no polyhedron: there 100 steps of ascent on alpha come near the
    same optimum, for all neurons at once and without a program (tangents of the ball, added one LP after the other,
    gained nothing in 784 dimensions).

    Alone, it starts from CROWN's bounds of each layer. Once the side of a neuron that is nearer to zero decides its
    sign, the other side keeps its bound: no relaxation reads it any more.

    Attributes:
        workers: Processes that share a layer's LPs, where those are enough to pay for starting them.
        time_limit_s: Wall time for each layer, and for the rows; what it does not reach keeps its bounds. The neurons
            that can cost the outputs most come first (`order.by_weight`).
        neurons: At most so many neurons of each layer, the same ones first; all of them when None.

    Raises:
        OptionError: If an option makes no sense.

    Source:
        Ehlers 2017; Salman et al. 2019; Tjeng, Xiao & Tedrake 2019, section 4.2 (progressive tightening).
    """

    workers: int = 1
    time_limit_s: float = math.inf
    neurons: int | None = None
    name: ClassVar[str] = "lp"

    def __post_init__(self) -> None:
        check_limits("TriangleLP", time_limit_s=self.time_limit_s)
        check_count("TriangleLP", "workers", self.workers, 1)
        check_count("TriangleLP", "neurons", self.neurons, 0)

    def layer(self, problem: DualProblem, k: int) -> tuple[np.ndarray, np.ndarray]:
        one_region("TriangleLP", problem)
        return self.refine(problem, k, *Crown().layer(problem, k))

    def refine(self, problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        region = one_region("TriangleLP", problem, l)
        ends = time.monotonic() + self.time_limit_s
        index, l, u = open_neurons(l, u), l.copy(), u.copy()
        if self.time_limit_s == 0 or self.neurons == 0 or interval_is_exact(problem, k) or not len(index):
            return l, u
        if isinstance(region, L2Ball):
            return BALL.refine(problem, k, l, u)
        if self.neurons is not None or self.time_limit_s < math.inf:
            index = by_weight(problem, k, l, u, index)[: self.neurons]
        rising = np.sort(index)
        target = Target.of(problem, k, folded_neurons(problem, k, rising), region)
        groups = [_sides(int(np.searchsorted(rising, i)), l[i], u[i]) for i in index]
        found = self._multipliers(target, groups, ends, f"layer {k}")
        for start in range(0, len(found), ROWS_AT_ONCE):
            some = found[start : start + ROWS_AT_ONCE]
            values = target.bound(_signed(target, some), fixed(_split(target, some))).value
            for part, value in zip(some, values, strict=True):
                i = rising[part.side.row]
                if part.side.sign > 0:
                    l[i] = max(l[i], value)
                else:
                    u[i] = min(u[i], -value)
        return l, u

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        region = one_region("TriangleLP", problem)
        ends = time.monotonic() + self.time_limit_s
        best, k = Crown().rows(problem, rows), len(problem.layers)
        if self.time_limit_s == 0 or not len(rows):
            return best
        if isinstance(region, L2Ball):
            return better_rows(best, BALL.rows(problem, rows))
        target = Target.of(problem, k, folded_rows(problem, k, rows), region)
        found = self._multipliers(target, [(Side(i, 1.0),) for i in range(len(rows))], ends, "the output rows")
        if not target.n_below or not found:
            return best
        where = np.array([part.side.row for part in found])
        # On the network itself, so that whoever is handed nu computes the same value from it.
        return better_rows(best, dual_bound(problem, k, rows[where], fixed(_split(target, found))), where)

    def _multipliers(self, target: Target, groups: Sequence[Group], ends: float, place: str) -> list[Found]:
        """nu of the sides that HiGHS reached in time."""
        if not target.n_below:  # the rows are affine in x: g needs no multipliers
            return [Found(side, np.zeros(0)) for group in groups for side in group]
        try:
            program = TriangleProgram.of(target)
        except (InputError, SolverError) as error:
            tell("TriangleLP", place, [f"no LP can be made of these numbers ({error})"])
            return []
        answers = solve(program, groups, self.workers, ends)
        tell("TriangleLP", place, _troubles(answers))
        return [found for found in answers.found if found.nu is not None]


def _sides(row: int, l: float, u: float) -> Group:
    """Both sides of a neuron, the one nearer to zero first."""
    low, high = Side(row, 1.0), Side(row, -1.0)
    return (low, high) if -l < u else (high, low)


def _troubles(answers: Answers) -> list[str]:
    troubles = []
    if answers.dead:
        who = "a worker" if answers.dead == 1 else f"{answers.dead} workers"
        troubles.append(
            f"{who} died (is the script's start guarded by if __name__ == '__main__', and is there enough memory?)"
        )
    failed = sum(found.nu is None for found in answers.found)
    if failed:
        troubles.append(f"HiGHS gave no optimum for {failed} of {len(answers.found)} LPs")
    return troubles


def _signed(target: Target, found: Sequence[Found]) -> np.ndarray:
    """The sides as combinations of the target's rows, shape (r, n_rows)."""
    rows = np.zeros((len(found), target.n_rows))
    rows[np.arange(len(found)), [part.side.row for part in found]] = [part.side.sign for part in found]
    return rows


def _split(target: Target, found: Sequence[Found]) -> list[np.ndarray]:
    """nu per layer, shape (r, p_j)."""
    nu = np.stack([part.nu for part in found if part.nu is not None])
    ends = np.cumsum([0, *map(len, target.kept)])
    return [nu[:, a:b] for a, b in pairwise(ends)]
