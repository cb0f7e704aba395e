"""Which class wins where on a two-dimensional input set, and by how much: exact, from the linear regions.

On a linear region every output is affine, so the set where one is the largest is a polygon, and so is the set where a
margin lies between two levels. The mesh of regions is cut along y_j = max_{i<j} y_i for one class after the other:
the running maximum is linear on every face once the classes before have cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from milpverify.errors import OptionError
from milpverify.polytope.linear_regions import LinearRegions
from milpverify.polytope.mesh import Cut, Mesh, cut
from milpverify.polytope.mesh_edges import boundaries

SNAP = 2.0**-42  # of the largest value: two functions this near to each other at a vertex are equal there
POINTS_AT_ONCE = 16384


@dataclass(frozen=True, eq=False)
class DecisionMap:
    """An input set parted by the class of the largest score.

    Floating: vertices of boundaries are rounded; the faces fit without gaps, so areas add up to the set's within 1e-12
    of it. Where two scores tie on a whole region the first class has it, as with argmax.

    Attributes:
        regions: The linear regions.
        mesh: Polygons, each within one region and of one class; (s, t).
        label: The class of each, shape (F,).
        region: The linear region of each, shape (F,).
        scores: rows . y at the mesh's vertices, shape (V, n_classes).
    """

    regions: LinearRegions
    mesh: Mesh = field(repr=False)
    label: np.ndarray = field(repr=False)
    region: np.ndarray = field(repr=False)
    scores: np.ndarray = field(repr=False)

    @property
    def n_classes(self) -> int:
        """Number of classes, those that win nowhere included."""
        return self.scores.shape[1]

    @cached_property
    def areas(self) -> np.ndarray:
        """Area of each class, in units of s t, shape (n_classes,)."""
        return np.bincount(self.label, self.mesh.areas(), self.n_classes)

    @cached_property
    def boundary(self) -> np.ndarray:
        """The segments between faces of different classes, (s, t), shape (e, 2, 2)."""
        return boundaries(self.mesh, self.label)


@dataclass(frozen=True, eq=False)
class MarginMap:
    """An input set parted by the size of a class's margin, y_label - max_other y_other. Floating, as `DecisionMap`.

    Attributes:
        regions: The linear regions.
        label: The class.
        levels: Rising, where the set is cut.
        mesh: Polygons on which the margin is affine, each between two levels next to each other; (s, t).
        band: Of each polygon, how many levels its margin is above, shape (F,).
        margin: At the mesh's vertices, shape (V,).
    """

    regions: LinearRegions
    label: int
    levels: tuple[float, ...]
    mesh: Mesh = field(repr=False)
    band: np.ndarray = field(repr=False)
    margin: np.ndarray = field(repr=False)

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest margin on the set: attained at vertices, for it is affine on every face."""
        return float(self.margin.min()), float(self.margin.max())

    def area_above(self, level: float) -> float:
        """Area where the margin exceeds one of the levels, in units of s t.

        Raises:
            OptionError: If the set was not cut at this level.
        """
        if level not in self.levels:
            raise OptionError(
                f"MarginMap.area_above: {level} is none of the levels {self.levels}. Give it to margin_map."
            )
        return float(self.mesh.areas()[self.band > self.levels.index(level)].sum())


def decision_map(regions: LinearRegions, rows: np.ndarray | None = None) -> DecisionMap:
    """Part an input set by the class whose score is the largest.

    Args:
        regions: The linear regions of a two-dimensional input set.
        rows: The scores as functionals of the outputs, shape (n_classes, n_outputs): the outputs themselves when None;
            minus the identity where the least output wins, as in ACAS Xu.

    Raises:
        OptionError: If the rows do not fit, there is one class only, or the set has no area.
    """
    rows = _rows("decision_map", regions, rows)
    mesh, label, region, outputs = _parted(regions, rows)
    return DecisionMap(regions, mesh, label, region, outputs @ rows.T)


