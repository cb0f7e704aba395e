"""Directed rounding: rationals and sums to the float64 just below or above, and the allowance for float64 sums.

Source: Knuth, TAOCP vol. 2, 4.2.2, theorem B (the error of a sum is a float); Higham 2002, section 3.1 (gamma_n).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

UNIT = 2.0**-53  # unit roundoff of float64
UNDERFLOW = 1e-280  # above any sum of absolute errors that gradual or flushed underflow can leave


class Rounded(NamedTuple):
    """Float64 neighbours of exact values: `down` <= exact <= `up`, all three equal where the exact value is a float."""

    down: np.ndarray
    nearest: np.ndarray
    up: np.ndarray


def round_fractions(values: Sequence[Fraction]) -> Rounded:
    """Float64 neighbours of rationals, shape (n,); infinite beyond the largest float."""
    nearest = np.array([_nearest(value) for value in values], dtype=np.float64)
    side = np.array([_side(f, q) for f, q in zip(nearest.tolist(), values, strict=True)], dtype=int)
    return _neighbours(nearest, side)


def round_sum(a: np.ndarray, b: np.ndarray | float) -> Rounded:
    """Float64 neighbours of a + b, entry by entry."""
    with np.errstate(over="ignore", invalid="ignore"):
        nearest = a + b
        virtual = nearest - a
        error = (a - (nearest - virtual)) + (b - virtual)
    return _neighbours(nearest, -np.sign(np.nan_to_num(error)))


def allowance(terms: int) -> float:
    """What a float64 sum of `terms` products can lose, per unit of the sum of their sizes, in any summation order.

    Twice gamma_terms and eight more roundings, which covers the roundings of the sum of sizes and of its use.
    """
    return 2.0 * (terms + 8) * UNIT


def finite_fractions(values: np.ndarray) -> tuple[Fraction, ...]:
    """The exact rationals of float64 values."""
    return tuple(map(Fraction, values.tolist()))


def _neighbours(nearest: np.ndarray, side: np.ndarray) -> Rounded:
    """`side` is the sign of nearest - exact."""
    down = np.where(side > 0, np.nextafter(nearest, -np.inf), nearest)
    up = np.where(side < 0, np.nextafter(nearest, np.inf), nearest)
    return Rounded(down, nearest, up)


def _nearest(value: Fraction) -> float:
    try:
        return value.numerator / value.denominator  # integer division rounds correctly
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _side(nearest: float, exact: Fraction) -> int:
    if nearest in (float("inf"), float("-inf")):
        return 1 if nearest > 0 else -1
    p, q = nearest.as_integer_ratio()
    left, right = p * exact.denominator, exact.numerator * q
    return (left > right) - (left < right)
