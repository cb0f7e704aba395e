"""docs/proofs.md, section 2, line by line in Python's integers: slow, and apart from the package's checker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

import milpverify as mv
from milpverify.network.convolution import Conv2d
from milpverify.network.graph import Affine
from milpverify.network.operators import LinearOperator, Product, Sum
from milpverify.proof.certificate import Certificate, Claims, Group, Layer, LeafTree, PlaneSet

Row = list[int]


@dataclass
class Expression:
    """(E, beta, eps) of one value; E over the columns there were."""

    E: Row
    beta: int
    eps: int


@dataclass
class Neuron:
    """An unstable neuron: its expression and the bounds of zhat."""

    form: Expression
    lo: int
    hi: int


@dataclass
class Bounded:
    """One context with all its layers bounded."""

    lo: Row
    hi: Row
    layers: list[tuple[int, list[Neuron]]] = field(default_factory=list)  # first column, neurons
    lower: list[Row] = field(default_factory=list)
    upper: list[Row] = field(default_factory=list)
    claims: list[list[list[int | None]]] = field(default_factory=list)  # V of leaves by layer and list of claims
    n_inputs: int = 0

    def __post_init__(self) -> None:
        self.n_inputs = len(self.lo)

    def sizes(self, count: int) -> int:
        return sum(max(abs(l), abs(h)) for l, h in zip(self.lo[:count], self.hi[:count], strict=True))


class Literal:
    """The arithmetic for one F."""

    def __init__(self, bits: int, float32: bool = False, grid: int = 0) -> None:
        self.F, self.float32, self.grid = bits, float32, grid

    def rnd(self, n: int) -> int:
        return (n + (1 << (self.F - 1))) >> self.F

    def up(self, n: int) -> int:
        return -((-n) >> self.F)

    def dn(self, n: int) -> int:
        return n >> self.F

    def near(self, q: Fraction) -> int:
        return (q * 2**self.F + Fraction(1, 2)).__floor__()

    def down(self, q: Fraction) -> int:
        return (q * 2**self.F).__floor__()

    def box(self, region: mv.Region) -> tuple[Row, Row]:
        lowest, highest = list(region.exact_lower), list(region.exact_upper)
        if self.grid:
            s, slack = self.grid, Fraction(1, 1024)
            lowest = [Fraction(math.ceil(s * q - slack), s) for q in lowest]
            highest = [Fraction(math.floor(s * q + slack), s) for q in highest]
        return [self.low(q) for q in lowest], [self.high(q) for q in highest]

    def low(self, q: Fraction) -> int:
        return self.down(single(q) if self.float32 else q)

    def high(self, q: Fraction) -> int:
        return -self.low(-q)

    def reals(self, array: np.ndarray) -> list[list[Fraction]]:
        divisor = 255.0 if array.dtype == np.uint8 else 1.0
        return [[Fraction(float(v) / divisor) for v in row] for row in array.tolist()]

    # Affine steps

    def matrix(self, op: LinearOperator) -> list[Row]:
        return [[self.near(Fraction(v)) for v in row] for row in op.rows_like(np.arange(op.out_size), np.zeros(0))]

    def sources(
        self, op: LinearOperator, z: list[Expression], A: Row, c: Bounded
    ) -> list[tuple[list[Row], list[Expression], Row]]:
        """(W~, expressions, sizes) of the terms of one step."""
        if isinstance(op, Sum):
            return [part for term in op.terms for part in self.sources(term, z, A, c)]
        if isinstance(op, Product):
            for factor in reversed(op.factors[1:]):
                z = self.step(self.sources(factor, z, A, c), [0] * factor.out_size, c)
                A = [max(abs(lo), abs(hi)) for lo, hi in (self.interval(v, c) for v in z)]
            return self.sources(op.factors[0], z, A, c)
        return [(self.matrix(op), z, A)]

    def step(self, sources: list[tuple[list[Row], list[Expression], Row]], bias: Row, c: Bounded) -> list[Expression]:
        count = len(c.lo)
        lost = -((-(sum(sum(A) for _, _, A in sources) + c.sizes(count))) >> (self.F + 1)) + 1
        found = []
        for i, b in enumerate(bias):
            E, beta, eps = [0] * count, 0, 0
            for W, z, _ in sources:
                for w, v in zip(W[i], z, strict=True):
                    for k, e in enumerate(v.E):
                        E[k] += w * e
                    beta += w * v.beta
                    eps += abs(w) * v.eps
            found.append(Expression([self.rnd(e) for e in E], b + self.rnd(beta), self.up(eps) + lost))
        return found

    def computed(
        self, forms: list[Expression], affine: Affine, values: list[tuple[list[Expression], Row]]
    ) -> list[Expression]:
        """In float32, e_i is added to every eps_i of an affine step of one operator."""
        if not self.float32:
            return forms
        ((source, op),) = affine.blocks
        A = values[source][1]
        n = math.prod(op.kernel.shape[1:]) if isinstance(op, Conv2d) else op.in_size
        k = n + 2
        found = []
        for v, row, b in zip(forms, self.matrix(op), self.bias(affine), strict=True):
            S = sum(abs(w) * a for w, a in zip(row, A, strict=True)) + sum(A) + ((abs(b) + 1) << self.F)
            first = Fraction(k * S, (2**24 - k) * 2**self.F)
            second = Fraction(((2 * n + 4) << self.F) + sum(abs(w) for w in row) + n + sum(A), 2**125)
            e = first.__ceil__() + second.__ceil__()
            if (S >> self.F) + e >= 2 ** (127 + self.F):
                raise ValueError("a float32 execution may overflow")
            found.append(Expression(v.E, v.beta, v.eps + e))
        return found

    def bias(self, affine: Affine) -> Row:
        total = [Fraction(0)] * affine.size
        for op, vector in affine.bias_terms:
            values = [Fraction(float(v)) for v in vector]
            if op is not None:
                values = _times(op, values)
            total = [a + b for a, b in zip(total, values, strict=True)]
        return [self.near(v) for v in total]

    def interval(self, v: Expression, c: Bounded) -> tuple[int, int]:
        ends = [(e * lo, e * hi) for e, lo, hi in zip(v.E, c.lo, c.hi, strict=False)]
        return (
            self.dn(sum(min(pair) for pair in ends)) + v.beta - v.eps,
            self.up(sum(max(pair) for pair in ends)) + v.beta + v.eps,
        )

    # Walks

    def walk(self, v: Expression, c: Bounded, layers: int, leaf: Leaf) -> int:
        V, row = (v.beta - v.eps) << self.F, list(v.E)
        for j in range(layers - 1, -1, -1):
            first, neurons = c.layers[j]
            acc = [0] * first
            for i, u in enumerate(neurons):
                place, lam = first - c.n_inputs + i, row[first + i]
                for P, R, theta in leaf.planes.get(place, []):
                    pi = self.dn(theta * max(-lam, 0))
                    lam += pi
                    V -= pi * R
                    for k in range(first):
                        acc[k] -= pi * P[k]
                lo, hi = leaf.bounds(place, u)
                beta = leaf.beta[place] if leaf.beta else 0
                if lo < 0 < hi:
                    if lam >= 0:
                        alpha = leaf.alpha[place] if leaf.alpha else ((1 << self.F) if u.hi > -u.lo else 0)
                        nu = self.dn(alpha * lam)
                    else:
                        nu = self.dn((hi << self.F) // (hi - lo) * lam)
                    ends = [lo, hi, 0]
                elif lo >= 0:
                    nu, ends = lam - beta, [lo, hi]
                else:
                    nu, ends = beta, [lo, hi]
                V += min(lam * max(end, 0) - nu * end for end in ends)
                V += nu * u.form.beta - abs(nu) * u.form.eps
                for k in range(first):
                    acc[k] += nu * u.form.E[k]
            row = [r + self.rnd(a) for r, a in zip(row[:first], acc, strict=True)]
            V -= (c.sizes(first) + 1) >> 1
        return V + sum(min(r * lo, r * hi) for r, lo, hi in zip(row, c.lo, c.hi, strict=False))

    # A context

    def bound(
        self, net: mv.Network, told: tuple[Layer, ...] | None, lo: Row, hi: Row
    ) -> tuple[Bounded, list[Expression]]:
        c = Bounded(list(lo), list(hi))
        one = 1 << self.F
        values = [([Expression([0] * i + [one], 0, 0) for i in range(len(lo))],
                   [max(abs(l), abs(h)) for l, h in zip(lo, hi, strict=True)])]  # fmt: skip
        for k, affine in enumerate(net.layers):
            layer = Layer() if told is None else told[k]
            sources = [part for j, op in affine.blocks for part in self.sources(op, *values[j], c)]
            forms = self.computed(self.step(sources, self.bias(affine), c), affine, values)
            lows, highs = [], []
            for v in forms:
                l, h = self.interval(v, c)
                if layer.rule == "crown" and l < 0 < h:
                    minus = Expression([-e for e in v.E], -v.beta, v.eps)
                    V, W = (self.walk(form, c, k, Leaf()) for form in (v, minus))
                    l, h = max(l, V >> self.F), min(h, -(W >> self.F))
                lows.append(l)
                highs.append(h)
            self.claim(layer, forms, lows, highs, c)
            z: list[Expression] = []
            A: Row = []
            first, neurons = len(c.lo), []
            for i, (v, l, h) in enumerate(zip(forms, lows, highs, strict=True)):
                listed = l < 0 < h if layer.unstable is None else layer.unstable[i] == 1
                A.append(max(h, 0))
                if listed:
                    z.append(Expression([0] * len(c.lo) + [one], 0, 0))
                    c.lo.append(max(l, 0))
                    c.hi.append(max(h, 0))
                    neurons.append(Neuron(v, l, h))
                elif l >= 0:
                    z.append(v)
                elif h <= 0:
                    z.append(Expression([], 0, 0))
                    A[-1] = 0
                else:
                    raise ValueError("neither listed nor stable")
            values.append((z, A))
            c.layers.append((first, neurons))
            c.lower.append(lows)
            c.upper.append(highs)
        sources = [part for j, op in net.output.blocks for part in self.sources(op, *values[j], c)]
        return c, self.computed(self.step(sources, self.bias(net.output), c), net.output, values)

    def claim(self, layer: Layer, forms: list[Expression], lows: Row, highs: Row, c: Bounded) -> None:
        """Tighten lows and highs by what is claimed."""
        n = len(forms)
        c.claims.append([])
        for claims in layer.claims:
            c.claims[-1].append([])
            leaf = 0
            for row, phases in zip(claims.row.tolist(), _forest(claims.split, len(claims.row)), strict=True):
                v = forms[row % n]
                v = v if row < n else Expression([-e for e in v.E], -v.beta, v.eps)
                found = []
                for active, inactive in phases:
                    chosen = self.leaf(claims, claims.planes, leaf, active, inactive, c)
                    found.append(self.walked(v, c, chosen))
                    leaf += 1
                c.claims[-1][-1] += found
                values = [V >> self.F for V in found if V is not None]
                if values and row < n:
                    lows[row] = max(lows[row], min(values))
                elif values:
                    highs[row - n] = min(highs[row - n], -min(values))

    def leaf(
        self,
        tree: LeafTree | Claims,
        planes: PlaneSet | None,
        number: int,
        active: frozenset[int],
        inactive: frozenset[int],
        c: Bounded,
    ) -> Leaf:
        """The integers of a leaf of some number."""
        neurons = [u for _, layer in c.layers for u in layer]
        leaf = Leaf(active=active, inactive=inactive)
        for name in ("alpha", "beta"):
            if getattr(tree, name) is not None:
                setattr(leaf, name, [self.down(v) for v in self.reals(getattr(tree, name))[number]])
        if planes is not None and tree.theta is not None:
            theta = [self.down(v) for v in self.reals(tree.theta)[number]]
            for u, P, share in zip(planes.neuron.tolist(), self.reals(planes.P), theta, strict=True):
                near = [self.near(p) for p in P]
                leaf.planes.setdefault(u, []).append((near, self.right(neurons[u].form, near, c), share))
        return leaf

    def walked(self, v: Expression, c: Bounded, leaf: Leaf) -> int | None:
        """V of a leaf, None where it is empty."""
        bounds = [leaf.bounds(place, u) for place, u in enumerate(u for _, layer in c.layers for u in layer)]
        return None if any(lo > hi for lo, hi in bounds) else self.walk(v, c, len(c.layers), leaf)

    def leaves(
        self, case: mv.Case, tree: LeafTree, sets: tuple[PlaneSet, ...], c: Bounded, y: list[Expression], t: Fraction
    ) -> list[int | None]:
        A = [max(abs(lo), abs(hi)) for lo, hi in (self.interval(v, c) for v in y)]
        W = [[self.near(Fraction(v)) for v in row] for row in case.unsafe.C.tolist()]
        rows = self.step([(W, y, A)], [self.near(-d - t) for d in case.unsafe.d_exact or ()], c)
        found: list[int | None] = []
        for number, (active, inactive) in enumerate(_forest(tree.split, 1)[0]):
            planes = None if tree.planes is None else sets[tree.planes]
            leaf = self.leaf(tree, planes, number, active, inactive, c)
            mu = [1 << self.F] if tree.mu is None else [self.down(v) for v in self.reals(tree.mu)[number]]
            E = [self.rnd(sum(m * r.E[k] for m, r in zip(mu, rows, strict=True))) for k in range(len(c.lo))]
            beta = self.rnd(sum(m * r.beta for m, r in zip(mu, rows, strict=True)))
            eps = self.up(sum(m * r.eps for m, r in zip(mu, rows, strict=True)))
            eps += -((-c.sizes(len(c.lo))) >> (self.F + 1)) + 1
            found.append(self.walked(Expression(E, beta, eps), c, leaf))
        return found

    def right(self, form: Expression, P: Row, c: Bounded) -> int:
        box = list(zip(P, form.E, c.lo, c.hi, strict=False))
        off = self.up(sum(max(-p * lo, -p * hi) for p, _, lo, hi in box))
        on = self.up(sum(max((e - p) * lo, (e - p) * hi) for p, e, lo, hi in box))
        return max(off, on + form.beta + form.eps)


@dataclass
class Leaf:
    """A leaf's integers, by the place of unstable neurons."""

    alpha: Row = field(default_factory=list)
    beta: Row = field(default_factory=list)
    active: frozenset[int] = frozenset()
    inactive: frozenset[int] = frozenset()
    planes: dict[int, list[tuple[Row, int, int]]] = field(default_factory=dict)

    def bounds(self, place: int, u: Neuron) -> tuple[int, int]:
        lo = max(u.lo, 0) if place in self.active else u.lo
        return lo, min(u.hi, 0) if place in self.inactive else u.hi


