from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milpverify.errors import NetworkError, UnsupportedError
from milpverify.network import expression, pooling
from milpverify.network.exact import forward_exact
from milpverify.network.expression import Expr
from milpverify.network.graph import Network
from milpverify.network.lowering import Lowering
from milpverify.network.operators import Dense, Selection
from milpverify.network.pooling import Window
from milpverify.network.rounding import rounded_product, rounded_quotient, rounded_root, rounded_sum

LAWS = settings(max_examples=200, deadline=None, derandomize=True)
FLOATS = st.floats(-1e30, 1e30, allow_subnormal=False) | st.sampled_from([0.0, 1.0, 0.1, 3.0, 2.0**-40, 1e-300, 5e-324])


def lower(shape: tuple[int, ...], build: Callable[[Lowering, Expr], Expr]) -> Network:
    lowering = Lowering(shape)
    return lowering.finish(build(lowering, lowering.input))


# Arithmetic that knows whether it rounded


@LAWS
@given(FLOATS, FLOATS)
def test_exactness_is_never_claimed_wrongly(a: float, b: float) -> None:
    x, y = np.array([a]), np.array([b])
    total, exact = rounded_sum(x, y)
    assert exact == (Fraction(total[0]) == Fraction(a) + Fraction(b))
    product, exact = rounded_product(x, y)
    assert not exact or Fraction(product[0]) == Fraction(a) * Fraction(b)
    if b:
        quotient, exact = rounded_quotient(x, y)
        assert not exact or Fraction(quotient[0]) * Fraction(b) == Fraction(a)
    root, exact = rounded_root(abs(x))
    assert not exact or Fraction(root[0]) ** 2 == abs(Fraction(a))


def test_products_of_float32_numbers_are_known_to_be_exact() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32).astype(np.float64)
    assert rounded_product(a, b)[1]
    assert not rounded_product(a + 2.0**-50, b)[1]
    assert rounded_quotient(a * b, b)[1]
    assert not rounded_quotient(np.array([1.0]), np.array([3.0]))[1]
    assert rounded_root(np.array([6.25]))[1] and not rounded_root(np.array([2.0]))[1]
    assert not rounded_product(np.array([1e200]), np.array([1e200]))[1]


# Expressions


def test_a_relu_of_relus_and_a_single_relu_make_one_layer() -> None:
    net = lower((1, 4), lambda low, x: low.relu(expression.reshape(low.relu(low.relu(x)), (2, 2))))
    assert net.sizes == (4,) and net.output_shape == (2, 2)


def test_a_relu_of_a_shifted_relu_is_a_new_layer() -> None:
    net = lower((1, 2), lambda low, x: low.relu(expression.shift(low.relu(x), np.array(-1.0))))
    assert net.sizes == (2, 2)
    np.testing.assert_array_equal(net.forward(np.array([3.0, 0.5])), [2.0, 0.0])


def test_a_relu_of_an_input_is_not_taken_for_nonnegative() -> None:
    net = lower((2,), lambda low, x: low.relu(x))
    np.testing.assert_array_equal(net.forward(np.array([-3.0, 0.5])), [0.0, 0.5])


def test_a_negated_relu_is_not_taken_for_nonnegative() -> None:
    net = lower((2,), lambda low, x: low.relu(expression.negative(low.relu(x))))
    np.testing.assert_array_equal(net.forward(np.array([3.0, -0.5])), [0.0, 0.0])


def test_relus_of_constants_make_no_layer() -> None:
    fixed = expression.constant(np.array([-1.0, 2.0]))
    net = lower((2,), lambda low, x: expression.add(x, low.relu(fixed)))
    assert net.n_neurons == 0
    np.testing.assert_array_equal(net.forward(np.zeros(2)), [0.0, 2.0])


