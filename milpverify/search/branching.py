"""Which neuron a node is split at: a cheap score, and a look at both children of the best few.

Source: Bunel et al. 2020 (BaBSR: what a neuron's relaxation costs the bound); Wang et al. 2021 and De Palma et al. 2021
(filtered smart branching).
"""

from __future__ import annotations

import numpy as np

from milpverify.bounds.nodes import NodeProblem
from milpverify.search.domain import Nodes

LOWER_SHARE = 0.3  # what the lower side of a triangle counts for, next to the upper one
SECOND_CHILD = 0.1  # what the better child counts for, next to the worse one
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


def choose(problem: NodeProblem, nodes: Nodes, candidates: int) -> np.ndarray:
    """Per node the free neuron to split at, (B,); every node must have one. Floating.

    Args:
        problem: The nodes' problem.
        nodes: Which.
        candidates: Neurons of each node whose children are looked at; 1 takes the best score.
    """
    score = ranked(nodes)
    count = min(candidates, score.shape[1])
    if count <= 1:
        return np.asarray(score.argmax(axis=1))
    top = np.argpartition(-score, count - 1, axis=1)[:, :count]
    index = np.repeat(np.arange(len(nodes)), count)
    neuron = top.reshape(-1)
    worth = np.take_along_axis(score, top, axis=1).reshape(-1) >= 0
    neuron = np.where(worth, neuron, score.argmax(axis=1)[index])  # a node with few free neurons: try one twice
    children = nodes[index].split(neuron)
    value = problem.ascend(children.l, children.u, children.multipliers, 0, 1.0).value
    value = value.reshape(2, len(nodes), count)
    gain = value.min(axis=0) + SECOND_CHILD * value.max(axis=0)
    return np.asarray(neuron.reshape(len(nodes), count)[np.arange(len(nodes)), gain.argmax(axis=1)])
