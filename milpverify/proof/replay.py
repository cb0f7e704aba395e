"""Witnesses in exact arithmetic, float64, float32 and onnxruntime. Only the exact replay makes a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from milpverify.errors import NetworkError, OptionError
from milpverify.network.exact import forward_exact
from milpverify.network.graph import Network
from milpverify.proof.evidence import Replay, Witness, float_at_least
from milpverify.proof.runtime import OnnxRuntime
from milpverify.spec.property import Case, Polyhedron
from milpverify.spec.regions import Region

__all__ = ["Replay", "Witness", "competition_text", "confirm", "into_region", "replay"]


def replay(net: Network, case: Case, x: Any, *, onnx_path: str | Path | None = None) -> Replay:
    """What an input does: exactly, in float64, in float32, and in onnxruntime.

    Args:
        net: The network, numpy operators.
        case: The region and the unsafe set.
        x: n_inputs finite numbers of any shape. Where the region fixes a coordinate to a decimal that no float equals
            and x has the float64 or float32 nearest to it, the exact replay takes the decimal; with a grid, in every
            coordinate the grid point that x is the nearest float to.
        onnx_path: The file the network was read from, .onnx or .onnx.gz; onnxruntime is left out when None.

    Returns:
        The report; `confirmed` says whether x is a witness.

    Raises:
        NetworkError: If x does not fit the network or is not finite.

    Source:
        Zombori et al. 2021 and Jia & Rinard 2021, on why float replay does not settle the real claim.
    """
    vector = net.flat(x)
    point, fixed = _exact_point(case.region, vector)
    in_region = bool(case.region.contains(point))
    slack = _slack_exact(case.unsafe, forward_exact(net, point))
    notes = []
    if fixed:
        what = "fixed to numbers" if case.region.grid is None else f"multiples of 1/{case.region.grid.steps}"
        notes.append(
            f"{len(fixed)} inputs are {what} that are no floats: exact replay takes the numbers, "
            "floating-point replay their nearest floats."
        )
    x32 = into_region(case.region, vector, np.float32)
    if x32 is None:
        x32 = vector.astype(np.float32)
        notes.append("No float32 point of the region was found near the input: float32 ran outside the region.")
    onnx, trouble = (None, "") if onnx_path is None else _run_onnx(net, x32, onnx_path)
    if trouble:
        notes.append(trouble)
    with np.errstate(all="ignore"):  # an overflow shows as a slack that is not a number
        y64, y32 = net.forward(vector), net.as_float32().forward(x32)
    return Replay(
        in_region=in_region,
        slack_exact=slack,
        slack_float64=_slack_of_floats(case.unsafe, y64),
        slack_float32=_slack_of_floats(case.unsafe, y32),
        slack_onnxruntime=None if onnx is None else _slack_of_floats(case.unsafe, onnx),
        fixed=fixed,
        notes=tuple(notes),
    )


def confirm(net: Network, case: Case, x: Any, *, onnx_path: str | Path | None = None) -> Witness | None:
    """The witness at x moved into the region, or None if exact replay does not confirm it.

    Args:
        net, case, onnx_path: As in `replay`.
        x: n_inputs finite numbers, in the region or near it.

    Raises:
        NetworkError: If x does not fit the network or is not finite.
    """
    point = into_region(case.region, net.flat(x), np.float64)
    if point is None:
        return None
    report = replay(net, case, point, onnx_path=onnx_path)
    return Witness(point, np.asarray(net.forward(point)), case.name, report) if report.confirmed else None


def into_region(region: Region, x: np.ndarray, dtype: type[np.floating[Any]]) -> np.ndarray | None:
    """A floating-point vector of the region near x, exactly inside; None if none was found.

    The projection is rounded to floats inside the exact box, and where a ball or a cut is still missed by rounding,
    pulled towards the region's anchor. Coordinates fixed to a number that is no float of this type get the nearest
    float and count as the number; on a grid, each coordinate is the nearest float of a grid point and counts as that.

    Args:
        region: The region.
        x: Shape (n_inputs,), float64, finite.
        dtype: np.float64 or np.float32.

    Returns:
        Shape (n_inputs,), of that type.
    """
    if region.grid is not None:
        snapped = region.project(x)
        return snapped.astype(dtype) if region.contains(region.exact_point(snapped)) else None
    low, high = _inner_box(region, dtype)
    projected, anchor = region.project(x), region.project(region.anchor)
    bits = np.finfo(dtype).nmant
    for pull in (0.0, *(2.0**-p for p in range(bits - 1, 5, -2))):
        candidate = np.clip((projected + pull * (anchor - projected)).astype(dtype), low, high)
        if region.contains(_exact_point(region, candidate)[0]):
            return np.asarray(candidate)
    return None


def competition_text(witness: Witness) -> str:
    """A witness as the verification competition writes it: one (X_i value) or (Y_i value) a line, floats by repr."""
    values = [*(("X", i, v) for i, v in enumerate(witness.x)), *(("Y", i, v) for i, v in enumerate(witness.y))]
    return "(" + "\n".join(f"({letter}_{i} {float(v)!r})" for letter, i, v in values) + ")"


def _exact_point(region: Region, x: np.ndarray) -> tuple[Sequence[Fraction] | np.ndarray, tuple[int, ...]]:
    """The point that x stands for, and the coordinates where that is a fixed number instead of its nearest float."""
    if region.grid is not None:
        point = region.exact_point(x)
        own = np.asarray(x, dtype=np.float64).tolist()
        return point, tuple(i for i, (q, v) in enumerate(zip(point, own, strict=True)) if q != Fraction(v))
    fixed: dict[int, Fraction] = {}
    for i in np.flatnonzero((region.lower == region.upper) | (region.inner_lower > region.inner_upper)).tolist():
        low, value = region.exact_lower[i], float(x[i])
        # x may be the nearest float64 or, from a float32 file or run, the nearest float32.
        near = value in (float(low), float(np.float32(float(low))))
        if near and low == region.exact_upper[i] != Fraction(value):
            fixed[i] = low
    if not fixed:
        return np.asarray(x, dtype=np.float64), ()
    return [fixed.get(i, Fraction(v)) for i, v in enumerate(x.tolist())], tuple(fixed)


def _inner_box(region: Region, dtype: type[np.floating[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """The least and greatest float inside each exact interval; the one nearest to the anchor where none is inside."""
    low, high = region.inner_lower.astype(dtype), region.inner_upper.astype(dtype)
    low = np.where(low < region.inner_lower, np.nextafter(low, dtype(np.inf)), low)
    high = np.where(high > region.inner_upper, np.nextafter(high, dtype(-np.inf)), high)
    nearest = region.anchor.astype(dtype)
    return np.where(low > high, nearest, low), np.where(low > high, nearest, high)


def _slack_exact(unsafe: Polyhedron, y: Sequence[Fraction]) -> Fraction:
    """max_i (C_i y - d_i); without rows every output is unsafe, and a slack of 0 says so."""
    return Fraction(unsafe.slack_exact(y)) if len(unsafe.d) else Fraction(0)


def _slack_of_floats(unsafe: Polyhedron, y: np.ndarray) -> float:
    """The slack of computed outputs, compared exactly and rounded so that its sign stays; NaN if one is not finite."""
    values = [float(v) for v in np.asarray(y).reshape(-1)]
    if not np.isfinite(values).all():
        return float("nan")
    return float_at_least(_slack_exact(unsafe, [Fraction(v) for v in values]))


def _run_onnx(net: Network, x32: np.ndarray, path: str | Path) -> tuple[np.ndarray | None, str]:
    """y by onnxruntime in the file's own precision, or None and the reason."""
    try:
        return OnnxRuntime(path, net.input_shape).run(x32), ""
    except (OptionError, NetworkError) as error:  # a replay must not die of onnxruntime
        return None, str(error)
