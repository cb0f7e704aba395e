r"""The union of polygons over shared vertices: its area and its boundary.

N(p), the number of polygons over a point p, only changes across the edges that do not cancel: where neighbours are
mapped to the two sides of their common edge, the edge falls out; what stays are folds and the outer boundary. In strips
between the ends and crossings of those edges they are in a fixed order, and the union is where N > 0. So

    area = sum over strips of the width times the length of the union on the strip's middle line,

without any decision that rounding could turn into more than rounding: a crossing that is missed by a hair, or two
edges that coincide, change the area by their distance and no more.

Source: Bentley & Ottmann 1979 (the sweep), here for all strips at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ANGLES = np.pi * ((np.arange(24) + 0.5) * 0.6180339887498949 % 1.0)  # directions of the sweep to choose from
CLOSE = 2.0**-46  # of the picture's size: ends so near to each other are one, strips or gaps so thin are none
ENTRIES_AT_ONCE = 4_000_000


@dataclass(frozen=True, eq=False)
class Edges:
    """Edges of polygons that do not cancel, swept from left to right.

    Attributes:
        left, right: Their ends in the frame of the sweep, left.x <= right.x, shape (K, 2).
        jump: How much N grows from below to above, shape (K,).
    """

    left: np.ndarray
    right: np.ndarray
    jump: np.ndarray

    def heights(self, index: np.ndarray, x: np.ndarray) -> np.ndarray:
        """y of some edges at some x."""
        a, b = self.left[index], self.right[index]
        width = b[:, 0] - a[:, 0]
        share = np.where(width > 0, (x - a[:, 0]) / np.where(width > 0, width, 1.0), 0.5)
        return np.asarray(a[:, 1] + np.clip(share, 0.0, 1.0) * (b[:, 1] - a[:, 1]))


@dataclass(frozen=True, eq=False)
class Union:
    """What a union of polygons is.

    Attributes:
        area: Its area.
        boundary: Its boundary as segments (from, to) with the union on their left, shape (S, 2, 2).
    """

    area: float
    boundary: np.ndarray


def union_of(points: np.ndarray, corner: np.ndarray, following: np.ndarray, turn: np.ndarray) -> Union:
    """The union of polygons. Floating: the area is right to about 1e-12 of that of their bounding box.

    Args:
        points: Vertices, shape (V, 2).
        corner: Vertices of all polygons, one polygon after the other, shape (C,).
        following: The next vertex of the same polygon, shape (C,).
        turn: 1 for corners of counter-clockwise polygons, -1 for clockwise ones, 0 for polygons to leave out, (C,).
    """
    size = float(np.ptp(points, axis=0).max(initial=0.0))
    a, b, weight = _uncancelled(len(points), corner, following, turn)
    if not len(a) or size == 0.0:
        return Union(0.0, np.zeros((0, 2, 2)))
    along = _sweep_direction(points[b] - points[a])
    frame = np.column_stack([along, [-along[1], along[0]]])
    middle = points.mean(axis=0)
    turned = (points - middle) @ frame
    swap = turned[a, 0] > turned[b, 0]
    left, right = turned[np.where(swap, b, a)], turned[np.where(swap, a, b)]
    edges = Edges(left, right, np.where(swap, -weight, weight))
    area, pieces = _swept(edges, CLOSE * size)
    return Union(area, pieces @ frame.T + middle)


def _uncancelled(
    n: int, corner: np.ndarray, following: np.ndarray, turn: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges (a, b) with the number of polygons on their left less that on their right, where it is not 0."""
    used = (turn != 0) & (corner != following)
    a, b = corner[used], following[used]
    key, place = np.unique(np.minimum(a, b) * n + np.maximum(a, b), return_inverse=True)
    weight = np.bincount(place, weights=turn[used] * np.where(a < b, 1, -1), minlength=len(key)).astype(np.int64)
    key, weight = key[weight != 0], weight[weight != 0]
    return key // n, key % n, weight


def _sweep_direction(edges: np.ndarray) -> np.ndarray:
    """A unit vector that is far from perpendicular to every edge."""
    unit = edges / np.linalg.norm(edges, axis=1).clip(min=np.finfo(float).tiny)[:, None]
    candidates = np.column_stack([np.cos(ANGLES), np.sin(ANGLES)])
    worst = [float(np.abs(unit @ candidate).min()) for candidate in candidates]
    return np.asarray(candidates[int(np.argmax(worst))])


def _swept(edges: Edges, close: float) -> tuple[float, np.ndarray]:
    """Area and boundary pieces of the union in the frame of the sweep."""
    k = len(edges.jump)
    events = np.concatenate([edges.left[:, 0], edges.right[:, 0], _crossings(edges)])
    order = np.argsort(events, kind="stable")
    group = np.cumsum(np.diff(events[order], prepend=events[order[0]]) > close)
    number = np.empty(len(events), dtype=np.int64)
    number[order] = group
    x = events[order[np.searchsorted(group, np.arange(group[-1] + 1))]]
    first, last = number[:k], number[k : 2 * k]
    alive = np.cumsum(np.bincount(first, minlength=len(x)) - np.bincount(last, minlength=len(x)))[:-1]
    total, found = 0.0, []
    for begin, end in _batches(alive):
        area, *pieces = _strips(edges, x, first, last, begin, end, close)
        total += area
        found.append(pieces)
    edge, strip, upper = (
        (np.concatenate(part) for part in zip(*found, strict=True)) if found else [np.zeros(0, int)] * 3
    )
    return total, _pieces(edges, x, edge, strip, upper)


