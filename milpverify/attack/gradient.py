"""Gradients of outputs with respect to the input, by transpose-applies of the canonical form. Floating."""

from __future__ import annotations

from dataclasses import dataclass

from milpverify.network.graph import Network
from milpverify.network.operators import Array


@dataclass(frozen=True, eq=False)
class Linearization:
    """A batch of points, their outputs, and which ReLUs are open there: all a gradient needs.

    Attributes:
        net: The network, its operators in the namespace of x.
        x: Shape (batch, n_inputs).
        y: Shape (batch, n_outputs).
        hidden: Pre-activations zhat_k, one array of shape (batch, n_k) per hidden layer.
    """

    net: Network
    x: Array
    y: Array
    hidden: tuple[Array, ...]

    @classmethod
    def at(cls, net: Network, x: Array) -> Linearization:
        """The forward pass at x, shape (batch, n_inputs), numpy or torch."""
        hidden, y = net.activations(x)
        return cls(net, x, y, tuple(hidden))

    def pull_back(self, weights: Array, closed_slope: Array | float = 0.0) -> Array:
        """The gradient of weights . y with respect to x; a ReLU at its kink counts as closed.

        Args:
            weights: Shape (batch, n_outputs): one row of weights per point.
            closed_slope: What a closed ReLU passes on, a number or shape (batch, 1). Zero gives the gradient; a
                positive slope gives a surrogate that still sees neurons the input has shut off.

        Returns:
            Shape (batch, n_inputs).
        """
        affines = (*self.net.layers, self.net.output)
        pulled: list[Array | None] = [None] * len(affines)  # by source: 0 is x, j the j-th hidden layer
        for k in range(len(affines), 0, -1):
            if k == len(affines):
                nu = weights
            else:
                above = pulled[k]
                if above is None:
                    continue
                opened = self.hidden[k - 1] > 0
                nu = above * (closed_slope + (1.0 - closed_slope) * opened)
            for source, op in affines[k - 1].blocks:
                part, before = op.transpose_apply(nu), pulled[source]
                pulled[source] = part if before is None else before + part
        return self.x * 0.0 if pulled[0] is None else pulled[0]


def value_and_gradient(net: Network, x: Array, weights: Array) -> tuple[Array, Array]:
    """y at x, and the gradient of weights . y there. Floating.

    Args:
        net: Its operators in the namespace and on the device of x.
        x: Shape (batch, n_inputs).
        weights: Shape (batch, n_outputs).

    Returns:
        y, shape (batch, n_outputs), and the gradient, shape (batch, n_inputs).
    """
    point = Linearization.at(net, x)
    return point.y, point.pull_back(weights)
