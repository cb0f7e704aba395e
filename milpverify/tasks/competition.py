"""The counterexample that the verification competition accepts: what onnxruntime computes at an input in float32.

A verdict `sat` rests on exact arithmetic at a float64 input. The competition rounds the written input to the file's
precision, runs the file and compares; a witness that violates by less than float32 can tell is lost there. So the point
is moved deeper until the file itself violates strictly, or the answer is withheld.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from milpverify.attack.pgd import Pgd
from milpverify.errors import BoundsError, SolverError
from milpverify.network.graph import Network
from milpverify.proof.evidence import Witness
from milpverify.proof.replay import competition_text, into_region
from milpverify.proof.runtime import OnnxRuntime
from milpverify.spec.property import Case, Property
from milpverify.spec.region import Region
from milpverify.tasks.margin import worst_margin
from milpverify.tasks.progress import Clock

ATTACK_SHARE = 0.5  # of the time left, for the attack: the exact minimum wants the rest
BETWEEN = (0.5, 0.25, 0.75, 0.125)  # of the way from the witness to the deepest point of the attack


@dataclass(frozen=True, eq=False)
class Counterexample:
    """An input as it is written to a result file, and what the file's network computes there.

    Attributes:
        x: Shape (n_inputs,), float64. Each entry is a float32 inside its bounds, but where these fix a decimal that no
            float32 equals: there it is the float64 nearest to the decimal, which rounds to the float32 that was run.
        y: onnxruntime's outputs, shape (n_outputs,), exactly as float64.
        case: Name of the case it violates.
        slack: max_i (C_i y - d_i) of those outputs, in units of y: below 0, where there are rows at all.
        witness: The exact witness it was made from.
    """

    x: np.ndarray
    y: np.ndarray
    case: str
    slack: float
    witness: Witness

    @property
    def text(self) -> str:
        """The S-expression of the result file."""
        return competition_text(replace(self.witness, x=self.x, y=self.y))


def counterexample(
    net: Network, prop: Property, witness: Witness, onnx_path: str | Path, *, time_limit_s: float | None = None
) -> Counterexample | None:
    """A point near the witness, or deeper in the unsafe set, where the file's own float32 run violates strictly.

    Tried in turn: the witness rounded into the region in float32; the deepest point of an attack that starts there, on
    every case; points between; the exact minimum of the slack over all cases.

    Args:
        net, prop: As they were read.
        witness: What `verify` found.
        onnx_path: The file the network was read from.
        time_limit_s: Wall time for looking; None for no limit. The witness itself is always tried.

    Returns:
        The counterexample; None where none was found: then no `sat` should be claimed.

    Raises:
        OptionError: If onnxruntime is not installed.
        NetworkError: If onnxruntime cannot run the file.
    """
    clock = Clock("counterexample", time_limit_s)
    runtime = OnnxRuntime(onnx_path, net.input_shape)
    for case, x in _candidates(net, prop, witness, clock):
        found = _run(runtime, case, x, witness)
        if found is not None:
            return found
    return None


def _candidates(net: Network, prop: Property, witness: Witness, clock: Clock) -> Iterator[tuple[Case, np.ndarray]]:
    """Points to try, cheapest first, until time runs out."""
    named = {case.name: case for case in prop.cases}
    own = named[witness.case]
    yield own, witness.x
    cases = tuple(case for case in prop.cases if len(case.unsafe.d))
    if not cases or clock.out:
        return
    limit = None if math.isinf(clock.left) else clock.left * ATTACK_SHARE
    results = Pgd().attack_all(net, cases, start=witness.x, stop=-math.inf, time_limit_s=limit)
    for case, result in sorted(zip(cases, results, strict=True), key=lambda pair: pair[1].slack):
        if result.found:
            yield case, result.x
    deep = next((r.x for c, r in zip(cases, results, strict=True) if c is own), witness.x)
    for share in BETWEEN:
        yield own, witness.x + share * (deep - witness.x)
    left = clock.left
    if left <= 0:
        return
    limit = None if math.isinf(left) else left
    try:
        least = worst_margin(net, Property(cases, prop.n_inputs, prop.n_outputs), time_limit_s=limit).witness
    except (SolverError, BoundsError):  # no more to try: the caller withholds its answer
        return
    if least is not None:
        yield named[least.case], least.x


def _run(runtime: OnnxRuntime, case: Case, x: np.ndarray, witness: Witness) -> Counterexample | None:
    """The counterexample at x, if float32 has a point of the region there and the file violates strictly at it."""
    x32 = into_region(case.region, x, np.float32)
    if x32 is None:
        return None
    written = _written(case.region, x32)
    y = runtime.run(written).astype(np.float64)
    if not np.isfinite(y).all():
        return None
    if not len(case.unsafe.d):  # every output is unsafe
        return Counterexample(written, y, case.name, 0.0, witness)
    slack = case.unsafe.slack_exact([Fraction(v) for v in y.tolist()])
    return Counterexample(written, y, case.name, float(slack), witness) if slack < 0 else None


def _written(region: Region, x32: np.ndarray) -> np.ndarray:
    """The float32 point as float64; a fixed decimal by its nearest float64, which compares as equal to it when read."""
    x = x32.astype(np.float64)
    for i in np.flatnonzero((x < region.inner_lower) | (x > region.inner_upper)).tolist():
        nearest = float(region.exact_lower[i])
        if np.float32(nearest) == x32[i]:
            x[i] = nearest
    return x
