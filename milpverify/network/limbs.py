"""Exact products of float64 matrices and Python integers, by floating-point products of short pieces.

Matrix and vector are cut into pieces of b bits: W = sum_s W_s 2**-e_s and x = sum_k x_k 2**(b k) with integers
|W_s|, |x_k| < 2**b. With n columns and n 2**(2 b) <= 2**53 every partial sum of W_s x_k is an integer that float64
holds, whatever the order of summation and with fused additions or without, so the products are exact.

Source: Ozaki, Ogita, Oishi & Rump 2012, "Error-free transformations of matrix multiplication".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SIGNIFICAND_BITS = 53
LEAST_POWER = -1074  # every float64 is a multiple of 2**-1074


def matrix_times_integers(matrix: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, int]:
    """W x exactly, as Python integers and an exponent e >= 0: W x = integers * 2**-e.

    Args:
        matrix: Finite floats, shape (m, n).
        x: Python integers, an object array of shape (n,).

    Returns:
        An object array of shape (m,), and e.
    """
    bits = (SIGNIFICAND_BITS - (max(matrix.shape[1], 1) - 1).bit_length()) // 2
    total, last = np.zeros(len(matrix), dtype=object), 0
    pieces = _vector_pieces(x, bits)
    for part, power in _matrix_pieces(np.asarray(matrix, dtype=np.float64), bits):
        sums = pieces @ part.T
        whole = sum((_python(row) << bits * k for k, row in enumerate(sums)), np.zeros(len(matrix), dtype=object))
        if power >= 0:
            total = total + (whole << power)
        else:
            total, last = (total << -power - last) + whole, -power
    return total, last


def _matrix_pieces(matrix: np.ndarray, bits: int) -> Iterator[tuple[np.ndarray, int]]:
    """Integer matrices of less than 2**bits and falling powers p: W = sum_s W_s 2**p_s."""
    rest = matrix
    power = int(np.frexp(np.abs(matrix).max(initial=0.0))[1])
    while rest.any():
        power = max(power - bits, LEAST_POWER)
        part = np.trunc(np.ldexp(rest, -power))
        rest = rest - np.ldexp(part, power)  # the low bits of each float: exact
        yield part, power


def _vector_pieces(x: np.ndarray, bits: int) -> np.ndarray:
    """Integers of less than 2**bits with the signs of x, lowest first, shape (k, n): x = sum_k x_k 2**(bits k)."""
    size, sign, pieces = np.abs(x), np.where(x < 0, -1.0, 1.0), []
    while size.any():
        pieces.append(sign * (size & ((1 << bits) - 1)).astype(np.float64))
        size = size >> bits
    return np.array(pieces).reshape(len(pieces), len(x))


def _python(whole: np.ndarray) -> np.ndarray:
    """Float64 integers below 2**53 as Python integers."""
    return np.asarray(whole.astype(np.int64).astype(object))
