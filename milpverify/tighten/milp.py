"""MILP tightening: is a neuron ever active, is it ever inactive? Asked exactly, believed on the solver's word."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from milpverify.attack.gradient import Linearization
from milpverify.attack.method import centre
from milpverify.bounds.backward import Crown, interval_is_exact
from milpverify.bounds.dual import DualBound
from milpverify.bounds.method import BoundMethod
from milpverify.bounds.problem import DualProblem, open_neurons
from milpverify.bounds.small import folded_neurons, folded_rows
from milpverify.errors import InputError, OptionError, SolverError
from milpverify.formulation.encode import Encoded, encode_slack, objective_unit
from milpverify.formulation.relu import BigM, ReLUEncoding
from milpverify.formulation.trust import LARGEST_REACH, admits_a_known_point
from milpverify.network.arrays import to_host
from milpverify.network.condense import Folded
from milpverify.network.graph import Bounds
from milpverify.program.highs import Highs
from milpverify.program.solver import Limits, Solution, Solver, Status
from milpverify.spec.regions import L2Ball, Region
from milpverify.tighten.order import by_weight
from milpverify.tighten.target import Target, check_limits, left, one_region, tell

TANGENT_ROUNDS = 20  # MILPs of one row over an L2 ball, each with a tangent where the last one's point left the ball
DESCENT_STEPS = 5  # of the search for inputs that make a neuron active or inactive


@dataclass(frozen=True)
class MILPTightening(BoundMethod):
    """Settle the signs of unstable neurons by big-M programs over the condensed layers below them.

    A neuron that some known input makes active and another inactive needs no program. Otherwise the program is cut off
    just above zero: what it settles becomes a bound of 0 on that side and no more, since only the sign matters to what
    follows. A program that runs out of time still gives the bound it has reached. Rows of outputs are minimised.

    Solver-trusted: a solver's bound counts less `tolerance`, times the largest bound or coefficient where that exceeds
    1, since solvers' tolerances are absolute; programs whose sums reach beyond 1e7 are not believed at all, nor is one
    in which the solver finds no point on the activation pattern of a known input. An L2 ball is its box with tangents
    where the programs' points leave it.

    Alone, it starts from CROWN's bounds of each layer.

    Attributes:
        time_limit_s_per_neuron: Wall time for each side of a neuron.
        time_limit_s_per_row: Wall time for each row of outputs.
        time_limit_s: Wall time for each layer, and for all rows together; what it does not reach keeps its bounds. The
            neurons that can cost the outputs most come first (`order.by_weight`).
        tolerance: How far a solver's bound may be off.
        gap: Rows are closed to this difference.
        solver: Who solves the programs.
        encoding: How relu is written.

    Raises:
        OptionError: If an option makes no sense.

    Source:
        Tjeng, Xiao & Tedrake 2019, section 4.2 (progressive bounds tightening).
    """

    time_limit_s_per_neuron: float = 2.0
    time_limit_s_per_row: float = 60.0
    time_limit_s: float = math.inf
    tolerance: float = 1e-5
    gap: float = 1e-6
    solver: Solver = field(default_factory=Highs)
    encoding: ReLUEncoding = field(default_factory=BigM)
    name: ClassVar[str] = "milp"
    solver_trusted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        who = "MILPTightening"
        names = ("time_limit_s_per_neuron", "time_limit_s_per_row", "time_limit_s")
        check_limits(who, **{name: getattr(self, name) for name in names})
        for name in ("tolerance", "gap"):
            if not 0 < getattr(self, name) < math.inf:
                raise OptionError(f"{who}: {name} must be positive and finite, got {getattr(self, name)}.")

    def layer(self, problem: DualProblem, k: int) -> tuple[np.ndarray, np.ndarray]:
        one_region("MILPTightening", problem)
        return self.refine(problem, k, *Crown().layer(problem, k))

    def refine(self, problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        region = one_region("MILPTightening", problem, l)
        ends = time.monotonic() + self.time_limit_s
        index, l, u = open_neurons(l, u), l.copy(), u.copy()
        if min(self.time_limit_s, self.time_limit_s_per_neuron) == 0 or interval_is_exact(problem, k):
            return l, u
        if not len(index):
            return l, u
        target = Target.of(problem, k, _both_signs(folded_neurons(problem, k, index)), region)
        bounds, troubles = Bounds((*problem.lower, l), (*problem.upper, u)), _Troubles()
        seen = _least_seen(target)
        for i in by_weight(problem, k, l, u, index):
            place = int(np.searchsorted(index, i))
            for row in _undecided(seen, place, len(index)):
                goal = _Goal(target, row, bounds, time.monotonic() + self.time_limit_s_per_neuron)
                value = self._least(replace(goal, ends=min(goal.ends, ends)), troubles, stop_at_zero=True)
                if row < len(index):
                    l[i] = max(l[i], value)
                else:
                    u[i] = min(u[i], -value)
                if value >= 0:
                    break
        tell("MILPTightening", f"layer {k}", troubles.said())
        return l, u

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        region = one_region("MILPTightening", problem)
        ends, crown, k = time.monotonic() + self.time_limit_s, Crown().rows(problem, rows), len(problem.layers)
        if min(self.time_limit_s, self.time_limit_s_per_row) == 0:
            return crown
        target = Target.of(problem, k, folded_rows(problem, k, rows), region)
        bounds, troubles, value = Bounds(problem.lower, problem.upper), _Troubles(), crown.value.copy()
        for i in range(len(rows)):
            goal = _Goal(target, i, bounds, min(ends, time.monotonic() + self.time_limit_s_per_row))
            value[i] = max(value[i], self._least(goal, troubles, stop_at_zero=False))
        tell("MILPTightening", "the output rows", troubles.said())
        return DualBound(value, crown.input_lam, solver_trusted=True)

    def _least(self, goal: _Goal, troubles: _Troubles, *, stop_at_zero: bool) -> float:
        """A lower bound of a row, on the solver's word less the tolerance; at most 0 if it may stop there."""
        if time.monotonic() >= goal.ends:
            return -math.inf
        small, region = goal.target.condensed, goal.target.region.relaxed
        index = np.array([goal.row])
        try:
            encoded = encode_slack(small, region, index, np.zeros(1), self.encoding, objective_unit(small, index))
            if encoded.reach > LARGEST_REACH:
                troubles.too_large += 1
                return -math.inf
            lost = self.tolerance * encoded.scale(goal.bounds)
            bound = self._solve(encoded, region, goal.ends, lost / encoded.unit if stop_at_zero else None)
            if bound == -math.inf:
                return bound
            # The region has points, so that no row is without values.
            left_s = left(goal.ends, time.monotonic())
            if bound == math.inf or not admits_a_known_point(encoded, region, self.solver, left_s):
                troubles.contradicted += 1
                return -math.inf
        except (InputError, SolverError):
            troubles.failed += 1
            return -math.inf
        claim = bound * encoded.unit - lost
        return min(claim, 0.0) if stop_at_zero else claim

    def _solve(self, encoded: Encoded, region: Region, ends: float, cutoff: float | None) -> float:
        """The solver's lower bound, in the program's unit; infinite if it sees no point and nothing was cut off."""
        solver, bound = self.solver, -math.inf
        if isinstance(solver, Highs) and cutoff is None:
            solver = replace(solver, mip_gap_abs=self.gap / encoded.unit / 2, mip_gap_rel=0.0)
        target = None if cutoff is None else 0.0
        for _ in range(TANGENT_ROUNDS):
            seconds = left(ends, time.monotonic())
            solution = solver.solve(encoded.program, Limits(seconds, cutoff, target))
            # Every round's program contains the region, so the best of their bounds counts.
            bound = max(bound, math.inf if solution.status is Status.INFEASIBLE else solution.dual_bound)
            outside = _left_ball(encoded, region, solution)
            if outside is None or not left(ends, time.monotonic()):
                break
            encoded = encoded.with_cut(*outside, f"tangent{encoded.program.n_rows}")
        return bound if cutoff is None else min(bound, cutoff)


