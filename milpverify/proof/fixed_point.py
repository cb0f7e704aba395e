"""Integers in units of 2^-F: rounding, and exact sums of products.

Two arithmetics with one interface and the same results. `PythonIntegers`, here, holds object arrays and can do
everything. `machine_words.MachineIntegers` holds int64 arrays, and multiplies matrices as float64 pieces whose products
and sums float64 holds exactly; an operation whose bound says that a result might not fit raises `TooLargeError`, and
the caller starts again with Python's integers.

Products of matrices are computed block by block, only when a sum of them is rounded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from milpverify.network.operators import to_scaled_integers

BLOCK_ENTRIES = 1 << 16  # of what is computed at a time: small enough for caches, and for memory that is used again


class TooLargeError(Exception):
    """A number might not fit its machine word; never seen by a user."""


Part = tuple[int, np.ndarray]  # (power, array): array * 2**power; int64 below 2^54 or object


class MatrixProduct(ABC):
    """A product of matrices, (batch, m, p), whose blocks are computed exactly when they are asked for.

    Attributes:
        shape: (batch, m, p).
        inner: Entries of the sum behind one entry, at least 1.
        size_bits: Every entry lies below 2**size_bits in absolute value; 0 where nothing depends on it.
    """

    shape: tuple[int, ...]
    inner: int
    size_bits: int

    @abstractmethod
    def rows(self, part: slice) -> RowBlock:
        """Some rows."""

    def tight_bits(self) -> int:
        """A better bound than `size_bits`, at some cost."""
        return self.size_bits


class RowBlock(ABC):
    """Some rows of a product."""

    @abstractmethod
    def parts(self, columns: slice) -> list[Part]:
        """Some columns: a sum of array * 2**power, each (batch, rows, columns)."""


@dataclass(frozen=True, eq=False)
class Ready(MatrixProduct, RowBlock):
    """A product that has been computed: the sum of array * 2**power."""

    known: tuple[Part, ...]
    size_bits: int
    inner: int = 1

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.known[0][1].shape

    def rows(self, part: slice) -> RowBlock:
        return Ready(tuple((power, array[..., part, :]) for power, array in self.known), self.size_bits)

    def parts(self, columns: slice) -> list[Part]:
        return [(power, array[..., columns]) for power, array in self.known]


class Integers(ABC):
    """The arithmetic of a check.

    Args:
        bits: F.
    """

    dtype: type

    def __init__(self, bits: int) -> None:
        self.bits = bits

    @abstractmethod
    def narrow(self, values: np.ndarray) -> np.ndarray:
        """The array in this arithmetic's dtype; from Python integers, or from a sum of at most three of its arrays.

        Raises:
            TooLargeError: If an entry does not fit.
        """

    @abstractmethod
    def near(self, values: np.ndarray) -> np.ndarray:
        """floor(v 2^F + 1/2) of finite floats."""

    @abstractmethod
    def down(self, values: np.ndarray) -> np.ndarray:
        """floor(v 2^F) of finite floats."""

    @abstractmethod
    def product(self, left: np.ndarray, right: np.ndarray) -> MatrixProduct:
        """left @ right, (batch, m, n) and (batch, n, p)."""

    @abstractmethod
    def scaled(self, factor: np.ndarray, values: np.ndarray) -> np.ndarray:
        """floor(factor values 2^-F), entry by entry."""

    @abstractmethod
    def above(self, lam: np.ndarray, nu: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Whether (lam - nu) high < -nu low, entry by entry.

        Only of use where nu is within |lam| 2^-F + 1 of lam high/(high - low); other entries may get any answer.
        """

    @abstractmethod
    def _check(self, products: Sequence[MatrixProduct], shift: int) -> None:
        """Refuse sums that might not fit after a shift to the right."""

    def zeros(self, shape: tuple[int, ...]) -> np.ndarray:
        """Zeros."""
        return np.zeros(shape, dtype=self.dtype)

    def round(self, products: Sequence[MatrixProduct], base: np.ndarray) -> np.ndarray:
        """base + rnd(sum of products), rnd(n) = (n + 2^(F-1)) >> F; products may have fewer columns than base."""
        self._check(products, self.bits - 1)
        out = np.empty_like(base)
        for rows, columns, parts in self._blocks(products, base.shape):
            start = base[..., rows, columns]
            out[..., rows, columns] = self.narrow(start + ((self._shifted(parts, start.shape, self.bits - 1) + 1) >> 1))
        return out

    def floor(self, product: MatrixProduct) -> np.ndarray:
        """dn of a product's entries, as this arithmetic's integers."""
        return self.narrow(self.exact(product) >> self.bits)

    def exact(self, product: MatrixProduct) -> np.ndarray:
        """A product as Python integers: for few columns."""
        out = np.zeros(product.shape, dtype=object)
        for rows, columns, parts in self._blocks([product], product.shape):
            out[..., rows, columns] = self._total(parts)
        return out

    def _total(self, parts: list[Part]) -> np.ndarray:
        """A sum as Python integers."""
        total: np.ndarray | int = 0
        for power, part in parts:
            total = total + part.astype(object) * (1 << power)
        return np.asarray(total, dtype=object)

    def _blocks(
        self, products: Sequence[MatrixProduct], shape: tuple[int, ...]
    ) -> Iterator[tuple[slice, slice, list[Part]]]:
        """Rows, columns and parts of all blocks of a sum; some parts may have fewer columns than the block."""
        batch, m, p = shape
        inner = max((product.inner for product in products), default=1)
        high = max(1, min(m, 256, BLOCK_ENTRIES // max(batch * inner, 1)))
        wide = max(1, BLOCK_ENTRIES // max(batch * max(high, inner), 1))
        for i in range(0, m, high):
            rows = slice(i, min(i + high, m))
            blocks = [(product.rows(rows), product.shape[-1]) for product in products]
            for k in range(0, p, wide):
                columns = slice(k, min(k + wide, p))
                yield rows, columns, [part for block, width in blocks if width > k for part in block.parts(columns)]

    def _shifted(self, parts: list[Part], shape: tuple[int, ...], shift: int) -> np.ndarray:
        """sum >> shift.

        Powers rise, and what is carried on is rounded down, which loses nothing:
        floor((x 2^p + y) 2^-q) = floor((x + floor(y 2^-p)) 2^(p-q)).
        """
        total, power = self.zeros(shape), 0
        for place, part in sorted(parts, key=lambda pair: pair[0]):
            step = min(place, shift) - power
            if step:
                total >>= step
                power += step
            total[..., : part.shape[-1]] += part << max(place - shift, 0)
        return total >> shift - power if shift > power else total


def nearest(value: Fraction, bits: int) -> int:
    """floor(value 2^F + 1/2)."""
    return int((2 * value.numerator * (1 << bits) + value.denominator) // (2 * value.denominator))


def below(value: Fraction, bits: int) -> int:
    """floor(value 2^F)."""
    return int((value.numerator << bits) // value.denominator)


def python_array(values: Sequence[Any]) -> np.ndarray:
    """Python integers as an object array of one axis."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


class PythonIntegers(Integers):
    """Object arrays of Python's integers."""

    dtype = object

    def narrow(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values).astype(object, copy=False)

    def near(self, values: np.ndarray) -> np.ndarray:
        integers, exponent = to_scaled_integers(values)
        return self.narrow(((integers << (self.bits + 1)) + (1 << exponent)) >> (exponent + 1))

    def down(self, values: np.ndarray) -> np.ndarray:
        integers, exponent = to_scaled_integers(values)
        return self.narrow((integers << self.bits) >> exponent)

    def product(self, left: np.ndarray, right: np.ndarray) -> MatrixProduct:
        if left.shape[-1]:
            return Ready(((0, left @ right),), 0)
        shape = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])  # object matrices without inner axis: none
        return Ready(((0, self.zeros((*shape, left.shape[-2], right.shape[-1]))),), 0)

    def scaled(self, factor: np.ndarray, values: np.ndarray) -> np.ndarray:
        return self.narrow((factor * values) >> self.bits)

    def above(self, lam: np.ndarray, nu: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.asarray((lam - nu) * high < -nu * low, dtype=bool)

    def _check(self, products: Sequence[MatrixProduct], shift: int) -> None:
        pass
