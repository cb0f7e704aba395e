"""A Program as an .lp or .mps file, every number to its last bit.

HiGHS's own writer keeps 15 significant digits, so its files hold a neighbouring program; these hold the
program itself (the shortest decimal that reads back as the same float).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from milpverify.errors import OptionError
from milpverify.whole_files import written_whole

if TYPE_CHECKING:
    from milpverify.program.program import Program

LOWER_SUFFIX = ".lower"
UPPER_SUFFIX = ".upper"
_TERMS_PER_LINE = 8
_LINES_PER_WRITE = 4096


def write_program(program: Program, path: Path) -> None:
    """Write `program` to `path`: .lp, .mps, .lp.gz or .mps.gz. The file appears complete or not at all.

    A row with two different finite sides is split in two, named with `.lower` and `.upper`, wherever the
    format cannot hold both sides exactly (always in .lp; in .mps where the RANGES difference would round). No
    Program's name holds a full stop, so the split names never collide.

    Args:
        program: What to write.
        path: Where to; its folder must exist.

    Raises:
        OptionError: If the suffix is another one, or the folder does not exist or cannot be written.
    """
    lines = _lines_of(program, path)
    try:
        with written_whole(path) as temporary, open(temporary, "xb") as raw:
            # mtime=0 and no file name inside: the same program gives the same bytes.
            packed = gzip.GzipFile("", "wb", 6, raw, mtime=0) if path.suffix == ".gz" else None
            while chunk := list(islice(lines, _LINES_PER_WRITE)):
                (packed or raw).write("\n".join([*chunk, ""]).encode("ascii"))
            if packed is not None:
                packed.close()
    except OSError as error:
        raise OptionError(
            f"Program.write: cannot write '{path}' ({error.strerror}). Choose a file in an existing, writable folder."
        ) from error


def _lines_of(program: Program, path: Path) -> Iterator[str]:
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind == ".lp":
        return _lp_lines(program)
    if kind == ".mps":
        return _mps_lines(program)
    raise OptionError(
        f"Program.write: the file name must end in .lp, .mps, .lp.gz or .mps.gz, got '{path.name}'. Rename it."
    )


def _number(value: float) -> str:
    """The shortest decimal that reads back as the same float."""
    return repr(float(value)).removesuffix(".0")


def _expression(indices: np.ndarray, values: np.ndarray, names: tuple[str, ...]) -> list[str]:
    """Terms as lines short enough for every reader of the format."""
    terms = []
    for j, value in zip(indices.tolist(), values.tolist(), strict=True):
        size = "" if abs(value) == 1 else _number(abs(value)) + " "
        terms.append(f"{'-' if value < 0 else '+'} {size}{names[j]}")
    return [" ".join(terms[k : k + _TERMS_PER_LINE]) for k in range(0, len(terms), _TERMS_PER_LINE)]


def _lp_lines(program: Program) -> Iterator[str]:
    names = program.column_names
    yield f"\\ {program.name}: {program.n_columns} columns, {program.n_rows} rows"
    yield "Minimize"
    used = np.zeros(program.n_columns, dtype=bool)
    used[program.row_index] = True
    # A column that stands nowhere would be lost: it gets a zero cost.
    listed = np.flatnonzero((program.cost != 0) | ~used)
    if not len(listed):
        listed = np.zeros(1, dtype=int)
    yield " obj:"
    yield from (f"  {line}" for line in _expression(listed, program.cost[listed], names))
    if program.offset != 0:
        yield f"  {'-' if program.offset < 0 else '+'} {_number(abs(program.offset))}"
    yield "Subject To"
    for i in range(program.n_rows):
        yield from _lp_row(program, i)
    yield "Bounds"
    for name, low, up in zip(names, program.column_lower.tolist(), program.column_upper.tolist(), strict=True):
        yield _lp_bound(name, low, up)
    binary = program.integer & (program.column_lower == 0) & (program.column_upper == 1)
    for section, members in (("Binaries", binary), ("Generals", program.integer & ~binary)):
        if members.any():
            yield section
            yield from (f" {names[j]}" for j in np.flatnonzero(members))
    yield "End"


def _lp_row(program: Program, i: int) -> Iterator[str]:
    part = slice(program.row_start[i], program.row_start[i + 1])
    terms = _expression(program.row_index[part], program.row_value[part], program.column_names)
    terms = terms or [f"0 {program.column_names[0]}"]
    name, low, up = program.row_names[i], float(program.row_lower[i]), float(program.row_upper[i])
    if low == up:
        sides = [("", "=", low)]
    elif np.isfinite(low) and np.isfinite(up):
        sides = [(LOWER_SUFFIX, ">=", low), (UPPER_SUFFIX, "<=", up)]
    else:
        sides = [("", ">=", low) if np.isfinite(low) else ("", "<=", up)]
    for suffix, sense, side in sides:
        *first, last = [f" {name}{suffix}: {terms[0]}", *(f"  {line}" for line in terms[1:])]
        yield from first
        yield f"{last} {sense} {_number(side)}"


def _lp_bound(name: str, low: float, up: float) -> str:
    if low == up:
        return f" {name} = {_number(low)}"
    if low == -np.inf and up == np.inf:
        return f" {name} free"
    if up == np.inf:
        return f" {name} >= {_number(low)}"
    return f" {'-inf' if low == -np.inf else _number(low)} <= {name} <= {_number(up)}"


def _mps_lines(program: Program) -> Iterator[str]:
    rows = _mps_rows(program)
    # Without the word, CBC guesses the format line by line, and guesses wrong for short names.
    yield f"NAME {program.name} FREE"
    yield "ROWS"
    yield " N obj"
    yield from (f" {sense} {name}" for name, _, sense, _, _ in rows)
    yield "COLUMNS"
    yield from _mps_columns(program, rows)
    yield "RHS"
    if program.offset != 0:
        # The format's constant: an objective's right-hand side is subtracted.
        yield f" rhs obj {_number(-program.offset)}"
    yield from (f" rhs {name} {_number(side)}" for name, _, _, side, _ in rows if side != 0)
    ranges = [(name, width) for name, _, _, _, width in rows if width is not None]
    if ranges:
        yield "RANGES"
        yield from (f" range {name} {_number(width)}" for name, width in ranges)
    yield "BOUNDS"
    for name, low, up, whole in zip(
        program.column_names,
        program.column_lower.tolist(),
        program.column_upper.tolist(),
        program.integer.tolist(),
        strict=True,
    ):
        yield from _mps_bounds(name, low, up, whole)
    yield "ENDATA"


def _mps_rows(program: Program) -> list[tuple[str, int, str, float, float | None]]:
    """(name, row of the program, sense, right-hand side, width of a range or None) of each row of the
    file."""
    rows: list[tuple[str, int, str, float, float | None]] = []
    for i, (name, low, up) in enumerate(
        zip(program.row_names, program.row_lower.tolist(), program.row_upper.tolist(), strict=True)
    ):
        if low == up:
            rows.append((name, i, "E", low, None))
        elif low == -np.inf:
            rows.append((name, i, "L", up, None))
        elif up == np.inf:
            rows.append((name, i, "G", low, None))
        elif low + (up - low) == up:
            rows.append((name, i, "G", low, up - low))
        elif up - (up - low) == low:
            rows.append((name, i, "L", up, up - low))
        else:
            rows.extend([(name + LOWER_SUFFIX, i, "G", low, None), (name + UPPER_SUFFIX, i, "L", up, None)])
    return rows


def _mps_columns(program: Program, rows: list[tuple[str, int, str, float, float | None]]) -> Iterator[str]:
    file_names: list[list[str]] = [[] for _ in range(program.n_rows)]
    for name, i, *_ in rows:
        file_names[i].append(name)
    order = np.argsort(program.row_index, kind="stable")
    row_of = program.row_of_nonzero()[order].tolist()
    values = program.row_value[order].tolist()
    ends = np.cumsum(np.bincount(program.row_index, minlength=program.n_columns)).tolist()
    first, inside = 0, False
    for j, name in enumerate(program.column_names):
        if bool(program.integer[j]) != inside:
            inside = not inside
            yield f" MARKER 'MARKER' '{'INTORG' if inside else 'INTEND'}'"
        if program.cost[j] != 0 or first == ends[j]:
            yield f" {name} obj {_number(program.cost[j])}"
        for k in range(first, ends[j]):
            yield from (f" {name} {row} {_number(values[k])}" for row in file_names[row_of[k]])
        first = ends[j]
    if inside:
        yield " MARKER 'MARKER' 'INTEND'"


def _mps_bounds(name: str, low: float, up: float, whole: bool) -> Iterator[str]:
    """Every bound in words, defaults included where readers disagree about them (integers, negative upper
    bounds)."""
    if low == up:
        yield f" FX bound {name} {_number(low)}"
    elif low == -np.inf and up == np.inf:
        yield f" FR bound {name}"
    else:
        if low == -np.inf:
            yield f" MI bound {name}"
        elif low != 0 or whole or up < np.inf:
            yield f" LO bound {name} {_number(low)}"
        if up < np.inf:
            yield f" UP bound {name} {_number(up)}"
        elif whole:
            yield f" PL bound {name}"
