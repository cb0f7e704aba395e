"""Trees over unstable neurons on their way down: what their leaves choose, spread over a batch of boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from milpverify.proof.certificate_trees import PlaneSet
from milpverify.proof.fixed_point import Integers
from milpverify.proof.forms import Columns, Forms
from milpverify.proof.walk import Choices, HiddenLayer, LayerPlanes, walk

CHUNK_ENTRIES = 1 << 20  # leaves times columns that are walked together


class RejectedError(Exception):
    """A proof that proves nothing: carries the reason. Never seen by a user."""


class Trees(Protocol):
    """What `LeafTree` and `Claims` have in common."""

    @property
    def split(self) -> np.ndarray | None: ...
    @property
    def alpha(self) -> np.ndarray | None: ...
    @property
    def beta(self) -> np.ndarray | None: ...
    @property
    def theta(self) -> np.ndarray | None: ...


@dataclass(frozen=True, eq=False)
class KnownLayers:
    """The columns of the layers that are bounded, over a batch of boxes.

    Attributes:
        columns: All of them.
        layers: The unstable neurons of each layer.
        places: For each box, which columns after the inputs its unstable neurons are, in their order.
    """

    columns: Columns
    layers: tuple[HiddenLayer, ...]
    places: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, columns: Columns, layers: Sequence[HiddenLayer], valid: Sequence[np.ndarray]) -> KnownLayers:
        """The layers, and which of the columns of each are not there only to fill up, (batch, columns)."""
        mask = np.concatenate([np.zeros((len(columns.lower), 0), dtype=bool), *valid], axis=1)
        return cls(columns, tuple(layers), tuple(np.flatnonzero(row) for row in mask))

    def at(self, part: slice) -> KnownLayers:
        """Some of the boxes."""
        columns = Columns(*(side[part] for side in (self.columns.lower, self.columns.upper, self.columns.size_sum)))
        return KnownLayers(columns, tuple(layer.at(part) for layer in self.layers), self.places[part])

    @property
    def n_inputs(self) -> int:
        """The columns before those of unstable neurons."""
        return self.layers[0].start if self.layers else self.columns.count

    @property
    def step(self) -> int:
        """Leaves that are walked together."""
        return max(1, CHUNK_ENTRIES // max(self.columns.count, 1))


@dataclass(frozen=True, eq=False)
class Leaves:
    """Some leaves of one or more trees.

    Attributes:
        numbers: Their places among all leaves.
        tree: The tree of each, (leaves,).
        active, inactive: Which neurons are fixed, (leaves, unstable neurons).
    """

    numbers: slice
    tree: np.ndarray
    active: np.ndarray
    inactive: np.ndarray


def leaves_of(split: np.ndarray | None, n_trees: int, n_unstable: int, step: int) -> Iterator[Leaves]:
    """The leaves of some trees in their order, some at a time."""
    waiting: list[np.ndarray] = []
    done: list[np.ndarray] = []
    trees: list[int] = []
    first, tree = 0, -1
    for u in [-1] * n_trees if split is None else split.tolist():
        if not waiting:
            waiting, tree = [np.zeros((2, n_unstable), dtype=bool)], tree + 1
        fixed = waiting.pop()
        if u >= 0:
            for side in (1, 0):
                child = fixed.copy()
                child[side, u] = True
                waiting.append(child)
            continue
        done.append(fixed)
        trees.append(tree)
        if len(done) == step or (not waiting and tree == n_trees - 1):
            both = np.array(done)
            yield Leaves(slice(first, first + len(done)), np.array(trees), both[:, 0], both[:, 1])
            first, done, trees = first + len(done), [], []


def demand_trees_fit(trees: Trees, n_unstable: int, name: str) -> None:
    """Refuse splits and multipliers that do not fit the unstable neurons.

    Raises:
        RejectedError: If they do not.
    """
    for what, values in (("alpha", trees.alpha), ("beta", trees.beta)):
        if values is not None and values.shape[1] != n_unstable:
            raise RejectedError(f"{name}: {what} has {values.shape[1]} columns for {n_unstable} unstable neurons")
    if trees.split is not None and trees.split.max() >= n_unstable:
        raise RejectedError(f"{name}: a split of neuron {trees.split.max()}, where {n_unstable} are unstable")


def demand_planes_fit(planes: PlaneSet, n_inputs: int, n_unstable: int, name: str) -> None:
    """Refuse planes that do not fit the columns.

    Raises:
        RejectedError: If they do not.
    """
    count = n_inputs + n_unstable
    if planes.P.shape[1] != count:
        raise RejectedError(f"{name}: planes over {planes.P.shape[1]} columns, where there are {count}")
    if len(planes.neuron) and planes.neuron[-1] >= n_unstable:
        raise RejectedError(f"{name}: a plane of neuron {planes.neuron[-1]}, where {n_unstable} are unstable")


class LeafWalk:
    """Walks leaves of trees over a batch of boxes.

    Args:
        integers: The arithmetic.
        boxes: What the trees are over.
    """

    def __init__(self, integers: Integers, boxes: KnownLayers) -> None:
        self.integers, self.boxes, self.n = integers, boxes, boxes.n_inputs

    def values(
        self,
        rows: Forms,
        trees: Sequence[Trees],
        leaves: Sequence[Leaves],
        planes: tuple[tuple[LayerPlanes, ...], ...] = (),
    ) -> list[list[int | None]]:
        """V of some leaves of each box's trees; None where a leaf is empty.

        Args:
            rows: One for each leaf.
            trees, leaves: One for each box.
            planes: What `planes` gives; then there is one box.
        """
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
        V = walk(self.integers, rows, self.boxes.layers, self.boxes.columns, choices)
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
        self, given: Sequence[np.ndarray | None], leaves: Sequence[Leaves], instead: np.ndarray | None
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

    def _spread(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """(leaves, unstable neurons) of each box as (batch, most leaves, unstable columns), zero where nothing is."""
        count = max(len(own) for own in values)
        full = np.zeros((len(values), count, self.boxes.columns.count - self.n), dtype=values[0].dtype)
        for b, own in enumerate(values):
            full[b, : len(own), self.boxes.places[b]] = own.T
        return full

    def planes(self, planes: PlaneSet | None) -> tuple[tuple[LayerPlanes, ...], ...]:
        """Planes for each layer, with their R, in rounds in which no neuron is met twice; of one box."""
        if planes is None:
            return ()
        places = self.boxes.places[0]
        P = self.integers.zeros((len(planes.P), self.boxes.columns.count))
        P[:, np.concatenate([np.arange(self.n), self.n + places])] = self.integers.near(reals(planes.P))
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
        return self.integers.down(reals(values))


def reals(values: np.ndarray) -> np.ndarray:
    """What an array of a file stands for: bytes are k/255, rounded to double."""
    return values / 255.0 if values.dtype == np.uint8 else values.astype(np.float64)
