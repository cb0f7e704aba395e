"""Receptive fields: neurons that read few inputs are bounded on the small dense network that they see.

The neurons of a convolutional layer fall into groups that read the same neurons below (all channels of one place).
Restricted to what a group sees, a network of the size of an image shrinks to a window's: dense, of equal shape for all
groups up to padding, and so a batch of small problems for the one kernel. Nothing is approximated, but lazy sums and
products are multiplied out: their rounding is a slack of g.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from milpverify.bounds.problem import AffinePart, DualProblem, InputSet
from milpverify.network.arrays import array_namespace, device, to_host
from milpverify.network.graph import AffineMap
from milpverify.network.operators import Array, ArrayMap, LinearOperator
from milpverify.spec.regions import BoxBatch

WORTHWHILE = 2.0  # how many times cheaper a walk must be to pay for the gathering
VALUE = 32  # what a value passed from layer to layer costs, in multiplications: memory is slower than arithmetic
LARGEST_FIELD = 4096  # entries of one group's rows beyond which windows are no windows any more
LARGEST_STACK = 2**26  # entries of all groups' matrices: half a gigabyte


@dataclass(frozen=True, eq=False)
class Stacked(LinearOperator):
    """One dense matrix for each group, shape (groups, out_size, in_size).

    `apply` takes one vector for each group, (..., groups, in_size); `transpose_apply` takes rows of each,
    (..., groups, m, out_size).
    """

    matrix: Array

    @property
    def in_size(self) -> int:  # type: ignore[override]
        return int(self.matrix.shape[-1])

    @property
    def out_size(self) -> int:  # type: ignore[override]
        return int(self.matrix.shape[-2])

    def apply(self, x: Array) -> Array:
        return (self.matrix @ x[..., None])[..., 0] if x.ndim > 1 else self.matrix @ x

    def transpose_apply(self, y: Array) -> Array:
        return y @ self.matrix

    def rows_like(self, index: np.ndarray, like: Array) -> Array:
        return self.matrix  # asked for all rows only

    def magnitude(self) -> LinearOperator:
        return Stacked(abs(self.matrix))

    def map_arrays(self, convert: ArrayMap) -> LinearOperator:
        return Stacked(convert(self.matrix))

    def scaled_integer(self) -> tuple[LinearOperator, int]:
        raise NotImplementedError("receptive fields guide bounds and are never evaluated exactly")

    def description(self) -> tuple[object, ...]:
        return ("stacked", self.matrix)

    @property
    def roundings(self) -> int:
        return max(self.in_size, self.out_size) + 1

    @property
    def work(self) -> int:
        return self.in_size * self.out_size


@dataclass(frozen=True, eq=False)
class Fields:
    """The receptive fields of one layer's neurons.

    Attributes:
        windows: Layers 1..k restricted to the groups.
        index: Per source 0..k the original indices, shape (groups, n); -1 fills up. The last one is layer k itself.
    """

    windows: tuple[AffinePart, ...]
    index: tuple[np.ndarray, ...]

    def problem(self, problem: DualProblem, wanted: np.ndarray) -> tuple[DualProblem, np.ndarray]:
        """The groups' own problem: layer k is its target, over a batch of windows.

        Args:
            problem: Must bound the layers below k.
            wanted: Whether a neuron of layer k is asked for, shape (n_k,).

        Returns:
            The problem, and which neurons its targets are, shape (groups, n); -1 fills up.
        """
        k, to = len(self.windows), problem.convert
        asked: np.ndarray = np.logical_and(self.index[k] >= 0, wanted[self.index[k]])
        groups = np.flatnonzero(asked.any(axis=1))
        kept = [np.broadcast_to(np.arange(self.index[0].shape[1]), (len(groups), self.index[0].shape[1]))]
        for j in range(1, k):
            kept.append(_first(self._live(problem, j)[groups]))
        kept.append(_first(asked[groups]))
        index = [part[groups[:, None], keep] for part, keep in zip(self.index, kept, strict=True)]
        layers: list[Any] = []
        for j, window in enumerate(self.windows, start=1):
            blocks = tuple((s, _cut(op, groups, kept[j], kept[s], to)) for s, op in window.blocks)
            bias, error = (part[groups[:, None], kept[j]] for part in (window.bias, window.bias_error))
            layers.append(AffinePart(blocks, bias, error, bias.shape[1]))
        lower = tuple(_picked(l, i) for l, i in zip(problem.lower, index[1:], strict=False))
        upper = tuple(_picked(u, i) for u, i in zip(problem.upper, index[1:], strict=False))
        slack = tuple(_picked(problem.error(j) + problem.multiplied_out(j), index[j]) for j in range(1, k + 1))
        region = _window_region(problem.region, index[0])
        small = DualProblem(tuple(layers), region, lower[: k - 1], upper[: k - 1], problem.like, slack=slack)
        return small, np.where(asked[groups[:, None], kept[k]], index[k], -1)

    def _live(self, problem: DualProblem, j: int) -> np.ndarray:
        """Whether a neuron of a window is not inactive throughout the batch, shape (groups, n)."""
        l, u = problem.lower[j - 1], problem.upper[j - 1]
        alive = np.asarray(~((u <= 0) & (l < 0)).all(axis=tuple(range(l.ndim - 1))))
        return (self.index[j] >= 0) & alive[self.index[j]]


@dataclass(frozen=True, eq=False)
class WindowedRegion:
    """A region seen through windows: lambda is put back in its place, and the region asked.

    Attributes:
        region: The whole region.
        index: Coordinates of each window, shape (groups, n), -1 fills up.
        lower, upper: The bounding boxes of the windows.
    """

    region: InputSet
    index: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    @property
    def dimension(self) -> int:
        """Coordinates of one window."""
        return int(self.index.shape[1])

    @property
    def is_box(self) -> bool:
        """Never: boxes are cut into windows instead."""
        return False

    def minimum(self, lam: Array) -> Array:
        """Lower bounds of min lam.x, (*batch, groups, m, n) -> (*batch, groups, m). Rounded."""
        whole = self._whole(lam)
        return self.region.minimum(whole.reshape((-1, whole.shape[-1]))).reshape(whole.shape[:-1])

    def minimiser(self, lam: Array) -> Array:
        """Minimisers within the windows, (groups, m, n). Floating."""
        raise NotImplementedError("windows are bounded, not attacked")

    def _whole(self, lam: Array) -> Array:
        xp = array_namespace(lam)
        whole = xp.zeros((*lam.shape[:-1], self.region.dimension + 1), dtype=lam.dtype, device=device(lam))
        for group, columns in enumerate(np.where(self.index < 0, self.region.dimension, self.index)):
            whole[..., group, :, :][..., columns] = lam[..., group, :, :]
        return whole[..., :-1]


# By layer: the layers below that its fields were found for, and the fields. Two networks can share a layer.
_KNOWN: WeakKeyDictionary[AffineMap, tuple[tuple[AffineMap, ...], Fields | None]] = WeakKeyDictionary()


def fields(problem: DualProblem, k: int) -> Fields | None:
    """The receptive fields of layer k, or None where bounding within them is not worth while. Kept for the network."""
    affine, below = problem.affine(k), problem.layers[: k - 1]
    known = _KNOWN.get(affine)
    if known is not None and known[0] == below:  # layers are equal only if they are the same
        return known[1]
    found = None
    if k > 1 and any(source > 0 for source, _ in affine.blocks):
        found = _find(problem, k)
    _KNOWN[affine] = below, found
    return found


def _find(problem: DualProblem, k: int) -> Fields | None:
    affine = problem.affine(k)
    fans = [op.fan_in for _, op in affine.blocks]
    if any(2 * op.fan_in > op.in_size for _, op in affine.blocks) or max(fans) > LARGEST_FIELD:
        return None
    if affine.size * sum(fans) > LARGEST_STACK:
        return None
    groups = _groups(affine)
    index: list[np.ndarray] = [np.zeros((len(groups), 0), dtype=np.int64) for _ in range(k)] + [groups]
    entries: list[dict[int, tuple[np.ndarray, np.ndarray]]] = [{} for _ in range(k + 1)]
    for j in range(k, 0, -1):
        below = problem.affine(j)
        for source, op in below.blocks:
            if op.fan_in > LARGEST_FIELD or index[j].size * op.fan_in > LARGEST_STACK:
                return None
            columns, values = _entries(problem, op, np.maximum(index[j], 0).reshape(-1))
            shape = (*index[j].shape, columns.shape[-1])
            columns = np.where((index[j] >= 0)[..., None], columns.reshape(shape), -1)
            entries[j][source] = columns, values.reshape(shape)
            index[source] = _united(index[source], columns.reshape((len(groups), -1)))
            if index[source].shape[1] > LARGEST_FIELD:
                return None
    inside = sum(index[j].shape[1] * index[source].shape[1] for j in range(1, k + 1) for source in entries[j])
    if not index[0].shape[1] or len(groups) * inside > LARGEST_STACK:
        return None
    inside += VALUE * sum(i.shape[1] for i in index[:k])
    whole = sum(op.work for layer in problem.layers[: k - 1] for _, op in layer.blocks)
    whole += VALUE * (problem.n_inputs + sum(layer.size for layer in problem.layers[: k - 1]))
    if WORTHWHILE * inside * groups.size > whole * affine.size:
        return None
    return Fields(tuple(_window(problem.affine(j), index, j, entries[j]) for j in range(1, k + 1)), tuple(index))


def _entries(problem: DualProblem, op: LinearOperator, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`op.entries(index)`, also of the operators of another namespace."""
    if op.fan_in < op.in_size:
        return op.entries(index)
    values = to_host(op.rows_like(index, problem.like))
    return np.broadcast_to(np.arange(op.in_size), values.shape), values


