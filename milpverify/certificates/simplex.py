r"""The simplex certificate: how far an input is from leaving its activation region or crossing the boundary inside it.

While the pattern of an input x holds, zhat_k and y are affine with gradients A_k and C (`activation_region`), so

    P_min = min over neurons i of |zhat_i| / ||A_i||_*
    d_min = min over targets j of (y_label - y_j) / ||C_label - C_j||_*

are distances to hyperplanes, and nothing nearer than min(P_min, d_min) is misclassified.

Few of the ||A_i|| are ever computed. `Gains` bounds them all from above by the weights alone, which bounds every ratio
from below; ratios are then evaluated in rising order of those bounds, by pulling single rows back through the network,
until the next bound exceeds the least ratio met. The value is that of the whole matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from milpverify.certificates.dual_radius import proven_below
from milpverify.certificates.gains import Gains, chosen_gains
from milpverify.certificates.radii import (
    Ball,
    CertifiedRadii,
    Exactness,
    check_ball,
    class_labels,
    dual_norm,
    enclosed,
    inputs,
    margin_rows,
)
from milpverify.errors import OptionError
from milpverify.network.arrays import array_namespace, device, to_host
from milpverify.network.graph import Network
from milpverify.network.operators import Array
from milpverify.spec.regions import L2Ball

FIRST = 4  # faces of one input tried at first; twice as many each round
AT_ONCE = 4096  # rows pulled back at once
SURE = 1.0 - 1e-9  # of a bound: the ratios compared with it are rounded


@dataclass(frozen=True, eq=False)
class SimplexCertificate(CertifiedRadii):
    """min(P_min, d_min) of a batch of inputs, in units of the input.

    Attributes:
        region: P_min, shape (batch,); infinite where no neuron can change its phase.
        boundary: d_min, shape (batch,); 0 where misclassified.
        face: Layer (from 1) and neuron whose change of phase is nearest, shape (batch, 2); layer 0 where there is none.
    """

    region: Array
    boundary: Array
    face: np.ndarray


def simplex_certificate(
    net: Network,
    x: Any,
    labels: Any,
    *,
    ball: type[Ball] = L2Ball,
    gains: Gains | None = None,
    rounded: bool = False,
) -> SimplexCertificate:
    """The simplex certificates of inputs; exact formula, floating, or rounded on request.

    Differentiable in torch, with respect to x and to the operators' entries (biases are constants of the canonical
    form); at a kink the gradient is that of one side.

    Args:
        net: The network, its operators in the namespace of x.
        x: One input or a batch.
        labels: The class of each.
        ball: Of the norm that distances are measured in; gradients are measured in the dual norm.
        gains: `Gains.of(net, ball)`, to save their making for every batch.
        rounded: Lower each value until bounds rounded outward prove it, usually by less than 1e-9 of itself. numpy
        only.

    Raises:
        NetworkError, PropertyError, OptionError: If inputs, labels, ball, gains or libraries do not fit.

    Source:
        Singla & Feizi 2019, "Robustness certificates against adversarial examples for ReLU networks" (the simplex
        certificate, in L2). Other norms by the same reasoning; the order of evaluation is our own.
    """
    who = "simplex_certificate"
    check_ball(who, ball)
    x = inputs(who, net, x)
    if rounded and not isinstance(x, np.ndarray):
        raise OptionError(f"{who}: rounded radii are made on numpy arrays only. Leave `rounded` out for torch.")
    labels = class_labels(who, net, labels, x.shape[0])
    gains = chosen_gains(who, net, ball, gains)
    xp, step = array_namespace(x), max(1, AT_ONCE // net.n_outputs)
    parts = [_evaluated(net, x[i : i + step], labels[i : i + step], ball, gains) for i in range(0, x.shape[0], step)]
    region, boundary, correct = (xp.concat([part[k] for part in parts]) for k in range(3))
    value = xp.where(correct, xp.minimum(region, boundary), xp.zeros_like(boundary))
    face = np.concatenate([part[3] for part in parts])
    found = SimplexCertificate(value, correct, Exactness.FLOATING, region, boundary, face)
    return _rounded(net, x, labels, ball, found) if rounded else found


def _evaluated(
    net: Network, x: Array, labels: np.ndarray, ball: type[Ball], gains: Gains
) -> tuple[Array, Array, Array, np.ndarray]:
    """P_min, d_min, whether correct, and the nearest faces of a batch that fits in memory."""
    walk = _Walk(net, ball, *net.activations(x))
    boundary, correct = walk.boundary(margin_rows(labels, net.n_outputs, x))
    face = walk.nearest_faces(gains)
    return walk.region(face), boundary, correct, face


def _rounded(
    net: Network, x: np.ndarray, labels: np.ndarray, ball: type[Ball], found: SimplexCertificate
) -> SimplexCertificate:
    _, margin = enclosed(net, x, margin_rows(labels, net.n_outputs))
    correct, value = (margin > 0).all(axis=1), np.zeros(len(x))
    for i in np.flatnonzero(correct & found.correct):
        value[i] = proven_below(net, x[i], int(labels[i]), ball, float(found.value[i]))
    return replace(found, value=value, correct=correct, exactness=Exactness.ROUNDED)


@dataclass(frozen=True, eq=False)
class _Walk:
    """A forward pass, from which rows are pulled back with its pattern held fixed."""

    net: Network
    ball: type[Ball]
    hidden: list[Array]
    y: Array

    def boundary(self, rows: Array) -> tuple[Array, Array]:
        """d_min and whether all margins are positive, from rows (batch, targets, n_outputs)."""
        xp = array_namespace(self.y)
        margin = (rows @ self.y[:, :, None])[:, :, 0]
        gradient = self._pull_back(len(self.hidden) + 1, rows, [(zhat > 0)[:, None, :] for zhat in self.hidden])
        ratio = _ratio(margin, dual_norm(gradient, self.ball))
        correct = xp.all(margin > 0, axis=1)
        return xp.where(correct, xp.min(ratio, axis=1), xp.zeros_like(ratio[:, 0])), correct

    def nearest_faces(self, gains: Gains) -> np.ndarray:
        """Layer and neuron of the least |zhat_i| / ||A_i||_* of each input, shape (batch, 2)."""
        batch = self.y.shape[0]
        sizes = self.net.sizes
        layer = np.repeat(np.arange(1, len(sizes) + 1), sizes)
        neuron = np.concatenate([np.arange(n) for n in sizes] + [np.zeros(0, dtype=int)])
        if not len(layer):
            return np.zeros((batch, 2), dtype=int)
        size = np.concatenate([np.abs(_host(zhat)) for zhat in self.hidden], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            low = SURE * size / np.concatenate(gains.rows)
        low = np.where(np.isnan(low), np.where(size == 0, np.inf, 0.0), low)  # constantly zero: no face; or overflow
        order = np.argsort(low, axis=1, kind="stable")
        best, face = np.full(batch, np.inf), np.zeros((batch, 2), dtype=int)
        start, count = 0, FIRST
        while start < len(layer):
            some = order[:, start : start + count]
            wanted = np.take_along_axis(low, some, axis=1) < best[:, None]
            image, column = np.nonzero(wanted)
            if not len(image):
                break
            pick = some[image, column]
            for part in np.array_split(np.arange(len(pick)), -(-len(pick) // AT_ONCE)):
                ratio = self._ratios(image[part], layer[pick[part]], neuron[pick[part]])
                for i, value, p in zip(image[part], ratio, pick[part], strict=True):
                    if value < best[i]:
                        best[i], face[i] = value, (layer[p], neuron[p])
            start, count = start + count, 2 * count
        return face

    def region(self, face: np.ndarray) -> Array:
        """P_min from the nearest faces, differentiable: |zhat_i| / ||A_i||_*."""
        xp = array_namespace(self.y)
        value = [xp.full((), np.inf, dtype=self.y.dtype, device=device(self.y))] * len(face)
        for k in np.unique(face[:, 0][face[:, 0] > 0]):
            image = np.flatnonzero(face[:, 0] == k)
            ratio = self._layer_ratios(image, int(k), face[image, 1])
            for at, i in enumerate(image.tolist()):
                value[i] = ratio[at]
        return xp.stack(value)

    def _ratios(self, image: np.ndarray, layer: np.ndarray, neuron: np.ndarray) -> np.ndarray:
        ratio = np.zeros(len(image))
        for k in np.unique(layer):
            here = layer == k
            ratio[here] = _host(self._layer_ratios(image[here], int(k), neuron[here]))
        return ratio

    def _layer_ratios(self, image: np.ndarray, k: int, neuron: np.ndarray) -> Array:
        """|zhat_i| / ||A_i||_* of neurons of layer k, each at its own input, shape (m,)."""
        xp = array_namespace(self.y)
        at, which = (xp.asarray(index, device=device(self.y)) for index in (image, neuron))
        patterns = [zhat[at] > 0 for zhat in self.hidden[: k - 1]]
        gradient = self._pull_back(k, neuron, patterns)
        return _ratio(xp.abs(self.hidden[k - 1][at, which]), dual_norm(gradient, self.ball))

    def _pull_back(self, k: int, rows: Array, patterns: list[Array]) -> Array:
        """Gradients of rows . zhat_k with the patterns of the layers below held fixed.

        Args:
            k: The layer, one more than the hidden ones for the output.
            rows: Combinations (..., n_k), or the indices of neurons, a numpy vector of integers.
            patterns: Per layer below, broadcast against (..., n_j).

        Returns:
            Shape (..., n_inputs).
        """
        affines = (*self.net.layers, self.net.output)
        unit = isinstance(rows, np.ndarray) and rows.dtype.kind == "i"
        pulled: list[Array | None] = [None] * k
        for source, op in affines[k - 1].blocks:
            pulled[source] = op.rows_like(rows, self.y) if unit else op.transpose_apply(rows)
        for j in range(k - 1, 0, -1):
            above = pulled[j]
            if above is None:
                continue
            nu = above * patterns[j - 1]
            for source, op in affines[j - 1].blocks:
                part, before = op.transpose_apply(nu), pulled[source]
                pulled[source] = part if before is None else before + part
        if pulled[0] is not None:
            return pulled[0]
        xp, front = array_namespace(self.y), rows.shape if unit else rows.shape[:-1]
        return xp.zeros((*front, self.net.n_inputs), dtype=self.y.dtype, device=device(self.y))


def _ratio(size: Array, norm: Array) -> Array:
    """size / norm; infinite where the norm is 0, without a NaN in its gradient; 0 where either overflowed."""
    xp = array_namespace(size)
    good = (norm > 0) & xp.isfinite(norm) & xp.isfinite(size)
    rest = xp.where(norm == 0, xp.full_like(norm, np.inf), xp.zeros_like(norm))
    return xp.where(good, size / xp.where(good, norm, xp.ones_like(norm)), rest)


def _host(x: Array) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else to_host(x.detach())