def _batches(alive: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of strips with a limited number of edges in them together."""
    batch = np.cumsum(alive) // ENTRIES_AT_ONCE
    ends = np.flatnonzero(np.diff(batch, append=batch[-1:] + 1)) + 1
    return list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))


def _strips(
    edges: Edges, x: np.ndarray, first: np.ndarray, last: np.ndarray, begin: int, end: int, close: float
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """The union in the strips begin..end-1: its area, and the edges that bound it as (edge, strip, from above)."""
    low, high = np.clip(first, begin, end), np.clip(last, begin, end)
    edge = np.repeat(np.arange(len(low)), high - low)
    strip = np.arange(len(edge)) - np.repeat(np.cumsum(high - low) - high, high - low)
    y = edges.heights(edge, (x[strip] + x[strip + 1]) / 2)
    order = np.lexsort((y, strip))
    edge, strip, y = edge[order], strip[order], y[order]
    # Every polygon is left again, so that N is 0 between strips.
    above = np.cumsum(edges.jump[edge])
    below = above - edges.jump[edge]
    opens, closes = np.flatnonzero((below <= 0) & (above > 0)), np.flatnonzero((below > 0) & (above <= 0))
    total = float(((y[closes] - y[opens]) * (x[strip[opens] + 1] - x[strip[opens]])).sum())
    # Coincident edges in either order: a gap between them, or a strip, that is none.
    touching = (strip[closes[:-1]] == strip[opens[1:]]) & (y[opens[1:]] - y[closes[:-1]] <= close)
    opens, closes = opens[np.append(True, ~touching)[: len(opens)]], closes[np.append(~touching, True)[: len(closes)]]
    thick = y[closes] - y[opens] > close
    ends = np.concatenate([opens[thick], closes[thick]])
    return total, edge[ends], strip[ends], np.repeat([0, 1], int(thick.sum()))


def _pieces(edges: Edges, x: np.ndarray, edge: np.ndarray, strip: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Maximal pieces of edges over neighbouring strips, the union on their left, shape (S, 2, 2)."""
    if not len(edge):
        return np.zeros((0, 2, 2))
    order = np.lexsort((strip, upper, edge))
    edge, strip, upper = edge[order], strip[order], upper[order]
    new = np.append(True, (np.diff(edge) != 0) | (np.diff(upper) != 0) | (np.diff(strip) != 1))
    begins = np.flatnonzero(new)
    ends = np.append(begins[1:], len(edge)) - 1
    index = edge[begins]
    at = [np.clip(side, edges.left[index, 0], edges.right[index, 0]) for side in (x[strip[begins]], x[strip[ends] + 1])]
    low, high = (np.column_stack([side, edges.heights(index, side)]) for side in at)
    pieces = np.stack([low, high], axis=1)
    back = upper[begins] == 1
    pieces[back] = pieces[back, ::-1]
    return pieces


def _crossings(edges: Edges) -> np.ndarray:
    """x of all points where two edges cross, each in its interior."""
    order = np.argsort(edges.left[:, 0], kind="stable")
    left, right = edges.left[order], edges.right[order]
    ends = np.searchsorted(left[:, 0], right[:, 0], side="left")
    counts = np.maximum(ends - np.arange(len(left)) - 1, 0)
    found = [np.zeros(0)]
    for begin, end in _batches(counts):
        some = counts[begin:end]
        i = np.repeat(np.arange(begin, end), some)
        j = i + 1 + np.arange(len(i)) - np.repeat(np.cumsum(some) - some, some)
        found.append(_crossing(left[i], right[i], left[j], right[j]))
    return np.concatenate(found)


def _crossing(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """x where the segments a b and c d cross, for those pairs that do."""
    near = (np.minimum(a[:, 1], b[:, 1]) <= np.maximum(c[:, 1], d[:, 1])) & (
        np.minimum(c[:, 1], d[:, 1]) <= np.maximum(a[:, 1], b[:, 1])
    )
    a, b, c, d = (part[near] for part in (a, b, c, d))
    at_c, at_d, at_a, at_b = _side(a, b, c), _side(a, b, d), _side(c, d, a), _side(c, d, b)
    cross = (at_c * at_d < 0) & (at_a * at_b < 0)
    share = at_a[cross] / (at_a[cross] - at_b[cross])
    return np.asarray(a[cross, 0] + share * (b[cross, 0] - a[cross, 0]))


def _side(a: np.ndarray, b: np.ndarray, p: np.ndarray) -> np.ndarray:
    """On which side of the line a b a point is, times its distance and the length of a b."""
    return np.asarray((b[:, 0] - a[:, 0]) * (p[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (p[:, 0] - a[:, 0]))
