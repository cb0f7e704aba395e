"""What a proof's file holds: lists of numbers that a checker turns into bounds (docs/proofs.md, section 3).

    Certificate  ->  Group (cases of one box, a tree over inputs)  ->  Context (one box: layers, planes)  ->  LeafTree

The classes check what can be checked without the network; `exact.check_exact` checks the rest and decides. What leaves
are closed by is in `certificate_trees`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from milpverify.errors import ProofError, PropertyError
from milpverify.proof.certificate_trees import Claims as Claims
from milpverify.proof.certificate_trees import LeafTree as LeafTree
from milpverify.proof.certificate_trees import PlaneSet as PlaneSet
from milpverify.proof.certificate_trees import demand, demand_shares, demand_trees
from milpverify.proof.container import MAX_BYTES, pack, unpack

LEAST_BITS, MOST_BITS = 16, 4096
RULES = ("crown", "interval")
SEMANTICS = ("real", "float32")


@dataclass(frozen=True, eq=False)
class Layer:
    """How one hidden layer is bounded.

    Attributes:
        rule: "interval", or "crown": also by a walk down to the inputs.
        unstable: One entry a neuron, u1, 1 where its value is a column; None: where lo < 0 < hi.
        claims: What bounds some of its neurons better than the rule.

    Raises:
        ProofError: As all classes here, if an entry is not of the form.
    """

    rule: str = "crown"
    unstable: np.ndarray | None = None
    claims: tuple[Claims, ...] = ()

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ProofError(f"proof: a layer's rule must be one of {', '.join(RULES)}, got {str(self.rule)[:40]!r}.")
        if self.unstable is not None:
            demand(self.unstable, "unstable", ("u1",), 1)
            if (self.unstable > 1).any():
                raise ProofError("proof: unstable must consist of zeros and ones.")


@dataclass(frozen=True, eq=False)
class Context:
    """One box: how its layers are bounded, and one tree for each case of the group.

    Attributes:
        trees: In the order of the group's cases.
        layers: One a hidden layer; None: rule crown throughout, every neuron with lo < 0 < hi unstable.
        planes: Sets of planes that the trees may use.
    """

    trees: tuple[LeafTree, ...]
    layers: tuple[Layer, ...] | None = None
    planes: tuple[PlaneSet, ...] = ()

    def __post_init__(self) -> None:
        for tree in self.trees:
            if tree.planes is None or tree.theta is None:
                continue
            if tree.planes >= len(self.planes):
                raise ProofError(f"proof: a tree uses planes {tree.planes} of a context with {len(self.planes)} sets.")
            demand_shares(tree.theta, self.planes[tree.planes])


@dataclass(frozen=True, eq=False)
class Group:
    """Cases over one box, proved together.

    Attributes:
        cases: Indices of the property's cases.
        contexts: One a leaf of the tree over inputs, in its order.
        split, at: The tree in preorder, i4 and f8: -1 is a leaf (with at = 0), i splits input i at `at`, the side
            x_i <= at first. Both None: one leaf.
    """

    cases: tuple[int, ...]
    contexts: tuple[Context, ...]
    split: np.ndarray | None = None
    at: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.cases or min(self.cases) < 0 or len(set(self.cases)) != len(self.cases):
            raise ProofError("proof: a group's cases must be different indices from 0, at least one.")
        if (self.split is None) != (self.at is None):
            raise ProofError("proof: a group's split and at come together or not at all.")
        leaves = 1
        if self.split is not None and self.at is not None:
            leaves = demand_trees(self.split, 1)
            demand(self.at, "at", ("f8",), 1)
            if len(self.at) != len(self.split) or self.at[self.split < 0].any():
                raise ProofError("proof: at must have one entry for each of split, zero at leaves.")
        if len(self.contexts) != leaves:
            raise ProofError(f"proof: {len(self.contexts)} contexts for a tree of {leaves} leaves.")
        for context in self.contexts:
            if len(context.trees) != len(self.cases):
                raise ProofError(f"proof: {len(context.trees)} trees for {len(self.cases)} cases.")


@dataclass(frozen=True, eq=False)
class Certificate:
    """A proof that the least slack max_i (C_i y - d_i) of every case exceeds a threshold.

    Attributes:
        bits: F; all numbers of the check are integers in units of 2^-F.
        groups: Every case of the property is in exactly one.
        threshold: What the least slack is proved to exceed.
        network, property: Fingerprints of milpverify's own.
        made_by: For readers.
        files: SHA-256 of the files "network" and "property", where it was made from files.
        semantics: What it is about: "real" numbers, or every "float32" execution, which includes them.
        grid: Where it is only about inputs that are multiples of 1/grid: that number; else 0.
    """

    bits: int
    groups: tuple[Group, ...]
    threshold: Fraction = Fraction(0)
    network: str = ""
    property: str = ""
    made_by: str = "milpverify"
    files: Mapping[str, str] = field(default_factory=dict)
    semantics: str = "real"
    grid: int = 0

    def __post_init__(self) -> None:
        if self.semantics not in SEMANTICS:
            raise ProofError(
                f"proof: the semantics must be one of {', '.join(SEMANTICS)}, got {str(self.semantics)[:40]!r}."
            )
        if not LEAST_BITS <= self.bits <= MOST_BITS:
            raise ProofError(f"proof: bits must lie between {LEAST_BITS} and {MOST_BITS}, got {str(self.bits)[:40]}.")
        cases = [case for group in self.groups for case in group.cases]
        if not cases or len(set(cases)) != len(cases):
            raise ProofError("proof: every case must be in exactly one group, and there must be one.")

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        from milpverify.proof.certificate_header import header_of  # it reads the classes above

        return pack(*header_of(self))

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            ProofError: If it cannot be written.
        """
        from milpverify.spec.store import write_whole  # a reader of VNN-LIB: not needed to check

        try:
            write_whole(Path(path), self.to_bytes())
        except PropertyError as error:
            raise ProofError(str(error)) from None


def from_bytes(content: bytes, max_bytes: int = MAX_BYTES) -> Certificate:
    """The certificate in a file's bytes.

    Raises:
        ProofError: If they are not of the format.
    """
    from milpverify.proof.certificate_header import certificate_of  # it reads the classes above

    return certificate_of(*unpack(content, max_bytes))


def read_certificate(path: str | Path, max_bytes: int = MAX_BYTES) -> Certificate:
    """Read what `Certificate.write` wrote.

    Args:
        path: The file.
        max_bytes: What it may hold, and what it may inflate to.

    Raises:
        ProofError: If it cannot be read or is not of the format.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, ValueError, MemoryError, OverflowError) as error:
        raise ProofError(f"proof: cannot read {path}: {error}. Check the path.") from None
    if len(content) > max_bytes:
        raise ProofError(f"proof: {path} has more than {max_bytes} bytes. Allow more if you trust it.")
    return from_bytes(content, max_bytes)
