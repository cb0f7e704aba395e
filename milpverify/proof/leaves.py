"""The leaves of trees over unstable neurons: every leaf's row is walked down with the leaf's own choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from milpverify.proof.certificate import Context, LeafTree, PlaneSet
from milpverify.proof.contexts import BoundedBoxes, RejectedError
from milpverify.proof.fixed_point import Integers
from milpverify.proof.forms import Forms
from milpverify.proof.walk import Choices, HiddenLayer, LayerPlanes, walk

CHUNK_LEAVES = 1 << 20  # leaves times columns


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
    found = []
    for b, (context, name) in enumerate(zip(contexts, names, strict=True)):
        one = _Box(integers, boxes, rows, b, f"{name}, tree {case}")
        found.append(one.values(context, context.trees[case]))
    return found


@dataclass(frozen=True, eq=False)
class _Leaves:
    """Some leaves of a tree: their numbers, and which neurons are fixed, (leaves, unstable neurons)."""

    numbers: slice
    active: np.ndarray
    inactive: np.ndarray


def _leaves(tree: LeafTree, n_unstable: int, step: int, name: str) -> Iterator[_Leaves]:
    """The leaves in their order, some at a time."""
    split = [-1] if tree.split is None else tree.split.tolist()
    if max(split) >= n_unstable:
        raise RejectedError(f"{name}: a split of neuron {max(split)}, where {n_unstable} are unstable")
    waiting = [np.zeros((2, n_unstable), dtype=bool)]
    done: list[np.ndarray] = []
    first = 0
    for u in split:
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


class _Box:
    """One box of a batch, and the rows of one case over it."""

    def __init__(self, integers: Integers, boxes: BoundedBoxes, rows: Forms, b: int, name: str) -> None:
        one = slice(b, b + 1)
        self.integers, self.name = integers, name
        self.layers = [_of_box(layer, one) for layer in boxes.layers]
        self.columns = replace(
            boxes.columns,
            lower=boxes.columns.lower[one],
            upper=boxes.columns.upper[one],
            size_sum=boxes.columns.size_sum[one],
        )
        self.rows = Forms(rows.E[one], rows.beta[one], rows.eps[one])
        self.places = boxes.places[b]
        self.n = self.layers[0].start if self.layers else self.columns.count

    def values(self, context: Context, tree: LeafTree) -> list[int | None]:
        """V of every leaf."""
        self._demand_shapes(tree)
        base = Choices()
        if tree.planes is not None and tree.theta is not None:
            base = Choices(planes=self._planes(context.planes[tree.planes]), theta=_down(self.integers, tree.theta))
        step = max(1, CHUNK_LEAVES // max(self.columns.count, 1))
        found: list[int | None] = []
        for leaves in _leaves(tree, len(self.places), step, self.name):
            found += self._some_values(tree, leaves, base)
        return found

    def _some_values(self, tree: LeafTree, leaves: _Leaves, base: Choices) -> list[int | None]:
        active, inactive = self._spread(leaves.active), self._spread(leaves.inactive)
        lower, upper = (np.concatenate([np.zeros((1, 0), dtype=object), *sides], axis=1) for sides in (
            [layer.lower for layer in self.layers], [layer.upper for layer in self.layers]
        ))  # fmt: skip
        low, high = np.where(active, np.maximum(lower, 0), lower), np.where(inactive, np.minimum(upper, 0), upper)
        empty = np.asarray((low > high).any(axis=-1), dtype=bool)[0]
        alpha, beta = (
            None if v is None else self._spread(_down(self.integers, v[leaves.numbers]))
            for v in (tree.alpha, tree.beta)
        )
        theta = None if base.theta is None else base.theta[leaves.numbers]
        choices = Choices(alpha, beta, active, inactive, base.planes, theta)
        V = walk(self.integers, self._leaf_rows(tree, leaves), self.layers, self.columns, choices)[0]
        return [None if closed else int(value) for closed, value in zip(empty.tolist(), V.tolist(), strict=True)]

    def _leaf_rows(self, tree: LeafTree, leaves: _Leaves) -> Forms:
        """mu~ times the case's rows, for every leaf."""
        integers, rows, count = self.integers, self.rows, len(leaves.active)
        mu = np.ones((count, 1)) if tree.mu is None else tree.mu[leaves.numbers]
        factors = _down(integers, mu)[None]
        E = integers.round([integers.product(factors, rows.E)], integers.zeros((1, count, self.columns.count)))
        beta = integers.round([integers.product(factors, rows.beta[..., None])], integers.zeros((1, count, 1)))[..., 0]
        eps = -integers.floor(integers.product(factors, -rows.eps[..., None]))[..., 0]
        lost = integers.narrow(-(-self.columns.size_sum >> integers.bits + 1) + 1)
        return Forms(E, beta, integers.narrow(eps + lost[:, None]))

    def _spread(self, values: np.ndarray) -> np.ndarray:
        """(leaves, unstable neurons) as (1, leaves, unstable columns), zero in columns that only fill up."""
        full = np.zeros((1, len(values), self.columns.count - self.n), dtype=values.dtype)
        full[0][:, self.places] = values
        return full

    def _demand_shapes(self, tree: LeafTree) -> None:
        """Refuse arrays that do not fit the unstable neurons, or mu that does not fit the rows."""
        for name, values in (("alpha", tree.alpha), ("beta", tree.beta)):
            if values is not None and values.shape[1] != len(self.places):
                raise RejectedError(
                    f"{self.name}: {name} has {values.shape[1]} columns for {len(self.places)} unstable neurons"
                )
        n_rows = self.rows.E.shape[1]
        if (1 if tree.mu is None else tree.mu.shape[1]) != n_rows:
            raise RejectedError(f"{self.name}: mu does not fit the {n_rows} rows of its case")

    def _planes(self, planes: PlaneSet) -> tuple[tuple[LayerPlanes, ...], ...]:
        """The planes of each layer, with their R, in rounds in which no neuron is met twice."""
        count = self.n + len(self.places)
        if planes.P.shape[1] != count:
            raise RejectedError(f"{self.name}: planes over {planes.P.shape[1]} columns, where there are {count}")
        if len(planes.neuron) and planes.neuron[-1] >= len(self.places):
            raise RejectedError(f"{self.name}: a plane of neuron {planes.neuron[-1]}, {len(self.places)} are unstable")
        P = self.integers.zeros((len(planes.P), self.columns.count))
        P[:, np.concatenate([np.arange(self.n), self.n + self.places])] = _near(self.integers, planes.P)
        column = self.n + self.places[planes.neuron]
        first = np.searchsorted(planes.neuron, planes.neuron)
        turn = np.arange(len(planes.neuron)) - first
        found = []
        for layer in self.layers:
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
        count = rows.shape[1]
        sides = np.concatenate([np.maximum(rows, 0), np.minimum(rows, 0)], axis=1)
        ends = np.concatenate([self.columns.upper[:, :count], self.columns.lower[:, :count]], axis=1)
        total = self.integers.exact(self.integers.product(sides[None], ends[..., None]))[0, :, 0]
        return self.integers.narrow(-(-total >> self.integers.bits))


def _of_box(layer: HiddenLayer, one: slice) -> HiddenLayer:
    forms = Forms(layer.forms.E[one], layer.forms.beta[one], layer.forms.eps[one])
    return HiddenLayer(
        layer.start,
        forms,
        layer.lower[one],
        layer.upper[one],
        layer.slope[one],
        layer.steep[one],
        layer.size_below[one],
    )


def _reals(values: np.ndarray) -> np.ndarray:
    """What an array of a file stands for: bytes are k/255, rounded to double."""
    return values / 255.0 if values.dtype == np.uint8 else values.astype(np.float64)


def _down(integers: Integers, values: np.ndarray) -> np.ndarray:
    return integers.down(_reals(values))


def _near(integers: Integers, values: np.ndarray) -> np.ndarray:
    return integers.near(_reals(values))
