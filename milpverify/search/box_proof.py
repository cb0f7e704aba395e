"""A tree over input boxes whose leaves a checker can bound by itself: for networks with few free inputs.

Every box is bounded by itself (`box_columns`), as the checker will, and closed by one row, or by a small tree over the
phases of its unstable neurons (`leaf_trees`), or else split. What the checker finds open after all is split further.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from milpverify.network.graph import Network
from milpverify.proof.certificate import Context, Layer, LeafTree
from milpverify.search.box_columns import BoxBounder, ColumnBoxes
from milpverify.search.boxes import divisible, middle
from milpverify.search.branching import relaxation_cost
from milpverify.search.leaf_trees import LeafTrees, Prospects
from milpverify.search.rows import Rows
from milpverify.spec.grid import Grid
from milpverify.spec.property import Case

WORDS = 2**21  # entries of a layer's expressions over the boxes that are bounded together
ERROR_WEIGHT = 8.0  # what halving an input's share of the relaxations' cost counts, next to halving its slope
TINY = 1e-300


@dataclass(frozen=True)
class BoxProver:
    """How boxes are closed and split.

    Attributes:
        trees: The small trees in boxes.
        batch: Boxes bounded together, at most.
        most: Nodes of the tree at most.
    """

    trees: LeafTrees = field(default_factory=LeafTrees)
    batch: int = 256
    most: int = 100_000


@dataclass(frozen=True)
class GridSides:
    """The sides of boxes that hold grid points only, as a checker will round them: to float64, or float32 numbers."""

    grid: Grid
    float32: bool = False

    def around(self, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers next to k / steps, below and above."""
        return self.grid.around_float32(k) if self.float32 else self.grid.around(k)


class BoxTree:
    """The tree, and what closes each case in each of its leaves.

    Args:
        net: The network.
        cases: All over one region, which counts as the box around it.
        prover: How.
        sides: Where boxes begin and end if only the points of a grid count; the region's box then does so there.
    """

    def __init__(self, net: Network, cases: Sequence[Case], prover: BoxProver, sides: GridSides | None = None) -> None:
        self._sides, self._grid = sides, None if sides is None else sides.grid
        self._net, self._rows, self._prover = net, Rows.of(cases, 0.0), prover
        self._bounder = BoxBounder(net, self._rows.C, self._rows.d)
        region = cases[0].region
        self._low, self._high = region.lower[None].copy(), region.upper[None].copy()
        self._split, self._at = np.array([-1]), np.zeros(1)
        self._first = np.zeros(1, dtype=int)  # of the two children, side by side
        self._width = np.array([sum(net.sizes)])  # unstable neurons, or those of the parent
        self._closed: dict[int, Context] = {}
        self._prospects = Prospects()
        self.open = np.array([0])

    def __len__(self) -> int:
        return len(self._split)

    def grow(self, left_s: Callable[[], float], tell: Callable[[int, int], None] | None = None) -> bool:
        """Split until every leaf is closed.

        Args:
            left_s: Asked now and then for the seconds that are left.
            tell: Told nodes so far and open ones.

        Returns:
            Whether they are; False too where a box that floats cannot split is open.
        """
        while len(self.open):
            if len(self) >= self._prover.most or left_s() <= 0:
                return False
            if tell is not None:
                tell(len(self), len(self.open))
            if not self._advance(self._next(), every=False):
                return False
        return True

    def reopen(self, leaves: np.ndarray) -> bool:
        """Split leaves that a checker found open; False where floats cannot."""
        self.open = np.concatenate([self.open, leaves])
        count = len(leaves)
        while count:
            some = self._next(count)
            count -= len(some)
            if not self._advance(some, every=True):
                return False
        return True

    def _next(self, most: int | None = None) -> np.ndarray:
        """The last open leaves, as many as fit in memory."""
        most = min(most or self._prover.batch, self._prover.batch)
        last = self.open[-most:][::-1]
        words = np.cumsum(self._width[last] + self._low.shape[1]) * max(self._net.sizes, default=1)
        count = max(1, int((words <= WORDS).sum()))
        self.open = self.open[: len(self.open) - count]
        return last[:count]

    def _advance(self, some: np.ndarray, *, every: bool) -> bool:
        """Bound some leaves, close those that can be and split the rest, or every one."""
        boxes = self._bounder.bound(self._low[some], self._high[some])
        values, row = boxes.row_bounds()
        self._width[some] = boxes.n_unstable
        left = np.ones(len(some), dtype=bool) if every else ~self._close(some, boxes, values)
        score = split_score(boxes, row, values, self._rows, self._grid)[left]
        if (score.max(axis=1, initial=-1.0) < 0).any():
            return False
        self._halve(some[left], score.argmax(axis=1))
        return True

    def _close(self, some: np.ndarray, boxes: ColumnBoxes, values: np.ndarray) -> np.ndarray:
        """Close what can be closed; which boxes are."""
        rows, n_cases = self._rows, len(self._rows.starts)
        found: list[list[LeafTree | None]] = [[None] * n_cases for _ in some]
        for case in range(n_cases):
            mine = rows.of_case(case)
            best = values[:, mine].argmax(axis=1)
            for b in np.flatnonzero(values[:, mine].max(axis=1) > 0.0).tolist():
                found[b][case] = one_leaf(len(mine), int(best[b]))
        self._grow_trees(boxes, values, found)
        done = np.array([all(tree is not None for tree in trees) for trees in found])
        for b in np.flatnonzero(done).tolist():
            trees = tuple(tree for tree in found[b] if tree is not None)
            layers = tuple(Layer("crown", layer.listed[b].astype(np.uint8)) for layer in boxes.layers)
            plain = all(tree.alpha is None for tree in trees)
            self._closed[int(some[b])] = Context(trees, None if plain else layers)
        return done

    def _grow_trees(self, boxes: ColumnBoxes, values: np.ndarray, found: list[list[LeafTree | None]]) -> None:
        """Trees for the cases that are left, the hardest of each box first: where one fails, no other is tried."""
        rows, trees = self._rows, self._prover.trees
        bound = np.maximum.reduceat(values, rows.starts, axis=1)
        few = np.flatnonzero(boxes.n_unstable <= trees.neurons)
        while len(few):
            left = np.array([[tree is None for tree in found[b]] for b in few.tolist()])
            few, left = few[left.any(axis=1)], left[left.any(axis=1)]
            if not len(few):
                return
            case = np.where(left, bound[few], np.inf).argmin(axis=1)
            wanted = (rows.case_of[None] == case[:, None]).astype(np.float64)
            grown = trees.grow(boxes.some(few), wanted, self._prospects)
            for b, c, tree in zip(few.tolist(), case.tolist(), grown, strict=True):
                found[b][c] = None if tree is None else tree.written()
            few = few[[tree is not None for tree in grown]]

    def _halve(self, some: np.ndarray, coordinate: np.ndarray) -> None:
        low, high, each = self._low[some], self._high[some], np.arange(len(some))
        at = end = begin = middle(low, high)[each, coordinate]
        if self._sides is not None:
            grid = self._sides.grid
            first = np.floor((grid.nearest(low) + grid.nearest(high))[each, coordinate] / 2)
            at, end, begin = grid.values(first + 0.5), self._sides.around(first)[1], self._sides.around(first + 1)[0]
        self._split[some], self._at[some] = coordinate, at
        self._first[some] = len(self) + 2 * each
        below, above = high.copy(), low.copy()
        below[each, coordinate], above[each, coordinate] = end, begin
        children = len(self) + np.arange(2 * len(some))
        self._low = np.concatenate([self._low, np.stack([low, above], axis=1).reshape(-1, low.shape[1])])
        self._high = np.concatenate([self._high, np.stack([below, high], axis=1).reshape(-1, low.shape[1])])
        self._split = np.concatenate([self._split, np.full(len(children), -1)])
        self._at, self._first = (np.concatenate([v, np.zeros(len(children), v.dtype)]) for v in (self._at, self._first))
        self._width = np.concatenate([self._width, np.repeat(self._width[some], 2)])
        self.open = np.concatenate([self.open, children])

    def written(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[Context, ...]]:
        """The tree in preorder as a proof has it: split and at; its leaves, as nodes, and what closes them."""
        order = self._preorder()
        split = self._split[order].astype(np.int32)
        leaves = order[split < 0]
        return split, self._at[order], leaves, tuple(self._closed[leaf] for leaf in leaves.tolist())

    def _preorder(self) -> np.ndarray:
        order, waiting = [], [0]
        while waiting:
            node = waiting.pop()
            order.append(node)
            if self._split[node] >= 0:
                first = int(self._first[node])
                waiting += [first + 1, first]
        return np.array(order)


