r"""Boxes with few unstable neurons, as small problems of their own.

A zonotope's symbols are exact names: with e = (relu(v) - s v - h) / h for each unstable neuron, every v of an unstable
neuron and every row is, up to a noise that covers all roundings,

    v_k = c_k + sum of G_kj e_j over the inputs' symbols and those of neurons below.

What is left out of a zonotope is only how e_k depends on v_k: e_k = f v_k - 1 with f = (1 - s) / h where v_k >= 0, and
f = -s / h where v_k <= 0. `phases` splits on that.

Source: Singh et al. 2018 (DeepZ); Bak 2021, "nnenum" (exact splits of zonotopes).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from milpverify.bounds.method import DEFAULT_BUDGET_BYTES
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.zonotope_forms import (
    Form,
    activated,
    input_box,
    input_values,
    noisy_radius,
    propagated,
    relaxed,
    turned,
)
from milpverify.network.graph import Network
from milpverify.spec.batch import BoxBatch

Layers = tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class LeafForms:
    """b boxes with at most p unstable neurons each, over n + p symbols; neurons that a box lacks are zero.

    Attributes:
        n: Symbols of the inputs; those of the neurons follow, a layer's after those of the layers below.
        rows, rows_at: Generators (b, m, n + p) and lower constants (b, m): row >= rows_at + rows . e.
        neurons, centre, noise: Generators (b, p, n + p), c and rho, shape (b, p): |v - c - neurons . e| <= rho.
        rise, fall: f where v >= 0 and where v <= 0, shape (b, p). Floating: within 2 units in the last place.
        present: Which neurons a box has, shape (b, p).
    """

    n: int
    rows: np.ndarray
    rows_at: np.ndarray
    neurons: np.ndarray
    centre: np.ndarray
    noise: np.ndarray
    rise: np.ndarray
    fall: np.ndarray
    present: np.ndarray

    def __getitem__(self, index: np.ndarray) -> LeafForms:
        return LeafForms(self.n, *(getattr(self, f.name)[index] for f in fields(self)[1:]))


def leaf_forms(net: Network, boxes: BoxBatch, known: tuple[Layers, Layers], rows: np.ndarray) -> LeafForms:
    """The small problems of b boxes. Rounded.

    Args:
        net: The network, numpy operators.
        boxes: With one leading axis.
        known: Proven l and u of the hidden neurons, (b, n_k) a layer.
        rows: Shape (m, n_outputs).
    """
    problem, chunk = DualProblem((*net.layers, net.output), boxes, *known), slice(0, len(boxes))
    free = [(l < 0) & (u > 0) for l, u in zip(*known, strict=True)]
    n, b = boxes.dimension, len(boxes)
    p = int(sum(f.sum(axis=1) for f in free).max(initial=0)) if free else 0
    # The slot of each symbol of each box, layer by layer, in the order in which the zonotopes make them.
    radius = input_box(problem, chunk)[1]
    slots = [np.nonzero(radius > 0)]
    before = np.full(b, n)
    for mask in free:
        owner, place = np.nonzero(mask)
        slots.append((owner, (before[:, None] + np.cumsum(mask, axis=1) - 1)[owner, place]))
        before = before + mask.sum(axis=1)
    above, neurons, each = np.zeros((b, len(rows), n + p)), np.zeros((b, p, n + p)), np.zeros((4, b, p))
    leaf = LeafForms(n, above, np.zeros((b, len(rows))), neurons, each[0], each[1], each[2], each[3], each[0] > 0)
    values = [input_values(problem, chunk)]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for k in range(1, len(problem.layers)):
            live = np.flatnonzero((known[1][k - 1] > 0).any(axis=0))
            sources = [values[source] for source, _ in problem.affine(k).blocks]
            form = propagated(problem, k, chunk, live, sources, DEFAULT_BUDGET_BYTES)
            _note_layer(leaf, form, slots, k, free[k - 1], (known[0][k - 1], known[1][k - 1]))
            values.append(activated(problem, k, form, live, chunk))
        k = len(problem.layers)
        sources = [values[source] for source, _ in problem.affine(k).blocks]
        output = propagated(problem, k, chunk, np.arange(net.n_outputs), sources, DEFAULT_BUDGET_BYTES)
        form = turned(problem, output, rows)
        leaf.rows[...] = _dense(form, slots, n + p)
        leaf.rows_at[...] = form.centre - noisy_radius(problem, form.noise, form.centre)
    return leaf


def _note_layer(
    leaf: LeafForms, form: Form, slots: list[tuple[np.ndarray, ...]], k: int, free: np.ndarray,
    sides: tuple[np.ndarray, np.ndarray],
) -> None:  # fmt: skip
    owner, slot = slots[k]
    neuron, place = slot - leaf.n, np.nonzero(free)[1]
    column = np.searchsorted(form.columns, place)
    leaf.neurons[owner, neuron] = _dense(form, slots, leaf.rows.shape[-1])[owner, column]
    leaf.centre[owner, neuron] = form.centre[owner, column]
    leaf.noise[owner, neuron] = form.noise[owner, column] * (1.0 + 2.0**-48)
    s, h = relaxed(sides[0][owner, place], sides[1][owner, place])
    leaf.rise[owner, neuron] = (1.0 - s) / h
    leaf.fall[owner, neuron] = -s / h
    leaf.present[owner, neuron] = True


def _dense(form: Form, slots: list[tuple[np.ndarray, ...]], width: int) -> np.ndarray:
    """The generators box by box, shape (b, q, symbols)."""
    b, q = form.centre.shape
    dense, start = np.zeros((b, width, q)), 0
    for origin, count in form.generators.symbols:
        owner, slot = slots[origin]
        dense[owner, slot] = form.generators.matrix[start : start + count]
        start += count
    return dense.swapaxes(1, 2)
