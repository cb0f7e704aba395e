"""The kernel against exact arithmetic: no claim is above g, and g is never above the truth.

Each example asks several rows of a random problem. Bounds l, u, multipliers and weights are wild on purpose: g is a
formula, and its value in float64 has to stay below the exact one whatever goes in. The first tests together compare
more than ten thousand rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from milpverify.bounds.compute import bound_rows, compute_bounds
from milpverify.bounds.dual import Rule, dual_bound, dual_range
from milpverify.bounds.kappa import Kappa
from milpverify.bounds.problem import DualProblem, InputSet, LayerPhases
from milpverify.bounds.semantics import Float32
from milpverify.network.convolution import Conv2d
from milpverify.network.exact import forward_exact
from milpverify.network.graph import Affine
from milpverify.network.operators import Array, Dense, LinearOperator, Product, Scaling, Selection, Sum
from milpverify.spec.regions import Box, BoxBatch, L1Ball, L2Ball, LinfBall, Region
from tests.bounds.exact import (
    Dyadic,
    ExactLayers,
    below_minimum,
    dual_value,
    matrix,
    member,
    minimum,
    spied,
    used_nu,
)
from tests.cases import BOUND_METHODS, NETWORKS, REGIONS, seeds

SCALES = ("plain", "layers apart", "entries apart")
DYADIC_REGIONS = ("box", "linf clipped", "l1 clipped", "l1")
ROWS = 8
UNIT_32, LEAST_NORMAL_32 = 2.0**-24, 2.0**-126  # of binary32


def magnitude(rng: np.random.Generator, scale: str, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Powers of ten: 1, one in 1e-24..1e24 for a whole layer, or one for every entry as well."""
    if scale == "plain":
        return np.ones(shape)
    whole = 10.0 ** rng.uniform(-24, 24)
    entries = 10.0 ** rng.uniform(-12, 12, shape) if scale == "entries apart" else np.ones(shape)
    return np.asarray(whole * entries)


def wild_dense(rng: np.random.Generator, scale: str, rows: int, columns: int) -> Dense:
    values = rng.normal(size=(rows, columns)) * magnitude(rng, scale, (rows, columns))
    return Dense(values * (rng.random((rows, columns)) > 0.15))


def wild_operator(rng: np.random.Generator, scale: str, rows: int, columns: int) -> LinearOperator:
    """A matrix, a lazy product or sum, or a convolution with a selection that makes it fit."""
    kind = rng.integers(5)
    dense = wild_dense(rng, scale, rows, columns)
    if kind == 0:
        return Product((Scaling(rng.normal(size=rows) * magnitude(rng, scale, (rows,))), dense))
    if kind == 1:
        return Sum((dense, wild_dense(rng, scale, rows, columns)))
    if kind == 2:
        inner = int(rng.integers(1, 4))
        return Sum((Product((wild_dense(rng, scale, rows, inner), wild_dense(rng, scale, inner, columns))), dense))
    if kind == 3:
        kernel = rng.normal(size=(2, 1, 1, 2)) * magnitude(rng, scale, (2, 1, 1, 2))
        conv = Conv2d(kernel, (2, 1, columns), padding=(0, 1, 0, 0), groups=2)
        twice = Selection(np.concatenate([np.arange(columns)] * 2), columns)
        return Product((Selection(rng.integers(-1, conv.out_size, rows), conv.out_size), conv, twice))
    return dense


def wild_layers(rng: np.random.Generator, scale: str, n: int, dense: bool = False) -> tuple[Affine, ...]:
    """One to three hidden layers and an output; besides the layer below, some read earlier ones."""
    sizes = [n, *(int(v) for v in rng.integers(1, 6, rng.integers(1, 4))), int(rng.integers(1, 5))]
    layers = []
    for k in range(1, len(sizes)):
        blocks = []
        for source in range(k):
            if source == k - 1 or rng.random() < 0.3:
                make = wild_dense if dense else wild_operator
                blocks.append((source, make(rng, scale, sizes[k], sizes[source])))
        terms: list[tuple[LinearOperator | None, np.ndarray]] = [
            (None, rng.normal(size=sizes[k]) * magnitude(rng, scale, (sizes[k],)))
        ]
        if not dense and rng.random() < 0.3:
            terms.append((wild_dense(rng, scale, sizes[k], 3), rng.normal(size=3)))
        layers.append(Affine(tuple(blocks), tuple(terms), sizes[k]))
    return tuple(layers)


