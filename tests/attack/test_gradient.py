"""Gradients: they are those of the function, in numpy and in torch, and zero through a closed ReLU."""

from __future__ import annotations

import numpy as np
import pytest
from attack_cases import affine, convolution_network, linear_network, skip_network
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from milpverify.attack.gradient import Linearization, value_and_gradient
from milpverify.network.graph import Network
from milpverify.network.operators import Dense


@settings(deadline=None, derandomize=True, max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_gradient_is_the_slope_within_a_linear_piece(seed: int) -> None:
    net = skip_network(seed) if seed % 2 else convolution_network(seed)
    rng = np.random.default_rng(seed)
    x, weights = rng.normal(size=(4, net.n_inputs)), rng.normal(size=(4, net.n_outputs))
    step = 1e-6 * rng.normal(size=x.shape)
    patterns = [[z > 0 for z in net.activations(x + s * step)[0]] for s in (-1, 0, 1)]
    assume(all((a == b).all() and (b == c).all() for a, b, c in zip(*patterns, strict=True)))
    y, gradient = value_and_gradient(net, x, weights)
    np.testing.assert_array_equal(y, net.forward(x))
    rise = (weights * (net.forward(x + step) - net.forward(x - step))).sum(axis=1)
    np.testing.assert_allclose(2 * (gradient * step).sum(axis=1), rise, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("net", [skip_network(3), convolution_network(4)], ids=["skip", "convolution"])
def test_torch_autograd_torch_and_numpy_agree(net: Network) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(5, net.n_inputs)), rng.normal(size=(5, net.n_outputs))
    twin, leaf = net.to_torch(), torch.tensor(x, requires_grad=True)
    (twin.forward(leaf) * torch.tensor(weights)).sum().backward()
    y, gradient = value_and_gradient(net, x, weights)
    y_torch, gradient_torch = value_and_gradient(twin, torch.tensor(x), torch.tensor(weights))
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gradient_torch.numpy(), gradient, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(y_torch.numpy(), y, rtol=1e-12, atol=1e-12)


def test_a_relu_at_its_kink_passes_nothing_and_a_closed_one_the_surrogate_slope() -> None:
    hidden = affine([(0, Dense(np.eye(3)))], np.zeros(3))
    net = Network((3,), (1,), (hidden,), affine([(1, Dense(np.array([[2.0, 3.0, 5.0]])))], np.zeros(1)))
    point = Linearization.at(net, np.array([[-1.0, 0.0, 1.0]]))
    np.testing.assert_array_equal(point.pull_back(np.ones((1, 1))), [[0.0, 0.0, 5.0]])
    np.testing.assert_allclose(point.pull_back(np.ones((1, 1)), np.array([[0.1]])), [[0.2, 0.3, 5.0]])


def test_outputs_that_do_not_depend_on_the_input_have_gradient_zero() -> None:
    net = Network((2,), (1,), (), affine([], np.array([4.0])))
    y, gradient = value_and_gradient(net, np.ones((3, 2)), np.ones((3, 1)))
    np.testing.assert_array_equal(y, np.full((3, 1), 4.0))
    np.testing.assert_array_equal(gradient, np.zeros((3, 2)))


def test_an_affine_network_has_its_matrix_as_gradient() -> None:
    matrix = np.array([[1.0, -2.0, 0.5], [0.0, 4.0, 8.0]])
    _, gradient = value_and_gradient(linear_network(matrix, np.zeros(2)), np.zeros((2, 3)), np.eye(2))
    np.testing.assert_array_equal(gradient, matrix)
