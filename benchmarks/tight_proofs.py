"""Proofs of claims that are nearly false: for every activation pattern, the multipliers of an exact linear program.

What these prove differs from the least slack only by the rounding of multipliers to float64, and of the checker. They
are written from docs/proofs.md alone: as a header and arrays, not through the package's classes.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from benchmarks.exact_slack import PatternTree
from benchmarks.small_questions import PlainCase, Question
from milpverify.errors import ProofError
from milpverify.proof.certificate import from_bytes
from milpverify.proof.exact import CheckResult, check_exact

MAGIC = b"MVPROOF1"
BITS = (16, 20, 24, 32, 40, 53, 64, 96, 128, 256, 512)
MARGINS = (15, 13, 12, 10, 8, 6, 4, 2, 0)  # powers of ten below the size of the question's numbers


@dataclass
class ProofFile:
    """A proof in pieces.

    Attributes:
        header: Without its list of arrays.
        n_inputs: Of the network; not in the file.
        open: Trees with a leaf that is not closed, as (group, context, tree), and the leaf; not in the file.
        listed: For each group and context, and each layer, which neurons are unstable; not in the file.
    """

    header: dict[str, Any]
    n_inputs: int
    arrays: list[np.ndarray] = field(default_factory=list)
    open: list[tuple[int, int, int, int]] = field(default_factory=list)
    listed: list[list[list[np.ndarray]]] = field(default_factory=list)

    def content(self) -> bytes:
        """The file."""
        listed = [{"dtype": f"{a.dtype.kind}{a.dtype.itemsize}", "shape": list(a.shape)} for a in self.arrays]
        text = json.dumps({"arrays": listed, **self.header}).encode()  # a header may bring its own list
        return packed(len(text).to_bytes(8, "little") + text + b"".join(a.tobytes() for a in self.arrays))

    @classmethod
    def of(cls, content: bytes, n_inputs: int) -> ProofFile:
        """The pieces of a well-formed file."""
        body = zlib.decompress(content[8:])
        start = 8 + int.from_bytes(body[:8], "little")
        header = json.loads(body[8:start])
        arrays = []
        for entry in header.pop("arrays"):
            dtype, count = np.dtype("<" + entry["dtype"]), int(np.prod(entry["shape"]))
            arrays.append(np.frombuffer(body, dtype, count, start).reshape(entry["shape"]).copy())
            start += count * dtype.itemsize
        return cls(header, n_inputs, arrays)

    def copy(self) -> ProofFile:
        """One that may be changed."""
        header = json.loads(json.dumps(self.header))
        return ProofFile(header, self.n_inputs, [a.copy() for a in self.arrays], self.open, self.listed)

    def look(self, question: Question, threshold: Fraction) -> None:
        """Note where its leaves are open at a threshold, and which neurons are unstable."""
        self.header["threshold"] = str(threshold)
        traces = iter(exact_check(self.content(), question, threshold, trace=True).trace)
        self.open, self.listed = [], []
        for g, group in enumerate(self.header["groups"]):
            self.listed.append([])
            for c, context in enumerate(group["contexts"]):
                found = next(traces)
                self.open += [
                    (g, c, t, leaf)
                    for t, values in enumerate(found.values)
                    for leaf, V in enumerate(values)
                    if V is not None and V <= 0
                ]
                free = [
                    np.array([lo < 0 < hi for lo, hi in zip(*sides, strict=True)], dtype=np.uint8)
                    for sides in zip(found.lower, found.upper, strict=True)
                ]
                told = [layer.get("unstable") for layer in context.get("layers", [{}] * len(free))]
                self.listed[-1].append([f if n is None else self.arrays[n] for f, n in zip(free, told, strict=True)])

    def add(self, values: Any, dtype: str) -> int:
        """Store an array; its number."""
        self.arrays.append(np.ascontiguousarray(values, dtype=np.dtype(dtype)))
        return len(self.arrays) - 1


def packed(body: bytes) -> bytes:
    """A file from what it inflates to."""
    return MAGIC + zlib.compress(body, 1)


def exact_check(content: bytes, question: Question, threshold: Fraction, trace: bool = False) -> CheckResult:
    """What the package's checker says about a file.

    Raises:
        ProofError: If it is malformed.
    """
    return check_exact(from_bytes(content), question.net, question.prop, threshold, trace=trace)


def tight_proof(question: Question, rng: np.random.Generator) -> tuple[ProofFile, Fraction] | None:
    """A proof accepted at a threshold as near below the least slack as can be, and that threshold.

    Its box may be split, its layers bounded by either rule. None where rounding spoils every attempt.
    """
    least, _ = question.least
    rule = str(rng.choice(["crown", "crown", "interval"]))
    splits = int(rng.choice([0, 0, 0, 1, 2]))
    file = ProofFile(header(512, least - 1), question.n_inputs)
    for numbers in groups(question):
        file.header["groups"].append(_group(file, question, numbers, rule, splits, rng))
    first_bits = question.bits or int(rng.choice(BITS[:-2]))
    size = max(1, abs(least), *(abs(d) for case in question.cases for d in case.d))
    for power in MARGINS:
        threshold = least - Fraction(size) / 10**power
        for bits in (first_bits, BITS[-1]) if power < 10 else (first_bits,):
            file.header.update(bits=bits, threshold=str(threshold))
            try:
                if exact_check(file.content(), question, threshold).accepted:
                    return file, threshold
            except ProofError:  # a multiplier beyond float64
                return None
    return None


def header(bits: int, threshold: Fraction) -> dict[str, Any]:
    """A header without groups."""
    return {
        "format": "milpverify-proof",
        "version": 1,
        "semantics": "real",
        "bits": bits,
        "threshold": str(threshold),
        "groups": [],
    }


def groups(question: Question) -> list[list[int]]:
    """The cases by their boxes."""
    found: dict[Any, list[int]] = {}
    for i, case in enumerate(question.cases):
        found.setdefault((tuple(case.lower), tuple(case.upper)), []).append(i)
    return list(found.values())


def _group(
    file: ProofFile, question: Question, numbers: list[int], rule: str, splits: int, rng: np.random.Generator
) -> dict[str, Any]:
    """The cases of one box, which is split some times."""
    case = question.cases[numbers[0]]
    split, at, boxes = _box_tree(case.lower, case.upper, splits, rng)
    group: dict[str, Any] = {"cases": numbers}
    if len(split) > 1:
        group.update(split=file.add(split, "i4"), at=file.add(at, "f8"))
    group["contexts"] = []
    for lower, upper in boxes:
        cases = [PlainCase(lower, upper, question.cases[i].C, question.cases[i].d) for i in numbers]
        group["contexts"].append(_context(file, question, cases, rule))
    return group


def _box_tree(
    lower: list[Fraction], upper: list[Fraction], splits: int, rng: np.random.Generator
) -> tuple[list[int], list[float], list[tuple[list[Fraction], list[Fraction]]]]:
    """A random tree over inputs, in preorder, and its leaves' boxes."""
    wide = [i for i, (l, u) in enumerate(zip(lower, upper, strict=True)) if u - l > Fraction(1, 100)]
    if not splits or not wide:
        return [-1], [0.0], [(lower, upper)]
    i = int(rng.choice(wide))
    share = float(rng.uniform(0.2, 0.8))
    t = round(float(lower[i]) + share * float(upper[i] - lower[i]), 1 if upper[i] - lower[i] > 1 else 3)
    if not lower[i] < t < upper[i]:
        return [-1], [0.0], [(lower, upper)]
    left = int(rng.integers(splits))
    below, above = list(upper), list(lower)
    below[i] = above[i] = Fraction(t)
    first = _box_tree(lower, below, left, rng)
    second = _box_tree(above, upper, splits - 1 - left, rng)
    return [i, *first[0], *second[0]], [t, *first[1], *second[1]], [*first[2], *second[2]]


