"""The linear regions of one input set as a page draws them: polygons over shared vertices, and the maps behind them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from milpverify.network.graph import Network
from milpverify.polytope.convex import clip
from milpverify.polytope.linear_regions import LinearRegions

DIGITS = 6  # significant ones of numbers that are read, and of coordinates relative to the plane's extent
TIE = 2.0**-40  # of the outputs' size: how far apart two of them count as equal where classes meet


@dataclass(frozen=True, eq=False)
class PageFaces:
    """Some of the linear regions, and the plane of outputs that they are seen in.

    Attributes:
        regions: All of them.
        chosen: Which are shown, largest first.
        outputs: The two outputs that are drawn.
    """

    regions: LinearRegions
    chosen: np.ndarray
    outputs: tuple[int, int]

    @classmethod
    def largest(cls, regions: LinearRegions, most: int, outputs: tuple[int, int]) -> PageFaces:
        """The `most` regions with the largest areas."""
        order = np.argsort(-regions.areas, kind="stable")
        return cls(regions, order[:most], outputs)

    @property
    def shown_share(self) -> float:
        """Area of the regions shown, as a share of the input set's."""
        return float(self.regions.areas[self.chosen].sum() / self.regions.areas.sum())

    @cached_property
    def patterns(self) -> np.ndarray:
        """Whether each neuron, layer after layer, is on in each region shown, shape (chosen, n_neurons)."""
        layers = [self.regions.pattern(k)[self.chosen] for k in range(1, len(self.regions.always) + 1)]
        return np.concatenate([np.zeros((len(self.chosen), 0), dtype=bool), *layers], axis=1)

    @cached_property
    def maps(self) -> np.ndarray:
        """Of each region shown (a, b, c) of both outputs, a s + b t + c: shape (chosen, 6)."""
        A, c = self.regions.maps
        rows, outputs = self.chosen, list(self.outputs)
        return np.concatenate([A[rows][:, outputs], c[rows][:, outputs, None]], axis=2).reshape(len(rows), 6)

    @cached_property
    def labels(self) -> np.ndarray:
        """The class of each region shown, -1 where several classes share it, shape (chosen,).

        A class that has the largest output at every corner has it everywhere between them.
        """
        return np.array([self._label(self._corners(i)) for i in range(len(self.chosen))])

    def _corners(self, i: int) -> np.ndarray:
        start, region = self.regions.start, self.chosen[i]
        return np.asarray(self.regions.corner[start[region] : start[region + 1]])

    def _label(self, corners: np.ndarray) -> int:
        y = self.regions.outputs[corners]
        slack = TIE * np.abs(y).max(initial=1.0)
        winners = np.flatnonzero((y >= y.max(axis=1, keepdims=True) - slack).all(axis=0))
        return int(winners[0]) if len(winners) else -1

    def parts(self) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
        """The regions that several classes share, cut where two of them tie.

        Returns:
            (face, class, its polygon in the input set, its polygon of outputs) of every part, shapes (k, 2).
        """
        A, c = self.regions.maps
        found = []
        for face in np.flatnonzero(self.labels < 0):
            region = self.chosen[face]
            polygon = self.regions.polygon(int(region))
            slack = 2.0**-46 * float(np.abs(polygon).max())
            for label in range(A.shape[1]):
                part = _won_by(label, A[region], c[region], polygon, slack)
                if len(part) > 2:
                    found.append((int(face), label, part, (part @ A[region].T + c[region])[:, list(self.outputs)]))
        return found

    def vertices(self) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
        """The vertices of the regions shown: (s, t) and outputs, each (V, 2), and each region's corners among them."""
        corners = [self._corners(i) for i in range(len(self.chosen))]
        used, place = np.unique(np.concatenate(corners), return_inverse=True)
        ends = np.cumsum([len(part) for part in corners])[:-1]
        rings = [part.tolist() for part in np.split(place.reshape(-1), ends)]
        return self.regions.vertices[used], self.regions.outputs[used][:, list(self.outputs)], rings

    def to_dict(self, pieces: Pieces) -> dict[str, Any]:
        """`regions`, `shown_share`, `area`, `vertices`, `faces` and `parts` of a scene (see `page`)."""
        inputs, images, rings = self.vertices()
        flat = np.concatenate([rounded(inputs, inputs), rounded(images, images)], axis=1)
        indices = [pieces.index(pattern, values) for pattern, values in zip(self.patterns, self.maps, strict=True)]
        areas = [significant(area) for area in self.regions.areas[self.chosen]]
        faces = [
            [piece, label, area, *ring]
            for piece, label, area, ring in zip(indices, self.labels.tolist(), areas, rings, strict=True)
        ]
        parts = []
        for face, label, polygon, image in self.parts():
            corners = np.concatenate([rounded(polygon, inputs), rounded(image, images)], axis=1)
            parts.append([face, label, *compact(corners)])
        return {
            "regions": len(self.regions),
            "shown_share": self.shown_share,
            "area": self.regions.area,
            "vertices": compact(flat),
            "faces": faces,
            "parts": parts,
        }