def check(
    certificate: Certificate, net: mv.Network, prop: mv.Property
) -> list[tuple[list[Row], list[Row], list, list]]:
    """Lower and upper bounds of the layers, V of every tree's leaves and of every claim's; four a context."""
    literal = Literal(certificate.bits, certificate.semantics == "float32", certificate.grid)
    found = []
    for group in certificate.groups:
        for (lo, hi), context in zip(boxes(group, prop, literal), group.contexts, strict=True):
            c, y = literal.bound(net, context.layers, lo, hi)
            values = [
                literal.leaves(prop.cases[case], tree, context.planes, c, y, certificate.threshold)
                for case, tree in zip(group.cases, context.trees, strict=True)
            ]
            found.append((c.lower, c.upper, values, c.claims))
    return found


def boxes(group: Group, prop: mv.Property, literal: Literal) -> list[tuple[Row, Row]]:
    region = prop.cases[group.cases[0]].region
    root = literal.box(region)
    if group.split is None or group.at is None:
        return [root]
    entries = list(zip(group.split.tolist(), group.at.tolist(), strict=True))

    def tree(lo: Row, hi: Row) -> list[tuple[Row, Row]]:
        i, at = entries.pop(0)
        if i < 0:
            return [(lo, hi)]
        t = literal.down(Fraction(at))
        assert lo[i] <= t <= hi[i]
        end, begin = t, t
        if literal.grid:
            place = literal.grid * Fraction(t, 2**literal.F)
            end = min(hi[i], literal.high(Fraction(math.floor(place), literal.grid)))
            begin = max(lo[i], literal.low(Fraction(math.ceil(place), literal.grid)))
            assert lo[i] <= end and begin <= hi[i]
        first = tree(lo, [end if c == i else v for c, v in enumerate(hi)])
        return first + tree([begin if c == i else v for c, v in enumerate(lo)], hi)

    return tree(*root)


