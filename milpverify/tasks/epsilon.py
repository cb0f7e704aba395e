"""How near is the nearest adversarial example? The distance as objective, on regions that grow only as they must."""

from __future__ import annotations

import math

import numpy as np

from milpverify.attack.method import Attack
from milpverify.errors import OptionError, RegionError
from milpverify.network.graph import Network
from milpverify.proof.evidence import Bracket, Grade
from milpverify.spec.property import Polyhedron, robustness
from milpverify.spec.regions import Grid, L1Ball, L2Ball, LinfBall
from milpverify.tasks.incumbent import by_distance
from milpverify.tasks.nearest import by_programs, by_tree
from milpverify.tasks.prepare import prepare
from milpverify.tasks.progress import Clock, OnProgress
from milpverify.tasks.radius import Ball, Radius, RadiusState, distance_from_centre

__all__ = ["Radius", "by_attack", "distance_from_centre", "minimum_epsilon", "radius_state"]

HALVINGS = 6  # of the largest ball, where an attack from its own starts alone finds nothing there
CLOSE = 0.97  # of the distance that a minimum-distance attack found: nearer ones are not worth attacks on balls


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
    grid: Grid | None = None,
    time_limit_s: float | None = None,
    method: Radius | None = None,
    on_progress: OnProgress | None = None,
) -> Bracket:
    """The distance from x to the nearest input (within the clip) whose label is not strictly the largest output.

    The upper side is the distance of a witness that was replayed exactly. The lower side is `bound-rounded` where
    bounds or our own tree prove it, else `solver-trusted`. A misclassified input already has the radius [0, 0].

    Args:
        net: The network.
        x: n_inputs values.
        label: The class that should win.
        ball: `LinfBall`, `L2Ball` or `L1Ball`; distances are in its norm, in units of the input.
        clip: Range the perturbed input must stay in, e.g. (0, 1) for images.
        targets: Classes that count as adversarial; all others when None.
        as_largest: When a target counts: as soon as it is not below the label (False), or only where it is the largest
            output of all, ties included (True). Without `targets` both are the same.
        eps_max: No point farther than this is looked for; the reach of the clip when None. Without a clip it is needed.
        grid: Whose points alone count, x among them; distances are then whole steps, in L-inf only.
        time_limit_s: Wall time; the bracket reached by then is returned.
        method: `Radius()` when None.
        on_progress: Called as the work goes on.

    Returns:
        The bracket; after Ctrl-C, as it is by then. An infinite upper side means that no adversarial input was found;
        with lower = eps_max, that none is nearer than that: by bounds, or on a solver's word with the tolerance that
        `verify` asks for.

    Raises:
        PropertyError: If label or targets do not fit the network.
        RegionError: If x lies outside the clip, or there is neither clip nor eps_max.
        OptionError: If the ball is none of these, an option is out of range, or a grid goes with another norm than
            L-inf or with an x that is none of its points.

    Source:
        Tjeng, Xiao & Tedrake 2019, eq. 1 to 7 (minimum adversarial distortion), with the bounds refreshed as the
        bracket shrinks.
    """
    clock = Clock("minimum_epsilon", time_limit_s, on_progress)
    if grid is not None and ball is not LinfBall:
        raise OptionError("minimum_epsilon: on a grid, distances are counted in L-inf. Leave out the norm or the grid.")
    state = radius_state("minimum_epsilon", net, x, label, ball, clip, targets, as_largest, eps_max, clock, method)
    if grid is not None:
        from milpverify.tasks.grid_radius import grid_radius

        assert isinstance(state.ball, LinfBall)
        return grid_radius(net, state.ball, grid, state.unsafe, clock, state.method, on_progress)
    if state.offer(state.property_at(0.0), state.ball.center) is None:
        with clock.interrupt:
            if state.method.attack is not None:
                if state.method.nearest is not None:
                    by_distance(state, state.method.nearest)
                by_attack(state, state.method.attack, 0.0 if state.witness is None else CLOSE * state.upper)
            _by_bounds(state)
            by_tree(state)
            by_programs(state)
    lower = min(state.lower, state.upper)
    return Bracket(
        lower, state.upper, state.lower_grade, None if state.witness is None else Grade.REPLAYED, "x", state.witness,
        state.timed_out and not clock.interrupt.pending, clock.seconds, net.approximations,
        state.timed_out and clock.interrupt.pending,
    )  # fmt: skip


def radius_state(
    who: str, net: Network, x: np.ndarray, label: int, ball: type[Ball], clip: tuple[float, float] | None,
    targets: tuple[int, ...] | None, as_largest: bool, eps_max: float | None, clock: Clock, method: Radius | None,
) -> RadiusState:  # fmt: skip
    """What is known of a radius before anything is done; arguments and errors as of `minimum_epsilon`."""
    if ball not in (LinfBall, L1Ball, L2Ball):
        raise OptionError(f"{who}: {ball!r} is no ball. Choose LinfBall, L2Ball or L1Ball.")
    point = net.flat(x)
    reach = _reach(who, ball, point, clip, eps_max)
    unsafe = _unsafe_sets(net, ball(point, 0.0, clip=clip), label, targets, as_largest)
    return RadiusState(net, ball(point, reach, clip=clip), unsafe, clock, method or Radius(), reach=reach)


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


def _reach(who: str, ball: type[Ball], x: np.ndarray, clip: tuple[float, float] | None, eps_max: float | None) -> float:
    if eps_max is not None:
        if not 0 < eps_max < math.inf:
            raise RegionError(f"{who}: eps_max must be positive and finite, got {eps_max}.")
        return float(eps_max)
    if clip is None:
        raise RegionError(f"{who}: without a clip the search has no end. Give clip=(low, high) or eps_max.")
    farthest = np.maximum(np.abs(np.asarray(clip[0]) - x), np.abs(np.asarray(clip[1]) - x))
    far = {LinfBall: farthest.max(), L1Ball: farthest.sum(), L2Ball: np.linalg.norm(farthest)}[ball]
    return float(far * (1.0 + 2.0**-40))


def _by_bounds(state: RadiusState) -> None:
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


def by_attack(state: RadiusState, attack: Attack, guess: float = 0.0, *, warm: bool = True) -> None:
    """Bisect for the smallest radius that the attack breaks; where it fails once, it looks no nearer.

    Args:
        guess: A radius to try first, if positive.
        warm: Whether each attack begins at the best witness too, so that even a single step is taken again and again.
            If not, and it finds nothing in the largest ball, smaller ones are tried: a step to a far edge steps over
            what lies on the way.
    """
    failed, largest = state.lower, state.reach
    for _ in range(state.method.bisections):
        high = min(state.upper, largest)
        if state.done or high - failed <= 0.005 * high:
            return
        eps = (failed + high) / 2 if state.witness is not None or failed > state.lower else high
        if 0 < guess < high:
            eps, guess = guess, 0.0
        prop = state.property_at(eps)
        start = [] if state.witness is None or not warm else [state.witness.x]
        limit = None if math.isinf(state.clock.left) else state.clock.left / 8
        state.tell("attack")
        results = attack.attack_all(state.net, prop.cases, start=np.array(start) if start else None, time_limit_s=limit)
        before = state.upper
        for case, result in zip(prop.cases, results, strict=True):
            if result.found:
                state.offer(prop, result.x, case.name)
        if state.upper >= before:
            if state.witness is None and not warm and eps > state.reach / 2**HALVINGS:
                largest = eps / 2
            else:
                failed = eps