class Pieces:
    """The affine pieces that the scenes of a page share: each activation pattern is written once."""

    def __init__(self) -> None:
        self._index: dict[bytes, int] = {}
        self._patterns: list[np.ndarray] = []
        self._maps: list[np.ndarray] = []

    def index(self, pattern: np.ndarray, values: np.ndarray) -> int:
        """The number of the piece with this pattern; its map is kept if it is new."""
        key = np.packbits(pattern).tobytes()
        if key not in self._index:
            self._index[key] = len(self._maps)
            self._patterns.append(pattern)
            self._maps.append(values)
        return self._index[key]

    def to_dict(self, net: Network, home: np.ndarray) -> dict[str, Any]:
        """`neurons` (those that differ between pieces: layer and number), `pieces` and `home`, the centre's pattern."""
        patterns = np.array([*self._patterns, home])
        varying = np.flatnonzero(patterns.any(axis=0) & ~patterns.all(axis=0))
        layer = np.repeat(np.arange(1, len(net.sizes) + 1), net.sizes)
        number = np.concatenate([np.zeros(0, dtype=int), *(np.arange(size) for size in net.sizes)])
        bits = [np.packbits(pattern[varying]).tobytes().hex() for pattern in patterns]
        pieces = [
            {"map": [significant(value, DIGITS + 2) for value in values], "active": int(pattern.sum()), "bits": text}
            for values, pattern, text in zip(self._maps, self._patterns, bits[:-1], strict=True)
        ]
        neurons = np.column_stack([layer[varying], number[varying]]).tolist()
        return {"neurons": neurons, "pieces": pieces, "home": bits[-1]}


def rounded(points: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Points, (n, 2), to 10^-DIGITS of the extent of `like`, (m, 2), on each axis, or better."""
    columns = []
    for values, scale in zip(points.T, like.T, strict=True):
        extent = float(np.ptp(scale)) or float(np.abs(scale).max(initial=0.0)) or 1.0
        columns.append(np.round(values, DIGITS - int(np.floor(np.log10(extent)))))
    return np.column_stack(columns)


def significant(value: float, digits: int = DIGITS) -> float:
    """The value to so many significant digits."""
    return float(f"{value:.{digits}g}")


def compact(points: np.ndarray) -> list[float]:
    """A flat list, whole numbers without their decimal point: what JSON writes shortest."""
    return [int(value) if value.is_integer() and abs(value) < 1e15 else value for value in points.reshape(-1).tolist()]


def joined(segments: np.ndarray) -> list[np.ndarray]:
    """Segments (from, to), shape (S, 2, 2), as lines: each goes on as long as some segment begins where it ends."""
    following: dict[tuple[float, ...], list[int]] = {}
    for i, start in enumerate(segments[:, 0].tolist()):
        following.setdefault(tuple(start), []).append(i)
    left, lines = set(range(len(segments))), []
    while left:
        i = min(left)
        line = [segments[i, 0]]
        while True:
            left.discard(i)
            following[tuple(segments[i, 0].tolist())].remove(i)
            line.append(segments[i, 1])
            after = following.get(tuple(segments[i, 1].tolist()))
            if not after:
                break
            i = after[0]
        lines.append(np.array(line))
    return lines


def _won_by(label: int, A: np.ndarray, c: np.ndarray, polygon: np.ndarray, slack: float) -> np.ndarray:
    """The part of a polygon where an affine map's output `label` is the largest."""
    for other in range(len(A)):
        normal = A[other] - A[label]
        size = float(np.abs(normal).max())
        if other == label or len(polygon) < 3:
            continue
        if size == 0.0:
            if c[other] > c[label] or (c[other] == c[label] and other < label):
                return polygon[:0]
            continue
        polygon = clip(polygon, normal / size, float(c[label] - c[other]) / size, slack)
    return polygon
