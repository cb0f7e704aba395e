"""Balls that are no boxes, L1 and L2: membership, projection, support function, rows."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from milpverify.errors import RegionError
from milpverify.network.arrays import array_namespace
from milpverify.spec.balls import Ball
from milpverify.spec.region import flat_vector, frozen
from milpverify.spec.rounding import UNDERFLOW, allowance, round_sum
from milpverify.spec.rows import RegionRows
from milpverify.spec.support import (
    ball_estimate,
    box_estimate,
    fill_l1,
    fill_l2,
    like,
    norm_l2,
    plus,
    rounded,
    unit_rows,
)

if TYPE_CHECKING:
    from milpverify.network.operators import Array

NEWTON_STEPS = 60  # each halves the bracket at worst; five to ten are usual
# Shares of the way from the anchor to a projected point that are tried until float64 is sure to be inside.
SHRINKS = (1.0, *(1 - 2.0**-k for k in (40, 30, 20, 15, 10, 5, 2)), 0.0)


@dataclass(frozen=True, eq=False, repr=False)
class RoundBall(Ball):
    """A ball that is no box: what L1 and L2 share. Its bounds come from splits lam = w + v, see `support.py`."""

    def _in_ball(self, point: np.ndarray) -> bool:
        low, high = (float(bound[0]) for bound in self._distance(point[None]))
        if high <= 0 or low > 0:
            return high <= 0
        return self._in_ball_exact([Fraction(v) for v in point.tolist()])

    def _project(self, points: np.ndarray) -> np.ndarray:
        moved = self._into_box(points)
        far = np.flatnonzero(~(self._distance(moved)[1] <= 0))
        if not len(far):
            return moved
        target = self._onto_sphere(points[far]) - self.anchor
        for shrink in SHRINKS:
            moved[far] = self._into_box(self.anchor + shrink * target)
            unsure = ~(self._distance(moved[far])[1] <= 0)
            far, target = far[unsure], target[unsure]
        return moved

    def _without_grid(self) -> RoundBall:
        return replace(self, eps=self.radius, clip=(self.lower, self.upper), grid=None)

    def _snapped(self, points: np.ndarray) -> np.ndarray:
        """Grid points near points of the relaxed region, in the ball where float64 is not mistaken about it.

        The nearest one where the ball has it; else rounded towards the one nearest to the centre, which it has, and
        drawn there.
        """
        assert self.grid is not None
        home = np.clip(self.grid.nearest(self.center), *self.indices)
        moved = super()._snapped(points)
        wanted = np.clip(points * self.grid.steps, *self.indices) - home
        for share in (1.0, 0.95, 0.85, 0.7, 0.5, 0.25, 0.0):
            far = np.flatnonzero(self._distance(moved)[0] > 0)
            if not len(far):
                break
            moved[far] = self.grid.values(home + np.trunc(share * wanted[far] * (1.0 + 2.0**-40)))
        return moved

    def _minimum(self, lam: Array) -> Array:
        xp, center = array_namespace(lam), like(self.center, lam)
        best = rounded(ball_estimate(lam, center, self.radius, self._dual_norm(lam)), self.dimension)
        if not self._clip_binds:
            return best
        lower, upper = like(self.lower, lam), like(self.upper, lam)
        w = self._ball_share(lam)
        split = plus(ball_estimate(w, center, self.radius, self._dual_norm(w)), box_estimate(lam - w, lower, upper))
        best = xp.maximum(best, rounded(split, self.dimension))
        return xp.maximum(best, rounded(box_estimate(lam, lower, upper), self.dimension))

    def _integer_gaps(self, point: list[Fraction]) -> tuple[list[int], int]:
        """point - center and eps as integers in a common unit; sums of integers are much faster than of Fractions."""
        values = [*point, *map(Fraction, self.center.tolist()), Fraction(self.radius)]
        unit = math.lcm(*(value.denominator for value in values))
        scaled = [value.numerator * (unit // value.denominator) for value in values]
        n = self.dimension
        return [p - c for p, c in zip(scaled[:n], scaled[n : 2 * n], strict=True)], scaled[-1]

    @abstractmethod
    def _distance(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Float64 bounds of a function of the norm that is <= 0 exactly in the ball: (m, n) -> two of (m,)."""

    @abstractmethod
    def _onto_sphere(self, points: np.ndarray) -> np.ndarray:
        """Euclidean projection of points outside onto ball and clip. Floating."""

    @abstractmethod
    def _dual_norm(self, w: Array) -> Array:
        """||w||_* of every row, shape (m,)."""

    @abstractmethod
    def _ball_share(self, lam: Array) -> Array:
        """The w of the best split lam = w + v, shape (m, n). Floating; any w is valid."""


