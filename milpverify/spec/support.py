r"""Support functions of boxes and balls: lower bounds of min lam.x, rounded outward, on numpy or torch.

A region inside a ball and a box is bounded through any split lam = w + v:

    min over region of lam.x  >=  min over ball of w.x  +  min over box of v.x
                               =  w.c - eps ||w||_*     +  sum_i (v_i lower_i if v_i > 0 else v_i upper_i).

The best w makes it an equality (Lagrangian duality). It is found in float64, and because every w is valid only the
right-hand side needs an allowance for rounding: relative 2 (n + 8) 2^-53 of the sum of the sizes of all products.

Source: Rockafellar 1970, theorem 16.4 (the support function of an intersection).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from milpverify.network.arrays import array_namespace, device
from milpverify.spec.rounding import UNDERFLOW, allowance

if TYPE_CHECKING:
    from milpverify.network.operators import Array

FILL_STEPS = 60  # of `fill_l2`; five to ten are usual


class Estimate(NamedTuple):
    """A float64 value and the sum of the sizes of the products in it, both of shape (m,)."""

    value: Array
    size: Array


def as_float64(lam: Array) -> Array:
    """`lam` in float64, exactly, in its own namespace."""
    xp = array_namespace(lam)
    return lam if lam.dtype == xp.float64 else xp.astype(lam, xp.float64)


def like(values: np.ndarray, lam: Array) -> Array:
    """Stored numpy values in the namespace and on the device of `lam`."""
    if isinstance(lam, np.ndarray):
        return values
    # A copy: torch warns when it is handed read-only memory.
    return array_namespace(lam).asarray(np.array(values), device=device(lam))


def box_estimate(lam: Array, lower: Array, upper: Array) -> Estimate:
    """min over lower <= x <= upper of lam.x, lam of shape (m, n). Floating, with its size."""
    xp = array_namespace(lam)
    zero = xp.zeros_like(lam)
    positive, negative = xp.where(lam > 0, lam, zero), xp.where(lam > 0, zero, lam)
    low, high = xp.stack([lower, xp.abs(lower)], axis=1), xp.stack([upper, -xp.abs(upper)], axis=1)
    both = positive @ low + negative @ high
    return Estimate(both[:, 0], both[:, 1])


def middle_estimate(lam: Array, center: Array, radius: Array) -> Estimate:
    """min over center +- radius of lam.x = lam.c - |lam|.r, lam of shape (m, n). Floating, with its size."""
    xp = array_namespace(lam)
    size = xp.abs(lam)
    spread = size @ radius
    return Estimate(lam @ center - spread, size @ xp.abs(center) + spread)


def ball_estimate(w: Array, center: Array, eps: float, dual_norm: Array) -> Estimate:
    """w.c - eps ||w||_*, w of shape (m, n), dual norms of shape (m,). Floating, with its size."""
    xp = array_namespace(w)
    radius = eps * dual_norm
    return Estimate(w @ center - radius, xp.abs(w) @ xp.abs(center) + radius)


def plus(a: Estimate, b: Estimate) -> Estimate:
    """The sum of two estimates."""
    return Estimate(a.value + b.value, a.size + b.size)


def rounded(estimate: Estimate, n: int) -> Array:
    """A value that is never above the exact one, from an estimate of n coordinates."""
    return estimate.value - allowance(n) * estimate.size - UNDERFLOW


def norm_l2(w: Array) -> Array:
    """Euclidean norms of the rows, shape (m,); no square under- or overflows. Floating."""
    xp = array_namespace(w)
    largest = xp.max(xp.abs(w), axis=-1, keepdims=True)
    scale = xp.where(largest > 0, largest, xp.ones_like(largest))
    unit = w / scale
    return xp.sqrt(xp.sum(unit * unit, axis=-1)) * largest[:, 0]


def fill_l1(size: Array, gain: Array, budget: Array) -> Array:
    """The least t >= 0 with sum of gain_i over {size_i > t} <= budget, shape (m, 1).

    Args:
        size: What a coordinate's step earns per unit, shape (m, n), >= 0.
        gain: How much of the budget its full step takes, shape (m, n), >= 0.
        budget: Shape (m,).
    """
    xp = array_namespace(size)
    m, n = size.shape
    order = xp.argsort(-size, axis=-1)
    flat = xp.reshape(order + n * xp.arange(m, device=device(size))[:, None], (-1,))
    ordered = xp.reshape(xp.take(xp.reshape(size, (-1,)), flat, axis=0), (m, n))
    taken = xp.cumulative_sum(xp.reshape(xp.take(xp.reshape(gain, (-1,)), flat, axis=0), (m, n)), axis=-1)
    beyond = xp.where(taken > budget[:, None], ordered, xp.zeros_like(ordered))
    return xp.max(beyond, axis=-1, keepdims=True)


def fill_l2(direction: Array, low: Array, high: Array, radius: float) -> Array:
    """The s >= 0 with || clip(s direction, low, high) || = radius, shape (m, 1). Floating.

    Newton's method on the squared norm, which is piecewise linear in s^2, kept inside a bracket. Where the norm stays
    below the radius for every s, some large s is returned.

    Args:
        direction: Shape (m, n), largest entry of each row of size 1 (or 0).
        low, high: Limits of the step, shape (n,).
        radius: At least the norm of the shortest step between the limits.
    """
    xp = array_namespace(direction)
    length = norm_l2(direction)[:, None]
    s = radius / xp.where(length > 0, length, xp.ones_like(length))
    least, most = xp.zeros_like(s), xp.full_like(s, xp.inf)
    goal, last = radius * radius, _last_move(direction, low, high)
    for k in range(FILL_STEPS):
        wanted = s * direction
        step = xp.minimum(xp.maximum(wanted, low), high)
        free = step == wanted
        slope = xp.sum(xp.where(free, direction * direction, xp.zeros_like(step)), axis=-1, keepdims=True)
        fixed = xp.sum(xp.where(free, xp.zeros_like(step), step * step), axis=-1, keepdims=True)
        reached = fixed + slope * s * s
        if bool(xp.all((xp.abs(reached - goal) <= 1e-15 * goal) | ((reached <= goal) & (s >= last)))):
            break
        least, most = xp.where(reached < goal, s, least), xp.where(reached < goal, most, s)
        rest = xp.maximum(goal - fixed, xp.zeros_like(fixed))
        newton = xp.sqrt(rest / xp.where(slope > 0, slope, xp.ones_like(slope)))
        # Halve on a logarithmic scale: one tiny entry in a row can send Newton's step ten orders of magnitude too far.
        middle = xp.where(most < xp.inf, xp.sqrt(xp.maximum(least, 2.0**-30 * most) * most), 2 * s)
        halve = k % 4 == 3 and k < FILL_STEPS - 4
        s = middle if halve else xp.where((newton >= least) & (newton <= most) & (slope > 0), newton, middle)
    return s


def _last_move(direction: Array, low: Array, high: Array) -> Array:
    """The s beyond which clip(s direction, low, high) hardly moves, shape (m, 1)."""
    xp = array_namespace(direction)
    moving = xp.abs(direction) > 1e-200  # next to 1, what is smaller never matters, and its ratio could overflow
    end = xp.where(direction > 0, high, low)
    ratio = xp.where(moving, end, xp.zeros_like(direction)) / xp.where(moving, direction, xp.ones_like(direction))
    return xp.max(ratio, axis=-1, keepdims=True)


def unit_rows(lam: Array) -> tuple[Array, Array]:
    """Rows divided by their largest entry's size, and those sizes, shapes (m, n) and (m, 1)."""
    xp: Any = array_namespace(lam)
    largest = xp.max(xp.abs(lam), axis=-1, keepdims=True)
    scale = xp.where(largest > 0, largest, xp.ones_like(largest))
    return lam / scale, scale
