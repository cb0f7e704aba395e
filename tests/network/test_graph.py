from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from milpverify.errors import BoundsError, NetworkError
from milpverify.network.exact import forward_exact
from milpverify.network.graph import Affine, Bounds, Network
from milpverify.network.operators import Dense, LinearOperator, Scaling, Selection, identity
from tests.network.random_operators import linear_operators, matching, quarters

LAWS = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Networks of up to three layers with skip connections, lazy biases and coefficients that are multiples of 1/4."""
    first = draw(linear_operators())
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    sizes = [first.in_size]
    affines: list[Affine] = []
    for k in range(1, draw(st.integers(1, 4)) + 1):
        blocks: list[tuple[int, LinearOperator]] = [(0, first)] if k == 1 else []
        size = first.out_size if k == 1 else draw(st.integers(1, 4))
        sources = sorted(draw(st.sets(st.integers(0, k - 1), min_size=1))) if k > 1 else []
        blocks += [(j, draw(matching(size, sizes[j]))) for j in sources]
        terms: list[tuple[LinearOperator | None, np.ndarray]] = [(None, quarters(generator, (size,)))]
        if draw(st.booleans()):
            terms.append((Dense(quarters(generator, (size, 3))), quarters(generator, (3,))))
        affines.append(Affine(tuple(blocks), tuple(terms), size, f"layer_{k}"))
        sizes.append(size)
    output = affines.pop()
    return Network((1, sizes[0]), (output.size,), tuple(affines), output)


def by_the_formula(net: Network, x: np.ndarray) -> np.ndarray:
    """y by dense matrices, straight from the definition."""
    values = [x]
    for affine in (*net.layers, net.output):
        total = np.zeros(affine.size)
        for term, vector in affine.bias_terms:
            total = total + (vector if term is None else term.dense() @ vector)
        for source, op in affine.blocks:
            total = total + op.dense() @ values[source]
        values.append(np.maximum(total, 0))
    return total


@LAWS
@given(networks(), st.integers(0, 2**16))
def test_forward_follows_the_formula_exactly_and_in_floats(net: Network, seed: int) -> None:
    x = quarters(np.random.default_rng(seed), (net.n_inputs,))
    expected = by_the_formula(net, x)
    np.testing.assert_array_equal(net.forward(x), expected)
    assert forward_exact(net, list(x)) == tuple(Fraction(v) for v in expected)


@LAWS
@given(networks(), st.lists(st.fractions(-2, 2, max_denominator=97), min_size=1, max_size=4))
def test_exact_replay_takes_any_rationals(net: Network, values: list[Fraction]) -> None:
    x = [values[i % len(values)] for i in range(net.n_inputs)]
    exact = forward_exact(net, x)
    np.testing.assert_allclose(net.forward(np.array([float(v) for v in x])), [float(v) for v in exact], atol=1e-11)
    # Linear pieces: scaling numerators and denominators apart must not matter.
    assert forward_exact(net, [Fraction(3 * v.numerator, 3 * v.denominator) for v in x]) == exact


@LAWS
@given(networks(), st.integers(0, 2**16))
def test_batches_and_twins_agree(net: Network, seed: int) -> None:
    x = quarters(np.random.default_rng(seed), (2, 3, net.n_inputs))
    y = net.forward(x)
    assert y.shape == (2, 3, net.n_outputs)
    np.testing.assert_array_equal(y[1, 2], net.forward(x[1, 2]))
    assert net.forward(x[:0]).shape == (0, 3, net.n_outputs)
    np.testing.assert_array_equal(net.to_torch().forward(torch.tensor(x)).numpy(), y)
    single = net.as_float32().forward(x.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, y)  # multiples of 1/4 this small lose nothing


def test_pre_activations_are_those_before_the_relu() -> None:
    net = small()
    hidden, y = net.activations(np.array([1.0, -1.0]))
    np.testing.assert_array_equal(hidden[0], [0.0, 2.0, -2.0])
    np.testing.assert_array_equal(y, [3.0])


def test_a_constant_affine_map_has_the_batch_of_its_arguments() -> None:
    constant = Affine((), ((None, np.array([1.0, 2.0])),), 2)
    assert constant.apply([np.zeros((5, 4, 3))]).shape == (5, 4, 2)
    assert constant.map_arrays(torch.as_tensor).apply([torch.zeros(5, 3, dtype=torch.float64)]).shape == (5, 2)


def small(weight: float = 1.0) -> Network:
    """Two inputs, three ReLUs: x1 + x2, x1 - x2, x2 - x1; y = their sum + 1."""
    matrix = np.array([[1, weight], [1, -1], [-1, 1]])
    layer = Affine(((0, Dense(matrix)),), ((None, np.zeros(3)),), 3, "relu")
    return Network((1, 2), (1,), (layer,), Affine(((1, Dense(np.ones((1, 3)))),), ((None, np.ones(1)),), 1, "output"))


def test_the_bias_is_rounded_and_its_error_is_stated() -> None:
    third, tiny = np.array([1 / 3]), np.array([1e-17])
    plain = Affine((), ((None, third),), 1)
    assert plain.bias_error == 0 and plain.bias == third
    both = Affine((), ((None, third), (None, tiny)), 1)
    assert both.bias == third and both.bias_error[0] >= 1e-17
    lazy = Affine((), ((Scaling(third), third),), 1)
    exact = Fraction(third[0]) ** 2
    assert 0 < abs(Fraction(lazy.bias[0]) - exact) <= Fraction(lazy.bias_error[0])
    assert Affine((), (), 2).bias.shape == (2,) and not Affine((), (), 2).bias_error.any()


def test_sizes_and_counts() -> None:
    net = small()
    assert (net.n_inputs, net.n_outputs, net.sizes, net.n_neurons) == (2, 1, (3,), 3)


def test_fingerprints_tell_functions_apart_and_survive_rebuilding() -> None:
    assert small().fingerprint == small().fingerprint
    assert len({small().fingerprint, small(1 + 2**-52).fingerprint, small(-1.0).fingerprint}) == 3
    net = small()
    shifted = Affine(net.output.blocks, ((None, np.zeros(1)),), 1)
    skip = Affine((*((0, Dense(np.zeros((1, 2)))),), *net.output.blocks), net.output.bias_terms, 1)
    others = [Network(net.input_shape, net.output_shape, net.layers, affine).fingerprint for affine in (shifted, skip)]
    assert len({net.fingerprint, *others}) == 3


def test_inputs_are_flattened_and_checked() -> None:
    net = small()
    np.testing.assert_array_equal(net.flat([[1], [2]]), [1.0, 2.0])
    with pytest.raises(NetworkError, match=r"reads 2 values \(shape \(1, 2\)\), got an array of shape \(3,\)"):
        net.flat([1, 2, 3])
    for bad in (np.nan, np.inf):
        with pytest.raises(NetworkError, match="entry 1 is"):
            net.flat([0, bad])
    with pytest.raises(NetworkError, match="expected 2 inputs, got 3"):
        forward_exact(net, [1, 2, 3])


@pytest.mark.parametrize(
    ("blocks", "terms"),
    [
        (((1, identity(2)), (0, identity(2))), ()),
        (((0, identity(2)), (0, identity(2))), ()),
        (((0, Dense(np.ones((3, 2)))),), ()),
        ((), ((None, np.zeros(3)),)),
        ((), ((Dense(np.ones((3, 2))), np.zeros(2)),)),
        ((), ((Dense(np.ones((2, 2))), np.zeros(3)),)),
    ],
)
def test_affine_maps_check_their_parts(blocks: tuple, terms: tuple) -> None:  # type: ignore[type-arg]
    with pytest.raises(NetworkError):
        Affine(blocks, terms, 2)


def test_networks_check_what_their_layers_read() -> None:
    layer = small().layers[0]
    for source, width in ((1, 3), (2, 3), (0, 3)):
        wrong = Affine(((source, Selection(np.zeros(3, dtype=int), width)),), (), 3)
        with pytest.raises(NetworkError, match="reads 3 values"):
            Network((2,), (3,), (wrong, layer), layer)
    with pytest.raises(NetworkError, match="output shape"):
        Network((2,), (2,), (), layer)


def test_bounds_sort_neurons_into_phases() -> None:
    bounds = Bounds((np.array([-1.0, 0.0, -1.0, -2.0, 0.0]),), (np.array([1.0, 1.0, 0.0, -1.0, 0.0]),), "a")
    np.testing.assert_array_equal(bounds.unstable(1), [True, False, False, False, False])
    np.testing.assert_array_equal(bounds.active(1), [False, True, False, False, True])
    np.testing.assert_array_equal(bounds.inactive(1), [False, False, True, True, False])
    assert bounds.n_unstable == (1,)
    other = Bounds((np.full(5, -0.5),), (np.full(5, 0.5),), "b")
    with pytest.raises(BoundsError):
        bounds.intersect(other)
    wide = bounds.intersect(Bounds((np.full(5, -9.0),), (np.full(5, 0.5),), "b"))
    np.testing.assert_array_equal(wide.upper[0], [0.5, 0.5, 0.0, -1.0, 0.0])
    np.testing.assert_array_equal(wide.lower[0], bounds.lower[0])
    for l, u in (([1.0], [0.0]), ([np.nan], [0.0]), ([0.0], [1.0, 1.0])):
        with pytest.raises(BoundsError):
            Bounds((np.array(l),), (np.array(u),))
