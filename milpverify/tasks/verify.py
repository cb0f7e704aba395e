"""Is the unsafe set out of reach? Bounds, then attack, then one mixed-integer program per case still open."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from milpverify.attack.method import Attack, centre
from milpverify.attack.pgd import Pgd
from milpverify.bounds.method import BoundMethod
from milpverify.bounds.slopes import KappaCrown
from milpverify.errors import InputError, SolverError
from milpverify.network.graph import Network
from milpverify.proof.evidence import CaseReport, Grade, Holds, How, Status, Unknown, Verdict, Violated, Witness
from milpverify.proof.replay import confirm
from milpverify.search.milp import MilpSearch, decide
from milpverify.spec.property import Case, Property
from milpverify.tasks.prepare import Prepared, check_fit, few_unstable, prepare
from milpverify.tasks.progress import Clock, OnProgress

ATTACK_SHARE = 0.25  # of the time left, at most, so that the search always gets its turn


@dataclass(eq=False)
class _CaseState:
    case: Case
    prepared: Prepared
    position: int
    lower: float
    status: Status = "unknown"
    how: How = ""
    seconds: float = 0.0
    timed_out: bool = False
    reason: str = ""

    @property
    def open(self) -> bool:
        return self.status == "unknown"

    def report(self) -> CaseReport:
        lower = self.lower if math.isfinite(self.lower) else None
        return CaseReport(self.case.name, self.status, self.how, lower, self.seconds)


@dataclass(frozen=True)
class Verifier:
    """How `verify` goes about it.

    Attributes:
        bounds: Bounds of the hidden neurons; `Crown()` when None.
        closer: A costlier second look at the hidden neurons of a region whose cases bounds and attack leave open, where
            their number allows; None to skip it.
        attack: Looks for a witness before any program is solved; None to skip it.
        search: What decides the cases that bounds and attack leave open; None to leave them unknown.
    """

    bounds: BoundMethod | None = None
    closer: BoundMethod | None = field(default_factory=KappaCrown)
    attack: Attack | None = field(default_factory=Pgd)
    search: MilpSearch | None = field(default_factory=MilpSearch)


def verify(
    net: Network,
    prop: Property,
    *,
    time_limit_s: float | None = None,
    method: Verifier | None = None,
    onnx_path: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Verdict:
    """Decide whether some input of a property's regions reaches its unsafe set. Exact, within the grade it states.

    Cases of one region share their bounds. A violation is replayed in exact arithmetic before it is reported; a case
    closed by bounds is `bound-rounded`, one closed by a MILP `solver-trusted`.

    Args:
        net: The network.
        prop: What must not happen.
        time_limit_s: Wall time; None for no limit. Bounds are not interrupted.
        method: The steps and their options; `Verifier()` when None.
        onnx_path: The network's file: a witness is then replayed by onnxruntime too, where that is installed.
        on_progress: Called as the work goes on.

    Returns:
        Holds, Violated or Unknown.

    Raises:
        PropertyError: If the property does not fit the network.
        OptionError: If the time limit is not positive.
    """
    clock = Clock("verify", time_limit_s, on_progress)
    check_fit("verify", net, prop)
    method = method or Verifier()
    states: list[_CaseState] = []
    for cases in prop.groups():
        clock.tell("bounds", cases[0].name, left=len(prop.cases) - len(states))
        began = clock.seconds
        prepared = prepare(net, cases, method.bounds)
        group = [_CaseState(case, prepared, i, float(prepared.lower[i])) for i, case in enumerate(cases)]
        for state in group:
            state.seconds = (clock.seconds - began) / len(group)
            if state.lower > 0:
                state.status, state.how = "holds", "bounds"
        states.extend(group)
    witness = _attack(net, states, method, clock)
    if witness is None and method.closer is not None:
        _look_closer(net, states, method.closer, clock)
    if witness is None and method.search is not None:
        witness = _search(net, states, method.search, clock)
    return _verdict(net, states, witness, clock, onnx_path)


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
        results = method.attack.attack_all(net, [s.case for s in group], start=prepared.starts, time_limit_s=limit)
        for state, result in sorted(zip(group, results, strict=True), key=lambda pair: pair[1].slack):
            witness = confirm(net, state.case, result.x) if result.found else None
            if witness is not None:
                return _found(state, witness, "attack")
    return None


def _look_closer(net: Network, states: list[_CaseState], method: BoundMethod, clock: Clock) -> None:
    """Bound the regions with open cases again: what closes here rests on no solver, and the rest has fewer binaries."""
    for prepared in {id(s.prepared): s.prepared for s in states if s.open}.values():
        group = [s for s in states if s.prepared is prepared and s.open and len(s.case.unsafe.d)]
        if clock.out or not group or not few_unstable(net, prepared.bounds):
            continue
        clock.tell("bounds", group[0].case.name, unstable=prepared.n_unstable, left=len(group))
        began = clock.seconds
        closer = prepare(net, [s.case for s in group], method, known=prepared.bounds)
        for i, state in enumerate(group):
            state.prepared, state.position = closer, i
            state.lower = max(state.lower, float(closer.lower[i]))
            state.seconds += (clock.seconds - began) / len(group)
            if state.lower > 0:
                state.status, state.how = "holds", "bounds"


def _search(net: Network, states: list[_CaseState], search: MilpSearch, clock: Clock) -> Witness | None:
    """Decide the open cases one by one, lowest bound first: where a witness is likeliest."""
    order = sorted((s for s in states if s.open), key=lambda s: s.lower)
    for rank, state in enumerate(order):
        if clock.out:
            state.timed_out, state.reason = True, "time ran out before its turn"
            continue
        if not len(state.case.unsafe.d):
            state.reason = "every output is unsafe, but no floating-point input was found in its region"
            continue
        began, left = clock.seconds, len(order) - rank - 1

        def replay(x: np.ndarray, state: _CaseState = state) -> Witness | None:
            return confirm(net, state.case, x)

        try:
            answer = decide(
                state.prepared.encode(state.position, search.encoding),
                state.case.region,
                replay,
                search,
                bounds=state.prepared.bounds,
                time_limit_s=clock.left,
                on_mip=clock.mip_listener(state.case.name, state.prepared.n_unstable, left),
            )
        except (SolverError, InputError) as error:  # numbers too wild for a program or its solver
            state.reason = str(error)
            continue
        state.seconds += clock.seconds - began
        state.lower = max(state.lower, answer.lower)
        state.timed_out, state.reason = answer.timed_out, answer.reason
        if answer.witness is not None:
            return _found(state, answer.witness, "milp")
        if answer.holds:
            state.status, state.how = "holds", "milp"
    return None


def _found(state: _CaseState, witness: Witness, how: How) -> Witness:
    state.status, state.how = "violated", how
    return witness


def _verdict(
    net: Network, states: list[_CaseState], witness: Witness | None, clock: Clock, onnx_path: str | Path | None
) -> Verdict:
    reports = tuple(state.report() for state in states)
    if witness is not None:
        if onnx_path is not None:
            case = next(s.case for s in states if s.status == "violated")
            witness = confirm(net, case, witness.x, onnx_path=onnx_path) or witness
        return Violated(witness, seconds=clock.seconds, cases=reports, approximations=net.approximations)
    open_ = [state for state in states if state.open]
    if not open_:
        grades = (Grade.SOLVER_TRUSTED if s.how == "milp" else s.prepared.grade for s in states)
        grade = Grade.weakest(grades)
        return Holds(grade=grade, seconds=clock.seconds, cases=reports, approximations=net.approximations)
    first = next((s for s in open_ if not s.timed_out), open_[0])
    why = first.reason or "no search was asked for"
    name = f"{first.case.name}: " if first.case.name else ""
    reason = f"{len(open_)} of {len(states)} cases are open; {name}{why}"
    timed_out = all(s.timed_out for s in open_)
    return Unknown(
        reason=reason, timed_out=timed_out, seconds=clock.seconds, cases=reports, approximations=net.approximations
    )
