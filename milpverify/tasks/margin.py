"""The least slack of a property over its regions, exactly: a proved lower bound and a witnessed upper one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from milpverify.attack.method import Attack, centre
from milpverify.attack.pgd import Pgd
from milpverify.bounds.method import BoundMethod
from milpverify.errors import PropertyError
from milpverify.network.graph import Network
from milpverify.proof.evidence import Bracket, Grade, Witness
from milpverify.proof.replay import into_region, replay
from milpverify.search.milp import MilpSearch, minimise
from milpverify.spec.property import Case, Property
from milpverify.tasks.prepare import Prepared, check_fit, prepare
from milpverify.tasks.progress import Clock, OnProgress

__all__ = ["Minimiser", "least_slack", "worst_margin"]


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
    lower side is `bound-rounded` where bounds alone give it, else `solver-trusted` within `method.search.gap`.

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


def least_slack(groups: list[Prepared], clock: Clock, method: Minimiser) -> Bracket:
    """The least slack over prepared regions, to the gap of `method.search`."""
    best = _Best()
    for prepared in groups:
        for case in prepared.cases:
            if not len(case.unsafe.d):
                raise PropertyError(f"worst_margin: case {case.name!r} has no output constraint, so it has no margin.")
        _first_points(prepared, clock, method, best)
    open_ = [(float(p.lower[i]), p, i) for p in groups for i in range(len(p.cases))]
    open_.sort(key=lambda item: item[0])
    lower, grades, timed_out = math.inf, set(), False
    for rank, (bound, prepared, i) in enumerate(open_):
        if bound >= best.slack - method.search.gap:
            lower = min(lower, bound)
            grades.add(Grade.BOUND_ROUNDED)
            continue
        found, late = _minimise_case(prepared, i, bound, best, clock, method, len(open_) - rank - 1)
        timed_out = timed_out or late
        grades.add(Grade.SOLVER_TRUSTED if found > bound else Grade.BOUND_ROUNDED)
        lower = min(lower, max(bound, found))
    lower = min(lower, best.slack)
    return Bracket(
        lower, best.slack, Grade.weakest(grades) if math.isfinite(lower) else None,
        None if best.witness is None else Grade.REPLAYED, "y", best.witness, timed_out, clock.seconds,
        groups[0].net.approximations,
    )  # fmt: skip


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
    prepared: Prepared, i: int, bound: float, best: _Best, clock: Clock, method: Minimiser, left: int
) -> tuple[float, bool]:
    """A lower bound of one case's slack (at most the best slack known), and whether time ran out."""
    case = prepared.cases[i]
    if clock.out:
        return bound, True
    clock.tell("milp", case.name, bound, best.slack, prepared.n_unstable, left)
    answer = minimise(
        prepared.encode(i, method.search.encoding),
        case.region,
        lambda x: best.offer(prepared.net, case, x),
        method.search,
        cutoff=best.slack,
        time_limit_s=clock.left,
        start=best.witness.x if best.witness is not None and best.witness.case == case.name else None,
        on_mip=clock.mip_listener(case.name, prepared.n_unstable, left),
    )
    return answer.lower, answer.timed_out


def measured(net: Network, case: Case, x: np.ndarray) -> Witness | None:
    """A point moved into the region with its exact slack, whatever the sign; None if no float was found inside."""
    point = into_region(case.region, np.asarray(x, dtype=np.float64), np.float64)
    if point is None:
        return None
    report = replay(net, case, point)
    return Witness(point, np.asarray(net.forward(point)), case.name, report) if report.in_region else None
