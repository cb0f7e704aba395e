"""Many boxes, each bounded by itself as the checker of proofs bounds it, in floats that claim nothing.

docs/proofs.md, section 2: stable neurons are substituted away, so that every value is an expression over columns, the
inputs and the unstable neurons; of each layer the neurons that intervals leave unstable are walked down to the inputs.
Here boxes of a batch have the same shapes: where one has fewer unstable neurons, neurons of size zero fill up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milpverify.bounds.node_parts import Phases
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import LinearOperator

SURE = 2.0**-30  # of the sizes of a neuron's terms: when it is within that of being stable, it counts as unstable
UNITS = 2.0**-36  # the same, of the sizes of all values below: 16 units of the coarsest proofs, which have 40 bits
DENSE = 2**22  # entries of an operator that is made dense once, so that its columns can be picked


@dataclass(frozen=True, eq=False)
class ColumnLayer:
    """The unstable neurons of a layer in b boxes, U at most.

    Attributes:
        start: The first of their columns.
        listed: Which neurons of the network they are, (b, n_k).
        E, at: zhat = E . columns below + at, (b, U, start) and (b, U).
        l, u: Bounds of zhat, (b, U).
    """

    start: int
    listed: np.ndarray
    E: np.ndarray
    at: np.ndarray
    l: np.ndarray
    u: np.ndarray

    @property
    def place(self) -> slice:
        """Its columns."""
        return slice(self.start, self.start + self.l.shape[1])


@dataclass(frozen=True, eq=False)
class ColumnBoxes:
    """b boxes over columns [x, unstable neurons of the layers], and rows over them.

    Attributes:
        low, high: Of the inputs, (b, n).
        layers: The hidden layers.
        rows, rows_at: Rows C y - d, (b, m, columns) and (b, m).
    """

    low: np.ndarray
    high: np.ndarray
    layers: tuple[ColumnLayer, ...]
    rows: np.ndarray
    rows_at: np.ndarray

    def __len__(self) -> int:
        return len(self.low)

    @property
    def n(self) -> int:
        """Number of inputs."""
        return self.low.shape[1]

    @property
    def n_unstable(self) -> np.ndarray:
        """Unstable neurons of each box, (b,)."""
        return sum((layer.listed.sum(axis=1) for layer in self.layers), np.zeros(len(self), dtype=int))

    @property
    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of all unstable neurons side by side, (b, N) each."""
        none = np.zeros((len(self), 0))
        lower, upper = ([getattr(layer, side) for layer in self.layers] for side in ("l", "u"))
        return np.concatenate([none, *lower], axis=1), np.concatenate([none, *upper], axis=1)

    @property
    def valid(self) -> np.ndarray:
        """Which neurons do not only fill up, (b, N)."""
        parts = [_filled(layer.listed, layer.l.shape[1]) for layer in self.layers]
        return np.concatenate([np.zeros((len(self), 0), dtype=bool), *parts], axis=1)

    @np.errstate(over="ignore", invalid="ignore")
    def row_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower bounds of the rows by CROWN's slopes, (b, m), and the rows with each lambda, (b, m, columns)."""
        middle, radius = self.low / 2 + self.high / 2, self.high / 2 - self.low / 2
        return walked(self.layers, self.rows, self.rows_at, middle, radius)

    def some(self, index: np.ndarray) -> ColumnBoxes:
        """Some boxes, with no more filling than they need."""
        columns, start, layers = [np.arange(self.n)], self.n, []
        for layer in self.layers:
            listed = layer.listed[index]
            width = int(listed.sum(axis=1).max(initial=0))
            below = np.concatenate(columns)
            E = layer.E[index[:, None, None], np.arange(width)[:, None], below]
            at, l, u = (part[index, :width] for part in (layer.at, layer.l, layer.u))
            layers.append(ColumnLayer(start, listed, E, at, l, u))
            columns.append(layer.start + np.arange(width))
            start += width
        rows = self.rows[index][:, :, np.concatenate(columns)]
        return ColumnBoxes(self.low[index], self.high[index], tuple(layers), rows, self.rows_at[index])


@dataclass(frozen=True, eq=False)
class _Value:
    """A source of affine maps: expressions of its active neurons over `count` columns, and which entries are columns.

    Attributes:
        forms, at: (b, count, size) and (b, size), zero where an entry is none; None where no entry has an expression.
        own, valid: The entries that are columns, (b or 1, U), and where that does not only fill up.
        start: The first of those columns.
    """

    forms: np.ndarray | None
    at: np.ndarray | None
    own: np.ndarray
    valid: np.ndarray
    start: int


