"""An LP held open in HiGHS whose rows come, go and move, too: cutting planes and the nodes of a tree."""

from __future__ import annotations

from collections.abc import Sequence

import highspy
import numpy as np
from numpy.typing import ArrayLike

from milpverify.errors import InputError
from milpverify.program.blocks import Triplets, broadcast_bounds, compress
from milpverify.program.checks import LARGEST_COEFFICIENT, LARGEST_FINITE, SMALLEST_COEFFICIENT
from milpverify.program.highs import Highs, WarmLP
from milpverify.program.highs_calls import accept, set_option
from milpverify.program.program import Program


class CuttingLP(WarmLP):
    """A `WarmLP` with rows that can be added, deleted and changed; it keeps its basis throughout.

    Rows count from 0 in the order in which they came; deleting some moves the later ones up.
    """

    def __init__(self, program: Program, options: Highs | None = None) -> None:
        super().__init__(program, options)
        # 4: rows and columns by their largest entry; a fifth fewer iterations than the default on triangle relaxations.
        set_option(self._model, "simplex_scale_strategy", 4)
        self._row_lower, self._row_upper = self._row_lower.copy(), self._row_upper.copy()

    @property
    def n_rows(self) -> int:
        """Rows there are now."""
        return len(self._row_lower)

    def add_rows(self, blocks: Sequence[tuple[ArrayLike, ArrayLike | Triplets]], lower: ArrayLike, upper: ArrayLike,
                 count: int) -> None:  # fmt: skip
        """Append `count` rows; blocks, lower and upper as in `ProgramBuilder.add_rows`.

        Raises:
            InputError: If a coefficient or a bound is one that HiGHS would not keep as it is.
        """
        start, index, value = compress(blocks, count, self._columns, [f"row {i}" for i in range(count)])
        low, up = broadcast_bounds(lower, upper, count)
        self._check("add_rows", low, up)
        if not ((np.abs(value) > SMALLEST_COEFFICIENT) & (np.abs(value) < LARGEST_COEFFICIENT)).all():
            raise InputError("CuttingLP.add_rows: coefficients must lie between 1e-12 and 1e15 in size. Rescale.")
        accept(self._model.addRows(count, low, up, len(value), start[:-1], index, value), "addRows", self._name)
        self._row_lower, self._row_upper = np.append(self._row_lower, low), np.append(self._row_upper, up)

    def delete_rows(self, which: np.ndarray) -> np.ndarray:
        """Delete those of some rows that do not bind: what is basic can go, and the basis stays one.

        Returns:
            The rows that went, ascending.
        """
        basis = self._model.getBasis()
        basic = np.array([status == highspy.HighsBasisStatus.kBasic for status in basis.row_status], dtype=bool)
        gone = np.sort(which[basic[which]]) if basis.valid else np.zeros(0, dtype=np.int64)
        if len(gone):
            left = np.delete(np.arange(self.n_rows), gone)
            accept(self._model.deleteRows(len(gone), gone.astype(np.int32)), "deleteRows", self._name)
            basis.row_status = [basis.row_status[i] for i in left]
            accept(self._model.setBasis(basis), "setBasis", self._name)
            self._row_lower, self._row_upper = self._row_lower[left], self._row_upper[left]
        return gone

    def change_row_bounds(self, indices: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> None:
        """Set the bounds of some rows; both sides may be infinite."""
        rows = np.atleast_1d(np.asarray(indices, dtype=np.int32))
        low, up = broadcast_bounds(lower, upper, len(rows))
        self._check("change_row_bounds", low, up)
        changed = self._model.changeRowsBounds(len(rows), rows, low, up)  # type: ignore[attr-defined]
        accept(changed, "changeRowsBounds", self._name)
        self._row_lower[rows], self._row_upper[rows] = low, up

    def change_coefficients(self, rows: ArrayLike, columns: ArrayLike, values: ArrayLike) -> None:
        """Set single coefficients."""
        parts = (np.asarray(part).tolist() for part in (rows, columns, values))
        for row, column, value in zip(*parts, strict=True):
            accept(self._model.changeCoeff(row, column, value), "changeCoeff", self._name)

    def _check(self, who: str, low: np.ndarray, up: np.ndarray) -> None:
        readable = (np.abs(low) < LARGEST_FINITE) | (low == -np.inf)
        readable &= (np.abs(up) < LARGEST_FINITE) | (up == np.inf)
        if not (readable & (low <= up)).all():
            raise InputError(
                f"CuttingLP.{who}: lower <= upper must hold, each finite below 1e20 or infinite outward. A row that no "
                "point meets needs no LP."
            )
