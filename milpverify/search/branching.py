"""Which neuron a node is split at: a cheap score, and a look at both children of the best few.

Source: Bunel et al. 2020 (BaBSR: what a neuron's relaxation costs the bound); Wang et al. 2021 and De Palma et al. 2021
(filtered smart branching).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from milpverify.bounds.nodes import NodeProblem
from milpverify.search.domain import Nodes

LOWER_SHARE = 0.3  # what the lower side of a triangle counts for, next to the upper one
SECOND_CHILD = 0.1  # what the better child counts for, next to the worse one
LARGEST = float(np.finfo(np.float32).max)  # of what an ascent computes in
LAST_RESORT = 1e-9  # of the width of a neuron that no score speaks for


def relaxation_cost(l: np.ndarray, u: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """What the triangle of every free neuron costs a dual bound with these lambda, (B, N). Floating."""
    free = (l < 0) & (u > 0)
    area = np.where(free, -l * u / np.where(free, u - l, 1.0), 0.0)
    lower = np.where(free, np.minimum(u, -l), 0.0)
    return np.asarray(np.maximum(-lam, 0.0) * area + LOWER_SHARE * np.maximum(lam, 0.0) * lower)


def ranked(nodes: Nodes) -> np.ndarray:
    """The nodes' scores, -1 where a neuron is not free and never 0 where one is, (B, N)."""
    free = nodes.free
    return np.where(free, nodes.score + LAST_RESORT * np.where(free, nodes.u - nodes.l, 0.0), -1.0)


@dataclass(frozen=True, eq=False)
class Chains:
    """Per node k neurons to split one after the other: what is beyond the first is split only where the one before has
    its hard phase.

    Attributes:
        neuron: The best first, (B, k).
        hard: Whether the child that looks harder is the active one, (B, k).
        real: Whether it is a split at all: a node may have fewer free neurons, (B, k); the first always is one.
    """

    neuron: np.ndarray
    hard: np.ndarray
    real: np.ndarray

    def __getitem__(self, index: Any) -> Chains:
        return Chains(self.neuron[index], self.hard[index], self.real[index])

    @classmethod
    def concat(cls, parts: Sequence[Chains]) -> Chains:
        """The chains of batches one after the other."""
        return cls(*(np.concatenate([getattr(p, part.name) for p in parts]) for part in fields(cls)))

    @classmethod
    def by_score(cls, nodes: Nodes) -> Chains:
        """Every node at its neuron of best score."""
        neuron = ranked(nodes).argmax(axis=1)[:, None]
        return cls(neuron, np.ones(neuron.shape, dtype=bool), np.ones(neuron.shape, dtype=bool))

    def children(self, nodes: Nodes) -> tuple[Nodes, np.ndarray]:
        """The children, which cover the nodes, and of each the lowest neuron that it was split at."""
        rest, lowest, parts = nodes, np.full(len(nodes), nodes.l.shape[1]), []
        for neuron, hard, real in zip(self.neuron.T, self.hard.T, self.real.T, strict=True):
            easy, rest = rest.fixed(neuron, ~hard, real), rest.fixed(neuron, hard, real)
            lowest = np.where(real, np.minimum(lowest, neuron), lowest)
            parts.append((easy[real], lowest[real]))
        parts.append((rest, lowest))
        return Nodes.concat([part for part, _ in parts]), np.concatenate([low for _, low in parts])


def choose(problem: NodeProblem, nodes: Nodes, candidates: int, length: int = 1) -> Chains:
    """Per node the free neurons to split at; every node must have one. Floating.

    Args:
        problem: The nodes' problem.
        nodes: Which.
        candidates: Neurons of each node whose children are looked at, at least; 1 takes the best score alone.
        length: Neurons of each node that are wanted.
    """
    score = ranked(nodes)
    if min(candidates, score.shape[1]) <= 1:
        return Chains.by_score(nodes)
    count = min(max(candidates, length), score.shape[1])
    neuron = np.argpartition(-score, count - 1, axis=1)[:, :count]
    real = np.take_along_axis(score, neuron, axis=1) >= 0
    index = np.repeat(np.arange(len(nodes)), count)
    children = nodes[index].split(neuron.reshape(-1))
    value = problem.ascend(children.l, children.u, children.multipliers, 0, 1.0).value.reshape(2, len(nodes), count)
    gain = np.nan_to_num(value.min(axis=0) + SECOND_CHILD * value.max(axis=0), nan=-LARGEST, neginf=-LARGEST)
    gain = np.where(real, gain, -np.inf)  # so that a split always comes before none
    best = np.argsort(-gain, axis=1, kind="stable")[:, :length]
    parts = (np.take_along_axis(part, best, axis=1) for part in (neuron, value[0] < value[1], real))
    return Chains(*parts)
