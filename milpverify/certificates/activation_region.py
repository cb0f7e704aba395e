r"""The activation region of an input, where all ReLUs keep their phases, and the affine function the network is there.

With the pattern s_k = [zhat_k(x) > 0] held fixed the canonical form is affine, zhat_k = A_k x + a_k and y = C x + d:

    A_k = W_k0 + sum_j W_kj diag(s_j) A_j,        a_k = b_k + sum_j W_kj diag(s_j) a_j,

and the region is the polyhedron of all inputs with (2 s_k - 1) (A_k x + a_k) >= 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from milpverify.certificates.radii import inputs
from milpverify.network.arrays import array_namespace, device
from milpverify.network.graph import Network
from milpverify.network.operators import Array


@dataclass(frozen=True, eq=False)
class ActivationRegion:
    """The polyhedra P x + q >= 0 of a batch of inputs, and the affine functions y = C x + d on them. Floating.

    Attributes:
        pattern: Whether each ReLU is open, shape (batch, n_k) per hidden layer; one at its kink counts as closed.
        P: Shape (batch, n_k, n_inputs) per hidden layer: A_k, negated where the ReLU is closed.
        q: Shape (batch, n_k) per hidden layer: a_k, likewise.
        C: Shape (batch, n_outputs, n_inputs).
        d: Shape (batch, n_outputs).
    """

    pattern: tuple[Array, ...]
    P: tuple[Array, ...]
    q: tuple[Array, ...]
    C: Array
    d: Array

    def slack(self, x: Array) -> tuple[Array, ...]:
        """P x + q per hidden layer, shape (batch, n_k), at one point per region, shape (batch, n_inputs)."""
        return tuple((P @ x[:, :, None])[:, :, 0] + q for P, q in zip(self.P, self.q, strict=True))

    def output(self, x: Array) -> Array:
        """C x + d, shape (batch, n_outputs): the network's output wherever x is in its region."""
        return (self.C @ x[:, :, None])[:, :, 0] + self.d


def activation_region(net: Network, x: Any) -> ActivationRegion:
    """The activation regions of inputs, in one forward pass of the pair (A, a) through the network. Floating.

    Dense, convolutional and skip connections alike; differentiable with respect to the operators' entries in torch.

    Args:
        net: The network, its operators in the namespace of x (`net.to_torch()` for torch).
        x: One input or a batch, n_inputs entries each.

    Raises:
        NetworkError: If x does not fit the network or is not finite.
        OptionError: If network and x are of different libraries.

    Source:
        Singla & Feizi 2019, "Robustness certificates against adversarial examples for ReLU networks", algorithm 1.
    """
    x = inputs("activation_region", net, x)
    xp = array_namespace(x)
    hidden, _ = net.activations(x)
    n, batch = net.n_inputs, x.shape[0]
    eye = xp.eye(n + 1, n, dtype=x.dtype, device=device(x))  # columns of A as rows, and a zero row for the constant
    values = [xp.broadcast_to(eye, (batch, n + 1, n))]
    constant = xp.reshape(xp.asarray([0.0] * n + [1.0], dtype=x.dtype, device=device(x)), (n + 1, 1))
    pattern: list[Array] = []
    P: list[Array] = []
    q: list[Array] = []
    for affine, zhat in zip((*net.layers, net.output), (*hidden, None), strict=True):
        total = constant * xp.asarray(affine.bias, dtype=x.dtype, device=device(x))
        total = total + xp.zeros((batch, n + 1, affine.size), dtype=x.dtype, device=device(x))
        for source, op in affine.blocks:
            total = total + op.apply(values[source])
        if zhat is None:
            return ActivationRegion(tuple(pattern), tuple(P), tuple(q), total[:, :n].mT, total[:, n])
        opened = zhat > 0
        sign = xp.where(opened, xp.ones_like(zhat), -xp.ones_like(zhat))
        pattern.append(opened)
        P.append(sign[:, :, None] * total[:, :n].mT)
        q.append(sign * total[:, n])
        values.append(total * opened[:, None, :])
    raise AssertionError("the output is the last affine map")
