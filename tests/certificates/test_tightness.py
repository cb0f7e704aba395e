"""Indicators bracket the dual bound's gap and vanish only where it is exact; gradients are those of the values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from certificate_cases import NETWORKS, NORMS, affine, chain, convolution, length, points, skips

from milpverify.bounds.backward import FastLin
from milpverify.bounds.compute import bound_rows, compute_bounds
from milpverify.certificates.activation_region import activation_region
from milpverify.certificates.linear_model import worst_linear_margins
from milpverify.certificates.linear_network import LinearNetwork, margin_bound
from milpverify.certificates.radii import Ball, margin_rows
from milpverify.certificates.simplex import simplex_certificate
from milpverify.certificates.tightness import tightness
from milpverify.errors import NetworkError, OptionError, PropertyError, RegionError
from milpverify.network.graph import Network
from milpverify.network.operators import Dense
from milpverify.spec.property import Case, Polyhedron, Property
from milpverify.spec.regions import L2Ball, LinfBall
from milpverify.tasks.margin import worst_margin

every_norm = pytest.mark.parametrize("ball", NORMS.values(), ids=NORMS.keys())
every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())


@every_norm
@every_network
def test_the_linear_network_gives_the_rounded_dual_bound(make: Callable[[int], Network], ball: type[Ball]) -> None:
    net = make(1)
    x, labels = points(net, 2)
    rows = margin_rows(labels, net.n_outputs)
    relaxed = LinearNetwork.of(net, x, 0.4, ball=ball)
    found = margin_bound(relaxed, rows)
    method = FastLin(intersect=False)
    for i in range(len(x)):
        bounds = compute_bounds(net, ball(x[i], 0.4), method)
        rounded = bound_rows(net, ball(x[i], 0.4), bounds, rows[i], method).value
        np.testing.assert_allclose(found[i], rounded, rtol=1e-9, atol=1e-9)
        for k, (l, u) in enumerate(zip(bounds.lower, bounds.upper, strict=True)):
            np.testing.assert_allclose(relaxed.lower[k][i], l, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(relaxed.upper[k][i], u, rtol=1e-9, atol=1e-9)


def exact_minimum(net: Network, region: Ball, row: np.ndarray) -> tuple[float, float]:
    """Proved and witnessed minimum of row . y."""
    case = Case(region, Polyhedron(row[None], np.zeros(1)), "row")
    bracket = worst_margin(net, Property((case,), net.n_inputs, net.n_outputs), time_limit_s=20)
    return bracket.lower, bracket.upper


@pytest.mark.parametrize("ball", [LinfBall, NORMS["l1"]])
@pytest.mark.parametrize("make", [lambda s: chain(s, 3, 6, 5, 3), convolution], ids=["chain", "convolution"])
def test_d_is_at_least_the_exact_gap_which_is_at_least_zero(make: Callable[[int], Network], ball: type[Ball]) -> None:
    for seed in range(3):
        net = make(seed)
        x, labels = points(net, seed, 1)
        found = tightness(net, x, labels, 0.3, ball=ball)
        assert (length(found.x[0] - x, ball) <= 0.3 * (1 + 1e-9)).all()
        assert (found.r >= 0).all()
        for row, bound, d, is_exact in zip(
            margin_rows(labels, net.n_outputs)[0], found.bound[0], found.d[0], found.exact()[0], strict=True
        ):
            low, high = exact_minimum(net, ball(x[0], 0.3), row)
            assert bound <= high + 1e-9
            assert d >= low - bound - 1e-9
            if is_exact:
                assert bound == pytest.approx(high, abs=1e-9)


def one_neuron(sign: float) -> Network:
    """y_0 = sign relu(x), y_1 = 0."""
    hidden = affine({0: Dense(np.ones((1, 1)))}, np.zeros(1))
    return Network((1,), (2,), (hidden,), affine({1: Dense(np.array([[sign], [0.0]]))}, np.zeros(2)))


@every_norm
def test_indicators_of_one_neuron_worked_out_by_hand(ball: type[Ball]) -> None:
    # On [-1, 1], s = h = 1/2. Upwards the optimum is x* = -1 with z* = -1/2, where relu is 0; downwards x* = 1, z* = 1.
    loose = tightness(one_neuron(1.0), [0.0], 0, 1.0, ball=ball)
    assert (loose.bound[0, 0], loose.d[0, 0], loose.r[0, 0]) == (-0.5, 0.5, 0.5) and not loose.exact()[0, 0]
    tight = tightness(one_neuron(-1.0), [0.0], 0, 1.0, ball=ball)
    assert (tight.bound[0, 0], tight.d[0, 0], tight.r[0, 0]) == (-1.0, 0.0, 0.0) and tight.exact()[0, 0]


def test_a_neuron_that_the_row_does_not_see_does_not_count() -> None:
    hidden = affine({0: Dense(np.ones((2, 1)))}, np.array([0.0, 0.1]))
    net = Network((1,), (2,), (hidden,), affine({1: Dense(np.array([[-1.0, 0.0], [0.0, 0.0]]))}, np.zeros(2)))
    assert tightness(net, [0.0], 0, 1.0).r[0, 0] == pytest.approx(0.0, abs=1e-15)


@every_norm
def test_stable_networks_have_tight_bounds(ball: type[Ball]) -> None:
    net = chain(3, 4, 8, 8, 3)
    x, labels = points(net, 4, 5)
    radius = float(simplex_certificate(net, x, labels, ball=ball).region.min())
    found = tightness(net, x, labels, radius * (1 - 1e-9), ball=ball)
    assert found.exact().all()
    np.testing.assert_allclose(found.d, 0.0, atol=1e-12)


@every_norm
@every_network
def test_torch_and_numpy_agree(make: Callable[[int], Network], ball: type[Ball]) -> None:
    net = make(5)
    x, labels = points(net, 6, 4)
    twin, z = net.to_torch(), torch.tensor(x)
    ours, theirs = tightness(net, x, labels, 0.3, ball=ball), tightness(twin, z, labels, 0.3, ball=ball)
    for name in ("bound", "d", "r", "x", "scale"):
        np.testing.assert_allclose(getattr(theirs, name).numpy(), getattr(ours, name), rtol=1e-10, atol=1e-11)
    a, b = simplex_certificate(net, x, labels, ball=ball), simplex_certificate(twin, z, labels, ball=ball)
    np.testing.assert_allclose(b.value.numpy(), a.value, rtol=1e-10)
    np.testing.assert_array_equal(a.face, b.face)
    for one, two in zip(activation_region(net, x).P, activation_region(twin, z).P, strict=True):
        np.testing.assert_allclose(two.numpy(), one, rtol=1e-10, atol=1e-11)


VALUES: dict[str, Callable[[Network, torch.Tensor, np.ndarray, type[Ball]], torch.Tensor]] = {
    "simplex": lambda net, x, labels, ball: simplex_certificate(net, x, labels, ball=ball).value.sum(),
    "bound": lambda net, x, labels, ball: tightness(net, x, labels, 0.2, ball=ball).bound.sum(),
    "d": lambda net, x, labels, ball: tightness(net, x, labels, 0.2, ball=ball).d.sum(),
    "r": lambda net, x, labels, ball: tightness(net, x, labels, 0.2, ball=ball).r.sum(),
}


@every_norm
@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("make", [lambda s: chain(s, 4, 9, 8, 3), skips], ids=["chain", "skips"])
def test_gradients_are_those_of_finite_differences(make: Callable[[int], Network], name: str, ball: type[Ball]) -> None:
    net = make(7)
    x, labels = points(net, 8, 3)
    parameters: list[torch.Tensor] = [torch.tensor(x)]

    def collect(array: np.ndarray) -> torch.Tensor:
        parameters.append(torch.tensor(np.asarray(array)))
        return parameters[-1]

    twin = net.map_arrays(collect)
    for parameter in parameters:
        parameter.requires_grad_(True)
    VALUES[name](twin, parameters[0], labels, ball).backward()
    rng, h = np.random.default_rng(9), 1e-6
    for parameter in parameters:
        assert parameter.grad is not None
        direction = torch.tensor(rng.normal(size=tuple(parameter.shape)))
        slope = float((parameter.grad * direction).sum())
        with torch.no_grad():
            sides = []
            for step in (h, -h):
                parameter += step * direction
                sides.append(float(VALUES[name](twin, parameters[0], labels, ball)))
                parameter -= step * direction
        assert slope == pytest.approx((sides[0] - sides[1]) / (2 * h), rel=1e-5, abs=1e-6)


def test_gradients_exist_where_a_norm_is_zero() -> None:
    net = Network((2,), (2,), (), affine({0: Dense(np.zeros((2, 2)))}, np.array([1.0, 0.0]))).to_torch()
    x = torch.zeros((1, 2), dtype=torch.float64, requires_grad=True)
    worst_linear_margins(net, x, 0, 0.1, ball=L2Ball).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.zeros((1, 2)))


def test_what_does_not_fit_is_refused() -> None:
    net = chain(0, 3, 4, 3)
    for eps in (-0.1, np.inf, np.nan):
        with pytest.raises(RegionError, match="eps"):
            tightness(net, np.zeros(3), 0, eps)
    with pytest.raises(NetworkError, match="reads 3 values"):
        tightness(net, np.zeros(2), 0, 0.1)
    with pytest.raises(PropertyError, match="label"):
        tightness(net, np.zeros(3), 5, 0.1)
    with pytest.raises(OptionError, match="no ball"):
        tightness(net, np.zeros(3), 0, 0.1, ball=float)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="different libraries"):
        tightness(net, torch.zeros(3, dtype=torch.float64), 0, 0.1)
    with pytest.raises(OptionError, match="numpy arrays only"):
        simplex_certificate(net.to_torch(), torch.ones(3, dtype=torch.float64), 0, rounded=True)
