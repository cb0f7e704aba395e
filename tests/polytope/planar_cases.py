"""Small networks of two inputs, and their linear regions worked out in rationals."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np

from milpverify.network.graph import Affine, Network
from milpverify.network.operators import Dense

Point = tuple[Fraction, Fraction]
Pattern = tuple[tuple[bool, ...], ...]


def network(*layers: tuple[object, object]) -> Network:
    """A chain from (weights, bias) pairs, the output last."""
    parts = []
    for k, (weights, bias) in enumerate(layers):
        W, b = np.array(weights, dtype=np.float64), np.array(bias, dtype=np.float64)
        parts.append(Affine(((k, Dense(W)),), ((None, b),), len(b)))
    return Network((parts[0].blocks[0][1].in_size,), (parts[-1].size,), tuple(parts[:-1]), parts[-1])


def random_net(seed: int, *widths: int) -> Network:
    """A chain with weights N(0, 1 / n_in) and biases N(0, 1)."""
    rng = np.random.default_rng(seed)
    return network(*((rng.normal(size=(m, n)) / np.sqrt(n), rng.normal(size=m)) for n, m in pairwise(widths)))


def integer_net(rng: np.random.Generator, *widths: int) -> Network:
    """A chain of small integers: its lines meet in vertices, run along edges, and coincide."""
    return network(*((rng.integers(-2, 3, (m, n)), rng.integers(-2, 3, m)) for n, m in pairwise(widths)))


def unit_circle(count: int) -> np.ndarray:
    """Evenly spread directions, (count, 2)."""
    angles = np.arange(count) * (2 * np.pi / count)
    return np.column_stack([np.cos(angles), np.sin(angles)])


def exact_regions(net: Network, polygon: Sequence[Sequence[int]]) -> dict[Pattern, Fraction]:
    """Activation pattern -> area, for every pattern whose area is positive; a chain with rational arithmetic.

    A neuron that is zero on a whole region counts as off there.
    """
    found: dict[Pattern, Fraction] = {}
    corners = [(Fraction(x), Fraction(y)) for x, y in polygon]
    one, zero = Fraction(1), Fraction(0)
    _part(net, corners, [[one, zero, zero], [zero, one, zero]], (), found)
    return found


def _part(
    net: Network, polygon: list[Point], values: list[list[Fraction]], pattern: Pattern, found: dict[Pattern, Fraction]
) -> None:
    """Cut a polygon by the neurons of the next layer, whose inputs are affine: values, rows (a, b, c)."""
    if len(pattern) == len(net.layers):
        found[pattern] = found.get(pattern, Fraction(0)) + area(polygon)
        return
    layer = net.layers[len(pattern)]
    weights = layer.blocks[0][1].rows(np.arange(layer.size))
    rows = []
    for row, bias in zip(weights, layer.bias, strict=True):
        total = [
            sum((Fraction(float(w)) * v[i] for w, v in zip(row, values, strict=True)), Fraction(0)) for i in range(3)
        ]
        total[2] += Fraction(float(bias))
        rows.append(total)
    pieces: list[tuple[list[Point], tuple[bool, ...]]] = [(polygon, ())]
    for row in rows:
        split = []
        for piece, phases in pieces:
            signs = [row[0] * x + row[1] * y + row[2] for x, y in piece]
            if min(signs) >= 0 or max(signs) <= 0:
                split.append((piece, (*phases, max(signs) > 0)))
            else:
                sides = half(piece, row), half(piece, [-v for v in row])
                split += [(sides[0], (*phases, True)), (sides[1], (*phases, False))]
        pieces = split
    for piece, phases in pieces:
        kept = [row if on else [Fraction(0)] * 3 for row, on in zip(rows, phases, strict=True)]
        _part(net, piece, kept, (*pattern, phases), found)


def half(polygon: list[Point], row: list[Fraction]) -> list[Point]:
    """The part of a convex polygon with a x + b y + c >= 0. Exact."""
    kept: list[Point] = []
    for (px, py), (qx, qy) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        at_p, at_q = row[0] * px + row[1] * py + row[2], row[0] * qx + row[1] * qy + row[2]
        if at_p >= 0:
            kept.append((px, py))
        if at_p * at_q < 0:
            share = at_p / (at_p - at_q)
            kept.append((px + share * (qx - px), py + share * (qy - py)))
    return kept


def area(polygon: list[Point]) -> Fraction:
    """The area of a counter-clockwise polygon. Exact."""
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return sum(((px * qy - qx * py) for (px, py), (qx, qy) in pairs), Fraction(0)) / 2
