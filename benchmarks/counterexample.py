"""Judge the counterexample of a result file, sharing no code with the package: its own readers, and onnxruntime.

The written X must satisfy the file's input constraints as float64. For the best mark its float32 must too, but where
the file fixes a coordinate to a decimal: there the nearest float32 stands for it. Y is what onnxruntime computes at X
in the precision of the network's file.
"""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STRICT, LOOSE = "strict", "loose"
TOLERANCE = 1e-4  # of the competition's own judge, on outputs
TOKEN = re.compile(r"[()]|[^\s()]+")
VARIABLE = re.compile(r"([XY])_(\d+)")


def judge(onnx: Path, vnnlib: Path, text: str) -> str:
    """`STRICT`; `LOOSE` where X lies inside as float64 only, or onnxruntime comes no closer to the unsafe set than
    `TOLERANCE`; else what is wrong."""
    try:
        x, y = _written(text)
        claim = _Claim.read(vnnlib, len(x))
        ran = _outputs(onnx, x)
    except (ValueError, IndexError, KeyError, OSError) as error:
        return f"cannot be judged: {error!r}"
    if len(y) != len(ran) or not np.allclose(y, ran, rtol=1e-3, atol=1e-3):
        return f"Y is not what onnxruntime computes: {np.asarray(y)[:5]} against {ran[:5]}"
    if not claim.holds(x, ran, TOLERANCE):
        return "X lies outside, or Y is safe by more than the tolerance"
    return STRICT if claim.holds(x.astype(np.float32).astype(np.float64), ran, None) else LOOSE


def _written(text: str) -> tuple[np.ndarray, np.ndarray]:
    """X and Y of ((X_0 ...) ... (Y_0 ...))."""
    entries = _parse(text)
    if len(entries) != 1:
        raise ValueError("expected one list of assignments")
    values: dict[str, list[float]] = {"X": [], "Y": []}
    for name, value in entries[0]:
        letter, index = _variable(name)
        if index != len(values[letter]):
            raise ValueError(f"{name} is out of order")
        values[letter].append(float(value))
    return np.array(values["X"]), np.array(values["Y"])


def _outputs(onnx: Path, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    data = onnx.read_bytes()
    session = onnxruntime.InferenceSession(gzip.decompress(data) if onnx.suffix == ".gz" else data, options)
    weights = {w.name for w in session.get_overridable_initializers()}
    entry = next(i for i in session.get_inputs() if i.name not in weights)
    shape = [n if isinstance(n, int) and n > 0 else 1 for n in entry.shape]
    kind = np.float64 if entry.type == "tensor(double)" else np.float32
    given = x.astype(kind).reshape(shape)
    return np.asarray(session.run(None, {entry.name: given})[0], dtype=np.float64).reshape(-1)


@dataclass(frozen=True)
class _Claim:
    """The assertions of a VNN-LIB file, as nested lists, and the constants that fix an input."""

    asserted: list[Any]
    fixed: dict[int, set[str]]

    @classmethod
    def read(cls, path: Path, n_inputs: int) -> _Claim:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
        commands = _parse(re.sub(r";[^\n]*", "", text))
        declared = sum(c[0].startswith("declare") and c[1].startswith("X_") for c in commands)
        if declared != n_inputs:
            raise ValueError(f"{n_inputs} inputs are written, {declared} are declared")
        sides: dict[tuple[int, str], set[str]] = defaultdict(set)
        asserted = [c[1] for c in commands if c[0] == "assert"]
        for operator, left, right in _atoms(asserted):
            if left.startswith("X_") and not VARIABLE.fullmatch(right):
                sides[_variable(left)[1], operator].add(right)
        return cls(asserted, {i: sides[i, "<="] & sides[i, ">="] for i, _ in list(sides)})

    def holds(self, x: np.ndarray, y: np.ndarray, tolerance: float | None) -> bool:
        """Whether all assertions hold, those about outputs within a tolerance, or strictly where that is None."""
        return all(self._true(term, x, y, tolerance) for term in self.asserted)

    def _true(self, term: Any, x: np.ndarray, y: np.ndarray, tolerance: float | None) -> bool:
        if term[0] in ("and", "or"):
            return (all if term[0] == "and" else any)(self._true(part, x, y, tolerance) for part in term[1:])
        operator, left, right = term
        if operator not in ("<=", ">="):
            raise ValueError(f"operator {operator}")
        about_inputs = "X_" in left + right
        low, high = (self._value(side, x, y) for side in ((left, right) if operator == "<=" else (right, left)))
        if not about_inputs:
            return low < high if tolerance is None else low <= high + tolerance
        return low <= high or self._is_fixed(left, right, x)

    def _is_fixed(self, left: str, right: str, x: np.ndarray) -> bool:
        """Whether the coordinate is fixed to this decimal, and has its nearest float32."""
        if not left.startswith("X_") or VARIABLE.fullmatch(right):
            return False
        i = _variable(left)[1]
        return right in self.fixed.get(i, ()) and x[i] == np.float32(float(right))

    @staticmethod
    def _value(side: str, x: np.ndarray, y: np.ndarray) -> float:
        if not VARIABLE.fullmatch(side):
            return float(side)
        letter, index = _variable(side)
        return float((x if letter == "X" else y)[index])


def _atoms(terms: Sequence[Any]) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for term in terms:
        if term[0] in ("and", "or"):
            found += _atoms(term[1:])
        else:
            found.append(tuple(term))
    return found


def _variable(name: str) -> tuple[str, int]:
    match = VARIABLE.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} is no variable")
    return match[1], int(match[2])


def _parse(text: str) -> list[Any]:
    """S-expressions as nested lists."""
    stack: list[list[Any]] = [[]]
    for token in TOKEN.findall(text):
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    if len(stack) != 1:
        raise ValueError("parentheses do not match")
    return stack[0]
