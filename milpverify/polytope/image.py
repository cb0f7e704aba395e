"""Images of linear regions in a plane of outputs: a union of polygons, its area, its boundary and its convex hull."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from milpverify.polytope.convex import convex_hull, support
from milpverify.polytope.union import Union, union_of

THIN = 2.0**-40  # of a polygon's diameter: below this width it is a segment
ROUNDING = 2.0**-46  # of the picture's size, likewise


@dataclass(frozen=True, eq=False)
class Image:
    """Polygons over shared vertices in the plane, each the affine image of a linear region.

    They overlap wherever the network takes different regions to the same outputs.

    Attributes:
        points: Images of the vertices, shape (V, 2).
        start, corner: Corners of the polygons, as of `LinearRegions`; clockwise where the map turns a region over.
    """

    points: np.ndarray
    start: np.ndarray
    corner: np.ndarray

    def __len__(self) -> int:
        return len(self.start) - 1

    def polygon(self, region: int) -> np.ndarray:
        """Corners of one polygon, shape (k, 2)."""
        return np.asarray(self.points[self.corner[self.start[region] : self.start[region + 1]]])

    @cached_property
    def signed_areas(self) -> np.ndarray:
        """Areas of the polygons, negative where the map turns the region over, shape (R,). Floating."""
        first = np.repeat(self.start[:-1], np.diff(self.start))
        x, y = (self.points[self.corner] - self.points[self.corner[first]]).T
        after = _following(self.start)
        return np.asarray(0.5 * np.add.reduceat(x * y[after] - x[after] * y, self.start[:-1]))

    @property
    def area(self) -> float:
        """Area of the union of the polygons: overlaps count once. Floating, to about 1e-12 of the bounding box."""
        return self._union.area

    @property
    def boundary(self) -> np.ndarray:
        """The union's boundary as segments (from, to) with the union on their left, shape (S, 2, 2); holes included.

        Of the polygons that are not flat: see `segments`.
        """
        return self._union.boundary

    @cached_property
    def segments(self) -> np.ndarray:
        """What flat polygons are: their two ends (equal for a point), shape (F, 2, 2).

        Of an input set that is a segment or a point, or where the network maps a region to less than an area.
        """
        counts = np.diff(self.start)[self._flat]
        corners = self.points[self.corner[np.repeat(self._flat, np.diff(self.start))]]
        first = np.cumsum(counts) - counts
        one = _farthest(corners, counts, corners[first])
        return np.stack([_farthest(corners, counts, one), one], axis=1)

    @cached_property
    def _flat(self) -> np.ndarray:
        """Polygons that are segments or points, up to rounding."""
        corners = self.points[self.corner]
        low, high = (f.reduceat(corners, self.start[:-1], axis=0) for f in (np.minimum, np.maximum))
        diameter = (high - low).max(axis=1)
        size = float(np.ptp(self.points, axis=0).max())
        return np.asarray(np.abs(self.signed_areas) <= diameter * np.maximum(THIN * diameter, ROUNDING * size))

    @cached_property
    def _union(self) -> Union:
        turn = np.where(self._flat, 0, np.sign(self.signed_areas)).astype(np.int64)
        following = self.corner[_following(self.start)]
        return union_of(self.points, self.corner, following, np.repeat(turn, np.diff(self.start)))

    @cached_property
    def hull(self) -> np.ndarray:
        """The convex hull, counter-clockwise, shape (k, 2)."""
        return convex_hull(self.points)

    def support(self, directions: np.ndarray) -> np.ndarray:
        """max d . p over the image for directions (m, 2), shape (m,). Floating."""
        return support(self.points, directions)


def _farthest(corners: np.ndarray, counts: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Of each polygon's corners the one farthest from its place, shape (F, 2)."""
    polygon = np.repeat(np.arange(len(counts)), counts)
    distance = ((corners - place[polygon]) ** 2).sum(axis=1)
    return np.asarray(corners[np.lexsort((distance, polygon))[np.cumsum(counts) - 1]])


def _following(start: np.ndarray) -> np.ndarray:
    """For each entry of the CSR list of corners the next one of the same polygon."""
    after = np.arange(1, start[-1] + 1)
    after[start[1:] - 1] = start[:-1]
    return after