def wild_bounds(rng: np.random.Generator, problem: DualProblem, batch: tuple[int, ...]) -> DualProblem:
    """Any l <= u of about the layers' sizes: unstable, stable, and of zero width."""
    for k in range(1, problem.n_hidden + 1):
        size = problem.scale(k) + 1e-290
        shape = (*batch, problem.affine(k).size)
        middle = size * rng.normal(size=shape) * 0.5
        radius = size * rng.uniform(0, 2, shape) * (rng.random(shape) > 0.1)
        l, u = middle - radius, middle + radius
        at_zero = rng.random(shape)
        problem = problem.with_layer(np.where(at_zero < 0.05, 0.0, l) * (u >= 0) + l * (u < 0), u)
        l, u = problem.lower[-1], problem.upper[-1]
        assert (l <= np.maximum(l, u)).all()
        problem = replace(problem, upper=(*problem.upper[:-1], np.maximum(l, u)))
    return problem


def wild_rule(rng: np.random.Generator, wild: bool) -> Rule:
    """Slopes inside and outside [0, 1], some multipliers far off."""

    def rule(j: int, lam: Array, phases: LayerPhases) -> np.ndarray:
        slope = rng.choice([0.0, 1.0, 0.5, -1.0, 3.0], size=lam.shape) + 0.3 * rng.normal(size=lam.shape)
        nu = lam * np.where(rng.random(lam.shape) < 0.5, phases.slope, slope)
        far = rng.normal(size=lam.shape) * 10.0 ** rng.uniform(-8, 8, lam.shape)
        return np.where(wild & (rng.random(lam.shape) < 0.2), far, nu)

    return rule


def wild_region(rng: np.random.Generator, scale: str, kind: str, n: int) -> Region:
    """A region of tests.cases; boxes are as far apart in scale as the weights."""
    if kind != "box" or scale == "plain":
        return REGIONS[kind](rng, n)
    size = magnitude(rng, scale, (n,))
    middle, radius = size * rng.normal(size=n), size * rng.uniform(0, 1, n) * (rng.random(n) > 0.2)
    return Box(middle - radius, middle + radius)


def wild_rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.asarray(rng.normal(size=shape) * (rng.random(shape) > 0.2))


def as_negated(nu: np.ndarray) -> Dyadic:
    return Dyadic.of(-nu)


def assert_below(
    problem: DualProblem, k: int, rows: np.ndarray, value: np.ndarray, high: np.ndarray | None = None,
    slack: list[Dyadic] | None = None, kappa: tuple[Kappa, ...] = (),
) -> None:  # fmt: skip
    """No value of a spied problem's last walk is above the exact g of the nu that it used, nor any high below."""
    nu = used_nu(problem, k, rows)
    layers = ExactLayers.of(problem.layers)
    batch = value.shape[:-1]
    for index in np.ndindex(*batch):
        lower = [np.broadcast_to(l, (*batch, l.shape[-1]))[index] for l in problem.lower]
        upper = [np.broadcast_to(u, (*batch, u.shape[-1]))[index] for u in problem.upper]
        region = member(problem.region, index[0] if batch else 0)
        mine = [part[index] for part in nu]
        given = (slack or [], kappa, region if kappa else None)
        exact = dual_value(layers, k, list(map(Dyadic.of, mine)), lower, upper, problem.n_inputs, *given)
        assert exact.at_least(value[index], region).all()
        if high is not None:
            other = dual_value(layers, k, list(map(as_negated, mine)), lower, upper, problem.n_inputs, *given)
            assert other.at_least(-high[index], region).all()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", REGIONS)
@given(seed=seeds)
def test_no_value_is_above_the_exact_g(kind: str, scale: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 5))
    region = wild_region(rng, scale, kind, n)
    problem = spied(wild_bounds(rng, DualProblem(wild_layers(rng, scale, n), region), ()))
    k = int(rng.integers(1, len(problem.layers) + 1))
    rows = wild_rows(rng, ROWS, problem.affine(k).size)
    low, high = dual_range(problem, k, rows, wild_rule(rng, wild=True))
    assert_below(problem, k, rows, low, high)
    if scale == "plain":
        assert np.isfinite(low).all() and np.isfinite(high).all()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shared", [False, True])
