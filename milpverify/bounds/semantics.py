"""What a network's arithmetic is taken to be: real numbers, or any float32 execution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from milpverify.network.arrays import array_namespace, to_host
from milpverify.network.graph import Affine
from milpverify.network.operators import Array, LinearOperator, Product, Sum

UNIT_32 = 2.0**-24  # unit roundoff of float32
LEAST_NORMAL_32 = 2.0**-126
LARGEST_32 = (2.0 - 2.0**-23) * 2.0**127


class Semantics(ABC):
    """How far a computed pre-activation may be from W z + b at the computed z."""

    name: ClassVar[str]

    @abstractmethod
    def error(self, affine: Affine, sizes: dict[int, Array]) -> np.ndarray:
        """The slack e >= |zhat - (W z + b)|, shape (..., n_k). Rounded.

        Args:
            affine: The layer.
            sizes: Per source a bound on its values' absolute values in the same semantics, shape (..., n_source).
        """


@dataclass(frozen=True)
class Real(Semantics):
    """Exact real arithmetic: the function that the weights define."""

    name: ClassVar[str] = "real"

    def error(self, affine: Affine, sizes: dict[int, Array]) -> np.ndarray:
        return np.zeros(affine.size)


@dataclass(frozen=True)
class Float32(Semantics):
    """Every IEEE binary32 execution: any order of summation, with or without FMA, flushing subnormals or not.

    e = gamma_N (|W| A + |b|) + 2^-126 (...), where N counts the roundings on the longest path through the operators
    as they stand (lazy products and sums are the deployed ones), more for weights and inputs that float32 has to round,
    and the last term what flushed inputs, weights, products and sums can add. Infinite where a value can
    overflow. A bound with this slack also holds for real arithmetic.

    Source:
        Higham 2002, section 3.1 (gamma_n); Jia & Rinard 2021 (verdicts that float execution breaks).
    """

    name: ClassVar[str] = "float32"

    def error(self, affine: Affine, sizes: dict[int, Array]) -> np.ndarray:
        biases = [(op, np.abs(vector)) for op, vector in affine.bias_terms if op is not None]
        roundings = 6 + affine.bias_roundings + sum(_stored(op) for op, _ in biases)
        roundings += sum(op.apply_roundings + _stored(op) + 2 for _, op in affine.blocks)
        if roundings * UNIT_32 >= 0.5:
            return np.full(affine.size, np.inf)
        gamma = roundings * UNIT_32 / (1.0 - roundings * UNIT_32)
        size, flushed = affine.bias_size, np.full(affine.size, 4.0 + 2.0 * affine.bias_roundings)
        for source, op in affine.blocks:
            size = size + to_host(op.absolute.apply(sizes[source]))
            flushed = flushed + to_host(_flushed(op, sizes[source]))
        for op, vector in biases:
            flushed = flushed + _flushed(op, vector)
        # All in float64, whose own roundings a share of 2^-20 covers many times over.
        error = (gamma * size + LEAST_NORMAL_32 * (1.0 + gamma) * flushed) * (1.0 + 2.0**-20)
        return np.where(np.isfinite(error) & (size + error < LARGEST_32), error, np.inf)


REAL = Real()


def _stored(op: LinearOperator) -> int:
    """Stored coefficients on the longest path through an operator: each may have to be rounded to float32."""
    if isinstance(op, Product):
        return sum(_stored(factor) for factor in op.factors)
    return max(_stored(term) for term in op.terms) if isinstance(op, Sum) else 1


def _flushed(op: LinearOperator, sizes: Array) -> Array:
    """What flushing subnormals can add to the entries of W z for |z| <= sizes, in units of the least normal number."""
    xp = array_namespace(sizes)
    if isinstance(op, Product):
        units, reach = xp.zeros_like(sizes), sizes
        for factor in reversed(op.factors):
            units, reach = factor.absolute.apply(units) + _flushed(factor, reach), factor.absolute.apply(reach)
            units = xp.where(reach < LARGEST_32 / 2, units, xp.full_like(units, xp.inf))  # what later factors shrink
        return units
    if isinstance(op, Sum):
        return sum((_flushed(term, sizes) for term in op.terms), 2.0 * len(op.terms))
    inputs = op.absolute.apply(xp.ones_like(sizes))  # each input off by at most one unit
    inputs = xp.where(inputs < LARGEST_32 / 2, inputs, xp.full_like(inputs, xp.inf))  # a weight that is no float32
    return inputs + 2.0 * (op.apply_roundings + 1) + xp.sum(sizes, axis=-1, keepdims=True)  # products; flushed weights
