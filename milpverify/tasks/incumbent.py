"""A first upper bound of a radius by a minimum-distance attack: what bisections and trees then need not look beyond."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from milpverify.attack.deepfool import DeepFool
from milpverify.tasks.radius import RadiusState

PUSHES = (0.0, 1e-12, 1e-9, 1e-6, 1e-4)  # beyond a point that float64 calls adversarial, as shares of its distance


def by_distance(state: RadiusState, attack: DeepFool) -> None:
    """Offer what the attack finds, in the state's own norm and clip; each point counts only as exact replay says.

    Unsafe sets of several rows are left out: the attack knows sets of one margin only.
    """
    single = [(name, unsafe) for name, unsafe in state.unsafe if len(unsafe.d) == 1 and unsafe.d[0] == 0]
    if not single or state.done:
        return
    state.tell("attack")
    centre = state.ball.center
    low, high = (-np.inf, np.inf) if state.ball.clip is None else state.ball.clip
    rows = np.concatenate([unsafe.C for _, unsafe in single])
    points, found = replace(attack, norm=type(state.ball)).search(
        state.net, centre[None], rows[None], np.asarray(low), np.asarray(high), time.monotonic() + state.clock.left / 8
    )
    if not found[0]:
        return
    prop = state.property_at(state.reach)
    for push in PUSHES:
        if state.offer(prop, centre + (1.0 + push) * (points[0] - centre)) is not None:
            return