def _groups(affine: AffineMap) -> np.ndarray:
    """Neurons that read the same neurons below, shape (groups, most), -1 fills up."""
    columns = np.concatenate([op.entries(np.arange(affine.size))[0] for _, op in affine.blocks], axis=1)
    _, member = np.unique(columns, axis=0, return_inverse=True)
    order = np.argsort(member, kind="stable")
    sizes = np.bincount(member)
    groups = np.full((len(sizes), int(sizes.max())), -1, dtype=np.int64)
    groups[member[order], np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)] = order
    return groups


def _united(known: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Per group the sorted union of indices, -1 (filling up) last."""
    both = np.sort(np.concatenate([known, more], axis=1), axis=1)
    both[:, 1:][both[:, 1:] == both[:, :-1]] = -1
    most = int((both >= 0).sum(axis=1).max(initial=0))
    big = np.where(both < 0, np.iinfo(np.int64).max, both)
    big.sort(axis=1)
    kept = big[:, :most]
    return np.where(kept == np.iinfo(np.int64).max, -1, kept)


def _window(
    affine: AffineMap, index: list[np.ndarray], j: int, entries: dict[int, tuple[np.ndarray, np.ndarray]]
) -> AffinePart:
    here = index[j]
    there = np.where(here < 0, 0, here)
    inside = here >= 0
    blocks = []
    for source, (columns, values) in entries.items():
        blocks.append((source, Stacked(_matrix(index[source], columns, values))))
    bias = np.where(inside, affine.bias[there], 0.0)
    return AffinePart(tuple(blocks), bias, np.where(inside, affine.bias_error[there], 0.0), here.shape[1])


def _matrix(seen: np.ndarray, columns: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Dense (groups, out, len(seen)) from entries (groups, out, fan)."""
    groups, out, _ = columns.shape
    matrix = np.zeros((groups, out, seen.shape[1] + 1))
    for g in range(groups):
        known = seen[g][seen[g] >= 0]
        place = np.where(columns[g] < 0, seen.shape[1], np.searchsorted(known, columns[g]))
        # A column is named once in a row of one operator, so that nothing is summed here.
        np.put_along_axis(matrix[g], place, np.where(columns[g] < 0, 0.0, values[g]), axis=1)
    return np.ascontiguousarray(matrix[..., :-1])


def _first(flags: np.ndarray) -> np.ndarray:
    """Per group the positions of the flagged entries, filled up to equal length with positions of others."""
    most = int(flags.sum(axis=1).max(initial=0))
    if most == flags.shape[1]:  # `_cut` takes whole matrices as they are
        return np.broadcast_to(np.arange(most), flags.shape)
    return np.argsort(~flags, axis=1, kind="stable")[:, :most]


def _cut(op: LinearOperator, groups: np.ndarray, rows: np.ndarray, columns: np.ndarray, to: ArrayMap) -> Stacked:
    """Some groups, rows and columns of a stack of matrices."""
    matrix: np.ndarray = op.matrix  # type: ignore[attr-defined]
    if len(groups) == len(matrix) and rows.shape[1] == matrix.shape[1] and columns.shape[1] == matrix.shape[2]:
        return Stacked(to(matrix))
    if columns.shape[1] == matrix.shape[2]:
        return Stacked(to(matrix[groups[:, None], rows]))
    return Stacked(to(matrix[groups[:, None, None], rows[:, :, None], columns[:, None, :]]))


def _picked(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """values[..., index], zero where the index fills up."""
    return np.where(index < 0, 0.0, values[..., np.maximum(index, 0)])


def _window_region(region: InputSet, index: np.ndarray) -> InputSet:
    lower, upper = _picked(region.lower, index), _picked(region.upper, index)
    if region.is_box or isinstance(region, BoxBatch):
        return BoxBatch(lower, upper)
    return WindowedRegion(region, index, lower, upper)
