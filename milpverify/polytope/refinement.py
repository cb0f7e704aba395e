"""Which directions an outline asks for: more where its two polygons are farthest apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpverify.errors import OptionError
from milpverify.polytope.support import Answer, SupportFunction

LEAST_ANGLE = 1e-6  # between neighbours: their lines' crossing is known to rounding over it


@dataclass(frozen=True)
class Refinement:
    """Which directions are asked for.

    Attributes:
        first: Directions to begin with, evenly spread; a multiple of 4, for the axes are among them. 4, with as many at
            most, give a box.
        most: Directions at most.
        tolerance: Directions are added until the outer polygon reaches beyond the inner one by no more than this share
            of the outline's diameter; without points, until one more half-plane cuts off no more than that.

    Raises:
        OptionError: If a number makes no sense.
    """

    first: int = 16
    most: int = 256
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.first < 4 or self.first % 4 or self.most < self.first or not 0 < self.tolerance < 1:
            raise OptionError(
                "Refinement: first must be a multiple of 4, most at least first and tolerance in (0, 1); got "
                f"first={self.first}, most={self.most}, tolerance={self.tolerance}."
            )


@dataclass(frozen=True, eq=False)
class Asked:
    """Directions by rising angle, with what is known of them.

    Attributes:
        angles: In [0, 2 pi), shape (m,).
        answer: Of all of them.
        depth: Between each direction and the next, how much one more half-plane could cut off, as far as is known;
            shape (m,).
    """

    angles: np.ndarray
    answer: Answer
    depth: np.ndarray

    @property
    def directions(self) -> np.ndarray:
        """Unit vectors, shape (m, 2); the axes exactly."""
        return directions_of(self.angles)

    def corners(self) -> np.ndarray:
        """Where the lines of each direction and of the next meet, shape (m, 2)."""
        d, h = self.directions, self.answer.offsets
        e, g = np.roll(d, -1, axis=0), np.roll(h, -1)
        cross = d[:, 0] * e[:, 1] - d[:, 1] * e[:, 0]
        return np.column_stack([h * e[:, 1] - g * d[:, 1], g * d[:, 0] - h * e[:, 0]]) / cross[:, None]

    @property
    def diameter(self) -> float:
        """Of the box around the outline, its longer side."""
        at = [np.flatnonzero((self.directions == axis).all(axis=1))[0] for axis in ([1, 0], [-1, 0], [0, 1], [0, -1])]
        right, left, top, bottom = self.answer.offsets[at]
        return float(max(right + left, top + bottom, 0.0))


def directions_of(angles: np.ndarray) -> np.ndarray:
    """Unit vectors of angles; multiples of pi / 2 give the axes exactly."""
    quarter = np.rint(angles / (np.pi / 2))
    exact = np.abs(angles - quarter * (np.pi / 2)) < 1e-12
    sides = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])[quarter.astype(int) % 4]
    return np.where(exact[:, None], sides, np.column_stack([np.cos(angles), np.sin(angles)]))


def refined(function: SupportFunction, how: Refinement) -> Asked:
    """Ask for directions until both polygons meet to the tolerance, or there are enough."""
    angles = np.arange(how.first) * (2 * np.pi / how.first)
    answer = function.ask(directions_of(angles))
    asked = _measured(Asked(angles, answer, np.full(len(angles), np.inf)))
    while len(asked.angles) < how.most:
        wide = asked.depth > how.tolerance * asked.diameter
        wide &= _widths(asked.angles) > 2 * LEAST_ANGLE
        worst = np.argsort(-np.where(wide, asked.depth, -np.inf), kind="stable")[: how.most - len(asked.angles)]
        worst = np.sort(worst[wide[worst]])
        if not len(worst):
            break
        asked = _extended(asked, worst, function)
    return asked


def _extended(asked: Asked, worst: np.ndarray, function: SupportFunction) -> Asked:
    """One more direction between each of some directions and the next."""
    new = _between(asked, worst)
    answer = function.ask(directions_of(new))
    # Without points, a gap stays open as long as halving it cuts off more than the tolerance.
    cut = (directions_of(new) * asked.corners()[worst]).sum(axis=1) - answer.offsets
    depth = asked.depth.copy()
    depth[worst] = cut
    angles = np.concatenate([asked.angles, new])
    order = np.argsort(angles, kind="stable")
    offsets = np.concatenate([asked.answer.offsets, answer.offsets])[order]
    points = None
    if asked.answer.points is not None and answer.points is not None:
        points = np.concatenate([asked.answer.points, answer.points])[order]
    both = Answer(offsets, points, asked.answer.solver_trusted or answer.solver_trusted)
    return _measured(Asked(angles[order], both, np.concatenate([depth, cut])[order]))


def _widths(angles: np.ndarray) -> np.ndarray:
    """The angle from each direction to the next."""
    return np.asarray(np.diff(angles, append=angles[0] + 2 * np.pi))


def _between(asked: Asked, index: np.ndarray) -> np.ndarray:
    """Angles between some directions and the next: across the line through their points, or else half-way."""
    width, start = _widths(asked.angles)[index], asked.angles[index]
    share = np.full(len(index), 0.5)
    if asked.answer.points is not None:
        step = np.roll(asked.answer.points, -1, axis=0)[index] - asked.answer.points[index]
        across = (np.arctan2(-step[:, 0], step[:, 1]) - start) % (2 * np.pi) / width
        inside = (across * width > LEAST_ANGLE) & ((1 - across) * width > LEAST_ANGLE)
        share = np.where(inside, across, share)  # NaN is not inside
    return np.asarray((start + share * width) % (2 * np.pi))


def _measured(asked: Asked) -> Asked:
    """With points on both sides, the depth is what they say: how far a corner is from the line between them."""
    points = asked.answer.points
    if points is None:
        return asked
    after, corner = np.roll(points, -1, axis=0), asked.corners()
    known = np.isfinite(points).all(axis=1) & np.isfinite(after).all(axis=1)
    distance = segment_distance(corner, points, after)
    return Asked(asked.angles, asked.answer, np.where(known, distance, asked.depth))


def segment_distance(p: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of points to segments a b, all of shape (..., 2)."""
    side = b - a
    length = (side * side).sum(axis=-1)
    share = ((p - a) * side).sum(axis=-1) / np.where(length > 0, length, 1.0)
    return np.asarray(np.linalg.norm(p - a - np.clip(share, 0.0, 1.0)[..., None] * side, axis=-1))
