"""Exact arithmetic in machine words: int64 arrays, and products of matrices by float64 pieces of few bits.

Every entry is at most 2^61 in absolute value. An operation whose bound says that a result might not fit raises
`TooLargeError`. Where sums are known to fit, their terms may wrap round: numpy's integers are those modulo 2^64, and
shifts to the left by 64 and more give 0.

Source: Ozaki, Ogita, Oishi & Rump 2012, "Error-free transformations of matrix multiplication".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milpverify.proof.fixed_point import Integers, MatrixProduct, Part, RowBlock, TooLargeError

FLOAT_BITS = 53  # integers up to 2^53 are floats, and so are all sums of which every part is
WORD_BITS = 61  # bits of an entry, sign left out
MOST_BITS = 55  # of F: beyond, hardly anything would fit
MOST_PRODUCTS = 8  # in one sum
MOST_PARTS = 32  # of one product: 8 * 32 parts of at most 2^53 sum up to at most 2^61


class MachineIntegers(Integers):
    """Arrays of int64, every entry at most 2^61; or `TooLargeError`.

    Raises:
        TooLargeError: If F is too large for words of 64 bits.
    """

    dtype = np.int64

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        if bits > MOST_BITS:
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

    def product(self, left: np.ndarray, right: np.ndarray) -> MatrixProduct:
        return _WordProduct(left, right, pieces_for(size_bits(left), size_bits(right), left.shape[-1]))

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

    def exact(self, product: MatrixProduct) -> np.ndarray:
        try:
            self._check([product], self.bits)
        except TooLargeError:
            return super().exact(product)
        out = np.zeros(product.shape, dtype=object)
        for rows, columns, parts in self._blocks([product], product.shape):
            # The sum is high 2^F + low with 0 <= low < 2^F; low is known from the sum modulo 2^64.
            high = self._shifted(parts, parts[0][1].shape, self.bits)
            low = -(high << self.bits)
            for power, part in parts:
                low += part << power
            out[..., rows, columns] = high.astype(object) * (1 << self.bits) + low
        return out

    def _check(self, products: Sequence[MatrixProduct], shift: int) -> None:
        room = WORD_BITS + shift - len(products).bit_length()
        if len(products) > MOST_PRODUCTS or any(p.size_bits > room and p.tight_bits() > room for p in products):
            raise TooLargeError


class _WordProduct(MatrixProduct):
    """A product of int64 matrices, by pieces in float64."""

    def __init__(self, left: np.ndarray, right: np.ndarray, pieces: Pieces) -> None:
        self.left, self.right, self.pieces = left, right, pieces
        batch = max(left.shape[0], right.shape[0])
        self.shape = batch, left.shape[-2], right.shape[-1]
        self.inner = max(left.shape[-1] * pieces.left[1], pieces.left[1] * pieces.right[1])
        self.size_bits = pieces.size_bits

    def tight_bits(self) -> int:
        # Sums of |left| times the greatest of each row of |right|; floats lose much less than the factor 2 of one bit.
        widest = np.abs(self.right).max(axis=-1, initial=0).astype(np.float64)
        largest = float((np.abs(self.left).astype(np.float64) @ widest[..., None]).max(initial=0.0))
        return min(int(np.frexp(largest)[1]) + 1, self.size_bits)

    def rows(self, part: slice) -> RowBlock:
        return _WordRows(split(self.left[..., part, :], *self.pieces.left, axis=-2), self.right, self.pieces)


@dataclass(frozen=True, eq=False)
class _WordRows(RowBlock):
    """Rows cut in pieces, and the right factor."""

    left: np.ndarray
    right: np.ndarray
    pieces: Pieces

    def parts(self, columns: slice) -> list[Part]:
        (b, first), (c, second) = self.pieces.left, self.pieces.right
        right = split(self.right[..., columns], c, second, axis=-1)
        sums = (self.left @ right).astype(np.int64)
        rows, width = self.left.shape[-2] // first, right.shape[-1] // second
        return [
            (i * b + k * c, sums[..., i * rows : (i + 1) * rows, k * width : (k + 1) * width])
            for i in range(first)
            for k in range(second)
        ]


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
    if best is None or best.left[1] * best.right[1] > MOST_PARTS or max(left_bits, right_bits) > WORD_BITS + 1:
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
