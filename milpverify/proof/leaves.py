"""The leaves of trees over unstable neurons: every leaf's row is walked down with the leaf's own choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from milpverify.proof.certificate import Context, LeafTree, PlaneSet
from milpverify.proof.contexts import BoundedBoxes, RejectedError
from milpverify.proof.fixed_point import Integers
from milpverify.proof.forms import Forms
from milpverify.proof.walk import Choices, HiddenLayer, LayerPlanes, walk

CHUNK_ENTRIES = 1 << 20  # leaves times columns that are walked together


def leaf_values(
    integers: Integers, boxes: BoundedBoxes, rows: Forms, contexts: Sequence[Context], case: int, names: Sequence[str]
) -> list[list[int | None]]:
    """V of every leaf of every context's tree of one case; None where the leaf is empty.

    Args:
        rows: The expressions of C y - d - t, for every box.
        case: The place of the case in its group.
        names: Of the contexts, for reasons.

    Raises:
        RejectedError: If a tree does not fit the network or the case.
    """
    trees = [context.trees[case] for context in contexts]
    n_inputs = boxes.layers[0].start if boxes.layers else boxes.columns.count
    for context, places, name in zip(contexts, boxes.places, names, strict=True):
        for planes in context.planes:
            _demand_planes(planes, n_inputs, len(places), name)
    names = [f"{name}, tree {case}" for name in names]
    for tree, places, name in zip(trees, boxes.places, names, strict=True):
        _demand_shapes(tree, len(places), rows.E.shape[1], name)
    step = max(1, CHUNK_ENTRIES // max(boxes.columns.count, 1))
    together = all(tree.planes is None and tree.n_leaves * len(trees) <= step for tree in trees)
    found: list[list[int | None]] = [[] for _ in trees]
    # Small trees of all boxes are walked together, other ones alone, some leaves at a time.
    for part in [slice(0, len(trees))] if together else [slice(b, b + 1) for b in range(len(trees))]:
        some = _Boxes(integers, boxes.at(part), Forms(rows.E[part], rows.beta[part], rows.eps[part]))
        used = some.planes(contexts[part.start].planes, trees[part.start])
        leaves = [_leaves(tree, len(own), step) for tree, own in zip(trees[part], some.boxes.places, strict=True)]
        for chunks in zip(*leaves, strict=True):
            for own, values in zip(found[part], some.values(trees[part], chunks, used), strict=True):
                own += values
    return found


@dataclass(frozen=True, eq=False)
class _Leaves:
    """Some leaves of a tree: their numbers, and which neurons are fixed, (leaves, unstable neurons)."""

    numbers: slice
    active: np.ndarray
    inactive: np.ndarray


def _leaves(tree: LeafTree, n_unstable: int, step: int) -> Iterator[_Leaves]:
    """The leaves in their order, some at a time."""
    waiting = [np.zeros((2, n_unstable), dtype=bool)]
    done: list[np.ndarray] = []
    first = 0
    for u in [-1] if tree.split is None else tree.split.tolist():
        fixed = waiting.pop()
        if u < 0:
            done.append(fixed)
        else:
            for side in (1, 0):
                child = fixed.copy()
                child[side, u] = True
                waiting.append(child)
        if done and (len(done) == step or not waiting):
            both = np.array(done)
            yield _Leaves(slice(first, first + len(done)), both[:, 0], both[:, 1])
            first, done = first + len(done), []


def _demand_shapes(tree: LeafTree, n_unstable: int, n_rows: int, name: str) -> None:
    """Refuse splits and arrays that do not fit the unstable neurons, and mu that does not fit the rows."""
    for what, values in (("alpha", tree.alpha), ("beta", tree.beta)):
        if values is not None and values.shape[1] != n_unstable:
            raise RejectedError(f"{name}: {what} has {values.shape[1]} columns for {n_unstable} unstable neurons")
    if (1 if tree.mu is None else tree.mu.shape[1]) != n_rows:
        raise RejectedError(f"{name}: mu does not fit the {n_rows} rows of its case")
    if tree.split is not None and tree.split.max() >= n_unstable:
        raise RejectedError(f"{name}: a split of neuron {tree.split.max()}, where {n_unstable} are unstable")


def _demand_planes(planes: PlaneSet, n_inputs: int, n_unstable: int, name: str) -> None:
    """Refuse planes that do not fit the columns."""
    count = n_inputs + n_unstable
    if planes.P.shape[1] != count:
        raise RejectedError(f"{name}: planes over {planes.P.shape[1]} columns, where there are {count}")
    if len(planes.neuron) and planes.neuron[-1] >= n_unstable:
        raise RejectedError(f"{name}: a plane of neuron {planes.neuron[-1]}, where {n_unstable} are unstable")


class _Boxes:
    """Boxes of a batch, and the rows of one case over them."""

    def __init__(self, integers: Integers, boxes: BoundedBoxes, rows: Forms) -> None:
        self.integers, self.boxes, self.rows = integers, boxes, rows
        self.n = boxes.layers[0].start if boxes.layers else boxes.columns.count

    def values(
        self, trees: Sequence[LeafTree], leaves: Sequence[_Leaves], planes: tuple[tuple[LayerPlanes, ...], ...]
    ) -> list[list[int | None]]:
        """V of some leaves of each box's tree."""
        active, inactive = (self._spread([getattr(own, side) for own in leaves]) for side in ("active", "inactive"))
        fixed = bool(active.any() or inactive.any())
        theta = trees[0].theta if planes else None
        choices = Choices(
            alpha=self._chosen([tree.alpha for tree in trees], leaves, self._side("steep")),
            beta=self._chosen([tree.beta for tree in trees], leaves, None),
            active=active if fixed else None,
            inactive=inactive if fixed else None,
            planes=planes,
            theta=None if theta is None else self._down(theta[leaves[0].numbers]),
        )
        V = walk(self.integers, self._leaf_rows(trees, leaves), self.boxes.layers, self.boxes.columns, choices)
        lower, upper = self._side("lower")[:, None], self._side("upper")[:, None]
        low, high = np.where(active, np.maximum(lower, 0), lower), np.where(inactive, np.minimum(upper, 0), upper)
        empty = np.asarray((low > high).any(axis=-1), dtype=bool)
        return [
            [None if closed else int(v) for closed, v in zip(row[: len(own.active)], values, strict=False)]
            for row, values, own in zip(empty, V, leaves, strict=True)
        ]

    def _side(self, name: str) -> np.ndarray:
        """One of the layers' arrays for all unstable columns, (batch, columns)."""
        none = self.integers.zeros((len(self.boxes.places), 0))
        return np.concatenate([none, *(getattr(layer, name) for layer in self.boxes.layers)], axis=1)

    def _chosen(
        self, given: Sequence[np.ndarray | None], leaves: Sequence[_Leaves], instead: np.ndarray | None
    ) -> np.ndarray | None:
        """alpha or beta of some leaves; what stands in where a tree gives none, zero or (batch, columns)."""
        if all(values is None for values in given):
            return None
        chosen = [
            self.integers.zeros(own.active.shape) if values is None else self._down(values[own.numbers])
            for values, own in zip(given, leaves, strict=True)
        ]
        full = self._spread(chosen)
        for b, values in enumerate(given):
            if values is None and instead is not None:
                full[b] = instead[b]
        return full

    def _leaf_rows(self, trees: Sequence[LeafTree], leaves: Sequence[_Leaves]) -> Forms:
        """mu~ times the case's rows, for every leaf."""
        integers, rows, columns = self.integers, self.rows, self.boxes.columns
        batch, count = len(trees), max(len(own.active) for own in leaves)
        mu = np.zeros((batch, count, rows.E.shape[1]))
        for b, (tree, own) in enumerate(zip(trees, leaves, strict=True)):
            mu[b, : len(own.active)] = 1.0 if tree.mu is None else _reals(tree.mu[own.numbers])
        factors = integers.down(mu)
        E = integers.round([integers.product(factors, rows.E)], integers.zeros((batch, count, columns.count)))
        beta = integers.round([integers.product(factors, rows.beta[..., None])], integers.zeros((batch, count, 1)))
        eps = -integers.floor(integers.product(factors, -rows.eps[..., None]))[..., 0]
        lost = integers.narrow(-(-columns.size_sum >> integers.bits + 1) + 1)
        return Forms(E, beta[..., 0], integers.narrow(eps + lost[:, None]))

    def _spread(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """(leaves, unstable neurons) of each box as (batch, most leaves, unstable columns), zero where nothing is."""
        count = max(len(own) for own in values)
        full = np.zeros((len(values), count, self.boxes.columns.count - self.n), dtype=values[0].dtype)
        for b, own in enumerate(values):
            full[b, : len(own), self.boxes.places[b]] = own.T
        return full

    def planes(self, sets: Sequence[PlaneSet], tree: LeafTree) -> tuple[tuple[LayerPlanes, ...], ...]:
        """The planes of a tree for each layer, with their R, in rounds in which no neuron is met twice; of one box."""
        if tree.planes is None:
            return ()
        planes, places = sets[tree.planes], self.boxes.places[0]
        P = self.integers.zeros((len(planes.P), self.boxes.columns.count))
        P[:, np.concatenate([np.arange(self.n), self.n + places])] = self.integers.near(_reals(planes.P))
        column = self.n + places[planes.neuron]
        turn = np.arange(len(planes.neuron)) - np.searchsorted(planes.neuron, planes.neuron)
        found = []
        for layer in self.boxes.layers:
            inside = (column >= layer.place.start) & (column < layer.place.stop)
            rounds = []
            for r in range(int(turn[inside].max(initial=-1)) + 1):
                number = np.flatnonzero(inside & (turn == r))
                neuron = column[number] - layer.start
                below = P[number, : layer.start]
                rounds.append(LayerPlanes(neuron, below, self._right(layer, neuron, below), number))
            found.append(tuple(rounds))
        return tuple(found)

    def _right(self, layer: HiddenLayer, neuron: np.ndarray, P: np.ndarray) -> np.ndarray:
        """R: the least with which z <= P.t + R over the box."""
        integers, forms = self.integers, layer.forms
        off = self._greatest(-P)
        on = self._greatest(integers.narrow(forms.E[0, neuron] - P))
        on = integers.narrow(on + forms.beta[0, neuron] + forms.eps[0, neuron])
        return np.maximum(off, on)

    def _greatest(self, rows: np.ndarray) -> np.ndarray:
        """up of the greatest value of rows over the box."""
        columns, count = self.boxes.columns, rows.shape[1]
        sides = np.concatenate([np.maximum(rows, 0), np.minimum(rows, 0)], axis=1)
        ends = np.concatenate([columns.upper[:, :count], columns.lower[:, :count]], axis=1)
        return -self.integers.floor(self.integers.product(-sides[None], ends[..., None]))[0, :, 0]

    def _down(self, values: np.ndarray) -> np.ndarray:
        return self.integers.down(_reals(values))


def _reals(values: np.ndarray) -> np.ndarray:
    """What an array of a file stands for: bytes are k/255, rounded to double."""
    return values / 255.0 if values.dtype == np.uint8 else values.astype(np.float64)
