r"""Gains: how far a unit step of the input can move any layer, and the Lipschitz radius that follows.

For operator norms ||W|| from the ball's norm to itself, N_0 = 1 and N_k = sum_j ||W_kj|| N_j bound the movement of z_k,
since ReLU never enlarges a distance; and a row w of layer k with its phases below held fixed or not moves by at most

    sum_j ||w_j||_* N_j        per unit of the input, with ||.||_* the dual norm.

A gradient's dual norm is also within sqrt(n) (L-inf) or 1 (L1) times its L2 norm, often the better way round: products
of L-inf norms ignore all signs.

Spectral norms are bounded from above by an approximate eigendecomposition and its residual, which asks nothing of
LAPACK: for G = Q L Q^T + R,  ||G||_2 <= max |L| (1 + ||Q^T Q - I||_F) + ||R||_F.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from milpverify.certificates.radii import (
    Ball,
    CertifiedRadii,
    Exactness,
    check_ball,
    class_labels,
    enclosed,
    margin_rows,
    numpy_inputs,
    numpy_twin,
)
from milpverify.errors import OptionError
from milpverify.network.graph import UNIT, Network
from milpverify.network.operators import Dense, LinearOperator, Product, Sum
from milpverify.spec.regions import L1Ball, L2Ball, LinfBall

CHUNK = 256  # rows of a lazy operator made at once
TINY = 1e-290  # more than what underflow takes from a sum of products


def spectral_norm_above(matrix: np.ndarray) -> float:
    """An upper bound of the largest singular value of a matrix. Rounded; tight to some 1e-12 relative.

    Source:
        Residual bounds of symmetric eigenvalue problems: Parlett 1998, section 4.5; rounding: Higham 2002, section 3.5.
    """
    A = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    largest = float(np.abs(A).max(initial=0.0))
    if largest == 0.0:
        return 0.0
    scale = 2.0 ** np.floor(np.log2(largest))
    A = A / scale  # a power of two: exact but for underflow, which TINY covers
    n, m = A.shape
    G = A @ A.T
    L, Q = np.linalg.eigh(G)
    # The entries of G, of Q L Q^T and of Q^T Q as computed are off by no more than gamma times products of norms.
    size_A, size_Q, top = np.linalg.norm(A), np.linalg.norm(Q), float(np.abs(L).max())
    off_G = _gamma(m) * size_A**2
    off_R = _gamma(n + 2) * (size_Q**2 * top + np.linalg.norm(G))
    residual = np.linalg.norm(G - (Q * L) @ Q.T) + off_R + off_G
    tilt = np.linalg.norm(Q.T @ Q - np.eye(n)) + _gamma(n + 1) * (size_Q**2 + np.sqrt(n))
    square = (top * (1.0 + tilt) + residual) * (1.0 + _gamma(n * m + 16)) + TINY
    return float(np.nextafter(np.sqrt(square) * (1.0 + 4.0 * UNIT) * scale, np.inf))


def row_norms_above(op: LinearOperator, ball: type[Ball]) -> np.ndarray:
    """Upper bounds of the dual norms of an operator's rows, shape (out_size,). Rounded."""
    parts = []
    for start in range(0, op.out_size, CHUNK):
        parts.append(dual_norms_above(op.entries(np.arange(start, min(start + CHUNK, op.out_size)))[1], ball))
    return np.concatenate([*parts, np.zeros(0)]) + _lost(op)


def dual_norms_above(rows: np.ndarray, ball: type[Ball]) -> np.ndarray:
    """Upper bounds of the dual norms over the last axis of exact entries. Rounded."""
    size = np.abs(rows)
    if ball is L1Ball:
        return np.asarray(size.max(axis=-1, initial=0.0))
    grown = 1.0 + _gamma(rows.shape[-1] + 4)
    if ball is LinfBall:
        return np.asarray(size.sum(axis=-1) * grown + TINY)
    top = size.max(axis=-1, keepdims=True, initial=0.0)
    scaled = size / np.where(top > 0, top, 1.0)
    return np.asarray(np.sqrt((scaled * scaled).sum(axis=-1)) * top[..., 0] * grown + TINY)


def operator_norm_above(op: LinearOperator, ball: type[Ball]) -> float:
    """An upper bound of max ||W x|| over ||x|| <= 1, both in the ball's norm. Rounded.

    L-inf: the largest absolute row sum; L1: the largest absolute column sum; L2: the spectral norm of a dense matrix,
    and otherwise the root of the product of both, which is no less.
    """
    if ball is L2Ball and isinstance(op, Dense):
        return spectral_norm_above(op.matrix)
    grown = 1.0 + _gamma(op.roundings + op.in_size + op.out_size + 8)
    row = float(op.absolute.apply(np.ones(op.in_size)).max(initial=0.0)) * grown + TINY
    column = float(op.absolute.transpose_apply(np.ones(op.out_size)).max(initial=0.0)) * grown + TINY
    if ball is L2Ball:
        return float(np.sqrt(row * column) * (1.0 + 8.0 * UNIT))
    return row if ball is LinfBall else column


