"""A mixed-integer linear program as frozen numpy arrays, and a builder that fills one from blocks of rows.

    minimise    cost . x + offset
    subject to  row_lower <= A x <= row_upper,   column_lower <= x <= column_upper,   x_j integer where
    integer[j]

Everything a solver could misread is refused here, once, with the row's or column's name: HiGHS drops
coefficients below its `small_matrix_value`, refuses those above 1e15, and reads bounds from 1e20 on as
infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milpverify.errors import InputError
from milpverify.program.blocks import Triplets, broadcast_bounds, compress, joined
from milpverify.program.checks import (
    SMALLEST_COEFFICIENT,
    check_bounds,
    check_matrix,
    check_names,
    check_shapes,
    frozen,
)

if TYPE_CHECKING:
    import pulp

Floats = NDArray[np.float64]
Indices = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Program:
    """One minimisation over columns x, rows stored compressed (CSR), every part named.

    The arrays are copied and made read-only. Within a row the column indices increase strictly.

    Args:
        cost: Objective coefficients, shape (n,).
        offset: Constant of the objective.
        column_lower: Lower bounds of x, shape (n,); -inf where there is none.
        column_upper: Upper bounds of x, shape (n,); +inf where there is none.
        integer: True where x must be an integer, shape (n,).
        row_start: First nonzero of each row and, last, their number, shape (m + 1,).
        row_index: Column of each nonzero.
        row_value: Value of each nonzero, 1e-12 < |value| < 1e15.
        row_lower: Lower bounds of A x, shape (m,); at least one side of each row is finite.
        row_upper: Upper bounds of A x, shape (m,).
        column_names: Unique; letters, digits and underscores, not starting with a digit, at most 90
            characters.
        row_names: The same, for rows.
        name: Name of the program.

    Raises:
        InputError: If a length, a bound, an index or a name is wrong.
        SolverError: If a nonzero coefficient is one that HiGHS would drop or refuse.
    """

    cost: Floats
    offset: float
    column_lower: Floats
    column_upper: Floats
    integer: NDArray[np.bool_]
    row_start: Indices
    row_index: Indices
    row_value: Floats
    row_lower: Floats
    row_upper: Floats
    column_names: tuple[str, ...]
    row_names: tuple[str, ...]
    name: str = "program"

    def __post_init__(self) -> None:
        for field in ("cost", "column_lower", "column_upper", "row_value", "row_lower", "row_upper"):
            object.__setattr__(self, field, frozen(getattr(self, field), np.float64, field))
        for field in ("row_start", "row_index"):
            object.__setattr__(self, field, frozen(getattr(self, field), np.int32, field))
        object.__setattr__(self, "integer", frozen(self.integer, np.bool_, "integer"))
        object.__setattr__(self, "offset", float(self.offset))
        object.__setattr__(self, "column_names", tuple(self.column_names))
        object.__setattr__(self, "row_names", tuple(self.row_names))
        check_shapes(self)
        check_names(self.column_names, "column")
        check_names(self.row_names, "row")
        check_names((self.name,), "program")
        check_bounds(self.column_lower, self.column_upper, self.column_names, "column")
        check_bounds(self.row_lower, self.row_upper, self.row_names, "row")
        check_matrix(self)

    @property
    def n_columns(self) -> int:
        """Number of variables."""
        return len(self.cost)

    @property
    def n_rows(self) -> int:
        """Number of constraints."""
        return len(self.row_lower)

    @property
    def n_nonzeros(self) -> int:
        """Number of stored coefficients, all of them nonzero."""
        return len(self.row_value)

    @property
    def is_mip(self) -> bool:
        """Whether some column must be an integer."""
        return bool(self.integer.any())

    def relax(self) -> Program:
        """Drop integrality: the LP relaxation, its optimum at most that of this program."""
        return replace(self, integer=np.zeros(self.n_columns, dtype=bool))

    def with_cost(self, cost: ArrayLike, offset: float) -> Program:
        """Replace the objective by cost . x + offset."""
        return replace(self, cost=np.asarray(cost, dtype=np.float64), offset=offset)

    def with_column_bounds(self, lower: ArrayLike, upper: ArrayLike) -> Program:
        """Replace all column bounds; both of shape (n,)."""
        lower, upper = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
        return replace(self, column_lower=lower, column_upper=upper)

    def with_rows(
        self,
        blocks: Sequence[tuple[ArrayLike, ArrayLike | Triplets]],
        lower: ArrayLike,
        upper: ArrayLike,
        names: Sequence[str],
    ) -> Program:
        """Append rows; the arguments are those of `ProgramBuilder.add_rows`."""
        start, index, value = compress(blocks, len(names), self.n_columns, names)
        low, up = broadcast_bounds(lower, upper, len(names))
        return replace(
            self,
            row_start=np.concatenate([self.row_start, self.row_start[-1] + start[1:]]),
            row_index=np.concatenate([self.row_index, index]),
            row_value=np.concatenate([self.row_value, value]),
            row_lower=np.concatenate([self.row_lower, low]),
            row_upper=np.concatenate([self.row_upper, up]),
            row_names=self.row_names + tuple(names),
        )

    def activity(self, x: ArrayLike) -> Floats:
        """A x, shape (m,); floating."""
        terms = self.row_value * np.asarray(x, dtype=np.float64)[self.row_index]
        # bincount of nothing counts in integers.
        return np.bincount(self.row_of_nonzero(), weights=terms, minlength=self.n_rows).astype(np.float64)

    def row_of_nonzero(self) -> Indices:
        """Row of each nonzero, in storage order."""
        return np.repeat(np.arange(self.n_rows, dtype=np.int32), np.diff(self.row_start))

    def objective(self, x: ArrayLike) -> float:
        """cost . x + offset; floating."""
        return float(self.cost @ np.asarray(x, dtype=np.float64)) + self.offset

    def residual(self, x: ArrayLike) -> float:
        """Largest violation at x of a row, a column bound or integrality, absolute; inf if x has a NaN;
        floating."""
        x = np.asarray(x, dtype=np.float64)
        if x.shape != (self.n_columns,):
            raise InputError(
                f"Program.residual: x must have shape ({self.n_columns},), got {x.shape}. Pass one value per column."
            )
        if not np.isfinite(x).all():
            return float("inf")
        rows = self.activity(x)
        whole = x[self.integer]
        violations = [
            self.column_lower - x, x - self.column_upper, self.row_lower - rows, rows - self.row_upper,
            np.abs(whole - np.rint(whole)),
        ]  # fmt: skip
        return max(0.0, *(float(v.max()) for v in violations if v.size))

    def write(self, path: str | Path) -> None:
        """Write a .lp or .mps file (.lp.gz, .mps.gz: compressed), every number exact; see
        `export.write_program`."""
        from milpverify.program.export import write_program

        write_program(self, Path(path))

    def to_pulp(self) -> pulp.LpProblem:
        """The same program as a `pulp.LpProblem`; see `pulp_backend.to_pulp`."""
        from milpverify.program.pulp_backend import to_pulp

        return to_pulp(self)


class ProgramBuilder:
    """Collects columns and blocks of rows, then `build`s one Program.

    Args:
        absorb_tiny: What to do with a nonzero coefficient of at most 1e-12, which no solver would respect.
            False: raise. True: remove it and widen its row by the range of that term over the column's bounds
            (rounded outward), so that the built program is a relaxation of the one asked for: its optimum is
            never above. This stays true while no column's bounds are widened.
    """

    def __init__(self, absorb_tiny: bool = False) -> None:
        self._absorb_tiny = absorb_tiny
        self._columns: list[tuple[Floats, Floats, NDArray[np.bool_]]] = []
        self._column_names: list[str] = []
        self._rows: list[tuple[Indices, Indices, Floats, Floats, Floats]] = []
        self._row_names: list[str] = []
        self._cost: list[tuple[Indices, Floats]] = []
        self._offset = 0.0

    def add_columns(self, names: Sequence[str], lower: ArrayLike, upper: ArrayLike, integer: bool = False) -> Indices:
        """Add one column per name; `lower` and `upper` are broadcast to them.

        Returns:
            The indices of the new columns, shape (len(names),).
        """
        first = len(self._column_names)
        low, up = broadcast_bounds(lower, upper, len(names))
        self._columns.append((low, up, np.full(len(names), integer)))
        self._column_names.extend(names)
        return np.arange(first, first + len(names), dtype=np.int32)

    def add_rows(
        self,
        blocks: Sequence[tuple[ArrayLike, ArrayLike | Triplets]],
        lower: ArrayLike,
        upper: ArrayLike,
        names: Sequence[str],
    ) -> Indices:
        """Add the rows lower <= sum over blocks of matrix @ x[columns] <= upper, one per name.

        Args:
            blocks: Pairs (columns, matrix): column indices, shape (k,), and either a dense array, shape
                (len(names), k), or a tuple (rows, cols, values) of equal lengths whose `rows` count within
                this call and whose `cols` count within `columns`. Exact zeros are dropped. A column may stand
                once per row.
            lower: Broadcast to shape (len(names),); -inf for none.
            upper: Broadcast to shape (len(names),); +inf for none.
            names: One per row.

        Returns:
            The indices of the new rows, shape (len(names),).

        Raises:
            InputError: If a shape or an index is wrong, or a column stands twice in a row.
        """
        first = len(self._row_names)
        start, index, value = compress(blocks, len(names), len(self._column_names), names)
        low, up = broadcast_bounds(lower, upper, len(names))
        if self._absorb_tiny:
            start, index, value, low, up = self._absorb(start, index, value, low, up)
        self._rows.append((start, index, value, low, up))
        self._row_names.extend(names)
        return np.arange(first, first + len(names), dtype=np.int32)

    def set_cost(self, indices: ArrayLike, values: ArrayLike, offset: float = 0.0) -> None:
        """Set the whole objective: sum of values * x[indices] + offset; unnamed columns cost 0."""
        positions = np.atleast_1d(np.asarray(indices, dtype=np.int32))
        if len(np.unique(positions)) != len(positions):
            raise InputError("ProgramBuilder.set_cost: a column is named twice. Add its costs before the call.")
        numbers = np.broadcast_to(np.asarray(values, dtype=np.float64), positions.shape)
        self._cost, self._offset = [(positions, numbers)], float(offset)

    def build(self, name: str = "program") -> Program:
        """Freeze everything added so far into a checked Program; the builder can go on being used."""
        n = len(self._column_names)
        cost = np.zeros(n)
        for positions, numbers in self._cost:
            if len(positions) and (positions.min() < 0 or positions.max() >= n):
                raise InputError(f"ProgramBuilder.set_cost: indices must lie in 0..{n - 1}. Use what add_columns gave.")
            cost[positions] = numbers
        counts = [np.diff(start) for start, *_ in self._rows]
        return Program(
            cost=cost,
            offset=self._offset,
            column_lower=joined([c[0] for c in self._columns]),
            column_upper=joined([c[1] for c in self._columns]),
            integer=joined([c[2] for c in self._columns]).astype(bool),
            row_start=np.concatenate([[0], np.cumsum(joined(counts))]).astype(np.int32),
            row_index=joined([r[1] for r in self._rows]).astype(np.int32),
            row_value=joined([r[2] for r in self._rows]),
            row_lower=joined([r[3] for r in self._rows]),
            row_upper=joined([r[4] for r in self._rows]),
            column_names=tuple(self._column_names),
            row_names=tuple(self._row_names),
            name=name,
        )

    def _absorb(
        self, start: Indices, index: Indices, value: Floats, low: Floats, up: Floats
    ) -> tuple[Indices, Indices, Floats, Floats, Floats]:
        """Move tiny terms of new rows into the rows' bounds; a term over an unbounded column stays, and is
        refused."""
        column_lower, column_upper = (joined([c[side] for c in self._columns])[index] for side in (0, 1))
        tiny = (np.abs(value) <= SMALLEST_COEFFICIENT) & np.isfinite(column_lower) & np.isfinite(column_upper)
        if not tiny.any():
            return start, index, value, low, up
        rows = np.repeat(np.arange(len(low), dtype=np.int32), np.diff(start))
        ends = np.stack([value * column_lower, value * column_upper])[:, tiny]
        count = np.bincount(rows[tiny], minlength=len(low))
        least, most = (np.bincount(rows[tiny], weights=w, minlength=len(low)) for w in (ends.min(0), ends.max(0)))
        # Products and sums err by at most (count + 1) ulp of the sum of magnitudes; the last step by one
        # more.
        size = np.bincount(rows[tiny], weights=np.abs(ends).max(0), minlength=len(low))
        error = size * (count + 4) * np.finfo(np.float64).eps + np.finfo(np.float64).tiny
        touched = count > 0
        low = np.where(touched, np.nextafter(low - (most + error), -np.inf), low)
        up = np.where(touched, np.nextafter(up - (least - error), np.inf), up)
        start = np.concatenate([[0], np.cumsum(np.bincount(rows[~tiny], minlength=len(low)))]).astype(np.int32)
        return start, index[~tiny], value[~tiny], low, up
