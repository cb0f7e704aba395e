"""Linear cuts A x <= b of a region."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from milpverify.errors import RegionError
from milpverify.spec.rounding import UNDERFLOW, allowance


@dataclass(frozen=True, eq=False)
class Cuts:
    """The half-spaces A x <= b, meant as the exact values of the floats.

    Attributes:
        A: Shape (m, n), float64.
        b: Shape (m,), float64.
    """

    A: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    b: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        self.A.flags.writeable = False
        self.b.flags.writeable = False

    @property
    def n_rows(self) -> int:
        """Number of half-spaces m."""
        return len(self.b)

    def extended(self, A: Any, b: Any, n: int) -> Cuts:
        """These cuts and more.

        Args:
            A: Shape (m, n) or (n,).
            b: Shape (m,) or a number.
            n: Number of coordinates.

        Raises:
            RegionError: If shapes do not fit or a number is not finite.
        """
        rows, right = np.atleast_2d(np.array(A, dtype=np.float64)), np.atleast_1d(np.array(b, dtype=np.float64))
        if rows.shape != (len(right), n) or right.ndim != 1:
            raise RegionError(
                f"with_cuts: A of shape {np.shape(A)} and b of shape {np.shape(b)} came, expected (m, {n}) and (m,). "
                "Give A one column per input and b one entry per row."
            )
        if not (np.isfinite(rows).all() and np.isfinite(right).all()):
            raise RegionError("with_cuts: A or b holds NaN or infinity. Leave out rows that bind nothing.")
        return Cuts(np.concatenate([self.A.reshape(-1, n), rows]), np.concatenate([self.b, right]))

    def hold(self, point: np.ndarray) -> bool:
        """Whether A x <= b at a float64 point of shape (n,). Exact."""
        if not self.n_rows:
            return True
        excess, doubt = self._excess(point[None])
        if (excess > doubt).any():
            return False
        unsure = np.flatnonzero(~(excess < -doubt)[0])  # NaN, from overflow, is unsure too
        return not len(unsure) or self._hold_exact([Fraction(v) for v in point.tolist()], unsure)

    def nearly_hold(self, points: np.ndarray) -> np.ndarray:
        """Whether A x <= b up to rounding at points of shape (batch, n); shape (batch,). Floating."""
        excess, doubt = self._excess(points)
        return np.asarray((excess <= doubt).all(axis=1))

    def hold_exact(self, point: list[Fraction]) -> bool:
        """Whether A x <= b at a rational point. Exact."""
        return self._hold_exact(point, np.arange(self.n_rows))

    def _hold_exact(self, point: list[Fraction], which: np.ndarray) -> bool:
        for i in which:
            row = self.A[i]
            used = np.flatnonzero(row)
            if sum(Fraction(float(row[j])) * point[j] for j in used) > Fraction(float(self.b[i])):
                return False
        return True

    def pull(self, points: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Points moved onto the half-spaces A x <= b - depth that they violate, one after the other. Floating.

        Args:
            points: Shape (batch, n).
            depth: Shape (m,), in units of A x.
        """
        points = points.copy()
        for i in range(self.n_rows):
            row = self.A[i]
            length = float(row @ row)
            push = np.maximum(points @ row - self.b[i] + depth[i], 0.0) / (length if length > 0 else 1.0)
            points -= push[:, None] * row
        return points

    def _excess(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A x - b in float64 and how far it can be off, shapes (batch, m)."""
        size = np.abs(points) @ np.abs(self.A).T + np.abs(self.b)
        return points @ self.A.T - self.b, allowance(self.A.shape[1]) * size + UNDERFLOW


NO_CUTS = Cuts()
