r"""Linear classifiers, where everything is exact: worst margins, worst losses and distances in closed form.

For a linear function, min over ||delta|| <= eps of w . (x + delta) + b is w . x + b - eps ||w||_*. So a decreasing loss
of a binary margin has its inner maximum in closed form; with several classes the minimum over delta and the minimum
over targets exchange, and the worst margin and the distance to the nearest boundary are exact too. A loss of all
margins at once, such as cross-entropy, is only bounded: each target's worst delta is another one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from milpverify.certificates.gains import dual_norms_above, smallest_ratio
from milpverify.certificates.radii import (
    Ball,
    CertifiedRadii,
    check_ball,
    class_labels,
    dual_norm,
    enclosed,
    inputs,
    margin_rows,
    need_plain_layers,
    numpy_inputs,
)
from milpverify.errors import RegionError
from milpverify.network.arrays import array_namespace
from milpverify.network.graph import UNIT, Network
from milpverify.network.operators import Array
from milpverify.spec.regions import L2Ball, LinfBall


def worst_linear_margins(net: Network, x: Any, labels: Any, eps: float, *, ball: type[Ball] = LinfBall) -> Array:
    """min over ||delta|| <= eps of y_label - y_j at x + delta, for each other class j: exact formula, floating.

    With two classes y_0 - y_1 = w . x + b this is the binary margin less eps ||w||_*, and any decreasing loss of it is
    the exact inner maximum of adversarial training. The least entry is the exact worst margin of several classes.

    Args:
        net: A network without hidden layers, its operators in the namespace of x.
        x: One input or a batch.
        labels: The class of each.
        eps: In units of the input.
        ball: Of the norm.

    Returns:
        Shape (batch, n_outputs - 1), in rising order of j; differentiable in torch.

    Raises:
        UnsupportedError: If the network has hidden layers.
        RegionError: If eps is negative or not finite.
        NetworkError, PropertyError, OptionError: If inputs, labels or ball do not fit.

    Source:
        Goodfellow, Shlens & Szegedy 2015, section 5 (adversarial training of linear models).
    """
    who = "worst_linear_margins"
    check_ball(who, ball)
    need_plain_layers(who, net, 0)
    if not 0 <= eps < np.inf:
        raise RegionError(f"{who}: eps must be finite and at least 0, got {eps}. Give a radius in input units.")
    x = inputs(who, net, x)
    rows = margin_rows(class_labels(who, net, labels, len(x)), net.n_outputs, x)
    margins = (rows @ net.forward(x)[:, :, None])[:, :, 0]
    return margins - eps * dual_norm(net.output.blocks[0][1].transpose_apply(rows), ball)


def worst_cross_entropy(margins: Array) -> Array:
    """log(1 + sum_j exp(-margin_j)) of worst margins: an upper bound of the worst cross-entropy, exact for two classes.

    Args:
        margins: As `worst_linear_margins` or any verifier's lower bounds give them, shape (batch, n_outputs - 1).

    Returns:
        Shape (batch,). Floating.

    Source:
        Wong & Kolter 2018, theorem 2 (a monotone loss of lower-bounded margins).
    """
    xp = array_namespace(margins)
    padded = xp.concat([xp.zeros_like(margins[:, :1]), -margins], axis=1)
    top = xp.max(padded, axis=1, keepdims=True)
    return top[:, 0] + xp.log(xp.sum(xp.exp(padded - top), axis=1))


def linear_certificate(net: Network, x: Any, labels: Any, *, ball: type[Ball] = L2Ball) -> CertifiedRadii:
    """min over j of (y_label - y_j) / ||w_label - w_j||_*: the exact distance for a linear classifier. Rounded.

    Args:
        net: A network without hidden layers, numpy operators.
        x: One input or a batch.
        labels: The class of each.
        ball: Of the norm.

    Raises:
        UnsupportedError: If the network has hidden layers.
        NetworkError, PropertyError, OptionError: If inputs, labels or ball do not fit.

    Source:
        Moosavi-Dezfooli, Fawzi & Frossard 2016, section 3 (affine multi-class classifiers).
    """
    who = "linear_certificate"
    check_ball(who, ball)
    need_plain_layers(who, net, 0)
    x = numpy_inputs(who, net, x)
    rows = margin_rows(class_labels(who, net, labels, len(x)), net.n_outputs)
    _, margin = enclosed(net, x, rows)
    op = net.output.blocks[0][1]
    lost = 4.0 * (op.roundings + op.out_size + 8) * UNIT * op.absolute.transpose_apply(np.abs(rows))
    return smallest_ratio(margin, dual_norms_above(np.abs(op.transpose_apply(rows)) + lost, ball))
