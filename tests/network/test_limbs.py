"""Products in pieces equal products in rationals, for every float64 and integers of any length."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milpverify.network.limbs import matrix_times_integers

FINITE = st.floats(allow_nan=False, allow_infinity=False)  # subnormal ones and 1e308 included
INTEGERS = st.one_of(st.integers(-9, 9), st.integers(-(2**300), 2**300))


def assert_exact(matrix: np.ndarray, x: list[int]) -> None:
    y, exponent = matrix_times_integers(matrix, np.array([*x, None], dtype=object)[:-1])
    assert exponent >= 0 and len(y) == len(matrix) and all(type(v) is int for v in y)
    for value, row in zip(y, matrix.tolist(), strict=True):
        assert Fraction(value, 1 << exponent) == sum(
            (Fraction(w) * v for w, v in zip(row, x, strict=True)), Fraction(0)
        )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data(), st.integers(1, 4), st.integers(0, 5))
def test_products_of_any_floats_and_integers_are_exact(data: st.DataObject, rows: int, columns: int) -> None:
    entries = data.draw(st.lists(FINITE, min_size=rows * columns, max_size=rows * columns))
    x = data.draw(st.lists(INTEGERS, min_size=columns, max_size=columns))
    assert_exact(np.array(entries).reshape(rows, columns), x)


@pytest.mark.parametrize("columns", [1, 2, 3, 512, 513, 784, 1025, 4096])
@pytest.mark.parametrize("float32", [False, True])
def test_sums_of_the_largest_pieces_do_not_round(columns: int, float32: bool) -> None:
    """All bits set, all of one sign: the sums of pieces come as near to 2**53 as they can."""
    largest = float(np.nextafter(np.float32(1.0), np.float32(0.0))) if float32 else 1.0 - 2.0**-53
    matrix = np.array([[largest] * columns, [-largest] * columns])
    assert_exact(matrix, [2**200 - 1] * columns)
    assert_exact(matrix, [2**200 - 1, 1 - 2**200] * (columns // 2) + [2**64 - 1] * (columns % 2))
