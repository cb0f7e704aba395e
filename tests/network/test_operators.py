from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from milpverify.errors import NetworkError
from milpverify.network.convolution import Conv2d
from milpverify.network.operators import (
    Dense,
    LinearOperator,
    Product,
    Scaling,
    Selection,
    Sum,
    add,
    compose,
    identity,
    to_scaled_integers,
)
from tests.network.random_operators import convolutions, linear_operators, matching, quarters

LAWS = settings(max_examples=100, deadline=None, derandomize=True)


def exact_matrix(op: LinearOperator) -> np.ndarray:
    """The matrix, column by column, from `apply` alone."""
    return np.asarray(op.apply(np.eye(op.in_size))).T


@LAWS
@given(convolutions())
def test_a_convolution_is_the_one_torch_computes(conv: Conv2d) -> None:
    top, left, bottom, right = conv.padding
    x = quarters(np.random.default_rng(0), (3, *conv.in_shape))
    image = torch.nn.functional.pad(torch.tensor(x), (left, right, top, bottom))
    y = torch.nn.functional.conv2d(image, torch.tensor(conv.kernel), None, conv.stride, 0, conv.dilation, conv.groups)
    assert tuple(y.shape[1:]) == conv.out_shape
    np.testing.assert_array_equal(conv.apply(x.reshape(3, -1)), y.numpy().reshape(3, -1))


@LAWS
@given(linear_operators())
def test_the_transpose_is_adjoint_and_dense_rows_agree(op: LinearOperator) -> None:
    matrix = exact_matrix(op)
    assert matrix.shape == (op.out_size, op.in_size)
    np.testing.assert_array_equal(op.transpose_apply(np.eye(op.out_size)), matrix)
    np.testing.assert_array_equal(op.dense(), matrix)
    some = np.arange(op.out_size)[::-2]
    np.testing.assert_array_equal(op.rows(some), matrix[some])


@LAWS
@given(linear_operators())
def test_leading_axes_are_a_batch_which_may_be_empty(op: LinearOperator) -> None:
    x = quarters(np.random.default_rng(1), (2, 3, op.in_size))
    y = op.apply(x)
    assert y.shape == (2, 3, op.out_size)
    np.testing.assert_array_equal(y[1, 2], op.apply(x[1, 2]))
    back = op.transpose_apply(y)
    assert back.shape == x.shape
    np.testing.assert_array_equal(back[1, 2], op.transpose_apply(y[1, 2]))
    assert op.apply(x[:0]).shape == (0, 3, op.out_size)
    assert op.transpose_apply(y[:0]).shape == (0, 3, op.in_size)


@LAWS
@given(linear_operators())
def test_the_magnitude_is_at_least_the_absolute_matrix(op: LinearOperator) -> None:
    matrix, magnitude = exact_matrix(op), exact_matrix(op.magnitude())
    assert (magnitude >= np.abs(matrix)).all()
    if not isinstance(op, (Sum, Product)):
        np.testing.assert_array_equal(magnitude, np.abs(matrix))
    np.testing.assert_array_equal(op.abs_row_sums(), magnitude.sum(axis=1))


@LAWS
@given(linear_operators(), st.integers(0, 2**16))
def test_integers_are_the_operator_exactly(op: LinearOperator, seed: int) -> None:
    integers, exponent = op.scaled_integer()
    # Numbers far beyond 64 bits: an int64 that slips in would wrap around.
    x = np.array([int(v) << 70 for v in np.random.default_rng(seed).integers(-9, 9, op.in_size)], dtype=object)
    y = integers.apply(x)
    assert all(type(v) is int for v in y)
    expected = [
        sum((Fraction(c) * int(v) for c, v in zip(row, x, strict=True)), Fraction(0)) for row in exact_matrix(op)
    ]
    assert [Fraction(v, 1 << exponent) for v in y] == expected
    z = np.array([int(v) << 70 for v in np.random.default_rng(seed).integers(-9, 9, op.out_size)], dtype=object)
    back = integers.transpose_apply(z)
    assert all(type(v) is int for v in back)
    columns = exact_matrix(op).T
    expected = [sum((Fraction(c) * int(v) for c, v in zip(column, z, strict=True)), Fraction(0)) for column in columns]
    assert [Fraction(v, 1 << exponent) for v in back] == expected


@LAWS
@given(linear_operators(), st.integers(0, 2**16))
def test_exact_products_are_the_operator_exactly(op: LinearOperator, seed: int) -> None:
    x = np.array([int(v) << 70 for v in np.random.default_rng(seed).integers(-9, 9, op.in_size)], dtype=object)
    y, exponent = op.apply_exact(x)
    assert all(type(v) is int for v in y) and exponent >= 0
    expected = [
        sum((Fraction(c) * int(v) for c, v in zip(row, x, strict=True)), Fraction(0)) for row in exact_matrix(op)
    ]
    assert [Fraction(v, 1 << exponent) for v in y] == expected


@LAWS
@given(linear_operators())
def test_the_torch_twin_agrees_in_both_directions(op: LinearOperator) -> None:
    twin = op.map_arrays(lambda a: torch.as_tensor(np.asarray(a)))
    generator = np.random.default_rng(2)
    x, y = quarters(generator, (2, op.in_size)), quarters(generator, (2, op.out_size))
    np.testing.assert_array_equal(twin.apply(torch.tensor(x)).numpy(), op.apply(x))
    np.testing.assert_array_equal(twin.transpose_apply(torch.tensor(y)).numpy(), op.transpose_apply(y))


