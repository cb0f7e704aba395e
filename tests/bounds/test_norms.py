"""Norm products: sound in exact arithmetic, never tighter than intervals, and equal to the formula by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given

import milpverify as mv
from milpverify.bounds.norms import NormBounds
from milpverify.bounds.semantics import Float32
from milpverify.network.graph import Network
from milpverify.network.operators import Dense
from milpverify.spec.batch import BoxBatch
from tests.bounds.test_zonotope import boxes, deep, exact_layers
from tests.cases import NETWORKS, REGIONS, affine, seeds


@pytest.mark.parametrize("region_kind", REGIONS)
@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_sampled_activations_are_contained(kind: str, region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    bounds, rows = mv.compute_bounds(net, region, NormBounds()), rng.normal(size=(3, net.n_outputs))
    value = mv.bound_rows(net, region, bounds, rows, NormBounds()).value
    hidden, y = net.activations(region.sample(rng, 100))
    for zhat, l, u in zip(hidden, bounds.lower, bounds.upper, strict=True):
        assert (zhat >= l - 1e-12).all() and (zhat <= u + 1e-12).all()
    assert (y @ rows.T >= value - 1e-12).all()


@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_norms_are_looser_than_intervals(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    box, rows = REGIONS["box"](rng, net.n_inputs), rng.normal(size=(3, net.n_outputs))
    interval, norms = mv.compute_bounds(net, box, mv.Interval()), mv.compute_bounds(net, box, NormBounds())
    for k in range(len(net.layers)):
        assert (norms.lower[k] <= interval.lower[k] + 1e-9).all()
        assert (norms.upper[k] >= interval.upper[k] - 1e-9).all()
    loose = mv.bound_rows(net, box, norms, rows, NormBounds()).value
    assert (loose <= mv.bound_rows(net, box, interval, rows, mv.Interval()).value + 1e-9).all()


def test_a_small_network_gives_the_products_by_hand() -> None:
    first = affine({0: Dense(np.array([[1.0, -2.0], [0.5, 0.5]]))}, np.array([1.0, -3.0]))
    second = affine({1: Dense(np.array([[1.0, 1.0], [-4.0, 0.0]]))}, np.array([0.0, 1.0]))
    net = Network((2,), (2,), (first, second), affine({2: Dense(np.array([[1.0, -1.0], [0.0, 2.0]]))}, np.zeros(2)))
    box = mv.Box(np.array([0.9, 1.8]), np.array([1.1, 2.2]))  # centre (1, 2), largest half width 0.2
    bounds = mv.compute_bounds(net, box, NormBounds())
    # zhat_1(c) = (-2, -1.5), row sums 3 and 1; zhat_2(c) = (0, 1), row sums 2 and 4 times delta_1 = 0.6.
    assert np.allclose(bounds.lower[0], [-2.6, -1.7], rtol=0, atol=1e-12)
    assert np.allclose(bounds.upper[0], [-1.4, -1.3], rtol=0, atol=1e-12)
    assert np.allclose(bounds.lower[1], [-1.2, -1.4], rtol=0, atol=1e-12)
    assert np.allclose(bounds.upper[1], [1.2, 3.4], rtol=0, atol=1e-12)
    # y(c) = (-1, 2); the row (1, 1) reads C W = (1, 1), delta_2 = 2.4.
    value = mv.bound_rows(net, box, bounds, np.array([1.0, 1.0]), NormBounds()).value
    assert np.allclose(value, [1.0 - 2 * 2.4], rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-24, 1.0, 1e24])
@given(seed=seeds)
def test_row_sums_are_rounded_up_where_they_are_attained(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    W, V, radius = scale * rng.normal(size=(4, 7)), rng.normal(size=(2, 7)), abs(rng.normal())
    hidden, direct = (affine({0: Dense(W)}, np.zeros(4)),), affine({0: Dense(V)}, np.zeros(2))
    net = Network((7,), (2,), hidden, direct)
    box = mv.Box(np.full(7, -radius), np.full(7, radius))  # around 0, where the trajectory is 0 without rounding
    bounds = mv.compute_bounds(net, box, NormBounds())
    for row, u in zip(W, bounds.upper[0], strict=True):
        assert sum(abs(Fraction(w)) for w in row) * Fraction(radius) <= Fraction(u)
    C = rng.normal(size=(3, 2))
    for row, low in zip(C, mv.bound_rows(net, box, bounds, C, NormBounds()).value, strict=True):
        exact = [sum(Fraction(c) * Fraction(v) for c, v in zip(row, column, strict=True)) for column in V.T]
        assert Fraction(low) <= -sum(abs(v) for v in exact) * Fraction(radius)


@pytest.mark.parametrize("exponent", [-24, -8, 0, 8, 24])
@given(seed=seeds)
def test_bounds_enclose_exact_values_at_any_scale(exponent: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(min(exponent, 0), max(exponent, 0), 3)
    net, x = deep(rng, (3, 5, 4, 2), tuple(scales)), rng.normal(size=3)
    rows = rng.normal(size=(2, 2))
    box = mv.Box(x, x + rng.choice([0.0, 1e-12, 1.0], 3))
    bounds = mv.compute_bounds(net, box, NormBounds())
    value = mv.bound_rows(net, box, bounds, rows, NormBounds()).value
    for point in (box.lower, box.upper):
        *hidden, y = exact_layers(net, point)
        for zhat, l, u in zip(hidden, bounds.lower, bounds.upper, strict=True):
            assert all(Fraction(a) <= v <= Fraction(b) for a, v, b in zip(l, zhat, u, strict=True))
        for row, low in zip(rows, value, strict=True):
            assert Fraction(low) <= sum(Fraction(c) * v for c, v in zip(row, y, strict=True))


@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_batches_and_torch_give_the_same(kind: str, seed: int) -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    batch, rows = boxes(rng, 3, net.n_inputs), rng.normal(size=(3, 2, net.n_outputs))
    bounds = mv.compute_bounds(net, batch, NormBounds())
    value = mv.bound_rows(net, batch, bounds, rows, NormBounds()).value
    twin = mv.compute_bounds(net, batch, NormBounds(), device="cpu")
    assert np.allclose(mv.bound_rows(net, batch, twin, rows, NormBounds(), device="cpu").value, value, atol=1e-12)
    for i in range(3):
        alone = mv.compute_bounds(net, batch[i], NormBounds())
        for a, b, c in zip(bounds.lower, alone.lower, twin.lower, strict=True):
            assert np.allclose(a[i], b, rtol=0, atol=1e-12) and np.allclose(a, c, rtol=0, atol=1e-12)
        assert np.allclose(mv.bound_rows(net, batch[i], alone, rows[i], NormBounds()).value, value[i], atol=1e-12)


def test_float32_executions_are_contained() -> None:
    net = deep(np.random.default_rng(5), (3, 20, 20, 2), (2.0,) * 3)
    net = net.map_arrays(lambda a: a.astype(np.float32).astype(np.float64))
    box = BoxBatch(np.full((1, 3), 0.5), np.full((1, 3), 0.5))
    bounds = mv.compute_bounds(net, box, NormBounds(), semantics=Float32())
    hidden, _ = net.as_float32().activations(np.full(3, 0.5, dtype=np.float32))
    for zhat, l, u in zip(hidden, bounds.lower, bounds.upper, strict=True):
        assert (l[0] <= zhat).all() and (zhat <= u[0]).all()
