"""The canonical form in exact rational arithmetic, for replay: Python integers, one common denominator per value."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import reduce
from math import lcm

import numpy as np

from milpverify.errors import NetworkError
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import to_scaled_integers

Scaled = tuple[np.ndarray, int]  # integers (object array) and the positive denominator they share


def forward_exact(net: Network, x: Sequence[Fraction | float | int] | np.ndarray) -> tuple[Fraction, ...]:
    """y at x, exact: the rationals of the stored floats, no rounding anywhere.

    Args:
        x: n_inputs rationals or finite floats (taken as the rationals they are).

    Returns:
        n_outputs rationals.

    Raises:
        NetworkError: If the length differs from n_inputs.
    """
    if len(x) != net.n_inputs:
        raise NetworkError(f"forward_exact: expected {net.n_inputs} inputs, got {len(x)}.")
    values = [_scaled(x)]
    for layer in net.layers:
        numerators, denominator = _affine(layer, values)
        values.append((np.maximum(numerators, 0), denominator))
    numerators, denominator = _affine(net.output, values)
    return tuple(Fraction(int(n), denominator) for n in numerators)


def _scaled(x: Sequence[Fraction | float | int] | np.ndarray) -> Scaled:
    if isinstance(x, np.ndarray) and x.dtype == np.float64 and np.isfinite(x).all():
        numerators, exponent = to_scaled_integers(x)
        return numerators, 1 << exponent
    fractions = [Fraction(v) for v in x]
    denominator = reduce(lcm, (f.denominator for f in fractions), 1)
    numerators = np.empty(len(fractions), dtype=object)
    numerators[:] = [f.numerator * (denominator // f.denominator) for f in fractions]
    return numerators, denominator


def _affine(layer: Affine, values: Sequence[Scaled]) -> Scaled:
    terms: list[Scaled] = []
    for source, op in layer.blocks:
        numerators, denominator = values[source]
        numerators, exponent = op.apply_exact(numerators)
        terms.append((numerators, denominator << exponent))
    for term, vector in layer.bias_terms:
        numerators, exponent = to_scaled_integers(vector)
        if term is not None:
            numerators, more = term.apply_exact(numerators)
            exponent += more
        terms.append((numerators, 1 << exponent))
    common = reduce(lcm, (denominator for _, denominator in terms), 1)
    total = np.zeros(layer.size, dtype=object)
    for numerators, denominator in terms:
        total = total + numerators * (common // denominator)
    return total, common
