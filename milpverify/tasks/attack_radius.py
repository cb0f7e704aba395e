"""How near does an attack come? Upper bounds of the minimum distance, each a witness that was replayed exactly."""

from __future__ import annotations

import numpy as np

from milpverify.attack.deepfool import DeepFool
from milpverify.attack.method import Attack
from milpverify.errors import OptionError
from milpverify.network.graph import Network
from milpverify.proof.evidence import Bracket, Grade
from milpverify.spec.regions import LinfBall
from milpverify.tasks.epsilon import by_attack, radius_state
from milpverify.tasks.incumbent import by_distance
from milpverify.tasks.progress import Clock
from milpverify.tasks.radius import Ball, Radius


def attack_radius(
    net: Network,
    x: np.ndarray,
    label: int,
    attack: Attack | DeepFool | None = None,
    *,
    ball: type[Ball] = LinfBall,
    clip: tuple[float, float] | None = None,
    targets: tuple[int, ...] | None = None,
    eps_max: float | None = None,
    bisections: int = 20,
    time_limit_s: float | None = None,
) -> Bracket:
    """The distance of the nearest adversarial input that an attack finds: an upper bound of `minimum_epsilon`.

    `DeepFool` looks for near points by itself; an attack on a region is run on balls whose radius is bisected,
    each time from its own starts alone; where the largest finds nothing, smaller ones are tried.

    Args:
        net: The network, numpy operators.
        x: n_inputs values.
        label: The class that should win.
        attack: `DeepFool()` when None; its norm is the ball's.
        ball: `LinfBall`, `L2Ball` or `L1Ball`.
        clip: Range the perturbed input must stay in.
        targets: Classes that count as adversarial; all others when None.
        eps_max: No point farther than this counts; the reach of the clip when None. Without a clip it is needed.
        bisections: Of an attack on regions, at most; they end when two radii differ by half a percent.
        time_limit_s: Wall time.

    Returns:
        [0, the exactly replayed distance of the best witness]; infinite where none was found or confirmed.

    Raises:
        PropertyError, RegionError, NetworkError, OptionError: As `minimum_epsilon`.
    """
    attack = DeepFool() if attack is None else attack
    if not isinstance(attack, Attack | DeepFool):
        raise OptionError(f"attack_radius: expected an attack such as DeepFool() or Pgd(), got {attack!r}.")
    clock = Clock("attack_radius", time_limit_s, None)
    method = Radius(tree=None, bisections=bisections)
    state = radius_state("attack_radius", net, x, label, ball, clip, targets, False, eps_max, clock, method)
    if state.offer(state.property_at(0.0), state.ball.center) is None:
        with clock.interrupt:
            if isinstance(attack, DeepFool):
                by_distance(state, attack)
            else:
                by_attack(state, attack, warm=False)
    grade = None if state.witness is None else Grade.REPLAYED
    return Bracket(
        0.0, state.upper, Grade.BOUND_ROUNDED, grade, "x", state.witness, False, clock.seconds, net.approximations,
        clock.interrupt.pending,
    )  # fmt: skip
