"""A tree over input boxes whose leaves a checker can bound by itself: for networks with few free inputs.

It splits as `input_tree` does, but neither clips nor hands bounds on, so that the boxes alone are the proof. What the
checker finds open after all is split further.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from milpverify.bounds.box_forms import BoxBounds, bound_boxes
from milpverify.network.graph import Bounds, Network
from milpverify.search.boxes import middle
from milpverify.search.input_tree import split_score
from milpverify.search.rows import Rows
from milpverify.spec.batch import BoxBatch
from milpverify.spec.property import Case


class BoxTree:
    """The tree, and what closes each case in each of its leaves.

    Args:
        net: The network.
        cases: All over one region, which counts as the box around it.
        bounds: Of the hidden neurons over it.
    """

    def __init__(self, net: Network, cases: Sequence[Case], bounds: Bounds) -> None:
        self._net, self._rows, self._bounds = net, Rows.of(cases, 0.0), bounds
        region = cases[0].region
        self._low, self._high = region.lower[None].copy(), region.upper[None].copy()
        self._split, self._at = np.array([-1]), np.zeros(1)
        self._first = np.zeros(1, dtype=int)  # of the two children, side by side
        self._row = np.zeros((1, len(cases)), dtype=int)  # per case the row that closes it, in leaves
        self.open = np.array([0])

    def __len__(self) -> int:
        return len(self._split)

    def grow(self, batch: int, most: int, ends: float, tell: Callable[[int, int], None] | None = None) -> bool:
        """Split until every leaf is closed by floating bounds.

        Args:
            batch: Boxes bounded together.
            most: Nodes of the tree at most.
            ends: When to give up, on `time.monotonic`'s clock.
            tell: Told nodes so far and open ones.

        Returns:
            Whether they are; False too where a box that floats cannot split is open.
        """
        while len(self.open):
            if len(self) >= most or time.monotonic() >= ends:
                return False
            if tell is not None:
                tell(len(self), len(self.open))
            some, self.open = self.open[-batch:], self.open[:-batch]
            if not self._advance(some, every=False):
                return False
        return True

    def reopen(self, leaves: np.ndarray, batch: int) -> bool:
        """Split leaves that a checker found open; False where floats cannot."""
        parts = [leaves[first : first + batch] for first in range(0, len(leaves), batch)]
        return all([self._advance(some, every=True) for some in parts])

    def _advance(self, some: np.ndarray, *, every: bool) -> bool:
        """Bound some leaves and split those that stay open, or every one."""
        found = self._bound(some)
        values = np.maximum.reduce([form.value for form in found.forms])
        keep = np.full(len(some), every)
        for case in range(self._row.shape[1]):
            mine = self._rows.of_case(case)
            self._row[some, case] = values[:, mine].argmax(axis=1)
            keep |= ~(values[:, mine].max(axis=1) > 0.0)
        score = split_score(found, self._low[some], self._high[some])[keep]
        if (score.max(axis=1, initial=-1.0) < 0).any():
            return False
        self._halve(some[keep], score.argmax(axis=1))
        return True

    def _bound(self, some: np.ndarray) -> BoxBounds:
        known = tuple(
            tuple(np.broadcast_to(layer, (len(some), len(layer))) for layer in side)
            for side in (self._bounds.lower, self._bounds.upper)
        )
        rows = self._rows
        weights = np.full((len(some), len(rows.d)), 1.0 / len(rows.d))
        boxes = BoxBatch(self._low[some], self._high[some])
        return bound_boxes(self._net, boxes, (known[0], known[1]), rows.C, weights, True).less(rows.d)

    def _halve(self, some: np.ndarray, coordinate: np.ndarray) -> None:
        low, high = self._low[some], self._high[some]
        each, at = np.arange(len(some)), middle(low, high)[np.arange(len(some)), coordinate]
        self._split[some], self._at[some] = coordinate, at
        self._first[some] = len(self) + 2 * each
        below, above = high.copy(), low.copy()
        below[each, coordinate], above[each, coordinate] = at, at
        children = len(self) + np.arange(2 * len(some))
        self._low = np.concatenate([self._low, np.stack([low, above], axis=1).reshape(-1, low.shape[1])])
        self._high = np.concatenate([self._high, np.stack([below, high], axis=1).reshape(-1, low.shape[1])])
        self._split = np.concatenate([self._split, np.full(len(children), -1)])
        self._at, self._first = (np.concatenate([v, np.zeros(len(children), v.dtype)]) for v in (self._at, self._first))
        self._row = np.concatenate([self._row, np.zeros((len(children), self._row.shape[1]), dtype=int)])
        self.open = np.concatenate([self.open, children])

    def written(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The tree in preorder as a proof has it: split and at; its leaves, as nodes; and each case's row there."""
        order = self._preorder()
        split = self._split[order].astype(np.int32)
        leaves = order[split < 0]
        return split, self._at[order], leaves, self._row[leaves]

    def _preorder(self) -> np.ndarray:
        order, waiting = [], [0]
        while waiting:
            node = waiting.pop()
            order.append(node)
            if self._split[node] >= 0:
                first = int(self._first[node])
                waiting += [first + 1, first]
        return np.array(order)
