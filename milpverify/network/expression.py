"""Affine expressions of the input and the ReLUs read so far: what a network is made of while it is being read.

An expression has a shape, like the tensor it stands for, and acts on flat values in C order. Everything here is linear
and exact: maps are chained, summed and selected, never multiplied out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np

from milpverify.errors import NetworkError, UnsupportedError
from milpverify.network import operators
from milpverify.network.convolution import Conv2d
from milpverify.network.graph import BiasTerm
from milpverify.network.operators import Dense, LinearOperator, Product, Scaling, Selection, Sum
from milpverify.network.rounding import rounded_product, rounded_sum


@dataclass(frozen=True, eq=False)
class Expr:
    """bias + sum_j W_j z_j, shaped like a tensor; source 0 is the input, source j the j-th ReLU layer.

    Attributes:
        shape: Shape of the tensor, batch axis included.
        blocks: Linear operator per source.
        bias_terms: (operator or None, vector) pairs whose exact sum is the bias.
    """

    shape: tuple[int, ...]
    blocks: Mapping[int, LinearOperator] = field(default_factory=dict)
    bias_terms: tuple[BiasTerm, ...] = ()

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape))

    @property
    def index(self) -> np.ndarray:
        """The flat position of each entry, of the expression's shape."""
        return np.arange(self.size).reshape(self.shape)


def constant(value: np.ndarray) -> Expr:
    """An expression that reads nothing."""
    value = np.asarray(value, dtype=np.float64)
    return Expr(value.shape, {}, ((None, value.reshape(-1)),))


def linear(expr: Expr, op: LinearOperator, shape: Sequence[int]) -> Expr:
    """op applied to the flat values, shaped anew."""
    blocks = {source: operators.compose(op, block) for source, block in expr.blocks.items()}
    terms = tuple(_push(op, term) for term in expr.bias_terms)
    return Expr(tuple(shape), blocks, _merged(terms))


def select(expr: Expr, index: np.ndarray) -> Expr:
    """The entries at `index` (positions as in `Expr.index`, or -1 for a zero), in the shape of `index`."""
    return linear(expr, Selection(index.reshape(-1), expr.size), index.shape)


def reshape(expr: Expr, shape: Sequence[int]) -> Expr:
    """The same flat values in another shape; one entry of `shape` may be -1."""
    return replace(expr, shape=expr.index.reshape(tuple(shape)).shape)


def broadcast(expr: Expr, shape: Sequence[int]) -> Expr:
    """numpy's broadcasting to `shape`."""
    return expr if expr.shape == tuple(shape) else select(expr, np.broadcast_to(expr.index, tuple(shape)))


def add(left: Expr, right: Expr) -> Expr:
    """left + right, broadcast."""
    shape = np.broadcast_shapes(left.shape, right.shape)
    left, right = broadcast(left, shape), broadcast(right, shape)
    blocks = dict(left.blocks)
    for source, block in right.blocks.items():
        blocks[source] = _joined(blocks[source], block) if source in blocks else block
    return Expr(shape, blocks, _merged(left.bias_terms + right.bias_terms))


def negative(expr: Expr) -> Expr:
    """-expr."""
    blocks = {source: _negated(block) for source, block in expr.blocks.items()}
    return Expr(expr.shape, blocks, tuple((op, -vector) for op, vector in expr.bias_terms))


def subtract(left: Expr, right: Expr) -> Expr:
    """left - right, broadcast."""
    return add(left, negative(right))


def scale(expr: Expr, factor: np.ndarray) -> Expr:
    """factor * expr, entry by entry, broadcast."""
    shape = np.broadcast_shapes(expr.shape, np.shape(factor))
    expr = broadcast(expr, shape)
    diagonal = np.broadcast_to(factor, shape).reshape(-1).astype(np.float64)
    if (diagonal == 1).all():
        return expr
    return negative(expr) if (diagonal == -1).all() else linear(expr, Scaling(diagonal), shape)


def shift(expr: Expr, offset: np.ndarray) -> Expr:
    """expr + offset, broadcast."""
    return add(expr, constant(offset))


def concatenate(parts: Sequence[Expr], axis: int) -> Expr:
    """The parts side by side along an axis."""
    ends = list(accumulate(part.size for part in parts))
    starts = [end - part.size for part, end in zip(parts, ends, strict=True)]
    index = np.concatenate([start + part.index for start, part in zip(starts, parts, strict=True)], axis=axis)
    pieces = []
    for start, end, part in zip(starts, ends, parts, strict=True):
        pieces.append(select(part, np.where((index >= start) & (index < end), index - start, -1)))
    total = pieces[0]
    for piece in pieces[1:]:
        total = add(total, piece)
    return total


