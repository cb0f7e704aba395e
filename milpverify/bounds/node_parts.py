"""What nodes of a search are bounded with: phases, multipliers, planes, and the steps of an ascent on many nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

DECAY_FIRST, DECAY_SECOND = 0.9, 0.99  # of Adam's moments
BETA_SHARE = 0.3  # step size of beta, in units of lambda, next to that of alpha
THETA_SHARE = 0.3  # of theta
SPARE = 1e-12


@dataclass(frozen=True, eq=False)
class Phases:
    """What the bounds of some nodes say of every neuron, each of shape (B, N).

    Attributes:
        free: Whether l < 0 < u.
        sign: +1 where active, -1 where inactive, 0 where free.
        slope: u / (u - l) where free, 1 where active, 0 where inactive.
        intercept: -slope l where free, else 0.
        offset: l where active, -u where inactive: what a unit of beta gains for free.
    """

    free: np.ndarray
    sign: np.ndarray
    slope: np.ndarray
    intercept: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, l: np.ndarray, u: np.ndarray, dtype: Any = np.float64) -> Phases:
        """The phases of bounds l <= u."""
        free, active = (l < 0) & (u > 0), l >= 0
        slope = np.where(free, u / np.where(free, u - l, 1.0), active)
        intercept = np.where(free, -slope * l, 0.0)
        sign = np.where(free, 0.0, np.where(active, 1.0, -1.0))
        offset = np.where(free, 0.0, np.where(active, l, -u))
        return cls(free, *(part.astype(dtype) for part in (sign, slope, intercept, offset)))


@dataclass(frozen=True, eq=False)
class Multipliers:
    """What a bound is made of: alpha and beta (B, N), theta of the planes (B, c), weights mu of the rows (B, m)."""

    alpha: np.ndarray
    beta: np.ndarray
    theta: np.ndarray
    mu: np.ndarray

    def __getitem__(self, index: Any) -> Multipliers:
        return Multipliers(*(part[index] for part in self.parts))

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All four."""
        return self.alpha, self.beta, self.theta, self.mu


@dataclass(frozen=True, eq=False)
class Planes:
    """Upper planes z_n <= P.t + R of some neurons, the lower layers' first.

    Attributes:
        neuron: Which of the N, rising layers, (c,).
        P: Over all columns [x, z_1, ...]; zero from the neuron's own layer on, (c, columns).
        R: Rounded up, so that the plane holds for the network's own neuron, (c,).
        allowance: What a unit of pi loses to rounding, (c,).
        of_neuron: 1 where a plane belongs to a neuron, (c, N).
    """

    neuron: np.ndarray
    P: np.ndarray
    R: np.ndarray
    allowance: np.ndarray
    of_neuron: np.ndarray

    def __len__(self) -> int:
        return len(self.neuron)


@dataclass(frozen=True, eq=False)
class Ascended:
    """Where an ascent ended: the best multipliers it saw, with their bound, lambda of the neurons and minimiser."""

    value: np.ndarray  # (B,) floating
    multipliers: Multipliers
    lam: np.ndarray  # (B, N)
    x: np.ndarray  # (B, n_inputs)


class Adam:
    """The moments of some values, (B, ...)."""

    def __init__(self, like: np.ndarray, rate: float) -> None:
        self._rate, self._first, self._second = rate, np.zeros_like(like), np.zeros_like(like)

    def move(self, step: int, slope: np.ndarray) -> np.ndarray:
        """How far to go along a slope at a step from 0."""
        self._first += (1 - DECAY_FIRST) * (slope - self._first)
        self._second += (1 - DECAY_SECOND) * (slope * slope - self._second)
        size = np.sqrt(self._second / (1 - DECAY_SECOND ** (step + 1))) + SPARE
        pace = self._rate / (1 - DECAY_FIRST ** (step + 1))
        return np.asarray((pace * self._first / size).astype(slope.dtype))


def better_of(best: Ascended | None, now: Ascended) -> Ascended:
    """Node by node the larger bound with what belongs to it."""
    if best is None:
        return now
    better = now.value > best.value
    if better.all():
        return now
    wide = better[:, None]
    parts = zip(now.multipliers.parts, best.multipliers.parts, strict=True)
    kept = Multipliers(*(np.where(wide, new, old) for new, old in parts))
    value = np.where(better, now.value, best.value)
    return Ascended(value, kept, np.where(wide, now.lam, best.lam), np.where(wide, now.x, best.x))


def toward(mu: np.ndarray, slack: np.ndarray, rate: float) -> np.ndarray:
    """mu moved towards the rows whose slack is largest, on the simplex of each node's rows. Floating.

    Source: Kivinen & Warmuth 1997 (exponentiated gradient).
    """
    mine = mu > 0
    width = np.where(mine, np.abs(slack), 0).max(axis=1, keepdims=True) + SPARE
    grown = np.where(mine, np.maximum(mu, 1e-6) * np.exp(rate * slack / width), 0)
    return (grown / grown.sum(axis=1, keepdims=True)).astype(mu.dtype)
