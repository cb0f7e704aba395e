"""Proof files written from the format's page alone, networks and properties as files, and a prover of small claims.

Nothing here knows a writer or a bound of the package: what the checker accepts is compared with the truth.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from milpverify.network.graph import Affine, Network
from milpverify.network.operators import Dense
from milpverify.proof import checker
from milpverify.proof.checker import Proof, Stop

NAMES = {"|u1": "u1", "<i4": "i4", "<i8": "i8", "<f4": "f4", "<f8": "f8"}
LIMIT = 1 << 24


@dataclass
class ProofFile:
    """A proof while it is being put together: a header, and the arrays that its numbers stand for."""

    bits: int = 40
    threshold: str = "0/1"
    groups: list[dict[str, Any]] = field(default_factory=list)
    arrays: list[np.ndarray] = field(default_factory=list)

    def array(self, values: Any, dtype: str) -> int:
        """Store an array; its number."""
        self.arrays.append(np.ascontiguousarray(values, dtype=np.dtype(dtype).newbyteorder("<")))
        return len(self.arrays) - 1

    def header(self) -> dict[str, Any]:
        """The header."""
        listed = [{"dtype": NAMES[array.dtype.str], "shape": list(array.shape)} for array in self.arrays]
        return {
            "format": "milpverify-proof",
            "version": 1,
            "semantics": "real",
            "bits": self.bits,
            "threshold": self.threshold,
            "arrays": listed,
            "groups": self.groups,
        }

    def content(self) -> bytes:
        """The file."""
        return packed(json.dumps(self.header()).encode(), b"".join(array.tobytes() for array in self.arrays))


def packed(header: bytes, arrays: bytes) -> bytes:
    """The file of a header and of the arrays' bytes."""
    return b"MVPROOF1" + zlib.compress(len(header).to_bytes(8, "little") + header + arrays)


@dataclass(frozen=True)
class Question:
    """A network, a box and unsafe sets {y: C y <= d}, as the checker reads them."""

    net: Network
    lower: list[Fraction]
    upper: list[Fraction]
    rows: list[tuple[np.ndarray, list[Fraction]]]

    @cached_property
    def network(self) -> list[checker.Affine]:
        """The network, read from an ONNX file."""
        return checker.read_onnx(memoryview(onnx_bytes(self.net)), self.net.n_inputs)[1]

    @cached_property
    def cases(self) -> list[checker.Case]:
        """The cases, read from a file."""
        return checker.read_property(memoryview(self.document()))[2]

    def document(self) -> bytes:
        """The property as milpverify's JSON."""
        lower, upper = [str(q) for q in self.lower], [str(q) for q in self.upper]
        region = {"type": "Box", "lower": [], "upper": [], "exact": [lower, upper], "cuts": {"A": [], "b": []}}
        cases = [{"name": "", "region": 0, "C": C.tolist(), "d": [str(q) for q in d]} for C, d in self.rows]
        return json.dumps(
            {
                "format": "milpverify-property",
                "version": 1,
                "name": "",
                "label": None,
                "n_inputs": self.net.n_inputs,
                "n_outputs": self.net.n_outputs,
                "regions": [region],
                "cases": cases,
            }
        ).encode()


