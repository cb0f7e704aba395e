r"""The linear network with injected noise: what the dual bound of Wong & Kolter minimises over.

With bounds l <= zhat <= u put s = u / (u - l) and h = -u l / (u - l) on unstable neurons, s = 1 (active) or 0
(inactive) and h = 0 elsewhere. The triangle's parallel faces turn the network into

    zhat_k = b_k + W_k0 x + sum_j W_kj z_j,    z_k = s_k zhat_k + delta_k,    0 <= delta_k <= h_k,    x = x_0 + delta_0,

which is linear in all its noise. So for rows c over layer k, with lambda_k = c and lambda_j = sum_k W_kj^T (s_k
lambda_k),

    min c . zhat_k = biases by the same path + lambda_0 . x_0 - eps ||lambda_0||_* - sum_j h_j . max(-lambda_j, 0),

attained at delta_0* = -eps (the direction dual to lambda_0) and delta_j* = h_j where lambda_j < 0, else 0. (Where
lambda_j = 0 any noise attains it.) Applied layer by layer this gives l and u themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from milpverify.certificates.radii import Ball, check_ball, dual_norm, inputs
from milpverify.errors import RegionError
from milpverify.network.arrays import array_namespace, device
from milpverify.network.graph import Network
from milpverify.network.operators import Array
from milpverify.spec.regions import L1Ball, LinfBall


@dataclass(frozen=True, eq=False)
class Path:
    """What rows over one layer see of everything below it. Floating.

    Attributes:
        constant: The biases' share of c . zhat_k, shape (batch, m).
        input: lambda_0, shape (batch, m, n_inputs).
        hidden: lambda_j of the hidden layers below, shape (batch, m, n_j).
    """

    constant: Array
    input: Array
    hidden: tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class LinearNetwork:
    """A ReLU network over a batch of balls, with its triangle relaxation written as injected noise. Floating.

    Differentiable in torch with respect to x and the operators' entries.

    Attributes:
        net: The network, its operators in the namespace of x.
        x: Centres, shape (batch, n_inputs).
        eps: Radius, in units of the input.
        ball: Of the norm; no clip.
        lower, upper: Bounds of the hidden layers so far, shape (batch, n_k).
    """

    net: Network
    x: Array
    eps: float
    ball: type[Ball]
    lower: tuple[Array, ...] = ()
    upper: tuple[Array, ...] = ()

    @classmethod
    def of(cls, net: Network, x: Any, eps: float, *, ball: type[Ball] = LinfBall) -> LinearNetwork:
        """The linear network, every hidden layer bounded by the dual bound of those below. Floating.

        Raises:
            RegionError: If eps is negative or not finite.
            NetworkError, OptionError: If inputs, ball or libraries do not fit.

        Source:
            Wong & Kolter 2018, algorithm 1, for any norm by its dual.
        """
        check_ball("LinearNetwork", ball)
        if not 0 <= eps < np.inf:
            raise RegionError(f"LinearNetwork: eps must be finite and at least 0, got {eps}. Give it in input units.")
        x = inputs("LinearNetwork", net, x)
        made = cls(net, x, float(eps), ball)
        xp = array_namespace(x)
        for k, layer in enumerate(net.layers, start=1):
            rows = xp.eye(layer.size, dtype=x.dtype, device=device(x))
            low, high = made.range(k, xp.broadcast_to(rows, (x.shape[0], layer.size, layer.size)))
            made = replace(made, lower=(*made.lower, low), upper=(*made.upper, high))
        return made

    def slopes(self, k: int) -> tuple[Array, Array]:
        """s and h of layer k, each of shape (batch, n_k)."""
        l, u = self.lower[k - 1], self.upper[k - 1]
        xp = array_namespace(l)
        free = self.unstable(k)
        width = xp.where(free, u - l, xp.ones_like(u))
        slope = xp.where(free, u / width, xp.astype(l >= 0, l.dtype))
        return slope, xp.where(free, -slope * l, xp.zeros_like(u))

    def unstable(self, k: int) -> Array:
        """Mask of the neurons of layer k with l < 0 < u, shape (batch, n_k)."""
        return (self.lower[k - 1] < 0) & (self.upper[k - 1] > 0)

    def path(self, k: int, rows: Array) -> Path:
        """The rows pulled back through the slopes.

        Args:
            k: The layer, one more than the hidden ones for the output; the layers below must be bounded.
            rows: Shape (batch, m, n_k).
        """
        affines = (*self.net.layers, self.net.output)
        xp, pulled = array_namespace(self.x), [None] * k
        constant = xp.sum(rows, axis=-1) * 0.0
        hidden: list[Array] = []
        for j in range(k, 0, -1):
            if j == k:
                nu = rows
            else:
                lam = pulled[j]
                if lam is None:
                    lam = xp.zeros((*rows.shape[:-1], affines[j - 1].size), dtype=rows.dtype, device=device(rows))
                hidden.insert(0, lam)
                nu = lam * self.slopes(j)[0][:, None, :]
            bias = xp.asarray(affines[j - 1].bias, dtype=rows.dtype, device=device(rows))
            constant = constant + xp.sum(nu * bias, axis=-1)
            for source, op in affines[j - 1].blocks:
                part, before = op.transpose_apply(nu), pulled[source]
                pulled[source] = part if before is None else before + part
        first = pulled[0]
        if first is None:
            first = xp.zeros((*rows.shape[:-1], self.net.n_inputs), dtype=rows.dtype, device=device(rows))
        return Path(constant, first, tuple(hidden))

    def range(self, k: int, rows: Array) -> tuple[Array, Array]:
        """Bounds of rows . zhat_k from below and above, each of shape (batch, m); arguments as of `path`."""
        xp, path = array_namespace(self.x), self.path(k, rows)
        middle = path.constant + xp.sum(path.input * self.x[:, None, :], axis=-1)
        reach = self.eps * dual_norm(path.input, self.ball)
        low, high = middle - reach, middle + reach
        for j, lam in enumerate(path.hidden, start=1):
            noise = self.slopes(j)[1][:, None, :]
            zero = xp.zeros_like(lam)
            low = low + xp.sum(xp.minimum(lam, zero) * noise, axis=-1)
            high = high + xp.sum(xp.maximum(lam, zero) * noise, axis=-1)
        return low, high

    def minimiser(self, lam: Array) -> Array:
        """x_0 + delta_0*, the point of the ball where lam . x is least: (batch, m, n_inputs) to the same shape."""
        xp, centre = array_namespace(lam), self.x[:, None, :]
        if self.ball is LinfBall:
            return centre - self.eps * xp.sign(lam)
        if self.ball is L1Ball:
            size = xp.abs(lam)
            top = xp.argmax(size, axis=-1)[..., None] == xp.arange(lam.shape[-1], device=device(lam))
            return centre - self.eps * xp.sign(lam) * top
        norm = dual_norm(lam, self.ball)[..., None]
        return centre - self.eps * lam / xp.where(norm > 0, norm, xp.ones_like(norm))


def margin_bound(relaxed: LinearNetwork, rows: Array) -> Array:
    """Wong & Kolter's dual bound of rows . y, shape (batch, m), differentiable. Floating.

    The number of `FastLin(intersect=False)`, which rounds it outward; this one can be trained with.

    Args:
        relaxed: Every hidden layer bounded.
        rows: Shape (batch, m, n_outputs).

    Source:
        Wong & Kolter 2018, theorem 1.
    """
    return relaxed.range(len(relaxed.net.layers) + 1, rows)[0]
