"""Laws of searched slopes: alpha, one step and input-wise multipliers only ever tighten, and never pass the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from milpverify.bounds import planes
from milpverify.bounds.ascent import Ascent, Climb, ascend
from milpverify.bounds.compute import bound_layers, make_problem
from milpverify.bounds.planes import raise_planes
from milpverify.bounds.semantics import Float32
from milpverify.bounds.slopes import SlopeSearch
from milpverify.bounds.small import folded_rows, small_problem
from milpverify.network.graph import Bounds, Network
from milpverify.network.operators import Dense
from milpverify.spec.regions import Box, BoxBatch, L1Ball, LinfBall
from tests.bounds.convolutions import CONVOLUTIONS, mlp
from tests.cases import NETWORKS, REGIONS, affine, bias, brute_force_minimum, seeds, weights
from tests.paths import mnist, need
from tests.tighten.reference import least_zhat, triangle_minimum

KAPPA = mv.AlphaCrown(kappa_steps=30, layer_kappa_steps=20)
SEARCHES: dict[str, mv.BoundMethod] = {
    "alpha": mv.AlphaCrown(),
    "kappa": KAPPA,
    "kappa rows": mv.AlphaCrown(kappa_steps=30),
    "fastlin-step": mv.FastLinStep(),
}


@pytest.mark.parametrize("region_kind", ("box", "l1"))
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", SEARCHES)
@settings(max_examples=2)
@given(seed=seeds)
def test_searched_bounds_never_pass_brute_force(name: str, kind: str, region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    bounds = mv.compute_bounds(net, region, SEARCHES[name])
    for k in range(1, len(net.layers) + 1):
        i = int(rng.integers(net.sizes[k - 1]))
        assert bounds.lower[k - 1][i] <= least_zhat(net, region, k, i, 1.0) + 1e-7
        assert bounds.upper[k - 1][i] >= -least_zhat(net, region, k, i, -1.0) - 1e-7
    row = rng.normal(size=net.n_outputs)
    assert (
        mv.bound_rows(net, region, bounds, row, SEARCHES[name]).value[0] <= brute_force_minimum(net, region, row) + 1e-7
    )


@pytest.mark.parametrize("region_kind", REGIONS)
@pytest.mark.parametrize("kind", (*NETWORKS, *CONVOLUTIONS))
@settings(max_examples=4)
@given(seed=seeds)
def test_searches_are_never_looser_than_what_they_start_from(kind: str, region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = {**NETWORKS, **CONVOLUTIONS}[kind](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    rows = rng.normal(size=(3, net.n_outputs))
    crown = mv.compute_bounds(net, region, mv.Crown())
    value = {
        m.name: mv.bound_rows(net, region, crown, rows, m).value for m in (mv.Crown(), mv.FastLin(), mv.FastLinStep())
    }
    alpha = mv.bound_rows(net, region, crown, rows, mv.AlphaCrown(steps=8)).value
    kappa = mv.bound_rows(net, region, crown, rows, mv.AlphaCrown(steps=8, kappa_steps=8)).value
    assert (alpha >= value["crown"]).all() and (kappa >= alpha).all()
    assert (value["fastlin-step"] >= value["fastlin"]).all()
    problem = make_problem(net, region, None)
    for k in range(1, len(net.layers) + 1):
        l, u = crown.lower[k - 1], crown.upper[k - 1]
        for method in (
            mv.AlphaCrown(layer_steps=5),
            replace(KAPPA, layer_steps=5, layer_kappa_steps=5),
            mv.FastLinStep(),
        ):
            low, high = method.refine(problem, k, l, u)
            assert (low >= l).all() and (high <= u).all()
        problem = problem.with_layer(l, u)


@pytest.mark.parametrize("region_kind", ("box", "l1"))
@pytest.mark.parametrize("kind", NETWORKS)
@settings(max_examples=5)
@given(seed=seeds)
def test_many_steps_reach_the_triangle_lp(kind: str, region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    bounds = mv.compute_bounds(net, region, mv.Crown())
    rows = np.concatenate([np.eye(net.n_outputs), rng.normal(size=(2, net.n_outputs))])
    long = mv.AlphaCrown(steps=1500, ascent=Ascent(rate=0.3, last_rate=1e-4, stall=0.0))
    found = mv.bound_rows(net, region, bounds, rows, long).value
    crown = mv.bound_rows(net, region, bounds, rows, mv.Crown()).value
    for row, value, start in zip(rows, found, crown, strict=True):
        best = triangle_minimum(net, region, bounds, len(net.layers) + 1, row)
        # The closed form meets intervals, which can pass the LP's optimum by rounding only.
        assert value <= best + 1e-7 * (1 + abs(best))
        assert value >= best - 1e-3 * max(abs(best), best - start, 1.0)


def test_input_wise_multipliers_go_beyond_the_triangle() -> None:
    # z = relu(x1 + x2 - 1) over [0, 1]^2: the triangle's upper side is z <= (x1 + x2) / 2, the hull's are z <= x1, x2.
    first = affine({0: Dense(np.array([[1.0, 1.0]]))}, np.array([-1.0]))
    net = Network(
        (2,), (1,), (first,), affine({0: Dense(np.array([[1.0, 0.0]])), 1: Dense(np.array([[-1.0]]))}, np.zeros(1))
    )
    region, row = Box([0.0, 0.0], [1.0, 1.0]), np.ones((1, 1))
    bounds = mv.compute_bounds(net, region)
    truth = brute_force_minimum(net, region, row[0])
    triangle = triangle_minimum(net, region, bounds, 2, row[0])
    alpha = mv.bound_rows(net, region, bounds, row, mv.AlphaCrown(steps=200)).value[0]
    kappa = mv.bound_rows(net, region, bounds, row, mv.AlphaCrown(steps=200, kappa_steps=200)).value[0]
    assert truth == pytest.approx(0.0, abs=1e-7)  # x1 - relu(x1 + x2 - 1) >= 0
    assert triangle == pytest.approx(-0.5, abs=1e-7)  # x1 = 0, x2 = 1: z <= (p + 1) / 2
    assert alpha == pytest.approx(-0.5, abs=1e-3)
    assert -1e-2 <= kappa <= 0.0


def test_a_plane_and_a_triangle_serve_different_neurons_of_one_row() -> None:
    # q = x1 + x2 - 1 wants its plane, as above. p = z1 - z2 with z1 = z2: its inputs' box says [-1, 1], its bounds far
    # less, and only the triangle knows them. The row is x1 - relu(q) - relu(p) >= 0; the triangles lose 1/2 on q, 0.005
    # on p and 1/4 on z1 - z2, planes of p over its box 1/2 or more.
    twice = affine({0: Dense(np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]))}, np.zeros(2))
    both = affine(
        {0: Dense(np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])), 1: Dense(np.array([[0.0, 0.0], [1.0, -1.0]]))},
        np.array([-1.0, 0.0]),
    )
    out = affine({0: Dense(np.array([[1.0, 0.0, 0.0]])), 2: Dense(np.array([[-1.0, -1.0]]))}, np.zeros(1))
    net, region = Network((3,), (1,), (twice, both), out), Box([0.0, 0.0, -1.0], [1.0, 1.0, 1.0])
    ends = np.ones(2), np.array([1.0, 0.01])
    bounds, row = Bounds(tuple(-end for end in ends), ends), np.ones((1, 1))
    assert brute_force_minimum(net, region, row[0]) == pytest.approx(0.0, abs=1e-7)
    alpha = mv.bound_rows(net, region, bounds, row, mv.AlphaCrown(steps=200)).value[0]
    kappa = mv.bound_rows(net, region, bounds, row, mv.AlphaCrown(steps=200, kappa_steps=200)).value[0]
    assert alpha == pytest.approx(-0.755, abs=1e-3)
    assert kappa == pytest.approx(-0.255, abs=1e-2)


def test_input_wise_multipliers_tighten_published_bounds() -> None:
    net = mv.from_onnx(need("mipverify_nets", "wk17a_mnist_linf0.1.onnx"))
    images, labels = mnist()
    image, label = images[0].reshape(-1), int(labels[0])
    region = LinfBall(image, 0.1, clip=(0.0, 1.0))
    bounds = mv.compute_bounds(net, region, mv.Crown())
    rows = np.delete(np.eye(10)[label] - np.eye(10), label, axis=0)
    alpha = mv.bound_rows(net, region, bounds, rows, mv.AlphaCrown(steps=100)).value
    lp = mv.bound_rows(net, region, bounds, rows, mv.TriangleLP()).value
    kappa = mv.bound_rows(net, region, bounds, rows, mv.AlphaCrown(steps=100, kappa_steps=60)).value
    assert (alpha <= lp + 1e-6).all()
    assert (kappa >= alpha).all()
    assert (kappa > lp).any()
    y = net.forward(region.sample(np.random.default_rng(0), 200)) @ rows.T
    assert (kappa <= y.min(axis=0)).all()


def test_a_weight_too_small_for_float32_is_still_listed() -> None:
    rng = np.random.default_rng(1)
    W = np.zeros((5, 12))
    W[np.arange(5), np.arange(5)], W[np.arange(5), np.arange(5) + 5] = 1.0, 1e-60
    layers = (affine({0: Dense(W)}, np.zeros(5)), affine({1: Dense(np.eye(5) + 1e-50)}, -0.1 * np.ones(5)))
    net = Network((12,), (2,), layers, affine({2: weights(rng, 2, 5)}, bias(rng, 2)))
    region = Box(-np.ones(12), np.ones(12))
    bounds = mv.compute_bounds(net, region, KAPPA)
    value = mv.bound_rows(net, region, bounds, np.eye(2), KAPPA).value
    assert np.isfinite(value).all()
    assert (net.forward(region.sample(rng, 100)) >= value).all()


def test_neurons_that_read_nothing_are_searched_for_too() -> None:
    rng = np.random.default_rng(2)
    W = np.zeros((4, 4))
    W[0, 0] = 1.0
    for second in (np.zeros((4, 4)), W):
        layers = (affine({0: weights(rng, 4, 3)}, np.zeros(4)), affine({1: Dense(second)}, np.zeros(4)))
        net = Network(
            (3,),
            (2,),
            (*layers, affine({2: weights(rng, 3, 4)}, np.zeros(3))),
            affine({2: weights(rng, 2, 4), 3: weights(rng, 2, 3)}, bias(rng, 2)),
        )
        region = Box(-np.ones(3), np.ones(3))
        for method in SEARCHES.values():
            bounds = mv.compute_bounds(net, region, method)
            value = mv.bound_rows(net, region, bounds, np.eye(2), method).value
            assert (net.forward(region.sample(rng, 50)) >= value - 1e-12).all()


@pytest.mark.parametrize("kind", ("chain", "skip", "options"))
@pytest.mark.parametrize("name", SEARCHES)
def test_a_batch_gives_the_bounds_of_each_box_alone(name: str, kind: str) -> None:
    rng = np.random.default_rng(3)
    net = {**NETWORKS, **CONVOLUTIONS}[kind](rng)
    method = SEARCHES[name]
    if name.startswith("kappa"):
        method = replace(KAPPA, kappa_steps=0, layer_kappa_steps=0)  # batches leave them out
    if isinstance(method, mv.AlphaCrown):
        method = replace(method, ascent=Ascent(stall=0.0))  # rows of a batch go on together
    middle, radius = rng.uniform(0, 1, (4, net.n_inputs)), np.array([[0.0], [0.01], [0.1], [0.5]])
    boxes = BoxBatch(middle - radius, middle + radius)
    rows = rng.normal(size=(4, 2, net.n_outputs))
    crown = mv.compute_bounds(net, boxes, mv.Crown())
    together = mv.bound_rows(net, boxes, crown, rows, SEARCHES[name]).value
    for i in range(4):
        own = Bounds(tuple(np.array(l[i]) for l in crown.lower), tuple(np.array(u[i]) for u in crown.upper), "crown")
        alone = mv.bound_rows(net, boxes[i], own, rows[i], method).value
        assert np.allclose(together[i], alone, rtol=1e-3, atol=1e-3 * (1 + np.abs(alone).max()))
    refined = mv.compute_bounds(net, boxes, SEARCHES[name])
    for i in range(4):
        hidden = net.activations(boxes[i].sample(rng, 50))[0]
        for zhat, l, u in zip(hidden, refined.lower, refined.upper, strict=True):
            assert (zhat >= np.broadcast_to(l, (4, zhat.shape[1]))[i] - 1e-12).all()
            assert (zhat <= np.broadcast_to(u, (4, zhat.shape[1]))[i] + 1e-12).all()


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("first", (1e-20, 1e-10, 1.0, 1e10, 1e20, 1e40))
@pytest.mark.parametrize("second", (1e-20, 1.0, 1e20, 1e40))
def test_weights_of_any_size_are_searched_without_a_warning(name: str, first: float, second: float) -> None:
    rng = np.random.default_rng(4)
    for biased in (0.0, 1.0):
        net = mlp(rng, (3, 6, 6, 2), (first, second, 1.0))
        layers = tuple(affine(dict(part.blocks), biased * part.bias) for part in net.layers)
        net = Network((3,), (2,), layers, net.output)
        box = Box([-1.0, -1.0, 0.0], [1.0, 0.5, 0.0])
        bounds = mv.compute_bounds(net, box, SEARCHES[name])
        value = mv.bound_rows(net, box, bounds, np.eye(2), SEARCHES[name]).value
        y = net.forward(box.sample(rng, 100))
        scale = np.abs(y).max()
        assert np.isfinite(value).all() and (value <= y.min(axis=0) + 1e-9 * scale).all()
        boxes = BoxBatch(np.tile(box.lower, (2, 1)), np.tile(box.upper, (2, 1)))
        many = mv.bound_batch(net, boxes, np.eye(2), SEARCHES[name]).value
        assert np.isfinite(many).all() and (many <= y.min(axis=0) + 1e-9 * scale).all()


@pytest.mark.parametrize("name", SEARCHES)
def test_a_huge_weight_that_meets_zeros_only_is_harmless(name: str) -> None:
    rng = np.random.default_rng(5)
    net = mlp(rng, (3, 6, 6, 2))
    net.layers[0].blocks[0][1].matrix[:, 2] = 1e60  # type: ignore[attr-defined]
    box = Box([-1.0, -1.0, 0.0], [1.0, 0.5, 0.0])
    bounds = mv.compute_bounds(net, box, SEARCHES[name])
    value = mv.bound_rows(net, box, bounds, np.eye(2), SEARCHES[name]).value
    assert (value <= net.forward(box.sample(rng, 100)).min(axis=0)).all() and (value > -100).all()


def test_searches_in_float32_semantics_enclose_and_never_loosen() -> None:
    rng = np.random.default_rng(6)
    net = mlp(rng, (3, 8, 8, 2))
    region = Box(-np.ones(3), np.ones(3))
    x = region.sample(rng, 300).astype(np.float32)
    crown = mv.compute_bounds(net, region, mv.Crown(), semantics=Float32())
    for method in SEARCHES.values():
        bounds = mv.compute_bounds(net, region, method, semantics=Float32())
        assert (bounds.lower[0] < mv.compute_bounds(net, region, method).lower[0]).all()
        z = x
        for k, layer in enumerate((*net.layers, net.output)):
            W = layer.blocks[0][1].dense().astype(np.float32)
            zhat = z @ W.T + layer.bias.astype(np.float32)
            assert zhat.dtype == np.float32
            if k < len(net.layers):
                assert (zhat >= bounds.lower[k]).all() and (zhat <= bounds.upper[k]).all()
            z = np.maximum(zhat, 0)
        value = mv.bound_rows(net, region, bounds, np.eye(2), method, semantics=Float32()).value
        assert (zhat >= value).all()
        start = method.closed_form() if isinstance(method, SlopeSearch) else method
        for known in (bounds, crown):
            value = mv.bound_rows(net, region, known, np.eye(2), method, semantics=Float32()).value
            assert (value >= mv.bound_rows(net, region, known, np.eye(2), start, semantics=Float32()).value).all()


@pytest.mark.parametrize("kind", ("skip", "residual"))
@pytest.mark.parametrize("name", SEARCHES)
def test_torch_searches_to_about_the_same_bounds(name: str, kind: str) -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    net = {**NETWORKS, **CONVOLUTIONS}[kind](rng)
    for region in (Box(np.zeros(net.n_inputs), np.full(net.n_inputs, 0.1)), L1Ball(np.full(net.n_inputs, 0.5), 0.2)):
        bounds = mv.compute_bounds(net, region, mv.Crown())
        rows = rng.normal(size=(2, net.n_outputs))
        one, other = (mv.bound_rows(net, region, bounds, rows, SEARCHES[name], device=d).value for d in (None, "cpu"))
        assert np.allclose(one, other, rtol=1e-2, atol=1e-2)
        twin = mv.compute_bounds(net, region, SEARCHES[name], device="cpu")
        hidden = net.activations(region.sample(rng, 50))[0]
        for zhat, l, u in zip(hidden, twin.lower, twin.upper, strict=True):
            assert (zhat >= l - 1e-12).all() and (zhat <= u + 1e-12).all()


def test_small_budgets_give_nearly_the_same_bounds() -> None:
    rng = np.random.default_rng(8)
    net = mlp(rng, (4, 16, 16, 16, 2))
    region = Box(-np.ones(4), np.ones(4))
    for name, method in SEARCHES.items():
        whole = mv.compute_bounds(net, region, method)
        parts = mv.compute_bounds(net, region, replace(method, budget_bytes=20_000))  # type: ignore[type-var]
        for a, b in zip((*whole.lower, *whole.upper), (*parts.lower, *parts.upper), strict=True):
            assert np.allclose(a, b, rtol=0.05, atol=0.05), name


def test_the_gradient_of_alpha_is_the_slope_of_g() -> None:
    rng = np.random.default_rng(9)
    net = mlp(rng, (3, 5, 5, 2), (1e15, 1.0, 1.0))  # too large for float32: differences are taken in float64
    problem = bound_layers(make_problem(net, Box(-np.ones(3), np.ones(3)), None), mv.Crown())
    small = small_problem(problem, 3, folded_rows(problem, 3, np.eye(2)))
    climb = Climb.of(small, 3, np.eye(2))
    alpha = [rng.uniform(0.2, 0.8, size=a.shape) for a in climb.start()]
    value, lam, x = climb.evaluate(alpha, climb.rows, climb.constant)
    slopes = climb.gradient(alpha, lam, x)
    checked = 0
    for j, part in enumerate(alpha):
        for i in np.ndindex(*part.shape):
            moved = [a.copy() for a in alpha]
            moved[j][i] += 1e-7
            there = climb.evaluate(moved, climb.rows, climb.constant)[0]
            assert (there - value)[i[0]] == pytest.approx(slopes[j][i] * 1e-7, rel=1e-3, abs=1e-8 * abs(value[i[0]]))
            checked += bool(slopes[j][i])
    assert checked


def test_the_gradient_of_planes_and_shares_is_the_slope_of_g() -> None:
    rng = np.random.default_rng(9)
    net = mlp(rng, (3, 5, 5, 2), (1e15, 1.0, 1.0))  # as above
    problem = bound_layers(make_problem(net, Box(-np.ones(3), np.ones(3)), None), mv.Crown())
    climb = Climb.of(small_problem(problem, 3, folded_rows(problem, 3, np.eye(2))), 3, np.eye(2))
    inputs = [planes.plane_inputs(climb.problem, j, climb.ends, climb.rows) for j in range(len(climb.layers))]
    alpha = [rng.uniform(0.2, 0.8, size=a.shape) for a in climb.start()]
    share = [rng.uniform(0.2, 0.8, size=a.shape) for a in alpha]
    gamma = [rng.uniform(0.2, 0.8, size=(2, *part.weights.shape)) for part in inputs]
    value, seen = planes._evaluate(climb, inputs, alpha, gamma, share)
    slopes = planes._gradient(climb, inputs, alpha, gamma, share, seen)
    sets = [alpha, gamma, share]
    for which, parts in enumerate(sets):
        checked = 0
        for j, part in enumerate(parts):
            for i in np.ndindex(*part.shape):
                moved = [[a.copy() for a in some] for some in sets]
                moved[which][j][i] += 1e-6
                there = planes._evaluate(climb, inputs, *moved)[0]
                expected, size = slopes[which][j][i] * 1e-6, abs(value[i[0]])
                assert (there - value)[i[0]] == pytest.approx(expected, rel=1e-3, abs=1e-10 * size)
                checked += abs(expected) > 1e-8 * size
        assert checked
    found = raise_planes(climb, ascend(climb, Ascent()), Ascent(steps=5))
    assert all(((g >= 0) & (g <= 1)).all() for g in (*found.gamma, *found.share))


@pytest.mark.parametrize(
    "options",
    ({"steps": -1}, {"layer_steps": -1}, {"kappa_steps": -1}, {"layer_kappa_steps": -1}, {"budget_bytes": 0}),
    ids=str,
)
def test_senseless_options_of_alpha_crown_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(mv.OptionError) as error:
        mv.AlphaCrown(**options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    (
        {"steps": -1},
        {"rate": 0.0},
        {"last_rate": 0.0},
        {"rate": 0.1, "last_rate": 0.2},
        {"stall": -0.1},
        {"rate": np.nan},
        {"stall": np.nan},
        {"rate": np.inf},
    ),
    ids=str,
)
def test_senseless_steps_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(mv.OptionError, match="Ascent"):
        Ascent(**options)  # type: ignore[arg-type]


def test_no_steps_leave_crown() -> None:
    rng = np.random.default_rng(10)
    net = mlp(rng, (3, 8, 8, 2))
    region = Box(-np.ones(3), np.ones(3))
    none = mv.AlphaCrown(steps=0, layer_steps=0)
    one, crown = mv.compute_bounds(net, region, none), mv.compute_bounds(net, region, mv.Crown())
    for a, b in zip((*one.lower, *one.upper), (*crown.lower, *crown.upper), strict=True):
        assert np.array_equal(a, b)
    a, b = (mv.bound_rows(net, region, crown, np.eye(2), m).value for m in (none, mv.Crown()))
    assert np.allclose(a, b, rtol=0, atol=1e-9) and (a >= b).all()


def test_a_network_without_hidden_layers_is_bounded_exactly() -> None:
    rng = np.random.default_rng(11)
    net = Network((3,), (2,), (), affine({0: weights(rng, 2, 3)}, bias(rng, 2)))
    region = Box(-np.ones(3), np.ones(3))
    bounds = mv.compute_bounds(net, region, KAPPA)
    assert bounds.lower == ()
    exact = net.output.bias - np.abs(net.output.blocks[0][1].dense()).sum(axis=1)
    for method in SEARCHES.values():
        assert np.allclose(mv.bound_rows(net, region, bounds, np.eye(2), method).value, exact, rtol=0, atol=1e-12)
        assert mv.bound_rows(net, region, bounds, np.zeros((0, 2)), method).value.shape == (0,)
