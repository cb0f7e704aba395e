"""Laws of pruned and condensed problems: the bounds of the problem as it stands, on every route and to every digit."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from milpverify.bounds import local, pruned
from milpverify.bounds.backward import Crown, FastLin, crown_rule, fastlin_rule
from milpverify.bounds.compute import bound_layers, make_problem
from milpverify.bounds.dual import Neurons, dual_bound, dual_range
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.pruned import live, pruned_problem
from milpverify.bounds.semantics import REAL, Float32, Semantics
from milpverify.bounds.small import folded_neurons, folded_rows, seen_problem, small_problem
from milpverify.errors import BoundsError
from milpverify.network.exact import forward_exact
from milpverify.network.graph import Network
from milpverify.network.operators import Dense, LinearOperator, Product
from milpverify.spec.regions import Box, BoxBatch, L1Ball, L2Ball, LinfBall
from tests.bounds.convolutions import CONVOLUTIONS, conv, unsettled
from tests.cases import NETWORKS, REGIONS, affine, bias, seeds, weights
from tests.tighten.reference import layer_as_output

KINDS = {**NETWORKS, **CONVOLUTIONS}


def bounded(net: Network, region: mv.Region, semantics: Semantics = REAL, device: str | None = None) -> DualProblem:
    """All layers bounded by CROWN, as it comes."""
    return bound_layers(make_problem(net, region, device, semantics), Crown())


def below(problem: DualProblem, k: int) -> DualProblem:
    """A fresh copy of the problem that bounds the layers below k only."""
    return DualProblem(
        problem.layers,
        problem.region,
        problem.lower[: k - 1],
        problem.upper[: k - 1],
        problem.like,
        problem.semantics,
    )


def close(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-9) -> bool:
    """Whether bounds agree to rounding."""
    return bool((np.abs(a - b) <= tolerance * (1.0 + np.abs(b))).all())


def inside(condensed: np.ndarray, whole: np.ndarray, semantics: Semantics) -> None:
    """Condensing adds the float32 slacks of several paths where the whole problem adds the paths first."""
    assert (condensed <= whole + 1e-9 * (1.0 + np.abs(whole))).all()
    assert close(condensed, whole, 1e-9 if semantics is REAL else 1e-4)


@pytest.mark.parametrize("semantics", (REAL, Float32()), ids=("real", "float32"))
@pytest.mark.parametrize("region_kind", ("box", "l1 clipped", "l2"))
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(seed=seeds)
def test_pruned_and_condensed_problems_have_the_bounds_of_the_whole(
    kind: str, region_kind: str, semantics: Semantics, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    net = KINDS[kind](rng)
    problem = bounded(net, REGIONS[region_kind](rng, net.n_inputs), semantics)
    for k in range(1, len(problem.layers) + 1):
        whole = below(problem, k)
        size = whole.affine(k).size
        index = np.flatnonzero(rng.random(size) < 0.5)
        unit = np.eye(size)[index]
        C = rng.normal(size=(3, size))
        expected = dual_bound(whole, k, np.concatenate([unit, -unit]), crown_rule)
        rows = dual_bound(whole, k, C, fastlin_rule)
        for dense in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pruned, "_dense_pays", lambda op, size, rows, dense=dense: dense)
                some = pruned_problem(below(problem, k), k, len(index), index)
                found = dual_bound(some, k, Neurons(), crown_rule)
                assert close(found.value, expected.value)
                assert all(a.shape == b.shape and close(a, b) for a, b in zip(found.nu, expected.nu, strict=True))
                other = dual_bound(pruned_problem(below(problem, k), k, 3), k, C, fastlin_rule)
                assert close(other.value, rows.value) and close(other.input_lam, rows.input_lam)
                small = small_problem(whole, k, folded_neurons(below(problem, k), k, index))
                inside(dual_bound(small, k, Neurons(), crown_rule).value, expected.value, semantics)
                small = small_problem(whole, k, folded_rows(below(problem, k), k, C))
                inside(dual_range(small, k, np.eye(3), fastlin_rule)[0], rows.value, semantics)


@pytest.mark.parametrize("region_kind", ("box", "l1 clipped"))
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(seed=seeds)
def test_what_some_neurons_read_bounds_them_as_the_whole_does(kind: str, region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = KINDS[kind](rng)
    problem = bounded(net, REGIONS[region_kind](rng, net.n_inputs))
    for k in range(1, len(problem.layers) + 1):
        whole = below(problem, k)
        small = small_problem(whole, k, folded_neurons(whole, k, np.arange(whole.affine(k).size)))
        index = rng.permutation(whole.affine(k).size)[:2]
        seen = seen_problem(small, index)
        expected = dual_bound(small, k, Neurons(), crown_rule).value.reshape(2, -1)[:, index].reshape(-1)
        assert close(dual_bound(seen, k, Neurons(), crown_rule).value, expected)
        assert seen.affine(k).size == len(index) and seen.n_inputs <= small.n_inputs


def test_a_neuron_of_a_convolution_reads_its_window_only() -> None:
    rng = np.random.default_rng(0)
    a = conv(rng, (1, 8, 8), 2, (3, 3))
    b = conv(rng, a.out_shape, 2, (2, 2))
    layers = tuple(affine({k: op}, np.zeros(op.out_size)) for k, op in enumerate((a, b)))
    net = Network((1, 8, 8), (1,), layers, affine({2: weights(rng, 1, b.out_size)}, np.zeros(1)))
    problem = bounded(net, LinfBall(np.zeros(64), 1.0))  # every neuron is unstable
    small = small_problem(below(problem, 2), 2, folded_neurons(below(problem, 2), 2, np.arange(b.out_size)))
    seen = seen_problem(small, np.array([b.out_size - 1]))
    assert seen.affine(1).size == 2 * 4
    assert seen.n_inputs == 4 * 4 + 1  # and the first input, which is always kept


def exact_range(net: Network, points: np.ndarray) -> tuple[list[list[Fraction]], list[list[Fraction]]]:
    """Per layer, output last, the exact least and largest values at some points."""
    parts = [layer_as_output(net, k) for k in range(1, len(net.layers) + 2)]
    values = [[forward_exact(part, x) for x in points.tolist()] for part in parts]
    least = [[min(column) for column in zip(*rows, strict=True)] for rows in values]
    most = [[max(column) for column in zip(*rows, strict=True)] for rows in values]
    return least, most


@pytest.mark.parametrize("region_kind", ("box", "l1", "l2"))
@pytest.mark.parametrize("kind", ("skip", *CONVOLUTIONS))
@settings(max_examples=6)
@given(seed=seeds)
def test_regions_as_narrow_as_rounding_are_bounded_rightly_on_every_route(
    kind: str, region_kind: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    net = KINDS[kind](rng)
    x = rng.uniform(0.1, 0.9, net.n_inputs)
    net = unsettled(rng, net, x)
    eps = float(rng.choice([0.0, 1e-17, 1e-15]))
    points = np.stack([x, x * 1.0])
    region: mv.Region = LinfBall(x, eps)
    if region_kind == "l1":
        region = L1Ball(x, eps)
    elif region_kind == "l2":
        region = L2Ball(x, eps)
    else:
        points = np.concatenate([points, np.where(rng.random((2, len(x))) < 0.5, region.lower, region.upper)])
    least, most = exact_range(net, points)
    for method in (Crown(), FastLin(intersect=False), mv.AlphaCrown(steps=3, layer_steps=3)):
        problem = bound_layers(make_problem(net, region, None), method)
        n_rows = np.eye(net.n_outputs)
        low = [*problem.lower, method.rows(problem, n_rows).value]
        high = [*problem.upper, -method.rows(problem, -n_rows).value]
        for k in range(len(low)):
            assert all(Fraction(float(a)) <= b for a, b in zip(low[k], least[k], strict=True))
            assert all(Fraction(float(a)) >= b for a, b in zip(high[k], most[k], strict=True))


def test_a_neuron_bounded_by_zero_on_both_sides_stays_and_an_inactive_one_goes() -> None:
    rng = np.random.default_rng(0)
    net = Network(
        (2,), (2,), (affine({0: weights(rng, 4, 2)}, bias(rng, 4)),), affine({1: weights(rng, 2, 4)}, bias(rng, 2))
    )
    l, u = np.array([-1.0, 0.0, -1.0, -2.0]), np.array([1.0, 0.0, 0.0, -1.0])
    problem = make_problem(net, Box([-1.0] * 2, [1.0] * 2), None).with_layer(l, u)
    assert live(problem, 1).tolist() == [0, 1]
    small = pruned_problem(problem, 2, 2)
    assert small.affine(1).size == 2 and small.affine(2).size == 2
    rows = np.eye(2)
    assert close(dual_bound(small, 2, rows, crown_rule).value, dual_bound(problem, 2, rows, crown_rule).value)


@pytest.mark.parametrize("kind", ("skip", *CONVOLUTIONS))
@pytest.mark.parametrize("method", (Crown(), FastLin(), mv.AlphaCrown(steps=3, layer_steps=3), mv.FastLinStep()))
def test_a_network_without_live_neurons_is_its_last_bias(kind: str, method: mv.BoundMethod) -> None:
    rng = np.random.default_rng(3)
    net = KINDS[kind](rng)
    layers = tuple(affine(dict(layer.blocks), np.full(layer.size, -100.0)) for layer in net.layers)
    output = affine({s: op for s, op in net.output.blocks if s > 0}, net.output.bias)
    net = Network(net.input_shape, net.output_shape, layers, output)
    region = Box(-np.ones(net.n_inputs), np.ones(net.n_inputs))
    bounds = mv.compute_bounds(net, region, method)
    assert sum(bounds.n_unstable) == 0 and all((u < 0).all() for u in bounds.upper)
    eye = np.eye(net.n_outputs)
    low = mv.bound_rows(net, region, bounds, eye, method).value
    high = -mv.bound_rows(net, region, bounds, -eye, method).value
    assert (low <= net.output.bias).all() and (net.output.bias <= high).all() and (high - low < 1e-10).all()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4)
@given(seed=seeds)
def test_torch_prunes_and_condenses_to_the_same_bounds(kind: str, seed: int) -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    net = KINDS[kind](rng)
    region = REGIONS["l2"](rng, net.n_inputs)
    one, twin = bounded(net, region), bounded(net, region, device="cpu")
    for k in range(1, len(one.layers) + 1):
        assert k == len(one.layers) or close(one.lower[k - 1], twin.lower[k - 1])
        same = DualProblem(twin.layers, region, one.lower[: k - 1], one.upper[: k - 1], twin.like)
        size = one.affine(k).size
        index, C = np.arange(0, size, 2), rng.normal(size=(2, size))
        for many in (1, 1000):  # few rows leave convolutions as they are, many do not
            values = [
                dual_bound(pruned_problem(p, k, many, index), k, Neurons(), crown_rule).value
                for p in (below(one, k), same)
            ]
            assert close(*values)
        values = [
            dual_bound(small_problem(p, k, folded_rows(p, k, C)), k, np.eye(2), crown_rule).value
            for p in (below(one, k), same)
        ]
        assert close(*values)


def test_neurons_may_be_asked_for_in_any_order() -> None:
    rng = np.random.default_rng(1)
    net = CONVOLUTIONS["options"](rng)
    problem = below(bounded(net, Box(-np.ones(72), np.ones(72))), 3)
    size = problem.affine(3).size
    order = rng.permutation(size)
    straight = dual_bound(problem, 3, np.eye(size), crown_rule).value
    mixed = dual_bound(pruned_problem(problem, 3, size, order), 3, Neurons(both=False), crown_rule).value
    assert close(mixed, straight[order])
    assert not close(mixed, straight)


def test_bounds_of_one_copy_leave_another_one_alone() -> None:
    rng = np.random.default_rng(2)
    net = NETWORKS["skip"](rng)
    problem = make_problem(net, Box(-np.ones(2), np.ones(2)), None)
    l, u = np.array([-1.0, -2.0, 0.5]), np.array([2.0, -0.5, 1.0])
    for first, second in (((l, u), (l - 1, u + 1)), ((l - 1, u + 1), (l, u))):
        one, two = problem.with_layer(*first), problem.with_layer(*second)
        one = one.with_layer(np.full(3, -3.0), np.full(3, 3.0))
        pruned_problem(one, 3, 2)  # fills what the copies share
        folded_rows(one, 3, np.eye(2))
        two = two.with_layer(np.full(3, -4.0), np.full(3, 1.0))
        fresh = DualProblem(two.layers, two.region, two.lower, two.upper)
        for route in (lambda p: pruned_problem(p, 3, 2), lambda p: small_problem(p, 3, folded_rows(p, 3, np.eye(2)))):
            values = [dual_bound(route(p), 3, np.eye(2), crown_rule).value for p in (two, fresh)]
            assert np.array_equal(*values)


def test_batches_are_refused_in_one_line() -> None:
    rng = np.random.default_rng(0)
    net = NETWORKS["chain"](rng)
    n = net.n_inputs
    boxes = make_problem(net, BoxBatch(np.zeros((2, n)), np.ones((2, n))), None)
    nodes = make_problem(net, Box(np.zeros(n), np.ones(n)), None)
    nodes = nodes.with_layer(-np.ones((2, net.sizes[0])), np.ones((2, net.sizes[0])))
    for problem, k in ((boxes, 1), (nodes, 2)):
        with pytest.raises(BoundsError, match="pruned_problem: one region") as error:
            pruned_problem(problem, k, 1)
        assert "\n" not in str(error.value)


def test_wide_stable_layers_shrink_to_what_is_live() -> None:
    rng = np.random.default_rng(5)
    W = rng.normal(size=(50, 3))
    b = np.where(np.arange(50) < 45, -100.0, 0.1)
    first = affine({0: Dense(W)}, b)
    second = affine({1: weights(rng, 40, 50)}, np.zeros(40))
    net = Network((3,), (2,), (first, second), affine({2: weights(rng, 2, 40)}, np.zeros(2)))
    small = pruned_problem(bounded(net, Box(-np.ones(3), np.ones(3))), 3, 2)
    assert small.affine(1).size == 5 and small.affine(2).blocks[0][1].in_size == 5


@pytest.mark.parametrize(
    "method", (Crown(), FastLin(), mv.AlphaCrown(steps=2, layer_steps=2)), ids=("crown", "fastlin", "alpha")
)
@pytest.mark.parametrize("windows", (False, True), ids=("pruned", "windows"))
def test_lazy_products_that_cancel_keep_their_rounding_when_multiplied_out(
    windows: bool, method: mv.BoundMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "WORTHWHILE", 0.0)
    rng = np.random.default_rng(12)
    for _ in range(5):
        # Entries of A B are about 1, those of |A| |B| about 1e16: what multiplying out rounds is as large as they are.
        a, b = 1e8 * rng.normal(size=(16, 16)), 1e8 * rng.normal(size=(16, 16))
        lazy = Product((Dense(np.hstack([a, -a])), Dense(np.vstack([b, b + rng.normal(size=b.shape)]))))
        first = affine({0: weights(rng, 16, 16)}, np.where(np.arange(16) < 4, -100.0, rng.normal(size=16)))
        top: LinearOperator = conv(rng, (1, 4, 4), 2, (2, 2)) if windows else weights(rng, 5, 16)
        layers = (first, affine({1: lazy}, bias(rng, 16)), affine({2: top}, bias(rng, top.out_size)))
        net = Network((16,), (2,), layers, affine({3: weights(rng, 2, top.out_size)}, np.zeros(2)))
        x = rng.uniform(-1, 1, 16)
        least, most = exact_range(net, x[None])
        # Bounds of the layers below as narrow as can be: each layer's own rounding is all that counts.
        problem = make_problem(net, Box(x, x), None)
        for k in range(1, 5):
            assert windows == (local.fields(problem, k) is not None) or k != 3
            low = np.nextafter(np.array([float(v) for v in least[k - 1]]), -np.inf)
            high = np.nextafter(np.array([float(v) for v in most[k - 1]]), np.inf)
            wide = np.abs(low) + 1e20
            if k == 4:
                l, u = method.rows(problem, np.eye(2)).value, -method.rows(problem, -np.eye(2)).value
            else:
                l, u = method.refine(problem, k, -wide, wide)
            assert all(Fraction(float(p)) <= q for p, q in zip(l, least[k - 1], strict=True))
            assert all(Fraction(float(p)) >= q for p, q in zip(u, most[k - 1], strict=True))
            problem = problem.with_layer(low, high)
