"""Axis-parallel boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from milpverify.errors import RegionError
from milpverify.spec.region import Region, flat_vector
from milpverify.spec.rounding import finite_fractions, round_fractions

ExactBounds = tuple[Sequence[Fraction], Sequence[Fraction]]


@dataclass(frozen=True, eq=False, repr=False)
class Box(Region):
    """{ lower <= x <= upper }; zero widths are allowed.

    With a grid, the bounds are rounded inward to it, and `exact` holds the result.

    Attributes:
        lower, upper: Any shape, taken as the exact values of their floats.
        exact: Exact rational bounds that replace them, for decimals that are no floats; `lower` is then rounded down
            and `upper` up from these. `Box.of_fractions` needs nothing else.

    Raises:
        RegionError: If shapes differ, a bound is NaN or infinite, some lower > upper, or no grid point is left.
    """

    lower: np.ndarray
    upper: np.ndarray
    exact: ExactBounds | None = None

    def __post_init__(self) -> None:
        if self.grid is not None:
            self._set(exact=self.grid.inward(*self._given(), "Box"))
        if self.exact is None:
            lower, upper = flat_vector(self.lower, "Box: lower"), flat_vector(self.upper, "Box: upper")
            _check_order(lower, upper)
            self._set(lower=lower, upper=upper, inner_lower=lower, inner_upper=upper)
        else:
            exact = tuple(self.exact[0]), tuple(self.exact[1])
            _check_order(*exact)
            low, high = round_fractions(exact[0]), round_fractions(exact[1])
            flat_vector(low.down, "Box: lower")
            flat_vector(high.up, "Box: upper")
            self._set(exact=exact, lower=low.down, upper=high.up, inner_lower=low.up, inner_upper=high.down)
        self._set(center=self._into_box(self.lower / 2 + self.upper / 2))
        self._check_cuts()

    def _given(self) -> tuple[tuple[Fraction, ...], tuple[Fraction, ...]]:
        """The exact bounds before a grid rounds them."""
        if self.exact is None:
            sides = flat_vector(self.lower, "Box: lower"), flat_vector(self.upper, "Box: upper")
            exact = finite_fractions(sides[0]), finite_fractions(sides[1])
        else:
            exact = tuple(self.exact[0]), tuple(self.exact[1])
        _check_order(*exact)
        return exact

    @classmethod
    def of_fractions(cls, lower: Sequence[Fraction], upper: Sequence[Fraction]) -> Box:
        """The box of exact rational bounds, each of length n."""
        nothing: Any = ()
        return cls(nothing, nothing, (lower, upper))

    @property
    def is_box(self) -> bool:
        """Whether no cut is added."""
        return not self.cuts.n_rows

    @cached_property
    def exact_lower(self) -> tuple[Fraction, ...]:
        """The exact lower bounds."""
        return finite_fractions(self.lower) if self.exact is None else tuple(self.exact[0])

    @cached_property
    def exact_upper(self) -> tuple[Fraction, ...]:
        """The exact upper bounds."""
        return finite_fractions(self.upper) if self.exact is None else tuple(self.exact[1])

    def _without_grid(self) -> Box:
        return Box(self.lower, self.upper, cuts=self.cuts)

    def _draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        share = rng.random((n, self.dimension))
        return self.lower * (1 - share) + self.upper * share


def _check_order(lower: Sequence[Any] | np.ndarray, upper: Sequence[Any] | np.ndarray) -> None:
    if len(lower) != len(upper):
        raise RegionError(f"Box: lower has {len(lower)} coordinates, upper has {len(upper)}. Give both the same shape.")
    for i, (l, u) in enumerate(zip(lower, upper, strict=True)):
        if l > u:
            raise RegionError(
                f"Box: empty region: lower[{i}] = {float(l)!r} exceeds upper[{i}] = {float(u)!r}. Check their order."
            )
