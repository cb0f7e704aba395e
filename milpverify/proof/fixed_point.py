"""Integers in units of 2^-F: rounding, and exact sums of products, by machine words or by Python's integers.

Two arithmetics with one interface and the same results. `PythonIntegers` holds object arrays and can do everything.
`MachineIntegers` holds int64 arrays, every entry below 2^61, and multiplies matrices as float64 pieces of few bits,
whose products and sums float64 holds exactly (see `limbs.py` of the network); an operation whose bound says that a
result might not fit raises `TooLargeError`, and the caller starts again with Python's integers.

An exact sum of products is a list of terms (power, array): the sum of array * 2**power.

Source: Ozaki, Ogita, Oishi & Rump 2012, "Error-free transformations of matrix multiplication".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from milpverify.network.operators import to_scaled_integers

FLOAT_BITS = 53  # integers up to 2^53 are floats, and so are all sums of which every part is
WORD_BITS = 61  # bits of an entry of MachineIntegers, sign left out
MOST_MACHINE_BITS = 55  # of F: beyond, hardly anything would fit


class TooLargeError(Exception):
    """A number might not fit its machine word; never seen by a user."""


@dataclass(frozen=True)
class Terms:
    """The exact array sum of array * 2**power.

    Attributes:
        parts: (power, array) pairs; arrays of one shape, int64 below 2^54 or object.
        size_bits: The sum lies below 2**size_bits in absolute value.
    """

    parts: tuple[tuple[int, np.ndarray], ...]
    size_bits: int


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
    def product(self, left: np.ndarray, right: np.ndarray) -> Terms:
        """left @ right, exactly."""

    @abstractmethod
    def scaled(self, factor: np.ndarray, values: np.ndarray) -> np.ndarray:
        """floor(factor values 2^-F), entry by entry."""

    @abstractmethod
    def above(self, lam: np.ndarray, nu: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Whether (lam - nu) high < -nu low, entry by entry.

        Only of use where nu is within |lam| 2^-F + 1 of lam high/(high - low); other entries may get any answer.
        """

    def zeros(self, shape: tuple[int, ...]) -> np.ndarray:
        """Zeros."""
        return np.zeros(shape, dtype=self.dtype)

    def round(self, terms: Iterable[Terms], shape: tuple[int, ...]) -> np.ndarray:
        """rnd of a sum: (sum + 2^(F-1)) >> F; terms of fewer columns leave the last ones as they are."""
        return (self._shifted(terms, shape, self.bits - 1) + 1) >> 1

    def floor(self, terms: Iterable[Terms], shape: tuple[int, ...]) -> np.ndarray:
        """dn of a sum: sum >> F."""
        return self._shifted(terms, shape, self.bits)

    def ceiling(self, terms: Iterable[Terms], shape: tuple[int, ...]) -> np.ndarray:
        """up of a sum: -((-sum) >> F)."""
        return -self.floor([_negative(part) for part in terms], shape)

    def _shifted(self, terms: Iterable[Terms], shape: tuple[int, ...], shift: int) -> np.ndarray:
        """sum >> shift.

        Powers rise, and what is carried on is rounded down, which loses nothing:
        floor((x 2^p + y) 2^-q) = floor((x + floor(y 2^-p)) 2^(p-q)).
        """
        terms = list(terms)
        self._check(terms, shift)
        total, power = self.zeros(shape), 0
        for place, part in sorted(((p, a) for t in terms for p, a in t.parts), key=lambda pair: pair[0]):
            step = min(place, shift) - power
            if step:
                total >>= step
                power += step
            total[..., : part.shape[-1]] += part if place <= shift else part * (1 << place - shift)
        return total >> shift - power if shift > power else total

    @abstractmethod
    def _check(self, terms: Sequence[Terms], shift: int) -> None:
        """Refuse sums that might not fit after a shift to the right."""


def exactly(terms: Terms) -> np.ndarray:
    """The sum as Python integers."""
    total: np.ndarray | int = 0
    for power, part in terms.parts:
        total = total + part.astype(object) * (1 << power)
    return np.asarray(total, dtype=object)


