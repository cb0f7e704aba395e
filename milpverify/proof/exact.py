"""The fast checker of proofs: docs/proofs.md in exact integers, on a network and a property of this package.

It shares no code with the search and its bounds; what it accepts follows from docs/proofs.md alone. The stand-alone
checker does the same with Python's integers and its own readers, and gets the same integers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np

from milpverify.network.graph import Network
from milpverify.network.operators import Dense
from milpverify.proof.certificate import Certificate, Context, Group
from milpverify.proof.claims import Values
from milpverify.proof.contexts import BoundedBoxes, NetworkInIntegers
from milpverify.proof.fixed_point import (
    Integers,
    PythonIntegers,
    TooLargeError,
    below,
    nearest,
    python_array,
)
from milpverify.proof.float32 import float32_at_most, float32_obstacle
from milpverify.proof.forms import Forms
from milpverify.proof.leaf_walk import RejectedError
from milpverify.proof.leaves import leaf_values
from milpverify.proof.machine_words import MachineIntegers
from milpverify.spec.property import Polyhedron, Property

BATCH_ENTRIES = 1 << 17  # of the expressions of one layer, over all boxes that are bounded together


@dataclass(frozen=True, eq=False)
class ContextTrace:
    """The integers of one context, to compare checkers.

    Attributes:
        lower, upper: Bounds of every zhat, a list of each layer's, in units of 2^-F.
        values: V of every leaf in units of 2^-2F, a list of each tree's; None where the leaf is empty.
        claims: The same for each layer and each of its `Claims`.
    """

    lower: list[list[int]]
    upper: list[list[int]]
    values: list[Values]
    claims: list[list[Values]]


@dataclass(frozen=True, eq=False)
class CheckResult:
    """What a check found.

    Attributes:
        accepted: Whether the claim is proved.
        reason: Why not; empty if accepted.
        n_cases, n_contexts, n_leaves: What was checked, up to the first failure; leaves of claims are not counted.
        n_python: Contexts whose numbers did not fit machine words, and took Python's integers.
        seconds: Wall time.
        trace: One entry a context, in the order of the file, if asked for.
    """

    accepted: bool
    reason: str
    n_cases: int
    n_contexts: int
    n_leaves: int
    n_python: int
    seconds: float
    trace: tuple[ContextTrace, ...] = ()


def check_exact(
    certificate: Certificate,
    net: Network,
    prop: Property,
    threshold: Fraction = Fraction(0),
    trace: bool = False,
    machine: bool = True,
) -> CheckResult:
    """Check that a certificate proves: the least slack max_i (C_i y - d_i) of every case exceeds a threshold.

    Exact: every number is an integer, and an accepted claim is true over the real numbers, and of every float32
    execution as well where the certificate's semantics say so.

    Args:
        certificate: The proof.
        net, prop: What it is about. The certificate's fingerprints only help to explain a rejection.
        threshold: What has to be proved; the certificate's own threshold must be at least that.
        trace: Go on after a leaf that is not closed, and return the integers.
        machine: Use machine words where their size is known to suffice; the results are the same.
    """
    started = time.perf_counter()
    check = _Check(certificate, net, prop, trace, machine)
    try:
        check.claim(threshold)
        for number, group in enumerate(certificate.groups):
            check.group(number, group)
        reason = check.first_failure
    except RejectedError as rejected:
        reason = check.first_failure or str(rejected)
    if reason:
        reason += _wrong_file(certificate, net, prop)
    counts = check.n_cases, check.n_contexts, check.n_leaves, check.n_python
    return CheckResult(not reason, reason, *counts, time.perf_counter() - started, tuple(check.traces))


def _wrong_file(certificate: Certificate, net: Network, prop: Property) -> str:
    """A remark where the fingerprints say that the proof is about something else."""
    from milpverify.spec.store import property_fingerprint  # not needed to check

    if certificate.network and certificate.network != net.fingerprint:
        return " (the proof was made for another network)"
    if certificate.property and certificate.property != property_fingerprint(prop):
        return " (the proof was made for another property)"
    return ""


class _Check:
    """One run of the checker, and what it has counted."""

    def __init__(self, certificate: Certificate, net: Network, prop: Property, trace: bool, machine: bool) -> None:
        self.certificate, self.net, self.prop, self.trace = certificate, net, prop, trace
        self.bits, self.float32 = certificate.bits, certificate.semantics == "float32"
        self.kinds: list[type[Integers]] = [MachineIntegers, PythonIntegers] if machine else [PythonIntegers]
        self.networks: dict[type[Integers], NetworkInIntegers] = {}
        self.rows: dict[tuple[type[Integers], int], tuple[Dense, np.ndarray]] = {}
        self.boxes: dict[int, tuple[list[int], list[int]]] = {}  # the property keeps its regions
        self.n_cases = self.n_contexts = self.n_leaves = self.n_python = 0
        self.first_failure = ""
        self.traces: list[ContextTrace] = []

    def claim(self, threshold: Fraction) -> None:
        """Whether what the certificate claims is what was asked for."""
        net, prop = self.net, self.prop
        if (net.n_inputs, net.n_outputs) != (prop.n_inputs, prop.n_outputs):
            raise RejectedError("network and property have different numbers of inputs or outputs")
        if self.certificate.threshold < threshold:
            raise RejectedError(f"the threshold {self.certificate.threshold} of the proof is less than {threshold}")
        self._demand_grid()
        obstacle = float32_obstacle(net) if self.float32 else ""
        if obstacle:
            raise RejectedError(f"in float32: {obstacle}")
        listed = sorted(case for group in self.certificate.groups for case in group.cases)
        if listed != list(range(len(prop.cases))):
            raise RejectedError(f"the cases of the proof are not the {len(prop.cases)} of the property, each once")

    def _demand_grid(self) -> None:
        """Whether the inputs that the certificate is about are those of the property."""
        made_for = self.certificate.grid
        for grid in (case.region.grid for case in self.prop.cases):
            asked = 0 if grid is None else grid.steps
            if made_for not in (0, asked):
                raise RejectedError(
                    f"the proof is only about inputs on the grid k/{made_for}: check it with --grid {made_for}, or ask "
                    f"for property.on_grid(Grid({made_for}))"
                )
            if made_for != asked:
                raise RejectedError(f"the proof is about all inputs, not only those on the grid k/{asked}")

    def group(self, number: int, group: Group) -> None:
        """Check one group."""
        lower, upper = self._box(group.cases[0])
        if any(self._box(case) != (lower, upper) for case in group.cases[1:]):
            raise RejectedError(f"the cases of group {number} have different boxes")
        cut = None if not self.certificate.grid else GridCut(self.certificate.grid, self.bits, self.float32)
        boxes = input_boxes(group, lower, upper, self.bits, f"group {number}", cut)
        for start in range(0, len(boxes), self._batch_size()):
            part = slice(start, start + self._batch_size())
            names = [f"group {number}, context {i}" for i in range(start, start + len(boxes[part]))]
            self._batch(group, group.contexts[part], boxes[part], names)
        self.n_cases += len(group.cases)

    def _box(self, case: int) -> tuple[list[int], list[int]]:
        """The box of a case (of its grid points), rounded outward."""
        region = self.prop.cases[case].region
        if id(region) not in self.boxes:
            lower, minus_upper = list(region.exact_lower), [-q for q in region.exact_upper]
            if self.float32:
                lower, minus_upper = (list(map(float32_at_most, side)) for side in (lower, minus_upper))
            self.boxes[id(region)] = [below(q, self.bits) for q in lower], [-below(q, self.bits) for q in minus_upper]
        return self.boxes[id(region)]

    def _batch_size(self) -> int:
        """How many boxes are bounded together."""
        widest = max(self.net.sizes, default=1)
        return max(1, BATCH_ENTRIES // max(widest * (self.net.n_inputs + self.net.n_neurons // 4), 1))

    def _batch(
        self, group: Group, contexts: Sequence[Context], boxes: Sequence[tuple[list[int], list[int]]], names: list[str]
    ) -> None:
        """Check some contexts, in machine words where they suffice."""
        for kind in self.kinds:
            try:
                found = self._values(kind, group, contexts, boxes, names)
                self.n_python += len(contexts) * (kind is PythonIntegers)
                break
            except TooLargeError:
                continue
        for context, name, trace in zip(contexts, names, found, strict=True):
            self._record(group, context, trace.values, name)
            if self.trace:
                self.traces.append(trace)
        self.n_contexts += len(contexts)

    def _record(self, group: Group, context: Context, values: list[Values], name: str) -> None:
        """Count leaves, and find those that are not closed."""
        for case, tree, leaves in zip(group.cases, context.trees, values, strict=True):
            if len(leaves) != tree.n_leaves:
                raise AssertionError(f"{name}, case {case}: {tree.n_leaves} leaves, {len(leaves)} values")
            for leaf, value in enumerate(leaves):
                self.n_leaves += 1
                if value is not None and value <= 0 and not self.first_failure:
                    self.first_failure = f"{name}, case {case}: leaf {leaf} is not closed"
                    if not self.trace:
                        raise RejectedError(self.first_failure)

    def _values(
        self,
        kind: type[Integers],
        group: Group,
        contexts: Sequence[Context],
        boxes: Sequence[tuple[list[int], list[int]]],
        names: list[str],
    ) -> list[ContextTrace]:
        """Bounds and V of every context, in one arithmetic."""
        if kind not in self.networks:
            self.networks[kind] = NetworkInIntegers(self.net, kind(self.bits), self.float32)
        network = self.networks[kind]
        integers = network.integers
        lower, upper = (integers.narrow(np.stack([python_array(box[side]) for box in boxes])) for side in (0, 1))
        bounded = network.bound(lower, upper, contexts, names)
        values: list[list[Values]] = [[] for _ in contexts]
        for q, case in enumerate(group.cases):
            rows = self._case_rows(network, case, bounded)
            found = leaf_values(integers, bounded, rows, contexts, q, names)
            for own, leaves in zip(values, found, strict=True):
                own.append(leaves)
        lowers, uppers = (
            [[layer[b].tolist() for layer in sides] for b in range(len(contexts))]
            for sides in (bounded.lower, bounded.upper)
        )
        claims = [[layer[b] for layer in bounded.claims] for b in range(len(contexts))]
        return [ContextTrace(*parts) for parts in zip(lowers, uppers, values, claims, strict=True)]

    def _case_rows(self, network: NetworkInIntegers, case: int, bounded: BoundedBoxes) -> Forms:
        """The expressions of C y - d - t."""
        integers, unsafe = network.integers, self.prop.cases[case].unsafe
        key = type(integers), case
        if key not in self.rows:
            self.rows[key] = Dense(unsafe.C), integers.narrow(python_array(_right_sides(unsafe, self.certificate)))
        op, bias = self.rows[key]
        return network.steps.step([(network.steps.near(op), bounded.output)], bias, bounded.known.columns, op.out_size)


def _right_sides(unsafe: Polyhedron, certificate: Certificate) -> list[int]:
    return [nearest(-d - certificate.threshold, certificate.bits) for d in unsafe.d_exact or ()]


@dataclass(frozen=True)
class GridCut:
    """Where splits cut a box of grid points: each side ends, or begins, at a point of the grid, rounded outward."""

    steps: int
    bits: int
    float32: bool

    def ends(self, t: int) -> tuple[int, int]:
        """The upper side of the points at most t, and the lower side of those at least t."""
        at = Fraction(t * self.steps, 1 << self.bits)
        return -self._down(-Fraction(floor(at), self.steps)), self._down(Fraction(ceil(at), self.steps))

    def _down(self, q: Fraction) -> int:
        return below(float32_at_most(q) if self.float32 else q, self.bits)


def input_boxes(
    group: Group, lower: list[int], upper: list[int], bits: int, name: str, cut: GridCut | None = None
) -> list[tuple[list[int], list[int]]]:
    """The boxes of a group's contexts: the leaves of its tree over inputs.

    Args:
        cut: How a box of grid points is cut; None where every point counts.

    Raises:
        RejectedError: If a split names no input, lies outside the box at its place, or leaves a side without a point
            of the grid.
    """
    if group.split is None or group.at is None:
        return [(lower, upper)]
    boxes, open_boxes = [], [(lower, upper)]
    for i, at in zip(group.split.tolist(), group.at.tolist(), strict=True):
        low, high = open_boxes.pop()
        if i < 0:
            boxes.append((low, high))
            continue
        if i >= len(low):
            raise RejectedError(f"{name}: a split of input {i}, where there are {len(low)}")
        t = below(Fraction(at), bits)
        if not low[i] <= t <= high[i]:
            raise RejectedError(f"{name}: input {i} is split outside its box")
        end, begin = (t, t) if cut is None else cut.ends(t)
        end, begin = min(end, high[i]), max(begin, low[i])
        if end < low[i] or begin > high[i]:
            raise RejectedError(f"{name}: a split of input {i} leaves a side without a point of the grid")
        open_boxes.append(([*low[:i], begin, *low[i + 1 :]], high))
        open_boxes.append((low, [*high[:i], end, *high[i + 1 :]]))
    return boxes
