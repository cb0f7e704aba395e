"""The condensed problem below a layer: only unstable neurons, dense blocks, and their rounding as a slack of g.

What is proven on it holds for the network: every condensed pre-activation is within `slack` of the exact one, and g
subtracts |nu|.slack. Folding costs one walk per row; afterwards every walk is dense and small.
"""

from __future__ import annotations

import numpy as np

from milpverify.bounds.problem import AffinePart, DualProblem, open_neurons
from milpverify.bounds.pruned import pruned_problem
from milpverify.errors import BoundsError
from milpverify.network.arrays import to_host
from milpverify.network.condense import Fold, Folded
from milpverify.network.graph import Affine
from milpverify.network.operators import Dense
from milpverify.spec.box import Box


def fold_of(problem: DualProblem) -> Fold:
    """The fold of the layers bounded so far.

    Raises:
        BoundsError: If the problem is a batch, whose members differ in what is unstable.
    """
    if problem.is_batch:
        raise BoundsError("fold_of: one region and one set of bounds can be condensed. Restrict the batch to one.")
    count = len(problem.lower)
    unstable = tuple(open_neurons(l, u) for l, u in zip(problem.lower, problem.upper, strict=True))
    active = tuple((l >= 0).astype(np.float64) for l in problem.lower)
    allowances = tuple(problem.allowance(k) for k in range(1, min(count + 1, len(problem.layers)) + 1))
    return Fold(problem.layers, unstable, active, allowances, problem.like, problem.n_inputs)


def folded_neurons(problem: DualProblem, k: int, index: np.ndarray) -> Folded:
    """Pre-activations of layer k as maps of the unstable neurons below; kept for when layer k is bounded."""
    key = ("folded", k)
    if key in problem.cache:
        known, folded = problem.cache[key]
        place = np.searchsorted(known, index)
        if len(known) and (place < len(known)).all() and (known[place] == index).all():
            return folded if np.array_equal(index, known) else folded[place]
    folded = fold_of(pruned_problem(problem, k, len(index), index)).neurons(k, np.arange(len(index)))
    problem.cache[key] = (index, folded)
    return folded


def small_problem(problem: DualProblem, k: int, target: Folded) -> DualProblem:
    """The condensed problem with `target`, folded rows of layer k, as its last layer; every neuron is unstable.

    Args:
        problem: Must bound the layers 1..k-1; one region.
        k: The layer.
        target: `folded_neurons` or `folded_rows` of layer k.
    """
    layers: list[Affine] = []
    slack: list[np.ndarray] = []
    lower: list[np.ndarray] = []
    upper: list[np.ndarray] = []
    for j in range(1, k):
        l, u = problem.lower[j - 1], problem.upper[j - 1]
        index = open_neurons(l, u)
        folded = folded_neurons(problem, j, index)
        layers.append(folded.affine(problem.affine(j).name))
        slack.append(folded.error + problem.underflow(j))  # coefficients can vanish, and their neurons be huge
        lower.append(l[index])
        upper.append(u[index])
    layers.append(target.affine(problem.affine(k).name))
    slack.append(target.error + problem.underflow(k))
    return DualProblem(tuple(layers), problem.region, tuple(lower), tuple(upper), problem.like, slack=tuple(slack))


def seen_problem(small: DualProblem, index: np.ndarray) -> DualProblem:
    """A condensed problem for some neurons of its last layer, without what they do not read: windows of convolutions.

    Only zero weights are left out, so that what is proven on it is proven. Regions other than plain boxes, and other
    arrays than numpy's, are kept whole.

    Args:
        small: As `small_problem` gives it.
        index: Neurons of its last layer.
    """
    k = len(small.layers)
    whole = not small.region.is_box or not isinstance(small.like, np.ndarray)
    reads = [np.full(size, whole) for size in (small.n_inputs, *(layer.size for layer in small.layers))]
    reads[k] = np.zeros(small.affine(k).size, dtype=bool)
    reads[k][index] = True
    reads[0][0] = True  # a box has a coordinate
    layers: list[AffinePart] = []
    kept = [np.zeros(0, dtype=int)] * k + [index]
    for j in range(k, 0, -1):
        kept[j] = kept[j] if j == k else np.flatnonzero(reads[j])
        for source, op in small.affine(j).blocks:
            reads[source] |= (to_host(op.rows_like(kept[j], small.like)) != 0).any(axis=0)
    kept[0] = np.flatnonzero(reads[0])
    for j in range(1, k + 1):
        layer, here = small.affine(j), kept[j]
        blocks = tuple((s, Dense(op.rows_like(here, small.like)[:, small.convert(kept[s])])) for s, op in layer.blocks)
        layers.append(AffinePart(blocks, layer.bias[here], layer.bias_error[here], len(here), layer.name))
    region = small.region if whole else Box(small.region.lower[kept[0]], small.region.upper[kept[0]])
    lower = tuple(l[i] for l, i in zip(small.lower, kept[1:], strict=False))
    upper = tuple(u[i] for u, i in zip(small.upper, kept[1:], strict=False))
    slack = tuple(part[i] for part, i in zip(small.slack, kept[1:], strict=False))
    return DualProblem(tuple(layers), region, lower, upper, small.like, slack=slack)


def folded_rows(problem: DualProblem, k: int, rows: np.ndarray) -> Folded:
    """rows . zhat_k, rows (m, n_k), as maps of the unstable neurons below."""
    return fold_of(pruned_problem(problem, k, len(rows))).rows(k, rows)


def folding_pays(problem: DualProblem, k: int, rows: int) -> bool:
    """Whether one fold of `rows` rows and twice as many small walks cost less than twice as many walks."""
    walk = sum(op.work for layer in pruned_problem(problem, k, rows).layers[:-1] for _, op in layer.blocks)
    below, small = problem.n_inputs, 0
    for l, u in zip(problem.lower[: k - 1], problem.upper[: k - 1], strict=True):
        n = int(((l < 0) & (u > 0)).sum())
        small += n * below
        below += n
    return rows > 0 and 2 * small < walk
