"""`Float32()` against float32 itself: in any order, fused or not, flushing or not, executions stay inside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given

from milpverify.bounds.compute import bound_rows, compute_bounds
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.semantics import Float32
from milpverify.network.convolution import Conv2d
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import Dense, LinearOperator, Product, Scaling, Selection, Sum
from milpverify.spec.regions import Box
from tests.bounds.exact import Dyadic, ExactLayers, convolution_matrix
from tests.cases import BOUND_METHODS, NETWORKS, affine, seeds

F = np.float32
UNIT_32, LEAST_NORMAL_32 = 2.0**-24, 2.0**-126  # of binary32
METHODS = tuple(BOUND_METHODS)


@dataclass(frozen=True)
class Execution:
    """One way to run a network in binary32, points in rows.

    Attributes:
        rng: Draws the orders of summation.
        pairwise: Sum by halves instead of one after the other.
        fused: Multiply and add with one rounding (not pairwise).
        to_zero, as_zero: Flush subnormal results; read subnormal operands as zero.
    """

    rng: np.random.Generator
    pairwise: bool = False
    fused: bool = False
    to_zero: bool = False
    as_zero: bool = False

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Execution:
        return cls(rng, *(bool(v) for v in rng.integers(0, 2, 4)))

    def read(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, dtype=F)
        return np.where(np.abs(values) < F(LEAST_NORMAL_32), F(0), values) if self.as_zero else values

    def wrote(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, dtype=F)
        return np.where(np.abs(values) < F(LEAST_NORMAL_32), F(0), values) if self.to_zero else values

    def add(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self.wrote(self.read(a) + self.read(b))

    def times(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self.wrote(self.read(a) * self.read(b))

    def fma(self, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        """a b + c with one rounding: the product is exact in float64, its sum rounded to odd before float32."""
        product = self.read(a).astype(np.float64) * self.read(b).astype(np.float64)
        term = np.broadcast_to(self.read(c).astype(np.float64), product.shape)
        total = product + term
        virtual = total - product
        error = (product - (total - virtual)) + (term - virtual)
        even = (total.view(np.int64) & 1) == 0
        odd = np.where((error != 0) & even, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)
        return self.wrote(odd.astype(F))

    def sum(self, terms: np.ndarray) -> np.ndarray:
        """The sum over the last axis in a random order."""
        terms = terms[..., self.rng.permutation(terms.shape[-1])]
        while self.pairwise and terms.shape[-1] > 1:
            half = terms.shape[-1] // 2
            terms = np.concatenate(
                [self.add(terms[..., :half], terms[..., half : 2 * half]), terms[..., 2 * half :]], -1
            )
        total = terms[..., 0]
        for i in range(1, terms.shape[-1]):
            total = self.add(total, terms[..., i])
        return total

    def dense(self, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
        """weights (out, in) times points (s, in); zeros are skipped, as convolutions do."""
        W, out = weights.astype(F), np.zeros((len(x), len(weights)), dtype=F)
        for i, row in enumerate(W):
            live = self.rng.permutation(np.flatnonzero(weights[i]))
            if not len(live):
                continue
            if not self.fused or self.pairwise:
                out[:, i] = self.sum(self.times(row[live], x[:, live]))
                continue
            total = np.zeros(len(x), dtype=F)
            for j in live:
                total = self.fma(row[j], x[:, j], total)
            out[:, i] = total
        return out

    def run(self, op: LinearOperator, x: np.ndarray) -> np.ndarray:
        if isinstance(op, Product):
            for factor in reversed(op.factors):
                x = self.run(factor, x)
            return x
        if isinstance(op, Sum):
            return self.sum(np.stack([self.run(term, x) for term in op.terms], axis=-1))
        if isinstance(op, Selection):
            return np.where(op.index < 0, F(0), x[:, op.index])
        if isinstance(op, Scaling):
            return self.times(op.diagonal.astype(F), x)
        return self.dense(convolution_matrix(op) if isinstance(op, Conv2d) else op.matrix, x)

    def layer(self, layer: Affine, values: list[np.ndarray]) -> np.ndarray:
        parts = [self.run(op, values[source]) for source, op in layer.blocks]
        for op, vector in layer.bias_terms:
            row = vector.astype(F)[None, :]
            parts.append(np.broadcast_to(row if op is None else self.run(op, row), (len(values[0]), layer.size)))
        return self.sum(np.stack(parts, axis=-1))

    def network(self, net: Network, x: np.ndarray) -> list[np.ndarray]:
        """Pre-activations and the output at points (s, n), rounded to float32 first where they are none."""
        values, hidden = [x.astype(F)], []
        for layer in (*net.layers, net.output):
            hidden.append(self.layer(layer, values))
            values.append(np.maximum(self.read(hidden[-1]), F(0)))
        return hidden


def escapes(net: Network, box: Box, hidden: list[np.ndarray], semantics: Float32 | None, name: str = "crown") -> int:
    """How many hidden values and rows of an execution lie outside the bounds of a method."""
    given = {} if semantics is None else {"semantics": semantics}
    bounds = compute_bounds(net, box, BOUND_METHODS[name], **given)
    count = 0
    for zhat, l, u in zip(hidden, bounds.lower, bounds.upper, strict=False):
        count += int(((zhat < l) | (zhat > u)).sum())
    rows = np.concatenate([np.eye(net.n_outputs), -np.eye(net.n_outputs), np.full((1, net.n_outputs), 0.75)])
    value = bound_rows(net, box, bounds, rows, BOUND_METHODS[name], **given).value
    y = Dyadic.of(hidden[-1].astype(np.float64)) @ Dyadic.of(rows).T
    return count + int((~(Dyadic.of(value)[None, :] <= y)).sum())


def float32_box(rng: np.random.Generator, n: int, width: float) -> Box:
    center = rng.normal(size=n).astype(F)
    radius = (width * rng.random(n)).astype(F)
    return Box((center - radius).astype(np.float64), (center + radius).astype(np.float64))


def float32_points(rng: np.random.Generator, box: Box, count: int) -> np.ndarray:
    """Points of the box that are float32, corners among them."""
    x = box.sample(rng, count).astype(F).astype(np.float64)
    corner = np.where(rng.random(x.shape) < 0.5, box.lower, box.upper)
    x[::2] = corner[::2]
    return np.asarray(np.clip(x, box.lower, box.upper))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_executions_stay_inside(kind: str, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    box = float32_box(rng, net.n_inputs, float(rng.choice([0.0, 1e-6, 0.5])))
    x = float32_points(rng, box, 20)
    for _ in range(2):
        assert escapes(net, box, Execution.drawn(rng).network(net, x), Float32(), name) == 0


@given(seed=seeds)
def test_an_input_that_float32_has_to_round_stays_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[str(rng.choice(list(NETWORKS)))](rng)
    x = rng.normal(size=(1, net.n_inputs))
    assert escapes(net, Box(x[0], x[0]), Execution.drawn(rng).network(net, x), Float32()) == 0


@pytest.mark.parametrize("kind", NETWORKS)
def test_executions_leave_the_bounds_of_real_arithmetic(kind: str) -> None:
    """What makes the laws of this file say something: without the slack they are broken."""
    left = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        net = NETWORKS[kind](rng)
        box = float32_box(rng, net.n_inputs, 0.0)
        left += escapes(net, box, Execution.drawn(rng).network(net, float32_points(rng, box, 1)), None)
    assert left > 10


def one_layer(op: LinearOperator, bias: np.ndarray | None = None, terms: tuple[object, ...] | None = None) -> Network:
    n = op.out_size
    first = affine({0: op}, np.zeros(n) if bias is None else bias)
    if terms is not None:
        first = Affine(first.blocks, terms, n)
    return Network((op.in_size,), (n,), (first,), affine({1: Dense(np.eye(n))}, np.zeros(n)))


def first_layer(net: Network, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    box = Box(x, x)
    bounds = compute_bounds(net, box, semantics=Float32())
    return bounds.lower[0], bounds.upper[0]


def test_a_sum_that_loses_every_term_is_inside_and_nearly_uses_the_slack() -> None:
    """1 + 2^-24 + 2^-24 + ... is 1 from left to right: the error is n u, and the slack not much more."""
    n = 400
    net = one_layer(Dense(np.concatenate([[1.0], np.full(n, UNIT_32)])[None, :]))
    x = np.ones(n + 1)
    total = F(1)
    for w in net.layers[0].blocks[0][1].matrix[0, 1:]:
        total = total + F(w)
    assert total == 1
    l, u = first_layer(net, x)
    exact = 1 + n * UNIT_32
    assert l[0] <= 1.0 < exact <= u[0]
    assert exact - 1.0 > 0.9 * (exact - l[0])


def test_every_stored_factor_of_a_product_may_have_to_be_rounded() -> None:
    """Forty scalings that lose almost u each when stored, and almost u when multiplied."""
    factors, value, exact = [], F(1), 1.0
    for _ in range(40):
        steps = np.arange(1, 400)
        stored = F(1) + steps.astype(F) * F(2.0**-23)
        product = value * stored
        lost = 1 - product.astype(np.float64) / (value.astype(np.float64) * stored.astype(np.float64))
        best = int(np.argmax(lost))
        d = float(stored[best]) + 0.999 * 2.0**-24
        assert F(d) == stored[best]
        factors.append(Scaling(np.array([d])))
        value, exact = product[best], exact * d
    l, u = first_layer(one_layer(Product(tuple(factors))), np.ones(1))
    assert 1 - float(value) / exact > 60 * UNIT_32  # 40 roundings of products alone lose 40
    assert l[0] <= value <= u[0]


@given(seed=seeds)
def test_flushed_subnormals_stay_inside(seed: int) -> None:
    """Weights, inputs and products around 2^-126, below huge weights that magnify what was flushed."""
    rng = np.random.default_rng(seed)
    n, hidden = int(rng.integers(1, 5)), int(rng.integers(1, 4))

    def tiny(*shape: int) -> np.ndarray:
        powers = rng.choice([-149, -140, -130, -127, -126, -125, -70, -60, 0, 20], size=shape)
        return np.asarray((rng.normal(size=shape) * 2.0**powers).astype(F), dtype=np.float64)

    op: LinearOperator = Dense(tiny(hidden, n))
    if rng.random() < 0.5:
        op = Product((Scaling(tiny(hidden)), op))
    terms = ((None, tiny(hidden)), (Dense(tiny(hidden, 2)), tiny(2)))
    first = Affine(((0, op),), terms if rng.random() < 0.5 else terms[:1], hidden)
    net = Network((n,), (2,), (first,), affine({1: Dense(tiny(2, hidden) * 2.0**30)}, tiny(2)))
    x = tiny(1, n)
    execution = Execution(rng, *(bool(v) for v in rng.integers(0, 2, 2)), to_zero=True, as_zero=True)
    assert escapes(net, Box(x[0], x[0]), execution.network(net, x), Float32()) == 0


@pytest.mark.parametrize("where", ["input", "weight", "product", "bias"])
def test_what_is_flushed_exceeds_relative_rounding_and_is_inside(where: str) -> None:
    small = 0.99 * LEAST_NORMAL_32
    x, W, b, terms = np.array([1.0]), np.array([[1.0]]), np.zeros(1), None
    if where == "input":
        x, W = np.array([small]), np.array([[2.0**40]])
    if where == "weight":
        x, W = np.array([2.0**40]), np.array([[small]])
    if where == "product":
        x, W = np.array([2.0**-70]), np.array([[2.0**-60]])
    if where == "bias":
        terms, x = ((Dense(np.array([[2.0**40]])), np.array([small])), (None, np.zeros(1))), np.zeros(1)
    net = one_layer(Dense(W), b, terms)
    execution = Execution(np.random.default_rng(0), to_zero=True, as_zero=True)
    value = float(execution.network(net, x[None, :])[0][0, 0])
    exact = float(ExactLayers.of(net.layers).activations(x[None, :])[0].floats()[0, 0])
    l, u = first_layer(net, x)
    assert abs(value - exact) > 40 * UNIT_32 * abs(exact)
    assert l[0] <= value <= u[0] and l[0] <= exact <= u[0]


OVERFLOWS: dict[str, tuple[LinearOperator, float]] = {
    "product": (Dense(np.array([[1e30]])), 1e10),
    "sum": (Dense(np.array([[3e38, -3e38]])), 1.0),
    "weight": (Dense(np.array([[1e39]])), 1e-10),
    "inner product": (Product((Scaling(np.array([1e-30])), Dense(np.array([[1e30]])))), 1e20),
    "inner weight": (Product((Dense(np.array([[1e39]])), Scaling(np.array([1e-39])))), 1.0),
}


@pytest.mark.filterwarnings("ignore:TriangleLP.*no LP can be made of these numbers")
@pytest.mark.parametrize("name", OVERFLOWS)
def test_what_can_overflow_has_an_infinite_slack_and_no_claim(name: str) -> None:
    op, x = OVERFLOWS[name]
    net = one_layer(op)
    point = Box(np.full(op.in_size, x), np.full(op.in_size, x))
    assert np.isinf(DualProblem((*net.layers, net.output), point, semantics=Float32()).error(1)).all()
    with np.errstate(invalid="ignore"):
        bounds = compute_bounds(net, point, semantics=Float32())
        assert bounds.lower[0] == -np.inf and bounds.upper[0] == np.inf
        for method in BOUND_METHODS.values():
            assert bound_rows(net, point, bounds, np.eye(1), method, semantics=Float32()).value == -np.inf


def test_a_path_of_eight_million_roundings_has_no_bound() -> None:
    wide = Affine(((0, Selection(np.zeros(1, dtype=int), 1)),), ((None, np.zeros(1)),) * 2**23, 1)
    problem = DualProblem((wide,), Box([0.0], [1.0]), semantics=Float32())
    assert np.isinf(problem.error(1)).all()


@given(seed=seeds)
def test_float32_bounds_contain_those_of_real_arithmetic_up_to_their_rounding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[str(rng.choice(list(NETWORKS)))](rng)
    box = float32_box(rng, net.n_inputs, 0.5)
    x = box.sample(rng, 20)
    bounds = compute_bounds(net, box, semantics=Float32())
    for zhat, l, u in zip(ExactLayers.of(net.layers).activations(x), bounds.lower, bounds.upper, strict=True):
        assert (Dyadic.of(l)[None, :] <= zhat).all() and (zhat <= Dyadic.of(u)[None, :]).all()