def margin_map(regions: LinearRegions, label: int, levels: tuple[float, ...] = (0.0,)) -> MarginMap:
    """Part an input set along level sets of a class's margin.

    Args:
        regions: The linear regions of a two-dimensional input set.
        label: The class.
        levels: Rising; 0 is the decision boundary of the class.

    Raises:
        OptionError: If the label or the levels do not fit, there is one class only, or the set has no area.
    """
    n = regions.outputs.shape[1]
    rows = _rows("margin_map", regions, None)
    if not 0 <= label < n:
        raise OptionError(f"margin_map: label {label} came, the network has outputs 0 to {n - 1}.")
    if list(levels) != sorted(set(levels)) or not np.isfinite(levels).all():
        raise OptionError(f"margin_map: levels must be finite and rise, got {levels}.")
    others = np.delete(rows, label, axis=0)
    mesh, _, _, outputs = _parted(regions, others)
    margin = outputs[:, label] - (outputs @ others.T).max(axis=1)
    done = _cut(mesh, margin[:, None] - np.array(levels), float(np.abs(outputs).max()))
    outputs = _extended(regions, outputs, done.mesh)
    margin = outputs[:, label] - (outputs @ others.T).max(axis=1)
    return MarginMap(regions, label, tuple(levels), done.mesh, done.positive.sum(axis=1), margin)


def regions_mesh(regions: LinearRegions) -> Mesh:
    """The regions as faces: rows of corners, short ones repeating their first."""
    counts, first = np.diff(regions.start), regions.start[:-1]
    place = np.arange(counts.max())
    return Mesh(regions.vertices, regions.corner[first[:, None] + np.where(place < counts[:, None], place, 0)])


def _rows(who: str, regions: LinearRegions, rows: np.ndarray | None) -> np.ndarray:
    n = regions.outputs.shape[1]
    chosen = np.eye(n) if rows is None else np.asarray(rows, dtype=np.float64)
    if chosen.ndim != 2 or chosen.shape[1] != n or len(chosen) < 2 or not np.isfinite(chosen).all():
        raise OptionError(
            f"{who}: scores of shape {chosen.shape} came, expected finite ones of shape (classes, {n}), two classes or "
            "more. For the sign of one output give rows [[1], [-1]]."
        )
    if not regions.area > 0:
        raise OptionError(f"{who}: the input set has no area. Give one in which two inputs vary.")
    return chosen


def _parted(regions: LinearRegions, rows: np.ndarray) -> tuple[Mesh, np.ndarray, np.ndarray, np.ndarray]:
    """The mesh of regions cut by the largest of the rows: mesh, which row, which region, outputs at the vertices."""
    mesh, outputs = regions_mesh(regions), regions.outputs
    label, region = np.zeros(mesh.n_faces, dtype=int), np.arange(mesh.n_faces)
    for j in range(1, len(rows)):
        scores = outputs @ rows[: j + 1].T
        done = _cut(mesh, scores[:, j:] - scores[:, :j].max(axis=1, keepdims=True), float(np.abs(scores).max()))
        label = np.where(done.positive[:, 0], j, label[done.origin])
        mesh, region = done.mesh, region[done.origin]
        outputs = _extended(regions, outputs, mesh)
    return mesh, label, region, outputs


def _cut(mesh: Mesh, values: np.ndarray, size: float) -> Cut:
    return cut(mesh, values, np.full(values.shape[1], SNAP * size), lambda count: None)


def _extended(regions: LinearRegions, outputs: np.ndarray, mesh: Mesh) -> np.ndarray:
    """The outputs at all vertices of a mesh that a cut has added vertices to, shape (V, n_outputs)."""
    local = (mesh.points[len(outputs) :] - regions.center) / regions.half
    chunks = [local[first : first + POINTS_AT_ONCE] for first in range(0, len(local), POINTS_AT_ONCE)]
    return np.concatenate([outputs, *(regions.small.forward(chunk) for chunk in chunks)])