@dataclass(frozen=True, eq=False, repr=False)
class L1Ball(RoundBall):
    """{ sum_i |x_i - center_i| <= eps } within the clip."""

    def linear_rows(self) -> RegionRows:
        """s_i >= |x_i - center_i|, sum_i s_i <= eps, with one auxiliary column s_i per coordinate; exact."""
        n, more = self.dimension, super().linear_rows()
        i, inf = np.arange(n), np.full(n, np.inf)
        reach = np.maximum(round_sum(self.upper, -self.center).up, round_sum(self.center, -self.lower).up)
        return RegionRows(
            aux_names=[f"s{k}" for k in range(n)],
            aux_lower=np.zeros(n),
            aux_upper=np.minimum(reach, self.radius),
            rows=np.concatenate([i, i, n + i, n + i, np.full(n, 2 * n), 2 * n + 1 + more.rows]),
            cols=np.concatenate([i, n + i, i, n + i, n + i, more.cols]),
            vals=np.concatenate([np.ones(n), -np.ones(n), np.ones(3 * n), more.vals]),
            row_lower=np.concatenate([-inf, self.center, [-np.inf], more.row_lower]),
            row_upper=np.concatenate([self.center, inf, [self.radius], more.row_upper]),
            row_names=[*(f"below{k}" for k in range(n)), *(f"over{k}" for k in range(n)), "norm", *more.row_names],
            exact=True,
        )

    def _distance(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.abs(points - self.center).sum(axis=1)
            doubt = allowance(self.dimension) * (total + self.radius)
            return total - self.radius - doubt, total - self.radius + np.where(total > 0, doubt, 0.0)

    def _in_ball_exact(self, point: list[Fraction]) -> bool:
        gaps, eps = self._integer_gaps(point)
        return sum(map(abs, gaps)) <= eps

    def _onto_sphere(self, points: np.ndarray) -> np.ndarray:
        """center + clip(sign(gap) max(|gap| - t, 0)), gap = x - center, with t by Newton's method in a bracket.

        Source: Duchi et al. 2008, lemma 1, extended by the clip (separable: KKT conditions coordinate by coordinate).
        """
        gap = points - self.center
        size, sign = np.abs(gap), np.sign(gap)
        low, high = self.lower - self.center, self.upper - self.center
        goal = self.radius * (1 - 2 * allowance(self.dimension))
        least, most = np.zeros((len(gap), 1)), size.max(axis=1, keepdims=True)
        t = least
        for _ in range(NEWTON_STEPS):
            wanted = sign * np.maximum(size - t, 0.0)
            step = np.minimum(np.maximum(wanted, low), high)
            excess = np.abs(step).sum(axis=1, keepdims=True) - goal
            if (np.abs(excess) <= 1e-15 * goal).all():
                break
            free = ((step == wanted) & (size > t)).sum(axis=1, keepdims=True)
            least, most = np.where(excess > 0, t, least), np.where(excess > 0, most, t)
            newton = t + excess / np.maximum(free, 1)
            t = np.where((free > 0) & (newton >= least) & (newton <= most), newton, (least + most) / 2)
        return self._into_box(self.center + sign * np.maximum(size - t, 0.0))

    def _dual_norm(self, w: Array) -> Array:
        xp = array_namespace(w)
        return xp.max(xp.abs(w), axis=-1)

    def _threshold(self, lam: Array) -> tuple[Array, Array, Array]:
        """Where the budget eps runs out when it goes to the largest |lam_i| first.

        Returns:
            The level t (m, 1), how much of the budget each coordinate's full step takes beyond the anchor (m, n), and
            what the anchor leaves of the budget (m,).
        """
        xp = array_namespace(lam)
        center, anchor, lower, upper = (like(v, lam) for v in (self.center, self.anchor, self.lower, self.upper))
        near = xp.abs(anchor - center)
        gain = xp.abs(xp.where(lam > 0, lower, upper) - center) - near
        gain = xp.where(gain > 0, gain, xp.zeros_like(gain))
        budget = self.radius - xp.sum(near) + xp.zeros_like(lam[:, 0])
        return fill_l1(xp.abs(lam), gain, budget), gain, budget

    def _ball_share(self, lam: Array) -> Array:
        """lam clipped to [-t, t]; where the centre is outside the clip, the whole of t on the side that pulls back."""
        xp = array_namespace(lam)
        center, lower, upper = (like(v, lam) for v in (self.center, self.lower, self.upper))
        t, _, _ = self._threshold(lam)
        w = xp.minimum(xp.maximum(lam, -t), t)
        return xp.where(center < lower, -t + 0.0 * w, xp.where(center > upper, t + 0.0 * w, w))

    def _minimiser(self, lam: Array) -> Array:
        xp = array_namespace(lam)
        anchor, lower, upper = (like(v, lam) for v in (self.anchor, self.lower, self.upper))
        t, gain, budget = self._threshold(lam)
        size, zero = xp.abs(lam), xp.zeros_like(lam)
        spent = xp.sum(xp.where(size > t, gain, zero), axis=-1)
        tied = xp.sum(xp.where(size == t, gain, zero), axis=-1)
        share = (budget - spent) / xp.where(tied > 0, tied, xp.ones_like(tied))
        share = xp.minimum(xp.maximum(share, xp.zeros_like(share)), xp.ones_like(share))[:, None]
        part = xp.where(size > t, 1.0 + zero, xp.where((size == t) & (size > 0), share + zero, zero))
        return anchor + part * (xp.where(lam > 0, lower, upper) - anchor)

    def _draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        spacings = rng.exponential(size=(n, self.dimension + 1))
        signs = rng.choice([-1.0, 1.0], size=(n, self.dimension))
        return self.center + self.radius * signs * spacings[:, 1:] / spacings.sum(axis=1, keepdims=True)


@dataclass(frozen=True, eq=False, repr=False)
class L2Ball(RoundBall):
    """{ sum_i (x_i - center_i)^2 <= eps^2 } within the clip."""

    def linear_rows(self) -> RegionRows:
        """The cuts only: with x's column bounds an outer box, `exact` is False. `tangent_cut` adds rows on demand."""
        return replace(super().linear_rows(), exact=False)

    def tangent_cut(self, x: Any) -> tuple[np.ndarray, float]:
        """The half-space a.x <= rhs that touches the ball in the direction of x. Rounded: it contains the ball.

        Args:
            x: A point other than the centre, n numbers; a point outside the ball is cut off.

        Returns:
            a of shape (n,), of length about 1, and rhs.

        Raises:
            RegionError: If x is the centre or has the wrong length.
        """
        point = flat_vector(x, "L2Ball.tangent_cut")
        if len(point) != self.dimension or not (point != self.center).any():
            raise RegionError(
                f"L2Ball.tangent_cut: expected a point of {self.dimension} coordinates other than the center, got "
                f"{len(point)}. Pass a point outside the ball."
            )
        gap, _ = unit_rows((point - self.center)[None])
        a = gap / norm_l2(gap)[:, None]
        support = rounded(ball_estimate(-a, self.center, self.radius, norm_l2(a)), self.dimension)
        return frozen(a[0]), -float(support[0])

    def _distance(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(over="ignore", invalid="ignore"):
            gap = points - self.center
            total, goal = (gap * gap).sum(axis=1), self.radius * self.radius
            doubt = allowance(self.dimension) * (total + goal) + UNDERFLOW
            return total - goal - doubt, total - goal + np.where((gap != 0).any(axis=1), doubt, 0.0)

    def _in_ball_exact(self, point: list[Fraction]) -> bool:
        gaps, eps = self._integer_gaps(point)
        return sum(gap * gap for gap in gaps) <= eps * eps

    def _onto_sphere(self, points: np.ndarray) -> np.ndarray:
        """center + clip(s (x - center)), s <= 1 by the norm: the KKT conditions of the projection."""
        direction, scale = unit_rows(points - self.center)
        goal = self.radius * (1 - 2 * allowance(self.dimension))
        s = fill_l2(direction, self.lower - self.center, self.upper - self.center, goal)
        return np.asarray(self._into_box(self.center + np.minimum(s, scale) * direction))

    def _dual_norm(self, w: Array) -> Array:
        return norm_l2(w)

    def _step(self, lam: Array) -> tuple[Array, Array, Array]:
        """The minimiser's step clip(-s lam/scale), s of shape (m, 1), and scale = max |lam_i|."""
        xp = array_namespace(lam)
        center, lower, upper = (like(v, lam) for v in (self.center, self.lower, self.upper))
        direction, scale = unit_rows(-lam)
        s = fill_l2(direction, lower - center, upper - center, self.radius)
        return xp.minimum(xp.maximum(s * direction, lower - center), upper - center), s, scale

    def _ball_share(self, lam: Array) -> Array:
        """lam where the step is free, -step scale / s where the clip holds it."""
        xp = array_namespace(lam)
        step, s, scale = self._step(lam)
        held = -step * scale / xp.where(s > 0, s, xp.ones_like(s))
        return xp.where(step == -lam / scale * s, lam, held)

    def _minimiser(self, lam: Array) -> Array:
        step, _, _ = self._step(lam)
        return like(self.center, lam) + step

    def _draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        direction = rng.standard_normal((n, self.dimension))
        length = np.linalg.norm(direction, axis=1, keepdims=True)
        radius = self.radius * rng.random((n, 1)) ** (1 / self.dimension)
        return self.center + radius * direction / np.where(length > 0, length, 1.0)