def single(q: Fraction) -> Fraction:
    """The greatest float32 number at most q, which lies in their range."""
    near = np.float32(float(q))
    while Fraction(float(near)) > q:
        near = np.nextafter(near, np.float32(-np.inf))
    while Fraction(float(above := np.nextafter(near, np.float32(np.inf)))) <= q:
        near = above
    return Fraction(float(near))


Phases = tuple[frozenset[int], frozenset[int]]  # which neurons are active, and which inactive


def _forest(split: np.ndarray | None, count: int) -> list[list[Phases]]:
    """The leaves of each of some trees."""
    entries = [-1] * count if split is None else split.tolist()

    def tree(active: frozenset[int], inactive: frozenset[int]) -> list[Phases]:
        u = entries.pop(0)
        if u < 0:
            return [(active, inactive)]
        return tree(active | {u}, inactive) + tree(active, inactive | {u})

    return [tree(frozenset(), frozenset()) for _ in range(count)]


def _times(op: LinearOperator, values: Sequence[Fraction]) -> list[Fraction]:
    """op v exactly."""
    if isinstance(op, Sum):
        return [sum(parts, Fraction(0)) for parts in zip(*(_times(t, values) for t in op.terms), strict=True)]
    if isinstance(op, Product):
        for factor in reversed(op.factors):
            values = _times(factor, values)
        return list(values)
    rows = op.rows_like(np.arange(op.out_size), np.zeros(0))
    return [sum((Fraction(float(w)) * v for w, v in zip(row, values, strict=True)), Fraction(0)) for row in rows]
