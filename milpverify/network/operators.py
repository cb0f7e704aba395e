"""Linear maps between flat vectors: dense, diagonal, selection, and their sums and products.

Every operator acts on the last axis of an array, so a batch is simply more leading axes. The arrays inside an
operator decide the namespace and dtype it works in (numpy float64 as read, torch after `Network.to_torch`, Python
integers for exact replay): `map_arrays` makes the copy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from milpverify.errors import NetworkError
from milpverify.network.arrays import array_namespace, device
from milpverify.network.limbs import matrix_times_integers

Array = Any  # a numpy or torch array; annotated by shape in the docstrings

ArrayMap = Callable[[Array], Array]


class LinearOperator(ABC):
    """A linear map W from R^in_size to R^out_size, known by what it does to vectors."""

    in_size: int
    out_size: int

    @abstractmethod
    def apply(self, x: Array) -> Array:
        """W x along the last axis: (..., in_size) -> (..., out_size). Floating."""

    @abstractmethod
    def transpose_apply(self, y: Array) -> Array:
        """W^T y along the last axis: (..., out_size) -> (..., in_size). Floating."""

    @abstractmethod
    def magnitude(self) -> LinearOperator:
        """An operator whose entries are at least |W|: equal for one map, an upper bound for sums and products."""

    @abstractmethod
    def map_arrays(self, convert: ArrayMap) -> LinearOperator:
        """The same map with every array of coefficients replaced by `convert(array)`."""

    @abstractmethod
    def scaled_integer(self) -> tuple[LinearOperator, int]:
        """An operator in Python integers and an exponent e with W = integers * 2**-e, exactly."""

    def apply_exact(self, x: np.ndarray) -> tuple[np.ndarray, int]:
        """W x as Python integers and an exponent e with W x = integers * 2**-e, exactly.

        Args:
            x: Python integers, an object array of shape (in_size,).
        """
        integers, exponent = self.scaled_integer()
        return np.asarray(integers.apply(x)), exponent

    @abstractmethod
    def description(self) -> tuple[object, ...]:
        """What identifies the map, for fingerprints: strings, numbers and arrays."""

    @property
    @abstractmethod
    def roundings(self) -> int:
        """Upper bound of the rounded operations between an entry of the input and one of the output."""

    @property
    def apply_roundings(self) -> int:
        """The same for `apply` alone: what an execution of the network can lose."""
        return self.roundings

    @property
    @abstractmethod
    def work(self) -> int:
        """Multiplications of one `apply` or `transpose_apply` of a single vector, roughly."""

    @cached_property
    def absolute(self) -> LinearOperator:
        """`magnitude()`, made once."""
        return self.magnitude()

    def underflow_reach(self, sizes: Array) -> float:
        """What products that underflow in W^T y can add to (W^T y).x for |x| <= sizes, in units of the least normal.

        A product that underflows is off by less than that unit, and what acts on it afterwards magnifies it.
        """
        return 2.0 * (self.roundings + 1) * float(sizes.sum())

    def underflow_gain(self, like: Array) -> Array:
        """The same for the entries of W x, shape (out_size,), in the namespace of `like`."""
        size = 2.0 * (self.roundings + 1)
        return array_namespace(like).full((self.out_size,), size, dtype=like.dtype, device=device(like))

    def abs_row_sums(self) -> Array:
        """Upper bound of the absolute row sums sum_j |W_ij|, shape (out_size,). Floating."""
        return self.absolute.apply(np.ones(self.in_size))

    def rows(self, index: Sequence[int] | np.ndarray) -> np.ndarray:
        """The dense rows W[index], shape (len(index), in_size); made on demand by W^T e_i."""
        unit = np.zeros((len(index), self.out_size))
        unit[np.arange(len(index)), np.asarray(index, dtype=int)] = 1.0
        return np.asarray(self.transpose_apply(unit))

    def rows_like(self, index: np.ndarray, like: Array) -> Array:
        """`rows` of an operator in the namespace and on the device of `like`, and there."""
        if isinstance(like, np.ndarray):
            return self.rows(index)
        unit = np.zeros((len(index), self.out_size))
        unit[np.arange(len(index)), index] = 1.0
        return self.transpose_apply(array_namespace(like).asarray(unit, dtype=like.dtype, device=device(like)))

    def dense(self) -> np.ndarray:
        """The whole matrix, shape (out_size, in_size)."""
        return self.rows(np.arange(self.out_size))

    @property
    def fan_in(self) -> int:
        """Upper bound of the inputs that one output reads."""
        return self.in_size

    def entries(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows W[index] as (columns, values), numpy, both (len(index), fan_in); column -1 where a row has fewer.

        No column is named twice in a row.
        """
        values = self.rows(index)
        return np.broadcast_to(np.arange(self.in_size), values.shape), values