@LAWS
@given(linear_operators())
def test_float32_twins_stay_float32(op: LinearOperator) -> None:
    twin = op.map_arrays(lambda a: np.asarray(a, dtype=np.float32))
    x = quarters(np.random.default_rng(3), (op.in_size,)).astype(np.float32)
    assert twin.apply(x).dtype == np.float32
    assert twin.transpose_apply(twin.apply(x)).dtype == np.float32


@LAWS
@given(linear_operators(), st.integers(0, 2**16))
def test_floating_results_are_within_the_stated_roundings(op: LinearOperator, seed: int) -> None:
    generator = np.random.default_rng(seed)
    op = op.map_arrays(lambda a: np.asarray(a) * generator.uniform(0.5, 1.0, np.shape(a)))
    for here, there in ((op, False), (op, True)):
        x = generator.standard_normal(here.out_size if there else here.in_size)
        integers, exponent = here.scaled_integer()
        numerators, shift = to_scaled_integers(x)
        exact = integers.transpose_apply(numerators) if there else integers.apply(numerators)
        value = here.transpose_apply(x) if there else here.apply(x)
        size = here.magnitude().transpose_apply(abs(x)) if there else here.magnitude().apply(abs(x))
        unit = here.roundings * 2.0**-53
        for v, e, m in zip(value, exact, size, strict=True):
            error = abs(Fraction(float(v)) - Fraction(int(e), 1 << (exponent + shift)))
            assert error <= Fraction(1.01 * unit / (1 - unit) * m + 1e-300)


@LAWS
@given(st.data(), linear_operators())
def test_compose_and_add_are_products_and_sums(data: st.DataObject, op: LinearOperator) -> None:
    after = data.draw(matching(None, op.out_size))
    np.testing.assert_array_equal(exact_matrix(compose(after, op)), exact_matrix(after) @ exact_matrix(op))
    beside = data.draw(matching(op.out_size, op.in_size))
    np.testing.assert_array_equal(exact_matrix(add(op, beside)), exact_matrix(op) + exact_matrix(beside))


@LAWS
@given(linear_operators())
def test_composing_with_the_identity_changes_nothing(op: LinearOperator) -> None:
    assume(not (isinstance(op, Selection) and op.is_identity))
    assert compose(identity(op.out_size), op) is op
    assert compose(op, identity(op.in_size)) is op


@LAWS
@given(st.data(), st.lists(st.integers(1, 5), min_size=4, max_size=4))
def test_adjacent_selections_become_one(data: st.DataObject, sizes: list[int]) -> None:
    picks = [
        Selection(np.array(data.draw(st.lists(st.integers(-1, n - 1), min_size=m, max_size=m))), n)
        for n, m in pairwise(sizes)
    ]
    dense = Dense(quarters(np.random.default_rng(0), (3, sizes[-1])))
    chain = compose(compose(dense, picks[2]), compose(picks[1], picks[0]))
    expected = exact_matrix(dense) @ exact_matrix(picks[2]) @ exact_matrix(picks[1]) @ exact_matrix(picks[0])
    np.testing.assert_array_equal(exact_matrix(chain), expected)
    assert isinstance(chain, Dense) or (isinstance(chain, Product) and len(chain.factors) == 2)


def test_selecting_from_nothing_is_zero() -> None:
    nothing = Selection(np.array([], dtype=int), 3)
    chain = compose(Selection(np.array([-1, -1]), 0), nothing)
    np.testing.assert_array_equal(chain.apply(np.ones(3)), [0, 0])
    np.testing.assert_array_equal(chain.transpose_apply(np.ones(2)), [0, 0, 0])


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(FINITE, max_size=6))
def test_scaled_integers_are_the_floats_exactly(values: list[float]) -> None:
    integers, exponent = to_scaled_integers(np.array(values))
    assert all(type(v) is int for v in integers) and exponent >= 0
    assert [Fraction(v, 1 << exponent) for v in integers] == [Fraction(v) for v in values]
    if exponent:
        assert any(v % 2 for v in integers)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Dense(np.ones(3)),
        lambda: Selection(np.array([0, 3]), 3),
        lambda: Selection(np.array([-2]), 3),
        lambda: Sum((identity(2), identity(3))),
        lambda: Product((identity(2), identity(3))),
        lambda: Conv2d(np.ones((1, 2, 3, 3)), (1, 5, 5)),
        lambda: Conv2d(np.ones((3, 1, 2, 2)), (2, 5, 5), groups=2),
        lambda: Conv2d(np.ones((1, 1, 6, 1)), (1, 5, 5)),
        lambda: Conv2d(np.ones((1, 1, 1, 1)), (1, 5, 5), padding=(0, -1, 0, 0)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(make: object) -> None:
    with pytest.raises(NetworkError):
        make()  # type: ignore[operator]


def test_descriptions_tell_operators_apart() -> None:
    kernel = np.ones((1, 1, 2, 2))
    ops = [
        Dense(np.eye(2)),
        Scaling(np.ones(2)),
        identity(2),
        Conv2d(kernel, (1, 3, 3)),
        Conv2d(kernel, (1, 3, 3), stride=(2, 2)),
        Conv2d(kernel, (1, 3, 3), dilation=(2, 2)),
        Sum((identity(2), identity(2))),
        Product((identity(2), identity(2))),
    ]
    assert len({repr(op.description()) for op in ops}) == len(ops)
