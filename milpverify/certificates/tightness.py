r"""How tight the dual bound is: its optimal perturbation, and two indicators that vanish where it is exact.

Let p be the dual bound of c . y, x* = x_0 + delta_0* the input and z* the values where the linear network with injected
noise (`linear_network`) attains it, and p_exact the exact minimum over the ball. Then x* is an input of the ball, so

    d = c . f(x*) - p  >=  p_exact - p  >=  0,    and    r = sum over unstable neurons of | z*_i - relu(zhat*_i) |

measures by how much the optimum of the relaxation fails to be a run of the network. If r = 0 it is one: then d = 0, and
the bound is exact. Neurons with lambda_i = 0 may have any noise at an optimum and get what suits the ReLU best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from milpverify.certificates.linear_network import LinearNetwork, margin_bound
from milpverify.certificates.radii import Ball, class_labels, margin_rows
from milpverify.network.arrays import array_namespace
from milpverify.network.graph import Network
from milpverify.network.operators import Array
from milpverify.spec.regions import LinfBall


@dataclass(frozen=True, eq=False)
class Tightness:
    """Bounds of a batch of margins with their indicators. Floating; differentiable in torch.

    Attributes:
        bound: p, shape (batch, m), in units of y.
        d: c . f(x*) - p, an upper bound of the bound's gap, shape (batch, m).
        r: By how much the relaxed optimum is no run of the network, shape (batch, m), in units of z.
        x: x*, shape (batch, m, n_inputs): in the ball up to rounding, and a good place to attack from.
        scale: Sum of |z*| over the same neurons, shape (batch, m): what r is to be compared with.
    """

    bound: Array
    d: Array
    r: Array
    x: Array
    scale: Array

    def exact(self, tolerance: float = 1e-12) -> Array:
        """Whether r is 0 but for rounding, which proves the bound exact (up to as much). Shape (batch, m).

        Args:
            tolerance: Of r, per unit of the values compared.

        Source:
            Zhu et al. 2020, proposition 1.
        """
        return self.r <= tolerance * (1.0 + self.scale)


def tightness(
    net: Network, x: Any, labels: Any, eps: float, *, ball: type[Ball] = LinfBall, rows: Array | None = None
) -> Tightness:
    """The dual bound of every margin over balls around inputs, and its indicators d and r. Floating.

    Args:
        net: The network, its operators in the namespace of x.
        x: One input or a batch.
        labels: The class of each; the rows are its margins against the others, in rising order.
        eps: In units of the input; the ball is not clipped, as in the paper.
        ball: Of the norm.
        rows: Other combinations of outputs, shape (batch, m, n_outputs); `labels` is then not read.

    Raises:
        RegionError, NetworkError, PropertyError, OptionError: If an argument does not fit.

    Source:
        Zhu, Ni, Chiang, Li, Huang & Goldstein 2020, "Improving the tightness of convex relaxation bounds for training
        certifiably robust classifiers": the linear network with injected noise (eq. 3 to 7), d (eq. 8) and r (eq. 9),
        up to normalisation.
    """
    relaxed = LinearNetwork.of(net, x, eps, ball=ball)
    if rows is None:
        labels = class_labels("tightness", net, labels, relaxed.x.shape[0])
        rows = margin_rows(labels, net.n_outputs, relaxed.x)
    path = relaxed.path(len(net.layers) + 1, rows)
    bound = margin_bound(relaxed, rows)
    point = relaxed.minimiser(path.input)
    r, scale = _deviation(relaxed, path.hidden, point, bound * 0.0)
    xp = array_namespace(bound)
    return Tightness(bound, xp.sum(rows * net.forward(point), axis=-1) - bound, r, point, scale)


def _deviation(relaxed: LinearNetwork, hidden: tuple[Array, ...], point: Array, zero: Array) -> tuple[Array, Array]:
    """r and its scale, by a forward pass of the linear network with its optimal noise."""
    values, r, scale = [point], zero, zero
    for k, (layer, lam) in enumerate(zip(relaxed.net.layers, hidden, strict=True), start=1):
        zhat = layer.apply(values)
        xp = array_namespace(zhat)
        slope, most = (part[:, None, :] for part in relaxed.slopes(k))
        none = xp.zeros_like(zhat)
        true = xp.maximum(zhat, none)
        suits = xp.minimum(xp.maximum(true - slope * zhat, none), most + none)
        noise = xp.where(lam < 0, most + none, xp.where(lam > 0, none, suits))
        z = slope * zhat + noise
        free = relaxed.unstable(k)[:, None, :]
        r = r + xp.sum(xp.where(free, xp.abs(z - true), none), axis=-1)
        scale = scale + xp.sum(xp.where(free, xp.abs(z), none), axis=-1)
        values.append(z)
    return r, scale
