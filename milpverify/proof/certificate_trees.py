"""What a proof says about trees over unstable neurons: of a case, or of single neurons (docs/proofs.md, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpverify.errors import ProofError
from milpverify.proof.container import dtype_name

REALS = ("u1", "f4", "f8")


@dataclass(frozen=True, eq=False)
class PlaneSet:
    """Planes z <= P.t + R of unstable neurons; the checker computes R.

    Attributes:
        neuron: i4, which unstable neuron, by its place among them; never falling.
        P: One row a plane, one column a column; those of the neuron's layer and above are not read.

    Raises:
        ProofError: As all classes here, if an entry is not of the form.
    """

    neuron: np.ndarray
    P: np.ndarray

    def __post_init__(self) -> None:
        demand(self.neuron, "neuron", ("i4",), 1)
        demand(self.P, "P", REALS, 2)
        if len(self.P) != len(self.neuron):
            raise ProofError(f"proof: {len(self.P)} planes of {len(self.neuron)} neurons; each plane has one neuron.")
        if (self.neuron < 0).any() or (np.diff(self.neuron.astype(np.int64)) < 0).any():
            raise ProofError("proof: the neurons of planes must be rising places from 0.")


@dataclass(frozen=True, eq=False)
class LeafTree:
    """The tree over unstable neurons that closes one case in one context, and each leaf's multipliers.

    Attributes:
        split: Preorder, i4: -1 is a leaf, u splits unstable neuron u, active side first; None: one leaf.
        alpha: Slopes in [0, 1], (leaves, unstable neurons); None: 1 where hi > -lo, else 0.
        beta: Multipliers of the splits, (leaves, unstable neurons); None: 0.
        mu: Multipliers of the case's rows, (leaves, rows), none negative; None: 1, for a case of one row.
        planes: The number of one of the context's sets.
        theta: Shares of its planes, (leaves, planes), none negative; given with `planes` only.
    """

    split: np.ndarray | None = None
    alpha: np.ndarray | None = None
    beta: np.ndarray | None = None
    mu: np.ndarray | None = None
    planes: int | None = None
    theta: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.split is not None:
            demand_trees(self.split, 1)
        _demand_multipliers(self.n_leaves, alpha=self.alpha, beta=self.beta, mu=self.mu, theta=self.theta)
        if (self.planes is None) != (self.theta is None):
            raise ProofError("proof: planes and theta come together or not at all.")
        if self.planes is not None and self.planes < 0:
            raise ProofError("proof: the number of a set of planes must not be negative.")

    @property
    def n_leaves(self) -> int:
        """Number of leaves."""
        return 1 if self.split is None else int((self.split == -1).sum())


@dataclass(frozen=True, eq=False)
class Claims:
    """Bounds of single neurons of a layer: a tree for each, over the unstable neurons of the layers below.

    Their values are not written down: the least bound of a tree's leaves is the claim.

    Attributes:
        row: i4, what each is about, in a layer of n neurons: i is a lower bound of neuron i, n + i an upper bound.
        split: The trees one after the other, each as of `LeafTree`; None: one leaf each.
        alpha, beta: As of `LeafTree`, one row a leaf of all trees.
        planes: Planes of neurons below, over the columns below.
        theta: As of `LeafTree`; given with `planes` only.
    """

    row: np.ndarray
    split: np.ndarray | None = None
    alpha: np.ndarray | None = None
    beta: np.ndarray | None = None
    planes: PlaneSet | None = None
    theta: np.ndarray | None = None

    def __post_init__(self) -> None:
        demand(self.row, "row", ("i4",), 1)
        if not len(self.row) or (self.row < 0).any():
            raise ProofError("proof: the rows of claims must not be negative, and there must be one.")
        if self.split is not None:
            demand_trees(self.split, len(self.row))
        _demand_multipliers(self.n_leaves, alpha=self.alpha, beta=self.beta, theta=self.theta)
        if (self.planes is None) != (self.theta is None):
            raise ProofError("proof: planes and theta come together or not at all.")
        if self.planes is not None and self.theta is not None:
            demand_shares(self.theta, self.planes)

    @property
    def n_leaves(self) -> int:
        """Number of leaves of all trees."""
        return len(self.row) if self.split is None else int((self.split == -1).sum())


def demand(array: np.ndarray, name: str, dtypes: tuple[str, ...], axes: int) -> None:
    """Refuse an array of another dtype or number of axes, or with entries that are not finite.

    Raises:
        ProofError: If it is one.
    """
    if array.ndim != axes or dtype_name(array) not in dtypes:
        raise ProofError(
            f"proof: {name} must be an array of {axes} axes and of dtype {' or '.join(dtypes)}, got {array.ndim} axes "
            f"of {dtype_name(array)}."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ProofError(f"proof: {name} holds NaN or infinity.")


def demand_trees(split: np.ndarray, count: int) -> int:
    """The number of leaves of some trees in preorder, which must use up their list exactly.

    Raises:
        ProofError: If they do not.
    """
    demand(split, "split", ("i4",), 1)
    missing = count + np.cumsum(np.where(split < 0, -1, 1))
    if not len(split) or (split < -1).any() or missing[-1] != 0 or (missing[:-1] <= 0).any():
        what = "no tree" if count == 1 else f"not {count} trees"
        raise ProofError(f"proof: split is {what} in preorder: -1 at leaves, an index elsewhere, used up exactly.")
    return int((split == -1).sum())


def demand_shares(theta: np.ndarray, planes: PlaneSet) -> None:
    """Refuse shares that do not fit their planes.

    Raises:
        ProofError: If they do not.
    """
    if theta.shape[1] != len(planes.neuron):
        raise ProofError(f"proof: theta has {theta.shape[1]} columns for {len(planes.neuron)} planes.")


def _demand_multipliers(leaves: int, **given: np.ndarray | None) -> None:
    """Refuse multipliers that are not one row a leaf, or negative, or an alpha above 1."""
    for name, values in given.items():
        if values is None:
            continue
        demand(values, name, REALS, 2)
        if len(values) != leaves:
            raise ProofError(f"proof: {name} has {len(values)} rows for a tree of {leaves} leaves.")
        if name != "beta" and values.dtype.kind == "f" and (values < 0).any():
            raise ProofError(f"proof: {name} has a negative entry.")
        if name == "alpha" and values.dtype.kind == "f" and (values > 1).any():
            raise ProofError("proof: alpha must lie in [0, 1].")
