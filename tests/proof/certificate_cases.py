"""Random certificates that fit a network and a property, closed or not, and proofs that close by splitting inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

import milpverify as mv
from milpverify.proof.certificate import Certificate, Claims, Context, Group, Layer, LeafTree, PlaneSet
from milpverify.proof.exact import check_exact, input_boxes
from milpverify.spec.property import Case, Polyhedron, Property
from tests.cases import NETWORKS, REGIONS
from tests.proof.literal import Literal


def question(kind: str, region_kind: str, seed: int) -> tuple[np.random.Generator, mv.Network, Property]:
    """A random network and three cases over one region, of one row, two rows and one row."""
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    cases = []
    for m in (1, 2, 1):
        C = rng.normal(size=(m, net.n_outputs))
        cases.append(Case(region, Polyhedron(C, C @ net.forward(region.sample(rng, 1)[0]) - rng.random(m))))
    return rng, net, Property(tuple(cases), net.n_inputs, net.n_outputs)


def random_tree(rng: np.random.Generator, n: int, depth: int) -> list[int]:
    """A tree in preorder over n things, with repetitions on a path."""
    if not n or not depth or rng.random() < 0.25:
        return [-1]
    return [int(rng.integers(n)), *random_tree(rng, n, depth - 1), *random_tree(rng, n, depth - 1)]


def reals(rng: np.random.Generator, rows: int, columns: int, scale: float) -> np.ndarray:
    """Random numbers in [0, scale] as an array of one of the dtypes for reals; bytes where the scale is 1."""
    values = rng.random((rows, columns)) * scale * (rng.random((rows, columns)) < 0.8)
    kind = rng.integers(3 if scale == 1 else 2)
    if kind == 2:
        return np.asarray(np.round(values * 255), dtype=np.uint8)
    return values.astype(np.float32 if kind else np.float64)


def random_certificate(
    rng: np.random.Generator,
    net: mv.Network,
    prop: Property,
    bits: int,
    threshold: Fraction = Fraction(0),
    semantics: str = "real",
) -> Certificate:
    """A certificate of the right shapes that uses everything the format has."""
    groups = []
    for part in ([1], [0, 2]):
        region = prop.cases[part[0]].region
        literal = Literal(bits, semantics == "float32")
        lo, hi = literal.box(region)
        split = random_tree(rng, net.n_inputs, 2) if rng.random() < 0.7 else [-1]
        at = _places(rng, split, region)
        n_leaves = split.count(-1)
        group = Group(
            tuple(part), (Context((LeafTree(),) * len(part)),) * n_leaves, np.array(split, dtype=np.int32), at
        )
        boxes = input_boxes(group, lo, hi, bits, "")
        contexts = tuple(_random_context(rng, net, [prop.cases[i] for i in part], literal, box) for box in boxes)
        single = len(split) == 1
        groups.append(
            replace(group, contexts=contexts, split=None if single else group.split, at=None if single else at)
        )
    return Certificate(bits, tuple(groups), threshold, made_by="a test", semantics=semantics)


def _places(rng: np.random.Generator, split: list[int], region: mv.Region) -> np.ndarray:
    """Where the inputs are split: inside the boxes, whose sides are followed down the tree."""
    at, boxes = [], [(region.lower.copy(), region.upper.copy())]
    for i in split:
        low, high = boxes.pop()
        if i < 0:
            at.append(0.0)
            continue
        t = float(low[i] + (high[i] - low[i]) * rng.random())
        at.append(t)
        first, second = high.copy(), low.copy()
        first[i], second[i] = t, t
        boxes += [(second, high), (low, first)]
    return np.array(at)


def _random_context(
    rng: np.random.Generator,
    net: mv.Network,
    cases: Sequence[Case],
    literal: Literal,
    box: tuple[list[int], list[int]],
) -> Context:
    layers = [Layer("crown" if rng.random() < 0.6 else "interval") for _ in net.layers]
    plain = rng.random() < 0.3
    if plain:
        layers = [Layer() for _ in net.layers]
    for k, layer in enumerate(layers):
        bounded, _ = literal.bound(net, tuple(layers), *box)
        if not plain:
            below = sum(len(neurons) for _, neurons in bounded.layers[:k])
            layers[k] = replace(layer, claims=_random_claims(rng, net, len(bounded.lower[k]), below))
            bounded, _ = literal.bound(net, tuple(layers), *box)
        mask = [l < 0 < h for l, h in zip(bounded.lower[k], bounded.upper[k], strict=True)]
        if not plain and rng.random() < 0.7:
            listed = np.array([bool(m) or rng.random() < 0.2 for m in mask], dtype=np.uint8)
            layers[k] = replace(layers[k], unstable=listed)
    bounded, _ = literal.bound(net, tuple(layers), *box)
    n = sum(len(neurons) for _, neurons in bounded.layers)
    sets = tuple(_random_planes(rng, net.n_inputs, n) for _ in range(2 if n else 0))
    trees = tuple(_random_leaves(rng, len(case.unsafe.C), n, sets) for case in cases)
    return Context(trees, None if plain else tuple(layers), sets)


def _random_claims(rng: np.random.Generator, net: mv.Network, n: int, below: int) -> tuple[Claims, ...]:
    """Lists of claims about a layer of n neurons, with some unstable ones below."""
    found = []
    for _ in range(int(rng.integers(3))):
        row = rng.integers(0, 2 * n, int(rng.integers(1, 6))).astype(np.int32)
        split = [u for _ in row for u in random_tree(rng, below, int(rng.integers(3)))]
        claims = Claims(row)
        if len(split) > len(row) or rng.random() < 0.2:
            claims = Claims(row, np.array(split, dtype=np.int32))
        if rng.random() < 0.8:
            claims = replace(claims, alpha=reals(rng, claims.n_leaves, below, 1.0))
        if rng.random() < 0.5:
            claims = replace(claims, beta=reals(rng, claims.n_leaves, below, 0.5))
        if below and rng.random() < 0.5:
            planes = _random_planes(rng, net.n_inputs, below)
            claims = replace(claims, planes=planes, theta=reals(rng, claims.n_leaves, len(planes.neuron), 1.0))
        found.append(claims)
    return tuple(found)


def _random_planes(rng: np.random.Generator, n_inputs: int, n: int) -> PlaneSet:
    neuron = np.sort(rng.integers(0, n, rng.integers(0, 5))).astype(np.int32)
    return PlaneSet(neuron, rng.normal(size=(len(neuron), n_inputs + n)).astype(rng.choice(["f4", "f8"])))


def _random_leaves(rng: np.random.Generator, rows: int, n: int, sets: tuple[PlaneSet, ...]) -> LeafTree:
    split = random_tree(rng, n, 3)
    leaves = split.count(-1)
    tree = LeafTree(None if len(split) == 1 and rng.random() < 0.5 else np.array(split, dtype=np.int32))
    if rng.random() < 0.7:
        tree = replace(tree, alpha=reals(rng, leaves, n, 1.0))
    if rng.random() < 0.7:
        tree = replace(tree, beta=reals(rng, leaves, n, 3.0) * (1 if rng.random() < 0.7 else -1))
    if rows != 1 or rng.random() < 0.5:
        tree = replace(tree, mu=reals(rng, leaves, rows, 2.0))
    if sets and rng.random() < 0.7:
        number = int(rng.integers(len(sets)))
        count = len(sets[number].neuron)
        tree = replace(tree, planes=number, theta=reals(rng, leaves, count, float(rng.choice([1.0, 1.5]))))
    return tree


Tree = tuple[int, float, Any, Any] | None  # (input, place, below, above), or a leaf


def split_until_closed(
    net: mv.Network, prop: Property, bits: int, threshold: Fraction, rounds: int
) -> tuple[Certificate, bool]:
    """A certificate of one case of one row whose open boxes were halved again and again, and whether all are closed."""
    region = prop.cases[0].region
    tree: Tree = None
    for left in range(rounds, -1, -1):
        split, at = _preorder(tree)
        contexts = tuple(Context((LeafTree(),)) for _ in range(split.count(-1)))
        group = Group((0,), contexts, np.array(split, dtype=np.int32), np.array(at))
        certificate = Certificate(bits, (group,), threshold)
        result = check_exact(certificate, net, prop, threshold, trace=True)
        if result.accepted or not left:
            break
        closed = iter([(context.values[0][0] or 0) > 0 for context in result.trace])
        tree = _halved(tree, region.lower, region.upper, closed)
    return certificate, result.accepted


def _preorder(tree: Tree) -> tuple[list[int], list[float]]:
    if tree is None:
        return [-1], [0.0]
    i, t, below, above = tree
    first, second = _preorder(below), _preorder(above)
    return [i, *first[0], *second[0]], [t, *first[1], *second[1]]


def _halved(tree: Tree, low: np.ndarray, high: np.ndarray, closed: Iterator[bool]) -> Tree:
    """The tree with every open leaf split along its longest side."""
    if tree is None:
        if next(closed):
            return None
        i = int(np.argmax(high - low))
        return i, float(low[i] + (high[i] - low[i]) / 2), None, None
    i, t, below, above = tree
    middle_high, middle_low = high.copy(), low.copy()
    middle_high[i], middle_low[i] = t, t
    return i, t, _halved(below, low, middle_high, closed), _halved(above, middle_low, high, closed)
