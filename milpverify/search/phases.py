r"""Boxes with few unstable neurons, closed by splitting on the phases of those neurons.

Splitting inputs halves a relaxation's error slowly where one neuron is to blame; fixing its phase removes it. A node is
a box with some neurons fixed: their symbols are substituted, e_k = f v_k - 1, so that all forms are over the symbols
left, and v_k's sign is one more inequality. With q_i + A_i . e <= 0 for every point of interest (the rows, less the
threshold, and the signs), the node is empty if for some multipliers lambda >= 0

    sum_i lambda_i q_i  -  sum_j | sum_i lambda_i A_ij |   >   0.

Any lambda proves it, so they are searched in floats, one after the other, each by an exact line search (the sum is
concave and piecewise linear), and only the final sum is rounded outward. What substituting rounds is taken off q or
added to the noise.

Source: Bunel et al. 2020, "Branch and bound for piecewise linear neural network verification"; Wang et al. 2021
(beta-CROWN: signs of split neurons by multipliers).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np

from milpverify.bounds.box_forms import BoxBounds
from milpverify.bounds.leaf_forms import LeafForms, leaf_forms
from milpverify.errors import OptionError
from milpverify.network.graph import Network
from milpverify.search.boxes import Boxes
from milpverify.search.rows import Rows
from milpverify.spec.batch import BoxBatch
from milpverify.spec.rounding import UNDERFLOW, allowance

SWEEPS = 1  # of line searches over all multipliers; a second closes 3 % more nodes and takes as long as the first
TRIANGLES = 3  # neurons of a node whose triangles are used
LOST = 2.0**-49  # more than substituting one symbol rounds, per unit of the sizes involved


@dataclass(frozen=True)
class PhaseSplits:
    """Closes boxes by splitting on the phases of their unstable neurons.

    Attributes:
        neurons: Boxes with at most so many unstable ones are tried.
        depth: How many are fixed at most.
        width: How many nodes of a box may be open at once before it is given up.

    Raises:
        OptionError: If one of them is not positive.
    """

    neurons: int = 16
    depth: int = 6
    width: int = 8

    def __post_init__(self) -> None:
        for name in ("neurons", "depth", "width"):
            if getattr(self, name) < 1:
                raise OptionError(f"PhaseSplits: {name} must be at least 1, got {getattr(self, name)}.")

    def close(self, net: Network, boxes: Boxes, found: BoxBounds, rows: Rows, t: float) -> np.ndarray:
        """Which open cases have no point of slack t or less in their box. Rounded.

        Args:
            net: The network.
            boxes: b boxes with their open cases.
            found: What is known of them.
            rows: Of all cases.
            t: Finite.

        Returns:
            A mask, shape (b, n_cases).
        """
        closed = np.zeros(boxes.open.shape, dtype=bool)
        free = sum(((l < 0) & (u > 0)).sum(axis=1) for l, u in zip(found.lower, found.upper, strict=True))
        few = np.flatnonzero((free <= self.neurons) & boxes.open.any(axis=1))
        if not len(few):
            return closed
        known = tuple(side[few] for side in found.lower), tuple(side[few] for side in found.upper)
        forms = leaf_forms(net, BoxBatch(boxes.low[few], boxes.high[few]), known, rows.C)
        for case in range(boxes.open.shape[1]):
            mine = np.flatnonzero(boxes.open[few, case])
            if len(mine):
                some, d = rows.of_case(case), np.nextafter(rows.d + t, np.inf)
                closed[few[mine], case] = self._empty(forms[mine], some, d[some])
        return closed

    def _empty(self, leaf: LeafForms, rows: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Which of b boxes have no point where all of some rows are at most d. Rounded."""
        b, m, S = len(leaf.rows), len(rows), leaf.rows.shape[-1]
        A, q = np.zeros((b, m + self.depth, S)), np.full((b, m + self.depth), -1.0)
        A[:, :m], at = leaf.rows[:, rows], leaf.rows_at[:, rows]
        q[:, :m] = at - d - 2.0**-51 * (np.abs(at) + np.abs(d))
        nodes = _Nodes(np.arange(b), A, q, leaf.neurons, leaf.centre, leaf.noise, leaf.present, np.zeros(q.shape))
        failed, blame = ~np.isfinite(A.sum(axis=(1, 2)) + q.sum(axis=1)), leaf.rows[:, rows, leaf.n :]
        for level in range(self.depth + 1):
            nodes = nodes[~failed[nodes.owner]]
            if not len(nodes.owner):
                break
            value, lam = _best_multipliers(nodes, leaf, m, level)
            stays = ~(value > 0.0)
            nodes, lam = nodes[stays], lam[stays]
            # What the symbols of open neurons cost the rows: the costliest is fixed.
            cost = np.abs((lam[:, None, :m] @ blame[nodes.owner])[:, 0]) * nodes.free
            lost = (cost.max(axis=1, initial=0.0) <= 0.0) | (level == self.depth)
            failed[nodes.owner[lost]] = True
            failed |= np.bincount(nodes.owner, minlength=b) > self.width
            go = ~failed[nodes.owner]
            if not go.any():
                break
            nodes, pick = replace(nodes[go], lam=lam[go]), cost[go].argmax(axis=1)
            both = [_fixed(nodes, pick, leaf, m + level, on) for on in (True, False)]
            nodes = _Nodes(*(np.concatenate([getattr(h, f.name) for h in both]) for f in fields(_Nodes)))
        return ~failed


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Nodes over S symbols, of m rows and up to D signs.

    Attributes:
        owner: Which problem each belongs to, shape (N,).
        A, q: Inequalities, shape (N, m + D, S) and (N, m + D); q = -1 and A = 0 where there is none yet.
        G, c, noise: The neurons' forms, shape (N, p, S), (N, p) and (N, p).
        free: Neurons whose phase is open, shape (N, p).
        lam: Multipliers that the parent ended with, shape (N, m + D).
    """

    owner: np.ndarray
    A: np.ndarray
    q: np.ndarray
    G: np.ndarray
    c: np.ndarray
    noise: np.ndarray
    free: np.ndarray
    lam: np.ndarray

    def __getitem__(self, index: np.ndarray) -> _Nodes:
        return _Nodes(*(getattr(self, f.name)[index] for f in fields(self)))


def _fixed(nodes: _Nodes, pick: np.ndarray, leaf: LeafForms, row: int, on: bool) -> _Nodes:
    """The nodes with neuron `pick` fixed: e_k = f v_k - 1; inequality `row` says v_k >= 0 if it is on, else <= 0."""
    each, n, f, sign = np.arange(len(pick)), leaf.n, leaf.rise if on else leaf.fall, -1.0 if on else 1.0
    G, c, noise = nodes.G[each, pick], nodes.c[each, pick], nodes.noise[each, pick]
    slope, size = f[nodes.owner, pick], np.abs(G).sum(axis=1) + np.abs(c) + noise

    def substituted(forms: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        part = forms[each, :, n + pick]
        step = part * slope[:, None]
        new = forms + step[:, :, None] * G[:, None]
        new[each, :, n + pick] = 0.0
        extra = np.abs(step) * noise[:, None]
        scale = np.abs(forms).sum(axis=2) + np.abs(at) + np.abs(part) + np.abs(step) * size[:, None]
        return new, at + (step * c[:, None] - part), extra * (1.0 + LOST) + LOST * scale + UNDERFLOW

    A, q, lost = substituted(nodes.A, nodes.q)
    q = q - lost * (1.0 + LOST)
    forms, at, lost_v = substituted(nodes.G, nodes.c)
    A[:, row], q[:, row] = sign * G, sign * c - noise - LOST * (np.abs(c) + noise)
    free = nodes.free.copy()
    free[each, pick] = False
    return _Nodes(nodes.owner, A, q, forms, at, (nodes.noise + lost_v) * (1.0 + LOST), free, nodes.lam)


def _best_multipliers(nodes: _Nodes, leaf: LeafForms, m: int, level: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest sum found, rounded down, and its multipliers of rows and signs."""
    A, q = nodes.A[:, : m + level], nodes.q[:, : m + level]
    lam = _start(A, q, nodes.lam[:, : m + level], m)
    S = _sweep((lam[:, None] @ A)[:, 0], A, q, lam, range(m + level - 1, m - 1, -1))
    value, left = _sum(A, q, lam), np.arange(len(lam))
    if level:  # many need no more than the sign of the neuron fixed last
        left = np.flatnonzero(~(value > 0.0))
        nodes, A, q, S = nodes[left], A[left], q[left], S[left]
    # The triangles of the neurons whose symbol the sum wants low: e_k is at least rise v_k - 1 and fall v_k - 1.
    chosen = np.argsort(-(S[:, leaf.n :] * nodes.free), axis=1)[:, :TRIANGLES]
    rows, at = _triangles(nodes, leaf, chosen)
    A, q = np.concatenate([A, rows], axis=1), np.concatenate([q, at], axis=1)
    longer = np.concatenate([lam[left], np.zeros(at.shape)], axis=1)
    order = [*range(m + level, A.shape[1]), *range(m + level - 1, m - 1, -1), *(range(m) if m > 1 else ())]
    for _ in range(SWEEPS):
        S = _sweep(S, A, q, longer, order)
    value[left], lam[left] = _sum(A, q, longer), longer[:, : m + level]
    whole = np.zeros((len(lam), nodes.lam.shape[1]))
    whole[:, : m + level] = lam
    return value, whole


