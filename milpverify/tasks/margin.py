"""The least slack of a property over its regions, exactly: a proved lower bound and a witnessed upper one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from milpverify.attack.method import Attack, AttackResult, centre
from milpverify.bounds.method import BoundMethod
from milpverify.errors import OptionError, PropertyError
from milpverify.network.graph import Network
from milpverify.proof.evidence import Bracket, Grade, Witness
from milpverify.proof.replay import into_region, replay
from milpverify.search.checkpoint import Checkpoint, CheckpointFile
from milpverify.search.milp import MILP
from milpverify.search.portfolio import Portfolio
from milpverify.search.question import Question, Search
from milpverify.spec.property import Case, Property
from milpverify.tasks.prepare import Prepared, check_fit, first_attack, open_checkpoint, prepare
from milpverify.tasks.progress import Clock, OnProgress

__all__ = ["LeastSlack", "Minimiser", "is_reached", "least_slack", "margin_with_needed", "worst_margin"]


WORST, STEPS = 3, 10  # cases attacked before a search, and how long: the search finds better points on its way


@dataclass(frozen=True)
class Minimiser:
    """How exact minima are found.

    Attributes:
        bounds: Bounds of the hidden neurons to begin with; `Crown()` when None.
        attack: Gives the first upper bound; None to leave that to the search.
        search: `Portfolio()`, `BranchAndBound()` or `MILP()`, with their options.
        gap: The difference the answer is closed to, in units of y.
        relative_gap: The same as a share of the answer's size; the wider of both counts.

    Raises:
        OptionError: If a gap is negative, or the absolute one is not positive.
    """

    bounds: BoundMethod | None = None
    attack: Attack | None = field(default_factory=lambda: replace(first_attack(), steps=STEPS))
    search: Search = field(default_factory=Portfolio)
    gap: float = 1e-6
    relative_gap: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.gap < math.inf or not 0 <= self.relative_gap < 1:
            raise OptionError(
                f"Minimiser: gap must be positive and relative_gap in [0, 1), got {self.gap} and {self.relative_gap}."
            )

    @classmethod
    def of(cls, method: Minimiser | Search | None) -> Minimiser:
        """The method with its defaults: a search alone stands for the rest as it is."""
        return method if isinstance(method, Minimiser) else cls() if method is None else cls(search=method)


@dataclass(frozen=True, eq=False)
class LeastSlack:
    """A least slack, and what its lower side must clear before it counts as positive.

    Attributes:
        bracket: The least slack, in units of y.
        needed: The least lower side that a MILP solver's word proves positive; see `MILP.needed`.
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
    method: Minimiser | Search | None = None,
    on_progress: OnProgress | None = None,
    checkpoint: Checkpoint | Path | str | None = None,
) -> Bracket:
    """The least slack min_x max_i (C_i y - d_i) over all cases: the worst margin, for a robustness property.

    Robust iff it is > 0; a tie is not robust. The upper side is attained by the witness, whose slack is exact; the
    lower side is `bound-rounded` where bounds or our own tree give it, else `solver-trusted` within the gap: then a
    positive one proves robustness only where it is as large as `margin_with_needed` says, or `verify` agrees.

    Args:
        net: The network.
        prop: Its cases; each must have output constraints.
        time_limit_s: Wall time; the bracket reached by then is returned.
        method: `Minimiser()` when None; a search alone, such as `BranchAndBound()`, stands in for its own.
        on_progress: Called as the work goes on.
        checkpoint: A file that the search is saved to, and gone on from if it exists; None for none.

    Returns:
        The bracket, in units of y; after Ctrl-C, as it is by then.

    Raises:
        PropertyError: If the property does not fit the network, or a case has no output constraint.
        OptionError: If the time limit is not positive.
        CheckpointError: If the checkpoint is damaged, another question's, or no checkpoint.

    Source:
        Tjeng, Xiao & Tedrake 2019, section 3 (the worst-case margin as an optimum).
    """
    return margin_with_needed(
        net, prop, time_limit_s=time_limit_s, method=method, on_progress=on_progress, checkpoint=checkpoint
    ).bracket


def margin_with_needed(
    net: Network,
    prop: Property,
    *,
    time_limit_s: float | None = None,
    method: Minimiser | Search | None = None,
    on_progress: OnProgress | None = None,
    checkpoint: Checkpoint | Path | str | None = None,
) -> LeastSlack:
    """`worst_margin`, and how large its lower side must be to prove the property; arguments and errors are the same."""
    clock = Clock("worst_margin", time_limit_s, on_progress)
    check_fit("worst_margin", net, prop)
    for case in prop.cases:
        if not len(case.unsafe.d):
            raise PropertyError(f"worst_margin: case {case.name!r} has no output constraint, so it has no margin.")
    how = Minimiser.of(method)
    file = open_checkpoint(checkpoint, net, prop, "worst_margin", how)
    with clock.interrupt:
        prepared = []
        for cases in prop.groups():
            clock.tell("bounds", cases[0].name)
            with clock.interrupt.released():
                prepared.append(prepare(net, cases, how.bounds, ascend=isinstance(how.search, MILP)))
        if len(prepared) < len(prop.groups()):  # interrupted: nothing is known of the rest
            return LeastSlack(nothing_known(net, clock))
        return least_slack(prepared, clock, how, file)


