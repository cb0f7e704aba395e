"""The leaves of trees over unstable neurons: every leaf's row is walked down with the leaf's own choices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from milpverify.proof.certificate import Context, LeafTree
from milpverify.proof.contexts import BoundedBoxes
from milpverify.proof.fixed_point import Integers
from milpverify.proof.forms import Forms
from milpverify.proof.leaf_walk import (
    KnownLayers,
    LeafWalk,
    Leaves,
    RejectedError,
    demand_planes_fit,
    demand_trees_fit,
    leaves_of,
    reals,
)


def leaf_values(
    integers: Integers, boxes: BoundedBoxes, rows: Forms, contexts: Sequence[Context], case: int, names: Sequence[str]
) -> list[list[int | None]]:
    """V of every leaf of every context's tree of one case; None where the leaf is empty.

    Args:
        rows: The expressions of C y - d - t, for every box.
        case: The place of the case in its group.
        names: Of the contexts, for reasons.

    Raises:
        RejectedError: If a tree does not fit the network or the case.
    """
    known, trees = boxes.known, [context.trees[case] for context in contexts]
    for context, places, name in zip(contexts, known.places, names, strict=True):
        for planes in context.planes:
            demand_planes_fit(planes, known.n_inputs, len(places), name)
    names = [f"{name}, tree {case}" for name in names]
    for tree, places, name in zip(trees, known.places, names, strict=True):
        demand_trees_fit(tree, len(places), name)
        if (1 if tree.mu is None else tree.mu.shape[1]) != rows.E.shape[1]:
            raise RejectedError(f"{name}: mu does not fit the {rows.E.shape[1]} rows of its case")
    step = known.step
    together = all(tree.planes is None and tree.n_leaves * len(trees) <= step for tree in trees)
    found: list[list[int | None]] = [[] for _ in trees]
    # Small trees of all boxes are walked together, other ones alone, some leaves at a time.
    for part in [slice(0, len(trees))] if together else [slice(b, b + 1) for b in range(len(trees))]:
        some, mine = known.at(part), Forms(rows.E[part], rows.beta[part], rows.eps[part])
        down, number = LeafWalk(integers, some), trees[part.start].planes
        used = down.planes(None if number is None else contexts[part.start].planes[number])
        leaves = [leaves_of(tree.split, 1, len(own), step) for tree, own in zip(trees[part], some.places, strict=True)]
        for chunks in zip(*leaves, strict=True):
            leaf_rows = _leaf_rows(integers, some, mine, trees[part], chunks)
            for own, values in zip(found[part], down.values(leaf_rows, trees[part], chunks, used), strict=True):
                own += values
    return found


def _leaf_rows(
    integers: Integers, boxes: KnownLayers, rows: Forms, trees: Sequence[LeafTree], leaves: Sequence[Leaves]
) -> Forms:
    """mu~ times the case's rows, for every leaf."""
    columns = boxes.columns
    batch, count = len(trees), max(len(own.active) for own in leaves)
    mu = np.zeros((batch, count, rows.E.shape[1]))
    for b, (tree, own) in enumerate(zip(trees, leaves, strict=True)):
        mu[b, : len(own.active)] = 1.0 if tree.mu is None else reals(tree.mu[own.numbers])
    factors = integers.down(mu)
    E = integers.round([integers.product(factors, rows.E)], integers.zeros((batch, count, columns.count)))
    beta = integers.round([integers.product(factors, rows.beta[..., None])], integers.zeros((batch, count, 1)))
    eps = -integers.floor(integers.product(factors, -rows.eps[..., None]))[..., 0]
    lost = integers.narrow(-(-columns.size_sum >> integers.bits + 1) + 1)
    return Forms(E, beta[..., 0], integers.narrow(eps + lost[:, None]))
