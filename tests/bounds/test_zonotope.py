"""Zonotopes: sound in exact arithmetic, equal to Fast-Lin's closed form, the same batched, chunked and on torch."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given

import milpverify as mv
from milpverify.bounds.compute import bound_layers, make_problem
from milpverify.bounds.method import BoundMethod
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.semantics import Float32
from milpverify.bounds.zonotope import Zonotope
from milpverify.network.exact import forward_exact
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import Dense
from milpverify.spec.batch import BoxBatch
from tests.cases import NETWORKS, affine, brute_force_minimum, seeds

# FastLin and Crown with intervals leave alone what is stable in *every* box, so only their pure forms have this law.
METHODS = {
    "interval": mv.Interval(),
    "zonotope": Zonotope(),
    "zonotope pure": Zonotope(intersect=False),
    "fastlin pure": mv.FastLin(intersect=False),
    "crown pure": mv.Crown(intersect=False),
}


def boxes(rng: np.random.Generator, count: int, n: int) -> BoxBatch:
    """Random boxes, some sides of zero width."""
    middle = rng.normal(size=(count, n))
    radius = rng.uniform(0.0, 1.0, (count, n)) * (rng.random((count, n)) > 0.2)
    return BoxBatch(middle - radius, middle + radius)


def deep(rng: np.random.Generator, widths: tuple[int, ...], scales: tuple[float, ...]) -> Network:
    """A chain of the given widths, the last one the output's, each layer's weights and bias multiplied by its scale."""
    layers, size = [], 1.0
    for k, (n, m, scale) in enumerate(zip(widths, widths[1:], scales, strict=False)):
        size *= scale
        matrix = scale * rng.normal(size=(m, n)) / np.sqrt(n)
        layers.append(affine({k: Dense(matrix)}, 0.3 * size * rng.normal(size=m)))
    return Network((widths[0],), (widths[-1],), tuple(layers[:-1]), layers[-1])


def exact_layers(net: Network, x: np.ndarray) -> list[tuple[Fraction, ...]]:
    """Every zhat_k and then y at x, exact."""
    maps: list[Affine] = [*net.layers, net.output]
    below = [Network(net.input_shape, (maps[k].size,), net.layers[:k], maps[k]) for k in range(len(maps))]
    return [forward_exact(part, x.tolist()) for part in below]


def everything(net: Network, region: BoxBatch | mv.Box, method: BoundMethod, rows: np.ndarray) -> list[np.ndarray]:
    """All bounds and the rows', in one list."""
    bounds = mv.compute_bounds(net, region, method)
    return [*bounds.lower, *bounds.upper, mv.bound_rows(net, region, bounds, rows, method).value]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("intersect", [True, False])
