"""Input normalisation as part of the network, so that a region is stated on the raw inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from milpverify.errors import NetworkError
from milpverify.network.expression import Expr, scale, shift
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import compose, identity
from milpverify.network.rounding import rounded_quotient


def fold_normalisation(net: Network, mean: Any, std: Any) -> Network:
    """The network on raw inputs: net((x - mean) / std). Rounded: 1/std is, unless every std is a power of two.

    A perturbation of eps on the raw inputs is one of eps / std on the inputs of `net`.

    Args:
        net: Network on normalised inputs.
        mean, std: One number, one per channel (axis 1 of the input shape), or one per input entry; std > 0.

    Raises:
        NetworkError: If a number is not finite, a std is not positive, or the lengths fit neither channels nor inputs.
    """
    offset, spread = _spread_out(net, mean, "mean"), _spread_out(net, std, "std")
    if not (spread > 0).all():
        raise NetworkError(
            f"fold_normalisation: std must be positive, got {float(spread.min())}. Check the order of the arguments."
        )
    factor, exact = rounded_quotient(np.ones_like(spread), spread)
    if not np.isfinite(factor).all():
        raise NetworkError(f"fold_normalisation: 1/std overflows for std={float(spread.min())}. Give a larger std.")
    raw = Expr(net.input_shape, {0: identity(net.n_inputs)})
    shape = net.input_shape
    normalised = scale(shift(raw, -offset.reshape(shape)), factor.reshape(shape))
    note = "fold_normalisation: the factors 1/std were rounded to float64 (relative error up to 2^-53)."
    return replace(
        net,
        layers=tuple(_reading(layer, normalised) for layer in net.layers),
        output=_reading(net.output, normalised),
        approximations=net.approximations if exact else (*net.approximations, note),
    )


def _reading(affine: Affine, source: Expr) -> Affine:
    """The affine map with its input replaced by an affine expression of another input."""
    blocks, terms = [], affine.bias_terms
    for index, op in affine.blocks:
        if index:
            blocks.append((index, op))
            continue
        blocks.append((0, compose(op, source.blocks[0])))
        terms += tuple((op if inner is None else compose(op, inner), vector) for inner, vector in source.bias_terms)
    return replace(affine, blocks=tuple(blocks), bias_terms=terms)


def _spread_out(net: Network, values: Any, name: str) -> np.ndarray:
    """One finite number per input entry, flat."""
    array = np.asarray(values, dtype=np.float64)
    shape = net.input_shape
    channels = shape[1] if len(shape) > 1 else shape[-1]
    if not np.isfinite(array).all():
        raise NetworkError(f"fold_normalisation: {name} holds NaN or an infinite number. Replace it by finite numbers.")
    if array.size == net.n_inputs:
        return array.reshape(-1)
    if array.size == channels and array.ndim <= 1:
        array = array.reshape(1, -1, *[1] * (len(shape) - 2))
    elif array.size != 1:
        raise NetworkError(
            f"fold_normalisation: {name} has shape {array.shape}, the input {shape}. Give one number, one per channel "
            f"({channels}) or one per entry ({net.n_inputs})."
        )
    return np.broadcast_to(array.reshape(-1) if array.size == 1 else array, shape).reshape(-1)