def test_concatenating_the_parts_of_a_value_restores_it() -> None:
    def build(low: Lowering, x: Expr) -> Expr:
        w = expression.matmul(x, np.arange(12.0).reshape(3, 4))
        return expression.concatenate([expression.select(w, w.index[:, :1]), expression.select(w, w.index[:, 1:])], 1)

    (block,) = lower((1, 3), build).output.blocks
    assert isinstance(block[1], Dense)  # the selections merged and vanished


def test_names_of_layers_are_unique() -> None:
    net = lower(
        (3,), lambda low, x: low.absolute(low.leaky_relu(low.leaky_relu(x, np.array(0.5), "a"), np.array(0.5), "a"))
    )
    assert len({layer.name for layer in net.layers}) == 3


@given(st.data())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_affine_expressions_compute_what_numpy_computes(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    value = generator.integers(-4, 5, shape) / 2.0
    lowering = Lowering(shape)
    x, y = lowering.input, value
    for step in data.draw(
        st.lists(st.sampled_from(["scale", "shift", "turn", "flip", "join", "matmul", "left", "pad"]), max_size=6)
    ):
        c = generator.integers(-4, 5, y.shape[-1:]) / 2.0
        if step == "scale":
            x, y = expression.scale(x, c), y * c
        elif step == "shift":
            x, y = expression.shift(x, c), y + c
        elif step == "turn":
            x, y = expression.select(x, x.index.T), y.T
        elif step == "flip":
            x, y = expression.subtract(expression.select(x, x.index[::-1]), x), y[::-1] - y
        elif step == "join":
            x, y = expression.concatenate([x, expression.constant(y), x], -1), np.concatenate([y, y, y], -1)
            y = y.copy()
            y[..., y.shape[-1] // 3 : 2 * y.shape[-1] // 3] = y[..., : y.shape[-1] // 3]
        elif step == "matmul":
            w = generator.integers(-2, 3, (y.shape[-1], 2)) / 2.0
            x, y = expression.matmul(x, w), y @ w
        elif step == "left":
            w = generator.integers(-2, 3, (2, y.shape[-2] if y.ndim > 1 else y.shape[0])) / 2.0
            x, y = expression.matmul_left(w, x), w @ y
        else:
            widths = [(1, -1 if n > 1 else 0) for n in y.shape]
            cropped = y[tuple(slice(0, n + high) for n, (_, high) in zip(y.shape, widths, strict=True))]
            x, y = (
                expression.padded(x, widths, "constant", 0.5),
                np.pad(cropped, [(1, 0)] * y.ndim, constant_values=0.5),
            )
    if x.blocks:
        net = lowering.finish(x)
        assert net.output_shape == y.shape
        np.testing.assert_array_equal(net.forward(value.reshape(-1)), y.reshape(-1))


# Piecewise-linear operators, exactly


VALUES = [Fraction(n, 7) for n in (-30, -7, -3, -1, 0, 1, 2, 3, 6, 7, 13, 50)]


def check_exactly(build: Callable[[Lowering, Expr], Expr], expected: Callable[[Fraction], Fraction]) -> Network:
    net = lower((len(VALUES),), build)
    assert forward_exact(net, VALUES) == tuple(expected(v) for v in VALUES)
    assert net.approximations == ()
    return net


@pytest.mark.parametrize("slope", [0.0, 0.01, float(np.float32(0.01)), 1e-30, -0.3, 1.0, 1.7])
def test_leaky_relu_is_exact_for_every_slope(slope: float) -> None:
    check_exactly(lambda low, x: low.leaky_relu(x, np.array(slope)), lambda v: v if v > 0 else Fraction(slope) * v)


@pytest.mark.parametrize(("lo", "hi"), [(-0.1, 0.7), (0.0, 6.0), (0.3, 0.3), (-2.0, None), (None, 0.1), (None, None)])
def test_clip_is_exact(lo: float | None, hi: float | None) -> None:
    net = check_exactly(
        lambda low, x: low.clip(x, lo, hi),
        lambda v: min(
            max(v, Fraction(lo) if lo is not None else v), Fraction(hi) if hi is not None else max(v, Fraction(lo or v))
        ),
    )
    assert len(net.layers) == (0 if lo is None and hi is None else 1)


def test_abs_max_and_min_are_exact() -> None:
    check_exactly(lambda low, x: low.absolute(x), abs)
    half = expression.constant(np.full(len(VALUES), 0.1))
    check_exactly(lambda low, x: low.maximum(x, half), lambda v: max(v, Fraction(0.1)))
    check_exactly(lambda low, x: low.minimum(half, x), lambda v: min(v, Fraction(0.1)))
    twice = np.array(2.0)
    check_exactly(lambda low, x: low.maximum(x, expression.scale(x, twice)), lambda v: max(v, 2 * v))


def test_the_largest_float32_bounds_nothing() -> None:
    most = float(np.finfo(np.float32).max)
    assert lower((2,), lambda low, x: low.clip(x, -most, most)).n_neurons == 0
    assert lower((2,), lambda low, x: low.clip(x, 0.0, np.inf)).n_neurons == 2


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (np.nan, 1.0), (np.inf, None), (None, -np.inf), (0.0, np.nan)])
def test_clips_that_hold_nothing_are_refused(bounds: tuple[float | None, float | None]) -> None:
    with pytest.raises(UnsupportedError, match="lo <= hi"):
        lower((2,), lambda low, x: low.clip(x, *bounds))