class BoxBounder:
    """Bounds boxes of one network.

    Args:
        net: The network.
        C, d: The rows C y - d, (m, n_outputs) and (m,).
    """

    def __init__(self, net: Network, C: np.ndarray, d: np.ndarray) -> None:
        self._net, self._C, self._d = net, C, d
        self._matrices: dict[int, np.ndarray] = {}

    def bound(self, low: np.ndarray, high: np.ndarray) -> ColumnBoxes:
        """Bound the hidden neurons over boxes, given by their corners (b, n), and express the rows."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._bound(low, high)

    def _bound(self, low: np.ndarray, high: np.ndarray) -> ColumnBoxes:
        b, n = low.shape
        values = [_Value(None, None, np.arange(n)[None], np.ones((1, n), dtype=bool), 0)]
        middle, radius = low / 2 + high / 2, high / 2 - low / 2
        sizes = (np.abs(middle) + radius).sum(axis=1)
        layers: list[ColumnLayer] = []
        for affine in self._net.layers:
            forms, at = self._forms(affine, values, middle.shape[1], b)
            lo, hi = self._bounded(forms, at, layers, middle, radius)
            reach = (np.abs(middle) + radius)[:, None, :] @ np.abs(forms)
            near = SURE * (reach[:, 0] + np.abs(at)) + UNITS * sizes[:, None]
            listed = (lo < near) & (hi > -near)
            index, valid = packed(listed)
            start = middle.shape[1]
            E = np.take_along_axis(forms, index[:, None, :], axis=2).swapaxes(1, 2) * valid[..., None]
            some_at, l, u = (np.take_along_axis(part, index, axis=1) * valid for part in (at, lo, hi))
            layers.append(ColumnLayer(start, listed, E, some_at, l, u))
            active = ~listed & (lo >= 0)
            values.append(_Value(forms * active[:, None, :], at * active, index, valid, start))
            most = np.maximum(u, 0.0) / 2
            sizes = sizes + np.maximum(hi, 0.0).sum(axis=1)
            middle, radius = np.concatenate([middle, most], axis=1), np.concatenate([radius, most], axis=1)
        forms, at = self._forms(self._net.output, values, middle.shape[1], b)
        return ColumnBoxes(low, high, tuple(layers), self._C @ forms.swapaxes(1, 2), at @ self._C.T - self._d)

    def _forms(self, affine: Affine, values: Sequence[_Value], count: int, b: int) -> tuple[np.ndarray, np.ndarray]:
        """The expressions of a layer's zhat, (b, columns, n_k) and (b, n_k)."""
        forms, at = np.zeros((b, count, affine.size)), np.zeros((b, affine.size)) + affine.bias
        for source, op in affine.blocks:
            value = values[source]
            if value.forms is not None and value.at is not None:
                forms[:, : value.start] += self._apply(op, value.forms)
                at += self._apply(op, value.at)
            own = self._columns(op, value.own) * value.valid[..., None]
            forms[:, value.start : value.start + own.shape[1]] += own
        return forms, at

    def _matrix(self, op: LinearOperator) -> np.ndarray | None:
        """W transposed; None where it is too large to be kept."""
        if op.in_size * op.out_size > DENSE:
            return None
        if id(op) not in self._matrices:  # the network keeps the operator, so its id stays its own
            self._matrices[id(op)] = np.ascontiguousarray(op.dense().T)
        return self._matrices[id(op)]

    def _apply(self, op: LinearOperator, x: np.ndarray) -> np.ndarray:
        matrix = self._matrix(op)
        return np.asarray(op.apply(x) if matrix is None else x @ matrix)

    def _columns(self, op: LinearOperator, index: np.ndarray) -> np.ndarray:
        """W[:, index] transposed, (b, U, out_size) for an index (b, U)."""
        matrix = self._matrix(op)
        if matrix is not None:
            return matrix[index]
        units = np.zeros((*index.shape, op.in_size))
        np.put_along_axis(units, index[..., None], 1.0, axis=-1)
        return np.asarray(op.apply(units))

    def _bounded(
        self, forms: np.ndarray, at: np.ndarray, layers: Sequence[ColumnLayer], middle: np.ndarray, radius: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Intervals of expressions; what they leave unstable is walked."""
        centre = (middle[:, None, :] @ forms)[:, 0] + at
        reach = (radius[:, None, :] @ np.abs(forms))[:, 0]
        lo, hi = centre - reach, centre + reach
        index, valid = packed((lo < 0) & (hi > 0))
        m = index.shape[1]
        if not layers or not m:
            return lo, hi
        rows = np.take_along_axis(forms, index[:, None, :], axis=2).swapaxes(1, 2)
        some = np.take_along_axis(at, index, axis=1)
        n = layers[0].start
        both, both_at = np.concatenate([rows, -rows], axis=1), np.concatenate([some, -some], axis=1)
        found = walked(layers, both, both_at, middle[:, :n], radius[:, :n])[0]
        for side, values, better in ((lo, found[:, :m], np.maximum), (hi, -found[:, m:], np.minimum)):
            known = np.take_along_axis(side, index, axis=1)
            np.put_along_axis(side, index, np.where(valid, better(known, values), known), axis=1)
        return lo, np.maximum(lo, hi)


def packed(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a mask (b, n) holds: an index (b, a) without repetitions, and where it does not only fill up."""
    counts = mask.sum(axis=1)
    width = int(counts.max(initial=0))
    return np.argsort(~mask, axis=1, kind="stable")[:, :width], np.arange(width) < counts[:, None]


def _filled(listed: np.ndarray, width: int) -> np.ndarray:
    return np.arange(width) < listed.sum(axis=1)[:, None]


def walked(
    layers: Sequence[ColumnLayer], rows: np.ndarray, at: np.ndarray, middle: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lower bounds (b, m) of rows over the columns by CROWN's slopes, and the rows with each lambda, (b, m, columns).

    Args:
        layers: Those below.
        rows, at: (b, m, columns) and (b, m).
        middle, radius: Of the inputs, (b, n).
    """
    row, value = rows.copy(), at.copy()
    for layer in reversed(layers):
        if not layer.l.shape[1]:
            continue
        phases = Phases.of(layer.l, layer.u)
        steep = np.where(phases.free, layer.u > -layer.l, phases.slope)
        lam = row[..., layer.place]
        below = np.minimum(lam, 0.0)
        nu = (lam - below) * steep[:, None] + below * phases.slope[:, None]
        value += (nu @ layer.at[..., None] + below @ phases.intercept[..., None])[..., 0]
        row[..., : layer.start] += nu @ layer.E
    lam = row[..., : middle.shape[1]]
    value += (lam @ middle[..., None] - np.abs(lam) @ radius[..., None])[..., 0]
    return value, row
