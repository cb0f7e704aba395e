"""Convex polygons: hulls, half-planes, areas, support functions. Floating, with no allowance for rounding."""

from __future__ import annotations

import numpy as np

from milpverify.errors import OptionError

AXES = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
SLACK = 2.0**-46  # of the polygon's size: vertices so far beyond a half-plane stay, so that flat polygons survive


def polygon_area(vertices: np.ndarray) -> float:
    """The area within a simple polygon, vertices counter-clockwise, shape (k, 2); 0 for a segment or a point."""
    if len(vertices) < 3:
        return 0.0
    x, y = (vertices - vertices[0]).T
    return float(0.5 * (x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def support(points: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """max over the points, (k, 2), of d . p for each direction, (m, 2): shape (m,)."""
    return np.asarray((directions @ points.T).max(axis=1))


def convex_hull(points: np.ndarray) -> np.ndarray:
    """The convex hull of points, (n, 2), counter-clockwise, shape (k, 2).

    Two points for a segment, one for a point. Vertices within rounding of the line between their neighbours can be
    missing: no point lies farther outside than a few units in the last place of the points' size.

    Source:
        Andrew 1979 (monotone chain).
    """
    points = np.unique(np.asarray(points, dtype=np.float64), axis=0)
    if len(points) < 3:
        return points
    points = _without_inner(points)
    lower, upper = _chain(points), _chain(points[::-1])
    hull = np.array(lower[:-1] + upper[:-1])
    return hull if len(hull) > 2 else points[[0, -1]]


def _without_inner(points: np.ndarray) -> np.ndarray:
    """The points, less most of those inside the polygon of the extremes: the chain below is a Python loop."""
    if len(points) < 200:
        return points
    angles = np.arange(32) * (np.pi / 16)
    ends = points[np.unique((np.column_stack([np.cos(angles), np.sin(angles)]) @ points.T).argmax(axis=1))]
    if len(ends) < 3:
        return points
    middle = ends.mean(axis=0)
    ring = ends[np.argsort(np.arctan2(*(ends - middle).T[::-1]))]
    side = np.roll(ring, -1, axis=0) - ring
    normal = np.column_stack([side[:, 1], -side[:, 0]])
    depth = (normal @ points.T - (normal * ring).sum(axis=1)[:, None]).max(axis=0)
    reach = np.abs(points - middle).max()
    return points[depth >= -SLACK * np.abs(normal).max() * reach]


def _chain(points: np.ndarray) -> list[tuple[float, float]]:
    chain: list[tuple[float, float]] = []
    for x, y in points.tolist():
        while len(chain) > 1:
            (ax, ay), (bx, by) = chain[-2], chain[-1]
            if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                break
            chain.pop()
        chain.append((x, y))
    return chain


def clip(vertices: np.ndarray, normal: np.ndarray, offset: float, slack: float) -> np.ndarray:
    """The part of a convex polygon, (k, 2), with normal . p <= offset, shape (k', 2). Vertices within slack stay.

    Where nothing would be left, which only rounding can do to sets that are known to meet, the nearest vertices stay.
    """
    beyond = vertices @ normal - offset
    inside = beyond <= slack
    if inside.all():
        return vertices
    if not inside.any():
        return vertices[beyond <= beyond.min() + slack]
    following, after = np.roll(vertices, -1, axis=0), np.roll(beyond, -1)
    crossing = inside != np.roll(inside, -1)
    share = np.clip(beyond / np.where(crossing, beyond - after, 1.0), 0.0, 1.0)
    met = vertices + share[:, None] * (following - vertices)
    both = np.stack([vertices, met], axis=1).reshape(-1, 2)
    kept = both[np.stack([inside, crossing], axis=1).reshape(-1)]
    repeated = (kept == np.roll(kept, -1, axis=0)).all(axis=1)
    return kept[:1] if repeated.all() else kept[~repeated]


def half_planes(directions: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The polygon { p : d_i . p <= h_i for all i }, counter-clockwise, shape (k, 2).

    Args:
        directions: Shape (m, 2); the four of `AXES` must be among them, so that the polygon is bounded.
        offsets: h, shape (m,).
    """
    box = [float(offsets[(directions == axis).all(axis=1)].min()) for axis in AXES]
    right, top, left, bottom = box[0], box[1], -box[2], -box[3]
    polygon = np.array([[left, bottom], [right, bottom], [right, top], [left, top]])
    slack = SLACK * float(np.abs(polygon).max(initial=0.0))
    for normal, offset in zip(directions, offsets, strict=True):
        polygon = clip(polygon, normal, float(offset), slack)
    return polygon


def plane_rows(who: str, rows: np.ndarray | None, size: int) -> np.ndarray:
    """Two functionals of `size` values, shape (2, size); the first two values when None.

    Raises:
        OptionError: If the shape does not fit, a number is not finite, or there are not two values.
    """
    if rows is None and size < 2:
        raise OptionError(
            f"{who}: the network has {size} output, a plane needs two functionals. Give rows (2, {size})."
        )
    chosen = np.eye(2, size) if rows is None else np.asarray(rows, dtype=np.float64)
    if chosen.shape != (2, size) or not np.isfinite(chosen).all():
        raise OptionError(f"{who}: rows of shape {chosen.shape} came, expected finite ones of shape (2, {size}).")
    return chosen
