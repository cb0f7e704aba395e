"""What a Program must satisfy so that every solver and every file format reads the same program."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from milpverify.errors import InputError, SolverError

if TYPE_CHECKING:
    from milpverify.program.program import Program

Floats = NDArray[np.float64]

SMALLEST_COEFFICIENT = 1e-12
LARGEST_COEFFICIENT = 1e15
LARGEST_FINITE = 1e20
LONGEST_NAME = 90

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Words and number-like names that some reader of .lp files takes for a section, a bound or a number.
_RESERVED = re.compile(
    r"e\d*|inf|infinity|nan|free|obj|min|max|minimi[sz]e|maximi[sz]e|minimum|maximum|st|such|subject|bounds?|bin|"
    r"binary|binaries|gen|generals?|int|integers?|semi|semis|sos[12]?|sec|sin|end|__dummy|_dummy",
    re.IGNORECASE,
)


def frozen(array: Any, dtype: type[np.generic], field: str) -> NDArray[Any]:
    """A read-only contiguous copy, or the array itself if it already is one of ours."""
    if isinstance(array, np.ndarray) and array.dtype == dtype and not array.flags.writeable and array.base is None:
        return array
    given = np.asarray(array)
    with np.errstate(invalid="ignore"):
        copy = np.array(given, dtype=dtype, order="C")
    if dtype == np.int32 and not np.array_equal(copy, given):
        raise InputError(
            f"Program: {field} must hold whole numbers below 2^31, got {given.dtype} values that do not fit. "
            "Pass int32."
        )
    copy.flags.writeable = False
    return copy


def check_shapes(program: Program) -> None:
    """Lengths that fit together, at least one column, finite costs; raises InputError."""
    n, m = len(program.column_names), len(program.row_names)
    expected = {
        "cost": n, "column_lower": n, "column_upper": n, "integer": n,
        "row_start": m + 1, "row_lower": m, "row_upper": m, "row_index": len(program.row_value),
        "row_value": len(program.row_value),
    }  # fmt: skip
    for field, length in expected.items():
        shape = getattr(program, field).shape
        if shape != (length,):
            raise InputError(
                f"Program: {field} must have shape ({length},), got {shape}. Pass {n} columns and {m} rows throughout."
            )
    if n == 0:
        raise InputError("Program: at least one column is needed, got none. Add the variables first.")
    costs = np.append(program.cost, program.offset)
    if not (np.abs(costs) < LARGEST_FINITE).all():
        where = ([*program.column_names, "the offset"])[int(np.argmin(np.abs(costs) < LARGEST_FINITE))]
        raise InputError(
            f"Program: costs must be finite and below 1e20, got {costs[~(np.abs(costs) < 1e20)][0]} for "
            f"'{where}'. Check the objective."
        )


def check_names(names: tuple[str, ...], kind: str) -> None:
    """Unique names that .lp and .mps readers and PuLP keep as they are; raises InputError."""
    for name in names:
        if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name) or len(name) > LONGEST_NAME:
            raise InputError(
                f"Program: {kind} name {name!r} cannot be written to an .lp file. Use letters, digits and "
                f"underscores, no leading digit, no word of the format, at most {LONGEST_NAME} characters."
            )
    if len(set(names)) != len(names):
        ordered = sorted(names)
        twice = next(a for a, b in pairwise(ordered) if a == b)
        raise InputError(f"Program: {kind} name '{twice}' is used twice. Give every {kind} its own name.")


def check_bounds(lower: Floats, upper: Floats, names: tuple[str, ...], kind: str) -> None:
    """lower <= upper, nothing that HiGHS reads as infinite without being so, no free row; raises
    InputError."""
    with np.errstate(invalid="ignore"):
        readable = (np.abs(lower) < LARGEST_FINITE) | (lower == -np.inf)
        readable &= (np.abs(upper) < LARGEST_FINITE) | (upper == np.inf)
        wrong = ~(readable & (lower <= upper))
    if wrong.any():
        k = int(np.argmax(wrong))
        raise InputError(
            f"Program: {kind} '{names[k]}' must have lower <= upper, each below 1e20 in size or infinite "
            f"outward, got [{lower[k]}, {upper[k]}]. Correct the bounds."
        )
    free = (lower == -np.inf) & (upper == np.inf)
    if kind == "row" and free.any():
        raise InputError(f"Program: row '{names[int(np.argmax(free))]}' is free on both sides. Leave it out.")


def check_matrix(program: Program) -> None:
    """A well-formed CSR matrix (InputError) with coefficients that solvers keep (SolverError)."""
    # Each kind of fault names its row, so that the formulation that made it can be found.
    start, index, value = program.row_start, program.row_index, program.row_value
    if start[0] != 0 or start[-1] != len(value) or (np.diff(start) < 0).any():
        raise InputError(
            f"Program: row_start must rise from 0 to {len(value)}, got {start[0]}..{start[-1]}. Rebuild it."
        )
    rows = program.row_of_nonzero()
    if len(index) and (index.min() < 0 or index.max() >= program.n_columns):
        k = int(np.argmax((index < 0) | (index >= program.n_columns)))
        raise InputError(
            f"Program: row '{program.row_names[rows[k]]}' names column {index[k]}, but columns go from 0 to "
            f"{program.n_columns - 1}. Correct row_index."
        )
    unsorted = (np.diff(index) <= 0) & (np.diff(rows) == 0)
    if unsorted.any():
        row = program.row_names[rows[int(np.argmax(unsorted))]]
        raise InputError(f"Program: column indices must increase within row '{row}', without repeats. Sort and add up.")
    with np.errstate(invalid="ignore"):
        usable = (np.abs(value) > SMALLEST_COEFFICIENT) & (np.abs(value) < LARGEST_COEFFICIENT)
    if not usable.all():
        k = int(np.argmin(usable))
        where = f"row '{program.row_names[rows[k]]}', column '{program.column_names[index[k]]}'"
        raise SolverError(
            f"Program: coefficients must lie between 1e-12 and 1e15 in size, got {value[k]} in {where}, "
            "which a solver would drop or refuse. Drop exact zeros, rescale the row, or build with "
            "absorb_tiny=True."
        )
