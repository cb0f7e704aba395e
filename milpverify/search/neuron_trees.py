"""Bounds of hidden neurons by a small tree each: what no relaxation of the layers below can give.

A few splits for every neuron cost seconds, and pay twice: neurons become stable, and the layers above are bounded over
what is left. On deep dense networks that settles what a tree over the whole network does not reach.

Source: Xu et al. 2021 and Zhang et al. 2022 (intermediate bounds refined by branch and bound and by programs); Tjeng et
al. 2019 (by programs); here on the dual function.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import numpy as np

from milpverify.bounds.ascent import dense_weights
from milpverify.bounds.nodes import NodeProblem
from milpverify.bounds.planes import Planes
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.processes import share
from milpverify.bounds.slopes import KappaCrown
from milpverify.bounds.small import seen_problem
from milpverify.errors import OptionError
from milpverify.network.arrays import to_host
from milpverify.network.graph import Affine
from milpverify.network.operators import Dense
from milpverify.search.bounding import Ascending
from milpverify.search.domain import Nodes, Pool
from milpverify.search.planes import plane_slopes

LEAST_BATCH = 4
LEAST_GROUPS = 2  # of neurons for each worker
LOOK, HOPE = 64, 4.0  # nodes before a tree must be likely to settle its neuron, by how much more than so far it gains
POOL_BYTES = 2**30


@dataclass(frozen=True)
class NeuronTrees(KappaCrown):
    """Input-wise multipliers, and then for each neuron that stays unstable a tree over the phases below it.

    Slower than `KappaCrown` by a factor of about five, and much tighter from the third layer on.

    Attributes:
        nodes: Of one side of one neuron, at most.
        ascents: Bounds them.
        workers: Processes that share a layer's neurons, where those are enough to pay for starting them. More than one
            needs the usual `if __name__ == "__main__":` in the script.

    Neurons that nobody has come to when `ascent.ends` is over get no tree.

    Raises:
        OptionError: If `nodes` is negative, or there is no worker.
    """

    layer_kappa_steps: int = 30
    nodes: int = 400
    ascents: Ascending = field(default_factory=lambda: Ascending(batch=64))
    workers: int = 1
    name: ClassVar[str] = "trees"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nodes < 0 or self.workers < 1:
            raise OptionError(
                f"NeuronTrees: nodes={self.nodes} must not be negative, and workers={self.workers} at least 1."
            )

    def groups_after(
        self, small: DualProblem, groups: Sequence[np.ndarray], l: np.ndarray, u: np.ndarray
    ) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        if self.workers < 2 or len(groups) < LEAST_GROUPS * self.workers:
            return super().groups_after(small, groups, l, u)
        pieces = [(seen_problem(small, some), l[some], u[some]) for some in groups]
        return share("NeuronTrees", partial(_bounded, replace(self, workers=1)), pieces, self.workers)

    def neurons_after(self, small: DualProblem, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (l, u) if self.ascent.late else super().neurons_after(small, l, u)

    def sides_after(self, small: DualProblem, planes: Planes, sides: np.ndarray) -> np.ndarray:
        problem, n = NodeProblem.of(both_signs(small), np.zeros(len(sides))), len(sides) // 2
        slopes, sides = plane_slopes(problem, planes), sides.copy()
        alpha, theta = (np.concatenate([*map(to_host, of)], axis=1) for of in (planes.slopes.alpha, planes.share))
        for i in range(n):
            for row in (i, n + i) if sides[i] > sides[n + i] else (n + i, i):  # first the side nearer to its sign
                if max(sides[i], sides[n + i]) >= 0 or self.ascent.late:
                    break
                planed = problem.with_planes(np.arange(problem.n_neurons), slopes[row])
                root = root_of_row(planed, row, float(sides[row]), (alpha[row : row + 1], theta[row : row + 1]))
                sides[row] = self._raised(planed, root)
        return sides

    def _raised(self, problem: NodeProblem, root: Nodes) -> float:
        """A lower bound of the root, by a tree that ends once it is not negative."""
        lower, settled = float(root.lower[0]), np.inf
        nodes, _ = self.ascents.bound(problem, root)
        pool, count = Pool(nodes, POOL_BYTES), 0
        while True:
            nodes = nodes[~(nodes.l > nodes.u).any(axis=1)]
            done = (nodes.lower >= 0) | ~nodes.free.any(axis=1)
            settled = min(settled, float(nodes.lower[done].min(initial=np.inf)))
            pool.push(nodes[~done])
            lowest = min(float(pool.lower(1)[0]), settled)
            hopeless = count >= LOOK and lowest + HOPE * (lowest - lower) < 0
            if count >= self.nodes or settled <= lowest or hopeless:
                return max(lowest, lower)
            nodes = pool.pop(max(min(self.ascents.batch, len(pool) // 2), LEAST_BATCH))
            pool.release()
            nodes, _ = self.ascents.chains(problem, nodes, len(nodes)).children(nodes)
            count += len(nodes)
            nodes, _ = self.ascents.bound(problem, nodes)


def _bounded(method: NeuronTrees, piece: tuple[DualProblem, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What a worker does for one group of neurons."""
    return method.neurons_after(*piece)


def root_of_row(problem: NodeProblem, row: int, lower: float, start: tuple[np.ndarray, np.ndarray]) -> Nodes:
    """The node without splits, about one row.

    Args:
        problem: With planes.
        row: Which.
        lower: What is proven of it.
        start: alpha and theta, (1, N) each.
    """
    l, u = (side[None].copy() for side in problem.root)
    mu = np.zeros((1, len(problem.d)), problem.dtype)
    mu[0, row] = 1.0
    alpha, theta = (part.astype(problem.dtype) for part in start)
    none = np.zeros_like(alpha)
    return Nodes(l, u, alpha, none, theta, mu, none, np.zeros(1, dtype=int), np.array([lower]), np.zeros(1))


def both_signs(small: DualProblem) -> DualProblem:
    """The problem on the host, with the neurons of its last layer and then their negatives as the last layer."""
    ends = np.cumsum([small.n_inputs, *(layer.size for layer in small.layers[:-1])]).tolist()
    layers = []
    for j, layer in enumerate(small.layers, start=1):
        weights, bias = dense_weights(small, j, tuple(ends)), layer.bias
        if j == len(small.layers):
            weights, bias = np.concatenate([weights, -weights]), np.concatenate([bias, -bias])
        blocks = enumerate(np.split(weights, ends[: j - 1], axis=1))
        layers.append(Affine(tuple((i, Dense(part)) for i, part in blocks), ((None, bias),), len(bias), layer.name))
    slack = (*small.slack[:-1], np.concatenate([small.slack[-1], small.slack[-1]]))
    return replace(small, layers=tuple(layers), slack=slack, like=np.zeros(0))