@dataclass(frozen=True, eq=False)
class Gains:
    """Upper bounds of how much a network can move, for one norm; made once per network, for any number of inputs.

    Attributes:
        ball: Of the norm.
        layer: N_0, N_1, ... as above: of the input and of every hidden layer.
        rows: Per hidden layer how fast every neuron can move, shape (n_k,): sum_j ||w_j||_* N_j, or less through L2.
        through: The gains in L2, unless this is them.
    """

    ball: type[Ball]
    layer: tuple[float, ...]
    rows: tuple[np.ndarray, ...]
    through: Gains | None = None

    @classmethod
    def of(cls, net: Network, ball: type[Ball]) -> Gains:
        """The gains of a network. Rounded.

        Raises:
            OptionError: If the ball is none.
        """
        check_ball("Gains", ball)
        net, layer, rows = numpy_twin(net), [1.0], []
        for affine in net.layers:
            norms = [(operator_norm_above(op, ball), source) for source, op in affine.blocks]
            parts = [row_norms_above(op, ball) * layer[source] for source, op in affine.blocks]
            grown = 1.0 + _gamma(len(parts) + 4)
            rows.append(sum(parts, np.zeros(affine.size)) * grown)
            layer.append(sum(norm * layer[source] for norm, source in norms) * grown)
        if ball is L2Ball:
            return cls(ball, tuple(layer), tuple(rows))
        through = cls.of(net, L2Ball)
        factor = _from_l2(ball, net.n_inputs)
        least = (np.minimum(a, factor * b) for a, b in zip(rows, through.rows, strict=True))
        return cls(ball, tuple(layer), tuple(least), through)

    def outputs(self, net: Network, rows: np.ndarray) -> np.ndarray:
        """Upper bounds of how fast rows . y can fall per unit of the input: (..., n_outputs) -> (...). Rounded.

        Args:
            net: The network, numpy operators.
            rows: Combinations of outputs.
        """
        total = np.zeros(rows.shape[:-1])
        for source, op in net.output.blocks:
            pulled = op.transpose_apply(rows)
            # |W|^T |row| bounds what each entry is made of, so its rounding too; the norm of a sum is no larger.
            lost = _gamma(op.roundings + op.out_size + 4) * op.absolute.transpose_apply(np.abs(rows)) + TINY
            total = total + dual_norms_above(np.abs(pulled) + lost, self.ball) * self.layer[source]
        total = total * (1.0 + _gamma(len(net.output.blocks) + 4))
        if self.through is None:
            return total
        return np.minimum(total, _from_l2(self.ball, net.n_inputs) * self.through.outputs(net, rows))


def lipschitz_certificate(
    net: Network, x: Any, labels: Any, *, ball: type[Ball] = L2Ball, gains: Gains | None = None
) -> CertifiedRadii:
    """The margin over the network's Lipschitz bound, the worst target counting. Rounded.

    Args:
        net: The network, numpy operators.
        x: One input or a batch.
        labels: The class of each.
        ball: Of the norm that distances are measured in.
        gains: `Gains.of(net, ball)`, to save their making.

    Raises:
        NetworkError, PropertyError, OptionError: If inputs, labels, ball or gains do not fit.

    Source:
        Szegedy et al. 2014, section 4.3 (products of operator norms); Tsuzuku, Sato & Sugiyama 2018 (margins over
        Lipschitz bounds of output differences).
    """
    check_ball("lipschitz_certificate", ball)
    x = numpy_inputs("lipschitz_certificate", net, x)
    labels = class_labels("lipschitz_certificate", net, labels, len(x))
    gains = chosen_gains("lipschitz_certificate", net, ball, gains)
    rows = margin_rows(labels, net.n_outputs)
    _, margin = enclosed(net, x, rows)
    return smallest_ratio(margin, gains.outputs(net, rows))


def chosen_gains(who: str, net: Network, ball: type[Ball], gains: Gains | None) -> Gains:
    """The gains given, or new ones.

    Raises:
        OptionError: If they are of another norm or of another network.
    """
    if gains is None:
        return Gains.of(net, ball)
    if gains.ball is not ball or tuple(len(row) for row in gains.rows) != net.sizes:
        raise OptionError(
            f"{who}: the gains are of {gains.ball.__name__} and {[len(r) for r in gains.rows]} neurons, asked for "
            f"{ball.__name__} and {list(net.sizes)}. Make them by Gains.of(net, ball)."
        )
    return gains


def smallest_ratio(margin: np.ndarray, speed: np.ndarray) -> CertifiedRadii:
    """min over the targets of margin / speed, shapes (batch, targets); lower over upper bounds. Rounded."""
    correct = (margin > 0).all(axis=1)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        ratio = np.nextafter(margin / speed, 0.0)
    value = np.where(correct, np.where(margin > 0, ratio, 0.0).min(axis=1), 0.0)
    return CertifiedRadii(value, correct, Exactness.ROUNDED)


def _from_l2(ball: type[Ball], n: int) -> float:
    """An upper bound of the ball's dual norm per L2 norm, in n dimensions; room for a rounding of their product."""
    return float(np.sqrt(n) if ball is LinfBall else 1.0) * (1.0 + 8.0 * UNIT)


def _lost(op: LinearOperator) -> np.ndarray | float:
    """What the rounded entries of lazy sums and products can lack in any norm of a row; zero where they are stored."""
    if not isinstance(op, Sum | Product):
        return 0.0
    sums = op.absolute.apply(np.ones(op.in_size))  # no less than the row's L1 norm, so than any of its norms
    return np.asarray(_gamma(op.roundings + op.in_size + 8) * sums + TINY)


def _gamma(n: float) -> float:
    """More than the relative error of a sum of n products, in any order."""
    return 4.0 * (n + 4) * UNIT
