"""Pictures of a margin over a slice: balls are cut where the plane cuts them, the zero set is one."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection

import milpverify as mv
from milpverify.errors import OptionError
from milpverify.polytope.plot_style import DARK, LIGHT, save_figure
from milpverify.polytope.plot_surface import (
    ZERO_WIDTH,
    BallOutline,
    Mark,
    ball_on_slice,
    contour_levels,
    plot_margin,
)
from tests.polytope.region_cases import area_within, lively_net

SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


@pytest.fixture(scope="module")
def net():
    return lively_net(3, (6, 25, 25, 3))


@pytest.fixture(scope="module")
def where():
    rng = np.random.default_rng(1)
    return mv.InputSlice(rng.normal(size=6), rng.normal(size=(2, 6)), SQUARE)


@pytest.fixture(scope="module")
def regions(net, where):
    return mv.linear_regions(net, where)


@pytest.fixture(scope="module")
def label(net, where):
    """The class of the slice's origin, which loses elsewhere on the slice."""
    return int(net.forward(where.origin).argmax())


@pytest.mark.parametrize("center", [(0.0, 0.0), (0.3, -0.2)])
def test_points_of_the_slice_are_in_the_polygon_when_they_are_in_the_ball(where, center):
    polygon = ball_on_slice(where, center, 0.4)
    points = np.random.default_rng(0).uniform(-1, 1, (5000, 2)) + center
    away = np.abs(where.inputs(points) - where.inputs(np.asarray(center))).max(axis=1)
    side = np.roll(polygon, -1, axis=0) - polygon
    left = side[:, 0, None] * (points[:, 1] - polygon[:, 1, None]) - side[:, 1, None] * (
        points[:, 0] - polygon[:, 0, None]
    )
    clear = np.abs(away - 0.4) > 1e-9
    inside = (left >= 0).all(axis=0)
    assert (inside == (away <= 0.4))[clear].all() and inside.any() and not inside.all()


def test_a_ball_on_a_plane_along_two_inputs_is_a_square():
    where = mv.InputSlice(np.zeros(4), np.eye(2, 4), SQUARE)
    polygon = ball_on_slice(where, (0.5, 0.0), 0.25)
    corners = sorted(map(tuple, polygon.round(12).tolist()))
    assert corners == [(0.25, -0.25), (0.25, 0.25), (0.75, -0.25), (0.75, 0.25)]
    assert np.abs(polygon - polygon.round(12)).max() <= 1e-15


def test_a_ball_of_radius_zero_is_its_centre(where):
    assert np.abs(ball_on_slice(where, (0.2, 0.1), 0.0) - [0.2, 0.1]).max() <= 1e-15


def test_no_margin_within_the_certified_ball_is_negative(net, regions, where, label):
    """The radius is certified over all inputs, the picture shows those of the slice."""
    x = where.origin
    radius = mv.minimum_epsilon(net, x, label, eps_max=1.0).lower
    found = mv.margin_map(regions, label)
    polygon = ball_on_slice(where, (0.0, 0.0), radius)
    points = found.mesh.points
    side = np.roll(polygon, -1, axis=0) - polygon
    left = side[:, 0, None] * (points[:, 1] - polygon[:, 1, None]) - side[:, 1, None] * (
        points[:, 0] - polygon[:, 0, None]
    )
    inside = (left > 0).all(axis=0)
    assert radius > 0 and inside.any() and (found.margin[inside] >= 0).all() and (found.margin < 0).any()


def test_the_zero_set_that_is_drawn_has_margin_zero(net, regions, where, label):
    axes = plot_margin(regions, label).axes[0]
    (zero,) = (c for c in axes.collections if isinstance(c, PathCollection) and c.get_linewidths()[0] == ZERO_WIDTH)
    y = net.forward(where.inputs(np.concatenate([path.vertices for path in zero.get_paths()])))
    assert len(y) > 4 and np.abs(y[:, label] - np.delete(y, label, axis=1).max(axis=1)).max() <= 1e-9


def test_each_filling_covers_what_exceeds_its_level(regions, label):
    levels = (-1.0, 0.0, 0.5)
    found = mv.margin_map(regions, label, levels)
    axes = plot_margin(found).axes[0]
    drawn = []
    for path in (patch.get_path() for patch in axes.patches):
        ends = np.flatnonzero(path.codes == path.CLOSEPOLY)
        starts = np.append(0, ends[:-1] + 1)
        drawn.append(sum(area_within(path.vertices[a:b]) for a, b in zip(starts, ends, strict=True)))
    expected = [4.0, *(found.area_above(level) for level in levels)]
    assert np.allclose(drawn, [area for area in expected if area > 0], rtol=1e-9)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_the_same_picture_twice_is_the_same_file(regions, label, theme, tmp_path):
    for name in ("a.svg", "b.svg"):
        figure = plot_margin(
            regions, label, balls=[BallOutline("certified", 0.2, "crown")], marks=[Mark("x", (0.0, 0.0))], theme=theme
        )
        save_figure(figure, tmp_path / name)
    first = (tmp_path / "a.svg").read_bytes()
    assert first == (tmp_path / "b.svg").read_bytes() and b"certified" in first


@pytest.mark.parametrize("limits", [(-3.2, 5.1), (0.1, 0.9), (-7.0, -6.5), (-1e-9, 1e9), (2.0, 2.0), (-1.0, 0.0)])
def test_levels_lie_within_the_limits_and_hold_zero_where_it_does(limits):
    levels = contour_levels(limits)
    assert list(levels) == sorted(set(levels)) and all(limits[0] < level < limits[1] for level in levels)
    assert (0.0 in levels) == (limits[0] < 0.0 < limits[1])


def test_a_margin_of_one_sign_has_no_boundary(regions, label):
    found = mv.margin_map(regions, label)
    outside = found.range[1] + 1.0
    figure = plot_margin(mv.margin_map(regions, label, (outside,)))
    assert not figure.legends and "positive" not in figure.get_supxlabel()


def test_bad_questions_are_refused(regions):
    with pytest.raises(OptionError, match="label is missing"):
        plot_margin(regions)
    with pytest.raises(OptionError, match="none of the levels"):
        mv.margin_map(regions, 0, (0.25,)).area_above(0.5)
    for radius in (-0.1, np.inf, np.nan):
        with pytest.raises(OptionError, match="radius"):
            BallOutline("ball", radius)
    with pytest.raises(OptionError, match="parallel"):
        ball_on_slice(mv.InputSlice(np.zeros(3), np.array([[1.0, 0, 0], [2.0, 0, 0]]), SQUARE), (0.0, 0.0), 1.0)
