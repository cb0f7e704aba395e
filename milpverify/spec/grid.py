r"""The grid of images: every coordinate of an input is k / steps, k an integer.

A region with a grid means its grid points only. Its box is rounded inward, to the least and greatest k / steps in it,

    k_lower = ceil(steps lower - SLACK)        k_upper = floor(steps upper + SLACK),

exactly, in rationals. SLACK, a thousandth of a step, is there because images and radii come as floats: the float that
2/255 rounds to lies below or above it, and "within 2/255" means the second grid point on either side all the same. So
a bound that is off a grid point by less than SLACK takes that point in, and L1 and L2 balls are as much larger.

Whatever is real in a verifier (bounds, linear programs, gradients) works on the rounded box; only grid points count as
members. An affine change of units, such as (k/255 - mean) / std, belongs inside the network (`fold_normalisation`):
here the grid is the same in every coordinate.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from milpverify.errors import RegionError

SLACK = Fraction(1, 1024)  # of a step; proof/checker.py has the same
MOST_STEPS = 65535  # 16-bit images
LARGEST_INDEX = 2**31  # of |k|: float64 then tells grid points apart with room to spare
ROUNDING = 2.0**-20  # more than a product of that size is rounded by


@dataclass(frozen=True)
class Grid:
    """The inputs whose every coordinate is k / steps for an integer k. Exact.

    Attributes:
        steps: Grid points per unit: 255 for 8-bit images in [0, 1], 1 for whole numbers.

    Raises:
        RegionError: If steps is no integer from 1 to 65535.
    """

    steps: int = 255

    def __post_init__(self) -> None:
        try:
            steps = operator.index(self.steps)
        except TypeError:
            raise RegionError(
                f"Grid: steps must be an integer, got {self.steps!r}. Use 255 for 8-bit images."
            ) from None
        if not 1 <= steps <= MOST_STEPS:
            raise RegionError(
                f"Grid: steps must be from 1 to {MOST_STEPS}, got {steps}. Use 255 for 8-bit images in [0, 1]."
            )
        object.__setattr__(self, "steps", steps)

    def inward(
        self, lower: Sequence[Fraction], upper: Sequence[Fraction], who: str
    ) -> tuple[tuple[Fraction, ...], tuple[Fraction, ...]]:
        """The least and greatest grid point between bounds, coordinate by coordinate. Exact.

        Args:
            lower, upper: Exact bounds.
            who: For messages.

        Raises:
            RegionError: If some coordinate has no grid point, or one too large to count.
        """
        lows, highs = [], []
        for i, (l, u) in enumerate(zip(lower, upper, strict=True)):
            low, high = -((SLACK - l * self.steps).__floor__()), (u * self.steps + SLACK).__floor__()
            if low > high:
                raise RegionError(
                    f"{who}: empty region: no k/{self.steps} lies between {float(l)!r} and {float(u)!r}, the bounds of "
                    f"coordinate {i}. Widen the region, or leave the grid out."
                )
            if max(abs(low), abs(high)) > LARGEST_INDEX:
                raise RegionError(
                    f"{who}: coordinate {i} reaches {float(max(abs(l), abs(u))):.6g}, more than {LARGEST_INDEX} steps "
                    f"of 1/{self.steps}. Use fewer steps, or scale the input."
                )
            lows.append(Fraction(low, self.steps))
            highs.append(Fraction(high, self.steps))
        return tuple(lows), tuple(highs)

    def holds(self, point: Iterable[Fraction]) -> bool:
        """Whether every coordinate is a grid point. Exact."""
        return all(self.steps % value.denominator == 0 for value in point)

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """The k of the grid points nearest to some numbers, as float64. Floating, and right next to grid points."""
        return np.asarray(np.rint(np.asarray(x, dtype=np.float64) * self.steps))

    def values(self, k: np.ndarray) -> np.ndarray:
        """The float64 numbers nearest to k / steps: one division of integers is rounded correctly."""
        return np.asarray(k / float(self.steps))

    def around(self, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The greatest float64 at most k / steps and the least at least that; one number where it is a float."""
        value = self.values(k)
        head = value.astype(np.float32).astype(np.float64)  # 24 bits: products with steps are exact
        rest = (k - head * self.steps) - (value - head) * self.steps  # the sign of k / steps - value, exactly
        down = np.where(rest < 0, np.nextafter(value, -np.inf), value)
        return down, np.where(rest > 0, np.nextafter(value, np.inf), value)

    def around_float32(self, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same with float32 numbers, held as float64."""
        low, high = self.around(k)
        near = low.astype(np.float32), high.astype(np.float32)
        down = np.where(near[0] > low, np.nextafter(near[0], np.float32(-np.inf)), near[0])
        up = np.where(near[1] < high, np.nextafter(near[1], np.float32(np.inf)), near[1])
        return down.astype(np.float64), up.astype(np.float64)

    def between(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The least and greatest k with low <= k / steps <= high. Rounded: no grid point is missed."""
        scaled = np.asarray(low) * self.steps, np.asarray(high) * self.steps
        return np.ceil(scaled[0] - ROUNDING), np.floor(scaled[1] + ROUNDING)

    def stands_for(self, x: np.ndarray) -> list[Fraction]:
        """What floats stand for: k / steps where one is the float64 or float32 nearest to it, else their own values."""
        k = self.nearest(x)
        value = self.values(k)
        same = (x == value) | (x == value.astype(np.float32))
        return [
            Fraction(int(index), self.steps) if is_same else Fraction(own)
            for index, is_same, own in zip(
                k.tolist(), same.tolist(), np.asarray(x, dtype=np.float64).tolist(), strict=True
            )
        ]
