"""Regions: membership is exact, bounds are outward, projections land inside, errors name the place."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given

from milpverify.errors import RegionError
from milpverify.spec.regions import Ball, Box, L1Ball, L2Ball, LinfBall, Region
from tests.spec.strategies import LAW, balls, boxes, regions, seeds


def defined(region: Region, point: list[Fraction]) -> bool:
    """Membership straight from the definition, in rationals, from what the constructor was given."""
    if isinstance(region, Box):
        return all(l <= p <= u for l, p, u in zip(region.exact_lower, point, region.exact_upper, strict=True))
    assert isinstance(region, Ball)
    if region.clip is not None:
        lo, hi = region.clip
        if not all(Fraction(l) <= p <= Fraction(h) for l, p, h in zip(lo.tolist(), point, hi.tolist(), strict=True)):
            return False
    gaps = [abs(p - Fraction(c)) for p, c in zip(point, region.center.tolist(), strict=True)]
    eps = Fraction(region.eps)
    if isinstance(region, LinfBall):
        return max(gaps) <= eps
    if isinstance(region, L1Ball):
        return sum(gaps) <= eps
    return sum(g * g for g in gaps) <= eps * eps


def corners_and_neighbours(region: Region, rng: np.random.Generator) -> np.ndarray:
    """Points on and just off the boundary, where float64 is unsure."""
    base = [region.lower, region.upper, region.inner_lower, region.inner_upper, region.center]
    base += list(region.project(region.center + 3 * rng.standard_normal((6, region.dimension))))
    points = np.array(base)
    axis = np.eye(region.dimension)[rng.integers(region.dimension)]
    on_axis = region.center + axis * getattr(region, "eps", 1.0)
    points = np.concatenate([points, on_axis[None]])
    return np.concatenate([points, np.nextafter(points, np.inf), np.nextafter(points, -np.inf)])


@LAW
@given(regions(), seeds())
def test_contains_agrees_with_the_definition_in_rationals(region: Region, rng: np.random.Generator) -> None:
    for point in corners_and_neighbours(region, rng):
        exact = [Fraction(v) for v in point.tolist()]
        assert region.contains(point) == defined(region, exact)
        shifted = [v + Fraction(1, 3**40) for v in exact]
        assert region.contains(shifted) == defined(region, shifted)


@LAW
@given(regions())
def test_bounds_are_outward_by_less_than_a_float_and_inner_bounds_inward(region: Region) -> None:
    for i in range(region.dimension):
        low, high = region.exact_lower[i], region.exact_upper[i]
        assert Fraction(region.lower[i]) <= low < Fraction(np.nextafter(region.lower[i], np.inf))
        assert Fraction(region.upper[i]) >= high > Fraction(np.nextafter(region.upper[i], -np.inf))
        assert Fraction(region.inner_lower[i]) >= low > Fraction(np.nextafter(region.inner_lower[i], -np.inf))
        assert Fraction(region.inner_upper[i]) <= high < Fraction(np.nextafter(region.inner_upper[i], np.inf))


@LAW
@given(regions(), seeds())
def test_projection_lands_in_the_region_unless_no_float_does(region: Region, rng: np.random.Generator) -> None:
    x = region.center + rng.choice([1e-17, 1e-3, 1.0, 1e3, 1e12], (40, 1)) * rng.standard_normal((40, region.dimension))
    hollow = region.inner_lower > region.inner_upper
    for point in region.project(x):
        assert hollow.any() or region.contains(point)
        exact = (np.array(region.exact_lower, dtype=object) + np.array(region.exact_upper, dtype=object)) / 2
        assert all(point[i] == float(exact[i]) for i in np.flatnonzero(hollow))


@LAW
@given(balls(), seeds())
def test_projection_is_the_nearest_point(region: Region, rng: np.random.Generator) -> None:
    n = region.dimension
    others = region.sample(rng, 60)
    for x in region.center + 3 * rng.standard_normal((4, n)):
        distance = np.linalg.norm(region.project(x) - x)
        assert distance <= np.linalg.norm(others - x, axis=1).min() + 1e-9 * (1 + np.abs(x).max())


@LAW
@given(regions(), seeds())
def test_a_point_inside_hardly_moves(region: Region, rng: np.random.Generator) -> None:
    inside = region.sample(rng, 10)
    assert np.abs(region.project(inside) - inside).max() <= 1e-9 * np.abs(region.upper - region.lower).max()


@LAW
@given(regions(), seeds())
def test_samples_lie_in_the_region(region: Region, rng: np.random.Generator) -> None:
    assume(not (region.inner_lower > region.inner_upper).any())
    points = region.sample(rng, 12)
    assert points.shape == (12, region.dimension)
    assert all(region.contains(point) for point in points)


@LAW
@given(boxes(), seeds())
def test_cuts_of_a_box_are_met_by_projection_and_decided_exactly(box: Box, rng: np.random.Generator) -> None:
    assume((box.inner_upper > box.inner_lower).all())
    rows = rng.integers(-2, 3, (2, box.dimension)).astype(float)
    inner = box.sample(rng, 1)[0]
    right = rows @ inner + 0.1
    cut = box.with_cuts(rows[:1], right[:1]).with_cuts(rows[1], right[1])
    for point in (*cut.project(box.center + 5 * rng.standard_normal((10, box.dimension))), *cut.sample(rng, 3)):
        assert cut.contains(point)
    for point in box.sample(rng, 20):
        products = [sum(Fraction(a) * Fraction(p) for a, p in zip(row, point.tolist(), strict=True)) for row in rows]
        holds = all(q <= Fraction(r) for q, r in zip(products, right.tolist(), strict=True))
        assert cut.contains(point) == cut.contains([Fraction(v) for v in point.tolist()]) == holds


def test_a_cut_is_exact_on_its_boundary() -> None:
    region = Box([0, 0], [1, 1]).with_cuts([[0.1, 0.2]], [0.3])
    # As rationals of the stored floats 0.1 + 0.2 - 0.3 = 2.8e-17, which float64 cannot tell from 0.1 * 2^-52 = 2.2e-17.
    assert not region.contains([1.0, 1.0])
    assert not region.contains([1.0, 1.0 - 2.0**-53])
    assert region.contains([1.0, 1.0 - 2.0**-52])


def test_two_cuts_that_leave_a_plane_are_met_exactly() -> None:
    region = Box([0, 0, 0], [1, 1, 1]).with_cuts([[1, -1, 0], [-1, 1, 0]], [0, 0])
    point = region.project([0.9, 0.3, 2.0])
    assert region.contains(point) and point[0] == point[1] == pytest.approx(0.6)
    assert point[2] == 1.0


def test_projection_with_cuts_reaches_a_ball() -> None:
    ball = L2Ball([0.0, 0.0], 1.0).with_cuts([[1.0, 1.0]], [-1.0])
    points = ball.project(np.array([[3.0, 3.0], [-3.0, 1.0], [0.0, 0.0]]))
    assert all(ball.contains(point) for point in points)


def test_a_decimal_point_is_no_float_but_has_a_nearest_one() -> None:
    third = Fraction(1, 10)
    box = Box.of_fractions([third, Fraction(0)], [third, Fraction(1)])
    assert not box.contains([0.1, 0.5])
    assert box.contains([third, Fraction(1, 2)])
    assert list(box.project([7.0, 0.5])) == [0.1, 0.5]
    assert box.lower[0] < box.upper[0] and box.center[0] == 0.1
    assert Box([0.1], [0.1], exact=([third], [third])).lower[0] == box.lower[0]


def test_points_and_balls_of_zero_radius_are_legal() -> None:
    points = (kind([0.5, 0.1], 0.0, (0, 1)) for kind in (LinfBall, L1Ball, L2Ball))
    for region in (Box([0.5, 0.1], [0.5, 0.1]), *points):
        assert region.contains([0.5, 0.1]) and not region.contains([0.5, np.nextafter(0.1, 1)])
        assert list(region.project([3.0, -1.0])) == [0.5, 0.1]
        assert list(region.lower) == list(region.upper) == [0.5, 0.1]


def test_arrays_are_copied_flattened_in_c_order_and_read_only() -> None:
    center = np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1]
    ball = LinfBall(center, 0.5)
    assert list(ball.center) == [2, 1, 0, 5, 4, 3]
    for values in (ball.center, ball.lower, ball.upper, ball.inner_lower):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 9.0
    center[0, 0] = 7
    assert ball.center[0] == 2
    assert ball.project(np.zeros((4, 2, 6))).shape == (4, 2, 6)
    assert ball.contains(center * 0 + np.array([[2.5, 1, 0], [5, 4, 3]]))


def test_nan_and_infinity_are_outside_and_projected_inside() -> None:
    for region in (Box([0, 0], [1, 1]), L1Ball([0, 0], 1.0), L2Ball([0, 0], 1.0, (0, 1))):
        for bad in (np.nan, np.inf, -np.inf):
            assert not region.contains([bad, 0.0])
            assert region.contains(region.project([bad, 0.0]))


def test_only_boxes_and_linf_balls_without_cuts_are_boxes() -> None:
    assert Box([0], [1]).is_box and LinfBall([0], 1, (0, 1)).is_box
    assert not L1Ball([0], 1).is_box and not L2Ball([0], 1).is_box
    assert not LinfBall([0], 1).with_cuts([1], 0).is_box


def test_scaled_to_keeps_centre_clip_and_cuts() -> None:
    ball = L1Ball([0.5, 0.5], 0.1, (0, 1)).with_cuts([1, 1], 1.0).scaled_to(2.0)
    assert isinstance(ball, L1Ball) and ball.eps == 2.0
    assert list(ball.lower) == [0, 0] and list(ball.upper) == [1, 1]
    assert ball.cuts.n_rows == 1 and not ball.contains([0.6, 0.5])


def test_a_centre_outside_the_clip_is_legal_while_the_ball_reaches_it() -> None:
    # The clip's nearest point is at L2 distance sqrt(0.5), L1 distance 1, exactly representable.
    assert L1Ball([-0.5, -0.5], 1.0, (0, 1)).contains([0.0, 0.0])
    assert L2Ball([-0.5, -0.5], 0.7072, (0, 1)).contains([0.0, 0.0])
    with pytest.raises(RegionError, match="no point within"):
        L1Ball([-0.5, -0.5], np.nextafter(1.0, 0), (0, 1))
    with pytest.raises(RegionError, match="no point within"):
        L2Ball([-0.5, -0.5], 0.7071, (0, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinfBall([0.0], -0.1), "eps must be finite and at least 0, got -0.1"),
        (lambda: L2Ball([0.0], float("nan")), "eps must be finite"),
        (lambda: L1Ball([0.0], float("inf")), "eps must be finite"),
        (lambda: L1Ball([0.0], None), "eps must be a number, got NoneType"),
        (lambda: LinfBall([0.0, np.nan], 0.1), "center: coordinate 1 is nan"),
        (lambda: LinfBall([], 0.1), "at least one coordinate"),
        (lambda: LinfBall(["a"], 0.1), "expected an array of numbers"),
        (lambda: LinfBall([1e308], 1e308), "center \\+ eps: coordinate 0 is inf"),
        (lambda: Box([0, 2], [1, 1]), r"empty region: lower\[1\] = 2.0 exceeds upper\[1\] = 1.0"),
        (lambda: Box.of_fractions([Fraction(1, 3)], [Fraction(1, 4)]), r"lower\[0\]"),
        (lambda: Box([0, 0], [1]), "lower has 2 coordinates, upper has 1"),
        (lambda: Box([0], [np.inf]), "upper: coordinate 0 is inf"),
        (lambda: LinfBall([3.0, 0.5], 0.1, (0, 1)), r"empty region.*center\[0\] = 3.0"),
        (lambda: LinfBall([0.5], 0.1, (1, 0)), r"clip\[0\] = \[1.0, 0.0\]"),
        (lambda: LinfBall([0.5], 0.1, (0, np.nan)), r"clip\[0\]"),
        (lambda: LinfBall([0.5, 0.5], 0.1, ([0, 0, 0], 1)), "clip must be"),
        (lambda: LinfBall([0.5], 0.1, 1.0), "clip must be"),
        (lambda: Box([0, 0], [1, 1]).with_cuts([[1, 1, 1]], [0]), "expected \\(m, 2\\)"),
        (lambda: Box([0, 0], [1, 1]).with_cuts([[1, 1]], [0, 1]), "expected \\(m, 2\\)"),
        (lambda: Box([0, 0], [1, 1]).with_cuts([[1, np.nan]], [0]), "NaN or infinity"),
        (lambda: Box([0, 0], [1, 1]).with_cuts([[-1, -1]], [-2.1]), "empty region: cut 0"),
        (lambda: L2Ball([0, 0], 1).with_cuts([[1, 0]], [-1.1]), "empty region: cut 0"),
        (lambda: Box([0, 0], [1, 1]).contains([0.0]), "1 coordinates came, the region has 2"),
        (lambda: Box([0, 0], [1, 1]).project([0.0]), "expected \\(..., 2\\)"),
    ],
)
def test_bad_regions_are_refused_in_one_line(make: object, message: str) -> None:
    with pytest.raises(RegionError, match=message) as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
