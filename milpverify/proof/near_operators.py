"""The affine maps of a network as integer maps: every coefficient w becomes near(w) = floor(w 2^F + 1/2).

Sums of operators are terms of one step; products are steps one after the other (docs/proofs.md, section 2). What is
left are maps with coefficients of their own, and selections, whose coefficients are 0 and 2^F.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from milpverify.network.graph import BiasTerm
from milpverify.network.operators import Dense, LinearOperator, Scaling, Selection, to_scaled_integers
from milpverify.proof.fixed_point import Integers, MatrixProduct, Ready
from milpverify.proof.machine_words import pieces_for, size_bits, split

CHUNK_ENTRIES = 1 << 22  # of the windows that a convolution makes of a batch


class NearOperator(ABC):
    """W~ of one operator, acting on batches of columns of vectors.

    An index (batch, a) says which entries of a vector are given; the others are zero. No entry is named twice in a row.

    Args:
        op: Neither a sum nor a product.
        integers: The arithmetic.
    """

    def __init__(self, op: LinearOperator, integers: Integers) -> None:
        self.op, self.integers = op, integers
        self.in_size, self.out_size = op.in_size, op.out_size

    @abstractmethod
    def columns(self, index: np.ndarray) -> np.ndarray:
        """W~[:, index] for an index (batch, a): (batch, n_out, a)."""

    @abstractmethod
    def times(self, index: np.ndarray, values: np.ndarray, absolute: bool = False) -> MatrixProduct:
        """W~[:, index] @ values, or |W~|[:, index] @ values, exactly: (batch, a, p) -> (batch, n_out, p)."""


class NearMatrix(NearOperator):
    """W~ as an array."""

    def __init__(self, op: LinearOperator, integers: Integers) -> None:
        super().__init__(op, integers)
        self.transposed = np.ascontiguousarray(integers.near(op.dense()).T)

    def columns(self, index: np.ndarray) -> np.ndarray:
        return np.asarray(self.transposed[index].swapaxes(-1, -2))

    def times(self, index: np.ndarray, values: np.ndarray, absolute: bool = False) -> MatrixProduct:
        columns = self.columns(index)
        return self.integers.product(np.abs(columns) if absolute else columns, values)


class NearMap(NearOperator):
    """W~ as an operator whose arrays of coefficients are integers."""

    def __init__(self, op: LinearOperator, integers: Integers) -> None:
        super().__init__(op, integers)
        self.near = op.map_arrays(integers.near)
        self.fan_in = 1 if isinstance(op, Scaling) else op.fan_in

    def columns(self, index: np.ndarray) -> np.ndarray:
        units = np.zeros((*index.shape, self.in_size), dtype=np.int64)
        np.put_along_axis(units, index[..., None], 1, axis=-1)
        return self._sum(self._apply(self.integers.narrow(units), False))

    def times(self, index: np.ndarray, values: np.ndarray, absolute: bool = False) -> MatrixProduct:
        full = self.integers.zeros((len(values), values.shape[-1], self.in_size))
        np.put_along_axis(full, index[:, None, :], values.swapaxes(-1, -2), axis=-1)
        return self._apply(full, absolute)

    def _apply(self, x: np.ndarray, absolute: bool) -> Ready:
        """The map on (batch, p, n_in) (batch, n_out, p)."""
        near = self.near.map_arrays(np.abs) if absolute else self.near
        if self.integers.dtype is object:
            return Ready(((0, np.asarray(near.apply(x)).swapaxes(-1, -2)),), 0)
        largest = [0]

        def measured(array: np.ndarray) -> np.ndarray:
            largest[0] = max(largest[0], size_bits(array))
            return array

        near.map_arrays(measured)
        pieces = pieces_for(largest[0], size_bits(x), self.fan_in)
        parts = []
        cut = [x_piece(x, k, *pieces.right) for k in range(pieces.right[1])]
        for i in range(pieces.left[1]):
            op = near.map_arrays(lambda array, i=i: x_piece(array, i, *pieces.left))  # type: ignore[misc]
            for k, piece in enumerate(cut):
                sums = self._chunked(op, piece).astype(np.int64).swapaxes(-1, -2)
                parts.append((i * pieces.left[0] + k * pieces.right[0], sums))
        return Ready(tuple(parts), pieces.size_bits)

    def _chunked(self, op: LinearOperator, x: np.ndarray) -> np.ndarray:
        flat = x.reshape(-1, self.in_size)
        out = np.empty((len(flat), self.out_size))
        entries = max(self.in_size, self.out_size * (self.fan_in))
        step = max(1, CHUNK_ENTRIES // entries)
        for start in range(0, len(flat), step):
            out[start : start + step] = op.apply(flat[start : start + step])
        return out.reshape(*x.shape[:-1], self.out_size)

    def _sum(self, product: Ready) -> np.ndarray:
        return sum((part * (1 << power) for power, part in product.known), self.integers.zeros((1,)))


class NearSelection(NearOperator):
    """A selection: its products with 2^F are rounded back without loss."""

    def columns(self, index: np.ndarray) -> np.ndarray:
        assert isinstance(self.op, Selection)
        picked = self.op.index[:, None] == index[:, None, :]
        return self.integers.narrow(picked.astype(np.int64) * 1) * (1 << self.integers.bits)

    def times(self, index: np.ndarray, values: np.ndarray, absolute: bool = False) -> MatrixProduct:
        assert isinstance(self.op, Selection)
        full = self.integers.zeros((len(values), self.in_size, values.shape[-1]))
        np.put_along_axis(full, index[:, :, None], values, axis=1)
        picked = full[:, self.op.index] * (self.op.index >= 0).astype(np.int64)[:, None]
        return Ready(((self.integers.bits, self.integers.narrow(picked)),), size_bits(picked) + self.integers.bits)


def near_operator(op: LinearOperator, integers: Integers) -> NearOperator:
    """The integer map of an operator that is neither a sum nor a product."""
    if isinstance(op, Selection):
        return NearSelection(op, integers)
    return NearMatrix(op, integers) if isinstance(op, Dense) else NearMap(op, integers)


def x_piece(array: np.ndarray, k: int, bits: int, count: int) -> np.ndarray:
    """The k-th of an array's pieces."""
    flat = array.reshape(1, -1)
    return split(flat, bits, count, axis=0)[k].reshape(array.shape)


def near_bias(terms: tuple[BiasTerm, ...], size: int, integers: Integers) -> np.ndarray:
    """near(b) of the exact sum of op v over the terms, shape (size,)."""
    scaled = list(_scaled_terms(terms))
    exponent = max((e for _, e in scaled), default=0)
    total = np.zeros(size, dtype=object)
    for values, e in scaled:
        total = total + values * (1 << (exponent - e))
    return integers.narrow((total * (1 << (integers.bits + 1)) + (1 << exponent)) >> (exponent + 1))


def _scaled_terms(terms: tuple[BiasTerm, ...]) -> Iterator[tuple[np.ndarray, int]]:
    """Integers and exponents e: their sum of integers * 2**-e is the bias."""
    for op, vector in terms:
        values, exponent = to_scaled_integers(vector)
        if op is not None:
            values, more = op.apply_exact(values)
            exponent += more
        yield values, exponent
