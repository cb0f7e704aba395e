"""How near is the nearest adversarial example? The distance as objective, on regions that grow only as they must."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from milpverify.attack.pgd import Pgd
from milpverify.bounds.method import BoundMethod
from milpverify.errors import OptionError, RegionError
from milpverify.formulation.property_program import encode_distance, stack_rows
from milpverify.network.graph import Network
from milpverify.proof.evidence import Bracket, Grade, Witness, float_at_least
from milpverify.proof.replay import confirm
from milpverify.search.milp import MILP, case_program, decide, minimise
from milpverify.spec.property import Case, Polyhedron, Property, robustness
from milpverify.spec.regions import L1Ball, LinfBall
from milpverify.tasks.prepare import Prepared, prepare
from milpverify.tasks.progress import Clock, OnProgress

Ball: TypeAlias = LinfBall | L1Ball

FAR = 8.0  # times the proven radius: beyond that, bounds at the attacked radius are not worth their time
FEW = 80  # unstable neurons, or
FEW_MORE = 1.5  # times those of one step: then one program at the attacked radius beats several below it


@dataclass(frozen=True)
class Radius:
    """How minimum distances are found.

    Attributes:
        bounds: Bounds of the hidden neurons; `Crown()` when None.
        attack: Gives upper bounds; None to leave that to the programs.
        search: Options of the programs; `search.gap` is the gap, in units of the input.
        growth: Factor from one radius searched to the next: a smaller region has fewer unstable neurons, so radii grow
            from the proven one until a witness is met.
        bisections: Steps that push the proven radius up by bounds alone, and as many that push the attacked one down.
        inside: How far inside the unsafe set, in units of y, witnesses are polished, so that rounding cannot put them
            outside.
    """

    bounds: BoundMethod | None = None
    attack: Pgd | None = field(default_factory=Pgd)
    search: MILP = field(default_factory=MILP)
    growth: float = 1.2
    bisections: int = 8
    inside: float = 1e-7

    def __post_init__(self) -> None:
        if not self.growth > 1 or self.bisections < 0 or not self.inside >= 0:
            raise OptionError("Radius: growth must exceed 1, bisections and inside must not be negative.")


@dataclass(eq=False)
class _State:
    net: Network
    ball: Ball
    unsafe: tuple[tuple[str, Polyhedron], ...]
    clock: Clock
    method: Radius
    lower: float = 0.0
    lower_grade: Grade = Grade.BOUND_ROUNDED
    upper: float = math.inf
    witness: Witness | None = None
    reach: float = math.inf
    timed_out: bool = False

    def property_at(self, eps: float) -> Property:
        region = self.ball.scaled_to(eps)
        cases = tuple(Case(region, unsafe, name) for name, unsafe in self.unsafe)
        return Property(cases, self.net.n_inputs, self.net.n_outputs)

    def offer(self, prop: Property, x: np.ndarray, name: str | None = None) -> Witness | None:
        """Keep a point if it is adversarial in exact arithmetic and nearer than the best."""
        for case in prop.cases:
            if name is not None and case.name != name:
                continue
            witness = confirm(self.net, case, x)
            if witness is not None:
                distance = distance_from_centre(self.ball, witness.x)
                if distance < self.upper:
                    self.upper, self.witness = distance, witness
                return witness
        return None

    def prove(self, eps: float, grade: Grade) -> None:
        if eps > self.lower:
            self.lower = min(eps, self.upper)
            if grade is Grade.SOLVER_TRUSTED:
                self.lower_grade = grade

    def tell(self, stage: str, unstable: int | None = None) -> None:
        self.clock.tell(stage, "radius", self.lower, self.upper, unstable)

    @property
    def done(self) -> bool:
        return self.upper - self.lower <= self.method.search.gap or self.clock.out


def minimum_epsilon(
    net: Network,
    x: np.ndarray,
    label: int,
    *,
    ball: type[Ball] = LinfBall,
    clip: tuple[float, float] | None = None,
    targets: tuple[int, ...] | None = None,
    as_largest: bool = False,
    eps_max: float | None = None,
    time_limit_s: float | None = None,
    method: Radius | None = None,
    on_progress: OnProgress | None = None,
) -> Bracket:
    """The distance from x to the nearest input (within the clip) whose label is not strictly the largest output.

    The upper side is the distance of a witness that was replayed exactly. The lower side is `bound-rounded` where
    bounds alone prove it, else `solver-trusted`. An input that is misclassified already has the radius [0, 0].

    Args:
        net: The network.
        x: n_inputs values.
        label: The class that should win.
        ball: `LinfBall` or `L1Ball`; distances are in its norm, in units of the input.
        clip: Range the perturbed input must stay in, e.g. (0, 1) for images.
        targets: Classes that count as adversarial; all others when None.
        as_largest: When a target counts: as soon as it is not below the label (False), or only where it is the largest
            output of all, ties included (True). Without `targets` both are the same.
        eps_max: No point farther than this is looked for; the reach of the clip when None. Without a clip it is needed.
        time_limit_s: Wall time; the bracket reached by then is returned.
        method: `Radius()` when None.
        on_progress: Called as the work goes on.

    Returns:
        The bracket. An infinite upper side means that no adversarial input was found; with lower = eps_max, that none
        is nearer than that: by bounds, or on a solver's word with the tolerance that `verify` asks for.

    Raises:
        PropertyError: If label or targets do not fit the network.
        RegionError: If x lies outside the clip, or there is neither clip nor eps_max.
        OptionError: If the norm has no mixed-integer program (L2), or an option is out of range.

    Source:
        Tjeng, Xiao & Tedrake 2019, eq. 1 to 7 (minimum adversarial distortion), with the bounds refreshed as the
        bracket shrinks.
    """
    clock = Clock("minimum_epsilon", time_limit_s, on_progress)
    if ball not in (LinfBall, L1Ball):
        raise OptionError(
            f"minimum_epsilon: {ball.__name__} has no mixed-integer linear program. Choose LinfBall or L1Ball."
        )
    point = net.flat(x)
    reach = _reach(ball, point, clip, eps_max)
    unsafe = _unsafe_sets(net, ball(point, 0.0, clip=clip), label, targets, as_largest)
    state = _State(net, ball(point, reach, clip=clip), unsafe, clock, method or Radius(), reach=reach)
    if state.offer(state.property_at(0.0), point) is None:
        _by_attack(state)
        _by_bounds(state)
        _by_programs(state)
    lower = min(state.lower, state.upper)
    return Bracket(
        lower, state.upper, state.lower_grade, None if state.witness is None else Grade.REPLAYED, "x", state.witness,
        state.timed_out, clock.seconds, net.approximations,
    )  # fmt: skip


def distance_from_centre(ball: Ball, x: np.ndarray) -> float:
    """The exact distance of x from a ball's centre in its norm, rounded up."""
    gaps = [abs(Fraction(a) - Fraction(b)) for a, b in zip(x.tolist(), ball.center.tolist(), strict=True)]
    return float_at_least(max(gaps, default=Fraction(0)) if isinstance(ball, LinfBall) else sum(gaps, Fraction(0)))