@given(seed=seeds)
def test_sampled_activations_are_contained(kind: str, intersect: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    batch, method = boxes(rng, 4, net.n_inputs), Zonotope(intersect=intersect)
    bounds, rows = mv.compute_bounds(net, batch, method), rng.normal(size=(3, net.n_outputs))
    value = mv.bound_rows(net, batch, bounds, rows, method).value
    hidden, y = net.activations(batch.sample(rng, 100))
    for zhat, l, u in zip(hidden, bounds.lower, bounds.upper, strict=True):
        assert (zhat >= l[:, None] - 1e-12).all() and (zhat <= u[:, None] + 1e-12).all()
    assert (y @ rows.T >= value[:, None] - 1e-12).all()


@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_rows_never_pass_the_exact_minimum(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    box = boxes(rng, 1, net.n_inputs)[0]
    row = rng.normal(size=net.n_outputs)
    value = mv.bound_rows(net, box, mv.compute_bounds(net, box, Zonotope()), row, Zonotope()).value
    assert value[0] <= brute_force_minimum(net, box, row) + 1e-7


@pytest.mark.parametrize("exponent", [-24, -8, 0, 8, 24])
@given(seed=seeds)
def test_bounds_enclose_exact_values_at_any_scale(exponent: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(min(exponent, 0), max(exponent, 0), 3)
    net = deep(rng, (3, 5, 4, 2), tuple(scales))
    width = 10.0 ** rng.uniform(-12, 0)  # thin boxes keep neurons stable: there the bounds are attained at corners
    middle = rng.normal(size=3)
    box = mv.Box(middle - width, middle + width)
    rows = rng.normal(size=(2, 2))
    methods = Zonotope(), Zonotope(intersect=False)
    proven = [mv.compute_bounds(net, box, method) for method in methods]
    values = [mv.bound_rows(net, box, b, rows, m).value for b, m in zip(proven, methods, strict=True)]
    for corner in np.array(np.meshgrid(*np.stack([box.lower, box.upper], axis=1))).reshape(3, -1).T:
        *hidden, y = exact_layers(net, corner)
        exact = [sum(Fraction(c) * v for c, v in zip(row, y, strict=True)) for row in rows]
        for bounds, value in zip(proven, values, strict=True):
            for zhat, l, u in zip(hidden, bounds.lower, bounds.upper, strict=True):
                assert all(Fraction(a) <= v <= Fraction(b) for a, v, b in zip(l, zhat, u, strict=True))
            assert all(Fraction(low) <= v for low, v in zip(value, exact, strict=True))


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e150])
def test_underflow_and_huge_values_stay_enclosed(scale: float) -> None:
    rng = np.random.default_rng(3)
    net = deep(rng, (2, 4, 4, 2), (scale, 1 / scale, 1.0))
    box = mv.Box(-np.ones(2), np.ones(2))
    bounds = mv.compute_bounds(net, box, Zonotope(intersect=False))
    for x in box.sample(rng, 20):
        for zhat, l, u in zip(exact_layers(net, x), bounds.lower, bounds.upper, strict=False):
            assert all(Fraction(a) <= v <= Fraction(b) for a, v, b in zip(l, zhat, u, strict=True))


def test_overflow_claims_nothing() -> None:
    net = deep(np.random.default_rng(0), (2, 4, 3, 2), (1e200, 1e200, 1.0))
    box = mv.Box(-np.ones(2), np.ones(2))
    bounds = mv.compute_bounds(net, box, Zonotope(intersect=False))
    assert np.isneginf(bounds.lower[1]).all() and np.isposinf(bounds.upper[1]).all()
    assert np.isneginf(mv.bound_rows(net, box, bounds, np.eye(2), Zonotope()).value).all()


@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_pure_zonotopes_are_pure_fastlin(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    box, rows = boxes(rng, 1, net.n_inputs)[0], rng.normal(size=(3, net.n_outputs))
    ours = everything(net, box, Zonotope(intersect=False), rows)
    for a, b in zip(ours, everything(net, box, mv.FastLin(intersect=False), rows), strict=True):
        assert np.allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_from_the_same_bounds_below_come_the_bounds_of_fastlin(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    box, rows = boxes(rng, 1, net.n_inputs)[0], rng.normal(size=(3, net.n_outputs))
    problem = make_problem(net, box, None)
    for k in range(1, len(net.layers) + 1):
        ours, theirs = Zonotope().layer(problem, k), mv.FastLin().layer(problem, k)
        l, u = mv.Interval().layer(problem, k)
        open_ = (l < 0) & (u > 0)
        for a, b in zip(ours, theirs, strict=True):
            assert np.allclose(a[open_], b[open_], rtol=0, atol=1e-9)
        problem = problem.with_layer(*theirs)
    a, b = Zonotope().rows(problem, rows), mv.FastLin(intersect=False).rows(problem, rows)
    assert np.allclose(a.value, b.value, rtol=0, atol=1e-9)
    wide = box.upper > box.lower
    assert np.allclose(a.input_lam[:, wide], b.input_lam[:, wide], rtol=0, atol=1e-9)


@given(seed=seeds)
def test_slopes_come_from_the_stored_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = deep(rng, (3, 8, 8, 8, 2), (1.5,) * 4)
    box, rows = boxes(rng, 1, 3)[0], rng.normal(size=(3, 2))
    bounds = mv.compute_bounds(net, box, mv.Crown())
    a, b = (mv.bound_rows(net, box, bounds, rows, m).value for m in (Zonotope(), mv.FastLin(intersect=False)))
    assert np.allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_a_batch_is_its_boxes_one_by_one(kind: str, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    batch, method = boxes(rng, 5, net.n_inputs), METHODS[name]
    rows = rng.normal(size=(2, net.n_outputs))
    bounds = mv.compute_bounds(net, batch, method)
    value = mv.bound_rows(net, batch, bounds, rows, method).value
    for i in range(5):
        alone = mv.compute_bounds(net, batch[i], method)
        for l, u, a, b in zip(bounds.lower, bounds.upper, alone.lower, alone.upper, strict=True):
            # Where intervals have u <= 0 a box alone needs no l; in a batch it may get one all the same.
            used = b > 0 if name == "zonotope" else np.ones(b.shape, dtype=bool)
            assert np.allclose(l[i][used], a[used], rtol=0, atol=1e-12)
            assert np.allclose(u[i][used], b[used], rtol=0, atol=1e-12)
        assert np.allclose(value[i], mv.bound_rows(net, batch[i], alone, rows, method).value, rtol=0, atol=1e-11)


@given(seed=seeds)
def test_rows_of_their_own_for_each_box(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["skip"](rng)
    batch = BoxBatch(*(side.reshape(2, 3, -1) for side in (lambda b: (b.lower, b.upper))(boxes(rng, 6, net.n_inputs))))
    bounds, rows = mv.compute_bounds(net, batch, Zonotope()), rng.normal(size=(2, 3, 2, net.n_outputs))
    bound = mv.bound_rows(net, batch, bounds, rows, Zonotope())
    assert bound.value.shape == (2, 3, 2) and bound.input_lam.shape == (2, 3, 2, net.n_inputs)
    for i, j in np.ndindex(2, 3):
        alone = mv.compute_bounds(net, batch[i, j], Zonotope())
        expected = mv.bound_rows(net, batch[i, j], alone, rows[i, j], Zonotope())
        assert np.allclose(bound.value[i, j], expected.value, rtol=0, atol=1e-12)
        assert np.allclose(bound.input_lam[i, j], expected.input_lam, rtol=0, atol=1e-12)


def test_nodes_of_a_search_share_one_region() -> None:
    rng = np.random.default_rng(8)
    net, box = deep(rng, (3, 6, 6, 2), (1.5,) * 3), mv.Box(-np.ones(3), np.ones(3))
    bounds = mv.compute_bounds(net, box, Zonotope())
    lower, upper = (tuple(np.stack([part] * 2) for part in side) for side in (bounds.lower, bounds.upper))
    neuron = int(np.flatnonzero(bounds.unstable(2))[0])
    lower[1][0, neuron], upper[1][1, neuron] = 0.0, 0.0  # one node has it active, the other inactive
    both = Zonotope().rows(DualProblem.of(net, box, mv.Bounds(lower, upper)), np.eye(2)).value
    for i in range(2):
        node = mv.Bounds(tuple(l[i] for l in lower), tuple(u[i] for u in upper))
        alone = Zonotope().rows(DualProblem.of(net, box, node), np.eye(2)).value
        assert np.allclose(both[i], alone, rtol=0, atol=1e-12)
    assert not np.allclose(both[0], both[1], rtol=0, atol=1e-3)


def test_problems_that_part_above_a_layer_do_not_mix_their_forms() -> None:
    rng = np.random.default_rng(8)
    net, box, method = deep(rng, (3, 6, 6, 6, 2), (1.5,) * 4), mv.Box(-np.ones(3), np.ones(3)), Zonotope()
    start = make_problem(net, box, None)
    start = start.with_layer(*method.layer(start, 1))
    l, u = method.layer(start, 2)
    for split in (l, np.maximum(l, -0.25), l):
        problem, fresh = start.with_layer(split, u), make_problem(net, box, None)
        fresh = fresh.with_layer(start.lower[0], start.upper[0]).with_layer(split, u)
        for a, b in zip(method.layer(problem, 3), method.layer(fresh, 3), strict=True):
            assert np.array_equal(a, b)


@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_torch_gives_what_numpy_gives(kind: str, seed: int) -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    batch, rows = boxes(rng, 3, net.n_inputs), rng.normal(size=(3, 2, net.n_outputs))
    ours, theirs = mv.compute_bounds(net, batch, Zonotope()), mv.compute_bounds(net, batch, Zonotope(), device="cpu")
    for a, b in zip((*ours.lower, *ours.upper), (*theirs.lower, *theirs.upper), strict=True):
        assert np.allclose(a, b, rtol=0, atol=1e-12)
    for C in (rows, rows[0]):
        a = mv.bound_rows(net, batch, ours, C, Zonotope())
        b = mv.bound_rows(net, batch, ours, C, Zonotope(), device="cpu")
        assert np.allclose(a.value, b.value, rtol=0, atol=1e-12)
        assert np.allclose(a.input_lam, b.input_lam, rtol=0, atol=1e-12)


def test_float32_executions_are_contained() -> None:
    rng = np.random.default_rng(5)
    net = deep(rng, (3, 20, 20, 2), (2.0,) * 3)
    net = net.map_arrays(lambda a: a.astype(np.float32).astype(np.float64))
    box = mv.Box(np.full(3, 0.5), np.full(3, 0.5))
    bounds = mv.compute_bounds(net, box, Zonotope(), semantics=Float32())
    low, high = (
        sign * mv.bound_rows(net, box, bounds, sign * np.eye(2), Zonotope(), semantics=Float32()).value
        for sign in (1.0, -1.0)
    )
    hidden, y = net.as_float32().activations(np.full(3, 0.5, dtype=np.float32))
    for zhat, l, u in zip((*hidden, y), (*bounds.lower, low), (*bounds.upper, high), strict=True):
        assert (l <= zhat).all() and (zhat <= u).all()
    real = mv.compute_bounds(net, box, Zonotope())
    assert all((a > b).all() for a, b in zip(real.lower, bounds.lower, strict=True))


def assert_exactly_inside(problem: DualProblem, value: np.ndarray, net: Network, x: np.ndarray) -> None:
    """The hidden layers of `net` at x lie in the problem's bounds, and its outputs y, -y not below `value`."""
    *hidden, y = exact_layers(net, x)
    for zhat, l, u in zip(hidden, problem.lower, problem.upper, strict=True):
        assert all(Fraction(a) <= v <= Fraction(b) for a, v, b in zip(l, zhat, u, strict=True))
    assert all(Fraction(low) <= v for low, v in zip(value, (*y, *(-v for v in y)), strict=True))


@pytest.mark.parametrize("intersect", [True, False])
@given(seed=seeds)
def test_what_a_bias_was_rounded_by_is_enclosed(intersect: bool, seed: int) -> None:
    rng, method = np.random.default_rng(seed), Zonotope(intersect=intersect)
    plain = deep(rng, (3, 6, 6, 2), (1.0,) * 3)
    # Next to 2^56 float64 sees multiples of 8 only, so that all of b is in `bias_error`; the exact bias is b.
    layers = []
    for layer in (*plain.layers, plain.output):
        large = np.full(layer.size, 2.0**56)
        layers.append(Affine(layer.blocks, ((None, large), *layer.bias_terms, (None, -large)), layer.size))
    net, x = Network((3,), (2,), tuple(layers[:-1]), layers[-1]), rng.normal(size=3)
    assert all((layer.bias == 0).all() and (layer.bias_error > 1).all() for layer in layers)
    problem = bound_layers(make_problem(net, mv.Box(x, x), None), method)
    assert_exactly_inside(problem, method.rows(problem, np.vstack([np.eye(2), -np.eye(2)])).value, net, x)


@pytest.mark.parametrize("intersect", [True, False])
@given(seed=seeds)
def test_what_condensing_was_rounded_by_is_enclosed(intersect: bool, seed: int) -> None:
    rng, method = np.random.default_rng(seed), Zonotope(intersect=intersect)
    net, x = deep(rng, (3, 6, 6, 2), (1.0,) * 3), rng.normal(size=3)
    maps = [affine(dict(a.blocks), rng.integers(-4, 5, a.size) / 8) for a in (*net.layers, net.output)]
    slack = tuple(rng.integers(0, 3, a.size) / 8 for a in maps)  # eighths: biases moved by them are exact
    problem = bound_layers(DualProblem(tuple(maps), mv.Box(x, x), slack=slack), method)
    value = method.rows(problem, np.vstack([np.eye(2), -np.eye(2)])).value
    for sign in (*np.eye(3), -np.ones(3), np.ones(3)):  # one layer moved, or all
        moved = [affine(dict(a.blocks), a.bias + s * e) for a, s, e in zip(maps, sign, slack, strict=True)]
        assert_exactly_inside(problem, value, Network((3,), (2,), tuple(moved[:-1]), moved[-1]), x)


@pytest.mark.parametrize("budget", [20_000, 60_000, 200_000])
def test_a_small_budget_changes_nothing_but_the_work(budget: int) -> None:
    rng = np.random.default_rng(2)
    net, batch, rows = deep(rng, (3, 12, 12, 12, 2), (1.5,) * 4), boxes(rng, 40, 3), rng.normal(size=(2, 2))
    for intersect in (False, True):
        small, large = (
            everything(net, batch, Zonotope(intersect=intersect, budget_bytes=b), rows) for b in (budget, 2**28)
        )
        # Below an interval's u <= 0 no l is needed; which boxes get one nevertheless depends on their chunk.
        used = [u > 0 for u in large[3:6]] if intersect else [np.ones(u.shape, dtype=bool) for u in large[3:6]]
        for a, b, mask in zip(small[:6], large[:6], used + used, strict=True):
            assert np.allclose(a[mask], b[mask], rtol=0, atol=1e-12)
        assert np.allclose(small[6], large[6], rtol=0, atol=1e-12)


def test_a_budget_too_small_for_one_box_is_refused() -> None:
    net = deep(np.random.default_rng(2), (3, 12, 12, 2), (1.5,) * 3)
    with pytest.raises(mv.OptionError, match="generators of one box in layer 1; give at least"):
        mv.compute_bounds(net, mv.Box(-np.ones(3), np.ones(3)), Zonotope(intersect=False, budget_bytes=500))
    with pytest.raises(mv.OptionError, match="must be positive"):
        Zonotope(budget_bytes=0)


@pytest.mark.parametrize("region", [mv.L2Ball(np.zeros(2), 1.0), mv.Box(np.zeros(2), np.ones(2)).with_cuts([1, 1], 1)])
def test_regions_that_are_no_boxes_are_refused(region: mv.Region) -> None:
    net = deep(np.random.default_rng(2), (2, 4, 2), (1.0, 1.0))
    with pytest.raises(mv.BoundsError, match=r"Zonotope: expected a box.*Use Crown"):
        mv.compute_bounds(net, region, Zonotope())


def test_the_minimiser_of_lambda_attains_the_bound_of_an_affine_network() -> None:
    rng = np.random.default_rng(4)
    net = deep(rng, (3, 6, 2), (1.0, 1.0))
    shifted = affine(dict(net.layers[0].blocks), np.full(6, 10.0))  # every neuron is active
    net = Network((3,), (2,), (shifted,), net.output)
    box = mv.Box(-np.ones(3), np.ones(3))
    problem = bound_layers(make_problem(net, box, None), Zonotope())
    bound = Zonotope().rows(problem, np.eye(2))
    x = box.minimiser(bound.input_lam)
    assert np.allclose(net.forward(x)[np.arange(2), np.arange(2)], bound.value, rtol=0, atol=1e-12)
    assert bound.nu == () and not bound.solver_trusted


def test_no_boxes_are_a_legal_batch() -> None:
    net = deep(np.random.default_rng(2), (2, 4, 2), (1.0, 1.0))
    empty = BoxBatch(np.zeros((0, 2)), np.zeros((0, 2)))
    bounds = mv.compute_bounds(net, empty, Zonotope(intersect=False))
    assert mv.bound_rows(net, empty, bounds, np.eye(2), Zonotope()).value.shape == (0, 2)
