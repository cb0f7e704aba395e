"""The better of two bounds of the same rows, with what proves them."""

from __future__ import annotations

import numpy as np

from milpverify.bounds.dual import DualBound


def better_rows(best: DualBound, found: DualBound, where: np.ndarray | None = None) -> DualBound:
    """`best` with those of its rows `where` replaced that `found` bounds higher; nu and lambda go with the value.

    Batches are taken whole. One row that rests on a solver's word makes the whole solver-trusted, without nu.

    Args:
        best: Bounds of m rows.
        found: Bounds of len(where) of them, in that order.
        where: Their positions, without repeats; all rows in order when None.
    """
    known = best.value if where is None else best.value[where]
    higher = found.value > known
    if not higher.any():
        return best
    trusted = best.solver_trusted or found.solver_trusted
    pairs = [(best.value, found.value), (best.input_lam, found.input_lam)]
    pairs += [] if trusted else zip(best.nu, found.nu, strict=True)
    value, input_lam, *nu = [_merged(old, new, higher, where) for old, new in pairs]
    return DualBound(value, input_lam, tuple(nu), solver_trusted=trusted)


def _merged(old: np.ndarray, new: np.ndarray, higher: np.ndarray, where: np.ndarray | None) -> np.ndarray:
    merged = old.copy()
    merged[higher if where is None else where[higher]] = new[higher]
    return merged
