"""A polygon cut by one piecewise linear function after the other, into a mesh without cracks.

Every function is known by its values at the mesh's vertices, is linear on every face and on every edge, and cuts the
faces on which it takes both signs. An edge that it crosses is met once, in one point, whatever faces share it: so
neighbours stay neighbours, no vertex lies inside an edge, and no rounding opens a gap. Values within a tolerance of
zero count as zero, so that a line through a vertex or along an edge makes no slivers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FACES_AT_ONCE = 4096  # whose corners' signs are looked at together


@dataclass(frozen=True, eq=False)
class Mesh:
    """Faces over shared vertices.

    Attributes:
        points: Vertices, shape (V, 2).
        corners: Vertices of each face, counter-clockwise, shape (F, K); short rows repeat their first entry. One or two
            different entries where the mesh is of a point or a segment.
    """

    points: np.ndarray
    corners: np.ndarray

    @classmethod
    def of(cls, polygon: np.ndarray) -> Mesh:
        """One face."""
        return cls(np.array(polygon, dtype=np.float64), np.arange(len(polygon))[None, :])

    @property
    def n_faces(self) -> int:
        """Number of faces."""
        return len(self.corners)

    def counts(self) -> np.ndarray:
        """Number of vertices of each face, shape (F,)."""
        repeats = (self.corners[:, 1:] == self.corners[:, :1]).sum(axis=1)
        return np.asarray(self.corners.shape[1] - repeats)

    def areas(self) -> np.ndarray:
        """Areas of the faces, shape (F,). Floating: relative to each face's own size."""
        x, y = np.moveaxis(self.points[self.corners] - self.points[self.corners[:, :1]], -1, 0)
        following = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
        return np.asarray(0.5 * (x * following[1] - following[0] * y).sum(axis=1))


@dataclass(frozen=True, eq=False)
class Cut:
    """A mesh after its cuts.

    Attributes:
        mesh: The mesh; faces 0..F-1 lie within those that were there before.
        origin: For each face the one that it was cut from, shape (F',).
        positive: Whether a function is positive on a face, shape (F', n); it is zero or negative elsewhere.
    """

    mesh: Mesh
    origin: np.ndarray
    positive: np.ndarray


def cut(mesh: Mesh, values: np.ndarray, tolerance: np.ndarray, check: Callable[[int], None]) -> Cut:
    """Cut a mesh along the zeros of n functions.

    Args:
        mesh: The mesh.
        values: Of the functions at the vertices, shape (V, n); those of one sign only cost time.
        tolerance: |value| <= tolerance counts as 0, shape (n,).
        check: Told how many faces there are whenever there are more.
    """
    work = _Work(mesh, values, tolerance)
    for i in range(len(tolerance)):
        work.cut_by(i)
        check(work.n_faces)
    mesh = work.mesh()
    positive = _on_faces(work.sign[: work.n_points], mesh.corners)[0]
    return Cut(mesh, work.origin[: work.n_faces].copy(), positive)


