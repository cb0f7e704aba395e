"""Inactive neurons left out: the same function on the region, in matrices that shrink in both directions.

A neuron with u <= 0 adds nothing to anything above it: nu = 0, and its term in g is zero. Leaving out its row and its
columns changes no number, so that what is proven on the pruned problem is proven; where a lazy sum or product is
multiplied out, its rounding is a slack of g. A block becomes a dense submatrix where that is less work than its
operator; else the operator stays, between selections.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from milpverify.bounds.problem import AffinePart, DualProblem
from milpverify.errors import BoundsError
from milpverify.network.operators import Array, Dense, LinearOperator, Product, Selection

SPARSE = 6  # how many times faster a dense product multiplies than an operator's own loops
GATHER = 8  # what it costs to put an entry in its place, in multiplications


def pruned_problem(problem: DualProblem, k: int, rows: int, index: np.ndarray | None = None) -> DualProblem:
    """The problem below layer k without inactive neurons; its target is the neurons `index` of layer k.

    Unstable neurons keep their order, so that nu on them means the same in both problems.

    Args:
        problem: One region; must bound the layers 1..k-1.
        k: The layer.
        rows: How many rows are to be walked: many pay for dense submatrices of convolutions.
        index: Neurons of layer k, or None to keep the whole layer's operators as they are.

    Raises:
        BoundsError: If the problem is a batch, whose members differ in what is inactive.
    """
    if problem.is_batch:
        raise BoundsError("pruned_problem: one region and one set of bounds can be pruned. Restrict the batch to one.")
    layers: list[Any] = []
    for j in range(1, k):
        dense = tuple(_dense_pays(op, len(live(problem, j)), rows) for _, op in problem.affine(j).blocks)
        key = ("pruned", j, dense)
        if key not in problem.cache:
            problem.cache[key] = _pruned(problem, j, live(problem, j), dense)
        layers.append(problem.cache[key])
    target = problem.affine(k)
    everything = np.arange(target.size)
    # The rows of single neurons are wanted as such; other rows go through the operators once.
    layers.append(
        _pruned(problem, k, everything if index is None else index, (index is not None,) * len(target.blocks))
    )
    kept = [live(problem, j) for j in range(1, k)]
    lower = tuple(l[i] for l, i in zip(problem.lower, kept, strict=False))
    upper = tuple(u[i] for u, i in zip(problem.upper, kept, strict=False))
    errors = [problem.error(j) + problem.multiplied_out(j) for j in range(1, k + 1)]
    slack = [*(e[i] for e, i in zip(errors, kept, strict=False)), errors[-1] if index is None else errors[-1][index]]
    return DualProblem(tuple(layers), problem.region, lower, upper, problem.like, slack=tuple(slack))


def live(problem: DualProblem, j: int) -> np.ndarray:
    """Indices of the neurons of layer j that are not stable inactive."""
    key = ("live", j)
    if key not in problem.cache:
        l, u = problem.lower[j - 1], problem.upper[j - 1]
        problem.cache[key] = np.flatnonzero(~((u <= 0) & (l < 0)))
    return np.asarray(problem.cache[key])


def _dense_pays(op: LinearOperator, size: int, rows: int) -> bool:
    """Whether `rows` products with the dense submatrix of `size` rows, and making it, cost less than the operator's."""
    dense = size * op.in_size
    return rows * dense + SPARSE * (dense + GATHER * size * op.fan_in) <= SPARSE * rows * op.work


def _pruned(problem: DualProblem, j: int, index: np.ndarray, dense: tuple[bool, ...]) -> AffinePart:
    affine = problem.affine(j)
    blocks = []
    for (source, op), as_matrix in zip(affine.blocks, dense, strict=True):
        columns = None if source == 0 else live(problem, source)
        blocks.append((source, submatrix(problem, op, index, columns, as_matrix)))
    return AffinePart(tuple(blocks), affine.bias[index], affine.bias_error[index], len(index), affine.name)


def submatrix(
    problem: DualProblem, op: LinearOperator, rows: np.ndarray, columns: np.ndarray | None, dense: bool
) -> LinearOperator:
    """W[rows][:, columns] (all if None): a matrix if W is one or `dense` asks for it, else between selections."""
    width = op.in_size if columns is None else len(columns)
    all_rows, all_columns = np.array_equal(rows, np.arange(op.out_size)), columns is None or width == op.in_size
    if all_rows and all_columns:
        return op
    if isinstance(op, Dense):
        return Dense(_taken(problem, op.matrix, None if all_rows else rows, None if all_columns else columns))
    place = np.full(op.in_size + 1, -1, dtype=np.int64)
    place[:-1] = np.arange(width) if columns is None else place[:-1]
    if columns is not None:
        place[columns] = np.arange(width)
    if dense and op.fan_in == op.in_size:
        return Dense(_taken(problem, op.rows_like(rows, problem.like), None, None if all_columns else columns))
    if dense:
        named, values = op.entries(rows)
        matrix = np.zeros((len(rows), width + 1))
        # Column -1 of an entry, and what is pruned away, land in the last column.
        np.put_along_axis(matrix, np.where(place[named] < 0, width, place[named]), values, axis=1)
        return Dense(problem.convert(matrix[:, :-1]))
    factors: tuple[LinearOperator, ...] = (op,)
    if not all_rows:
        factors = (Selection(rows, op.out_size), *factors)
    if not all_columns:
        factors = (*factors, Selection(place[:-1], width))
    return Product(factors)


def _taken(problem: DualProblem, matrix: Array, rows: np.ndarray | None, columns: np.ndarray | None) -> Array:
    if rows is not None:
        matrix = matrix[problem.convert(rows)]
    return matrix if columns is None else matrix[:, problem.convert(columns)]
