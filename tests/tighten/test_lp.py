"""Laws of LP tightening: as tight as the triangle relaxation, never beyond the truth, whatever HiGHS or time does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from milpverify.bounds.compute import make_problem
from milpverify.bounds.dual import dual_bound, fixed
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.semantics import Float32
from milpverify.errors import BoundsError, OptionError
from milpverify.network.operators import Dense
from milpverify.spec.batch import BoxBatch
from milpverify.tighten import lp
from milpverify.tighten.lp import TriangleLP
from milpverify.tighten.triangle import Group, TriangleProgram
from milpverify.tighten.workers import Answers
from tests.cases import NETWORKS, POLYHEDRAL, REGIONS, affine, bias, brute_force_minimum, seeds, weights
from tests.paths import mnist, need
from tests.tighten.reference import least_zhat, triangle_minimum

FEW = settings(max_examples=8)


def mlp50_ball(eps: float) -> tuple[mv.Network, mv.LinfBall]:
    """The published network around the first MNIST test image."""
    return mv.from_onnx(need("mlp", "mlp50.onnx")), mv.LinfBall(mnist()[0][0], eps, clip=(0, 1))


def deep(rng: np.random.Generator, widths: Sequence[int] = (3, 8, 8, 6, 2)) -> mv.Network:
    """A chain with enough unstable neurons that the LP has something to gain."""
    layers = []
    for k, (a, b) in enumerate(pairwise(widths)):
        layers.append(affine({k: weights(rng, b, a)}, bias(rng, b)))
    return mv.Network((widths[0],), (widths[-1],), tuple(layers[:-1]), layers[-1])


def assert_inside(inner: mv.Bounds, outer: mv.Bounds, slack: float = 0.0) -> None:
    for a, b in zip(inner.lower, outer.lower, strict=True):
        assert (a >= b - slack).all()
    for a, b in zip(inner.upper, outer.upper, strict=True):
        assert (a <= b + slack).all()


def assert_contains(net: mv.Network, region: mv.Region, bounds: mv.Bounds, rng: np.random.Generator) -> None:
    hidden, _ = net.activations(region.sample(rng, 200))
    for zhat, l, u in zip(hidden, bounds.lower, bounds.upper, strict=True):
        assert (zhat >= l - 1e-12).all() and (zhat <= u + 1e-12).all()


@pytest.mark.parametrize("region_kind", REGIONS)
@pytest.mark.parametrize("kind", NETWORKS)
@FEW
@given(seed=seeds)
def test_lp_bounds_contain_samples_and_nest_inside_crown(kind: str, region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    bounds = mv.compute_bounds(net, region, TriangleLP())
    assert_contains(net, region, bounds, rng)
    crown = mv.compute_bounds(net, region, mv.Crown())
    # Of equal bounds below, no multipliers are tighter; tighter bounds below make the relaxation smaller.
    assert_inside(bounds, crown, 1e-7)
    rows = rng.normal(size=(3, net.n_outputs))
    lower = mv.bound_rows(net, region, bounds, rows, TriangleLP()).value
    assert (lower >= mv.bound_rows(net, region, bounds, rows, mv.Crown()).value).all()
    assert (net.forward(region.sample(rng, 200)) @ rows.T >= lower - 1e-12).all()


@pytest.mark.parametrize("region_kind", POLYHEDRAL)
@FEW
@given(seed=seeds)
def test_bounds_of_unstable_neurons_are_the_optima_of_the_triangle_lp(region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = deep(rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    bounds = mv.compute_bounds(net, region, TriangleLP())
    for k in range(2, len(net.layers) + 1):
        for i in np.flatnonzero(bounds.unstable(k)):
            unit = np.eye(net.sizes[k - 1])[i]
            low, high = (sign * triangle_minimum(net, region, bounds, k, sign * unit) for sign in (1.0, -1.0))
            assert bounds.lower[k - 1][i] == pytest.approx(low, abs=1e-6)
            assert bounds.upper[k - 1][i] == pytest.approx(high, abs=1e-6)
    rows = rng.normal(size=(2, net.n_outputs))
    value = mv.bound_rows(net, region, bounds, rows, TriangleLP()).value
    for row, found in zip(rows, value, strict=True):
        best = triangle_minimum(net, region, bounds, len(net.layers) + 1, row)
        assert found == pytest.approx(best, abs=1e-6)
        assert found <= best + 1e-7


def test_one_cut_is_met_as_in_the_lp() -> None:
    rng = np.random.default_rng(5)
    net = deep(rng)
    region = mv.Box([-1.0] * 3, [1.0] * 3).with_cuts([1.0, 1.0, 1.0], -0.5)
    bounds = mv.compute_bounds(net, region, TriangleLP())
    rows = np.eye(net.n_outputs)
    value = mv.bound_rows(net, region, bounds, rows, TriangleLP()).value
    for row, found in zip(rows, value, strict=True):
        assert found == pytest.approx(triangle_minimum(net, region, bounds, len(net.layers) + 1, row), abs=1e-6)


@pytest.mark.parametrize("region_kind", ("box", "l1 clipped"))
@FEW
@given(seed=seeds)
def test_lp_bounds_never_pass_the_true_extremes(region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["skip"](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    bounds = mv.compute_bounds(net, region, TriangleLP())
    for k, size in enumerate(net.sizes, start=1):
        for i in range(size):
            assert bounds.lower[k - 1][i] <= least_zhat(net, region, k, i, 1.0) + 1e-7
            assert -bounds.upper[k - 1][i] <= least_zhat(net, region, k, i, -1.0) + 1e-7
    row = rng.normal(size=net.n_outputs)
    value = mv.bound_rows(net, region, bounds, row, TriangleLP()).value[0]
    assert value <= brute_force_minimum(net, region, row) + 1e-7


@pytest.mark.parametrize("wrong", ("noise", "sign", "huge", "nan"))
@FEW
@given(seed=seeds)
def test_wrong_multipliers_make_no_false_claim(wrong: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = deep(rng, (2, 3, 3, 2))
    region = REGIONS["box"](rng, 2)
    honest = lp.solve

    def spoilt(program: TriangleProgram, groups: Sequence[Group], workers: int, ends: float) -> Answers:
        answers = honest(program, groups, workers, ends)
        for i, found in enumerate(answers.found):
            assert found.nu is not None
            change = {
                "noise": found.nu + rng.normal(size=found.nu.shape),
                "sign": -found.nu,
                "huge": 1e300 * (1.0 + found.nu),
                "nan": found.nu * np.nan,
            }
            answers.found[i] = replace(found, nu=change[wrong])
        return answers

    crown = mv.compute_bounds(net, region, mv.Crown())
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(lp, "solve", spoilt)
        bounds = mv.compute_bounds(net, region, TriangleLP())
        rows = mv.bound_rows(net, region, bounds, np.eye(2), TriangleLP()).value
    assert_inside(bounds, crown, 1e-9)
    for k, size in enumerate(net.sizes, start=1):
        for i in range(size):
            assert bounds.lower[k - 1][i] <= least_zhat(net, region, k, i, 1.0) + 1e-7
            assert -bounds.upper[k - 1][i] <= least_zhat(net, region, k, i, -1.0) + 1e-7
    for row, value in zip(np.eye(2), rows, strict=True):
        assert value <= brute_force_minimum(net, region, row) + 1e-7


def test_multipliers_of_the_rows_prove_their_values() -> None:
    rng = np.random.default_rng(0)
    net, region = deep(rng), mv.Box([-1.0] * 3, [1.0] * 3)
    bounds = mv.compute_bounds(net, region, TriangleLP())
    found = mv.bound_rows(net, region, bounds, np.eye(2), TriangleLP())
    crown = mv.bound_rows(net, region, bounds, np.eye(2), mv.Crown())
    problem = DualProblem.of(net, region, bounds)
    again = dual_bound(problem, len(problem.layers), np.eye(2), fixed(found.nu))
    assert (found.value > crown.value + 1e-3).all()
    assert np.allclose(again.value, found.value, rtol=0, atol=1e-12)
    assert not found.solver_trusted


@pytest.mark.parametrize("eps", (0.03, 0.05))
def test_on_a_published_network_the_lp_is_tighter_than_crown(eps: float) -> None:
    net, ball = mlp50_ball(eps)
    crown, bounds = mv.compute_bounds(net, ball, mv.Crown()), mv.compute_bounds(net, ball, TriangleLP())
    assert_inside(bounds, crown)
    assert_contains(net, ball, bounds, np.random.default_rng(0))
    unstable = bounds.unstable(2)
    assert ((bounds.upper[1] - bounds.lower[1]) < (crown.upper[1] - crown.lower[1]) - 1e-3)[unstable].all()
    for i in np.flatnonzero(unstable)[:3]:
        low = triangle_minimum(net, ball, bounds, 2, np.eye(50)[i])
        assert bounds.lower[1][i] == pytest.approx(low, abs=1e-6)


def test_over_an_l2_ball_bounds_are_tighter_than_crown() -> None:
    net, ball = mlp50_ball(0.5)
    region = mv.L2Ball(ball.center, 0.5, clip=(0, 1))
    crown, bounds = mv.compute_bounds(net, region, mv.Crown()), mv.compute_bounds(net, region, TriangleLP())
    assert_inside(bounds, crown)
    unstable = bounds.unstable(2)
    assert (bounds.upper[1] - bounds.lower[1])[unstable].sum() < (crown.upper[1] - crown.lower[1])[unstable].sum() - 0.1


def test_float32_bounds_contain_the_real_ones() -> None:
    net, ball = mlp50_ball(0.05)
    real = mv.compute_bounds(net, ball, TriangleLP())
    single = mv.compute_bounds(net, ball, TriangleLP(), semantics=Float32())
    assert_inside(real, single, 1e-9)
    assert all((b < a).all() for a, b in zip(real.lower, single.lower, strict=True))


@pytest.mark.parametrize("method", (TriangleLP(time_limit_s=0.0), TriangleLP(time_limit_s=1e-9), TriangleLP(neurons=0)))
def test_without_time_or_neurons_nothing_changes(method: TriangleLP) -> None:
    rng = np.random.default_rng(1)
    net, region = deep(rng), mv.Box([-1.0] * 3, [1.0] * 3)
    problem = make_problem(net, region, None)
    for k in range(1, len(net.layers) + 1):
        l, u = mv.Crown().layer(problem, k)
        low, high = method.refine(problem, k, l, u)
        assert (low == l).all() and (high == u).all()
        problem = problem.with_layer(l, u)
    if method.neurons is None:
        crown = mv.Crown().rows(problem, np.eye(2))
        assert (method.rows(problem, np.eye(2)).value == crown.value).all()


def test_a_limited_number_takes_the_heaviest_neurons() -> None:
    rng = np.random.default_rng(2)
    net, region = deep(rng), mv.Box([-1.0] * 3, [1.0] * 3)
    problem = make_problem(net, region, None)
    problem = problem.with_layer(*mv.Crown().layer(problem, 1))
    l, u = mv.Crown().layer(problem, 2)
    everything = TriangleLP().refine(problem, 2, l, u)
    low, high = TriangleLP(neurons=2).refine(problem, 2, l, u)
    changed = (low > l) | (high < u)
    assert 1 <= changed.sum() <= 2
    assert np.allclose(low[changed], everything[0][changed], rtol=0, atol=1e-9)
    # The score by hand: layer 2 bounded as known, the layers above by intervals, sum |lambda| times the height.
    hull = problem.with_layer(l, u)
    hull = hull.with_layer(*mv.Interval().layer(hull, 3))
    nu3 = mv.Crown().rows(hull, np.eye(2)).nu[1]
    unstable3 = np.flatnonzero((hull.lower[2] < 0) & (hull.upper[2] > 0))
    full = np.eye(2) @ net.output.blocks[0][1].dense() * (hull.lower[2] >= 0)
    full[:, unstable3] = mv.Crown().rows(hull, np.eye(2)).nu[2]
    score = np.abs(full @ net.layers[2].blocks[0][1].dense()).sum(axis=0) * (-l * u / (u - l))
    score[(l >= 0) | (u <= 0)] = -np.inf
    assert nu3.shape[1] == ((l < 0) & (u > 0)).sum()
    assert set(np.flatnonzero(changed)) <= set(np.argsort(-score)[:2])


def test_torch_problems_are_copied_to_the_host() -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    net, region = deep(rng), mv.Box([-1.0] * 3, [1.0] * 3)
    one = mv.compute_bounds(net, region, TriangleLP())
    other = mv.compute_bounds(net, region, TriangleLP(), device="cpu")
    assert_inside(one, other, 1e-9)
    assert_inside(other, one, 1e-9)
    rows = [mv.bound_rows(net, region, one, np.eye(2), TriangleLP(), device=d).value for d in (None, "cpu")]
    assert np.allclose(*rows, rtol=0, atol=1e-9)


def test_batches_are_refused_by_name() -> None:
    net = deep(np.random.default_rng(0))
    with pytest.raises(BoundsError, match="TriangleLP: programs are about one region"):
        mv.compute_bounds(net, BoxBatch(np.zeros((2, 3)), np.ones((2, 3))), TriangleLP())


def test_numbers_that_no_solver_takes_cost_tightness_only() -> None:
    rng = np.random.default_rng(4)
    first = affine({0: weights(rng, 4, 2)}, bias(rng, 4))
    second = affine({1: Dense(1e16 * rng.normal(size=(3, 4)))}, bias(rng, 3))
    third = affine({2: Dense(1e16 * rng.normal(size=(3, 3)))}, bias(rng, 3))
    net = mv.Network((2,), (2,), (first, second, third), affine({3: weights(rng, 2, 3)}, bias(rng, 2)))
    region = mv.Box([-1.0, -1.0], [1.0, 1.0])
    with pytest.warns(UserWarning, match="TriangleLP: layer 3: no LP can be made of these numbers"):
        bounds = mv.compute_bounds(net, region, TriangleLP())
    assert_contains_relatively(net, region, bounds, rng)


def assert_contains_relatively(net: mv.Network, region: mv.Region, bounds: mv.Bounds, rng: np.random.Generator) -> None:
    hidden, _ = net.activations(region.sample(rng, 200))
    for zhat, l, u in zip(hidden, bounds.lower, bounds.upper, strict=True):
        size = 1e-12 * np.maximum(np.abs(l), np.abs(u))
        assert (zhat >= l - size).all() and (zhat <= u + size).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"neurons": -1}, "neurons must be at least 0, got -1"),
        ({"time_limit_s": -1.0}, "time_limit_s must be at least 0, got -1.0"),
        ({"time_limit_s": math.nan}, "time_limit_s must be at least 0, got nan"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TriangleLP(**options)  # type: ignore[arg-type]
