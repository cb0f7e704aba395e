"""Rows given as blocks of columns, compressed: what `add_rows` and `with_rows` read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milpverify.errors import InputError

Floats = NDArray[np.float64]
Indices = NDArray[np.int32]
Triplets = tuple[ArrayLike, ArrayLike, ArrayLike]


def joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0)


def broadcast_bounds(lower: ArrayLike, upper: ArrayLike, count: int) -> tuple[Floats, Floats]:
    """Both bounds as new arrays of shape (count,)."""
    try:
        low = np.array(np.broadcast_to(np.asarray(lower, dtype=np.float64), (count,)))
        return low, np.array(np.broadcast_to(np.asarray(upper, dtype=np.float64), (count,)))
    except ValueError:
        shapes = f"{np.shape(lower)} and {np.shape(upper)}"
        raise InputError(
            f"ProgramBuilder: bounds must broadcast to ({count},), got shapes {shapes}. Pass one per name."
        ) from None


def compress(
    blocks: Sequence[tuple[ArrayLike, ArrayLike | Triplets]], m: int, n: int, names: Sequence[str]
) -> tuple[Indices, Indices, Floats]:
    """Blocks of columns as one CSR matrix of m rows, zeros dropped, indices increasing."""
    parts = [_block_entries(columns, matrix, m, n, names) for columns, matrix in blocks]
    rows, index = (joined([p[k] for p in parts]).astype(np.int64) for k in (0, 1))
    value = joined([p[2] for p in parts])
    key = rows * n + index
    if len(key) > 1 and not (np.diff(key) > 0).all():
        order = np.argsort(key, kind="stable")
        rows, index, value, key = rows[order], index[order], value[order], key[order]
        twice = np.flatnonzero(np.diff(key) == 0)
        if len(twice):
            raise InputError(
                f"ProgramBuilder.add_rows: column {index[twice[0]]} stands twice in row "
                f"'{names[rows[twice[0]]]}'. Add its coefficients before the call."
            )
    start = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=m))])
    return start.astype(np.int32), index.astype(np.int32), value


def _block_entries(
    columns: ArrayLike, matrix: ArrayLike | Triplets, m: int, n: int, names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Rows, columns and values of one block's nonzeros."""
    columns = np.asarray(columns, dtype=np.int64).reshape(-1)
    where = f"rows '{names[0]}'..." if m else "no rows"
    if len(columns) and (columns.min() < 0 or columns.max() >= n):
        raise InputError(
            f"ProgramBuilder.add_rows: column indices must lie in 0..{n - 1}, got "
            f"{columns.min()}..{columns.max()} ({where}). Use the indices that add_columns returned."
        )
    if isinstance(matrix, tuple):
        rows, cols, value = (np.asarray(part).reshape(-1) for part in matrix)
        if not len(rows) == len(cols) == len(value):
            lengths = (len(rows), len(cols), len(value))
            raise InputError(
                f"ProgramBuilder.add_rows: (rows, cols, values) must be equally long, got {lengths} "
                f"({where}). Pass one of each per nonzero."
            )
        rows, cols, value = rows.astype(np.int64), cols.astype(np.int64), value.astype(np.float64)
        if len(rows) and (min(rows.min(), cols.min()) < 0 or rows.max() >= m or cols.max() >= len(columns)):
            raise InputError(
                f"ProgramBuilder.add_rows: a nonzero lies outside the ({m}, {len(columns)}) block ({where}). "
                "Count rows within this call and cols within the block's columns."
            )
        keep = value != 0
        return rows[keep], columns[cols[keep]], value[keep]
    dense = np.asarray(matrix, dtype=np.float64)
    if dense.shape != (m, len(columns)):
        raise InputError(
            f"ProgramBuilder.add_rows: a block must have shape ({m}, {len(columns)}), got {dense.shape} "
            f"({where}). Give one row per name and one column per index."
        )
    rows, cols = np.nonzero(dense)
    return rows, columns[cols], dense[rows, cols]