@given(seed=seeds)
def test_no_value_of_a_batch_is_above_the_exact_g(shared: bool, scale: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, members = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    boxes = [wild_region(rng, scale, "box", n) for _ in range(members)]
    region: InputSet = boxes[0] if shared else BoxBatch.of(boxes)
    problem = spied(wild_bounds(rng, DualProblem(wild_layers(rng, scale, n), region), (members,)))
    k = int(rng.integers(1, len(problem.layers) + 1))
    own = rng.random() < 0.5
    rows = wild_rows(rng, *((members,) if own else ()), ROWS, problem.affine(k).size)
    low, high = dual_range(problem, k, rows, wild_rule(rng, wild=True))
    assert low.shape == (members, ROWS)
    assert_below(problem, k, rows, low, high)


@pytest.mark.parametrize("scale", SCALES)
@given(seed=seeds)
def test_no_value_with_a_slack_is_above_the_exact_g(scale: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 5))
    problem = wild_bounds(rng, DualProblem(wild_layers(rng, scale, n), wild_region(rng, scale, "box", n)), ())
    slack = tuple(
        problem.scale(j) * 10.0 ** rng.uniform(-9, 0) * rng.random(layer.size)
        for j, layer in enumerate(problem.layers, start=1)
    )
    problem = spied(replace(problem, slack=slack))
    k = len(problem.layers)
    rows = wild_rows(rng, ROWS, problem.affine(k).size)
    low, high = dual_range(problem, k, rows, wild_rule(rng, wild=True))
    assert_below(problem, k, rows, low, high, [Dyadic.of(e) for e in slack])


