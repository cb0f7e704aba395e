"""Is the unsafe set out of reach? Bounds, then a quick attack, then a search over the cases still open."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from milpverify.attack.method import Attack, AttackResult, centre
from milpverify.bounds.method import BoundMethod
from milpverify.network.graph import Bounds, Network
from milpverify.proof.evidence import CaseReport, Grade, Holds, How, Status, Unknown, Verdict, Violated, Witness
from milpverify.proof.replay import confirm
from milpverify.search.checkpoint import Checkpoint, CheckpointFile
from milpverify.search.milp import MILP
from milpverify.search.portfolio import Portfolio
from milpverify.search.question import Search
from milpverify.spec.property import Case, Property
from milpverify.tasks.prepare import Prepared, check_fit, first_attack, open_checkpoint, prepare
from milpverify.tasks.progress import Clock, OnProgress

if TYPE_CHECKING:
    from milpverify.program.solver import Solver
    from milpverify.tasks.certify import Prover

ATTACK_SHARE = 0.25  # of the time left, at most, so that the search always gets its turn


@dataclass(eq=False)
class _CaseState:
    case: Case
    prepared: Prepared
    position: int
    group: int
    lower: float
    status: Status = "unknown"
    how: How = ""
    seconds: float = 0.0
    timed_out: bool = False
    reason: str = ""
    solver_trusted: bool = False
    bounds: Bounds | None = None  # as the search has tightened them

    @property
    def open(self) -> bool:
        return self.status == "unknown"

    @property
    def grade(self) -> Grade:
        """What the case rests on, if it holds."""
        return Grade.SOLVER_TRUSTED if self.solver_trusted else self.prepared.grade

    @property
    def rigorous_bounds(self) -> Bounds | None:
        """Of the hidden neurons, the tightest that rest on no solver; None if there are none."""
        found = (self.bounds, self.prepared.bounds)
        return next((bounds for bounds in found if bounds is not None and not bounds.solver_trusted), None)

    def report(self) -> CaseReport:
        lower = self.lower if math.isfinite(self.lower) else None
        return CaseReport(self.case.name, self.status, self.how, lower, self.seconds)


@dataclass(frozen=True)
class Verifier:
    """How `verify` goes about it.

    Attributes:
        bounds: Bounds of the hidden neurons; `Crown()` when None.
        attack: Looks for a witness before any search; None to skip it.
        search: What decides the cases that bounds and attack leave open: `Portfolio()`, `BranchAndBound()` or `MILP()`
            with their options; None to leave them unknown.
    """

    bounds: BoundMethod | None = None
    attack: Attack | None = field(default_factory=first_attack)
    search: Search | None = field(default_factory=Portfolio)

    @classmethod
    def of(cls, method: Verifier | Search | None) -> Verifier:
        """The method with its defaults: a search alone stands for the rest as it is."""
        return method if isinstance(method, Verifier) else cls() if method is None else cls(search=method)


def verify(
    net: Network,
    prop: Property,
    *,
    time_limit_s: float | None = None,
    method: Verifier | Search | None = None,
    onnx_path: str | Path | None = None,
    on_progress: OnProgress | None = None,
    checkpoint: Checkpoint | Path | str | None = None,
    prove: Prover | bool = False,
    prove_semantics: str = "both",
    cross_check: Solver | bool = False,
) -> Verdict:
    """Decide whether some input of a property's regions reaches its unsafe set. Exact, within the grade it states.

    Cases of one region share their bounds. A violation is replayed in exact arithmetic before it is reported; a case
    closed by bounds or by our own tree is `bound-rounded`, one closed by a MILP `solver-trusted`.

    Args:
        net: The network.
        prop: What must not happen.
        time_limit_s: Wall time; None for no limit. Bounds are not interrupted.
        method: The steps and their options; `Verifier()` when None. A search alone, such as `MILP()`, stands in for
            the default one.
        onnx_path: The network's file: a witness is then replayed by onnxruntime too, where that is installed.
        on_progress: Called as the work goes on.
        checkpoint: A file that the search is saved to, and gone on from if it exists; None for none.
        prove: Whether to follow Holds up with a proof for others to check, and how (`certify`), in the time left.
        prove_semantics: What the proof is about, as in `certify`: "real", "float32", or "both", the stronger of them
            that is found. The verdict itself is about real numbers.
        cross_check: Whether a second solver must confirm, in the time left, each case that would rest on the first
            one's word, and which: CBC if True, HiGHS where CBC is the first. If they disagree, the verdict is Unknown;
            if the second one does not finish, the verdict stands, and says so.

    Returns:
        Holds, Violated or Unknown; after Ctrl-C, what is known by then.

    Raises:
        PropertyError: If the property does not fit the network.
        OptionError: If the time limit is not positive, or the second solver is the first one, or not installed.
        CheckpointError: If the checkpoint is damaged, another question's, or no checkpoint.
    """
    clock = Clock("verify", time_limit_s, on_progress)
    check_fit("verify", net, prop)
    method = Verifier.of(method)
    second = _second_solver(method, cross_check)
    file = open_checkpoint(checkpoint, net, prop, "verify", method)
    with clock.interrupt:
        states = _bounded(net, prop, method, clock)
        witness = _attack(net, states, method, clock)
        if witness is None and method.search is not None:
            witness = _search(net, states, method.search, clock, file)
    verdict = _verdict(net, prop, states, witness, clock, onnx_path)
    if second is not None and isinstance(verdict, Holds):
        verdict = _cross_checked(net, verdict, states, method, second, clock)
    if not prove or not isinstance(verdict, Holds):
        return verdict
    return _proved(net, prop, verdict, (prove, prove_semantics), clock)


def _second_solver(method: Verifier, cross_check: Solver | bool) -> Solver | None:
    """Who is to confirm the answers of the first solver; None for nobody."""
    if cross_check is False:
        return None
    from milpverify.program.quorum import second_to
    from milpverify.tasks.cross_check import asked

    return second_to(asked(method.search, method.bounds), None if cross_check is True else cross_check)


def _cross_checked(
    net: Network, verdict: Holds, states: list[_CaseState], method: Verifier, second: Solver, clock: Clock
) -> Holds | Unknown:
    """The verdict with what a second solver makes of it; Unknown if that contradicts the first one."""
    from milpverify.tasks.cross_check import Claim, asked, cross_check, programs_of

    firsts = asked(method.search, method.bounds)
    trusted = [i for i, s in enumerate(states) if s.grade is Grade.SOLVER_TRUSTED]
    claims = [
        Claim(s.case, firsts[0 if s.how == "milp" else -1], s.how, s.lower, s.rigorous_bounds)
        for s in (states[i] for i in trusted)
    ]
    checked = cross_check(net, claims, programs_of(method.search), second, clock)
    reports, refused = list(verdict.cases), checked.disagreement
    for i, note in zip(trusted, checked.notes, strict=False):  # those after a disagreement have none
        reports[i] = replace(reports[i], cross_check=note)
    if refused is None:
        told, now = checked.summary(claims), clock.seconds
        return replace(verdict, seconds=now, cases=tuple(reports), cross_checked=checked.confirmed, cross_check=told)
    i = trusted[len(checked.notes)]
    reports[i] = replace(reports[i], status="unknown", how="", lower=None, cross_check=str(refused))
    return Unknown(
        reason=f"refused: {refused}.",
        disagreement=refused,
        seconds=clock.seconds,
        cases=tuple(reports),
        approximations=net.approximations,
    )


def _proved(net: Network, prop: Property, verdict: Holds, wanted: tuple[Prover | bool, str], clock: Clock) -> Holds:
    """The verdict with a proof, or with why there is none."""
    from milpverify.tasks.certify import Prover, certify_within

    if clock.out:
        return replace(verdict, unproved="time ran out before a proof was looked for")
    part = clock.part(None if math.isinf(clock.left) else clock.left, lambda progress: progress)
    prover = wanted[0] if isinstance(wanted[0], Prover) else Prover()
    found = certify_within(net, prop, prover, part, semantics=wanted[1])
    if found.proof is None:
        return replace(verdict, unproved=found.reason, seconds=clock.seconds)
    return replace(verdict, grade=Grade.PROOF_CHECKED, proof=found.proof, seconds=clock.seconds)


def _bounded(net: Network, prop: Property, method: Verifier, clock: Clock) -> list[_CaseState]:
    """All cases with their bounds; only some of them after Ctrl-C."""
    states: list[_CaseState] = []
    ascend = method.search is None or isinstance(method.search, MILP)
    for number, cases in enumerate(prop.groups()):
        clock.tell("bounds", cases[0].name, left=len(prop.cases) - len(states))
        began = clock.seconds
        prepared: Prepared | None = None
        with clock.interrupt.released():
            prepared = prepare(net, cases, method.bounds, ascend=ascend)
        if prepared is None:
            break
        group = [_CaseState(case, prepared, i, number, float(prepared.lower[i])) for i, case in enumerate(cases)]
        for state in group:
            state.seconds = (clock.seconds - began) / len(group)
            if state.lower > 0:
                state.status, state.how = "holds", "bounds"
        states.extend(group)
    return states


def _attack(net: Network, states: list[_CaseState], method: Verifier, clock: Clock) -> Witness | None:
    """A witness for some open case, or None."""
    for state in states:
        if state.open and not len(state.case.unsafe.d):  # every output is unsafe: any input will do
            witness = confirm(net, state.case, centre(state.case.region))
            if witness is not None:
                return _found(state, witness, "attack")
    if method.attack is None:
        return None
    for prepared in {id(s.prepared): s.prepared for s in states if s.open}.values():
        group = [s for s in states if s.prepared is prepared and s.open and len(s.case.unsafe.d)]
        if clock.out or not group:
            continue
        clock.tell("attack", group[0].case.name, unstable=prepared.n_unstable, left=len(group))
        limit = None if math.isinf(clock.left) else clock.left * ATTACK_SHARE
        results: tuple[AttackResult, ...] = ()
        with clock.interrupt.released():
            results = method.attack.attack_all(net, [s.case for s in group], start=prepared.starts, time_limit_s=limit)
        for state, result in sorted(zip(group, results, strict=bool(results)), key=lambda pair: pair[1].slack):
            witness = confirm(net, state.case, result.x) if result.found else None
            if witness is not None:
                return _found(state, witness, "attack")
    return None


def _search(
    net: Network, states: list[_CaseState], search: Search, clock: Clock, file: CheckpointFile | None
) -> Witness | None:
    """Decide the open cases, one region at a time, the lowest bound first: where a witness is likeliest."""
    for state in states:
        if state.open and not len(state.case.unsafe.d):
            state.reason = "every output is unsafe, but no floating-point input was found in its region"
    groups = {id(s.prepared): s.prepared for s in states if s.open and len(s.case.unsafe.d)}
    for prepared in sorted(groups.values(), key=lambda p: float(p.lower.min())):
        group = [s for s in states if s.prepared is prepared and s.open and len(s.case.unsafe.d)]
        if clock.out:
            for state in group:
                state.timed_out, state.reason = True, "time ran out before its turn"
            continue
        witness = _search_region(net, group, search, clock, file)
        if witness is not None:
            return witness
    return None


def _search_region(
    net: Network, group: list[_CaseState], search: Search, clock: Clock, file: CheckpointFile | None
) -> Witness | None:
    found: list[tuple[_CaseState, Witness]] = []

    def replay(i: int, x: np.ndarray) -> float:
        witness = confirm(net, group[i].case, x)
        if witness is None:
            return math.inf
        found.append((group[i], witness))
        return witness.replay.slack_upper

    began, prepared = clock.seconds, group[0].prepared
    lower = prepared.lower[[state.position for state in group]]
    part = replace(prepared, cases=tuple(state.case for state in group), lower=lower)
    question, positions = part.question(replay, clock), [state.position for state in group]
    answer = search.run(question) if file is None else file.run(search, question, group[0].group, positions)
    for state, case in zip(group, answer.cases, strict=True):
        state.seconds += (clock.seconds - began) / len(group)
        state.lower = max(state.lower, case.lower)
        state.timed_out, state.reason = case.timed_out, case.reason
        state.bounds = question.bounds
        if case.holds:
            state.status, state.how, state.solver_trusted = "holds", case.how, case.solver_trusted
    if found:
        state, witness = found[0]
        return _found(state, witness, "tree")
    return None


def _found(state: _CaseState, witness: Witness, how: How) -> Witness:
    state.status, state.how = "violated", how
    return witness


def _verdict(
    net: Network,
    prop: Property,
    states: list[_CaseState],
    witness: Witness | None,
    clock: Clock,
    onnx_path: str | Path | None,
) -> Verdict:
    reports = tuple(state.report() for state in states)
    if witness is not None:
        if onnx_path is not None:
            case = next(s.case for s in states if s.status == "violated")
            witness = confirm(net, case, witness.x, onnx_path=onnx_path) or witness
        return Violated(witness, seconds=clock.seconds, cases=reports, approximations=net.approximations)
    open_ = [state for state in states if state.open]
    n_open = len(open_) + len(prop.cases) - len(states)  # Ctrl-C may have come before the bounds of some
    if not n_open:
        grade = Grade.weakest(s.grade for s in states)
        return Holds(grade=grade, seconds=clock.seconds, cases=reports, approximations=net.approximations)
    if clock.interrupt.pending:
        reason = f"interrupted with {n_open} of {len(prop.cases)} cases open"
        return Unknown(
            reason=reason, interrupted=True, seconds=clock.seconds, cases=reports, approximations=net.approximations
        )
    first = next((s for s in open_ if not s.timed_out), open_[0])
    why = first.reason or "no search was asked for"
    name = f"{first.case.name}: " if first.case.name else ""
    reason = f"{len(open_)} of {len(states)} cases are open; {name}{why}"
    timed_out = all(s.timed_out for s in open_)
    return Unknown(
        reason=reason, timed_out=timed_out, seconds=clock.seconds, cases=reports, approximations=net.approximations
    )
