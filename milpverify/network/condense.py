"""Stable neurons folded away: the same function on the region, with only the unstable neurons left.

Over a region, a neuron with l >= 0 is linear and one with u <= 0 is zero. Substituting them leaves dense blocks between
the input, the unstable neurons and the output. The same *in real arithmetic*: the condensed coefficients are rounded
products, so values on the condensed network guide the search and never stand as a claim; programs carry the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from milpverify.network.arrays import array_namespace, device, to_host
from milpverify.network.graph import Affine, AffineMap, Bounds, Network
from milpverify.network.operators import Array, Dense

ROWS_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class Condensed:
    """A condensed network and where its neurons came from.

    Attributes:
        net: Canonical form with dense blocks; layer k holds the unstable neurons of layer k, possibly none.
        bounds: l < 0 < u of those neurons.
        kept: Per layer the indices of its neurons in the original layer.
        errors: Per layer, and last for the output, how far a condensed value can be from the exact one where its
            sources are exact; zeros where nobody asked.
    """

    net: Network
    bounds: Bounds
    kept: tuple[np.ndarray, ...]
    errors: tuple[np.ndarray, ...]


def condense(
    net: Network, bounds: Bounds, rows: np.ndarray | None = None, allowances: Sequence[np.ndarray] | None = None
) -> Condensed:
    """Fold the stable neurons of a network away. Floating: the coefficients are rounded products.

    Args:
        net: The network.
        bounds: Proven bounds over the region of interest; outside that region the result is another function.
        rows: Shape (m, n_outputs): keep rows . y as the outputs instead of y.
        allowances: Per layer, and last for the output, what one unit of a multiplier of zhat_k loses to rounding
            (`DualProblem.allowance`); without them `errors` is zero.

    Returns:
        The condensed network; equal to `net` (or rows . net) on the region up to rounding.
    """
    fold = Fold.of(net, bounds, allowances)
    layers, errors = [], []
    for k in range(1, len(net.layers) + 1):
        folded = fold.neurons(k, fold.unstable[k - 1])
        layers.append(folded.affine(net.layers[k - 1].name))
        errors.append(folded.error)
    rows = np.eye(net.n_outputs) if rows is None else np.asarray(rows, dtype=np.float64)
    folded = fold.rows(len(net.layers) + 1, rows)
    small = Network(net.input_shape, (len(rows),), tuple(layers), folded.affine(net.output.name), net.approximations)
    lower = tuple(l[i] for l, i in zip(bounds.lower, fold.unstable, strict=True))
    upper = tuple(u[i] for u, i in zip(bounds.upper, fold.unstable, strict=True))
    return Condensed(small, Bounds(lower, upper, bounds.source), fold.unstable, (*errors, folded.error))


@dataclass(frozen=True, eq=False)
class Folded:
    """Rows of zhat_k as affine maps of the input and of the unstable neurons below.

    Attributes:
        blocks: Per source, from the input on: (m, n_inputs) or (m, n_unstable_j), in the namespace of the network.
        bias: Shape (m,), numpy.
        error: Shape (m,), numpy: how far the map can be from the exact rows where its sources are exact.
    """

    blocks: tuple[Array, ...]
    bias: np.ndarray
    error: np.ndarray

    def affine(self, name: str = "") -> Affine:
        """The map as a layer of dense blocks, without those that are zero."""
        blocks = tuple((source, Dense(block)) for source, block in enumerate(self.blocks) if bool((block != 0).any()))
        return Affine(blocks, ((None, self.bias),), len(self.bias), name)

    def __getitem__(self, index: np.ndarray) -> Folded:
        return Folded(tuple(block[index] for block in self.blocks), self.bias[index], self.error[index])


@dataclass(frozen=True, eq=False)
class Fold:
    """What folding needs of a network and the bounds of its first layers. Floating: coefficients are rounded products.

    Attributes:
        layers: The affine maps, the output last, in any namespace.
        unstable: Per bounded layer the indices of its unstable neurons.
        active: Per bounded layer 1.0 where a neuron is stable active, numpy.
        allowances: Per layer what one unit of |nu_k| loses to rounding, numpy.
        like: Any array of the namespace.
    """

    layers: tuple[AffineMap, ...]
    unstable: tuple[np.ndarray, ...]
    active: tuple[np.ndarray, ...]
    allowances: tuple[np.ndarray, ...]
    like: Array
    n_inputs: int

    @classmethod
    def of(cls, net: Network, bounds: Bounds, allowances: Sequence[np.ndarray] | None) -> Fold:
        """Of a whole network in numpy; without allowances the errors are zero."""
        layers = (*net.layers, net.output)
        count = range(1, len(layers))
        unstable = tuple(np.flatnonzero(bounds.unstable(k)) for k in count)
        active = tuple(bounds.active(k).astype(np.float64) for k in count)
        lost = tuple(np.zeros(layer.size) for layer in layers) if allowances is None else tuple(allowances)
        return cls(layers, unstable, active, lost, np.zeros(0), net.n_inputs)

    def neurons(self, k: int, index: np.ndarray) -> Folded:
        """The pre-activations of some neurons of layer k."""
        return self._folded(k, [index[i : i + ROWS_AT_ONCE] for i in range(0, max(len(index), 1), ROWS_AT_ONCE)])

    def rows(self, k: int, rows: np.ndarray) -> Folded:
        """rows . zhat_k, rows of shape (m, n_k)."""
        return self._folded(k, [rows[i : i + ROWS_AT_ONCE] for i in range(0, max(len(rows), 1), ROWS_AT_ONCE)])

    def _folded(self, k: int, chunks: list[np.ndarray]) -> Folded:
        parts = [self._walk(k, chunk) for chunk in chunks]
        if len(parts) == 1:
            return parts[0]
        xp = array_namespace(self.like)
        blocks = tuple(xp.concat([part.blocks[source] for part in parts], axis=0) for source in range(k))
        bias, error = (np.concatenate([getattr(part, name) for part in parts]) for name in ("bias", "error"))
        return Folded(blocks, bias, error)

    def _start(self, k: int, rows: np.ndarray) -> tuple[Array, Array, list[Any]]:
        """Bias, error and lambda of the sources, of rows (m, n_k) or of the neurons (m,)."""
        xp, place, affine = array_namespace(self.like), device(self.like), self.layers[k - 1]
        bias, error = (xp.asarray(v, device=place) for v in (affine.bias, self.allowances[k - 1]))
        lam: list[Any] = [None] * k
        if rows.ndim == 1:
            index = xp.asarray(rows, device=place)
            for source, op in affine.blocks:
                lam[source] = op.rows_like(rows, self.like)
            return bias[index], error[index], lam
        nu = xp.asarray(rows, device=place)
        for source, op in affine.blocks:
            lam[source] = op.transpose_apply(nu)
        return nu @ bias, xp.abs(nu) @ error, lam

    def _walk(self, k: int, rows: np.ndarray) -> Folded:
        xp, place = array_namespace(self.like), device(self.like)
        bias, error, lam = self._start(k, rows)
        blocks: list[Any] = [None] * k
        for j in range(k - 1, 0, -1):
            if lam[j] is None:
                continue
            blocks[j] = xp.take(lam[j], xp.asarray(self.unstable[j - 1], device=place), axis=-1)
            nu, lam[j] = lam[j] * xp.asarray(self.active[j - 1], device=place), None
            affine = self.layers[j - 1]
            bias = bias + nu @ xp.asarray(affine.bias, device=place)
            error = error + xp.abs(nu) @ xp.asarray(self.allowances[j - 1], device=place)
            for source, op in affine.blocks:
                part = op.transpose_apply(nu)
                lam[source] = part if lam[source] is None else lam[source] + part
        blocks[0] = lam[0]
        for j in range(k):
            if blocks[j] is None:
                width = self.n_inputs if j == 0 else len(self.unstable[j - 1])
                blocks[j] = xp.zeros((len(rows), width), dtype=bias.dtype, device=place)
        return Folded(tuple(blocks), to_host(bias), to_host(error))
