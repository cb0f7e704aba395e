r"""Steps of attacks: the steepest direction of a norm, and the shortest step in a norm onto a half-space within a box.

The shortest delta with g . delta <= -v and low <= delta <= high moves each coordinate against its g_i:

    L-inf:  |delta_i| = min(t, room_i)            L2:  |delta_i| = min(t |g_i|, room_i)

with room_i what the box leaves on that side and t the least with sum |g_i| |delta_i| >= v: piecewise linear in t, so t
is found by sorting. L1: the rooms of the coordinates of largest |g_i| are used up first.
"""

from __future__ import annotations

import numpy as np

from milpverify.spec.regions import L1Ball, L2Ball, LinfBall

Norm = type[LinfBall] | type[L2Ball] | type[L1Ball]


def unit_steepest(gradient: np.ndarray, norm: Norm, share: float = 0.05) -> np.ndarray:
    """The direction of steepest ascent among steps of length 1 in a norm; 0 where the gradient is. Floating.

    Args:
        gradient: Shape (batch, n).
        norm: L-inf: sign(g). L2: g / |g|. L1: equal steps on the coordinates of largest |g|.
        share: Of the coordinates that an L1 step moves, at least one; only one is steepest, and far slower.
    """
    if norm is L2Ball:
        length = np.linalg.norm(gradient, axis=1, keepdims=True)
        return np.asarray(gradient / np.where(length > 0, length, 1.0))
    if norm is LinfBall:
        return np.sign(gradient)
    count = max(1, int(share * gradient.shape[1]))
    size = np.abs(gradient)
    top = (size >= np.partition(size, -count, axis=1)[:, [-count]]) & (size > 0)
    return np.asarray(np.sign(gradient) * top / np.maximum(top.sum(axis=1, keepdims=True), 1))


def onto_half_space(
    gradient: np.ndarray, value: np.ndarray, low: np.ndarray, high: np.ndarray, norm: Norm
) -> tuple[np.ndarray, np.ndarray]:
    """The shortest delta of the box with gradient . delta <= -value. Floating.

    Args:
        gradient: Shape (batch, n).
        value: Shape (batch,); where it is <= 0 the step is 0.
        low, high: The box, shape (batch, n) or (n,), low <= 0 <= high; infinite entries bind nothing.
        norm: That the step is shortest in.

    Returns:
        The steps (batch, n), and whether they get there: where the box is too small, they go as far as it allows, and
        where no float is long enough, nowhere.
    """
    size = np.abs(gradient)
    top = size.max(axis=1, initial=0.0)
    scale = np.where(top > 0, top, 1.0)  # squares of what is left neither overflow nor vanish
    size = size / scale[:, None]
    room = np.where(gradient > 0, -low, np.where(gradient < 0, high, 0.0))
    with np.errstate(over="ignore"):
        goal = np.maximum(value, 0.0) / scale
    possible = np.isfinite(goal)
    goal = np.where(possible, goal, 0.0)
    move = _filled_l1(size, room, goal) if norm is L1Ball else _level(size, room, goal, norm)
    possible &= np.isfinite(move).all(axis=1)
    move = np.where(possible[:, None], move, 0.0)
    gained = (size * move).sum(axis=1)
    return -np.sign(gradient) * move, possible & (gained >= goal * (1.0 - 1e-12))


def _level(size: np.ndarray, room: np.ndarray, goal: np.ndarray, norm: Norm) -> np.ndarray:
    """min(t s, room) with s = 1 (L-inf) or |g| (L2) and the least t that gains the goal."""
    speed = size if norm is L2Ball else (size > 0).astype(float)
    rate = size * speed  # gain per unit of t while the coordinate is free
    with np.errstate(divide="ignore", invalid="ignore"):
        full = np.where(speed > 0, room / np.where(speed > 0, speed, 1.0), np.inf)  # t at which its room is used up
    order = np.argsort(full, axis=1, kind="stable")
    at = np.take_along_axis(full, order, axis=1)
    slope = np.take_along_axis(rate, order, axis=1)
    used = np.where(np.isfinite(at), slope * np.where(np.isfinite(at), at, 0.0), 0.0)
    before = np.cumsum(used, axis=1) - used  # gained by coordinates that were full before
    free = np.flip(np.cumsum(np.flip(slope, axis=1), axis=1), axis=1)  # rate of those that are not
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(free > 0, (goal[:, None] - before) / np.where(free > 0, free, 1.0), np.inf)
    enough = t <= at
    first = enough.argmax(axis=1)
    level = np.where(enough.any(axis=1), t[np.arange(len(t)), first], np.inf)[:, None]
    with np.errstate(invalid="ignore"):
        wanted = np.where(speed > 0, level * speed, 0.0)
    return np.minimum(np.maximum(wanted, 0.0), np.where(speed > 0, room, 0.0))


def _filled_l1(size: np.ndarray, room: np.ndarray, goal: np.ndarray) -> np.ndarray:
    order = np.argsort(-size, axis=1, kind="stable")
    g, r = np.take_along_axis(size, order, axis=1), np.take_along_axis(room, order, axis=1)
    with np.errstate(invalid="ignore"):
        gain = np.where(g > 0, g * r, 0.0)
    with np.errstate(invalid="ignore"):
        before = np.concatenate([np.zeros((len(g), 1)), np.cumsum(gain, axis=1)[:, :-1]], axis=1)
    left = np.maximum(goal[:, None] - before, 0.0)
    sorted_move = np.minimum(np.where(g > 0, left / np.where(g > 0, g, 1.0), 0.0), np.where(g > 0, r, 0.0))
    move = np.zeros_like(size)
    np.put_along_axis(move, order, sorted_move, axis=1)
    return move
