"""Linear regions tile their input set without cracks, have the right patterns and maps, and agree with rationals."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from milpverify.errors import OptionError, RegionError
from milpverify.network.graph import Network
from milpverify.polytope.convex import polygon_area
from milpverify.polytope.input_slice import InputSlice
from milpverify.polytope.linear_regions import LinearRegions, linear_regions
from milpverify.search.milp import MILP
from milpverify.spec.regions import Box, L1Ball, L2Ball, LinfBall, Region
from milpverify.tasks.margin import Minimiser
from milpverify.tasks.ranges import output_range
from tests.cases import skip
from tests.polytope.planar_cases import exact_regions, integer_net, network, random_net, unit_circle

SQUARE = [(-2, -2), (2, -2), (2, 2), (-2, 2)]
HEXAGON = np.array([[2, 0], [1, 2], [-1, 2], [-2, 0], [-1, -2], [1, -2]]) / 4


def plane(seed: int, n: int) -> InputSlice:
    """A triangle in a random plane through R^n."""
    rng = np.random.default_rng(seed)
    return InputSlice(rng.normal(size=n), rng.normal(size=(2, n)), np.array([[0, 0], [1, 0.25], [0.25, 1]]))


CASES: dict[str, tuple[Network, Region | InputSlice]] = {
    "box": (random_net(0, 2, 30, 30, 30, 2), LinfBall(np.array([0.1, -0.2]), 2.0)),
    "long box": (random_net(1, 2, 20, 20, 3), Box(np.array([-1e-3, -3.0]), np.array([1e-3, 3.0]))),
    "far box": (random_net(7, 2, 20, 20, 2), LinfBall(np.array([1e3, -1e3]), 1.0)),
    "clipped diamond": (random_net(2, 2, 25, 25, 2), L1Ball(np.array([0.9, 0.1]), 0.8, clip=(0, 1))),
    "cut box": (random_net(3, 2, 20, 20, 2), Box(-np.ones(2), np.ones(2)).with_cuts([[1.0, 1.0]], [0.5])),
    "polygon": (random_net(4, 2, 20, 20, 2), InputSlice.of_polygon(HEXAGON)),
    "slice": (random_net(5, 12, 20, 20, 4), plane(5, 12)),
    "fixed inputs": (random_net(6, 5, 20, 20, 2), Box(np.array([0, -1, 1, -1, 2.0]), np.array([0, 1, 1, 1, 2.0]))),
    "skips": (skip(np.random.default_rng(8)), LinfBall(np.zeros(2), 3.0)),
    "no hidden layer": (random_net(9, 2, 3), LinfBall(np.zeros(2), 1.0)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Network, LinearRegions]:
    net, region = CASES[request.param]
    return net, linear_regions(net, region)


def test_areas_add_up_to_the_input_set(case: tuple[Network, LinearRegions]) -> None:
    _, regions = case
    assert (regions.areas > 0).all()
    assert abs(regions.areas.sum() / regions.area - 1) <= 1e-12


def test_neighbours_share_vertices_and_edges_without_cracks(case: tuple[Network, LinearRegions]) -> None:
    _, regions = case
    assert len(np.unique(regions.vertices, axis=0)) == len(regions.vertices)
    edges = [
        edge
        for i in range(len(regions))
        for cell in [regions.corner[regions.start[i] : regions.start[i + 1]].tolist()]
        for edge in zip(cell, cell[1:] + cell[:1], strict=True)
    ]
    directed = set(edges)
    assert len(directed) == len(edges), "an edge is walked twice in one direction: two regions overlap"
    rim = [(a, b) for a, b in directed if (b, a) not in directed]
    length = sum(float(np.linalg.norm(regions.vertices[b] - regions.vertices[a])) for a, b in rim)
    corners = regions.input_slice.polygon
    assert length == pytest.approx(np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1).sum(), rel=1e-11)


def test_every_pattern_occurs_once_and_is_that_of_the_regions_inside(case: tuple[Network, LinearRegions]) -> None:
    net, regions = case
    middles = np.array([regions.polygon(i).mean(axis=0) for i in range(len(regions))])
    hidden = net.activations(regions.input_slice.inputs(middles))[0]
    every = np.concatenate([np.ones((len(regions), 1)), *(regions.pattern(k + 1) for k in range(len(hidden)))], axis=1)
    assert len(np.unique(every, axis=0)) == len(regions)
    for k, zhat in enumerate(hidden, start=1):
        clear = np.abs(zhat) > 1e-9 * (1 + np.abs(zhat).max())  # a sliver's middle is as near to its sides as rounding
        assert clear.mean() > 0.95
        assert ((zhat > 0) == regions.pattern(k))[clear].all()


def test_sampled_inputs_go_where_their_regions_map_and_image_say(case: tuple[Network, LinearRegions]) -> None:
    net, regions = case
    points = regions.input_slice.sample(np.random.default_rng(0), 3000)
    y, where = net.forward(regions.input_slice.inputs(points)), regions.locate(points)
    assert (where >= 0).mean() > 0.999
    points, y, where = points[where >= 0], y[where >= 0], where[where >= 0]
    A, c = regions.maps
    size = 1e-9 * max(1.0, float(np.abs(y).max()))
    assert np.abs(np.einsum("rij,rj->ri", A[where], points) + c[where] - y).max() <= size
    for region in np.unique(where):
        corners, images = (part[regions.corner[regions.start[region] : regions.start[region + 1]]]
                           for part in (regions.vertices, regions.outputs))  # fmt: skip
        assert np.abs(corners @ A[region].T + c[region] - images).max() <= size
        side = np.roll(corners, -1, axis=0) - corners
        to = points[where == region][:, None] - corners
        across = (side[:, 0] * to[..., 1] - side[:, 1] * to[..., 0]) / np.linalg.norm(side, axis=1)
        assert across.min() >= -1e-9 * np.abs(regions.input_slice.polygon).max()


def test_the_image_contains_what_inputs_are_mapped_to(case: tuple[Network, LinearRegions]) -> None:
    net, regions = case
    y = net.forward(regions.input_slice.inputs(regions.input_slice.sample(np.random.default_rng(1), 500)))
    low, high = regions.output_range
    size = 1e-9 * max(1.0, float(np.abs(y).max()))
    assert (y >= low - size).all() and (y <= high + size).all()
    image = regions.image()
    assert ((unit_circle(64) @ y[:, :2].T).max(axis=1) <= image.support(unit_circle(64)) + size).all()


def test_condensing_changes_nothing_but_the_way(case: tuple[Network, LinearRegions]) -> None:
    net, regions = case
    one, other = (linear_regions(net, regions.input_slice, condensing=how) for how in (True, False))
    assert len(one) == len(other) == len(regions)
    assert np.sort(one.areas) == pytest.approx(np.sort(other.areas), rel=1e-6, abs=1e-12 * regions.area)
    keys = [
        sorted(zip(*(part.pattern(k + 1).tolist() for k in range(len(net.layers))), strict=True))
        for part in (one, other)
    ]  # fmt: skip
    assert keys[0] == keys[1]


@pytest.mark.parametrize("seed", range(40))
def test_regions_agree_with_rational_arithmetic_where_lines_meet_and_coincide(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = integer_net(rng, 2, *rng.integers(2, 6, rng.integers(1, 4)).tolist(), 2)
    expected = exact_regions(net, SQUARE)
    regions = linear_regions(net, InputSlice.of_polygon(np.array(SQUARE)))
    found = {
        tuple(tuple(regions.pattern(k + 1)[i].tolist()) for k in range(len(net.layers))): float(regions.areas[i])
        for i in range(len(regions))
    }
    assert len(found) == len(regions)
    assert found.keys() == expected.keys()
    for pattern, area in expected.items():
        assert found[pattern] == pytest.approx(float(area), rel=1e-10)


def test_lines_through_corners_and_along_edges_make_no_slivers() -> None:
    # x + y = 0 and x - y = 0 run through the square's corners, x = 1 along its edge, 2x = 2 coincides with it.
    weights = [[1, 1], [1, -1], [1, 0], [2, 0], [1, 0]]
    net = network((weights, [0, 0, -1, -2, 0]), (np.eye(5)[:2], np.zeros(2)))
    regions = linear_regions(net, LinfBall(np.zeros(2), 1.0))
    assert sorted(regions.areas.tolist()) == pytest.approx([0.5, 0.5, 0.5, 0.5, 1.0, 1.0])


@pytest.mark.parametrize("offset", [0.0, 1e-18, 1e-15, 1e-13, 1e-10, 1e-7])
def test_nearly_coinciding_lines_leave_a_tiling(offset: float) -> None:
    net = network(([[1, 1], [1 + offset, 1], [1, 1], [1, 1]], [0, 0, offset, -offset]), (np.ones((1, 4)), [0]))
    regions = linear_regions(net, LinfBall(np.zeros(2), 1.0))
    assert abs(regions.areas.sum() / 4 - 1) <= 1e-12
    assert (regions.areas > 0).all()


def test_the_hull_is_what_mixed_integer_programs_say_in_64_directions() -> None:
    net, ball = random_net(3, 2, 10, 10, 3), LinfBall(np.zeros(2), 0.5)
    rows = np.array([[1.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
    hull = linear_regions(net, ball).image(rows)
    directions = unit_circle(64)
    ranges = output_range(net, ball, directions[:32] @ rows, method=Minimiser(search=MILP(), gap=1e-8))
    told = [(found.maximum.lower, found.maximum.upper) for found in ranges]
    told += [(-found.minimum.upper, -found.minimum.lower) for found in ranges]  # of the opposite directions
    h = hull.support(directions)[:, None]
    assert np.abs(np.array(told) - h).max() <= 1e-7


def test_a_segment_is_parted_into_segments_and_a_point_stays_a_point() -> None:
    net = random_net(1, 2, 20, 20, 2)
    regions = linear_regions(net, Box(np.array([-3.0, 0.5]), np.array([3.0, 0.5])))
    assert len(regions) > 5 and regions.area == 0 and (regions.areas == 0).all()
    assert (np.diff(regions.start) == 2).all()
    ends = regions.vertices[regions.corner].reshape(-1, 2, 2)
    assert np.abs(ends[:, 1, 0] - ends[:, 0, 0]).sum() == pytest.approx(6.0, rel=1e-13)
    assert net.forward(regions.input_slice.inputs(regions.vertices)) == pytest.approx(regions.outputs, abs=1e-12)
    image = regions.image()
    assert image.area == 0 and len(image.boundary) == 0 and len(image.segments) == len(regions)
    x = np.array([0.25, -1.0])
    for nothing in (Box(x, x), LinfBall(x, 0.0), L1Ball(x, 0.0), L2Ball(x, 0.0)):
        point = linear_regions(net, nothing)
        assert len(point) == 1 and point.image().area == 0 and len(point.image().hull) == 1
        assert point.outputs[0] == pytest.approx(net.forward(x), abs=1e-13)


def test_a_coordinate_fixed_at_a_decimal_that_is_no_float_is_fixed() -> None:
    net, tenth = random_net(2, 3, 10, 10, 2), Fraction(1, 10)
    region = Box.of_fractions([Fraction(-1), tenth, Fraction(0)], [Fraction(1), tenth, Fraction(2)])
    assert region.lower[1] < region.upper[1]
    regions = linear_regions(net, region)
    assert regions.area == 4.0 and len(regions) > 5
    assert regions.input_slice.inputs(np.zeros(2)).tolist() == [0.0, 0.1, 0.0]


def test_a_diamond_that_its_clip_flattens_keeps_the_rest_of_its_radius() -> None:
    # |x_0 - 0| + |x_1 - 0| + |x_2 - 1/2| <= 1 with x_2 = 0: a diamond of radius 1/2 is left.
    ball = L1Ball(np.array([0.0, 0.0, 0.5]), 1.0, clip=(np.array([-2.0, -2.0, 0.0]), np.array([2.0, 2.0, 0.0])))
    assert InputSlice.of_region(ball).area == pytest.approx(0.5, rel=1e-14)


def test_a_slanted_segment_of_a_plane_is_parted_too() -> None:
    net, where = random_net(5, 12, 20, 20, 4), plane(5, 12)
    segment = InputSlice(where.origin, where.directions, np.array([[0.0, 0.0], [2.0, 1.0]]))
    regions = linear_regions(net, segment)
    assert len(regions) > 3
    assert net.forward(segment.inputs(regions.vertices)) == pytest.approx(regions.outputs, abs=1e-11)


def test_what_is_no_two_dimensional_set_is_refused_with_the_remedy() -> None:
    net = random_net(0, 3, 4, 2)
    with pytest.raises(RegionError, match=r"3 of 3 inputs vary.*InputSlice"):
        linear_regions(net, LinfBall(np.zeros(3), 1.0))
    with pytest.raises(RegionError, match="L2 ball is no polygon"):
        linear_regions(random_net(0, 2, 4, 2), L2Ball(np.zeros(2), 1.0))
    with pytest.raises(RegionError, match="L2 ball is no polygon"):
        linear_regions(net, L2Ball(np.zeros(3), 1.0, clip=(np.zeros(3), np.array([1.0, 0, 0]))))
    with pytest.raises(RegionError, match="has 2 coordinates, the network reads 3"):
        linear_regions(net, LinfBall(np.zeros(2), 1.0))


@pytest.mark.parametrize(
    ("polygon", "told"),
    [
        ([[0, 0], [1, 0], [0.1, 0.1], [0, 1]], "not convex"),
        ([[0, 0], [1, 1], [1, 0], [0, 1]], "not convex"),
        ([[np.cos(a), np.sin(a)] for a in np.arange(5) * 4 * np.pi / 5], "winds around"),
        ([], "came, expected"),
        ([[0, np.nan], [1, 0], [1, 1]], "not finite"),
    ],
)
def test_polygons_that_are_not_convex_are_refused(polygon: list[list[float]], told: str) -> None:
    with pytest.raises(RegionError, match=told):
        InputSlice.of_polygon(polygon)


def test_a_clockwise_polygon_is_turned_over() -> None:
    one = InputSlice.of_polygon(HEXAGON[::-1])
    assert polygon_area(one.polygon) == one.area == pytest.approx(polygon_area(HEXAGON)) and one.area > 0


def test_too_many_regions_are_refused_with_their_number_and_the_remedy() -> None:
    net, ball = random_net(0, 2, 30, 30, 2), LinfBall(np.zeros(2), 2.0)
    count = len(linear_regions(net, ball))
    assert len(linear_regions(net, ball, max_regions=count)) == count
    with pytest.raises(OptionError, match=r"regions already in layer \d of 2, max_regions=\d+.*smaller eps.*larger"):
        linear_regions(net, ball, max_regions=count - 1)
    with pytest.raises(OptionError, match="max_regions must be at least 1"):
        linear_regions(net, ball, max_regions=0)