def padded(expr: Expr, widths: Sequence[tuple[int, int]], mode: str, fill: float) -> Expr:
    """Padding (before, after) each axis: "constant" (`fill`), "reflect" or "edge"; negative widths crop."""
    if mode not in ("constant", "reflect", "edge") or not np.isfinite(fill):
        raise UnsupportedError(
            f"padding of mode {mode!r} by {fill}. Pad by a finite constant, by reflection or by the edge."
        )
    crop = tuple(slice(max(-low, 0), n - max(-high, 0)) for (low, high), n in zip(widths, expr.shape, strict=True))
    grow = [(max(low, 0), max(high, 0)) for low, high in widths]
    if mode == "constant":
        index = np.pad(expr.index[crop], grow, constant_values=-1)
        return shift(select(expr, index), np.where(index < 0, fill, 0.0))
    return select(expr, np.pad(expr.index[crop], grow, mode="reflect" if mode == "reflect" else "edge"))


def matmul(expr: Expr, matrix: np.ndarray) -> Expr:
    """expr @ matrix as numpy defines it, for a matrix (n, m) or a vector (n,); leading axes of one are allowed."""
    if matrix.ndim == 1:
        product = matmul(expr, matrix[:, None])
        return reshape(product, product.shape[:-1])
    expr, matrix = _plain(expr, matrix, expr.shape[-1:] != matrix.shape[-2:-1])
    *rows, n = expr.shape
    count, m = int(np.prod(rows)), matrix.shape[1]
    transposed = np.ascontiguousarray(matrix.T)
    if count == 1:
        return linear(expr, Dense(transposed), (*rows, m))
    # Several rows share the matrix: a convolution of one pixel keeps it stored once.
    image = select(expr, expr.index.reshape(count, n).T)
    result = linear(image, Conv2d(transposed[:, :, None, None], (n, count, 1)), (m, count))
    return select(result, result.index.T.reshape((*rows, m)))


def scaled_matmul(expr: Expr, matrix: np.ndarray, factor: float) -> Expr:
    """factor * (expr @ matrix), the factor merged into the matrix where float64 holds that exactly."""
    product, exact = rounded_product(matrix, np.full_like(matrix, factor))
    return matmul(expr, product) if exact else scale(matmul(expr, matrix), np.array(factor))


def matmul_left(matrix: np.ndarray, expr: Expr) -> Expr:
    """matrix @ expr as numpy defines it, for a matrix (m, n) or a vector (n,); leading axes of one are allowed."""
    if matrix.ndim == 1:
        product = matmul_left(matrix[None, :], expr)
        return reshape(product, product.shape[:-2] + product.shape[-1:] if len(expr.shape) > 1 else ())
    if len(expr.shape) == 1:
        product = matmul_left(matrix, reshape(expr, (expr.size, 1)))
        return reshape(product, product.shape[:-1])
    expr, matrix = _plain(expr, matrix, expr.shape[-2] != matrix.shape[-1])
    *stack, n, columns = expr.shape
    m, count = matrix.shape[0], int(np.prod(stack)) * columns
    if count == 1:
        return linear(expr, Dense(np.ascontiguousarray(matrix)), (*stack, m, 1))
    image = select(expr, np.moveaxis(expr.index, -2, 0).reshape(n, count))
    result = linear(image, Conv2d(np.ascontiguousarray(matrix)[:, :, None, None], (n, count, 1)), (m, count))
    return select(result, np.moveaxis(result.index.reshape((m, *stack, columns)), 0, -2))