def test_batch_norm_is_exact_but_for_its_factors() -> None:
    gamma, beta, mean, variance = (
        np.array([0.1, 3.0]),
        np.array([0.2, -1.0]),
        np.array([0.3, 1e9]),
        np.array([2.0, 0.25]),
    )
    net = lower((1, 2, 3), lambda low, x: low.batch_norm(x, gamma, beta, mean, variance, 1e-5, "bn"))
    factor = gamma / np.sqrt(variance + 1e-5)
    x = [Fraction(n, 3) for n in range(6)]
    expected = [
        Fraction(factor[i // 3]) * (v - Fraction(mean[i // 3])) + Fraction(beta[i // 3]) for i, v in enumerate(x)
    ]
    assert forward_exact(net, x) == tuple(expected)
    assert len(net.approximations) == 1 and "bn" in net.approximations[0]
    with pytest.raises(NetworkError, match="not positive"):
        lower((1, 2, 3), lambda low, x: low.batch_norm(x, gamma, beta, mean, -variance, 1e-5))


def test_division_by_powers_of_two_is_exact_and_by_three_is_noted() -> None:
    assert lower((2,), lambda low, x: low.divide(x, np.array([2.0, -0.25]))).approximations == ()
    assert "reciprocals" in lower((2,), lambda low, x: low.divide(x, np.array(3.0))).approximations[0]
    with pytest.raises(NetworkError, match="division by zero"):
        lower((2,), lambda low, x: low.divide(x, np.array([1.0, 0.0])))
    with pytest.raises(NetworkError, match="cannot hold"):
        lower((2,), lambda low, x: low.divide(x, np.array(1e-320)))


# Windows


@st.composite
def window_cases(draw: st.DrawFn) -> tuple[tuple[int, int], list[Window]]:
    lengths, windows = [], []
    for _ in range(2):
        size, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        before, after = draw(st.integers(0, size // 2)), draw(st.integers(0, size // 2))
        lengths.append(draw(st.integers(dilation * (size - 1) + 1, 7)))
        windows.append(Window(size, draw(st.integers(1, 3)), before, after, dilation, draw(st.booleans())))
    return (lengths[0], lengths[1]), windows


def by_hand(image: np.ndarray, windows: list[Window], how: Callable[[list[Fraction], int], Fraction]) -> list[Fraction]:
    """Each window's entries, and how many of its cells lie inside the padded image."""
    results = []
    rows, columns = (w.positions(n) for w, n in zip(windows, image.shape, strict=True))
    for row in rows:
        for column in columns:
            cells = [(r, c) for r in row for c in column]
            inside = [Fraction(image[r, c]) for r, c in cells if 0 <= r < image.shape[0] and 0 <= c < image.shape[1]]
            padded = sum(
                all(-w.before <= p < n + w.after for p, w, n in zip(cell, windows, image.shape, strict=True))
                for cell in cells
            )
            results.append(how(inside, padded))
    return results


@given(window_cases(), st.integers(0, 2**16))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_pools_are_the_windows_maxima_and_averages(case: tuple[tuple[int, int], list[Window]], seed: int) -> None:
    shape, windows = case
    image = np.random.default_rng(seed).integers(-9, 10, shape) / 4.0
    x = image.reshape(-1)
    for window, n in zip(windows, shape, strict=True):
        reached = window.positions(n)
        if not ((reached >= 0) & (reached < n)).any(axis=1).all():
            return  # a window of padding alone; the refusals are tested elsewhere
    net = lower((1, 1, *shape), lambda low, v: pooling.max_pool(low, v, windows))
    assert forward_exact(net, list(x)) == tuple(by_hand(image, windows, lambda inside, _: max(inside)))
    net = lower((1, 1, *shape), lambda low, v: pooling.average_pool(low, v, windows, False))
    expected = by_hand(image, windows, lambda inside, _: sum(inside) / len(inside))
    np.testing.assert_allclose(net.forward(x), [float(v) for v in expected], rtol=1e-14, atol=1e-14)
    net = lower((1, 1, *shape), lambda low, v: pooling.average_pool(low, v, windows, True))
    expected = by_hand(image, windows, lambda inside, padded: sum(inside) / padded)
    np.testing.assert_allclose(net.forward(x), [float(v) for v in expected], rtol=1e-14, atol=1e-14)


def test_overlapping_windows_share_neurons() -> None:
    net = lower((1, 1, 1, 10), lambda low, x: pooling.max_pool(low, x, [Window(1), Window(4)]))
    assert net.sizes == (9, 7)  # 9 neighbouring pairs, then 7 pairs of pairs; without sharing 14 and 7


def test_the_maximum_of_ragged_rows_ignores_what_is_missing() -> None:
    slots = np.array([[-1, 0, 2], [1, -1, -1], [3, 3, 0]])
    net = lower((4,), lambda low, x: low.maximum_over(x, slots))
    np.testing.assert_array_equal(net.forward(np.array([1.0, -5.0, 2.0, -7.0])), [2.0, -5.0, 1.0])
    with pytest.raises(UnsupportedError, match="over no values"):
        lower((4,), lambda low, x: low.maximum_over(x, np.array([[0, 1], [-1, -1]])))


def test_reductions_name_axes_that_exist() -> None:
    with pytest.raises(NetworkError, match="Name axes that exist"):
        lower((1, 3), lambda low, x: pooling.reduce_sum(x, [2], False))


@pytest.mark.parametrize("arguments", [(0,), (1, 0), (1, 1, -1), (1, 1, 0, 0, 0)])
def test_windows_check_their_numbers(arguments: tuple[int, ...]) -> None:
    with pytest.raises(NetworkError, match="positive sizes"):
        Window(*arguments)


def test_the_output_must_depend_on_the_input_and_shapes_must_be_positive() -> None:
    with pytest.raises(NetworkError, match="does not depend on the input"):
        lower((2,), lambda low, x: expression.constant(np.ones(2)))
    with pytest.raises(NetworkError, match="holds no values"):
        Lowering((1, 0))


def test_selections_of_relus_stay_selections() -> None:
    net = lower((1, 4), lambda low, x: expression.select(low.relu(x), np.array([3, 1])))
    assert isinstance(net.output.blocks[0][1], Selection)
