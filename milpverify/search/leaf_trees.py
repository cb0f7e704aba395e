"""Small trees over ReLU phases, grown in many boxes at once: what closes boxes with few unstable neurons.

Nodes are bounded by dual ascent as in `bounds.nodes`, every box with expressions of its own, and nothing is bounded
again after a split: docs/proofs.md asks for splits and multipliers alone. Floating: only the checker decides.

Source: see `bounds.nodes` and `search.branching`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpverify.bounds.node_parts import BETA_SHARE, Adam, toward
from milpverify.proof.certificate import LeafTree
from milpverify.search.box_columns import ColumnBoxes
from milpverify.search.branching import LARGEST, SECOND_CHILD, relaxation_cost
from milpverify.search.leaf_nodes import LeafNodes, LeafWalk
from milpverify.search.phase_proof import leaf_tree

MEMORY, FEW = 256, 16  # closed trees that are remembered, and that are needed for a judgement
SHARE, MARGIN = 0.95, 2.0  # of those remembered, and times what they had: what is farther is hopeless
FAVOUR = 0.75  # of mu at first: the share of the best row, next to equal shares
TINY = 1e-300


@dataclass(frozen=True, eq=False)
class GrownTree:
    """A tree whose leaves are all closed.

    Attributes:
        phase: +1 where a leaf has a neuron active, -1 inactive, 0 free, (leaves, unstable neurons).
        alpha, beta: As of `LeafTree`.
        mu: (leaves, rows of the case).
        lower: Least bound of a leaf.
    """

    phase: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    mu: np.ndarray
    lower: float

    def __len__(self) -> int:
        return len(self.phase)

    def written(self) -> LeafTree:
        """The tree as a proof has it."""
        return leaf_tree(self.phase, self.alpha, self.beta, self.mu)[0]


class Prospects:
    """What trees that came to an end looked like at first, so that others are not begun.

    How far a box is from being closed is counted in what its costliest relaxations take from the bound. How much of
    that splits make good differs between networks, but little between the boxes of one.
    """

    def __init__(self) -> None:
        self._good: dict[str, np.ndarray] = {}

    def limit(self, stage: str) -> float:
        """What is farther is hopeless."""
        good = self._good.get(stage, np.zeros(0))
        return float(MARGIN * np.quantile(good, SHARE)) if len(good) >= FEW else np.inf

    def learn(self, stage: str, distance: np.ndarray) -> None:
        """Distances of trees that were closed."""
        self._good[stage] = np.concatenate([self._good.get(stage, np.zeros(0)), distance])[-MEMORY:]


@dataclass(frozen=True)
class LeafTrees:
    """How trees are grown in boxes.

    Attributes:
        neurons: Boxes with at most so many unstable ones are tried.
        leaves: Of a tree at most.
        first_steps, steps: Of the ascents on roots and on other nodes.
        rate: Step size.
        candidates: Neurons of a node whose children are looked at before one is split.
    """

    neurons: int = 100
    leaves: int = 32
    first_steps: int = 12
    steps: int = 8
    rate: float = 0.25
    candidates: int = 3

    @np.errstate(over="ignore", invalid="ignore")
    def grow(self, boxes: ColumnBoxes, rows: np.ndarray, prospects: Prospects) -> list[GrownTree | None]:
        """A tree for each box, None where it would be too large.

        Args:
            boxes: b boxes.
            rows: Which rows may close each, (b, m).
            prospects: Of trees before, and after it of these too.
        """
        failed, count, far = np.zeros(len(boxes), dtype=bool), np.ones(len(boxes), dtype=int), {}
        nodes, done = _roots(boxes, rows), []
        for stage, steps in (("plain", 0), ("raised", self.first_steps)):
            nodes = self._ascended(boxes, nodes, steps)
            far[stage] = np.full(len(boxes), np.inf)
            far[stage][nodes.owner] = self._distance(nodes)
            failed |= far[stage] > prospects.limit(stage)
            nodes = nodes[~failed[nodes.owner]]
        while True:
            closed = nodes.lower > 0.0
            done.append(nodes[closed])
            nodes = nodes[~closed]
            failed[nodes.owner[~nodes.free.any(axis=1)]] = True
            count += np.bincount(nodes.owner, minlength=len(boxes))
            failed |= count > self.leaves
            nodes = nodes[~failed[nodes.owner]]
            if not len(nodes):
                break
            nodes = nodes.split(self._chosen(boxes, nodes))
            nodes = self._ascended(boxes, nodes, self.steps)
        for stage, distance in far.items():
            prospects.learn(stage, distance[~failed])
        leaves, valid = LeafNodes.concat(done), boxes.valid
        order = np.argsort(leaves.owner, kind="stable")
        leaves = leaves[order]
        ends = np.searchsorted(leaves.owner, np.arange(len(boxes) + 1))
        return [
            None if failed[b] else _grown(leaves[np.arange(ends[b], ends[b + 1])], valid[b], rows[b] > 0)
            for b in range(len(boxes))
        ]

    def _distance(self, nodes: LeafNodes) -> np.ndarray:
        """How far nodes are from being closed: the bound, in units of what the costliest relaxations take from it."""
        depth = min(max(1, self.leaves.bit_length() - 1), nodes.score.shape[1])
        cost = -np.partition(-nodes.score, depth - 1, axis=1)[:, :depth] if depth else nodes.score
        return np.asarray(-nodes.lower / np.maximum(cost.sum(axis=1), TINY))

    def _chosen(self, boxes: ColumnBoxes, nodes: LeafNodes) -> np.ndarray:
        """The neuron to split each node at: of the best scores the one whose children look best."""
        score = np.where(nodes.free, nodes.score + 1e-9 * (nodes.u - nodes.l), -1.0)
        count = min(self.candidates, score.shape[1])
        if count <= 1:
            return np.asarray(score.argmax(axis=1))
        neuron = np.argpartition(-score, count - 1, axis=1)[:, :count]
        real = np.take_along_axis(score, neuron, axis=1) >= 0
        children = nodes[np.repeat(np.arange(len(nodes)), count)].split(neuron.reshape(-1))
        value = LeafWalk(boxes, children).value(children.alpha, children.beta, children.mu)[0].reshape(2, -1, count)
        gain = np.nan_to_num(value.min(axis=0) + SECOND_CHILD * value.max(axis=0), nan=-LARGEST, neginf=-LARGEST)
        gain = np.where(real, gain, -np.inf)
        return np.asarray(np.take_along_axis(neuron, gain.argmax(axis=1)[:, None], axis=1)[:, 0])

    def _ascended(self, boxes: ColumnBoxes, nodes: LeafNodes, steps: int) -> LeafNodes:
        """The nodes with their bounds, raised by so many steps unless closed at once."""
        # Multipliers are kept in single precision, as the file has them.
        walk, several = LeafWalk(boxes, nodes), bool(((nodes.mu > 0).sum(axis=1) > 1).any())
        alpha, beta, mu = np.where(walk.phases.free, nodes.alpha, walk.phases.slope), nodes.beta, nodes.mu
        adam = Adam(alpha, self.rate), Adam(beta, self.rate * BETA_SHARE)
        best = (np.full(len(nodes), -np.inf), alpha, beta, mu, np.zeros_like(alpha))
        free = walk.phases.free
        for step in range(steps + 1):
            value, lam, x = walk.value(alpha, beta, mu)
            better = value > best[0]
            now = (value, alpha, beta, mu, lam)
            best = tuple(  # type: ignore[assignment]
                np.where(better if new.ndim == 1 else better[:, None], new, old)
                for new, old in zip(now, best, strict=True)
            )
            if step == steps or (best[0] > 0).all():
                break
            zhat, slack = walk.relaxed(alpha, lam, x)
            up = adam[0].move(step, np.where(free, np.maximum(lam, 0) * zhat, 0))
            alpha = single(np.where(free, np.clip(alpha + up, 0, 1), alpha))
            up = adam[1].move(step, walk.phases.offset - walk.phases.sign * zhat)
            beta = single(np.where(free, 0, np.maximum(beta + up, 0)))
            if several:
                mu = single(toward(mu, slack, self.rate))
        value, alpha, beta, mu, lam = best
        score = relaxation_cost(nodes.l, nodes.u, lam)
        return LeafNodes(nodes.owner, nodes.l, nodes.u, alpha, beta, mu, score, value)


def single(values: np.ndarray) -> np.ndarray:
    """Rounded to single precision."""
    return values.astype(np.float32).astype(np.float64)


def _roots(boxes: ColumnBoxes, rows: np.ndarray) -> LeafNodes:
    l, u = boxes.sides
    none = np.zeros_like(l)
    plain = np.where(rows > 0, boxes.row_bounds()[0], -np.inf)
    best = np.zeros_like(rows)
    best[np.arange(len(rows)), plain.argmax(axis=1)] = 1.0
    mu = single(FAVOUR * best + (1.0 - FAVOUR) * rows / rows.sum(axis=1, keepdims=True))
    lower = np.full(len(l), -np.inf)
    return LeafNodes(np.arange(len(l)), l, u, (u > -l).astype(np.float64), none, mu, none, lower)


def _grown(leaves: LeafNodes, valid: np.ndarray, rows: np.ndarray) -> GrownTree:
    """The tree of one box, whose neurons and rows are among those of the nodes."""
    l, u = leaves.l[:, valid], leaves.u[:, valid]
    # What is fixed in a leaf but not at the root has been split; its own bounds at the root are those of other leaves.
    free, split = (l < 0) & (u > 0), (l.min(axis=0) < 0) & (u.max(axis=0) > 0)
    phase = np.where(free | ~split, 0, np.where(l >= 0, 1, -1)).astype(np.int8)
    alpha = leaves.alpha[:, valid].astype(np.float32)
    beta = np.where(free, 0.0, leaves.beta[:, valid]).astype(np.float32)
    return GrownTree(phase, alpha, beta, leaves.mu[:, rows].astype(np.float32), float(leaves.lower.min(initial=np.inf)))