def convolve(
    expr: Expr,
    kernel: np.ndarray,
    stride: Sequence[int],
    padding: tuple[Sequence[int], Sequence[int]],
    dilation: Sequence[int],
    groups: int,
) -> Expr:
    """One- or two-dimensional cross-correlation of a batch of one.

    Args:
        expr: Shape (1, channels, width) or (1, channels, height, width).
        kernel: Shape (out_channels, channels // groups, *window).
        stride, dilation: One integer per spatial axis.
        padding: Zeros before and after each spatial axis.
        groups: Channel groups.
    """
    spatial = kernel.ndim - 2
    if spatial not in (1, 2) or len(expr.shape) != kernel.ndim:
        raise UnsupportedError(
            f"a convolution of a kernel of shape {kernel.shape} over values of shape {expr.shape}: only (batch, "
            "channels, width) and (batch, channels, height, width) are read. Reshape the values."
        )
    if expr.shape[0] != 1:
        raise UnsupportedError(f"a convolution over a batch of {expr.shape[0]}. Export the model for a batch of one.")
    flat = spatial == 1
    before, after = padding
    conv = Conv2d(
        np.ascontiguousarray(kernel[:, :, None, :] if flat else kernel),
        (expr.shape[1], *_plane(expr.shape[2:], 1)),
        _plane(stride, 1),
        (*_plane(before, 0), *_plane(after, 0)),
        _plane(dilation, 1),
        groups,
    )
    out, high, wide = conv.out_shape
    return linear(expr, conv, (1, out, wide) if flat else (1, out, high, wide))


def _plane(values: Sequence[int], missing: int) -> tuple[int, int]:
    """One integer per axis of an image; a one-dimensional signal is an image of height one."""
    padded = [missing, *values] if len(values) == 1 else list(values)
    first, second = padded
    return int(first), int(second)


def _plain(expr: Expr, matrix: np.ndarray, mismatch: bool) -> tuple[Expr, np.ndarray]:
    """The matrix without leading axes of one, which the expression gets instead."""
    if mismatch:
        raise NetworkError(
            f"a matrix of shape {matrix.shape} does not fit values of shape {expr.shape}. Check the shapes."
        )
    if any(n != 1 for n in matrix.shape[:-2]):
        raise UnsupportedError(f"a stack of matrices of shape {matrix.shape}. Use one matrix, of two axes.")
    missing = matrix.ndim - max(len(expr.shape), 2)
    return (reshape(expr, (1,) * missing + expr.shape) if missing > 0 else expr), matrix.reshape(matrix.shape[-2:])


def _push(op: LinearOperator, term: BiasTerm) -> BiasTerm:
    """op times a bias term, computed at once where float64 holds the result exactly."""
    inner, vector = term
    if inner is not None:
        return operators.compose(op, inner), vector
    if isinstance(op, Selection):
        return None, op.apply(vector)
    if isinstance(op, Scaling):
        product, exact = rounded_product(op.diagonal, vector)
        if exact:
            return None, product
    return op, vector


def _merged(terms: tuple[BiasTerm, ...]) -> tuple[BiasTerm, ...]:
    """Bias terms without zeros, the plain vectors summed where float64 holds the sum exactly."""
    plain: list[np.ndarray] = []
    kept: list[BiasTerm] = []
    for op, vector in terms:
        if not vector.any():
            continue
        if op is not None:
            kept.append((op, vector))
            continue
        total, exact = rounded_sum(plain[-1], vector) if plain else (vector, False)
        plain[-1 if exact else len(plain) :] = [total if exact else vector]
    return (*kept, *((None, vector) for vector in plain if vector.any()))


def _joined(left: LinearOperator, right: LinearOperator) -> LinearOperator:
    """left + right; two selections of the same values that fill different places become one."""
    (first, rest), (second, other) = _peeled(left), _peeled(right)
    same = len(rest) == len(other) and all(a is b for a, b in zip(rest, other, strict=True))
    if first is not None and second is not None and same and not ((first.index >= 0) & (second.index >= 0)).any():
        joined: LinearOperator = Selection(np.maximum(first.index, second.index), first.in_size)
        for factor in rest:
            joined = operators.compose(joined, factor)
        return joined
    return operators.add(left, right)


def _peeled(op: LinearOperator) -> tuple[Selection | None, tuple[LinearOperator, ...]]:
    factors = op.factors if isinstance(op, Product) else (op,)
    return (factors[0], factors[1:]) if isinstance(factors[0], Selection) else (None, factors)


def _negated(op: LinearOperator) -> LinearOperator:
    """-op, by negating one array of coefficients where there is one."""
    if isinstance(op, (Dense, Scaling, Conv2d)):
        return op.map_arrays(lambda a: -a)
    if isinstance(op, Sum):
        return Sum(tuple(_negated(term) for term in op.terms))
    if isinstance(op, Product) and not isinstance(op.factors[0], Selection):
        return Product((_negated(op.factors[0]), *op.factors[1:]))
    return operators.compose(Scaling(np.full(op.out_size, -1.0)), op)
