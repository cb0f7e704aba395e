r"""Norm balls around a point: { ||x - center|| <= eps } within an optional clip lo <= x <= hi.

The exact set is meant for the exact values of center, eps and clip: a bound center - eps that is no float is kept as
a rational and rounded outward in `lower`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from milpverify.errors import RegionError
from milpverify.spec.box import Box, ExactBounds
from milpverify.spec.grid import SLACK, Grid
from milpverify.spec.region import Region, flat_vector, frozen
from milpverify.spec.rounding import round_fractions, round_sum

Clip = tuple[Any, Any] | None  # numbers or arrays before the ball is made, arrays of shape (n,) afterwards

B = TypeVar("B", bound="Ball")


@dataclass(frozen=True, eq=False, repr=False)
class Ball(Region):
    """What the balls of all norms share.

    With a grid, the bounding box is rounded inward to it (a bound off by less than `grid.SLACK` takes a point in), and
    L1 and L2 balls have the `radius`.

    Attributes:
        center: Any shape.
        eps: Radius in the units of the network's own input; zero is allowed.
        clip: (lo, hi), numbers or arrays, for inputs that have a range; infinite entries bind nothing.

    Raises:
        RegionError: If eps is negative or not finite, center or clip hold NaN, no point of the ball is in the clip, or
            none of the grid.
    """

    center: np.ndarray
    eps: float
    clip: Clip = None
    _clip_binds: bool = field(init=False, repr=False)
    _on_grid: ExactBounds | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        who = type(self).__name__
        center = flat_vector(self.center, f"{who}: center")
        eps = _radius(self.eps, who)
        low, high = round_sum(center, -eps), round_sum(center, eps)
        flat_vector(low.down, f"{who}: center - eps")
        flat_vector(high.up, f"{who}: center + eps")
        lo, hi = _limits(self.clip, center, who)
        self._set(
            center=center,
            eps=eps,
            clip=None if self.clip is None else (frozen(lo), frozen(hi)),
            lower=np.maximum(low.down, lo),
            upper=np.minimum(high.up, hi),
            inner_lower=np.maximum(low.up, lo),
            inner_upper=np.minimum(high.down, hi),
            _clip_binds=bool((lo > low.down).any() or (hi < high.up).any()),
            _on_grid=None,
        )
        self._check_not_empty(lo, hi)
        if self.grid is not None:
            self._round_to_grid(self.grid)
        self._check_cuts()

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, eps={self.eps!r}, clipped={self.clip is not None})"

    def scaled_to(self: B, eps: float) -> B:
        """The same ball with another radius.

        Raises:
            RegionError: As the constructor.
        """
        return replace(self, eps=eps)

    @cached_property
    def radius(self) -> float:
        """eps; with a grid `grid.SLACK` more, rounded up: 3 steps between floats are a little more or less."""
        if self.grid is None:
            return self.eps
        return float(round_fractions([Fraction(self.eps) + SLACK / self.grid.steps]).up[0])

    @cached_property
    def exact_lower(self) -> tuple[Fraction, ...]:
        """max(clip lo, center - eps), exactly; with a grid, rounded up to it."""
        return self._least() if self._on_grid is None else tuple(self._on_grid[0])

    @cached_property
    def exact_upper(self) -> tuple[Fraction, ...]:
        """min(clip hi, center + eps), exactly; with a grid, rounded down to it."""
        return self._greatest() if self._on_grid is None else tuple(self._on_grid[1])

    def _round_to_grid(self, grid: Grid) -> None:
        """Round the bounding box inward, and see that a grid point is left: the one nearest to the centre, or none."""
        exact = grid.inward(self._least(), self._greatest(), type(self).__name__)
        low, high = round_fractions(exact[0]), round_fractions(exact[1])
        self._set(
            lower=low.down, upper=high.up, inner_lower=low.up, inner_upper=high.down, _clip_binds=True, _on_grid=exact
        )
        if not self._in_ball_exact(self.exact_point(self._snapped(self.center[None])[0])):
            raise RegionError(
                f"{type(self).__name__}: empty region: no k/{grid.steps} lies within eps = {self.eps!r} of the center "
                "and in the clip. Give a larger eps, or leave the grid out."
            )

    def _least(self) -> tuple[Fraction, ...]:
        """max(clip lo, center - eps), exactly."""
        eps = Fraction(self.eps)
        lows = tuple(Fraction(c) - eps for c in self.center.tolist())
        if self.clip is None:
            return lows
        clip = self.clip[0].tolist()
        return tuple(max(q, Fraction(v)) if v > -np.inf else q for q, v in zip(lows, clip, strict=True))

    def _greatest(self) -> tuple[Fraction, ...]:
        """min(clip hi, center + eps), exactly."""
        eps = Fraction(self.eps)
        highs = tuple(Fraction(c) + eps for c in self.center.tolist())
        if self.clip is None:
            return highs
        clip = self.clip[1].tolist()
        return tuple(min(q, Fraction(v)) if v < np.inf else q for q, v in zip(highs, clip, strict=True))

    def _check_not_empty(self, lo: np.ndarray, hi: np.ndarray) -> None:
        """The point of the clip nearest to the centre must lie in the ball: an exact test."""
        nearest = np.minimum(np.maximum(self.center, lo), hi)
        crossed = np.flatnonzero(self.inner_lower > self.inner_upper)
        if not len(crossed) and self._in_ball(nearest):
            return
        i = int(crossed[0]) if len(crossed) else int(np.argmax(np.abs(nearest - self.center)))
        raise RegionError(
            f"{type(self).__name__}: empty region: no point within eps = {self.eps!r} of the center lies in the clip; "
            f"center[{i}] = {float(self.center[i])!r}, clip[{i}] = [{float(lo[i])!r}, {float(hi[i])!r}]. "
            "Check that center and clip are in the same units."
        )


@dataclass(frozen=True, eq=False, repr=False)
class LinfBall(Ball):
    """{ max_i |x_i - center_i| <= eps } within the clip: a box, exactly."""

    @property
    def is_box(self) -> bool:
        """Whether no cut is added."""
        return not self.cuts.n_rows

    def _without_grid(self) -> Box:
        return Box(self.lower, self.upper, cuts=self.cuts)  # what SLACK takes in lies outside the ball

    def _draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        share = rng.random((n, self.dimension))
        return self.lower * (1 - share) + self.upper * share


def _radius(eps: Any, who: str) -> float:
    try:
        radius = float(eps)
    except (TypeError, ValueError):
        raise RegionError(f"{who}: eps must be a number, got {type(eps).__name__}.") from None
    if not 0 <= radius < np.inf:
        raise RegionError(f"{who}: eps must be finite and at least 0, got {radius}. Give a radius in input units.")
    return radius


def _limits(clip: Clip, center: np.ndarray, who: str) -> tuple[np.ndarray, np.ndarray]:
    """The clip as two float64 arrays of the centre's length; infinite without one."""
    n = len(center)
    if clip is None:
        return np.full(n, -np.inf), np.full(n, np.inf)
    try:
        pair = [np.array(side, dtype=np.float64).reshape(-1) for side in clip]
        if len(pair) != 2 or any(len(side) not in (1, n) for side in pair):
            raise ValueError
    except (TypeError, ValueError):
        raise RegionError(f"{who}: clip must be (lo, hi), each a number or {n} of them, such as clip=(0, 1).") from None
    lo, hi = (np.array(np.broadcast_to(side, n)) for side in pair)
    bad = np.flatnonzero(~(lo <= hi) | (lo == np.inf) | (hi == -np.inf))
    if len(bad):
        i = int(bad[0])
        raise RegionError(f"{who}: clip[{i}] = [{float(lo[i])!r}, {float(hi[i])!r}] holds no number. Give lo <= hi.")
    return lo, hi
