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


def scores(nodes: Nodes) -> np.ndarray:
    """What splitting each neuron may gain, (B, N); -1 where it is not free. Floating."""
    free = nodes.free
    span = np.where(free, nodes.u - nodes.l, 1.0)
    area = np.where(free, -nodes.l * nodes.u / span, 0.0)
    cost = np.maximum(-nodes.lam, 0.0) * area
    cost += LOWER_SHARE * np.maximum(nodes.lam, 0.0) * np.minimum(nodes.u, -nodes.l)
    return np.where(free, cost + 1e-9 * span, -1.0)


def choose(problem: NodeProblem, nodes: Nodes, candidates: int) -> np.ndarray:
    """Per node the free neuron to split at, (B,); every node must have one. Floating.

    Args:
        problem: The nodes' problem.
        nodes: Which.
        candidates: Neurons of each node whose children are looked at; 1 takes the best score.
    """
    score = scores(nodes)
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
