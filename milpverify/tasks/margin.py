"""The least slack of a property over its regions, exactly: a proved lower bound and a witnessed upper one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from milpverify.attack.method import Attack, centre
from milpverify.attack.pgd import Pgd
from milpverify.bounds.method import BoundMethod
from milpverify.errors import PropertyError
from milpverify.formulation.encode import Encoded
from milpverify.network.graph import Network
from milpverify.proof.evidence import Bracket, Grade, Witness
from milpverify.proof.replay import into_region, replay
from milpverify.search.milp import MilpAnswer, MilpSearch, minimise
from milpverify.spec.property import Case, Property
from milpverify.tasks.prepare import Prepared, check_fit, prepare
from milpverify.tasks.progress import Clock, OnProgress

__all__ = ["LeastSlack", "Minimiser", "is_reached", "least_slack", "margin_with_needed", "worst_margin"]


@dataclass(frozen=True)
class Minimiser:
    """How exact minima are found.

    Attributes:
        bounds: Bounds of the hidden neurons; `Crown()` when None.
        attack: Gives the first upper bound; None to leave that to the search.
        search: Options of the mixed-integer programs; `search.gap` is the gap the answer is closed to.
    """

    bounds: BoundMethod | None = None
    attack: Attack | None = field(default_factory=Pgd)
    search: MilpSearch = field(default_factory=MilpSearch)


@dataclass(frozen=True, eq=False)
class LeastSlack:
    """A least slack, and what its lower side must clear before it counts as positive.

    Attributes:
        bracket: The least slack, in units of y.
        needed: The least lower side that a MILP solver's word proves positive; see `MilpSearch.needed`.
    """

    bracket: Bracket
    needed: float = 0.0

    @property
    def reached(self) -> bool | None:
        """Whether the unsafe set is reached; see `is_reached`."""
        return is_reached(self.bracket, self.needed)


def is_reached(slack: Bracket, needed: float) -> bool | None:
    """Whether a slack is <= 0 somewhere: True with a witness, False if proven positive, None if open.

    Args:
        slack: The least slack.
        needed: A lower side that is a solver's word proves only from here up: a tie may sit at a point that no float
            is, and the solver calls it positive within its tolerances.
    """
    if slack.upper <= 0:
        return True
    least = 0.0 if slack.lower_grade is Grade.BOUND_ROUNDED else needed
    return False if slack.lower > 0 and slack.lower >= least else None


def worst_margin(
    net: Network,
    prop: Property,
    *,
    time_limit_s: float | None = None,
    method: Minimiser | None = None,
    on_progress: OnProgress | None = None,
) -> Bracket:
    """The least slack min_x max_i (C_i y - d_i) over all cases: the worst margin, for a robustness property.

    Robust iff it is > 0; a tie is not robust. The upper side is attained by the witness, whose slack is exact; the
    lower side is `bound-rounded` where bounds alone give it, else `solver-trusted` within `method.search.gap`: then a
    positive one proves robustness only where it is as large as `margin_with_needed` says, or `verify` agrees.

    Args:
        net: The network.
        prop: Its cases; each must have output constraints.
        time_limit_s: Wall time; the bracket reached by then is returned.
        method: `Minimiser()` when None.
        on_progress: Called as the work goes on.

    Returns:
        The bracket, in units of y.

    Raises:
        PropertyError: If the property does not fit the network, or a case has no output constraint.
        OptionError: If the time limit is not positive.

    Source:
        Tjeng, Xiao & Tedrake 2019, section 3 (the worst-case margin as an optimum).
    """
    return margin_with_needed(net, prop, time_limit_s=time_limit_s, method=method, on_progress=on_progress).bracket


def margin_with_needed(
    net: Network,
    prop: Property,
    *,
    time_limit_s: float | None = None,
    method: Minimiser | None = None,
    on_progress: OnProgress | None = None,
) -> LeastSlack:
    """`worst_margin`, and how large its lower side must be to prove the property; arguments and errors are the same."""
    clock = Clock("worst_margin", time_limit_s, on_progress)
    check_fit("worst_margin", net, prop)
    prepared = []
    for cases in prop.groups():
        clock.tell("bounds", cases[0].name)
        prepared.append(prepare(net, cases, (method or Minimiser()).bounds))
    return least_slack(prepared, clock, method or Minimiser())


@dataclass(eq=False)
class _Best:
    """The least exact slack met so far."""

    slack: float = math.inf
    witness: Witness | None = None

    def offer(self, net: Network, case: Case, x: np.ndarray) -> Witness | None:
        """Project, replay, and keep the point if it is the best; returns it as a witness if it is in the region."""
        point = measured(net, case, x)
        if point is not None and point.replay.slack_upper < self.slack:
            self.slack, self.witness = point.replay.slack_upper, point
        return point


def least_slack(groups: list[Prepared], clock: Clock, method: Minimiser) -> LeastSlack:
    """The least slack over prepared regions, to the gap of `method.search`."""
    best = _Best()
    for prepared in groups:
        for case in prepared.cases:
            if not len(case.unsafe.d):
                raise PropertyError(f"worst_margin: case {case.name!r} has no output constraint, so it has no margin.")
        _first_points(prepared, clock, method, best)
    open_ = [(float(p.lower[i]), p, i) for p in groups for i in range(len(p.cases))]
    open_.sort(key=lambda item: item[0])
    lower, grades, needed, timed_out = math.inf, set(), 0.0, False
    for rank, (bound, prepared, i) in enumerate(open_):
        if bound >= best.slack - method.search.gap:
            lower = min(lower, bound)
            grades.add(prepared.grade)
            continue
        if clock.out:
            timed_out, lower = True, min(lower, bound)
            grades.add(prepared.grade)
            continue
        clock.tell("milp", prepared.cases[i].name, bound, best.slack, prepared.n_unstable, len(open_) - rank - 1)
        encoded = prepared.encode(i, method.search.encoding)
        answer = _minimise_case(prepared, i, encoded, best, clock, method, len(open_) - rank - 1)
        timed_out = timed_out or answer.timed_out
        # What bounds prove is worth more than the last digits of a solver's word.
        told = answer.lower > bound + method.search.gap
        if told:
            needed = max(needed, method.search.needed(encoded, prepared.bounds))
        grades.add(Grade.SOLVER_TRUSTED if told else prepared.grade)
        lower = min(lower, answer.lower if told else bound)
    lower = min(lower, best.slack)
    bracket = Bracket(
        lower, best.slack, Grade.weakest(grades) if math.isfinite(lower) else None,
        None if best.witness is None else Grade.REPLAYED, "y", best.witness, timed_out, clock.seconds,
        groups[0].net.approximations,
    )  # fmt: skip
    return LeastSlack(bracket, needed)


def _first_points(prepared: Prepared, clock: Clock, method: Minimiser, best: _Best) -> None:
    """The centre, the bounds' own minimisers and an attack on every case, before any program."""
    net = prepared.net
    for case in prepared.cases:
        best.offer(net, case, centre(case.region))
    if method.attack is None or clock.out:
        return
    clock.tell("attack", prepared.cases[0].name, unstable=prepared.n_unstable)
    limit = None if math.isinf(clock.left) else clock.left / 4
    results = method.attack.attack_all(
        net, list(prepared.cases), start=prepared.starts, stop=-math.inf, time_limit_s=limit
    )
    for case, result in zip(prepared.cases, results, strict=True):
        best.offer(net, case, result.x)


def _minimise_case(
    prepared: Prepared, i: int, encoded: Encoded, best: _Best, clock: Clock, method: Minimiser, left: int
) -> MilpAnswer:
    """The least slack of one case, or that it is not below the best slack known."""
    case = prepared.cases[i]
    return minimise(
        encoded,
        case.region,
        lambda x: best.offer(prepared.net, case, x),
        method.search,
        cutoff=best.slack,
        time_limit_s=clock.left,
        start=best.witness.x if best.witness is not None and best.witness.case == case.name else None,
        on_mip=clock.mip_listener(case.name, prepared.n_unstable, left),
    )


def measured(net: Network, case: Case, x: np.ndarray) -> Witness | None:
    """A point moved into the region with its exact slack, whatever the sign; None if no float was found inside."""
    point = into_region(case.region, np.asarray(x, dtype=np.float64), np.float64)
    if point is None:
        return None
    report = replay(net, case, point)
    return Witness(point, np.asarray(net.forward(point)), case.name, report) if report.in_region else None
