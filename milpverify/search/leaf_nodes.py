"""Nodes of the small trees that close boxes, and their bounds; the nodes of a box share its expressions. Floating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from milpverify.bounds.node_parts import Phases
from milpverify.search.box_columns import ColumnBoxes, ColumnLayer


@dataclass(frozen=True, eq=False)
class LeafNodes:
    """B nodes.

    Attributes:
        owner: Which tree each belongs to, (B,).
        l, u: Bounds of the neurons, (B, N).
        alpha, beta, mu: Multipliers, (B, N), (B, N) and (B, m).
        score: What splitting a neuron may gain, (B, N).
        lower: Bound, (B,).
    """

    owner: np.ndarray
    l: np.ndarray
    u: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    mu: np.ndarray
    score: np.ndarray
    lower: np.ndarray

    def __len__(self) -> int:
        return len(self.owner)

    def __getitem__(self, index: np.ndarray) -> LeafNodes:
        return LeafNodes(*(getattr(self, f.name)[index] for f in fields(self)))

    @property
    def free(self) -> np.ndarray:
        """Which neurons are unstable on each node, (B, N)."""
        return (self.l < 0) & (self.u > 0)

    @classmethod
    def concat(cls, parts: Sequence[LeafNodes]) -> LeafNodes:
        """The batches one after the other."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def split(self, neuron: np.ndarray) -> LeafNodes:
        """2B children, all with their neuron active before all with it inactive."""
        n, index = len(self), np.arange(len(self))
        both = self[np.concatenate([index, index])]
        l, u = both.l.copy(), both.u.copy()
        l[index, neuron], u[n + index, neuron] = 0.0, 0.0
        return replace(both, l=l, u=u)


class LeafWalk:
    """The bound of nodes as a function of their multipliers; the nodes of a box share its matrices."""

    def __init__(self, boxes: ColumnBoxes, nodes: LeafNodes) -> None:
        owner = nodes.owner
        self.phases, self.n = Phases.of(nodes.l, nodes.u), boxes.n
        self.low, self.high = boxes.low[owner], boxes.high[owner]
        self.layers = [p for p in boxes.layers if p.l.shape[1]]
        self.at = [p.at[owner] for p in self.layers]
        self.rows, self.rows_at = boxes.rows, boxes.rows_at[owner]
        # Where each node stands among those of its box.
        order = np.argsort(owner, kind="stable")
        first = np.searchsorted(owner[order], owner[order])
        self.slot = np.empty_like(owner)
        self.slot[order] = np.arange(len(owner)) - first
        self.used = np.unique(owner)
        self.place = np.searchsorted(self.used, owner)
        self.shape = len(self.used), int(self.slot.max(initial=-1)) + 1
        self.whole = len(self.used) == len(boxes)

    def _part(self, layer: ColumnLayer) -> slice:
        return slice(layer.place.start - self.n, layer.place.stop - self.n)

    def _times(self, vectors: np.ndarray, matrices: np.ndarray) -> np.ndarray:
        """Each node's vector times its box's matrix: (B, p) and (b, p, q)."""
        mine = matrices if self.whole else matrices[self.used]
        together = np.zeros((*self.shape, vectors.shape[1]))
        together[self.place, self.slot] = vectors
        return np.asarray((together @ mine)[self.place, self.slot])

    def value(self, alpha: np.ndarray, beta: np.ndarray, mu: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """g, lambda of the neurons and the minimiser."""
        phases = self.phases
        row = self._times(mu, self.rows)
        value = (mu * self.rows_at).sum(axis=1) + (beta * phases.offset).sum(axis=1)
        push = phases.sign * beta
        for layer, at in zip(reversed(self.layers), reversed(self.at), strict=True):
            part = self._part(layer)
            lam = row[:, layer.place]
            below = np.minimum(lam, 0.0)
            nu = (lam - below) * alpha[:, part] + below * phases.slope[:, part] - push[:, part]
            value += (nu * at + below * phases.intercept[:, part]).sum(axis=1)
            row[:, : layer.start] += self._times(nu, layer.E)
        lam = row[:, : self.n]
        x = np.where(lam > 0, self.low, self.high)
        return value + (lam * x).sum(axis=1), row[:, self.n :], x

    def relaxed(self, alpha: np.ndarray, lam: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """zhat (B, N) and the rows' slacks (B, m) at the Lagrangian's minimiser."""
        phases, zhat = self.phases, np.empty_like(lam)
        values = np.concatenate([x, np.empty_like(lam)], axis=1)
        for layer, at in zip(self.layers, self.at, strict=True):
            part = self._part(layer)
            v = self._times(values[:, : layer.start], layer.E.swapaxes(1, 2)) + at
            zhat[:, part] = v
            upper = phases.slope[:, part] * v + phases.intercept[:, part]
            values[:, layer.place] = np.where(lam[:, part] > 0, alpha[:, part] * v, upper)
        return zhat, self._times(values, self.rows.swapaxes(1, 2)) + self.rows_at
