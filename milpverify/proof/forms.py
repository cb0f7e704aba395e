"""Values as integer affine expressions of columns, over a batch of boxes (docs/proofs.md, section 2).

A value v is known as (E, beta, eps): |v - (E.t + beta)| <= eps for every t of the columns' box, all in units of 2^-F.
Boxes of a batch have the same shapes: where one has fewer unstable neurons, columns of size zero fill up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from milpverify.network.operators import LinearOperator, Product, Sum
from milpverify.proof.fixed_point import Integers, MatrixProduct, python_array
from milpverify.proof.near_operators import NearOperator, near_operator


@dataclass(frozen=True, eq=False)
class Forms:
    """Expressions of m values: E (batch, m, columns), beta and eps (batch, m)."""

    E: np.ndarray
    beta: np.ndarray
    eps: np.ndarray

    def at(self, index: np.ndarray, valid: np.ndarray) -> Forms:
        """Those of an index (batch, a), zero where it is not valid."""
        E = np.take_along_axis(self.E, index[..., None], axis=1) * valid[..., None]
        return Forms(E, *(np.take_along_axis(v, index, axis=1) * valid for v in (self.beta, self.eps)))


@dataclass(frozen=True, eq=False)
class Value:
    """What a source of affine maps is known as: neurons with expressions, neurons that are columns, and zeros.

    Attributes:
        size: Bounds of |z|, (batch, n).
        index: Which entries have expressions, (batch, a).
        forms: Their expressions, zero where the index only fills up.
        own: Which entries are columns, (batch, U), or None.
        own_valid: Where that index does not only fill up.
        start: The first of those columns.
    """

    size: np.ndarray
    index: np.ndarray
    forms: Forms
    own: np.ndarray | None = None
    own_valid: np.ndarray | None = None
    start: int = 0


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns there are so far: their box and the sum of their sizes, exactly.

    Attributes:
        lower, upper: (batch, columns).
        size_sum: (batch,), Python integers.
    """

    lower: np.ndarray
    upper: np.ndarray
    size_sum: np.ndarray

    @property
    def count(self) -> int:
        """Number of columns."""
        return int(self.lower.shape[1])

    def with_more(self, lower: np.ndarray, upper: np.ndarray) -> Columns:
        """These and the columns of a layer's unstable neurons."""
        more = python_sum(np.maximum(np.abs(lower), np.abs(upper)))
        lower, upper = (np.concatenate(pair, axis=1) for pair in ((self.lower, lower), (self.upper, upper)))
        return Columns(lower, upper, self.size_sum + more)


def python_sum(values: np.ndarray) -> np.ndarray:
    """The sums of rows as Python integers, (batch,)."""
    return python_array([sum(row) for row in values.tolist()])


def masked_index(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a mask (batch, n) holds: an index (batch, a) without repetitions, and where it does not only fill up."""
    counts = mask.sum(axis=1)
    index = np.argsort(~mask, axis=1, kind="stable")[:, : int(counts.max(initial=0))]
    return index, np.arange(index.shape[1]) < counts[:, None]


class AffineSteps:
    """Affine steps in one arithmetic; the integer maps of operators are made once.

    Args:
        integers: The arithmetic.
    """

    def __init__(self, integers: Integers) -> None:
        self.integers = integers
        self._known: dict[int, tuple[LinearOperator, NearOperator]] = {}

    def near(self, op: LinearOperator) -> NearOperator:
        """The integer map of an operator that is neither a sum nor a product."""
        if id(op) not in self._known:
            self._known[id(op)] = op, near_operator(op, self.integers)  # the operator is kept, so its id stays its own
        return self._known[id(op)][1]

    def forms(
        self,
        blocks: Sequence[tuple[int, LinearOperator]],
        bias: np.ndarray | None,
        values: Sequence[Value],
        columns: Columns,
    ) -> Forms:
        """The expressions of sum_s W_s values[s] + bias; bias is b~, shape (size,)."""
        sources = [part for source, op in blocks for part in self._sources(op, values[source], columns)]
        return self.step(sources, bias, columns, blocks[0][1].out_size if blocks else len(bias))  # type: ignore[arg-type]

    def _sources(self, op: LinearOperator, value: Value, columns: Columns) -> Iterator[tuple[NearOperator, Value]]:
        """The terms of one step: summands of a sum; of a product the first factor, after steps for the others."""
        if isinstance(op, Sum):
            for term in op.terms:
                yield from self._sources(term, value, columns)
        elif isinstance(op, Product):
            for factor in reversed(op.factors[1:]):
                forms = self.step(list(self._sources(factor, value, columns)), None, columns, factor.out_size)
                value = self.whole(forms, columns)
            yield from self._sources(op.factors[0], value, columns)
        else:
            yield self.near(op), value

    def step(
        self, sources: Sequence[tuple[NearOperator, Value]], bias: np.ndarray | None, columns: Columns, size: int
    ) -> Forms:
        """One affine step: rounded once, with all its rounding in eps."""
        batch = len(columns.lower)
        E_parts: list[MatrixProduct] = []
        beta_parts: list[MatrixProduct] = []
        eps_parts: list[MatrixProduct] = []
        sizes = columns.size_sum
        for op, value in sources:
            forms = value.forms
            if value.index.shape[1]:
                E_parts.append(op.times(value.index, forms.E))
                beta_parts.append(op.times(value.index, forms.beta[..., None]))
                eps_parts.append(op.times(value.index, -forms.eps[..., None], absolute=True))
            sizes = sizes + python_sum(value.size)
        integers = self.integers
        E = integers.zeros((batch, size, columns.count))
        for op, value in sources:
            if value.own is not None and value.own_valid is not None:
                place = slice(value.start, value.start + value.own.shape[1])
                own = op.columns(value.own) * value.own_valid[:, None, :]
                E[..., place] = integers.narrow(E[..., place] + own)
        E = integers.round(E_parts, E)
        start = integers.zeros((batch, size, 1))
        beta = integers.round(beta_parts, start if bias is None else start + bias[:, None])[..., 0]
        lost = integers.narrow(-(-sizes >> integers.bits + 1) + 1)[:, None]
        lost_below = sum((integers.exact(part)[..., 0] for part in eps_parts), np.zeros((batch, size), dtype=object))
        return Forms(E, beta, integers.narrow(integers.narrow(-(lost_below >> integers.bits)) + lost))

    def whole(self, forms: Forms, columns: Columns) -> Value:
        """An intermediate value: every entry has an expression, its size that of its interval."""
        lower, upper = self.interval(forms, columns)
        n = lower.shape[1]
        size = np.maximum(np.abs(lower), np.abs(upper))
        return Value(size, np.broadcast_to(np.arange(n), lower.shape), forms)

    def interval(self, forms: Forms, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
        """lo and hi of expressions, (batch, m) each."""
        integers, E, count = self.integers, forms.E, forms.E.shape[-1]
        lower, upper = columns.lower[:, :count, None], columns.upper[:, :count, None]
        middle = integers.exact(integers.product(E, integers.narrow(lower + upper)))[..., 0]
        radius = integers.exact(integers.product(np.abs(E), integers.narrow(upper - lower)))[..., 0]
        # Twice the sums of minima and maxima.
        low = integers.narrow((middle - radius) >> integers.bits + 1)
        high = integers.narrow(-((-middle - radius) >> integers.bits + 1))
        return (
            integers.narrow(low + forms.beta - forms.eps),
            integers.narrow(high + forms.beta + forms.eps),
        )
