"""What every input region is: a bounding box, optionally a norm ball in it, linear cuts A x <= b, and a grid.

    { x : exact_lower <= x <= exact_upper }  and  { ||x - center|| <= eps }  and  { A x <= b }

With a grid only its points count, and the bounding box is rounded inward to it; bounds still see the convex set. See
`grid.py`.

Coordinates are flat float64 vectors of length n, in C order of the network's input. Membership is decided in exact
rational arithmetic; everything computed in float64 is rounded in the safe direction, or says that it is not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from milpverify.errors import RegionError
from milpverify.network.arrays import array_namespace
from milpverify.spec.cuts import NO_CUTS, Cuts
from milpverify.spec.duals import CutDual
from milpverify.spec.grid import Grid
from milpverify.spec.rounding import finite_fractions
from milpverify.spec.rows import RegionRows
from milpverify.spec.support import as_float64, like, middle_estimate, rounded

if TYPE_CHECKING:
    from milpverify.network.operators import Array

PULLS = 40  # rounds of alternating projection between the cuts and the rest, for each depth
PULL_DEPTHS = (0.0, *(2.0**-k for k in (40, 30, 20, 14, 10, 8, 6)))  # behind the cuts, in shares of their range

GRID_DEPTHS = (0.5, 1.0, 1.0 + 2.0**-20, 2.0, 3.0, 5.0)  # the same towards a grid, in halves of its steps

R = TypeVar("R", bound="Region")


@dataclass(frozen=True, eq=False, repr=False)
class Region(ABC):
    """A non-empty, bounded, convex set of inputs, or the points of a grid in one; arrays are read-only float64 (n,).

    Attributes:
        lower, upper: The bounding box, rounded outward: the exact set lies in it.
        inner_lower, inner_upper: The same box rounded inward: a float64 point lies in the exact box iff it lies
            between these. Where no float does (a decimal lb = ub), inner_lower > inner_upper.
        center: A ball's given centre (outside the region if the clip excludes it); of a box, its midpoint.
        cuts: Rows A x <= b that hold as well.
        grid: Whose points alone count; None where every point does.
    """

    lower: np.ndarray = field(init=False)
    upper: np.ndarray = field(init=False)
    inner_lower: np.ndarray = field(init=False)
    inner_upper: np.ndarray = field(init=False)
    center: np.ndarray = field(init=False)
    cuts: Cuts = field(default=NO_CUTS, kw_only=True)
    grid: Grid | None = field(default=None, kw_only=True)

    def __repr__(self) -> str:
        cuts = f", cuts={self.cuts.n_rows}" if self.cuts.n_rows else ""
        grid = f", grid=1/{self.grid.steps}" if self.grid is not None else ""
        return f"{type(self).__name__}(dimension={self.dimension}{cuts}{grid})"

    @property
    def dimension(self) -> int:
        """Number of coordinates n."""
        return len(self.lower)

    @property
    def is_box(self) -> bool:
        """Whether the region is its bounding box and nothing cuts it further."""
        return False

    @cached_property
    def exact_lower(self) -> tuple[Fraction, ...]:
        """The exact lower bounds of the box (of a ball: of its bounding box within the clip)."""
        return finite_fractions(self.lower)

    @cached_property
    def exact_upper(self) -> tuple[Fraction, ...]:
        """The exact upper bounds of the box (of a ball: of its bounding box within the clip)."""
        return finite_fractions(self.upper)

    def with_cuts(self: R, A: Any, b: Any) -> R:
        """The points of this region with A x <= b as well.

        Args:
            A: Rows, shape (m, n) or (n,), taken as the exact values of its floats.
            b: Right-hand sides, shape (m,) or a number.

        Raises:
            RegionError: If the shapes do not fit, a number is not finite, or it is proven that no point is left. The
                proof is a lower bound of a cut's row above its right-hand side, over the region and all cuts; an empty
                region that hides from it makes every LP infeasible.
        """
        return replace(self, cuts=self.cuts.extended(A, b, self.dimension))

    def with_grid(self: R, grid: Grid) -> R:
        """The points of a grid in this region.

        Raises:
            RegionError: If the region already has another grid, or has no point of this one: in some coordinate, or
                within the radius of a ball. What cuts leave is looked for, and refused if no point was found.
        """
        if self.grid not in (None, grid):
            raise RegionError(
                f"{type(self).__name__}.with_grid: the region has {self.grid} already, {grid} came. "
                "Start from the region without one."
            )
        return replace(self, grid=grid)

    def contains(self, x: Any) -> bool:
        """Whether a point lies in the region. Exact: decided in rationals wherever float64 is not sure.

        With a grid, k/255 is meant itself, not the float nearest to it: pass Fractions, or `exact_point(x)`.

        Args:
            x: n floats or Fractions, any shape; integers count as themselves.

        Raises:
            RegionError: If there are not n of them.
        """
        point = np.asarray(x).reshape(-1)
        if len(point) != self.dimension:
            raise RegionError(
                f"{type(self).__name__}.contains: {len(point)} coordinates came, the region has {self.dimension}. "
                "Pass one point at a time."
            )
        if self.grid is not None or point.dtype.kind != "f" or point.dtype.itemsize > 8:
            return self._contains_fractions(point.tolist())
        point = point.astype(np.float64)
        inside = (self.inner_lower <= point) & (point <= self.inner_upper)
        return bool(inside.all()) and self._in_ball(point) and self.cuts.hold(point)

    def _contains_fractions(self, values: list[Any]) -> bool:
        try:
            point = [Fraction(value) for value in values]
        except (ValueError, OverflowError):  # NaN or infinite
            return False
        if self.grid is not None and not self.grid.holds(point):
            return False
        bounds = zip(self.exact_lower, point, self.exact_upper, strict=True)
        return all(l <= p <= u for l, p, u in bounds) and self._in_ball_exact(point) and self.cuts.hold_exact(point)

    def project(self, x: Any) -> np.ndarray:
        """A float64 point near x in the region; `contains` says True for it. Floating, rounded inward.

        In norm balls it is the Euclidean projection, drawn towards the centre until float64 is sure. Two exceptions,
        where the result may lie outside: a coordinate whose bounds have no float between them becomes the nearest
        float; linear cuts are met by alternating projection, a best effort that a thin set can defeat. With a grid, the
        floats nearest to grid points of the region; near linear cuts, again a best effort.

        Args:
            x: Shape (..., n); NaN counts as the anchor's coordinate, infinity as the box's bound.

        Returns:
            A new array of shape (..., n).

        Raises:
            RegionError: If the last axis does not have length n.
        """
        points = np.asarray(x, dtype=np.float64)
        if points.ndim == 0 or points.shape[-1] != self.dimension:
            raise RegionError(
                f"{type(self).__name__}.project: shape {points.shape} came, expected (..., {self.dimension}). "
                "Flatten each point."
            )
        flat = points.reshape(-1, self.dimension)
        if self.grid is not None:
            return self._onto_grid(self.walkable.project(flat)).reshape(points.shape)
        flat = np.where(np.isnan(flat), self.anchor, flat)
        moved = self._project(np.where(np.isinf(flat), self._into_box(flat), flat))
        if self.cuts.n_rows:
            self._alternate(moved)
        return moved.reshape(points.shape)

    @cached_property
    def relaxed(self) -> Region:
        """The region itself; with a grid, the convex set between its points that bounds work on, rounded outward."""
        return self if self.grid is None else self._without_grid()

    @cached_property
    def walkable(self) -> Region:
        """Where a descent may walk that evaluates at `project` of its points: with a grid, no cuts are in its way."""
        return self if self.grid is None else replace(self.relaxed, cuts=NO_CUTS)

    @cached_property
    def indices(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and greatest k of a grid's points k / steps in the bounding box, float64 of shape (n,)."""
        assert self.grid is not None
        sides = (self.exact_lower, self.exact_upper)
        low, high = (np.array([float(q * self.grid.steps) for q in side]) for side in sides)
        return frozen(low), frozen(high)

    def exact_point(self, x: np.ndarray) -> list[Fraction]:
        """The point that floats stand for: with a grid k / steps where one is the nearest float to it. Exact.

        Args:
            x: Shape (n,), float64 or float32.
        """
        if self.grid is not None:
            return self.grid.stands_for(x)
        return [Fraction(v) for v in np.asarray(x, dtype=np.float64).tolist()]

    @abstractmethod
    def _without_grid(self) -> Region:
        """The region with all points between `lower` and `upper`."""

    def _onto_grid(self, points: np.ndarray) -> np.ndarray:
        """Grid points near points (m, n) between them, behind the cuts if a few pulls get there. Floating."""
        assert self.grid is not None
        found = self._snapped(points)
        lost = np.abs(self.cuts.A).sum(axis=1) / (2 * self.grid.steps)  # rounding loses no more of a cut's row
        for depth in GRID_DEPTHS if self.cuts.n_rows else ():
            far = np.flatnonzero(~self.cuts.nearly_hold(found))
            if not len(far):
                break
            found[far] = self._snapped(self.walkable.project(self.cuts.pull(points[far], depth * lost)))
        return found

    def _snapped(self, points: np.ndarray) -> np.ndarray:
        """The grid points nearest to points (m, n) of the relaxed region, as floats; in the bounding box."""
        assert self.grid is not None
        return self.grid.values(np.clip(self.grid.nearest(points), *self.indices))

    def _alternate(self, points: np.ndarray) -> None:
        """Move points, in place, to and fro between the cuts and the rest until they meet both.

        The first rounds aim at the cuts themselves, later ones deeper and deeper behind them: alternating projection
        nears a corner of the region from outside, and without that would never arrive.
        """
        outside = np.arange(len(points))
        reach = np.abs(self.cuts.A) @ (self.upper - self.lower)
        for depth in PULL_DEPTHS:
            for _ in range(PULLS):
                outside = np.array([i for i in outside if not self.contains(points[i])], dtype=int)
                if not len(outside):
                    return
                points[outside] = self._project(self.cuts.pull(points[outside], depth * reach))

    @cached_property
    def anchor(self) -> np.ndarray:
        """The float64 point of the box nearest to the centre. Shape (n,); without cuts it lies in the region."""
        return frozen(self._into_box(self.center))

    def _into_box(self, points: np.ndarray) -> np.ndarray:
        low, high = self._reach
        return np.minimum(np.maximum(points, low), high)

    @cached_property
    def _reach(self) -> tuple[np.ndarray, np.ndarray]:
        """The floats that projection may use: the inner box, or the float nearest to a box without floats."""
        hollow = self.inner_lower > self.inner_upper
        if not hollow.any():
            return self.inner_lower, self.inner_upper
        nearest = self.inner_lower.copy()
        for i in np.flatnonzero(hollow):
            nearest[i] = float((self.exact_lower[i] + self.exact_upper[i]) / 2)
        return np.where(hollow, nearest, self.inner_lower), np.where(hollow, nearest, self.inner_upper)

    def minimum(self, lam: Array) -> Array:
        """Lower bounds of min lam.x over the region, shape (m,). Rounded: never above the exact minimum.

        Tight to rounding without cuts and with one cut; with several, the cuts' multipliers are improved one after the
        other and can stop short of the best, at no less than the bound without cuts. A set that does no more than
        touch a cut, or an L2 ball its clip, gives a valid bound that is looser.

        Args:
            lam: numpy or torch, shape (m, n), taken as the exact values of its floats.
        """
        lam = as_float64(lam)
        return self._cut_dual.bound(lam) if self.cuts.n_rows else self._minimum(lam)

    def minimiser(self, lam: Array) -> Array:
        """Points of the region that nearly attain min lam.x, shape (m, n), in the namespace of lam. Floating.

        They can miss the region by rounding; `project` brings them in. With cuts they minimise lam + A^T mu over the
        region without its cuts, for the multipliers mu of `minimum`: such a point can lie on either side of a cut.

        Args:
            lam: numpy or torch, shape (m, n).
        """
        lam = as_float64(lam)
        return self._cut_dual.point(lam) if self.cuts.n_rows else self._minimiser(lam)

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """n random points, shape (n, dimension): uniform in the box or ball, then projected onto clip and cuts."""
        return self.project(self._draw(rng, n))

    def linear_rows(self) -> RegionRows:
        """The region as rows over [x, auxiliary columns], next to x's bounds `lower` and `upper`: here the cuts."""
        rows, cols = np.nonzero(self.cuts.A)
        none = np.zeros(0)
        low, names = np.full(self.cuts.n_rows, -np.inf), [f"cut{i}" for i in range(self.cuts.n_rows)]
        return RegionRows([], none, none, rows, cols, self.cuts.A[rows, cols], low, self.cuts.b, names, True)

    @cached_property
    def _cut_dual(self) -> CutDual:
        """How the cuts enter `minimum` and `minimiser`."""
        reach = np.maximum(np.abs(self.lower), np.abs(self.upper))
        return CutDual(self.cuts, reach, self._minimum, self._minimiser)

    def _minimum(self, lam: Array) -> Array:
        """`minimum` without the cuts."""
        center, radius = (like(v, lam) for v in self._middle)
        return rounded(middle_estimate(lam, center, radius), self.dimension)

    @cached_property
    def _middle(self) -> tuple[np.ndarray, np.ndarray]:
        """Centre c and radius r of the bounding box; r rounded up, so that the box lies in c +- r."""
        center = np.minimum(np.maximum(self.lower / 2 + self.upper / 2, self.lower), self.upper)
        gap = np.maximum(self.upper - center, center - self.lower)
        # A float difference is 0 only where the exact one is.
        return frozen(center), frozen(np.where(gap > 0, np.nextafter(gap, np.inf), 0.0))

    def _minimiser(self, lam: Array) -> Array:
        """`minimiser` without the cuts."""
        xp = array_namespace(lam)
        lower, upper, center = (like(v, lam) for v in (self.lower, self.upper, self.center))
        return xp.where(lam > 0, lower, xp.where(lam < 0, upper, center + xp.zeros_like(lam)))

    def _in_ball(self, point: np.ndarray) -> bool:
        return True

    def _in_ball_exact(self, point: list[Fraction]) -> bool:
        return True

    def _project(self, points: np.ndarray) -> np.ndarray:
        """Projection of (m, n) without NaN onto the region without its cuts."""
        return self._into_box(points)

    @abstractmethod
    def _draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """n points that `project` turns into samples."""

    def _set(self, **values: object) -> None:
        """Write fields while the frozen object is being made; arrays become read-only."""
        for name, value in values.items():
            object.__setattr__(self, name, frozen(value) if isinstance(value, np.ndarray) else value)

    def _check_cuts(self) -> None:
        """Refuse a region that its cuts provably leave empty, or without a known grid point."""
        if not self.cuts.n_rows:
            return
        self._check_half_spaces()
        if self.grid is not None and self._known_point() is None:
            raise RegionError(
                f"{type(self).__name__}: no k/{self.grid.steps} was found that meets the {self.cuts.n_rows} cuts: the "
                "region may be empty, and then anything would hold. Loosen a cut, or leave the grid out."
            )

    def _known_point(self) -> np.ndarray | None:
        """A grid point that lies in the region, as floats; None if none was found among many tried."""
        rng = np.random.default_rng(0)
        for count in (0, 16, 256):
            tried = self.project(self.anchor)[None] if not count else self.sample(rng, count)
            for x in tried:
                if self.contains(self.exact_point(x)):
                    return np.asarray(x)
        return None

    def _check_half_spaces(self) -> None:
        if self.cuts.A.shape[1] != self.dimension:
            raise RegionError(
                f"{type(self).__name__}: cuts of {self.cuts.A.shape[1]} coordinates on a region of {self.dimension}. "
                "Give A one column per input."
            )
        least = self._minimum(self.cuts.A)
        empty = np.flatnonzero(least > self.cuts.b)
        if len(empty):
            i = int(empty[0])
            raise RegionError(
                f"{type(self).__name__}: empty region: cut {i} asks A x <= {self.cuts.b[i]:.6g}, the least A x in the "
                f"region is {least[i]:.6g}. Loosen the cut or the region."
            )
        # A point that meets every cut meets the i-th: the least A_i x over the region and the cuts is at most b_i.
        together = self.minimum(self.cuts.A) if self.cuts.n_rows > 1 else least
        empty = np.flatnonzero(together > self.cuts.b)
        if len(empty):
            i = int(empty[0])
            raise RegionError(
                f"{type(self).__name__}: empty region, which is proven: cut {i} asks A x <= {self.cuts.b[i]:.6g}, the "
                f"least A x that the region and all cuts leave is {together[i]:.6g} or more. Loosen a cut."
            )


def frozen(values: np.ndarray) -> np.ndarray:
    """The array, read-only."""
    values.flags.writeable = False
    return values


def flat_vector(values: Any, who: str) -> np.ndarray:
    """A new flat float64 copy of an array of any shape, in C order.

    Raises:
        RegionError: If it is empty, not numeric, or has NaN or infinite entries.
    """
    try:
        vector = np.array(values, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise RegionError(f"{who}: expected an array of numbers, got {type(values).__name__} ({error}).") from None
    if not len(vector):
        raise RegionError(f"{who}: expected at least one coordinate, got an empty array.")
    bad = np.flatnonzero(~np.isfinite(vector))
    if len(bad):
        raise RegionError(f"{who}: coordinate {bad[0]} is {vector[bad[0]]}. Regions need finite numbers.")
    return vector
