"""What any float32 execution of a network may add to its values (docs/proofs.md, section 2, "float32")."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from milpverify.network.convolution import Conv2d
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import Dense
from milpverify.proof.fixed_point import Integers
from milpverify.proof.forms import python_sum
from milpverify.proof.near_operators import NearOperator

MOST_ROUNDINGS = 1 << 20  # k = n + 2 stays below
DIGITS, LEAST_EXPONENT = 24, -149  # float32: numbers of so many bits, multiples of 2^-149


def float32_obstacle(net: Network) -> str:
    """Why a network is none of those that the section covers; empty where it is one.

    What is accepted is executed as it is stored: each affine map is one operator of the file and at most one bias.
    """
    if net.rewritten:
        return f"{net.rewritten[0]} is not stored as it is executed"
    for affine in (*net.layers, net.output):
        reason = _obstacle(affine)
        if reason:
            return f"layer {affine.name or 'without a name'} {reason}"
    return ""


def _obstacle(affine: Affine) -> str:
    ops = [op for _, op in affine.blocks]
    if len(ops) != 1 or not isinstance(ops[0], Dense | Conv2d):
        return "is not one matrix or convolution"
    if len(affine.bias_terms) > 1 or any(op is not None for op, _ in affine.bias_terms):
        return "has more than one bias, or one that has been moved through a map"
    if ops[0].fan_in + 2 >= MOST_ROUNDINGS:
        return f"sums {ops[0].fan_in} products"
    weights = ops[0].matrix if isinstance(ops[0], Dense) else ops[0].kernel
    if not all(_is_float32(values) for values in (weights, *(vector for _, vector in affine.bias_terms))):
        return "has weights that are no float32 numbers"
    return ""


def _is_float32(values: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float32) == values).all())


def float32_at_most(q: Fraction) -> Fraction:
    """The greatest number of 24 bits, and multiple of 2^-149, that is at most q."""
    p, r = q.as_integer_ratio()
    exponent = p.bit_length() - r.bit_length()  # 2^(exponent - 1) < |q| < 2^(exponent + 1)
    if abs(p) << max(-exponent, 0) < r << max(exponent, 0):
        exponent -= 1
    unit = max(exponent - DIGITS + 1, LEAST_EXPONENT)
    if unit >= 0:
        return Fraction((p // (r << unit)) << unit)
    return Fraction((p << -unit) // r, 1 << -unit)


def float32_error(
    integers: Integers, op: NearOperator, fan_in: int, bias: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far computed values of an affine step may be from W z + b.

    Args:
        fan_in: Weights of a row.
        bias: b~, (m,).
        sizes: Bounds of |z|, (batch, n).

    Returns:
        e, Python integers (batch, m), and whether nothing can overflow.
    """
    F, n, k = integers.bits, fan_in, fan_in + 2
    index = np.broadcast_to(np.arange(sizes.shape[1]), sizes.shape)
    ones = integers.narrow(np.ones((1, sizes.shape[1], 1), dtype=np.int64))
    weights = integers.exact(op.times(index[:1], ones, absolute=True))[..., 0].astype(object)
    products = integers.exact(op.times(index, sizes[..., None], absolute=True))[..., 0].astype(object)
    total = python_sum(sizes)[:, None]
    S = products + total + (abs(bias.astype(object)) + 1) * (1 << F)
    relative = -((-k * S) // (((1 << DIGITS) - k) << F))
    flushed = -((-(((2 * n + 4) << F) + weights + n + total)) >> 125)
    e = relative + flushed
    return e, np.asarray((S >> F) + e < (1 << 127 + F), dtype=bool)
