"""A whole (sub)problem to a MIP solver: cut-offs both ways, and every point it returns polished and replayed.

A solver's "optimal" and "infeasible" hold within its tolerances, so what is claimed here is `solver-trusted`, and a
case holds only if the bound clears `MILP.tolerance`. What is *violated* does not rest on the solver: the point is
replayed exactly, and where it misses by the solver's tolerance, the LP of its activation pattern moves it inside.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from milpverify.errors import InputError, OptionError, SolverError
from milpverify.formulation.relu import BigM, ReLUEncoding
from milpverify.network.graph import Bounds
from milpverify.program.highs import Highs
from milpverify.program.solver import Limits, MipProgress, Solution, Solver, Status
from milpverify.search.question import Answer, CaseAnswer, Question, Search, TreeProgress
from milpverify.spec.regions import L2Ball, Region

# What writes programs is loaded by the first one: most questions are answered without.
if TYPE_CHECKING:
    from milpverify.formulation.encode import Encoded
    from milpverify.formulation.property_program import StackedRows
    from milpverify.program.program import Program
    from milpverify.search.cut_pool import Strengthening

Confirm = Callable[[np.ndarray], Any]  # replays a point; None for one that does not count
OnMip = Callable[[MipProgress], "bool | None"]

TANGENT_ROUNDS = 50
CONTRADICTION = (
    "the MILP solver finds no point on an activation pattern that an input of the region has: its tolerances are too "
    "coarse for these numbers, so its bound is not believed"
)
UNSETTLED = f"tangent cuts did not settle in {TANGENT_ROUNDS} rounds"
EMPTY = "the MILP solver calls a program infeasible that has a point for every input of the region: it is not believed"


@dataclass(frozen=True)
class MILP(Search):
    """Search by one mixed-integer program per case.

    Attributes:
        encoding: How relu is written.
        solver: Who solves it.
        tolerance: A solver's lower bound of a slack proves it positive only from `needed` up, which is this, in units
            of y, times the largest bound or coefficient where that exceeds 1 (solvers' tolerances are absolute).
        cuts: Ideal single-neuron inequalities added as rows before the program is handed over; None for none, which has
            been measured to be no slower with presolve on.
        gap: Exact margins and distances are closed to this difference, in their own unit.
    """

    encoding: ReLUEncoding = field(default_factory=BigM)
    solver: Solver = field(default_factory=Highs)
    tolerance: float = 1e-5
    gap: float = 1e-6
    cuts: Strengthening | None = None

    def __post_init__(self) -> None:
        for name in ("tolerance", "gap"):
            if not 0 < getattr(self, name) < math.inf:
                raise OptionError(f"MILP: {name} must be positive and finite, got {getattr(self, name)}.")

    def needed(self, encoded: Encoded, bounds: Bounds) -> float:
        """The least solver-trusted lower bound of a program's slack that counts as positive, in units of y.

        Whoever says "holds", "robust" or "out of reach" on a solver's word asks this.

        Args:
            encoded: The program.
            bounds: Of all neurons over its region.
        """
        return self.tolerance * encoded.scale(bounds)

    def run(self, question: Question) -> Answer:
        """One program a case, lowest bound first."""
        from milpverify.formulation.property_program import stack_rows

        q, stacked, answers = question, None, {}
        open_ = [int(i) for i in q.open]
        for rank, i in enumerate(open_):
            if q.decided:
                break
            if q.left_s <= 0:
                answers[i] = CaseAnswer(float(q.lower[i]), timed_out=True, reason="time ran out before its turn")
                continue
            if q.settled[i] or q.closed(q.lower[i : i + 1])[0]:
                continue
            stacked = stacked or stack_rows(q.net, q.bounds, q.cases)
            answers[i] = self._case(q, stacked, i, len(open_) - rank)
        holds = q.closed(q.lower) & (q.gap is None)
        rest = (CaseAnswer(float(v), bool(h), q.bounds.solver_trusted) for v, h in zip(q.lower, holds, strict=True))
        return Answer(tuple(answers.get(i, case) for i, case in enumerate(rest)))

    def _case(self, q: Question, stacked: StackedRows, i: int, left: int) -> CaseAnswer:
        lower = float(q.lower[i])
        try:
            encoded = case_program(stacked, q.region, i, self.encoding)
            if self.cuts is not None:
                from milpverify.search.cut_pool import strengthened

                encoded = strengthened(encoded, self.cuts).encoded
            answer = self._ask(q, encoded, i, left)
        except (SolverError, InputError) as error:  # numbers too wild for a program or its solver
            return CaseAnswer(lower, reason=str(error))
        if q.gap is None:
            found = max(lower, answer.lower)
            return CaseAnswer(found, answer.holds, answer.holds, answer.timed_out, answer.reason, how="milp")
        # What bounds prove is worth more than the last digits of a solver's word.
        told = answer.lower > lower + q.gap
        needed = self.needed(encoded, q.bounds) if told else 0.0
        found = max(lower, answer.lower) if told else lower
        return CaseAnswer(found, False, told, answer.timed_out, answer.reason, needed, "milp")

    def _ask(self, q: Question, encoded: Encoded, i: int, left: int) -> MilpAnswer:
        def listen(progress: MipProgress) -> bool:
            if q.tell is not None:
                q.tell(TreeProgress(progress.nodes, left, progress.dual_bound, q.best, "milp"))
            return bool(q.settled[i]) or q.decided or q.interrupt.pending

        if q.gap is None:
            return decide(
                encoded, q.region, lambda x: q.offer(i, x) <= 0 or None, self,
                bounds=q.bounds, time_limit_s=q.left_s, on_mip=listen,
            )  # fmt: skip
        return minimise(
            encoded, q.region, lambda x: q.offer(i, x) < math.inf or None, replace(self, gap=q.gap),
            cutoff=q.best, time_limit_s=q.left_s, start=q.best_x if q.best_case == i else None, on_mip=listen,
        )  # fmt: skip


def case_program(stacked: StackedRows, region: Region, i: int, encoding: ReLUEncoding) -> Encoded:
    """The program that minimises the slack of case i of some whose rows are stacked."""
    from milpverify.formulation.encode import encode_slack, objective_unit

    member, small = stacked.members[i], stacked.condensed
    return encode_slack(small, region, member, stacked.d[member], encoding, objective_unit(small, member, region.grid))


@dataclass(frozen=True, eq=False)
class MilpAnswer:
    """What a search says about one case.

    Attributes:
        lower: Lower bound of the objective, solver-trusted; -inf if none.
        holds: Whether that bound clears the tolerance (of `decide`).
        witness: What `confirm` made of the best point, or None.
        timed_out: Whether time ran out before an answer.
        reason: Why there is no answer, where there is none.
        finished: Whether the solver says that its bound is the least slack, and that is too small (of `decide`).
        program: What the solver was asked last, tangent cuts included (of `decide`).
    """

    lower: float
    holds: bool = False
    witness: Any = None
    timed_out: bool = False
    reason: str = ""
    finished: bool = False
    program: Program | None = None


def decide(
    encoded: Encoded,
    region: Region,
    confirm: Confirm,
    search: MILP,
    *,
    bounds: Bounds,
    time_limit_s: float = math.inf,
    on_mip: OnMip | None = None,
) -> MilpAnswer:
    """Is some slack of the region <= 0? Stops at the first confirmed point, or when nothing lies below the tolerance.

    Args:
        encoded: A program that minimises the slack.
        bounds: Of all neurons over the region: what the tolerance grows with.
        region: Its region, for the tangent cuts of an L2 ball.
        confirm: Replays a point, exactly.
        search: Options.
        time_limit_s: Wall time.
        on_mip: Told about the solver's progress; returning True stops it.
    """
    from milpverify.formulation.trust import LARGEST_REACH, admits_a_known_point

    ends = time.monotonic() + time_limit_s
    tolerance, unit = search.needed(encoded, bounds), encoded.unit
    trusted = encoded.reach <= LARGEST_REACH
    target: float | None = 0.0
    incumbent: np.ndarray | None = None

    def answer(lower: float, **found: Any) -> MilpAnswer:
        return MilpAnswer(lower, program=encoded.program, **found)

    for _ in range(TANGENT_ROUNDS):
        try:
            left_s = max(0.0, ends - time.monotonic())
            limits = Limits(left_s, tolerance / unit, target, incumbent, _in_units(on_mip, unit))
            solution = search.solver.solve(encoded.program, limits)
        except SolverError:
            if trusted:
                raise
            return answer(-math.inf, reason=_too_large(encoded))
        bound = solution.dual_bound * unit if trusted else -math.inf
        if trusted and solution.status is Status.INFEASIBLE:  # a slack has a value for every input
            return answer(-math.inf, reason=EMPTY)
        if trusted and (solution.status is Status.CUTOFF or bound >= tolerance):
            if not admits_a_known_point(encoded, region, search.solver, ends - time.monotonic()):
                return answer(-math.inf, reason=CONTRADICTION)
            return answer(min(bound, tolerance), holds=True)
        witness, incumbent = replayed(encoded, solution, confirm, search.solver, ends - time.monotonic())
        if witness is not None:
            return answer(bound, witness=witness)
        if solution.status in (Status.TIME_LIMIT, Status.INTERRUPTED):
            return answer(bound, timed_out=True, reason=f"the MILP ended by {solution.status.value}")
        cut = tangent(encoded, region, solution)
        if cut is not None:
            encoded, incumbent = cut, None
        elif target is not None and solution.status is Status.TARGET:
            target = None  # the first point below zero was none in exact arithmetic: go on to the best one
        else:
            break
    else:
        return answer(bound, reason=UNSETTLED if trusted else _too_large(encoded))
    if not trusted:
        return answer(bound, reason=_too_large(encoded))
    if math.isinf(bound):
        return answer(bound, reason=f"the MILP solver gives no bound, its answer is '{solution.status.value}'")
    reason = (
        f"the least slack is within {tolerance:g} of zero as far as the MILP can tell (its bound is "
        f"{bound:.3g}), and no point of it violates in exact arithmetic"
    )
    return answer(bound, finished=True, reason=reason)


def minimise(
    encoded: Encoded,
    region: Region,
    confirm: Confirm,
    search: MILP,
    *,
    cutoff: float = math.inf,
    time_limit_s: float = math.inf,
    start: np.ndarray | None = None,
    on_mip: OnMip | None = None,
) -> MilpAnswer:
    """The least objective of a program, to `search.gap`; points above `cutoff` are of no interest.

    Args:
        encoded: A program that minimises a slack or a distance.
        confirm: Turns a point into a witness; for a slack that need not be <= 0.
        start: A network input to start from.
        region, search, time_limit_s, on_mip: As in `decide`.

    Returns:
        The solver's lower bound (at most the cut-off), and the witness of its best point, if it has one.
    """
    from milpverify.formulation.trust import LARGEST_REACH, admits_a_known_point

    ends = time.monotonic() + time_limit_s
    unit, below = encoded.unit, None if math.isinf(cutoff) else cutoff / encoded.unit
    trusted = encoded.reach <= LARGEST_REACH
    solver = _with_gap(search.solver, search.gap / unit)
    incumbent = None if start is None else encoded.at_input(start)
    for _ in range(TANGENT_ROUNDS):
        try:
            left_s = max(0.0, ends - time.monotonic())
            limits = Limits(left_s, below, incumbent=incumbent, on_progress=_in_units(on_mip, unit))
            solution = solver.solve(encoded.program, limits)
        except SolverError:
            if trusted:
                raise
            return MilpAnswer(-math.inf, reason=_too_large(encoded))
        witness, incumbent = replayed(encoded, solution, confirm, solver, ends - time.monotonic())
        stopped = solution.status in (Status.TIME_LIMIT, Status.INTERRUPTED)
        cut = None if stopped else tangent(encoded, region, solution)
        if cut is None:
            if not trusted:
                return MilpAnswer(-math.inf, witness=witness, timed_out=stopped, reason=_too_large(encoded))
            lower = cutoff if solution.status is Status.INFEASIBLE else min(solution.dual_bound * unit, cutoff)
            if not admits_a_known_point(encoded, region, solver, ends - time.monotonic()):
                return MilpAnswer(-math.inf, witness=witness, timed_out=stopped, reason=CONTRADICTION)
            answered = solution.status in (Status.OPTIMAL, Status.CUTOFF, Status.INFEASIBLE)
            reason = "" if answered else f"the MILP ended by {solution.status.value}"
            return MilpAnswer(lower, witness=witness, timed_out=stopped, reason=reason)
        encoded, incumbent = cut, None
    lower = solution.dual_bound * unit if trusted else -math.inf
    return MilpAnswer(lower, witness=witness, reason=UNSETTLED)


def replayed(
    encoded: Encoded, solution: Solution, confirm: Confirm, solver: Solver, left_s: float
) -> tuple[Any, np.ndarray | None]:
    """The witness of a solution, polished if it takes that, and the polished solution as a next starting point."""
    from milpverify.formulation.trust import LAST_WORD_S

    if solution.x is None:
        return None, None
    if encoded.frame.integer:  # nothing to polish: the columns say which grid point it is
        return confirm(encoded.input(solution.x)), solution.x
    try:
        limits = Limits(max(min(left_s, 10.0), LAST_WORD_S))
        polished = solver.solve(encoded.with_phases(solution.x), limits).x
    except SolverError:  # numbers too wild for the LP: the point as it came may still do
        polished = None
    points = [x for x in (polished, solution.x) if x is not None]
    for point in points:
        witness = confirm(encoded.input(point))
        if witness is not None:
            return witness, points[0]
    return None, points[0]


def tangent(encoded: Encoded, region: Region, solution: Solution) -> Encoded | None:
    """The program with a cut that excludes a solution outside an L2 ball; None where there is nothing to cut."""
    if not isinstance(region, L2Ball) or solution.x is None:
        return None
    x = encoded.input(solution.x)
    if np.linalg.norm(x - region.center) <= region.radius * (1.0 + 1e-7):
        return None
    normal, right = region.tangent_cut(x)
    return encoded.with_cut(normal, right, f"tangent{encoded.program.n_rows}")


def _too_large(encoded: Encoded) -> str:
    return (
        f"terms of the MILP come to {encoded.reach:.2g}, where float64 is coarser than a solver's tolerances, so its "
        "bound is not believed"
    )


def _in_units(on_mip: OnMip | None, unit: float) -> OnMip | None:
    """Progress of a program as progress of what it is about."""
    if on_mip is None or unit == 1.0:
        return on_mip
    return lambda p: on_mip(replace(p, primal_bound=p.primal_bound * unit, dual_bound=p.dual_bound * unit))


def _with_gap(solver: Solver, gap: float) -> Solver:
    if isinstance(solver, Highs):
        return replace(solver, mip_gap_abs=gap / 2, mip_gap_rel=0.0)
    return solver
