"""Trees over phases that raise the bounds of several rows of one problem, grown at once, with their leaves kept.

A step of the ascent costs nearly the same for the nodes of many small trees as for those of one.

Source: as of `search.neuron_trees`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from milpverify.bounds.nodes import NodeProblem
from milpverify.search.bounding import Ascending
from milpverify.search.domain import Nodes, Pool

LOOK, HOPE = 32, 4.0  # nodes before a tree must be likely to settle its row, by how much more than so far it gains
LEAST_BATCH = 4
BUDGET_BYTES = 2**28  # of a tree's nodes


class RowTree:
    """A tree whose leaves are in a pool, or done with: one that ends once its bound is clearly positive.

    Args:
        root: Bounded as far as is known.
        enough: What is clearly positive.
    """

    def __init__(self, root: Nodes, enough: float) -> None:
        self.enough, self.start = enough, float(root.lower[0])
        self.pool, self.settled = Pool(root, BUDGET_BYTES), math.inf
        self.done: list[Nodes] = [root[:0]]
        self.pool.push(root)
        self.count = 0

    @property
    def leaves(self) -> Nodes:
        """All of them."""
        return Nodes.concat([*self.done, self.pool.all()])

    def grows(self, most: int) -> bool:
        """Whether it is worth going on."""
        lowest = min(float(self.pool.lower(1)[0]), self.settled)
        hopeless = self.count >= LOOK and lowest + HOPE * (lowest - self.start) < 0
        return not (self.count >= most or self.settled <= lowest or hopeless)

    def pop(self, most: int) -> Nodes:
        """The leaves to split next."""
        nodes = self.pool.pop(max(min(most, len(self.pool) // 2), LEAST_BATCH))
        self.pool.release()
        return nodes

    def push(self, nodes: Nodes) -> None:
        """New leaves, bounded."""
        self.count += len(nodes)
        ends = (nodes.lower >= self.enough) | ~nodes.free.any(axis=1)
        self.done.append(nodes[ends])
        self.settled = min(self.settled, float(nodes.lower[ends].min(initial=math.inf)))
        self.pool.push(nodes[~ends])


def grow_together(
    ascents: Ascending, most: int, problem: NodeProblem, trees: Sequence[RowTree], left_s: Callable[[], float]
) -> None:
    """Grow trees of different rows of a problem; a step takes leaves of all of them.

    Args:
        ascents: Bounds the nodes.
        most: Nodes of each tree.
        problem: Of all rows.
        trees: With their roots.
        left_s: Asked after each step for the seconds that are left.
    """
    owner = list(range(len(trees)))
    nodes = _owned([tree.pop(1) for tree in trees], owner)
    while True:
        nodes, _ = ascents.bound(problem, nodes)
        for i in owner:
            mine = nodes[nodes.case == i]
            trees[i].push(replace(mine, case=np.zeros(len(mine), dtype=int)))
        owner = [i for i in owner if trees[i].grows(most)]
        if not owner or left_s() <= 0:
            return
        parts = [trees[i].pop(ascents.batch) for i in owner]
        nodes = _owned(parts, owner)
        nodes, _ = ascents.chains(problem, nodes, max(map(len, parts))).children(nodes)


def _owned(parts: Sequence[Nodes], owner: Sequence[int]) -> Nodes:
    """The nodes one after the other, each with its tree's number as its case."""
    return replace(Nodes.concat(parts), case=np.repeat(owner, [len(part) for part in parts]))