@pytest.mark.parametrize("scale", ("plain", "layers apart"))
@given(seed=seeds)
def test_no_float32_value_is_above_the_exact_g_with_the_published_slack(scale: str, seed: int) -> None:
    """(n + 1) u (|W| A + |b|) + 2^-126 (2n + 2 + sum |W| + sum A) of one dense layer is the least that is needed."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 5))
    layers = wild_layers(rng, scale, n, dense=True)
    problem = wild_bounds(rng, DualProblem(layers, wild_region(rng, scale, "box", n), semantics=Float32()), ())
    slack = []
    for layer in layers:
        sizes = {source: problem.values_scale(source) for source, _ in layer.blocks}
        fan_in = sum(op.in_size for _, op in layer.blocks)
        product, more = abs(Dyadic.of(layer.bias)), Dyadic.of(np.full(layer.size, 2.0 * fan_in + 2.0))
        for source, op in layer.blocks:
            W, A = abs(matrix(op)), Dyadic.of(sizes[source])
            product, more = product + W @ A, more + W.total() + A.total()
        slack.append(product * Dyadic.of((fan_in + 1) * UNIT_32) + more * Dyadic.of(LEAST_NORMAL_32))
    problem = spied(problem)
    k = len(layers)
    rows = wild_rows(rng, ROWS, layers[-1].size)
    with np.errstate(invalid="ignore"):  # what overflows float32 has an infinite slack
        low, high = dual_range(problem, k, rows, wild_rule(rng, wild=True))
    assert_below(problem, k, rows, low, high, slack)


def wild_kappa(rng: np.random.Generator, problem: DualProblem, k: int, scale: str) -> tuple[Kappa, ...]:
    """Vectors on some unstable neurons of some layers; inputs in any order, with padding, zero weights among them."""
    parts = []
    for j in range(1, k):
        p = int(((problem.lower[j - 1] < 0) & (problem.upper[j - 1] > 0)).sum())
        neurons = np.flatnonzero(rng.random(p) < 0.7)
        if not len(neurons):
            continue
        width = problem.n_inputs + sum(problem.affine(i).size for i in range(1, j))
        pad = int(rng.integers(0, 3))
        inputs = np.stack([rng.permutation(np.concatenate([np.arange(width), np.full(pad, -1)])) for _ in neurons])
        shape = (int(rng.choice([1, ROWS])), *inputs.shape)
        values = rng.normal(size=shape) * magnitude(rng, scale, shape) * (rng.random(shape) > 0.2)
        parts.append(Kappa(j, rng.permutation(neurons), inputs, values))
    return tuple(parts)


@pytest.mark.parametrize("with_slack", [False, True])
@pytest.mark.parametrize("scale", SCALES)
@given(seed=seeds)
def test_no_value_with_input_wise_multipliers_is_above_the_exact_g(scale: str, with_slack: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 5))
    problem = wild_bounds(rng, DualProblem(wild_layers(rng, scale, n), wild_region(rng, scale, "box", n)), ())
    slack = tuple(problem.scale(j) * 1e-3 * rng.random(layer.size) for j, layer in enumerate(problem.layers, start=1))
    problem = spied(replace(problem, slack=slack if with_slack else ()))
    k = int(rng.integers(2, len(problem.layers) + 1))
    rows = wild_rows(rng, ROWS, problem.affine(k).size)
    kappa = wild_kappa(rng, problem, k, scale)
    value = dual_bound(problem, k, rows, wild_rule(rng, wild=True), kappa).value
    reached = {j for j in range(1, k) if used_somewhere(problem, j, k, kappa)}
    kappa = tuple(part for part in kappa if part.layer in reached)
    assert_below(problem, k, rows, value, None, [Dyadic.of(e) for e in slack] if with_slack else None, kappa)


def used_somewhere(problem: DualProblem, j: int, k: int, kappa: tuple[Kappa, ...]) -> bool:
    """Whether lambda_j gets anything from above; a walk passes over the layers that get nothing."""
    live = {k}
    for i in range(k - 1, 0, -1):
        above = any(source == i for t in live for source, _ in problem.affine(t).blocks)
        if above or any(part.layer in live and part.layer > i for part in kappa):
            live.add(i)
    return j in live


@pytest.mark.parametrize("kind", DYADIC_REGIONS)
@given(seed=seeds)
def test_a_value_is_below_the_exact_g_by_rounding_only(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 5))
    region = wild_region(rng, "plain", kind, n)
    problem = spied(wild_bounds(rng, DualProblem(wild_layers(rng, "plain", n), region), ()))
    k = len(problem.layers)
    rows = wild_rows(rng, ROWS, problem.affine(k).size)
    kappa = wild_kappa(rng, problem, k, "plain") if kind == "box" and rng.random() < 0.5 else ()
    kappa = tuple(part for part in kappa if used_somewhere(problem, part.layer, k, kappa))
    value = dual_bound(problem, k, rows, wild_rule(rng, wild=False), kappa).value
    nu = used_nu(problem, k, rows)
    layers = ExactLayers.of(problem.layers)
    exact = dual_value(
        layers, k, list(map(Dyadic.of, nu)), problem.lower, problem.upper, n, (), kappa, region if kappa else None
    )
    gap = (exact.exactly(region) - Dyadic.of(value)).floats()
    wide = replace(problem, box_scales=bool(kappa))
    size = sum(
        np.abs(nu[j - 1]) @ (wide.scale(j) + (np.abs(problem.lower[j - 1] + problem.upper[j - 1]) if j < k else 0.0))
        for j in range(1, k + 1)
    )
    for part in kappa:
        size = size + np.abs(part.values).sum(axis=(1, 2)) * 10.0 * (
            1.0 + max(v.max() for v in map(wide.scale, range(1, k)))
        )
        size = size + np.abs(dual_bound(problem, k, rows, wild_rule(rng, wild=False)).value)
    assert (gap >= 0).all()
    assert (gap <= 1e-12 * (1.0 + size)).all()


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("region_kind", REGIONS)
@given(seed=seeds)
def test_g_is_never_above_what_an_input_attains(kind: str, region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    bounds = compute_bounds(net, region, BOUND_METHODS[str(rng.choice(list(BOUND_METHODS)))])
    problem = DualProblem.of(net, region, bounds)
    k = int(rng.integers(1, len(problem.layers) + 1))
    rows = wild_rows(rng, ROWS, problem.affine(k).size)
    kappa = wild_kappa(rng, problem, k, "plain") if rng.random() < 0.5 else ()
    value = dual_bound(problem, k, rows, wild_rule(rng, wild=False), kappa).value
    points = np.concatenate(
        [region.sample(rng, 6), region.project(region.minimiser(rng.normal(size=(6, net.n_inputs))))]
    )
    truth = Dyadic.of(rows) @ ExactLayers.of(problem.layers).activations(points)[k - 1].T
    assert (Dyadic.of(value)[:, None] <= truth).all()


@given(seed=seeds)
def test_g_of_a_point_is_what_the_point_attains(seed: int) -> None:
    """Without any room the theorem is an equality, so that a term that is missing or twice there shows."""
    rng = np.random.default_rng(seed)
    net = NETWORKS[str(rng.choice(list(NETWORKS)))](rng)
    x = rng.normal(size=net.n_inputs)
    problem = DualProblem.of(net, Box(x, x), compute_bounds(net, Box(x, x)))
    k = len(problem.layers)
    low, high = dual_range(problem, k, np.eye(net.n_outputs), wild_rule(rng, wild=True))
    for a, y, b in zip(low.tolist(), forward_exact(net, x.tolist()), high.tolist(), strict=True):
        assert a <= y <= b and b - a < 1e-9


@pytest.mark.parametrize("region_kind", REGIONS)
@pytest.mark.parametrize("name", BOUND_METHODS)
@settings(max_examples=12)
@given(seed=seeds)
def test_bounds_contain_what_exact_arithmetic_gives(name: str, region_kind: str, seed: int) -> None:
    """30 points of a network with about eight neurons each time: more than ten thousand activations a method."""
    rng = np.random.default_rng(seed)
    net = NETWORKS[str(rng.choice(list(NETWORKS)))](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    bounds = compute_bounds(net, region, BOUND_METHODS[name])
    rows = wild_rows(rng, 4, net.n_outputs)
    value = bound_rows(net, region, bounds, rows, BOUND_METHODS[name]).value
    *hidden, y = ExactLayers.of((*net.layers, net.output)).activations(region.sample(rng, 30))
    for zhat, l, u in zip(hidden, bounds.lower, bounds.upper, strict=True):
        assert (Dyadic.of(l)[None, :] <= zhat).all() and (zhat <= Dyadic.of(u)[None, :]).all()
    assert (Dyadic.of(value)[None, :] <= y @ Dyadic.of(rows).T).all()


@pytest.mark.parametrize("name", sorted(set(BOUND_METHODS) - {"lp"}))  # programs take one region at a time
@given(seed=seeds)
def test_bounds_of_a_batch_contain_what_exact_arithmetic_gives(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[str(rng.choice(list(NETWORKS)))](rng)
    boxes = BoxBatch.of([REGIONS["box"](rng, net.n_inputs) for _ in range(3)])
    bounds = compute_bounds(net, boxes, BOUND_METHODS[name])
    layers = ExactLayers.of((*net.layers, net.output))
    for i in range(3):
        hidden = layers.activations(member(boxes, i).sample(rng, 10))
        for zhat, l, u in zip(hidden[:-1], bounds.lower, bounds.upper, strict=True):
            assert (Dyadic.of(l[i])[None, :] <= zhat).all() and (zhat <= Dyadic.of(u[i])[None, :]).all()


@given(seed=seeds)
def test_the_exact_minimum_is_what_vertices_attain(seed: int) -> None:
    """The reference itself: dyadic minima over boxes and balls against all their vertices or a known point."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 4))
    lam = Dyadic.of(rng.integers(-4, 5, (5, n)) / 4.0)
    center, eps = rng.integers(-8, 9, n) / 8.0, float(rng.integers(1, 9)) / 8.0
    for region in (LinfBall(center, eps), LinfBall(center, eps, clip=(-1.25, 1.25))):
        corners = np.stack(np.meshgrid(*zip(region.lower, region.upper, strict=True)), axis=-1).reshape(-1, n)
        least = (Dyadic.of(corners) @ lam.T).floats().min(axis=0)
        assert (exact_minimum(lam, region) == least).all()
    for ball in (L1Ball(center, eps), L1Ball(center, eps, clip=(-1.25, 1.25))):
        points = ball.sample(rng, 200)
        assert ((Dyadic.of(points) @ lam.T).floats().min(axis=0) >= exact_minimum(lam, ball)).all()
        assert np.allclose(ball.minimum(lam.floats()), exact_minimum(lam, ball), rtol=0, atol=1e-12)
    round_ball = L2Ball(center, eps)
    bound = round_ball.minimum(lam.floats())
    assert below_minimum(Dyadic.of(bound), lam, round_ball).all()
    some = lam.floats().any(axis=1)
    assert not below_minimum(Dyadic.of(bound + 1e-12), lam, round_ball)[some].any()


def exact_minimum(lam: Dyadic, region: Region) -> np.ndarray:
    return minimum(lam, region).floats()
