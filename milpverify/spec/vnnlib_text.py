"""Property -> VNN-LIB text, in exact decimals."""

from __future__ import annotations

import gzip
from fractions import Fraction

import numpy as np

from milpverify.errors import PropertyError
from milpverify.spec.property import Case, Polyhedron, Property
from milpverify.spec.region import Region


def vnnlib_bytes(prop: Property, compress: bool = False) -> bytes:
    """A property as a VNN-LIB 1.0 file; the reader gives back the same cases in the same order.

    Args:
        prop: All regions boxes; every row of an unsafe set compares an output with a constant or with another output.
        compress: Whether to gzip it.

    Raises:
        PropertyError: If VNN-LIB cannot say it, or a bound has no finite decimal.
    """
    first = prop.cases[0]
    if any(case.region.grid is not None for case in prop.cases):
        raise PropertyError("save: VNN-LIB cannot say that inputs lie on a grid. Save as .json instead.")
    shared = all(case.region is first.region for case in prop.cases)
    title = " ".join(prop.name.split())
    lines = [f"; {title}" if title else "; property", ""]
    lines += [f"(declare-const X_{i} Real)" for i in range(prop.n_inputs)]
    lines += [f"(declare-const Y_{j} Real)" for j in range(prop.n_outputs)] + [""]
    if shared:
        lines += [f"(assert {atom})" for atom in _bounds(first.region)] + [""]
    if len(prop.cases) == 1:
        lines += [f"(assert {atom})" for atom in _rows(first.unsafe)]
    else:
        lines += ["(assert (or", *(f"    (and {_clause(case, shared)})" for case in prop.cases), "))"]
    content = ("\n".join(lines) + "\n").encode()
    return gzip.compress(content, mtime=0) if compress else content


def decimal(value: Fraction) -> str:
    """An exact decimal, without exponent.

    Raises:
        PropertyError: If the value has none, like 1/3.
    """
    rest, places = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        places = max(places, power)
    if rest != 1:
        raise PropertyError(f"save: {value} has no finite decimal, which VNN-LIB needs. Save as .json instead.")
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    whole, part = digits[: len(digits) - places], digits[len(digits) - places :]
    return f"{'-' if value < 0 else ''}{whole}.{part or '0'}"


def _clause(case: Case, shared: bool) -> str:
    atoms = [] if shared else _bounds(case.region)
    atoms += _rows(case.unsafe)
    # An unsafe set without rows says nothing about y; repeating a bound of x keeps the conjunction non-empty.
    return " ".join(atoms or _bounds(case.region)[:1])


def _bounds(region: Region) -> list[str]:
    if not region.is_box:
        raise PropertyError(
            f"save: VNN-LIB holds boxes only, a region is a {type(region).__name__} with {region.cuts.n_rows} cuts. "
            "Save as .json instead."
        )
    atoms = []
    for i, (low, high) in enumerate(zip(region.exact_lower, region.exact_upper, strict=True)):
        atoms += [f"(>= X_{i} {decimal(low)})", f"(<= X_{i} {decimal(high)})"]
    return atoms


def _rows(unsafe: Polyhedron) -> list[str]:
    return [_row(row, right) for row, right in zip(unsafe.C, unsafe.d_exact or (), strict=True)]


def _row(row: np.ndarray, right: Fraction) -> str:
    up, down = np.flatnonzero(row == 1.0), np.flatnonzero(row == -1.0)
    if np.count_nonzero(row) == len(up) + len(down):
        if len(up) == 1 and len(down) == 0:
            return f"(<= Y_{up[0]} {decimal(right)})"
        if len(up) == 0 and len(down) == 1:
            return f"(>= Y_{down[0]} {decimal(-right)})"
        if len(up) == 1 and len(down) == 1 and right == 0:
            return f"(<= Y_{up[0]} Y_{down[0]})"
    raise PropertyError(
        "save: VNN-LIB compares an output with a constant or with another output, and a row of C and d says more. "
        "Save as .json instead."
    )