def _context(file: ProofFile, question: Question, cases: list[PlainCase], rule: str) -> dict[str, Any]:
    """A tree over the patterns of one box for each of its cases."""
    layers = [{"rule": rule} for _ in question.layers[:-1]]
    phases = _phases(question, cases[0], layers)
    trees = []
    for case in cases:
        found = PatternTree(question.exact, case.lower, case.upper, case.exact_rows(), case.d, phases)
        size = [max(map(abs, [*leaf.mu, *leaf.beta]), default=1) or 1 for leaf in found.leaves]
        # Where no input has a pattern, multipliers of any scale contradict it.
        scale = [
            1 if leaf.value is not None else Fraction(2**20) / s for leaf, s in zip(found.leaves, size, strict=True)
        ]
        part = {"mu": [[_float(q) for q in leaf.mu] for leaf in found.leaves]}
        part["beta"] = [[_float(q * s) for q in leaf.beta] for leaf, s in zip(found.leaves, scale, strict=True)]
        n = len(found.leaves)
        beta = np.array(part["beta"]).reshape(n, sum(p == 0 for layer in phases for p in layer))
        tree = {"split": file.add(found.split, "i4"), "mu": file.add(part["mu"], "f8"), "beta": file.add(beta, "f8")}
        tree["alpha"] = file.add(np.zeros_like(beta), "f8")
        trees.append(tree)
    return {"layers": layers, "trees": trees}


def _float(q: Fraction) -> float:
    try:
        return float(q)
    except OverflowError:
        return float("inf")  # the reader refuses it


def _phases(question: Question, case: PlainCase, layers: list[dict[str, str]]) -> list[list[int]]:
    """Which neurons the checker finds stable over a box: +1, -1, or 0 where it does not."""
    one = Question(question.n_inputs, question.layers, (case,), input_shape=question.input_shape)
    one.__dict__["net"] = question.net
    file = ProofFile(header(BITS[-1], Fraction(0)), one.n_inputs)
    tree = {"mu": file.add(np.ones((1, len(case.d))), "f8")}
    file.header["groups"].append({"cases": [0], "contexts": [{"layers": layers, "trees": [tree]}]})
    (found,) = exact_check(file.content(), one, Fraction(0), trace=True).trace
    return [
        [1 if lo >= 0 else -1 if hi <= 0 else 0 for lo, hi in zip(*sides, strict=True)]
        for sides in zip(found.lower, found.upper, strict=True)
    ]