def signs(values: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """1, -1, or 0 within the tolerance; int8."""
    return np.asarray((values > tolerance).astype(np.int8) - (values < -tolerance))


def _on_faces(sign: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether some corner of a face is positive, and whether some is negative, each (F, n)."""
    most, least = (np.empty((len(corners), sign.shape[1]), dtype=bool) for _ in range(2))
    for first in range(0, len(corners), FACES_AT_ONCE):
        some = slice(first, first + FACES_AT_ONCE)
        here = sign[corners[some]]
        most[some], least[some] = (here > 0).any(axis=1), (here < 0).any(axis=1)
    return most, least


class _Work:
    """Arrays that double while a mesh is cut; `values` lacks the first `dropped` functions, which are done."""

    def __init__(self, mesh: Mesh, values: np.ndarray, tolerance: np.ndarray) -> None:
        self.points, self.values, self.tolerance, self.dropped = mesh.points.copy(), values, tolerance, 0
        self.sign = signs(values, tolerance)
        self.corners, self.origin = mesh.corners.copy(), np.arange(mesh.n_faces)
        self.n_points, self.n_faces = len(mesh.points), mesh.n_faces
        most, least = _on_faces(self.sign, mesh.corners)
        self.mixed = most & least

    def mesh(self) -> Mesh:
        """The mesh as it stands."""
        corners = self.corners[: self.n_faces]
        width = int(Mesh(self.points, corners).counts().max())
        return Mesh(self.points[: self.n_points].copy(), corners[:, :width].copy())

    def cut_by(self, i: int) -> None:
        """Cut the faces on which function i takes both signs."""
        faces = np.flatnonzero(self.mixed[: self.n_faces, i])
        if not len(faces):
            return
        rows = self._with_crossings(self.corners[faces], i)
        upper, lower = _halves(rows, np.where(rows < 0, 0.0, self.values[rows, i - self.dropped]), self.sign[rows, i])
        first, count = self.n_faces, len(faces)
        self._grow_faces(first + count, max(upper.shape[1], lower.shape[1]))
        new = np.arange(first, first + count)
        self.n_faces += count
        self.origin[new] = self.origin[faces]
        for index, half in ((faces, upper), (new, lower)):
            self.corners[index] = half[:, :1]
            self.corners[index, : half.shape[1]] = half
            most, least = _on_faces(self.sign[:, i + 1 :], half)
            self.mixed[index, i + 1 :] = most & least

    def _with_crossings(self, corners: np.ndarray, i: int) -> np.ndarray:
        """The faces' corners with the points where function i is zero in between, -1 where there is none: (m, 2 K)."""
        following = np.roll(corners, -1, axis=1)
        crossed = self.sign[corners, i] * self.sign[following, i] < 0
        a, b = corners[crossed], following[crossed]
        keys, place = np.unique(np.minimum(a, b) * self.n_points + np.maximum(a, b), return_inverse=True)
        rows = np.full((*corners.shape, 2), -1)
        rows[..., 0] = corners
        rows[crossed, 1] = self.n_points + place
        self._add_points(keys // self.n_points, keys % self.n_points, i)
        rows = rows.reshape(len(corners), -1)
        # A short row repeats its first corner: only the first entry is a corner of the face.
        rows[:, 2::2][corners[:, 1:] == corners[:, :1]] = -1
        return rows

    def _add_points(self, a: np.ndarray, b: np.ndarray, i: int) -> None:
        """Where function i is zero on the edges a b."""
        end = self.n_points + len(a)
        if end > len(self.points):
            more = max(len(self.points), end)
            self.points, self.sign = _longer(self.points, more), _longer(self.sign, more)
            self.values, self.dropped = _longer(self.values[:, i - self.dropped :], more), i
        done, here = self.dropped, i - self.dropped
        at_a, at_b = self.values[a, here], self.values[b, here]
        share = (at_a / (at_a - at_b))[:, None]
        new = slice(self.n_points, end)
        self.points[new] = self.points[a] + share * (self.points[b] - self.points[a])
        values_a, values_b = self.values[a], self.values[b]
        self.values[new] = values_a + share * (values_b - values_a)
        self.values[new, here] = 0.0
        self.sign[new, done:] = signs(self.values[new], self.tolerance[done:])
        # What is done has cut already: the ends of an edge are on one side of it.
        sign_a, sign_b = self.sign[a, :done], self.sign[b, :done]
        self.sign[new, :done] = np.where(sign_a != 0, sign_a, sign_b)
        self.n_points = end

    def _grow_faces(self, count: int, width: int) -> None:
        if count > len(self.corners):
            more = max(len(self.corners), count)
            self.corners, self.origin, self.mixed = (
                _longer(part, more) for part in (self.corners, self.origin, self.mixed)
            )
        if width > self.corners.shape[1]:
            padding = np.repeat(self.corners[:, :1], width - self.corners.shape[1], axis=1)
            self.corners = np.concatenate([self.corners, padding], axis=1)


def _longer(values: np.ndarray, more: int) -> np.ndarray:
    return np.concatenate([values, np.zeros((more, *values.shape[1:]), dtype=values.dtype)])


def _halves(rows: np.ndarray, value: np.ndarray, sign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of both parts of faces that a function cuts, short rows filled up.

    From the largest corner onwards, the face is left at the first zero and entered again at the last one: two vertices
    of the face, whatever rounding did to the signs in between.

    Args:
        rows: Corners and crossings in order, -1 where there is none, shape (m, w).
        value, sign: Of the function there.
    """
    there = rows >= 0
    start = np.where(there, value, -np.inf).argmax(axis=1)
    turned = (start[:, None] + np.arange(rows.shape[1])) % rows.shape[1]
    rows, there, sign = (np.take_along_axis(part, turned, axis=1) for part in (rows, there, sign))
    outside, every = there & (sign <= 0), np.arange(rows.shape[1])
    leave = outside.argmax(axis=1)[:, None]
    enter = rows.shape[1] - 1 - outside[:, ::-1].argmax(axis=1)[:, None]
    # On a segment both are the same vertex, met on the way out and on the way back.
    twice = np.take_along_axis(rows, leave, axis=1) == np.take_along_axis(rows, enter, axis=1)
    ends = there & ~(twice & (every == enter))
    return _packed(rows, ends & ((every <= leave) | (every >= enter))), _packed(
        rows, ends & (every >= leave) & (every <= enter)
    )


def _packed(rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The kept entries of each row at its front, filled up with its first one."""
    order = np.argsort(~kept, axis=1, kind="stable")
    count = kept.sum(axis=1)
    order = order[:, : count.max()]
    packed = np.take_along_axis(rows, order, axis=1)
    return np.asarray(np.where(np.arange(packed.shape[1]) < count[:, None], packed, packed[:, :1]))