def nothing_known(net: Network, clock: Clock) -> Bracket:
    """The bracket of a margin after Ctrl-C before there were bounds."""
    return Bracket(
        -math.inf, math.inf, None, None, "y", seconds=clock.seconds, approximations=net.approximations,
        interrupted=True,
    )  # fmt: skip


@dataclass(eq=False)
class _Best:
    """The least exact slack met so far."""

    slack: float = math.inf
    witness: Witness | None = None

    def offer(self, net: Network, case: Case, x: np.ndarray) -> float:
        """Project, replay, and keep the point if it is the best; returns its slack, infinite for no point at all."""
        point = measured(net, case, x)
        if point is None:
            return math.inf
        if point.replay.slack_upper < self.slack:
            self.slack, self.witness = point.replay.slack_upper, point
        return point.replay.slack_upper


def least_slack(
    groups: list[Prepared], clock: Clock, method: Minimiser, file: CheckpointFile | None = None
) -> LeastSlack:
    """The least slack over prepared regions, all with output constraints, to the gap of `method`."""
    best = _Best()
    for prepared in groups:
        _first_points(prepared, clock, method, best)
    lower, grades, needed, timed_out = math.inf, set(), 0.0, False
    for number in sorted(range(len(groups)), key=lambda i: float(groups[i].lower.min())):
        prepared = groups[number]
        question, positions = _question(prepared, best, clock, method), list(range(len(prepared.cases)))
        answer = method.search.run(question) if file is None else file.run(method.search, question, number, positions)
        for found in answer.cases:
            lower, needed = min(lower, found.lower), max(needed, found.needed)
            timed_out = timed_out or found.timed_out
            grades.add(Grade.SOLVER_TRUSTED if found.solver_trusted else prepared.grade)
    lower = min(lower, best.slack)
    bracket = Bracket(
        lower, best.slack, Grade.weakest(grades) if math.isfinite(lower) else None,
        None if best.witness is None else Grade.REPLAYED, "y", best.witness,
        timed_out and not clock.interrupt.pending, clock.seconds, groups[0].net.approximations,
        timed_out and clock.interrupt.pending,
    )  # fmt: skip
    return LeastSlack(bracket, needed)


def _question(prepared: Prepared, best: _Best, clock: Clock, method: Minimiser) -> Question:
    question = prepared.question(
        lambda i, x: best.offer(prepared.net, prepared.cases[i], x), clock, gap=method.gap,
        relative_gap=method.relative_gap,
    )  # fmt: skip
    question.best = best.slack
    if best.witness is not None:
        names = [case.name for case in prepared.cases]
        question.best_x = best.witness.x
        question.best_case = names.index(best.witness.case) if best.witness.case in names else -1
    return question


def _first_points(prepared: Prepared, clock: Clock, method: Minimiser, best: _Best) -> None:
    """An attack from the bounds' own minimisers on the cases that look worst, or else the centre, before any search."""
    net = prepared.net
    order = np.argsort(prepared.lower, kind="stable")
    chosen = [prepared.cases[i] for i in order[:WORST]]
    results: tuple[AttackResult, ...] = ()
    if method.attack is not None and not clock.out:
        clock.tell("attack", chosen[0].name, unstable=prepared.n_unstable)
        limit = None if math.isinf(clock.left) else clock.left / 4
        with clock.interrupt.released():
            results = method.attack.attack_all(net, chosen, start=prepared.starts, stop=-math.inf, time_limit_s=limit)
    for case, result in sorted(zip(chosen, results, strict=bool(results)), key=lambda pair: float(pair[1].slack)):
        if result.slack < best.slack:
            best.offer(net, case, result.x)
    if best.witness is None:
        best.offer(net, chosen[0], centre(prepared.region))


def measured(net: Network, case: Case, x: np.ndarray) -> Witness | None:
    """A point moved into the region with its exact slack, whatever the sign; None if no float was found inside."""
    point = into_region(case.region, np.asarray(x, dtype=np.float64), np.float64)
    if point is None:
        return None
    report = replay(net, case, point)
    return Witness(point, np.asarray(net.forward(point)), case.name, report) if report.in_region else None
