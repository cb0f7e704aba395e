"""The generators of many zonotopes as one matrix: a row per symbol of any box, so that no box pays for another's.

A box has as many symbols as inputs with a width and unstable neurons of its own. The rows are sorted by the layer that
made their symbols, and within one by box, so that a layer costs one matrix product without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milpverify.bounds.problem import DualProblem
from milpverify.network.arrays import array_namespace, device
from milpverify.network.operators import Array, Dense, LinearOperator

Symbols = tuple[tuple[int, int], ...]  # (layer that made them, 0 for the input; how many), in rising order


@dataclass(frozen=True, eq=False)
class Generators:
    """G_g of b boxes over q entries, in a problem's namespace.

    Attributes:
        matrix: One row per symbol of any box, shape (T, q).
        owner: The symbols' boxes, shape (T,), rising among the symbols of one layer.
        symbols: Whose the rows are.
    """

    matrix: Array
    owner: np.ndarray
    symbols: Symbols

    def reach(self, boxes: int) -> Array:
        """sum |G_g| over the symbols of each box, shape (b, q), in any order of summation. Floating."""
        xp, matrix, owner = array_namespace(self.matrix), self.matrix, self.owner
        reach = xp.zeros((boxes, matrix.shape[-1]), dtype=matrix.dtype, device=device(matrix))
        if not isinstance(matrix, np.ndarray):  # the array API has no sums by segments
            return reach.index_add_(0, xp.asarray(owner, device=device(matrix)), xp.abs(matrix))
        if len(owner):
            order = np.argsort(owner.astype(np.uint16) if boxes < 2**16 else owner, kind="stable")  # 16 bits: radix
            ordered = owner[order]
            starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
            sizes = np.take(matrix, order, axis=0)  # one run of rows per box: short runs would be slow to add
            reach[ordered[starts]] = np.add.reduceat(np.abs(sizes, out=sizes), starts, axis=0)
        return reach


@dataclass(frozen=True, eq=False)
class Newest:
    """The symbols that a layer, or the input, makes itself: one entry each, and so no rows of a matrix yet.

    Attributes:
        origin: The layer; 0 for the input.
        radius, place, owner: The symbols' entries h, where these stand, and their boxes, shape (t,).
    """

    origin: int
    radius: np.ndarray
    place: np.ndarray
    owner: np.ndarray


Source = tuple[Generators, Newest]  # all symbols of a layer's values


def merged(sources: Sequence[Source]) -> tuple[Symbols, np.ndarray]:
    """All symbols of some sources, in rising order of the layer that made them, and their boxes."""
    owners: dict[int, np.ndarray] = {}
    for older, newest in sources:
        at = 0
        for origin, count in older.symbols:
            owners[origin] = older.owner[at : at + count]
            at += count
        owners[newest.origin] = newest.owner
    parts = [owners[origin] for origin in sorted(owners)]
    owner = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    return tuple((origin, len(owners[origin])) for origin in sorted(owners)), owner


def mapped(
    problem: DualProblem, sources: Sequence[Source], operators: Sequence[LinearOperator], into: Array, symbols: Symbols
) -> None:
    """Write the generators of sum_s W_s v_s into a matrix with a row for each of the sources' merged symbols. Floating.

    Args:
        problem: Whose namespace it is.
        sources, operators: v_s and W_s.
        into: Shape (T, q); what it holds is overwritten.
        symbols: The merged ones.
    """
    if len(sources) == 1:  # a source's own symbols are its newest: they come last
        (older, newest), operator = sources[0], operators[0]
        old = len(older.owner)
        _map_into(operator, older.matrix, into[:old])
        _spread_into(problem, operator, newest, into[old:])
        return
    into[...] = 0.0
    ends = np.cumsum([count for _, count in symbols])
    rows = {origin: slice(int(end) - count, int(end)) for (origin, count), end in zip(symbols, ends, strict=True)}
    for (older, newest), operator in zip(sources, operators, strict=True):
        image, at = operator.apply(older.matrix), 0
        for origin, count in older.symbols:
            into[rows[origin]] += image[at : at + count]
            at += count
        own = into[rows[newest.origin]]
        image = array_namespace(own).zeros_like(own)
        _spread_into(problem, operator, newest, image)
        own += image


def _map_into(operator: LinearOperator, rows: Array, out: Array) -> None:
    """Write W g to `out` for every row g."""
    if isinstance(operator, Dense) and isinstance(rows, np.ndarray):
        np.matmul(rows, operator.matrix.T, out=out)
    elif rows.shape[0]:
        out[...] = operator.apply(rows)


def _spread_into(problem: DualProblem, operator: LinearOperator, newest: Newest, out: Array) -> None:
    """Write W (h_t e_place_t) to row t of `out`."""
    count = len(newest.radius)
    if not count:
        return
    if not isinstance(operator, Dense):
        unit = np.zeros((count, operator.in_size))
        unit[np.arange(count), newest.place] = newest.radius
        out[...] = operator.apply(problem.convert(unit))
        return
    if isinstance(out, np.ndarray):
        np.take(operator.matrix.T, newest.place, axis=0, out=out, mode="clip")  # "raise" would copy through a buffer
    else:
        out[...] = array_namespace(out).take(operator.matrix.T, problem.convert(newest.place), axis=0)
    out *= problem.convert(newest.radius)[:, None]