def _sum(A: np.ndarray, q: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """sum lambda_i q_i - sum_j | sum_i lambda_i A_ij | rounded down; negative multipliers count as 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        lam = np.maximum(lam, 0.0)
        S, K = (lam[:, None] @ A)[:, 0], (lam * q).sum(axis=1)
        size = (lam * (np.abs(q) + np.abs(A).sum(axis=2))).sum(axis=1)
        value = K - np.abs(S).sum(axis=1) - allowance(A.shape[1] + A.shape[2]) * size
        # So that the slack clears what is claimed of it.
        return np.asarray(value - UNDERFLOW * (1.0 + lam.sum(axis=1)))


def _start(A: np.ndarray, q: np.ndarray, lam: np.ndarray, m: int) -> np.ndarray:
    """The parent's multipliers, or the best row alone where that is better; shape (N, m + level)."""
    each, rows = np.arange(len(A)), q[:, :m] - np.abs(A[:, :m]).sum(axis=2)
    best, one = rows.argmax(axis=1), np.zeros(lam.shape)
    one[each, best] = 1.0
    old = (lam * q).sum(axis=1) - np.abs((lam[:, None] @ A)[:, 0]).sum(axis=1)
    return np.where(((old > rows[each, best]) & lam.any(axis=1))[:, None], lam, one)


def _triangles(nodes: _Nodes, leaf: LeafForms, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f v_k - 1 - e_k <= 0 for both f of each chosen neuron: A and q, shape (N, 2 t, S) and (N, 2 t)."""
    each = np.arange(len(chosen))[:, None]
    G, c, noise = nodes.G[each, chosen], nodes.c[each, chosen], nodes.noise[each, chosen]
    free, size = nodes.free[each, chosen], np.abs(c) + noise + np.abs(G).sum(axis=2)
    rows, at = [], []
    for slope in (leaf.rise, leaf.fall):
        f = slope[nodes.owner[:, None], chosen] * free
        row = f[..., None] * G
        row[each, np.arange(chosen.shape[1]), leaf.n + chosen] -= free
        rows.append(row)
        at.append(f * c - 1.0 - np.abs(f) * noise * (1.0 + LOST) - LOST * (1.0 + np.abs(f) * size) - UNDERFLOW)
    return np.concatenate(rows, axis=1), np.concatenate(at, axis=1)


def _sweep(S: np.ndarray, A: np.ndarray, q: np.ndarray, lam: np.ndarray, order: Iterable[int]) -> np.ndarray:
    """Line searches one after the other; lam is updated in place, and lam A returned."""
    for i in order:
        step = _line_search(S, A[:, i], q[:, i], lam[:, i])
        lam[:, i] += step
        S = S + step[:, None] * A[:, i]
    return S


def _line_search(S: np.ndarray, a: np.ndarray, q: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """The step t >= -lam that makes t q - sum |S + t a| largest; floating.

    Its slope falls by 2 |a_j| where t passes -S_j / a_j: the best t is a weighted median.
    """
    size, (b, n) = np.abs(a), a.shape
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t = np.where(size > 0.0, -S / a, np.inf)
    first = np.arange(0, b * n, n)
    order = t.argsort(axis=1) + first[:, None]
    passed = size.ravel()[order].cumsum(axis=1)
    total = passed[:, -1]
    place = (2.0 * passed < (q + total)[:, None]).sum(axis=1)
    enough = place < n
    step = t.ravel()[order.ravel()[first + np.minimum(place, n - 1)]]
    # Nothing to gain, or no end to the gain: then the row alone decides, and it has been asked alone.
    step = np.where(enough & (total > 0.0) & np.isfinite(step), step, 0.0)
    return np.maximum(step, -lam)