def one_leaf(m: int, row: int) -> LeafTree:
    """One leaf that one of m rows closes."""
    if m == 1:
        return LeafTree()
    mu = np.zeros((1, m), dtype=np.float32)
    mu[0, row] = 1.0
    return LeafTree(mu=mu)


@np.errstate(over="ignore", invalid="ignore")
def split_score(
    boxes: ColumnBoxes, row: np.ndarray, values: np.ndarray, rows: Rows, grid: Grid | None = None
) -> np.ndarray:
    """What halving each input promises, (b, n); -1 where no float lies between its sides, or no two grid points.

    As in `input_tree`: its share of what the relaxations cost, and its slope; of the best row of the hardest case.

    Args:
        boxes: b boxes.
        row, values: As of their `row_bounds`.
        rows: Of all cases.
        grid: Whose points alone count.
    """
    n, (l, u) = boxes.n, boxes.sides
    hard = np.maximum.reduceat(values, rows.starts, axis=1).argmin(axis=1)
    best = np.where(rows.case_of[None] == hard[:, None], values, -np.inf).argmax(axis=1)
    lam, width = row[np.arange(len(row)), best], np.maximum(u - l, TINY)
    slope = np.clip(u / width, 0.0, 1.0)
    feed = np.zeros((*l.shape, n))  # what a unit of each input adds to each neuron
    for layer in boxes.layers:
        place = slice(layer.place.start - n, layer.place.stop - n)
        below = slope[:, : place.start, None] * feed[:, : place.start]
        feed[:, place] = layer.E[..., :n] + layer.E[..., n:] @ below
    cost = relaxation_cost(l, u, lam[:, n:]) / width
    share = (cost[..., None] * np.abs(feed)).sum(axis=1)
    score = (2.0 * ERROR_WEIGHT * share + np.abs(lam[:, :n])) * (boxes.high / 2 - boxes.low / 2)
    return np.where(divisible(boxes.low, boxes.high, grid), np.nan_to_num(score), -1.0)
