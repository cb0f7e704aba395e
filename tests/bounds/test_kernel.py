"""The kernel's allowances one by one, its other routes (condensed, receptive fields, pruned), and its edges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from milpverify.bounds import local
from milpverify.bounds.backward import Crown, FastLin
from milpverify.bounds.compute import bound_rows, compute_bounds
from milpverify.bounds.dual import Neurons, Rule, dual_bound, dual_range, fixed
from milpverify.bounds.interval import interval_layer, interval_rows
from milpverify.bounds.kappa import Kappa
from milpverify.bounds.problem import LEAST_NORMAL, DualProblem, LayerPhases
from milpverify.bounds.pruned import pruned_problem
from milpverify.bounds.semantics import Float32
from milpverify.bounds.small import folded_neurons, folded_rows, small_problem
from milpverify.errors import BoundsError
from milpverify.network.convolution import Conv2d
from milpverify.network.graph import UNIT, Affine, Bounds, Network
from milpverify.network.operators import Array, Dense, LinearOperator, Product, Selection
from milpverify.spec.regions import Box, BoxBatch, L2Ball, Region
from tests.bounds.exact import Dyadic, ExactLayers, dual_value, lifted
from tests.cases import BOUND_METHODS, NETWORKS, REGIONS, affine, bias, seeds, weights


def nothing(j: int, lam: Array, phases: LayerPhases) -> Array:
    """nu = 0."""
    return 0.0 * lam


def with_bounds(
    layers: tuple[Affine, ...], region: Region | BoxBatch, *bounds: tuple[np.ndarray, np.ndarray]
) -> DualProblem:
    problem = DualProblem(layers, region)
    for l, u in bounds:
        problem = problem.with_layer(l, u)
    return problem


def drawn(rng: np.random.Generator) -> Rule:
    def rule(j: int, lam: Array, phases: LayerPhases) -> np.ndarray:
        return np.asarray(lam * rng.choice([0.0, 1.0, 0.5, -0.5], size=lam.shape) + rng.normal(size=lam.shape))

    return rule


def value_below(problem: DualProblem, k: int, rows: np.ndarray, value: np.ndarray, nu: tuple[np.ndarray, ...]) -> None:
    """Each value is at most the exact g of the original problem with nu on its unstable neurons."""
    layers = ExactLayers.of(problem.layers)
    full = lifted(layers, k, rows, problem.lower, problem.upper, nu)
    assert isinstance(problem.region, Region)
    exact = dual_value(layers, k, full, problem.lower, problem.upper, problem.n_inputs)
    assert exact.at_least(value, problem.region).all()


def contained(problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray, x: np.ndarray) -> None:
    zhat = ExactLayers.of(problem.layers).activations(x)[k - 1]
    assert (Dyadic.of(l)[None, :] <= zhat).all() and (zhat <= Dyadic.of(u)[None, :]).all()


def bounded(net: Network, region: Region | BoxBatch, count: int) -> DualProblem:
    """The first `count` layers bounded by intervals, so that many neurons are unstable."""
    problem = DualProblem((*net.layers, net.output), region)
    for k in range(1, count + 1):
        problem = problem.with_layer(*interval_layer(problem, k))
    return problem


def test_the_size_of_the_target_counts_among_the_roundings() -> None:
    """64 ones and many terms of -2^-55, each lost as it is added: the float sum is too large by far."""
    n = 200_000
    b = np.full(n, -(2.0**-55))
    b[:64] = 1.0
    one = Selection(np.full(n, -1), 1)
    problem = DualProblem((affine({0: one}, b),), Box([0.0], [1.0]))
    rows = np.ones((1, n))
    exact = Dyadic.of(b).total()
    forgotten = 2 * (problem.roundings - n) * UNIT * float(np.abs(b).sum())
    assert float(rows[0] @ b) - float(exact.floats()) > 2 * forgotten
    low, high = dual_range(problem, 1, rows, nothing)
    assert (Dyadic.of(low) <= exact).all() and (exact <= Dyadic.of(high)).all()
    assert (Dyadic.of(interval_rows(problem, rows).value) <= exact).all()


@given(seed=seeds)
def test_a_bias_of_several_terms_that_cancel_is_covered(seed: int) -> None:
    rng = np.random.default_rng(seed)
    v = rng.normal(size=3) * 1e10
    pushed = Dense(rng.normal(size=(2, 3)))
    terms = ((pushed, v), (None, -(pushed.matrix @ v)), (None, rng.normal(size=2)))
    layer = Affine(((0, weights(rng, 2, 2)),), terms, 2)
    problem = DualProblem((layer,), Box(*[rng.normal(size=2)] * 2))
    x = problem.region.lower[None, :]
    for low, high in (dual_range(problem, 1, np.eye(2), nothing), interval_layer(problem, 1)):
        contained(problem, 1, low, high, x)
    y = ExactLayers.of((layer,)).activations(x)[0][0]
    assert (Dyadic.of(interval_rows(problem, np.eye(2)).value) <= y).all()


@given(seed=seeds)
def test_bounds_far_wider_than_the_weights_are_covered(seed: int) -> None:
    """nu l, with |l| a million times what the layer can reach, dwarfs everything that scales with the weights."""
    rng = np.random.default_rng(seed)
    net = Network(
        (2,), (1,), (affine({0: weights(rng, 40, 2)}, bias(rng, 40)),), affine({1: weights(rng, 1, 40)}, bias(rng, 1))
    )
    l, u = -1e6 * (1 + rng.random(40)), rng.random(40)
    problem = with_bounds((*net.layers, net.output), Box([-1.0, 0.0], [1.0, 1.0]), (l, u))
    nu = -(10.0 ** rng.uniform(-3, 3, (16, 40)))
    rows = np.ones((16, 1))
    value_below(problem, 2, rows, dual_bound(problem, 2, rows, fixed((nu,))).value, (nu,))


@given(seed=seeds)
def test_a_neuron_with_input_wise_multipliers_is_covered_over_its_inputs_box(seed: int) -> None:
    """lambda cancels to rounding, u is tiny, and the neuron's inputs' box is huge."""
    rng = np.random.default_rng(seed)
    n = 40
    first = affine({0: Dense(np.full((1, 1), 1e6))}, np.array([1e6]))
    order = rng.permutation(n)
    W, V = rng.normal(size=(n // 2, 1)) * 1e3, rng.normal(size=(8, n // 2))
    second = affine({1: Dense(np.concatenate([W, W])[order])}, np.zeros(n))
    output = affine({2: Dense(np.concatenate([V, -V], axis=1)[:, order])}, np.zeros(8))
    tiny = (np.array([-1e-9]), np.array([1e-9]))
    problem = with_bounds((first, second, output), Box([0.0], [1.0]), tiny, (np.ones(n), np.full(n, 2.0)))
    kappa = Kappa(1, np.array([0]), np.array([[0]]), np.zeros((1, 1, 1)))
    value = dual_bound(problem, 3, np.eye(8), nothing, (kappa,)).value
    layers = ExactLayers.of((first, second, output))
    nu = [np.zeros((8, 1)), output.blocks[0][1].matrix, np.eye(8)]
    exact = dual_value(
        layers, 3, list(map(Dyadic.of, nu)), problem.lower, problem.upper, 1, (), (kappa,), problem.region
    )
    assert exact.at_least(value, problem.region).all()


def test_products_that_vanish_below_huge_activations_are_covered() -> None:
    """1e-200 * 1e-200 is 0 in float64, and 1e-100 times the largest activation."""
    layers = (
        affine({0: Dense(np.array([[1e-200]]))}, np.zeros(1)),
        affine({1: Dense(np.array([[1e-200]]))}, np.array([-1.5e-100])),
        affine({2: Dense(np.eye(1))}, np.zeros(1)),
    )
    net, region = Network((1,), (1,), layers[:2], layers[2]), Box([1e300], [2e300])
    for method in BOUND_METHODS.values():
        bounds = compute_bounds(net, region, method)
        x = np.array([[1e300], [1.5e300], [2e300]])
        for k in (1, 2):
            contained(bounded(net, region, 0), k, bounds.lower[k - 1], bounds.upper[k - 1], x)
    problem = bounded(net, region, 1)
    small = small_problem(problem, 2, folded_neurons(problem, 2, np.array([0])))
    contained(problem, 2, *dual_range(small, 2, np.eye(1), nothing), x)


@pytest.mark.parametrize("region_kind", ("box", "linf clipped", "l1", "l2"))
@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_what_is_proven_on_the_condensed_problem_is_below_g_of_the_original(
    kind: str, region_kind: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    problem = bounded(net, REGIONS[region_kind](rng, net.n_inputs), len(net.layers))
    k = int(rng.integers(1, len(problem.layers) + 1))
    rows = rng.normal(size=(6, problem.affine(k).size))
    small = small_problem(problem, k, folded_rows(problem, k, rows))
    found = dual_bound(small, k, np.eye(6), drawn(rng))
    value_below(problem, k, rows, found.value, found.nu)
    direct = dual_bound(problem, k, rows, fixed(found.nu))
    assert np.allclose(direct.value, found.value, rtol=0, atol=1e-9)
    assert np.allclose(direct.input_lam, found.input_lam, rtol=0, atol=1e-9)


@given(seed=seeds)
def test_condensing_with_float32_keeps_the_slack(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["chain"](rng)
    problem = replace(bounded(net, REGIONS["box"](rng, net.n_inputs), len(net.layers)), semantics=Float32())
    k = len(problem.layers)
    small = small_problem(problem, k, folded_rows(problem, k, np.eye(3)))
    found = dual_bound(small, k, np.eye(3), drawn(rng))
    direct = dual_bound(problem, k, np.eye(3), fixed(found.nu)).value
    real = dual_bound(replace(problem, semantics=DualProblem.semantics), k, np.eye(3), fixed(found.nu)).value
    # Errors along several paths may cancel in lambda; folded, each neuron carries the sum of theirs.
    assert (found.value <= direct + 1e-12).all() and (direct < real).all()
    assert np.allclose(direct, found.value, rtol=0, atol=1e-4)


def test_folded_neurons_come_in_the_order_they_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    net = NETWORKS["chain"](rng)
    problem = bounded(net, Box(*[np.ones(net.n_inputs) * v for v in (-1, 1)]), 1)
    for index in ([0, 1], [1, 0], [1], [0, 1], [1, 1]):
        folded = folded_neurons(problem, 2, np.array(index))
        assert np.array_equal(folded.bias, folded_rows(problem, 2, np.eye(problem.affine(2).size)[index]).bias)


@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_the_pruned_problem_gives_the_same_claims(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    problem = bounded(net, REGIONS["box"](rng, net.n_inputs), len(net.layers))
    k = len(problem.layers)
    for count in (1, 1000):
        pruned = pruned_problem(problem, k, count)
        rows = rng.normal(size=(4, net.n_outputs))
        found = dual_bound(pruned, k, rows, drawn(rng))
        value_below(problem, k, rows, found.value, found.nu)
        assert np.allclose(dual_bound(problem, k, rows, fixed(found.nu)).value, found.value, rtol=0, atol=1e-9)


@pytest.fixture
def always_windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Receptive fields however small the network is."""
    monkeypatch.setattr(local, "WORTHWHILE", 0.0)
    yield