def _negative(terms: Terms) -> Terms:
    return Terms(tuple((power, -part) for power, part in terms.parts), terms.size_bits)


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
        return np.asarray(values).astype(object)

    def near(self, values: np.ndarray) -> np.ndarray:
        integers, exponent = to_scaled_integers(values)
        return self.narrow(((integers << (self.bits + 1)) + (1 << exponent)) >> (exponent + 1))

    def down(self, values: np.ndarray) -> np.ndarray:
        integers, exponent = to_scaled_integers(values)
        return self.narrow((integers << self.bits) >> exponent)

    def product(self, left: np.ndarray, right: np.ndarray) -> Terms:
        if not left.shape[-1]:  # object matrices without inner axis have no product
            shape = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
            return Terms(((0, self.zeros((*shape, left.shape[-2], right.shape[-1]))),), 0)
        return Terms(((0, left @ right),), 0)

    def scaled(self, factor: np.ndarray, values: np.ndarray) -> np.ndarray:
        return self.narrow((factor * values) >> self.bits)

    def above(self, lam: np.ndarray, nu: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.asarray((lam - nu) * high < -nu * low, dtype=bool)

    def _check(self, terms: Sequence[Terms], shift: int) -> None:
        pass


class MachineIntegers(Integers):
    """Arrays of int64, every entry at most 2^61; or `TooLargeError`.

    Raises:
        TooLargeError: If F is too large for words of 64 bits.
    """

    dtype = np.int64

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        if bits > MOST_MACHINE_BITS:
            raise TooLargeError

    def narrow(self, values: np.ndarray) -> np.ndarray:
        if size_bits(values) > WORD_BITS:
            raise TooLargeError
        return values.astype(np.int64)

    def near(self, values: np.ndarray) -> np.ndarray:
        scaled = self._scaled_floats(values)
        whole = np.floor(scaled)
        # The difference is exact, or rounded to at least 1/2 where it is more than that.
        return (whole + (scaled - whole >= 0.5)).astype(np.int64)

    def down(self, values: np.ndarray) -> np.ndarray:
        return np.floor(self._scaled_floats(values)).astype(np.int64)

    def _scaled_floats(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            scaled = np.ldexp(np.asarray(values, dtype=np.float64), self.bits)
        if (np.abs(scaled) >= 2.0**WORD_BITS).any():
            raise TooLargeError
        return scaled

    def product(self, left: np.ndarray, right: np.ndarray) -> Terms:
        n = left.shape[-1]
        pieces = pieces_for(size_bits(left), size_bits(right), n)
        first, second = split(left, *pieces.left, axis=-2), split(right, *pieces.right, axis=-1)
        sums = first @ second
        rows, columns = left.shape[-2], right.shape[-1]
        parts = []
        for i in range(pieces.left[1]):
            for k in range(pieces.right[1]):
                block = sums[..., i * rows : (i + 1) * rows, k * columns : (k + 1) * columns]
                parts.append((i * pieces.left[0] + k * pieces.right[0], block.astype(np.int64)))
        return Terms(tuple(parts), pieces.size_bits)

    def scaled(self, factor: np.ndarray, values: np.ndarray) -> np.ndarray:
        size = size_bits(factor) + size_bits(values)
        if size > 112 or size - self.bits > WORD_BITS - 1:
            raise TooLargeError
        # Off by 2^(size - F - 51) at most; the remainder, known up to multiples of 2^64, is less than 2^62.
        guess = np.floor(np.ldexp(factor.astype(np.float64) * values.astype(np.float64), -self.bits)).astype(np.int64)
        return guess + ((factor * values - (guess << self.bits)) >> self.bits)

    def above(self, lam: np.ndarray, nu: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        span = high - low
        # |lam high - nu span| <= span (|lam| 2^-F + 1): small, though both products may wrap round.
        if size_bits(span) + max(size_bits(lam) - self.bits, 0) > WORD_BITS:
            raise TooLargeError
        return np.asarray(lam * high - nu * span < 0)

    def _check(self, terms: Sequence[Terms], shift: int) -> None:
        size = max((t.size_bits for t in terms), default=0) + len(terms).bit_length()
        if size - shift > WORD_BITS or sum(len(t.parts) for t in terms) > 128:
            raise TooLargeError


def size_bits(values: np.ndarray) -> int:
    """The least b with |v| < 2^b for all entries."""
    if not values.size:
        return 0
    return max(int(values.max()), -int(values.min())).bit_length()


@dataclass(frozen=True)
class Pieces:
    """How two factors are cut: (bits, number) of the left's and the right's pieces, and the bits of the sum."""

    left: tuple[int, int]
    right: tuple[int, int]
    size_bits: int


def pieces_for(left_bits: int, right_bits: int, n: int) -> Pieces:
    """The fewest pieces with which sums of n products are exact in float64.

    Pieces of b bits lie in [-2^(b-1), 2^(b-1)], and k of them hold all integers below 2^(k b - 1). So sums of n
    products stay within 2^53 if n 2^(b + c - 2) <= 2^53.

    Raises:
        TooLargeError: If a factor has more bits than a word, or n is so large that nothing is left.
    """
    length = max(n - 1, 0).bit_length()
    room = FLOAT_BITS + 2 - length
    best: Pieces | None = None
    for first in range(1, 9):
        b = -(-(left_bits + 1) // first)
        if room - b < 2:
            continue
        second = -(-(right_bits + 1) // (room - b))
        c = -(-(right_bits + 1) // second)
        if best is None or first * second < best.left[1] * best.right[1]:
            best = Pieces((b, first), (c, second), left_bits + right_bits + length)
    if best is None or max(left_bits, right_bits) > WORD_BITS + 1:
        raise TooLargeError
    return best


def split(values: np.ndarray, bits: int, count: int, axis: int) -> np.ndarray:
    """Pieces of int64 as float64, lowest first, side by side along an axis: v = sum_k piece_k 2**(bits k)."""
    size = values.shape[axis]
    shape = list(values.shape)
    shape[axis] = size * count
    pieces = np.empty(shape)
    half, mask, rest = 1 << bits - 1, (1 << bits) - 1, values
    for k in range(count):
        place = [slice(None)] * values.ndim
        place[axis] = slice(k * size, (k + 1) * size)
        if k == count - 1:
            pieces[tuple(place)] = rest
            break
        low = ((rest + half) & mask) - half
        pieces[tuple(place)] = low
        rest = (rest - low) >> bits
    return pieces
