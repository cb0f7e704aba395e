"""The union of polygons: areas worked out by hand and by counting, boundaries that close, hulls."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from milpverify.errors import OptionError
from milpverify.polytope.convex import AXES, clip, convex_hull, half_planes, polygon_area, support
from milpverify.polytope.image import Image
from milpverify.polytope.linear_regions import linear_regions
from milpverify.spec.regions import LinfBall
from tests.polytope.planar_cases import network, random_net, unit_circle


def image_of(*polygons: object) -> Image:
    """Polygons that share no vertices."""
    parts = [np.array(polygon, dtype=np.float64) for polygon in polygons]
    start = np.cumsum([0, *map(len, parts)])
    return Image(np.concatenate(parts), start, np.arange(start[-1]))


def box(left: float, bottom: float, right: float, top: float) -> list[tuple[float, float]]:
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def enclosed(boundary: np.ndarray) -> float:
    """The area that directed segments enclose, by Green's theorem."""
    (ax, ay), (bx, by) = boundary[:, 0].T, boundary[:, 1].T
    return float(0.5 * (ax * by - ay * bx).sum())


def length(boundary: np.ndarray) -> float:
    return float(np.linalg.norm(boundary[:, 1] - boundary[:, 0], axis=1).sum())


@pytest.mark.parametrize(
    ("polygons", "area", "around"),
    [
        ([box(0, 0, 1, 1)], 1.0, 4.0),
        ([box(0, 0, 1, 1)[::-1]], 1.0, 4.0),
        ([box(0, 0, 1, 1), box(0.5, 0.5, 1.5, 1.5)], 1.75, 6.0),
        ([box(0, 0, 1, 1), box(0.5, 0.5, 1.5, 1.5)[::-1]], 1.75, 6.0),
        ([box(0, 0, 1, 1), box(0, 0, 1, 1)], 1.0, 4.0),
        ([box(0, 0, 1, 1), box(1, 0, 2, 1)], 2.0, 6.0),
        ([box(0, 0, 1, 1), box(3, 3, 4, 4)], 2.0, 8.0),
        ([box(0, 0, 4, 4), box(1, 1, 2, 2)], 16.0, 16.0),
        ([box(0, 0, 4, 1), box(0, 3, 4, 4), box(0, 1, 1, 3), box(3, 1, 4, 3)], 12.0, 24.0),
        ([[(0, 0), (2, 0), (0, 2)], [(0, 0), (2, 0), (2, 2)]], 3.0, 6.0 + 2 * np.sqrt(2)),
    ],
    ids=["one", "clockwise", "overlap", "overlap, one clockwise", "twice the same", "side by side", "apart", "nested",
         "ring with a hole", "triangles"],
)  # fmt: skip
def test_area_and_boundary_of_a_union_by_hand(polygons: list[object], area: float, around: float) -> None:
    image = image_of(*polygons)
    assert image.area == pytest.approx(area, rel=1e-12)
    assert enclosed(image.boundary) == pytest.approx(area, rel=1e-12)
    assert length(image.boundary) == pytest.approx(around, rel=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_the_area_of_integer_boxes_is_the_number_of_cells_they_cover(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, 12, (rng.integers(1, 15), 2, 2)), axis=1)
    corners[:, 1] += corners[:, 0] == corners[:, 1]
    cells = np.zeros((13, 13), dtype=bool)
    for (left, bottom), (right, top) in corners:
        cells[left:right, bottom:top] = True
    image = image_of(*(box(*low, *high)[:: rng.choice([-1, 1])] for low, high in corners))
    assert image.area == pytest.approx(cells.sum(), rel=1e-12)
    assert enclosed(image.boundary) == pytest.approx(cells.sum(), rel=1e-12)
    around = sum(int(np.abs(np.diff(np.pad(cells.astype(int), 1), axis=axis)).sum()) for axis in (0, 1))
    assert length(image.boundary) == pytest.approx(around, rel=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_the_area_of_triangles_agrees_with_rational_strips(seed: int) -> None:
    rng = np.random.default_rng(seed)
    triangles = rng.integers(-6, 7, (rng.integers(2, 7), 3, 2))
    assert image_of(*triangles).area == pytest.approx(float(_exact_area(triangles.tolist())), rel=1e-10, abs=1e-10)


def _exact_area(triangles: list[list[list[int]]]) -> Fraction:
    """The area of a union of triangles in rationals: strips between all vertices and crossings of all edges."""
    edges = [(t[i], t[(i + 1) % 3]) for t in triangles for i in range(3)]
    xs = {Fraction(p[0]) for t in triangles for p in t}
    for i, (a, b) in enumerate(edges):
        for c, d in edges[:i]:
            cross = (b[0] - a[0]) * (d[1] - c[1]) - (b[1] - a[1]) * (d[0] - c[0])
            if cross:
                s = Fraction((c[0] - a[0]) * (d[1] - c[1]) - (c[1] - a[1]) * (d[0] - c[0]), cross)
                xs.add(a[0] + s * (b[0] - a[0]))
    total, order = Fraction(0), sorted(xs)
    for low, high in pairwise(order):
        total += (high - low) * _covered(triangles, (low + high) / 2)
    return total


def _covered(triangles: list[list[list[int]]], x: Fraction) -> Fraction:
    """How much of a vertical line triangles cover."""
    spans = []
    for t in triangles:
        ys = [
            p[1] + (x - p[0]) * Fraction(q[1] - p[1], q[0] - p[0])
            for p, q in zip(t, t[1:] + t[:1], strict=True)
            if min(p[0], q[0]) < x < max(p[0], q[0])
        ]
        spans += [(min(ys), max(ys))] if ys else []
    total, reached = Fraction(0), None
    for low, high in sorted(spans):
        start = low if reached is None else max(low, reached)
        total += max(high - start, Fraction(0))
        reached = high if reached is None else max(high, reached)
    return total


@pytest.mark.parametrize("seed", range(6))
def test_the_boundary_of_a_networks_image_closes_and_encloses_its_area(seed: int) -> None:
    image = linear_regions(random_net(seed, 2, 30, 30, 30, 2), LinfBall(np.zeros(2), 2.0)).image()
    boundary = image.boundary
    assert enclosed(boundary) == pytest.approx(image.area, rel=1e-9)
    reach = np.abs(boundary[:, 0][:, None] - boundary[:, 1][None]).sum(axis=-1).min(axis=1)
    assert reach.max() <= 1e-9 * np.ptp(image.points, axis=0).max()
    sizes = np.abs(image.signed_areas)
    assert sizes.max() <= image.area <= min(sizes.sum(), polygon_area(image.hull)) * (1 + 1e-12)


def test_a_random_point_is_in_the_union_as_often_as_its_area_says() -> None:
    image = linear_regions(random_net(1, 2, 20, 20, 2), LinfBall(np.zeros(2), 2.0)).image()
    low, high = image.points.min(axis=0), image.points.max(axis=0)
    points = low + (high - low) * np.random.default_rng(0).random((20000, 2))
    covered = np.zeros(len(points), dtype=bool)
    for i, area in enumerate(image.signed_areas):
        corners = image.polygon(i)
        side = np.roll(corners, -1, axis=0) - corners
        to = points[:, None] - corners
        covered |= ((side[:, 0] * to[..., 1] - side[:, 1] * to[..., 0]) * np.sign(area) >= 0).all(axis=1)
    share = image.area / np.prod(high - low)
    assert abs(covered.mean() - share) < 5 * np.sqrt(share * (1 - share) / len(points))


def test_a_fold_covers_its_area_once() -> None:
    # y = (|x_0|, x_1): both halves of the square are mapped onto one rectangle.
    net = network(([[1, 0], [-1, 0], [0, 1]], [0, 0, 5]), ([[1, 1, 0], [0, 0, 1]], [0, -5]))
    image = linear_regions(net, LinfBall(np.zeros(2), 1.0)).image()
    assert sorted(image.signed_areas) == pytest.approx([-2.0, 2.0])
    assert image.area == pytest.approx(2.0, rel=1e-13)
    assert length(image.boundary) == pytest.approx(6.0, rel=1e-12)


def test_what_is_mapped_to_less_than_an_area_is_a_segment_or_a_point() -> None:
    # y = (relu(x_0), relu(x_0)): half of the square goes to a point, the other half to a segment.
    net = network(([[1, 0]], [0]), ([[1], [1]], [0, 0]))
    image = linear_regions(net, LinfBall(np.zeros(2), 1.0)).image()
    assert image.area == 0 and len(image.boundary) == 0
    assert sorted(np.linalg.norm(image.segments[:, 1] - image.segments[:, 0], axis=1)) == pytest.approx([0, 2**0.5])
    assert image.hull == pytest.approx(np.array([[0, 0], [1, 1]]))


def test_an_image_needs_two_functionals() -> None:
    regions = linear_regions(random_net(0, 2, 4, 1), LinfBall(np.zeros(2), 1.0))
    with pytest.raises(OptionError, match="1 output, a plane needs two"):
        regions.image()
    with pytest.raises(OptionError, match=r"rows of shape \(1, 1\)"):
        regions.image(np.eye(1))


@pytest.mark.parametrize("count", [3, 10, 1000])
def test_a_convex_hull_is_scipys(count: int) -> None:
    points = np.random.default_rng(count).normal(size=(count, 2))
    hull, theirs = convex_hull(points), ConvexHull(points)
    assert polygon_area(hull) == pytest.approx(theirs.volume, rel=1e-12)
    assert {tuple(p) for p in hull} == {tuple(p) for p in points[theirs.vertices]}


def test_hulls_of_flat_sets_are_segments_and_points() -> None:
    line = np.array([[0, 0], [1, 1], [3, 3], [2, 2.0]])
    assert convex_hull(line).tolist() == [[0, 0], [3, 3]]
    assert convex_hull(line[:1].repeat(3, axis=0)).tolist() == [[0, 0]]


def test_half_planes_of_a_polygon_give_it_back() -> None:
    polygon = convex_hull(np.random.default_rng(2).normal(size=(30, 2)))
    side = np.roll(polygon, -1, axis=0) - polygon
    normal = np.concatenate([np.column_stack([side[:, 1], -side[:, 0]]), AXES])
    again = half_planes(normal, support(polygon, normal))
    assert polygon_area(again) == pytest.approx(polygon_area(polygon), rel=1e-12)
    assert support(again, unit_circle(50)) == pytest.approx(support(polygon, unit_circle(50)), abs=1e-12)


def test_clipping_leaves_a_touched_vertex() -> None:
    square = np.array(box(0, 0, 1, 1))
    assert clip(square, np.array([-1.0, -1.0]), -2.0, 1e-14).tolist() == [[1, 1]]
    assert polygon_area(clip(square, np.array([1.0, 1.0]), 1.0, 1e-14)) == pytest.approx(0.5)
