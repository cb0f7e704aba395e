"""Bounds of hidden neurons for a proof: slopes that ascend for each neuron, then a small tree where those do not do.

What `bounds.slopes.AlphaCrown` and `search.neuron_trees` find for a verdict, with the multipliers kept as a proof has
them (docs/proofs.md, section 2, "Claims"). Layer by layer, for each layer's bounds enter those above.

Source: Xu et al. 2021 (alpha-CROWN, intermediate bounds refined by branch and bound); Zhang et al. 2022.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from milpverify.bounds.ascent import Ascent, Climb, ascend
from milpverify.bounds.backward import Crown, interval_is_exact
from milpverify.bounds.compute import make_problem
from milpverify.bounds.node_parts import Multipliers
from milpverify.bounds.nodes import NodeProblem
from milpverify.bounds.problem import DualProblem, open_neurons
from milpverify.bounds.semantics import REAL, Semantics
from milpverify.bounds.small import folded_neurons, small_problem
from milpverify.network.graph import Network
from milpverify.proof.certificate import Claims, Layer
from milpverify.search.bounding import Ascending
from milpverify.search.domain import FIRST_ROOM, Nodes
from milpverify.search.neuron_trees import both_signs, root_of_row
from milpverify.search.phase_proof import preorder
from milpverify.search.row_trees import RowTree, grow_together
from milpverify.spec.regions import Region

SPARE = 1e-6  # of a neuron's width: room for the checker's own rounding
LEAST_GAIN = 0.01  # of a neuron's width: what gains less is not written down
TOGETHER = 16  # sides of neurons whose trees grow at once
LAYER_SHARE = 0.5  # of the time left, for the trees of one layer
BUDGET_BYTES = 2**28  # of rows that ascend together, and of trees that grow together
STEPS = 255  # alpha is written in steps of 1/255

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class NeuronProver:
    """Claims bounds of the neurons that the rule crown leaves unstable.

    Attributes:
        steps: Of the ascent of each layer's neurons.
        nodes: Of one side's tree at most; 0 for none.
        ascents: Bounds the nodes of trees.
    """

    steps: int = 40
    nodes: int = 100
    ascents: Ascending = field(default_factory=lambda: Ascending(batch=64))

    def layers(
        self,
        net: Network,
        region: Region,
        semantics: Semantics = REAL,
        left_s: Callable[[], float] = lambda: math.inf,
        tell: Tell | None = None,
    ) -> tuple[Layer, ...]:
        """What a proof says about every hidden layer: unstable neurons, and claims.

        Neurons that nobody has come to when time is up get none.

        Args:
            net: The network.
            region: A box.
            semantics: Of the proof.
            left_s: Asked now and then for the seconds that are left.
            tell: Told the layer's number, and how many of its neurons are unstable.
        """
        problem, layers = make_problem(net, region, None, semantics), list[Layer]()
        for k in range(1, problem.n_hidden + 1):
            work = _LayerClaims(self, problem, k, left_s)
            if not interval_is_exact(problem, k):
                if tell is not None:
                    tell(k, len(open_neurons(work.l, work.u)))
                work.ascend()
                if self.nodes:
                    work.grow(LAYER_SHARE if k < problem.n_hidden else 1.0)
            if left_s() <= 0:  # nothing is known of what has not been looked at
                break
            l, u = work.loosened()
            # An active neuron that is a column has its own bounds: the checker's intervals above are then those here.
            layers.append(Layer("crown", (u > 0).astype(np.uint8), work.written(layers)))
            problem = problem.with_layer(l, u)
        return (*layers, *[Layer()] * (problem.n_hidden - len(layers)))


@dataclass(frozen=True, eq=False)
class _Tree:
    """A claim: its leaves with their multipliers as they are written down, and what follows."""

    phase: np.ndarray  # (leaves, unstable neurons below)
    alpha: np.ndarray  # u1
    beta: np.ndarray
    value: float


class _LayerClaims:
    """The claims about one layer, whose row r < n is a neuron and n + r its negative.

    Args:
        how: Options.
        problem: Bounds the layers below.
        k: Which layer, from 1.
        left_s: Seconds left.
    """

    def __init__(self, how: NeuronProver, problem: DualProblem, k: int, left_s: Callable[[], float]) -> None:
        self.how, self.problem, self.k, self.left_s = how, problem, k, left_s
        self.l, self.u = Crown().layer(problem, k)
        self.width = self.u - self.l
        self.claims: dict[int, _Tree] = {}

    def loosened(self) -> tuple[np.ndarray, np.ndarray]:
        """The bounds with room for the checker's rounding."""
        spare = SPARE * self.width
        return self.l - spare, self.u + spare

    def written(self, below: Sequence[Layer]) -> tuple[Claims, ...]:
        """The claims as a proof has them, over the neurons that the layers below list: of one leaf, and of trees."""
        places, found = Places.of(below, self._below()), []
        for single in (True, False):
            some = {row: tree for row, tree in sorted(self.claims.items()) if (len(tree.alpha) == 1) == single}
            if some:
                found.append(_claims(some, places))
        return tuple(found)

    def ascend(self) -> None:
        """Claims of one leaf, for all neurons that are unstable."""
        for small, index in self._problems(open_neurons(self.l, self.u)):
            n = len(index)
            both = np.concatenate([np.eye(n), -np.eye(n)])
            climb = Climb.of(small, self.k, both)
            partner = np.concatenate([np.arange(n) + n, np.arange(n)])
            alpha = _bytes(np.concatenate(ascend(climb, Ascent(self.how.steps), 0.0, partner).alpha, axis=1))
            nodes = NodeProblem.of(both_signs(small), np.zeros(2 * n))
            value = nodes.claim(*_roots(nodes, alpha, np.eye(2 * n)))
            none = np.zeros((1, nodes.n_neurons), dtype=np.float32)
            for place in range(2 * n):
                tree = _Tree(none.astype(np.int8), alpha[place : place + 1], none, float(value[place]))
                self._take(int(index[place % n]), place >= n, tree)

    def grow(self, share: float) -> None:
        """Trees for the neurons that are still unstable, those nearest to a settled sign first.

        Args:
            share: Of the time left, for all of them.
        """
        ends = time.monotonic() + share * self.left_s() if share < 1.0 else math.inf
        left_s = lambda: min(self.left_s(), ends - time.monotonic())  # noqa: E731
        index = open_neurons(self.l, self.u)
        index = index[np.argsort(np.minimum(-self.l, self.u)[index], kind="stable")]
        for small, some in self._problems(index):
            problem = NodeProblem.of(both_signs(small), np.zeros(2 * len(some)))
            step = max(1, min(TOGETHER, BUDGET_BYTES // (FIRST_ROOM * 6 * 8 * max(problem.n_neurons, 1))))
            for first in range(0, len(some), step):
                own = np.arange(first, min(first + step, len(some)))
                above = -self.l[some[own]] > self.u[some[own]]  # the upper side is nearer to its sign
                for upper in (above, ~above):
                    left = (self.l[some[own]] < 0) & (self.u[some[own]] > 0)
                    if left.any() and left_s() > 0:
                        self._grow_some(
                            problem, some[own[left]], upper[left], own[left] + upper[left] * len(some), left_s
                        )

    def _problems(self, index: np.ndarray) -> Iterator[tuple[DualProblem, np.ndarray]]:
        """Condensed problems whose last layer are some of the neurons, as many as fit."""
        columns = self.problem.n_inputs + sum(len(open_neurons(*side)) for side in self._below())
        step = max(1, BUDGET_BYTES // (2 * 8 * 6 * columns))
        for first in range(0, len(index), step):
            some = index[first : first + step]
            if self.left_s() > 0:
                yield small_problem(self.problem, self.k, folded_neurons(self.problem, self.k, some)), some

    def _below(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield from zip(self.problem.lower, self.problem.upper, strict=True)

    def _take(self, neuron: int, upper: bool, tree: _Tree) -> None:
        """Keep a claim that gains; of a neuron that is inactive no other is of use."""
        side, n = self.u if upper else self.l, len(self.l)
        value = -tree.value if upper else tree.value
        gain = (side[neuron] - value) if upper else (value - side[neuron])
        settles = tree.value > SPARE * self.width[neuron]
        if not self.l[neuron] < 0 < self.u[neuron] or not (settles or gain > LEAST_GAIN * self.width[neuron]):
            return
        side[neuron] = value
        self.claims[neuron + upper * n] = tree
        if settles and upper:
            self.claims.pop(neuron, None)

    def _grow_some(
        self,
        problem: NodeProblem,
        neurons: np.ndarray,
        upper: np.ndarray,
        rows: np.ndarray,
        left_s: Callable[[], float],
    ) -> None:
        """Trees for some sides of neurons, which are rows of a problem."""
        n = len(self.l)
        crown = np.asarray(problem.root[1] > -problem.root[0], dtype=float)[None]
        growing = []
        for neuron, up, row in zip(neurons.tolist(), upper.tolist(), rows.tolist(), strict=True):
            start = self.claims.get(neuron + up * n)
            alpha = crown if start is None else start.alpha / STEPS
            lower = -self.u[neuron] if up else self.l[neuron]
            root = root_of_row(problem, row, float(lower), (alpha, np.zeros((1, 0))))
            growing.append(RowTree(root, LEAST_GAIN * self.width[neuron]))
        grow_together(self.how.ascents, self.how.nodes, problem, growing, left_s)
        for neuron, up, tree in zip(neurons.tolist(), upper.tolist(), growing, strict=True):
            self._take(neuron, up, _written(problem, tree.leaves))


def _written(problem: NodeProblem, leaves: Nodes) -> _Tree:
    """Leaves as they are written down, and what follows from them so."""
    free = leaves.free
    phase = np.where(free, 0, np.where(leaves.l >= 0, 1, -1)).astype(np.int8)
    alpha, beta = _bytes(np.where(free, leaves.alpha, 0.0)), np.where(free, 0.0, leaves.beta).astype(np.float32)
    found = Multipliers(alpha / STEPS, beta.astype(float), leaves.theta, leaves.mu)
    return _Tree(phase, alpha, beta, float(problem.claim(leaves.l, leaves.u, found).min()))


@dataclass(frozen=True, eq=False)
class Places:
    """Where the unstable neurons are among those that layers list as such, which may be more.

    Attributes:
        index: The place of each unstable neuron.
        count: How many are listed.
    """

    index: np.ndarray
    count: int

    @classmethod
    def of(cls, layers: Sequence[Layer], bounds: Iterable[tuple[np.ndarray, np.ndarray]]) -> Places:
        """Those of layers with bounds l and u each; a layer without a list lists its unstable neurons."""
        none, free, listed = np.zeros(0, dtype=bool), list[np.ndarray](), list[np.ndarray]()
        for layer, (l, u) in zip(layers, bounds, strict=True):
            free.append((l < 0) & (u > 0))
            listed.append(free[-1] if layer.unstable is None else layer.unstable == 1)
        inside = np.concatenate([none, *free])[np.concatenate([none, *listed])]
        return cls(np.flatnonzero(inside), len(inside))

    @property
    def all_(self) -> bool:
        """Whether no others are listed."""
        return len(self.index) == self.count

    def split(self, entries: np.ndarray) -> np.ndarray:
        """Trees over unstable neurons as trees over listed ones."""
        return np.where(entries < 0, -1, np.append(self.index, -1)[entries]).astype(np.int32)

    def spread(self, values: np.ndarray, other: float) -> np.ndarray:
        """(leaves, unstable) as (leaves, listed), with another number where a neuron is only listed."""
        wide = np.full((len(values), self.count), other, dtype=values.dtype)
        wide[:, self.index] = values
        return wide


def _claims(trees: dict[int, _Tree], places: Places) -> Claims:
    """Trees by rows as a proof has them."""
    splits, alphas, betas = [], [], []
    for tree in trees.values():
        own, order = preorder(tree.phase)
        splits.append(own)
        alphas.append(tree.alpha[order])
        betas.append(tree.beta[order])
    rows, split = np.array(list(trees), dtype=np.int32), places.split(np.concatenate(splits))
    alpha, beta = places.spread(np.concatenate(alphas), STEPS), places.spread(np.concatenate(betas), 0.0)
    return Claims(rows, split if len(split) > len(rows) else None, alpha, beta if beta.any() else None)


def _bytes(alpha: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(alpha, 0.0, 1.0) * STEPS).astype(np.uint8)


def _roots(problem: NodeProblem, alpha: np.ndarray, mu: np.ndarray) -> tuple[np.ndarray, np.ndarray, Multipliers]:
    """Bounds and multipliers of nodes without splits."""
    l, u = (np.broadcast_to(side, alpha.shape) for side in problem.root)
    none = np.zeros(alpha.shape)
    return l, u, Multipliers(alpha / STEPS, none, np.zeros((len(alpha), 0)), mu)