@dataclass(frozen=True, eq=False)
class Dense(LinearOperator):
    """A matrix, shape (out_size, in_size)."""

    matrix: Array

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2:
            raise NetworkError(f"Dense: the matrix must have two axes, got shape {tuple(self.matrix.shape)}.")

    @property
    def in_size(self) -> int:  # type: ignore[override]
        return int(self.matrix.shape[1])

    @property
    def out_size(self) -> int:  # type: ignore[override]
        return int(self.matrix.shape[0])

    def apply(self, x: Array) -> Array:
        return x @ self.matrix.T

    def transpose_apply(self, y: Array) -> Array:
        return y @ self.matrix

    def magnitude(self) -> LinearOperator:
        return Dense(abs(self.matrix))

    def map_arrays(self, convert: ArrayMap) -> LinearOperator:
        return Dense(convert(self.matrix))

    def scaled_integer(self) -> tuple[LinearOperator, int]:
        integers, exponent = to_scaled_integers(self.matrix)
        return Dense(integers), exponent

    def apply_exact(self, x: np.ndarray) -> tuple[np.ndarray, int]:
        return matrix_times_integers(self.matrix, x)

    def description(self) -> tuple[object, ...]:
        return ("dense", self.matrix)

    @property
    def roundings(self) -> int:
        return max(self.in_size, self.out_size) + 1

    @property
    def apply_roundings(self) -> int:
        return self.in_size + 1

    @property
    def work(self) -> int:
        return self.in_size * self.out_size

    def rows(self, index: Sequence[int] | np.ndarray) -> np.ndarray:
        return np.asarray(self.matrix[np.asarray(index, dtype=int)])


@dataclass(frozen=True, eq=False)
class Scaling(LinearOperator):
    """A diagonal matrix, given by its diagonal of shape (n,)."""

    diagonal: Array

    @property
    def in_size(self) -> int:  # type: ignore[override]
        return int(self.diagonal.shape[0])

    @property
    def out_size(self) -> int:  # type: ignore[override]
        return int(self.diagonal.shape[0])

    def apply(self, x: Array) -> Array:
        return x * self.diagonal

    def transpose_apply(self, y: Array) -> Array:
        return y * self.diagonal

    def magnitude(self) -> LinearOperator:
        return Scaling(abs(self.diagonal))

    def map_arrays(self, convert: ArrayMap) -> LinearOperator:
        return Scaling(convert(self.diagonal))

    def scaled_integer(self) -> tuple[LinearOperator, int]:
        integers, exponent = to_scaled_integers(self.diagonal)
        return Scaling(integers), exponent

    def description(self) -> tuple[object, ...]:
        return ("scaling", self.diagonal)

    @property
    def roundings(self) -> int:
        return 1

    @property
    def work(self) -> int:
        return self.out_size


@dataclass(frozen=True, eq=False)
class Selection(LinearOperator):
    """Entry i of the output is entry index[i] of the input, or zero where index[i] is -1.

    One operator for flatten, transpose, slice, padding, and the embeddings that make up a concatenation.
    """

    index: np.ndarray
    in_size: int

    def __post_init__(self) -> None:
        index = np.asarray(self.index, dtype=np.int64)
        if index.ndim != 1 or (index.size and (index.min() < -1 or index.max() >= self.in_size)):
            raise NetworkError(f"Selection: indices must lie in [-1, {self.in_size}).")
        object.__setattr__(self, "index", index)

    @property
    def out_size(self) -> int:  # type: ignore[override]
        return int(self.index.shape[0])

    @property
    def is_identity(self) -> bool:
        return self.out_size == self.in_size and bool((self.index == np.arange(self.in_size)).all())

    @cached_property
    def _scatter(self) -> tuple[np.ndarray, ...]:
        """Gather indices of the transpose: one array when no input is read twice, else one per repetition."""
        parts: list[np.ndarray] = []
        rest = np.flatnonzero(self.index >= 0)
        while rest.size:
            _, first = np.unique(self.index[rest], return_index=True)
            part = np.full(self.in_size, -1, dtype=np.int64)
            part[self.index[rest[first]]] = rest[first]
            parts.append(part)
            rest = np.delete(rest, first)
        return tuple(parts)

    def apply(self, x: Array) -> Array:
        return _gather(x, self.index)

    def transpose_apply(self, y: Array) -> Array:
        if not self._scatter:
            return _gather(y, np.full(self.in_size, -1, dtype=np.int64))
        total = _gather(y, self._scatter[0])
        for part in self._scatter[1:]:
            total = total + _gather(y, part)
        return total

    def magnitude(self) -> LinearOperator:
        return self

    def map_arrays(self, convert: ArrayMap) -> LinearOperator:
        return self

    def scaled_integer(self) -> tuple[LinearOperator, int]:
        return self, 0

    def description(self) -> tuple[object, ...]:
        return ("selection", self.in_size, self.index)

    @property
    def roundings(self) -> int:
        return len(self._scatter) if len(self._scatter) > 1 else 0

    @property
    def apply_roundings(self) -> int:
        return 0

    @property
    def work(self) -> int:
        return self.out_size


