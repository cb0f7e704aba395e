"""Two-dimensional input sets: a convex polygon in a plane through the space of inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from milpverify.errors import RegionError
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import Dense
from milpverify.polytope.convex import clip, convex_hull, polygon_area
from milpverify.spec.regions import L1Ball, L2Ball, Region

FLAT = 2.0**-44  # of a polygon's size: how far from convex rounding may leave it


@dataclass(frozen=True, eq=False)
class InputSlice:
    """The inputs x = origin + s u + t v for (s, t) in a convex polygon.

    Attributes:
        origin: Shape (n,).
        directions: u and v, shape (2, n). One may be 0 where the polygon is a segment along the other.
        polygon: Vertices (s, t) in order, shape (k, 2), kept counter-clockwise; two for a segment, one for a point.

    Raises:
        RegionError: If shapes do not fit, a number is not finite, or the polygon is not convex.
    """

    origin: np.ndarray
    directions: np.ndarray
    polygon: np.ndarray

    def __post_init__(self) -> None:
        origin, directions = (np.array(part, dtype=np.float64) for part in (self.origin, self.directions))
        polygon = np.array(self.polygon, dtype=np.float64)
        if origin.ndim != 1 or directions.shape != (2, len(origin)) or polygon.ndim != 2 or polygon.shape[1] != 2:
            raise RegionError(
                f"InputSlice: origin {origin.shape}, directions {directions.shape} and polygon {polygon.shape} came, "
                "expected (n,), (2, n) and (k, 2)."
            )
        if not len(polygon) or not all(np.isfinite(part).all() for part in (origin, directions, polygon)):
            raise RegionError("InputSlice: the polygon is empty, or a number is not finite. Give at least one vertex.")
        for name, value in (("origin", origin), ("directions", directions), ("polygon", _ordered(polygon))):
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    @classmethod
    def of_polygon(cls, vertices: Any) -> InputSlice:
        """A convex polygon of inputs of a network that reads two, shape (k, 2)."""
        return cls(np.zeros(2), np.eye(2), vertices)

    @classmethod
    def of_region(cls, region: Region) -> InputSlice:
        """A region with at most two coordinates that vary; s and t are those coordinates themselves.

        Raises:
            RegionError: If more coordinates vary, or the region is an L2 ball.
        """
        # In decimals: a fixed coordinate that is no float lies strictly between two.
        exact = zip(region.exact_lower, region.exact_upper, strict=True)
        free = np.flatnonzero([low < high for low, high in exact])
        if len(free) > 2:
            raise RegionError(
                f"InputSlice: {len(free)} of {region.dimension} inputs vary in the region, linear regions are drawn in "
                "two. Give a region that fixes the others (lower = upper), or InputSlice(origin, directions, polygon)."
            )
        if isinstance(region, L2Ball) and len(free):
            raise RegionError("InputSlice: an L2 ball is no polygon. Give a box, an L1 ball or a polygon within it.")
        origin, directions = np.array(region.exact_lower, dtype=np.float64), np.zeros((2, region.dimension))
        origin[free] = 0.0
        directions[np.arange(len(free)), free] = 1.0
        low, high = np.zeros(2), np.zeros(2)
        low[: len(free)], high[: len(free)] = region.lower[free], region.upper[free]
        polygon = _distinct(np.array([low, [high[0], low[1]], high, [low[0], high[1]]]))
        for normal, offset in _rows(region, free):
            polygon = clip(polygon, normal, offset, FLAT * float(np.abs(polygon).max(initial=0.0)))
        return cls(origin, directions, convex_hull(polygon))

    @property
    def dimension(self) -> int:
        """Number of inputs n."""
        return len(self.origin)

    @property
    def area(self) -> float:
        """Area of the polygon, in units of s t. Floating."""
        return polygon_area(self.polygon)

    def inputs(self, points: np.ndarray) -> np.ndarray:
        """The inputs of points (..., 2), shape (..., n). Floating."""
        return np.asarray(self.origin + np.asarray(points) @ self.directions)

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """n random points (s, t) of the polygon, uniform in it but for rounding, shape (n, 2)."""
        first, rest = self.polygon[0], self.polygon[1:]
        if len(rest) < 2:
            return np.asarray(first + rng.random((n, 1)) * (self.polygon[-1] - first))
        a, b = rest[:-1] - first, rest[1:] - first
        areas = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
        which = rng.choice(len(a), size=n, p=areas / areas.sum())
        share = np.sort(rng.random((n, 2)), axis=1)
        return np.asarray(first + share[:, :1] * a[which] + (share[:, 1:] - share[:, :1]) * b[which])


def on_slice(net: Network, where: InputSlice, center: np.ndarray, half: np.ndarray) -> Network:
    """The network as a function of q, two numbers: (s, t) = center + half q. Floating: weights and biases are rounded.

    Raises:
        RegionError: If the slice does not have net.n_inputs coordinates.
    """
    if where.dimension != net.n_inputs:
        raise RegionError(
            f"linear_regions: the input set has {where.dimension} coordinates, the network reads {net.n_inputs}."
        )
    shift, columns = where.inputs(center), where.directions * half[:, None]

    def restricted(affine: Affine) -> Affine:
        blocks, bias = [], affine.bias
        for source, op in affine.blocks:
            if source == 0:
                bias = bias + op.apply(shift)
                op = Dense(np.ascontiguousarray(op.apply(columns).T))
            blocks.append((source, op))
        return Affine(tuple(blocks), ((None, bias),), affine.size, affine.name)

    layers = tuple(restricted(layer) for layer in net.layers)
    return replace(net, input_shape=(2,), layers=layers, output=restricted(net.output))


def _rows(region: Region, free: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """What cuts the box of the free coordinates further: (normal, offset) of half-planes."""
    rows = []
    fixed = np.setdiff1d(np.arange(region.dimension), free)
    at = np.array(region.exact_lower, dtype=np.float64)
    for a, b in zip(region.cuts.A, region.cuts.b, strict=True):
        rows.append((a[free], float(b - a[fixed] @ at[fixed])))
    if isinstance(region, L1Ball) and len(free):
        center = region.center[free]
        left = float(region.eps) - float(np.abs(at[fixed] - region.center[fixed]).sum())
        signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * len(free))).reshape(len(free), -1).T
        rows += [(sign, left + float(sign @ center)) for sign in signs]
    return [(np.append(normal, np.zeros(2 - len(free))), offset) for normal, offset in rows]


def _distinct(polygon: np.ndarray) -> np.ndarray:
    keep = (polygon != np.roll(polygon, 1, axis=0)).any(axis=1)
    return polygon[keep] if keep.any() else polygon[:1]


def _ordered(polygon: np.ndarray) -> np.ndarray:
    """The polygon without repeated vertices, counter-clockwise; its two ends where it is flat."""
    polygon = _distinct(polygon)
    hull = convex_hull(polygon)
    if len(hull) < 3:
        return hull
    size = float(np.abs(polygon - polygon.mean(axis=0)).max())
    edges = np.roll(polygon, -1, axis=0) - polygon
    following = np.roll(edges, -1, axis=0)
    turns = edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]
    if (turns < -FLAT * size * size).any() and (turns > FLAT * size * size).any():
        raise RegionError(
            "InputSlice: the polygon is not convex, or its vertices are not in order. Give the vertices of a convex "
            "polygon one after the other."
        )
    if abs(abs(polygon_area(polygon)) - polygon_area(hull)) > FLAT * size * size:
        raise RegionError("InputSlice: the polygon winds around itself. Give each vertex of a convex polygon once.")
    return hull
