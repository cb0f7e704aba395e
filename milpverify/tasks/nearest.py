"""The nearest point of a region's unsafe sets: by the tree, which decides radii, and by programs that minimise them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from milpverify.errors import InputError, SolverError
from milpverify.formulation.property_program import encode_distance, stack_rows
from milpverify.program.solver import Limits
from milpverify.proof.evidence import Grade
from milpverify.search.milp import case_program, decide, minimise
from milpverify.spec.property import Property
from milpverify.spec.regions import L1Ball, L2Ball, LinfBall
from milpverify.tasks.prepare import Prepared, prepare
from milpverify.tasks.radius import RadiusState

FAR = 8.0  # times the proven radius: beyond that, bounds at the attacked radius are not worth their time
FEW = 80  # unstable neurons, or
FEW_MORE = 1.5  # times those of one step: then one program at the attacked radius beats several below it
TREE_S = 20.0  # of the tree on one radius before something else has its turn, or
TREE_SHARE = 0.4  # of the time left
NEAR = 0.02  # share of a radius that took too long: from there on, no radius further in is asked about
POLISH_S = 10.0
NEARLY = 1.0 - 2.0**-20  # of the gap, so that rounding leaves no more than the gap


def by_tree(state: RadiusState) -> None:
    """Ask whether anything lies nearer than the best point, less the gap; what is found is polished and asked again.

    Where that takes too long, radii further in are asked about first. An L2 ball has no program that polishes, nor one
    that minimises its radius; in the other norms, programs are left what has few unstable neurons.
    """
    if state.method.tree is None:
        return
    if isinstance(state.ball, L2Ball):
        _bisected(state)
        return
    while not state.done and state.lower < state.reach:
        _polish(state)
        eps = state.reach if state.witness is None else max(state.upper - NEARLY * state.gap, state.lower)
        if state.done or not 0 < eps or (state.lower > 0 and eps > FAR * state.lower):
            return
        before = state.upper
        proven, n_unstable = _decided(state, eps, _slice(state))
        if proven:
            return
        if state.upper >= before:  # nothing learnt
            if state.witness is not None and not state.done and n_unstable > FEW:
                _bisected(state, eps)
            return


def _bisected(state: RadiusState, failed: float = math.inf) -> None:
    """Prove radii, or find points, between the proven radius and the best point; a slice of the time for each.

    Args:
        failed: A radius for which a slice was not enough. When those that are proven come near to such a one, all the
            time that is left goes to the last radius there is to prove.
    """
    while not state.done and state.lower < state.reach:
        high, lower = min(state.upper, state.reach), state.lower
        found = state.witness is not None
        last = max(high - (NEARLY * state.gap if found else 0.0), lower)
        eps, limit_s, final = last, _slice(state), False
        if found and high - lower > 2.0 * state.gap:
            eps = high / 2 if lower == 0 else math.sqrt(lower * high)
        elif not found and lower > 0 and high > FAR * lower:
            eps = (lower + high) / 2
        if eps >= failed:
            eps = (lower + failed) / 2
            if failed - lower <= NEAR * failed:
                eps, limit_s, final = last, state.clock.left, True
        before = state.upper
        proven, _ = _decided(state, eps, limit_s)
        if not proven and state.upper >= before:
            if final:
                return
            failed = min(failed, eps)


def _slice(state: RadiusState) -> float:
    """Seconds of the tree for one radius."""
    return min(TREE_S, TREE_SHARE * state.clock.left)


def _decided(state: RadiusState, eps: float, limit_s: float) -> tuple[bool, int]:
    """Whether the tree proves that no unsafe point lies within eps, and of how many unstable neurons; what it meets is
    offered.

    Cases that were proved for as much before are not asked about again.
    """
    assert state.method.tree is not None
    open_ = state.open_at(eps)
    if not open_:
        return False, 0
    prop = state.property_at(eps, open_)
    prepared = prepare(state.net, prop.cases, state.method.bounds)
    state.tell("tree", prepared.n_unstable)
    part = state.clock.part(
        max(limit_s, 1e-3), lambda p: replace(p, what="radius", lower=state.lower, upper=state.upper)
    )

    def replay(i: int, x: np.ndarray) -> float:
        witness = state.offer(prop, x, prop.cases[i].name)
        return math.inf if witness is None else witness.replay.slack_upper

    answer = state.method.tree.run(prepared.question(replay, part))
    for i, case in zip(open_, answer.cases, strict=True):
        if case.holds:
            state.close(i, eps, Grade.SOLVER_TRUSTED if case.solver_trusted else prepared.grade)
    return not state.open_at(eps), prepared.n_unstable


def _polish(state: RadiusState) -> None:
    """Move the best point as near as its activation pattern allows, as long as that helps."""
    while state.witness is not None and not state.clock.out and not isinstance(state.ball, L2Ball):
        before, prop = state.upper, state.property_at(state.upper)
        i = next(i for i, case in enumerate(prop.cases) if case.name == state.witness.case)
        prepared = prepare(state.net, prop.cases[i : i + 1], state.method.bounds)
        stacked = stack_rows(state.net, prepared.bounds, prop.cases[i : i + 1])
        try:
            encoded = encode_distance(
                stacked.condensed, state.ball.scaled_to(state.upper), stacked.members[0], stacked.d,
                state.method.inside, state.method.search.encoding,
            )  # fmt: skip
            limits = Limits(min(state.clock.left, POLISH_S))
            moved = state.method.search.solver.solve(encoded.with_phases_of(state.witness.x), limits).x
        except (SolverError, InputError):
            return
        if moved is not None:
            state.offer(prop, encoded.input(moved), prop.cases[i].name)
        if state.upper >= before - state.gap / 4:
            return


def by_programs(state: RadiusState) -> None:
    """Radii from the proven one outwards: each either has no adversarial input, or its program finds the nearest.

    A distance in L2 is no linear program's objective: there this does nothing.
    """
    while not isinstance(state.ball, L2Ball) and not state.done and state.lower < state.reach:
        eps, prepared = _next_radius(state)
        prop = state.property_at(eps)
        if not _nearest(state, prop, prepared, eps) or state.lower < min(eps, state.upper - state.gap):
            break  # out of time, or a program's nearest point that no exact replay confirms
    state.timed_out = state.timed_out or (state.clock.out and state.upper - state.lower > state.gap)


def _next_radius(state: RadiusState) -> tuple[float, Prepared]:
    """One step outwards, or all the way where that hardly takes more unstable neurons than the step."""
    farthest = min(state.upper, state.reach)
    near = min(max(state.lower, farthest / 2**state.method.bisections) * state.method.growth, farthest)
    step = prepare(state.net, state.property_at(near).cases, state.method.bounds)
    if near == farthest or (state.lower > 0 and farthest > FAR * state.lower):
        return near, step
    whole = prepare(state.net, state.property_at(farthest).cases, state.method.bounds)
    return (farthest, whole) if whole.n_unstable <= max(FEW, FEW_MORE * step.n_unstable) else (near, step)


def _out_of_reach(state: RadiusState, prop: Property, prepared: Prepared, i: int) -> bool:
    """Whether a case holds in the whole ball, as `verify` would say it: a radius alone does not say how surely."""
    search, case = state.method.search, prop.cases[i]
    answer = decide(
        case_program(stack_rows(state.net, prepared.bounds, prop.cases), case.region, i, search.encoding),
        case.region,
        lambda x: state.offer(prop, x, case.name),
        search,
        bounds=prepared.bounds,
        time_limit_s=state.clock.left,
        on_mip=state.clock.mip_listener(case.name, prepared.n_unstable),
    )
    return answer.holds


def _nearest(state: RadiusState, prop: Property, prepared: Prepared, eps: float) -> bool:
    """Close the radius eps: every open case has no point nearer than the best, or gives it. False if one stays open."""
    search, stacked = state.method.search, stack_rows(state.net, prepared.bounds, prop.cases)
    least, grade = eps, prepared.grade
    open_ = [i for i in np.argsort(prepared.lower) if prepared.lower[i] <= 0]
    for i in open_:
        case, members = prop.cases[i], stacked.members[i]
        state.tell("milp", prepared.n_unstable)
        last_word = eps >= state.reach and state.witness is None
        if last_word and _out_of_reach(state, prop, prepared, i):
            grade = Grade.SOLVER_TRUSTED
            continue
        assert isinstance(case.region, LinfBall | L1Ball)
        encoded = encode_distance(
            stacked.condensed, case.region, members, stacked.d[members], state.method.inside, search.encoding
        )
        answer = minimise(
            encoded,
            case.region,
            lambda x, name=case.name: state.offer(prop, x, name),  # type: ignore[misc]
            search,
            cutoff=min(eps, state.upper),
            time_limit_s=state.clock.left,
            on_mip=state.clock.mip_listener(case.name, prepared.n_unstable),
        )
        grade = Grade.SOLVER_TRUSTED
        least = min(least, answer.lower)
        unsure = last_word and state.witness is None
        if answer.timed_out or answer.reason or unsure:
            # A target not looked at yet may have a nearer point.
            if i == open_[-1] and not (unsure and least >= eps):
                state.prove(least, grade)
            state.timed_out = answer.timed_out
            return False
    state.prove(min(least, eps), grade)
    return True