def identity(n: int) -> Selection:
    """The identity of R^n."""
    return Selection(np.arange(n), n)


@dataclass(frozen=True, eq=False)
class Sum(LinearOperator):
    """W_1 + W_2 + ..., evaluated term by term, so that no coefficient is rounded."""

    terms: tuple[LinearOperator, ...]

    def __post_init__(self) -> None:
        sizes = {(t.in_size, t.out_size) for t in self.terms}
        if len(sizes) != 1:
            raise NetworkError(f"Sum: the terms must have one shape, got {sorted(sizes)}.")

    @property
    def in_size(self) -> int:  # type: ignore[override]
        return self.terms[0].in_size

    @property
    def out_size(self) -> int:  # type: ignore[override]
        return self.terms[0].out_size

    def apply(self, x: Array) -> Array:
        total = self.terms[0].apply(x)
        for term in self.terms[1:]:
            total = total + term.apply(x)
        return total

    def transpose_apply(self, y: Array) -> Array:
        total = self.terms[0].transpose_apply(y)
        for term in self.terms[1:]:
            total = total + term.transpose_apply(y)
        return total

    def magnitude(self) -> LinearOperator:
        return Sum(tuple(t.magnitude() for t in self.terms))

    def map_arrays(self, convert: ArrayMap) -> LinearOperator:
        return Sum(tuple(t.map_arrays(convert) for t in self.terms))

    def scaled_integer(self) -> tuple[LinearOperator, int]:
        parts = [t.scaled_integer() for t in self.terms]
        exponent = max(e for _, e in parts)
        aligned = [
            op if e == exponent else Product((Scaling(_constant(op.out_size, 1 << (exponent - e))), op))
            for op, e in parts
        ]
        return Sum(tuple(aligned)), exponent

    def underflow_reach(self, sizes: Array) -> float:
        return sum(t.underflow_reach(sizes) for t in self.terms) + super().underflow_reach(sizes)

    def underflow_gain(self, like: Array) -> Array:
        return sum((t.underflow_gain(like) for t in self.terms), super().underflow_gain(like))

    def description(self) -> tuple[object, ...]:
        return ("sum", *(t.description() for t in self.terms))

    @property
    def roundings(self) -> int:
        return max(t.roundings for t in self.terms) + len(self.terms)

    @property
    def apply_roundings(self) -> int:
        return max(t.apply_roundings for t in self.terms) + len(self.terms)

    @property
    def work(self) -> int:
        return sum(t.work for t in self.terms)