def onnx_bytes(net: Network) -> bytes:
    """A chain of dense layers as an ONNX file of float64 Gemm and Relu nodes."""
    nodes, weights, current = [], [], "x"
    for k, affine in enumerate((*net.layers, net.output)):
        (_, op), ((_, bias),) = affine.blocks[0], affine.bias_terms
        assert isinstance(op, Dense)
        weights += [numpy_helper.from_array(op.matrix, f"W{k}"), numpy_helper.from_array(bias, f"b{k}")]
        last = affine is net.output
        nodes.append(helper.make_node("Gemm", [current, f"W{k}", f"b{k}"], ["y" if last else f"zhat{k}"], transB=1))
        nodes += [] if last else [helper.make_node("Relu", [f"zhat{k}"], [f"z{k}"])]
        current = f"z{k}"
    ends = [
        helper.make_tensor_value_info(name, TensorProto.DOUBLE, [1, n])
        for name, n in (("x", net.n_inputs), ("y", net.n_outputs))
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def random_question(rng: np.random.Generator, widths: Sequence[int] = (4, 3), n_cases: int = 1) -> Question:
    """Two inputs, hidden layers of some widths, two outputs, and cases of one or two rows."""
    sizes = [2, *widths, 2]
    affines = []
    for k, (n, m) in enumerate(itertools.pairwise(sizes)):
        W = rng.normal(size=(m, n)) / np.sqrt(n)
        affines.append(Affine(((k, Dense(W)),), ((None, 0.3 * rng.normal(size=m)),), m))
    net = Network((1, 2), (1, 2), tuple(affines[:-1]), affines[-1])
    middle, radius = rng.normal(size=2), rng.uniform(0.05, 1.0, 2)
    lower = [Fraction(round(v * 1000), 1000) for v in (middle - radius).tolist()]
    upper = [Fraction(round(v * 1000), 1000) for v in (middle + radius).tolist()]
    rows = []
    for _ in range(n_cases):
        count = int(rng.integers(1, 3))
        rows.append((rng.normal(size=(count, 2)), [Fraction(round(v * 100), 100) for v in rng.normal(size=count)]))
    return Question(net, lower, upper, rows)


@dataclass
class Prover:
    """Finds a proof by splitting inputs, after a few neurons, with multipliers drawn at random.

    Attributes:
        question: What to prove.
        threshold: The claim: the least slack exceeds it.
        rng: Of all choices.
        bits: F.
        rule: Of every layer.
        most: Contexts to try before giving up.
    """

    question: Question
    threshold: Fraction
    rng: np.random.Generator
    bits: int = 40
    rule: str = "crown"
    most: int = 60

    def proof(self) -> ProofFile | None:
        """A proof of all cases, or None where none was found."""
        file = ProofFile(self.bits, str(self.threshold))
        for case in range(len(self.question.rows)):
            group = self._group(file, case)
            if group is None:
                return None
            file.groups.append(group)
        return file

    def _group(self, file: ProofFile, case: int) -> dict[str, Any] | None:
        """The tree over inputs of one case."""
        split, at, contexts, tried = [], [], [], 0
        todo = [(self.question.lower, self.question.upper)]
        while todo:
            lower, upper = todo.pop()
            tried += 1
            if tried > self.most:
                return None
            context = self._context(file, case, lower, upper)
            if context is not None:
                split.append(-1)
                at.append(0.0)
                contexts.append(context)
                continue
            widths = [float(u - l) for l, u in zip(lower, upper, strict=True)]
            i = int(np.argmax(widths))
            t = np.floor(float(lower[i] + upper[i]) * 2**14) / 2**15  # the same number for every F
            if not lower[i] < t < upper[i]:
                return None
            split.append(i)
            at.append(t)
            todo.append(([*lower[:i], Fraction(t), *lower[i + 1 :]], upper))
            todo.append((lower, [*upper[:i], Fraction(t), *upper[i + 1 :]]))
        group: dict[str, Any] = {"cases": [case], "contexts": contexts}
        if len(split) > 1:
            group.update(split=file.array(split, "i4"), at=file.array(at, "f8"))
        return group

    def _context(
        self, file: ProofFile, case: int, lower: list[Fraction], upper: list[Fraction]
    ) -> dict[str, Any] | None:
        """A tree of up to two splits that closes the case over one box."""
        net = self.question.net
        alone = Question(net, lower, upper, [self.question.rows[case]])
        alone.__dict__["network"] = self.question.network  # read once
        layers = [{"rule": self.rule} for _ in net.layers]
        n = _unstable(alone, layers, self.bits)
        trees: list[list[int]] = [[-1]]
        if n:
            k = int(self.rng.integers(n))
            trees += [[k, -1, -1], [k, int(self.rng.integers(n)), -1, -1, -1]]
        for split in trees:
            trial = ProofFile(self.bits, str(self.threshold))
            context = {"layers": layers, **self.multipliers(trial, split, n, len(alone.rows[0][1]))}
            trial.groups.append({"cases": [0], "contexts": [context]})
            if accepts(trial.content(), alone.network, alone.cases):
                shift = len(file.arrays)
                file.arrays += trial.arrays
                return {"layers": layers, **renumbered(context, shift)}
        return None

    def multipliers(self, file: ProofFile, split: list[int], n: int, n_rows: int) -> dict[str, Any]:
        """One tree with random alpha, beta, mu and planes of every type of array."""
        rng, leaves = self.rng, split.count(-1)
        mu = rng.uniform(0, 1, (leaves, n_rows)) + 0.01
        tree = {"split": file.array(split, "i4"), "mu": file.array(mu, "f8")}
        part: dict[str, Any] = {"trees": [tree]}
        if rng.random() < 0.5:
            alpha = rng.integers(0, 256, (leaves, n)) if rng.random() < 0.5 else rng.random((leaves, n))
            tree["alpha"] = file.array(alpha, "u1" if alpha.dtype.kind == "i" else "f4")
        if rng.random() < 0.5:
            tree["beta"] = file.array(rng.uniform(-0.1, 0.2, (leaves, n)), "f4")
        if n and rng.random() < 0.5:
            neurons = np.sort(rng.integers(0, n, 2))
            slopes = 0.5 * rng.normal(size=(2, self.question.net.n_inputs + n))
            part["planes"] = [{"neuron": file.array(neurons, "i4"), "P": file.array(slopes, "f4")}]
            tree.update(planes=0, theta=file.array(0.2 * rng.random((leaves, 2)), "f8"))
        return part


def renumbered(context: dict[str, Any], shift: int) -> dict[str, Any]:
    """The trees and planes of a context, the numbers of their arrays shifted."""
    trees = [{key: v if key == "planes" else v + shift for key, v in tree.items()} for tree in context["trees"]]
    planes = [{key: v + shift for key, v in part.items()} for part in context.get("planes", [])]
    return {"trees": trees, "planes": planes}


def accepts(content: bytes, network: list[checker.Affine], cases: list[checker.Case]) -> bool:
    """Whether the checker accepts a proof."""
    try:
        checker.check(Proof(content, LIMIT), network, cases)
    except Stop:
        return False
    return True


def _unstable(question: Question, layers: list[dict[str, Any]], bits: int) -> int:
    """How many unstable neurons a box has."""
    file, trace = ProofFile(bits), list[Any]()
    one = {"mu": file.array(np.ones((1, len(question.rows[0][1]))), "f8")}
    file.groups.append({"cases": [0], "contexts": [{"layers": layers, "trees": [one]}]})
    try:
        checker.check(Proof(file.content(), LIMIT), question.network, question.cases, trace)
    except Stop:
        pass
    return sum(lo < 0 < hi for lower, upper in trace[:-1] for lo, hi in zip(lower, upper, strict=True))
