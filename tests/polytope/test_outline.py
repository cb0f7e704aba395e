"""Outlines contain the exact set, nest where theorems say so, and meet their own points to the tolerance asked for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from milpverify.bounds.backward import Crown, FastLin
from milpverify.bounds.compute import compute_bounds
from milpverify.bounds.method import BoundMethod, Interval
from milpverify.bounds.slopes import AlphaCrown
from milpverify.errors import BoundsError, OptionError, RegionError
from milpverify.network.graph import Network
from milpverify.polytope.comparison import compare_outlines, nested_outlines
from milpverify.polytope.exact_neurons import ExactNeurons
from milpverify.polytope.linear_regions import linear_regions
from milpverify.polytope.outline import Outline, outline
from milpverify.polytope.refinement import Refinement
from milpverify.search.branch_and_bound import BranchAndBound
from milpverify.search.milp import MILP
from milpverify.spec.regions import Box, L1Ball, L2Ball, LinfBall, Region
from milpverify.tasks.margin import Minimiser
from milpverify.tasks.ranges import output_range
from milpverify.tighten.lp import TriangleLP
from milpverify.tighten.milp import MILPTightening
from tests.cases import skip
from tests.polytope.planar_cases import network, random_net, unit_circle

METHODS: dict[str, BoundMethod] = {
    "interval": Interval(),
    "fastlin": FastLin(),
    "fastlin pure": FastLin(intersect=False),
    "crown": Crown(),
    "alpha": AlphaCrown(),
    "lp": TriangleLP(),
    "exact neurons": ExactNeurons(((1, 0), (2, 1))),
}
PLANES: dict[str, tuple[Network, Region]] = {
    "box": (random_net(0, 2, 12, 12, 3), LinfBall(np.zeros(2), 0.6)),
    "l1 ball": (random_net(1, 2, 12, 12, 3), L1Ball(np.zeros(2), 0.9)),
    "skips": (skip(np.random.default_rng(3)), LinfBall(np.zeros(2), 1.0)),
}
CIRCLE = unit_circle(64)
FEW = Refinement(first=8, most=32)


@pytest.mark.parametrize("case", PLANES)
@pytest.mark.parametrize("method", METHODS)
def test_an_outline_contains_the_exact_set_in_64_directions(method: str, case: str) -> None:
    net, region = PLANES[case]
    rows = np.random.default_rng(5).normal(size=(2, net.n_outputs))
    found = outline(net, region, METHODS[method], rows=rows, refinement=FEW)
    image = linear_regions(net, region).image(rows)
    size = float(np.abs(image.points).max())
    assert (found.support(CIRCLE) >= image.support(CIRCLE) - 1e-12 * size).all()
    assert (found.offsets >= image.support(found.directions) - 1e-13 * size).all()
    assert found.solver_trusted == METHODS[method].solver_trusted


@pytest.mark.parametrize("case", PLANES)
def test_exact_lies_in_lp_in_crown_in_fastlin_in_interval(case: str) -> None:
    net, region = PLANES[case]
    chain = nested_outlines(net, region, refinement=FEW)
    assert [one.name for one in chain] == ["interval", "fastlin", "crown", "lp"]
    image = linear_regions(net, region).image()
    inner = image.support(CIRCLE)
    for one in reversed(chain):
        outer = one.support(CIRCLE)
        assert (outer >= inner - 1e-12 * np.abs(outer).max()).all()
        assert one.area >= image.area * (1 - 1e-12)
        inner = outer
    table = compare_outlines(chain, image, 64)
    assert all(a.ratio >= b.ratio >= 1 - 1e-12 for a, b in pairwise(table.rows))
    assert all(row.largest_gap >= row.mean_gap >= -1e-12 for row in table.rows)
    assert all(row.method in str(table) for row in table.rows)


@pytest.mark.parametrize("seed", range(5))
def test_over_the_same_hidden_bounds_the_lp_lies_in_every_choice_of_multipliers(seed: int) -> None:
    net, ball = random_net(seed, 3, 10, 10, 10, 4), LinfBall(np.zeros(3), 0.5)
    for hidden in (Interval(), FastLin(), Crown()):
        bounds, same = compute_bounds(net, ball, hidden), Refinement(first=16, most=16)
        lp = outline(net, ball, TriangleLP(), hidden=bounds, refinement=same)
        assert lp.name == "lp" and lp.title == f"lp over {hidden.name}"
        for method in (Interval(), FastLin(), Crown(), AlphaCrown(), FastLin(intersect=False)):
            other = outline(net, ball, method, hidden=bounds, refinement=same)
            assert (lp.offsets <= other.offsets + 1e-7 * np.abs(other.offsets)).all()


@pytest.mark.parametrize("method", [Interval(), FastLin(intersect=False)], ids=["interval", "fastlin"])
def test_where_h_is_a_support_function_every_half_plane_touches_the_polygon(method: BoundMethod) -> None:
    net, ball = random_net(4, 3, 10, 10, 3), LinfBall(np.zeros(3), 0.5)
    found = outline(net, ball, method, refinement=Refinement(first=64, most=64))
    assert found.support(found.directions) == pytest.approx(found.offsets, rel=1e-9)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3])
def test_both_polygons_of_the_lp_meet_to_the_tolerance(tolerance: float) -> None:
    net, ball = random_net(1, 6, 15, 15, 3), LinfBall(np.zeros(6), 0.3)
    found = outline(net, ball, TriangleLP(), refinement=Refinement(first=4, most=1000, tolerance=tolerance))
    assert found.points is not None and found.gap is not None and found.inner is not None
    diameter = np.ptp(found.outer, axis=0).max()
    assert 0 <= found.gap <= tolerance * diameter * 1.001
    reached = (found.points * found.directions).sum(axis=1)
    assert (reached <= found.offsets + 1e-6).all() and (found.offsets - reached <= 1e-6).all()


def test_the_edges_of_a_polygon_are_found_from_its_corners() -> None:
    # Affine on the region, so that the set is a polygon of at most 2 * 5 corners: one direction a corner and an edge.
    net = network((np.eye(5), 10 * np.ones(5)), (np.random.default_rng(1).normal(size=(2, 5)), np.zeros(2)))
    found = outline(net, LinfBall(np.zeros(5), 1.0), TriangleLP(), refinement=Refinement(4, 60, 1e-9))
    assert found.inner is not None and found.gap is not None
    assert len(found.inner) == 10 and found.gap <= 1e-8
    assert len(found.directions) < 60


@pytest.mark.parametrize("search", [MILP(), BranchAndBound()], ids=["milp", "tree"])
def test_the_exact_outline_is_the_hull_of_the_linear_regions(search: MILP | BranchAndBound) -> None:
    net, ball = random_net(0, 2, 8, 8, 2), LinfBall(np.zeros(2), 0.8)
    found = outline(net, ball, search, refinement=Refinement(first=8, most=48, tolerance=1e-3))
    image = linear_regions(net, ball).image()
    assert found.name == "exact"
    assert found.offsets == pytest.approx(image.support(found.directions), abs=3e-6)
    assert found.inner is not None and found.gap is not None
    assert (image.support(CIRCLE) >= (CIRCLE @ found.inner.T).max(axis=1) - 1e-9).all()
    assert (found.support(CIRCLE) >= image.support(CIRCLE) - 1e-9).all()
    assert found.gap <= 1e-3 * np.ptp(found.outer, axis=0).max() * 1.01


def test_the_exact_outline_works_in_many_dimensions_and_meets_output_ranges() -> None:
    net, ball = random_net(2, 8, 8, 8, 3), LinfBall(np.zeros(8), 0.25)
    found = outline(net, ball, Minimiser(), refinement=Refinement(first=4, most=12))
    at = {tuple(d): h for d, h in zip(found.directions.tolist(), found.offsets, strict=True)}
    for i, one in enumerate(output_range(net, ball)[:2]):
        axis = np.eye(2)[i]
        assert at[tuple(axis)] == pytest.approx(one.maximum.upper, abs=2e-6)
        assert -at[tuple(-axis)] == pytest.approx(one.minimum.lower, abs=2e-6)


def test_out_of_time_the_exact_outline_is_looser_and_still_contains() -> None:
    net, ball = random_net(0, 2, 30, 30, 2), LinfBall(np.zeros(2), 1.0)
    found = outline(net, ball, MILP(), refinement=Refinement(first=8, most=8), time_limit_s=0.02)
    assert (found.support(CIRCLE) >= linear_regions(net, ball).image().support(CIRCLE) - 1e-9).all()


def test_an_lp_without_time_is_drawn_from_its_closed_forms() -> None:
    net, ball = random_net(0, 2, 12, 12, 2), LinfBall(np.zeros(2), 0.6)
    bounds = compute_bounds(net, ball, Crown())
    found = outline(net, ball, TriangleLP(time_limit_s=0.0), hidden=bounds, refinement=FEW)
    assert found.inner is None and found.gap is None
    for method in (Crown(), FastLin()):
        other = outline(net, ball, method, hidden=bounds, refinement=Refinement(first=8, most=8))
        assert (found.support(other.directions) <= other.offsets + 1e-12).all()
    assert (found.support(CIRCLE) >= linear_regions(net, ball).image().support(CIRCLE) - 1e-12).all()


def test_with_all_neurons_exact_the_outline_is_exact_and_with_none_it_is_the_lp() -> None:
    net, ball = random_net(5, 2, 6, 6, 2), LinfBall(np.zeros(2), 1.0)
    same = Refinement(first=16, most=16)
    every = ExactNeurons(tuple((layer, i) for layer in (1, 2) for i in range(6)))
    image = linear_regions(net, ball).image()
    found = outline(net, ball, every, refinement=same)
    assert found.offsets == pytest.approx(image.support(found.directions), abs=1e-4)
    assert found.points is not None
    assert found.points == pytest.approx(image.points[(found.directions @ image.points.T).argmax(axis=1)], abs=1e-4)
    lp = outline(net, ball, TriangleLP(), hidden=Crown(), refinement=same)
    assert outline(net, ball, ExactNeurons(), refinement=same).offsets == pytest.approx(lp.offsets, rel=1e-9)


def test_a_hidden_layer_is_outlined_within_its_bounds() -> None:
    net, ball = random_net(6, 4, 7, 7, 2), LinfBall(np.zeros(4), 0.4)
    rows = np.eye(7)[[2, 5]]
    found = outline(net, ball, TriangleLP(), layer=2, rows=rows, refinement=Refinement(first=4, most=4))
    bounds = compute_bounds(net, ball, Crown())
    hidden = net.activations(ball.sample(np.random.default_rng(0), 500))[0][1][:, [2, 5]]
    assert (found.support(CIRCLE) >= (CIRCLE @ hidden.T).max(axis=1)).all()
    low, high = found.outer.min(axis=0), found.outer.max(axis=0)
    assert (low >= bounds.lower[1][[2, 5]] - 1e-9).all() and (high <= bounds.upper[1][[2, 5]] + 1e-9).all()


def test_four_directions_draw_the_box_of_the_output_ranges() -> None:
    net, ball = random_net(7, 3, 9, 9, 2), LinfBall(np.zeros(3), 0.2)
    box = outline(net, ball, Interval(), refinement=Refinement(first=4, most=4))
    naive = outline(net, ball, Interval())
    sides = box.offsets.reshape(2, 2).sum(axis=0)
    assert box.area == pytest.approx(sides.prod(), rel=1e-12) and len(box.outer) == 4
    assert naive.area <= box.area * (1 + 1e-12)
    assert (naive.support(CIRCLE) <= box.support(CIRCLE) + 1e-12 * box.area).all()


def test_a_single_input_is_outlined_as_a_point() -> None:
    net, x = random_net(1, 3, 5, 2), np.array([0.1, 0.2, 0.3])
    for method in (Interval(), TriangleLP()):
        found = outline(net, Box(x, x), method)
        assert found.area <= 1e-24
        assert found.outer == pytest.approx(np.broadcast_to(net.forward(x), found.outer.shape), abs=1e-12)


def test_an_l2_ball_is_outlined_without_programs() -> None:
    net, ball = random_net(3, 4, 8, 8, 2), L2Ball(np.zeros(4), 0.3)
    y = net.forward(ball.sample(np.random.default_rng(0), 500))
    for method in (Crown(), TriangleLP()):
        found = outline(net, ball, method, refinement=FEW)
        assert found.points is None and found.inner is None and found.gap is None
        assert (found.support(CIRCLE) >= (CIRCLE @ y.T).max(axis=1)).all()
    with pytest.raises(OptionError, match="L2 ball is no linear program"):
        outline(net, ball, ExactNeurons())


def test_bounds_on_a_solvers_word_are_marked() -> None:
    net, ball = random_net(3, 2, 5, 5, 2), LinfBall(np.zeros(2), 0.3)
    trusted = compute_bounds(net, ball, MILPTightening())
    assert outline(net, ball, Crown(), hidden=trusted, refinement=FEW).solver_trusted
    assert outline(net, ball, MILPTightening(), hidden=Crown(), refinement=Refinement(4, 4)).solver_trusted


def test_meeting_two_outlines_keeps_what_both_prove() -> None:
    net, ball = random_net(8, 2, 10, 10, 2), LinfBall(np.zeros(2), 0.7)
    one, other = outline(net, ball, Crown(), refinement=FEW), outline(net, ball, FastLin(intersect=False))
    both: Outline = one.within(other)
    assert both.area <= min(one.area, other.area) * (1 + 1e-12)
    least = np.minimum(one.support(CIRCLE), other.support(CIRCLE))
    assert (both.support(CIRCLE) <= least + 1e-12).all()
    assert (both.support(CIRCLE) >= linear_regions(net, ball).image().support(CIRCLE) - 1e-12).all()


def test_crown_and_fastlin_are_not_comparable() -> None:
    # Per direction either can win, which is why nested_outlines meets them.
    seen = set()
    for seed in range(20):
        net, ball = random_net(seed, 2, 8, 8, 8, 2), LinfBall(np.zeros(2), 0.3)
        bounds, same = compute_bounds(net, ball, Crown()), Refinement(first=16, most=16)
        crown, fast = (outline(net, ball, m, hidden=bounds, refinement=same).offsets for m in (Crown(), FastLin()))
        seen |= set(np.sign(np.where(np.abs(crown - fast) > 1e-9, crown - fast, 0)).tolist())
    assert {-1.0, 1.0} <= seen


def test_options_that_make_no_sense_are_refused_with_the_remedy() -> None:
    net, ball = network(([[1, 0], [0, 1]], [0, 0]), (np.eye(2), [0, 0])), LinfBall(np.zeros(2), 1.0)
    with pytest.raises(OptionError, match=r"rows of shape \(3, 2\)"):
        outline(net, ball, Crown(), rows=np.ones((3, 2)))
    with pytest.raises(OptionError, match=r"hidden layers 1\.\.1"):
        outline(net, ball, Crown(), layer=2)
    with pytest.raises(OptionError, match="expected a bound method, Minimiser"):
        outline(net, ball, "crown")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="time limit must be positive"):
        outline(net, ball, MILP(), time_limit_s=0)
    with pytest.raises(OptionError, match="multiple of 4"):
        Refinement(first=6)
    with pytest.raises(OptionError, match="at least one"):
        nested_outlines(net, ball, [])
    with pytest.raises(OptionError, match="directions must be at least 1"):
        compare_outlines([], linear_regions(net, ball).image(), 0)
    with pytest.raises(OptionError, match=r"neuron \(3, 0\) came"):
        outline(net, ball, ExactNeurons(((3, 0),)))
    with pytest.raises(OptionError, match="tolerance must be positive"):
        ExactNeurons(tolerance=0.0)
    with pytest.raises(RegionError, match="coordinates"):
        outline(net, LinfBall(np.zeros(3), 1.0), Crown())
    other = compute_bounds(random_net(0, 2, 3, 2), ball)
    with pytest.raises(BoundsError, match="do not fit"):
        outline(net, ball, Crown(), hidden=other)