@dataclass(frozen=True, eq=False)
class Product(LinearOperator):
    """W_1 W_2 ... W_m (the last one acts first), evaluated factor by factor, so that no coefficient is rounded."""

    factors: tuple[LinearOperator, ...]

    def __post_init__(self) -> None:
        for left, right in zip(self.factors, self.factors[1:], strict=False):
            if left.in_size != right.out_size:
                raise NetworkError(
                    f"Product: a map of {left.in_size} inputs cannot follow one of {right.out_size} outputs."
                )

    @property
    def in_size(self) -> int:  # type: ignore[override]
        return self.factors[-1].in_size

    @property
    def out_size(self) -> int:  # type: ignore[override]
        return self.factors[0].out_size

    def apply(self, x: Array) -> Array:
        for factor in reversed(self.factors):
            x = factor.apply(x)
        return x

    def transpose_apply(self, y: Array) -> Array:
        for factor in self.factors:
            y = factor.transpose_apply(y)
        return y

    def magnitude(self) -> LinearOperator:
        return Product(tuple(f.magnitude() for f in self.factors))

    def map_arrays(self, convert: ArrayMap) -> LinearOperator:
        return Product(tuple(f.map_arrays(convert) for f in self.factors))

    def scaled_integer(self) -> tuple[LinearOperator, int]:
        parts = [f.scaled_integer() for f in self.factors]
        return Product(tuple(op for op, _ in parts)), sum(e for _, e in parts)

    def apply_exact(self, x: np.ndarray) -> tuple[np.ndarray, int]:
        exponent = 0
        for factor in reversed(self.factors):
            x, more = factor.apply_exact(x)
            exponent += more
        return x, exponent

    def underflow_reach(self, sizes: Array) -> float:
        total = 0.0
        for factor in reversed(self.factors):
            total += factor.underflow_reach(sizes)
            sizes = factor.absolute.apply(sizes)
        return total

    def underflow_gain(self, like: Array) -> Array:
        total = self.factors[-1].underflow_gain(like)
        for factor in reversed(self.factors[:-1]):
            total = factor.absolute.apply(total) + factor.underflow_gain(like)
        return total

    def description(self) -> tuple[object, ...]:
        return ("product", *(f.description() for f in self.factors))

    @property
    def roundings(self) -> int:
        return sum(f.roundings for f in self.factors)

    @property
    def apply_roundings(self) -> int:
        return sum(f.apply_roundings for f in self.factors)

    @property
    def work(self) -> int:
        return sum(f.work for f in self.factors)


def compose(left: LinearOperator, right: LinearOperator) -> LinearOperator:
    """left after right, without the factors that change nothing; adjacent selections become one."""
    if isinstance(left, Selection) and left.is_identity:
        return right
    if isinstance(right, Selection) and right.is_identity:
        return left
    first = left.factors if isinstance(left, Product) else (left,)
    second = right.factors if isinstance(right, Product) else (right,)
    outer, inner = first[-1], second[0]
    if isinstance(outer, Selection) and isinstance(inner, Selection) and outer.in_size == inner.out_size:
        # The appended -1 is what an index of -1 reads.
        merged = Selection(np.append(inner.index, -1)[outer.index], inner.in_size)
        rest = first[:-1] + second[1:]
        factors = rest if rest and merged.is_identity else (*first[:-1], merged, *second[1:])
    else:
        factors = first + second
    return factors[0] if len(factors) == 1 else Product(factors)


def add(left: LinearOperator, right: LinearOperator) -> LinearOperator:
    """left + right as one flat sum."""
    first = left.terms if isinstance(left, Sum) else (left,)
    second = right.terms if isinstance(right, Sum) else (right,)
    return Sum(first + second)


def to_scaled_integers(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Python integers and the smallest exponent e >= 0 with values = integers * 2**-e, exactly.

    Args:
        values: Finite floats of any shape (float32 and float64 alike).

    Returns:
        An object array of ints of the same shape, and e.
    """
    values = np.asarray(values, dtype=np.float64)
    mantissa, power = np.frexp(values)
    whole = (mantissa * 2.0**53).astype(np.int64)
    _, low_bit = np.frexp((whole & -whole).astype(np.float64))  # a power of two, 2**(low_bit - 1)
    zeros = np.where(whole != 0, low_bit - 1, 0)
    whole, shift = whole >> zeros, 53 - power - zeros
    exponent = max(int(shift[whole != 0].max(initial=0)), 0)
    lift = np.where(whole != 0, exponent - shift, 0)
    if lift.max(initial=0) + 53 < 62:
        return np.asarray((whole << lift).astype(object)), exponent
    return np.asarray(np.left_shift(whole.astype(object), lift.astype(object))), exponent


def _constant(n: int, value: int) -> np.ndarray:
    diagonal = np.empty(n, dtype=object)
    diagonal[:] = value
    return diagonal


def _gather(x: Array, index: np.ndarray) -> Array:
    """x[..., index], with zero where the index is -1."""
    missing = index < 0
    if isinstance(x, np.ndarray):
        if not x.shape[-1]:
            return np.zeros((*x.shape[:-1], len(index)), dtype=x.dtype)
        y = np.take(x, index, axis=-1)
        if missing.any():
            y[..., missing] = 0
        return y
    xp = array_namespace(x)
    if missing.any():
        zero = xp.zeros((*x.shape[:-1], 1), dtype=x.dtype, device=device(x))
        x = xp.concat([x, zero], axis=-1)
        index = np.where(missing, x.shape[-1] - 1, index)
    return xp.take(x, xp.asarray(index, device=device(x)), axis=-1)
