"""Images of linear regions in a plane of outputs: a union of polygons, its area, its boundary and its convex hull."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from milpverify.polytope.convex import convex_hull, support


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

    @cached_property
    def hull(self) -> np.ndarray:
        """The convex hull, counter-clockwise, shape (k, 2)."""
        return convex_hull(self.points)

    def support(self, directions: np.ndarray) -> np.ndarray:
        """max d . p over the image for directions (m, 2), shape (m,). Floating."""
        return support(self.points, directions)


def _following(start: np.ndarray) -> np.ndarray:
    """For each entry of the CSR list of corners the next one of the same polygon."""
    after = np.arange(1, start[-1] + 1)
    after[start[1:] - 1] = start[:-1]
    return after