def convolutional(rng: np.random.Generator, skip: bool = False) -> Network:
    """Three convolutions with padding, strides, groups and zeros in their kernels."""

    def kernel(*shape: int) -> np.ndarray:
        return np.asarray(rng.normal(size=shape) * (rng.random(shape) > 0.3))

    first = Conv2d(kernel(2, 1, 3, 2), (1, 9, 8), stride=(1, 1), padding=(1, 0, 1, 0))
    second = Conv2d(kernel(4, 1, 2, 2), first.out_shape, stride=(2, 2), padding=(0, 1, 1, 0), groups=2)
    third = Conv2d(kernel(2, 4, 2, 2), second.out_shape, stride=(1, 2), dilation=(2, 1))
    layers = [affine({0: first}, bias(rng, first.out_size)), affine({1: second}, bias(rng, second.out_size))]
    blocks: dict[int, LinearOperator] = {2: third}
    if skip:
        count = third.out_size
        blocks[1] = Conv2d(kernel(2, 2, 1, 1), (2, first.out_size // 2, 1), stride=(first.out_size // count, 1))
        assert blocks[1].out_size >= count
        if blocks[1].out_size != count:
            del blocks[1]
    layers.append(affine(blocks, bias(rng, third.out_size)))
    return Network((1, 9, 8), (2,), tuple(layers), affine({3: weights(rng, 2, third.out_size)}, bias(rng, 2)))


def image(rng: np.random.Generator, kind: str, n: int) -> Region:
    middle = rng.normal(size=n)
    return L2Ball(middle, 0.4) if kind == "l2" else Box(middle - 0.1, middle + 0.1 * (rng.random(n) > 0.2))


@pytest.mark.parametrize("method", [Crown(intersect=False), FastLin(intersect=False)])
@pytest.mark.parametrize("region_kind", ["box", "l2"])
@settings(max_examples=6)
@given(seed=seeds)
def test_receptive_fields_agree_with_the_whole_network(region_kind: str, method: Crown, seed: int) -> None:
    kept, local.WORTHWHILE = local.WORTHWHILE, 0.0
    try:
        rng = np.random.default_rng(seed)
        net = convolutional(rng, skip=bool(rng.random() < 0.5))
        region = image(rng, region_kind, 72)
        problem = bounded(net, region, 1)
        for k in (2, 3):
            assert local.fields(problem, k) is not None
            l, u = method.layer(problem, k)
            n = problem.affine(k).size
            rule = type(method).rule
            direct = dual_bound(problem, k, np.concatenate([np.eye(n), -np.eye(n)]), rule).value
            assert np.allclose(l, direct[:n], rtol=0, atol=1e-9) and np.allclose(u, -direct[n:], rtol=0, atol=1e-9)
            contained(problem, k, l, u, region.sample(rng, 4))
            problem = problem.with_layer(l, u)
    finally:
        local.WORTHWHILE = kept


@pytest.mark.parametrize("region_kind", ["box", "l2"])
@pytest.mark.parametrize("members", [2, 90])
def test_receptive_fields_of_nodes_over_one_region_agree_with_the_whole_network(
    members: int, region_kind: str, always_windows: None
) -> None:
    rng = np.random.default_rng(members)
    net = convolutional(rng)
    region = image(rng, region_kind, 72)
    one = bounded(net, region, 1)
    l, u = (np.repeat(v[None], members, axis=0) for v in (one.lower[0], one.upper[0]))
    split = rng.random(l.shape) < 0.05
    problem = with_bounds(one.layers, region, (np.where(split & (u > 0), np.maximum(l, 0.0), l), u))
    low, high = Crown(intersect=False).layer(problem, 2)
    n = problem.affine(2).size
    direct = dual_bound(problem, 2, np.concatenate([np.eye(n), -np.eye(n)]), Crown.rule).value
    assert np.allclose(low, direct[:, :n], rtol=0, atol=1e-9)
    assert np.allclose(high, -direct[:, n:], rtol=0, atol=1e-9)


def test_receptive_fields_of_a_batch_of_boxes_contain_exact_activations(always_windows: None) -> None:
    rng = np.random.default_rng(3)
    net = convolutional(rng)
    boxes = BoxBatch.of([image(rng, "box", 72) for _ in range(3)])
    bounds = compute_bounds(net, boxes, Crown(intersect=False))
    for i in range(3):
        box = boxes[i]
        hidden = ExactLayers.of(net.layers).activations(box.sample(rng, 4))
        for zhat, l, u in zip(hidden, bounds.lower, bounds.upper, strict=True):
            assert (Dyadic.of(l[i])[None, :] <= zhat).all() and (zhat <= Dyadic.of(u[i])[None, :]).all()


def lazy_below_a_convolution(a: float, side: int = 8) -> tuple[Affine, ...]:
    """1e8 a x - (1e8 + 1) a x + 1/2 = 1/2 - a x: multiplied out in float64 the weight is off by 1e-8."""
    n = side * side
    lazy = Product((Dense(np.tile([1e8, 1e8 + 1], (n, 1))), Dense(np.array([[a], [-a]]))))
    conv = Conv2d(np.ones((1, 1, 2, 2)), (1, side, side))
    assert abs(lazy.dense()[0, 0] + a) > 1e-10
    last = affine({2: Dense(np.ones((1, conv.out_size)))}, np.zeros(1))
    return affine({0: lazy}, np.full(n, 0.5)), affine({1: conv}, np.zeros(conv.out_size)), last


@pytest.mark.parametrize("a", [0.3, 0.37, 0.41])
@pytest.mark.parametrize("x", [0.3, -0.7])
@pytest.mark.parametrize("route", ["windows", "windows of few", "pruned", "condensed"])
def test_a_lazy_product_that_is_multiplied_out_is_covered(route: str, x: float, a: float, always_windows: None) -> None:
    layers = lazy_below_a_convolution(a)
    z = 0.5 - a * x
    tight = (np.full(64, z - 1e-3), np.full(64, z + 1e-3))
    problem = with_bounds(layers, Box([x], [x]), tight)
    n = layers[1].size
    if route.startswith("windows"):
        seen = local.fields(problem, 2)
        assert seen is not None
        wanted = np.ones(n, dtype=bool)
        wanted[1 if route == "windows of few" else n :] = False
        small, here = seen.problem(problem, wanted)
        low, high = (v[here >= 0] for v in dual_range(small, 2, Neurons(both=False), FastLin.rule))
        index = here[here >= 0]
    else:
        index = np.arange(n)
        small = pruned_problem(problem, 2, 10**6, index) if route == "pruned" else small_problem(
            problem, 2, folded_neurons(problem, 2, index)
        )  # fmt: skip
        low, high = dual_range(small, 2, np.eye(n), FastLin.rule)
    y = ExactLayers.of(layers).activations(np.array([[x]]))[1][0, index]
    assert (Dyadic.of(low) <= y).all() and (y <= Dyadic.of(high)).all()


def tiny_net(w: float = 1.0, b: float = 0.0) -> Network:
    return Network(
        (1,), (1,), (affine({0: Dense(np.array([[w]]))}, np.array([b])),), affine({1: Dense(np.eye(1))}, np.zeros(1))
    )


@pytest.mark.parametrize("w", [1e200, 1e308])
def test_an_overflow_proves_nothing(w: float) -> None:
    layers = (
        affine({0: Dense(np.array([[w, -w]]))}, np.zeros(1)),
        affine({1: Dense(np.array([[w], [-w]]))}, np.zeros(2)),
    )
    problem = with_bounds(layers, Box([0.0, 0.0], [1e200, 1e200]), (np.array([-1e308]), np.array([1e308])))
    with np.errstate(all="ignore"):
        assert (interval_rows(problem, np.array([[1.0, 1.0]])).value == -np.inf).all()
        for rule in (nothing, Crown.rule, FastLin.rule):
            low, high = dual_range(problem, 2, np.array([[1.0, 1.0], [1.0, 0.0]]), rule)
            assert (low == -np.inf).all() and (high == np.inf).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_multipliers_that_are_no_numbers_prove_nothing(bad: float) -> None:
    problem = with_bounds(
        (*tiny_net().layers, tiny_net().output), Box([-1.0], [1.0]), (np.array([-1.0]), np.array([1.0]))
    )
    kappa = Kappa(1, np.array([0]), np.array([[0]]), np.array([[[bad]]]))
    with np.errstate(invalid="ignore"):
        assert dual_bound(problem, 2, np.eye(1), fixed((np.array([[bad]]),))).value == -np.inf
        assert dual_bound(problem, 2, np.eye(1), nothing, (kappa,)).value == -np.inf
        assert dual_bound(problem, 2, np.array([[bad]]), nothing).value == -np.inf


@pytest.mark.parametrize("name", sorted(set(BOUND_METHODS) - {"norms"}))  # norms ask for no hidden bounds
def test_bounds_that_are_no_numbers_prove_nothing(name: str) -> None:
    net = tiny_net()
    problem = with_bounds((*net.layers, net.output), Box([-1.0], [1.0]), (np.array([np.nan]), np.array([np.nan])))
    with np.errstate(invalid="ignore"):
        assert BOUND_METHODS[name].rows(problem, -np.eye(1)).value == -np.inf


@pytest.mark.parametrize("name", BOUND_METHODS)
def test_weights_that_overflow_never_give_nan_as_a_bound(name: str) -> None:
    big = Dense(np.full((2, 2), 1e200))
    layers = (affine({0: big}, np.zeros(2)), affine({1: big}, np.zeros(2)))
    net = Network((2,), (2,), layers, affine({2: big}, np.zeros(2)))
    with np.errstate(all="ignore"):
        try:
            bounds = compute_bounds(net, Box([-1.0, -1.0], [1.0, 1.0]), BOUND_METHODS[name])
        except BoundsError as error:
            assert "overflow" in str(error)
        else:
            assert (bounds.lower[1] == -np.inf).all() and (bounds.upper[1] == np.inf).all()


@pytest.mark.parametrize("name", sorted(set(BOUND_METHODS) - {"norms"}))  # norms are loose even for linear maps
def test_layers_without_unstable_neurons_are_bounded_as_their_linear_map(name: str) -> None:
    rng = np.random.default_rng(0)
    net = Network(
        (2,), (2,),
        (affine({0: weights(rng, 3, 2)}, np.full(3, 50.0)), affine({1: weights(rng, 2, 3)}, np.full(2, -1e3))),
        affine({1: weights(rng, 2, 3), 2: weights(rng, 2, 2)}, bias(rng, 2)),
    )  # fmt: skip
    region = Box([-1.0, -1.0], [1.0, 1.0])
    bounds = compute_bounds(net, region, BOUND_METHODS[name])
    assert bounds.n_unstable == (0, 0)
    value = bound_rows(net, region, bounds, np.eye(2), BOUND_METHODS[name]).value
    corners = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    y = net.forward(corners).min(axis=0)
    assert (value <= y).all()
    if name != "interval":
        assert np.allclose(value, y, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", sorted(set(BOUND_METHODS) - {"lp"}))  # programs take one region at a time
def test_an_empty_batch_and_no_rows_are_legal(name: str) -> None:
    method = BOUND_METHODS[name]
    for kind in NETWORKS:
        net = NETWORKS[kind](np.random.default_rng(0))
        none = BoxBatch(np.zeros((0, net.n_inputs)), np.zeros((0, net.n_inputs)))
        bounds = compute_bounds(net, none, method)
        assert [l.shape for l in bounds.lower] == [(0, n) for n in net.sizes]
        assert bound_rows(net, none, bounds, np.eye(net.n_outputs), method).value.shape == (0, net.n_outputs)
        box = Box(np.zeros(net.n_inputs), np.ones(net.n_inputs))
        bounds = compute_bounds(net, box, method)
        assert bound_rows(net, box, bounds, np.zeros((0, net.n_outputs)), method).value.shape == (0,)


def test_nodes_over_one_region_have_a_row_bound_each() -> None:
    rng = np.random.default_rng(5)
    net = NETWORKS["skip"](rng)
    region = Box(np.full(2, -1.0), np.full(2, 1.0))
    one = bounded(net, region, 2)
    lower = tuple(np.stack([l, np.minimum(u, np.maximum(l, 0.0))]) for l, u in zip(one.lower, one.upper, strict=True))
    upper = tuple(np.stack([u, u]) for u in one.upper)
    nodes = replace(one, lower=lower, upper=upper)
    rows = rng.normal(size=(2, 2))
    for method in (Crown(), FastLin()):
        value = method.rows(nodes, rows).value
        for i in range(2):
            alone = replace(one, lower=tuple(l[i] for l in lower), upper=tuple(u[i] for u in upper))
            assert np.allclose(value[i], method.rows(alone, rows).value, rtol=0, atol=1e-9)
            part = nodes.restrict(np.array([i]))
            assert np.allclose(method.rows(part, rows).value[0], value[i], rtol=0, atol=1e-12)


def test_two_continuations_of_a_problem_do_not_share_what_they_derive() -> None:
    """The second one's layer is unstable; what the first one found stable must not serve it."""
    net = tiny_net()
    start = DualProblem((*net.layers, net.output), Box([-1.0], [1.0]))
    off = start.with_layer(np.array([-1.0]), np.array([-0.5]))
    assert dual_bound(off, 2, -np.eye(1), nothing).value > -1e-12
    wide = start.with_layer(np.array([-1.0]), np.array([1.0]))
    assert dual_bound(wide, 2, -np.eye(1), nothing).value <= -1.0


def test_the_rows_of_all_neurons_are_the_identity_and_its_negative() -> None:
    rng = np.random.default_rng(1)
    for kind in NETWORKS:
        net = NETWORKS[kind](rng)
        problem = bounded(net, REGIONS["box"](rng, net.n_inputs), len(net.layers))
        k, n = len(problem.layers), net.n_outputs
        both = np.concatenate([np.eye(n), -np.eye(n)])
        assert np.allclose(
            dual_bound(problem, k, Neurons(), Crown.rule).value,
            dual_bound(problem, k, both, Crown.rule).value,
            atol=1e-12,
        )


def test_kappa_refuses_what_it_would_get_wrong() -> None:
    net = tiny_net()
    problem = with_bounds((*net.layers, net.output), Box([-1.0], [1.0]), (np.array([-1.0]), np.array([1.0])))
    unlisted = Kappa(1, np.array([0]), np.array([[-1]]), np.zeros((1, 1, 1)))
    twice = Kappa(1, np.array([0]), np.array([[0, 0]]), np.zeros((1, 1, 2)))
    for part in (unlisted, twice):
        with pytest.raises(BoundsError, match="not listed, or one is listed twice"):
            dual_bound(problem, 2, -np.eye(1), nothing, (part,))
    for neurons in ([0, 0], [-1, 0]):
        with pytest.raises(BoundsError, match="names a neuron twice"):
            Kappa(1, np.array(neurons), np.array([[0], [0]]), np.zeros((1, 2, 1)))


def test_condensing_and_pruning_refuse_a_batch() -> None:
    net = tiny_net()
    nodes = with_bounds((*net.layers, net.output), Box([-1.0], [1.0]), (-np.ones((2, 1)), np.ones((2, 1))))
    with pytest.raises(BoundsError, match="Restrict the batch"):
        pruned_problem(nodes, 2, 1)
    with pytest.raises(BoundsError, match="Restrict the batch"):
        folded_rows(nodes, 2, np.eye(1))


def test_crossing_bounds_prove_an_empty_region_and_are_refused() -> None:
    with pytest.raises(BoundsError):
        Bounds((np.array([1.0]),), (np.array([0.0]),))
    with pytest.raises(BoundsError):
        Bounds((np.array([np.nan]),), (np.array([0.0]),))


def test_underflow_is_allowed_for_in_every_layer() -> None:
    net = NETWORKS["skip"](np.random.default_rng(0))
    problem = bounded(net, Box(np.full(2, -1.0), np.full(2, 1.0)), 2)
    units = [problem.underflow(k) for k in (1, 2, 3)]
    assert 0 < LEAST_NORMAL < units[0] < units[1] < units[2] < 1e-300
