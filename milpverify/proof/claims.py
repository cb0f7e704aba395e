"""Claims: bounds of single neurons by trees over the layers below them (docs/proofs.md, section 2, "Claims")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from milpverify.proof.certificate_trees import Claims
from milpverify.proof.fixed_point import Integers, python_array
from milpverify.proof.forms import Forms
from milpverify.proof.leaf_walk import (
    KnownLayers,
    LeafWalk,
    RejectedError,
    demand_planes_fit,
    demand_trees_fit,
    leaves_of,
)

Values = list[int | None]  # V of each leaf, None where it is empty


def claimed_bounds(
    integers: Integers,
    known: KnownLayers,
    forms: Forms,
    bounds: tuple[np.ndarray, np.ndarray],
    claims: Sequence[tuple[Claims, ...]],
    names: Sequence[str],
) -> tuple[np.ndarray, np.ndarray, list[list[Values]]]:
    """Bounds of a layer's neurons with what is claimed of them, and for each box and `Claims` V of the leaves.

    Args:
        known: The layers below.
        forms: The expressions of the layer's neurons.
        bounds: lo and hi by the layer's rule, (batch, n) each.
        claims: For each box.
        names: Of the contexts, for reasons.

    Raises:
        RejectedError: If a claim does not fit the network.
    """
    if not any(claims):
        return *bounds, [[] for _ in claims]
    lower, upper = (side.copy() for side in bounds)
    n, layer = lower.shape[1], len(known.layers) + 1
    found: list[list[Values]] = [[] for _ in claims]
    for b, (own, name) in enumerate(zip(claims, names, strict=True)):
        at = slice(b, b + 1)
        box, rows, sides = known.at(at), Forms(forms.E[at], forms.beta[at], forms.eps[at]), [*lower[b], *-upper[b]]
        for number, some in enumerate(own):
            values, tree = _values(integers, box, rows, some, f"{name}, claims {number} of layer {layer}")
            found[b].append(values)
            for claim, V in _least(tree.tolist(), values).items():
                row = int(some.row[claim])
                sides[row] = max(int(sides[row]), V >> integers.bits)
        proved = integers.narrow(python_array(sides))
        lower[b], upper[b] = proved[:n], -proved[n:]
    return lower, upper, found


def _least(trees: list[int], values: Values) -> dict[int, int]:
    """The least V of each tree; those whose leaves are all empty are left out."""
    least: dict[int, int] = {}
    for tree, V in zip(trees, values, strict=True):
        if V is not None:
            least[tree] = min(V, least.get(tree, V))
    return least


def _values(integers: Integers, box: KnownLayers, forms: Forms, claims: Claims, name: str) -> tuple[Values, np.ndarray]:
    """V of every leaf, and which claim it belongs to."""
    n, n_unstable = forms.beta.shape[1], len(box.places[0])
    demand_trees_fit(claims, n_unstable, name)
    if claims.planes is not None:
        demand_planes_fit(claims.planes, box.n_inputs, n_unstable, name)
    if claims.row.max() >= 2 * n:
        raise RejectedError(f"{name}: a claim of row {claims.row.max()}, where there are {2 * n}")
    down = LeafWalk(integers, box)
    planes = down.planes(claims.planes)
    values: Values = []
    trees = []
    for leaves in leaves_of(claims.split, len(claims.row), n_unstable, box.step):
        row = claims.row[leaves.tree]
        neuron, sign = row % n, np.where(row < n, 1, -1)
        own = Forms(forms.E[:, neuron] * sign[:, None], forms.beta[:, neuron] * sign, forms.eps[:, neuron])
        values += down.values(own, [claims], [leaves], planes)[0]
        trees.append(leaves.tree)
    return values, np.concatenate(trees)