@dataclass(frozen=True, eq=False)
class _Goal:
    """One row to minimise: row `row` of the target, with all bounds over the region, until a monotonic time."""

    target: Target
    row: int
    bounds: Bounds
    ends: float


@dataclass(eq=False)
class _Troubles:
    """Programs whose answers were not used, counted."""

    failed: int = 0
    too_large: int = 0
    contradicted: int = 0

    def said(self) -> list[str]:
        """One phrase for each kind."""
        phrases = {
            "{} programs failed": self.failed,
            f"{{}} programs with sums beyond {LARGEST_REACH:g} are not believed": self.too_large,
            "in {} programs the solver finds no point on the activation pattern of a known input, so that its bounds "
            "are not believed": self.contradicted,
        }
        return [phrase.format(count) for phrase, count in phrases.items() if count]


def _both_signs(folded: Folded) -> Folded:
    """The rows and then their negatives, on the host."""
    blocks = tuple(np.concatenate([part, -part]) for part in map(to_host, folded.blocks))
    return Folded(blocks, np.concatenate([folded.bias, -folded.bias]), np.tile(folded.error, 2))


def _least_seen(target: Target) -> np.ndarray:
    """The least value of every row at inputs that try to make one small, shape (n_rows,). Floating, a guide.

    They start where CROWN's bounds suspect the minima, and go on to where the gradients there point to.
    """
    net, region, rows = target.condensed.net, target.region, np.eye(target.n_rows)
    inputs = np.concatenate([region.project(region.minimiser(target.bound(rows).input_lam)), centre(region)[None]])
    seen = net.forward(inputs).min(axis=0)
    inputs = inputs[:-1]
    for _ in range(DESCENT_STEPS):
        inputs = region.project(region.minimiser(Linearization.at(net, inputs).pull_back(rows)))
        seen = np.minimum(seen, net.forward(inputs).min(axis=0))
    return np.asarray(seen)


def _undecided(seen: np.ndarray, place: int, n: int) -> list[int]:
    """The rows (of a neuron and its negative) that no known input makes negative, the likelier one to stay so first."""
    return sorted((row for row in (place, n + place) if seen[row] >= 0), key=lambda row: -seen[row])


def _left_ball(encoded: Encoded, region: Region, solution: Solution) -> tuple[np.ndarray, float] | None:
    """The tangent that excludes a solution outside an L2 ball; None where there is nothing to exclude."""
    if not isinstance(region, L2Ball) or solution.x is None:
        return None
    x = encoded.input(solution.x)
    if np.linalg.norm(x - region.center) <= region.radius * (1.0 + 1e-7):
        return None
    return region.tangent_cut(x)
