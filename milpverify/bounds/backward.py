"""Closed-form choices of nu: Fast-Lin (Wong & Kolter's algorithm 1) and CROWN."""

from __future__ import annotations

from milpverify.network.arrays import array_namespace
from milpverify.network.operators import Array


def fastlin_rule(lam: Array, l: Array, u: Array) -> Array:
    """nu = lambda u / (u - l) on unstable neurons: one slope for both signs.

    Source:
        Wong & Kolter 2018, algorithm 1 (alpha fixed to u / (u - l)); Weng et al. 2018 (Fast-Lin).
    """
    return lam * (u / (u - l))


def crown_rule(lam: Array, l: Array, u: Array) -> Array:
    """nu = lambda u / (u - l) where lambda < 0; where lambda >= 0 the slope 0 or 1 of the smaller triangle.

    Source:
        Zhang et al. 2018 (CROWN), adaptive lower bounds.
    """
    xp = array_namespace(lam)
    upper = u / (u - l)
    lower = xp.astype(u > -l, lam.dtype)
    return lam * xp.where(lam < 0, upper, lower)
