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

    Attributes:
        lower, upper: Any shape, taken as the exact values of their floats.
        exact: Exact rational bounds that replace them, for decimals that are no floats; `lower` is then rounded down
            and `upper` up from these. `Box.of_fractions` needs nothing else.

    Raises:
        RegionError: If shapes differ, a bound is NaN or infinite, or some lower > upper.
    """

    lower: np.ndarray
    upper: np.ndarray
    exact: ExactBounds | None = None

    def __post_init__(self) -> None:
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