def _unsafe_sets(
    net: Network, point: Ball, label: int, targets: tuple[int, ...] | None, as_largest: bool
) -> tuple[tuple[str, Polyhedron], ...]:
    """One unsafe set per target."""
    prop = robustness(net, point, label, targets)
    if not as_largest or targets is None:
        return tuple((case.name, case.unsafe) for case in prop.cases)
    sets = []
    for target in targets:
        rows = np.delete(np.eye(net.n_outputs), target, axis=0)
        rows[:, target] = -1.0
        sets.append((f"{target} is the largest", Polyhedron(rows, np.zeros(len(rows)))))
    return tuple(sets)


def _reach(ball: type[Ball], x: np.ndarray, clip: tuple[float, float] | None, eps_max: float | None) -> float:
    if eps_max is not None:
        if not 0 < eps_max < math.inf:
            raise RegionError(f"minimum_epsilon: eps_max must be positive and finite, got {eps_max}.")
        return float(eps_max)
    if clip is None:
        raise RegionError("minimum_epsilon: without a clip the search has no end. Give clip=(low, high) or eps_max.")
    farthest = np.maximum(np.abs(np.asarray(clip[0]) - x), np.abs(np.asarray(clip[1]) - x))
    return float(np.nextafter(farthest.max() if ball is LinfBall else farthest.sum(), np.inf))


def _by_bounds(state: _State) -> None:
    """Bisect for the largest radius that bounds alone prove."""
    high = min(state.upper, state.reach)
    for _ in range(state.method.bisections):
        if state.done or high - state.lower <= 0.02 * high:
            return
        eps = (state.lower + high) / 2
        prop = state.property_at(eps)
        prepared = prepare(state.net, prop.cases, state.method.bounds)
        state.tell("bounds", prepared.n_unstable)
        if (prepared.lower > 0).all():
            state.prove(eps, prepared.grade)
        else:
            high = eps


def _by_attack(state: _State) -> None:
    """Bisect for the smallest radius that the attack breaks; where it fails once, it looks no nearer."""
    if state.method.attack is None:
        return
    failed = state.lower
    for _ in range(state.method.bisections):
        high = min(state.upper, state.reach)
        if state.done or high - failed <= 0.005 * high:
            return
        eps = (failed + high) / 2 if state.witness is not None or failed > state.lower else high
        prop = state.property_at(eps)
        start = [] if state.witness is None else [state.witness.x]
        limit = None if math.isinf(state.clock.left) else state.clock.left / 8
        state.tell("attack")
        results = state.method.attack.attack_all(
            state.net, prop.cases, start=np.array(start) if start else None, time_limit_s=limit
        )
        before = state.upper
        for case, result in zip(prop.cases, results, strict=True):
            if result.found:
                state.offer(prop, result.x, case.name)
        if state.upper >= before:
            failed = eps


def _by_programs(state: _State) -> None:
    """Radii from the proven one outwards: each either has no adversarial input, or its program finds the nearest."""
    while not state.done and state.lower < state.reach:
        eps, prepared = _next_radius(state)
        prop = state.property_at(eps)
        if not _nearest(state, prop, prepared, eps) or state.lower < min(eps, state.upper - state.method.search.gap):
            break  # out of time, or a program's nearest point that no exact replay confirms
    state.timed_out = state.timed_out or (state.clock.out and state.upper - state.lower > state.method.search.gap)


def _next_radius(state: _State) -> tuple[float, Prepared]:
    """One step outwards, or all the way where that hardly takes more unstable neurons than the step."""
    farthest = min(state.upper, state.reach)
    near = min(max(state.lower, farthest / 2**state.method.bisections) * state.method.growth, farthest)
    step = prepare(state.net, state.property_at(near).cases, state.method.bounds)
    if near == farthest or (state.lower > 0 and farthest > FAR * state.lower):
        return near, step
    whole = prepare(state.net, state.property_at(farthest).cases, state.method.bounds)
    return (farthest, whole) if whole.n_unstable <= max(FEW, FEW_MORE * step.n_unstable) else (near, step)


def _out_of_reach(state: _State, prop: Property, prepared: Prepared, i: int) -> bool:
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


def _nearest(state: _State, prop: Property, prepared: Prepared, eps: float) -> bool:
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
