"""Regions with a grid: the definition, word for word, against what they say and do."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import milpverify as mv
from milpverify.errors import PropertyError, RegionError
from milpverify.proof.replay import into_region
from milpverify.spec.grid import LARGEST_INDEX
from milpverify.spec.store import property_fingerprint
from tests.grids import STEPS, grid_points, grid_regions

KINDS = sorted(grid_regions(2, 0))
BYTES = mv.Grid(255)


@pytest.mark.parametrize("steps", [0, -1, 65536, 2.5, "255", None])
def test_a_grid_has_a_whole_number_of_steps(steps: object) -> None:
    with pytest.raises(RegionError, match=r"Grid: steps must be .*255"):
        mv.Grid(steps)  # type: ignore[arg-type]


@given(low=st.integers(-2000, 2000), width=st.integers(0, 600), steps=st.sampled_from([1, 3, 10, 255, 65535]))
def test_a_box_is_rounded_inward_to_the_grid(low: int, width: int, steps: int) -> None:
    lower, upper = Fraction(low, 700), Fraction(low + width, 700)
    inside = [Fraction(k, steps) for k in range(math.ceil(lower * steps), math.floor(upper * steps) + 1)]
    slack, near = Fraction(1, 1024 * steps), [Fraction(round(q * steps), steps) for q in (lower, upper)]
    ends = [q for q, end in zip(near, (lower, upper), strict=True) if abs(q - end) <= slack]
    if not inside and not ends:
        with pytest.raises(RegionError, match=f"no k/{steps} lies between"):
            mv.Box.of_fractions([lower], [upper]).with_grid(mv.Grid(steps))
        return
    box = mv.Box.of_fractions([lower], [upper]).with_grid(mv.Grid(steps))
    points = inside + ends
    assert (box.exact_lower, box.exact_upper) == ((min(points),), (max(points),))
    assert Fraction(box.lower[0]) <= min(points) and Fraction(box.upper[0]) >= max(points)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_region_contains_the_grid_points_of_its_set_and_nothing_else(kind: str, seed: int) -> None:
    region, rng = grid_regions(2, seed)[kind], np.random.default_rng(seed)
    hull = region.relaxed
    points = list(grid_points(region))
    assert points
    for point in points:
        floats = np.array([float(q) for q in point])
        assert region.exact_point(floats) == list(point) == region.exact_point(floats.astype(np.float32))
        assert all(Fraction(l) <= q <= Fraction(u) for l, q, u in zip(hull.lower, point, hull.upper, strict=True))
        beside = [point[0] + Fraction(1, 1000 * STEPS), *point[1:]]
        assert not region.contains(beside)
    drawn = region.sample(rng, 50)
    inside = [region.contains(region.exact_point(x)) for x in drawn]
    assert all(inside) or region.cuts.n_rows  # near cuts, projection does what it can
    assert any(inside)


@pytest.mark.parametrize("kind", ["linf", "l1", "l2"])
@pytest.mark.parametrize("seed", range(3))
def test_a_ball_has_the_grid_points_within_its_radius(kind: str, seed: int) -> None:
    region = grid_regions(2, seed)[kind]
    assert isinstance(region, mv.LinfBall | mv.L1Ball | mv.L2Ball)
    c, eps = [Fraction(v) for v in region.center.tolist()], Fraction(region.eps) + Fraction(1, 1024 * STEPS)
    found = set()
    for k in np.ndindex(*(40,) * 2):
        point = tuple(Fraction(int(i) - 20, STEPS) for i in k)
        gaps = [abs(a - b) for a, b in zip(point, c, strict=True)]
        norm = {"linf": max(gaps), "l1": sum(gaps), "l2": sum(g * g for g in gaps)}[kind]
        if norm <= (eps * eps if kind == "l2" else eps):
            found.add(point)
    assert set(grid_points(region)) == found


@pytest.mark.parametrize("kind", KINDS)
def test_projection_ends_on_grid_points_and_leaves_them_where_they_are(kind: str) -> None:
    for seed in range(4):
        region = grid_regions(3, seed)[kind]
        points = [np.array([float(q) for q in point]) for point in grid_points(region)]
        assert np.array_equal(region.project(np.array(points)), np.array(points))
        near = into_region(region, points[0] + 0.1 / STEPS, np.float32)
        assert near is not None and near.dtype == np.float32
        assert region.contains(region.exact_point(near))


@pytest.mark.parametrize("steps", range(5))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_ball_of_whole_steps_around_an_image_has_them_all_however_floats_round(steps: int, dtype: type) -> None:
    image = (np.arange(256) / 255).astype(dtype).astype(np.float64)
    eps = float(dtype(steps / 255))
    ball = mv.LinfBall(image, eps, clip=(0, 1), grid=BYTES)
    low, high = ball.indices
    assert np.array_equal(low, np.maximum(np.arange(256) - steps, 0))
    assert np.array_equal(high, np.minimum(np.arange(256) + steps, 255))


@pytest.mark.parametrize("ball", [mv.L1Ball, mv.L2Ball])
def test_a_round_ball_of_whole_steps_has_the_points_on_its_border_however_floats_round(
    ball: type[mv.L1Ball] | type[mv.L2Ball],
) -> None:
    image = (np.arange(100, 116) / 255).astype(np.float32).astype(np.float64)
    region = ball(image, float(np.float32(3 / 255)), clip=(0, 1), grid=BYTES)
    home = [Fraction(int(k), 255) for k in np.rint(image * 255)]
    for i in range(16):
        for steps, inside in ((3, True), (-3, True), (4, False)):
            assert region.contains([q + Fraction(steps * (i == j), 255) for j, q in enumerate(home)]) is inside


def test_without_a_grid_point_there_is_no_region() -> None:
    with pytest.raises(RegionError, match="empty region: no k/255 lies between"):
        mv.LinfBall(np.array([0.5]), 1e-4, grid=BYTES)
    with pytest.raises(RegionError, match="empty region: no k/4 lies within eps"):
        mv.L2Ball(np.array([0.12, 0.12]), 0.15, grid=mv.Grid(4))
    with pytest.raises(RegionError, match="the region may be empty"):
        mv.Box(np.zeros(2), np.ones(2)).with_cuts([[1, 1], [-1, -1]], [0.7, -0.6]).with_grid(mv.Grid(2))
    with pytest.raises(RegionError, match="Use fewer steps"):
        mv.Box([0.0], [float(LARGEST_INDEX)]).with_grid(mv.Grid(2))
    with pytest.raises(RegionError, match="has Grid"):
        mv.Box([0.0], [1.0]).with_grid(mv.Grid(2)).with_grid(mv.Grid(3))


@given(
    k=st.lists(st.integers(-(2**31), 2**31) | st.integers(-300, 300), min_size=1),
    steps=st.sampled_from([1, 2, 3, 255, 65535]),
)
def test_grid_points_lie_between_the_floats_around_them(k: list[int], steps: int) -> None:
    grid, exact = mv.Grid(steps), [Fraction(i, steps) for i in k]
    for sides, of in ((grid.around, np.float64), (grid.around_float32, np.float32)):
        low, high = sides(np.array(k, dtype=np.float64))
        for l, q, h in zip(low.tolist(), exact, high.tolist(), strict=True):
            assert Fraction(l) <= q <= Fraction(h)
            assert h in (l, float(np.nextafter(of(l), of(np.inf))))
            assert (l == h) == (Fraction(l) == q)


@pytest.mark.parametrize("kind", KINDS)
def test_saving_keeps_the_grid(kind: str, tmp_path: Path) -> None:
    region = grid_regions(2, 1)[kind]
    case = mv.Case(region, mv.Polyhedron([[1.0]], [0.0]))
    prop = mv.Property((case,), 2, 1)
    prop.save(tmp_path / "a.json")
    again = mv.load_property(tmp_path / "a.json")
    assert again.cases[0].region.grid == region.grid
    assert list(grid_points(again.cases[0].region)) == list(grid_points(region))
    assert property_fingerprint(again) == property_fingerprint(prop)
    with pytest.raises(PropertyError, match=r"grid.*\.json"):
        prop.save(tmp_path / "a.vnnlib")


def test_the_grid_changes_the_fingerprint_and_is_given_to_a_file_when_it_is_read(tmp_path: Path) -> None:
    case = mv.Case(mv.Box([0.0, 0.0], [1.0, 1.0]), mv.Polyhedron([[1.0]], [0.0]))
    real = mv.Property((case,), 2, 1)
    real.save(tmp_path / "a.vnnlib")
    read = mv.read_vnnlib(tmp_path / "a.vnnlib", grid=BYTES)
    prints = {property_fingerprint(p) for p in (real, read, real.on_grid(BYTES), real.on_grid(mv.Grid(5)))}
    assert len(prints) == 3
    assert read.cases[0].region.grid == BYTES


def test_cases_of_one_region_share_it_on_a_grid_too() -> None:
    box = mv.Box([0.0], [1.0])
    cases = tuple(mv.Case(box, mv.Polyhedron([[s]], [0.0])) for s in (1.0, -1.0))
    assert len(mv.Property(cases, 1, 1).on_grid(BYTES).groups()) == 1
