"""What radii are made of: norms of any size, inputs of any type, errors that name what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from certificate_cases import NORMS, affine, chain, points

from milpverify.certificates.activation_region import activation_region
from milpverify.certificates.decision_boundary import decision_boundary_certificate
from milpverify.certificates.dual_radius import LARGEST, dual_radius
from milpverify.certificates.gains import lipschitz_certificate, spectral_norm_above
from milpverify.certificates.linear_model import linear_certificate
from milpverify.certificates.radii import Ball, CertifiedRadii, dual_norm
from milpverify.certificates.simplex import simplex_certificate
from milpverify.certificates.tightness import tightness
from milpverify.errors import OptionError, PropertyError
from milpverify.network.graph import Network
from milpverify.network.operators import Dense

every_norm = pytest.mark.parametrize("ball", NORMS.values(), ids=NORMS.keys())
every_size = pytest.mark.parametrize("power", [-600, -100, 0, 100, 600])
ROUNDED: dict[str, tuple[Callable[..., CertifiedRadii], int]] = {
    "lipschitz": (lipschitz_certificate, 1),
    "dual": (dual_radius, 1),
    "decision boundary": (decision_boundary_certificate, 1),
    "linear": (linear_certificate, 0),
}


@every_norm
@every_size
def test_norms_and_their_gradients_scale_with_their_rows(ball: type[Ball], power: int) -> None:
    rows = np.random.default_rng(0).normal(size=(4, 3))
    scale = 2.0**power
    np.testing.assert_allclose(dual_norm(scale * rows, ball), scale * dual_norm(rows, ball), rtol=1e-14)
    gradients = []
    for factor in (1.0, scale):
        leaf = torch.tensor(factor * rows, requires_grad=True)
        dual_norm(leaf, ball).sum().backward()
        gradients.append(leaf.grad.numpy())
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-12)


@every_norm
@every_size
def test_the_distance_of_a_linear_model_scales_with_its_bias_over_its_weights(ball: type[Ball], power: int) -> None:
    matrix, bias = np.array([[3.0, -1.0], [1.0, 2.0]]), np.array([2.0, 0.0])

    def radius(scale: float, rounded: bool) -> float:
        net = Network((2,), (2,), (), affine({0: Dense(scale * matrix)}, scale * bias))
        return float(simplex_certificate(net, [0.5, 0.25], 0, ball=ball, rounded=rounded).value[0])

    assert 0 < radius(1.0, False) < 2
    assert radius(2.0**power, False) == pytest.approx(radius(1.0, False), rel=1e-12)
    if abs(power) <= 100:
        assert radius(2.0**power, True) == pytest.approx(radius(1.0, True), rel=1e-6)


def test_gradients_too_small_to_be_squared_do_not_make_a_radius_infinite() -> None:
    net = Network((1,), (2,), (), affine({0: Dense(np.array([[0.0], [2.0**-560]]))}, np.array([2.0**-559, 0.0])))
    assert simplex_certificate(net, [0.0], 0).value[0] == 2.0  # 2^-559 / 2^-560


def test_a_radius_that_cannot_end_is_proven_as_far_as_it_is_asked_for() -> None:
    hidden = affine({0: Dense(np.zeros((1, 2)))}, np.array([1.0]))
    constant = Network((2,), (2,), (hidden,), affine({1: Dense(np.array([[1.0], [0.0]]))}, np.zeros(2)))
    found = simplex_certificate(constant, [0.0, 0.0], 0, rounded=True)
    assert LARGEST < found.value[0] < np.inf and found.correct[0]


def test_a_tie_that_nothing_moves_has_radius_zero_without_a_warning() -> None:
    net = Network((2,), (2,), (), affine({0: Dense(np.zeros((2, 2)))}, np.zeros(2)))
    for ball in NORMS.values():
        for certificate in (lipschitz_certificate, linear_certificate, simplex_certificate, dual_radius):
            radii = certificate(net, [0.0, 0.0], 0, ball=ball)
            assert radii.value[0] == 0.0 and not radii.correct[0]


@pytest.mark.parametrize("size", [1.7e308, 3e200, 1e-300])
def test_spectral_norms_of_matrices_of_any_size_are_bounded(size: float) -> None:
    assert size <= spectral_norm_above(np.array([[size, 0.0], [0.0, size / 2]])) <= np.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_torch_inputs_of_any_dtype_are_read_like_numbers(dtype: torch.dtype) -> None:
    net = chain(1, 3, 8, 6, 3)
    twin, z = net.to_torch(), torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.25, -1.0]]).to(dtype)
    x = z.to(torch.float64).numpy()
    labels = net.forward(x).argmax(axis=1)
    np.testing.assert_allclose(
        simplex_certificate(twin, z, torch.tensor(labels)).value.numpy(), simplex_certificate(net, x, labels).value
    )
    np.testing.assert_allclose(tightness(twin, z, labels, 0.1).d, tightness(net, x, labels, 0.1).d, atol=1e-12)
    np.testing.assert_allclose(activation_region(twin, z).d, activation_region(net, x).d)


def test_gradients_flow_through_a_change_of_dtype() -> None:
    z = torch.tensor([0.3, -0.2, 0.1], requires_grad=True)
    net = chain(1, 3, 8, 3)
    label = int(net.forward(z.detach().double().numpy()).argmax())
    simplex_certificate(net.to_torch(), z, label).value.sum().backward()
    assert z.grad is not None and bool((z.grad != 0).any())


@pytest.mark.parametrize("name", ROUNDED)
def test_what_rounds_outward_says_that_it_wants_numpy(name: str) -> None:
    certificate, hidden = ROUNDED[name]
    net = chain(0, 3, *[4] * hidden, 3)
    x, labels = points(net, 0, 2)
    for some_net, some_x in ((net.to_torch(), x), (net, torch.tensor(x)), (net.to_torch(), torch.tensor(x))):
        with pytest.raises(OptionError, match="works on numpy arrays only"):
            certificate(some_net, some_x, labels)


def test_the_label_that_is_wrong_is_named() -> None:
    net = chain(0, 3, 4, 3)
    with pytest.raises(PropertyError, match="label -1 of 3"):
        simplex_certificate(net, np.zeros((2, 3)), [2, -1])
