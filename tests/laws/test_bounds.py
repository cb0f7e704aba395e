"""Laws of bounds: they contain what inputs do, they are rounded outward, and tighter methods nest."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given

from milpverify.bounds.backward import FastLin
from milpverify.bounds.compute import bound_rows, compute_bounds
from milpverify.bounds.dual import dual_bound
from milpverify.bounds.problem import DualProblem
from milpverify.network.condense import condense
from milpverify.network.exact import forward_exact
from milpverify.spec.regions import Box
from tests.cases import BOUND_METHODS, NETWORKS, REGIONS, brute_force_minimum, seeds


@pytest.mark.parametrize("region_kind", REGIONS)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", BOUND_METHODS)
@given(seed=seeds)
def test_bounds_contain_sampled_activations(name: str, kind: str, region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    bounds = compute_bounds(net, region, BOUND_METHODS[name])
    rows = rng.normal(size=(4, net.n_outputs))
    lower = bound_rows(net, region, bounds, rows, BOUND_METHODS[name]).value
    hidden, y = net.activations(region.sample(rng, 200))
    for zhat, l, u in zip(hidden, bounds.lower, bounds.upper, strict=True):
        # Activations are floating: the exact ones lie within a few roundings of these.
        assert (zhat >= l - 1e-12).all() and (zhat <= u + 1e-12).all()
    assert (y @ rows.T >= lower - 1e-12).all()


@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_bounds_of_a_point_enclose_its_exact_value(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    x = rng.normal(size=net.n_inputs)
    exact = forward_exact(net, x.tolist())
    for method in BOUND_METHODS.values():
        point = Box(x, x)
        bounds = compute_bounds(net, point, method)
        low = bound_rows(net, point, bounds, np.eye(net.n_outputs), method).value
        high = -bound_rows(net, point, bounds, -np.eye(net.n_outputs), method).value
        for a, y, b in zip(low, exact, high, strict=True):
            assert Fraction(a) <= y <= Fraction(b)
            assert b - a < 1e-9


@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_any_multipliers_give_a_valid_bound(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS["box"](rng, net.n_inputs)
    problem = DualProblem.of(net, region, compute_bounds(net, region))
    rows = rng.normal(size=(3, net.n_outputs))
    wild = dual_bound(problem, len(net.layers) + 1, rows, lambda j, lam, phases: 5.0 * rng.normal(size=lam.shape))
    assert (net.forward(region.sample(rng, 300)) @ rows.T >= wild.value - 1e-12).all()


@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_backward_bounds_nest_inside_intervals(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS["box"](rng, net.n_inputs)
    interval = compute_bounds(net, region, BOUND_METHODS["interval"])
    for name in ("fastlin", "crown"):
        tighter = compute_bounds(net, region, BOUND_METHODS[name])
        for k in range(len(net.layers)):
            assert (tighter.lower[k] >= interval.lower[k] - 1e-9).all()
            assert (tighter.upper[k] <= interval.upper[k] + 1e-9).all()


@pytest.mark.parametrize("region_kind", ("box", "l1"))
@given(seed=seeds)
def test_bounds_never_pass_the_true_minimum(region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["skip"](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    row = rng.normal(size=net.n_outputs)
    truth = brute_force_minimum(net, region, row)
    for method in BOUND_METHODS.values():
        bounds = compute_bounds(net, region, method)
        assert bound_rows(net, region, bounds, row, method).value[0] <= truth + 1e-7


@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_numpy_and_torch_agree(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS["linf clipped"](rng, net.n_inputs)
    for name in ("interval", "fastlin", "crown pure"):
        one = compute_bounds(net, region, BOUND_METHODS[name])
        other = compute_bounds(net, region, BOUND_METHODS[name], device="cpu")
        for a, b in zip((*one.lower, *one.upper), (*other.lower, *other.upper), strict=True):
            assert np.allclose(a, b, rtol=0, atol=1e-9)


@given(seed=seeds)
def test_chunks_do_not_change_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["chain"](rng)
    region = REGIONS["box"](rng, net.n_inputs)
    whole = compute_bounds(net, region, FastLin())
    parts = compute_bounds(net, region, FastLin(budget_bytes=96 * 4))
    for a, b in zip((*whole.lower, *whole.upper), (*parts.lower, *parts.upper), strict=True):
        assert np.allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("region_kind", REGIONS)
@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_the_condensed_network_equals_the_original_on_the_region(kind: str, region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    bounds = compute_bounds(net, region)
    rows = rng.normal(size=(5, net.n_outputs))
    small = condense(net, bounds, rows)
    x = region.sample(rng, 100)
    assert small.net.sizes == bounds.n_unstable
    assert np.allclose(small.net.forward(x), net.forward(x) @ rows.T, rtol=0, atol=1e-10)
    hidden = net.activations(x)[0]
    for k, (zhat, kept) in enumerate(zip(small.net.activations(x)[0], small.kept, strict=True)):
        assert np.allclose(zhat, hidden[k][:, kept], rtol=0, atol=1e-10)
