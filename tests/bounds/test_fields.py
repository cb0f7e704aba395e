"""Laws of receptive fields: neurons bounded in their windows have the bounds that the whole network gives them."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from milpverify.bounds import local
from milpverify.bounds.backward import Backward, Crown, FastLin
from milpverify.bounds.compute import bound_layers, make_problem
from milpverify.bounds.dual import Neurons, dual_bound
from milpverify.bounds.local import fields
from milpverify.bounds.problem import DualProblem, InputSet
from milpverify.bounds.semantics import REAL, Float32, Semantics
from milpverify.network.graph import Network
from milpverify.network.operators import Scaling
from milpverify.spec.regions import Box, BoxBatch, L1Ball, L2Ball
from tests.bounds.convolutions import CONVOLUTIONS, conv
from tests.cases import affine, bias, seeds, weights

N = 72
METHODS: dict[str, Backward] = {
    "fastlin": FastLin(),
    "fastlin pure": FastLin(intersect=False),
    "crown": Crown(),
    "crown pure": Crown(intersect=False),
}


def boxes(rng: np.random.Generator) -> BoxBatch:
    """Three boxes, of which one is a point and one is wide: their neurons differ in phase."""
    middle, radius = rng.uniform(0, 1, (3, N)), np.array([[0.0], [0.05], [0.5]])
    return BoxBatch(middle - radius, middle + radius)


REGIONS = {
    "box": lambda rng: Box(np.full(N, -0.1), rng.uniform(0, 0.3, N)),
    "l1": lambda rng: L1Ball(rng.uniform(0, 1, N), 0.7, clip=(0, 1)),
    "l2": lambda rng: L2Ball(rng.uniform(0, 1, N), 0.3),
    "batch": boxes,
}


@pytest.fixture(autouse=True)
def always_worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the networks are, their windows are used."""
    monkeypatch.setattr(local, "WORTHWHILE", 0.0)


def whole(problem: DualProblem, k: int, method: Backward) -> tuple[np.ndarray, np.ndarray]:
    """The dual bounds of layer k from walks through the whole network."""
    below = DualProblem(
        problem.layers,
        problem.region,
        problem.lower[: k - 1],
        problem.upper[: k - 1],
        problem.like,
        problem.semantics,
    )
    n = problem.affine(k).size
    value = dual_bound(below, k, Neurons(), type(method).rule).value
    return value[..., :n], -value[..., n:]


def assert_windows_equal_the_whole(
    net: Network, region: InputSet, method: Backward, semantics: Semantics = REAL, device: str | None = None
) -> int:
    """Compare layer by layer; returns how many layers have windows."""
    problem, used = make_problem(net, region, device, semantics), 0
    for k in range(1, len(net.layers) + 1):
        l, u = method.layer(problem, k)
        low, high = whole(problem, k, method)
        l, u = (np.array(np.broadcast_to(part, low.shape)) for part in (l, u))
        if not method.intersect and fields(problem, k) is not None:
            used += 1
            assert np.allclose(l, low, rtol=1e-9, atol=1e-9) and np.allclose(u, high, rtol=1e-9, atol=1e-9)
        else:
            assert (l >= low - 1e-9)[(l < 0) & (u > 0)].all() and (u <= high + 1e-9)[(l < 0) & (u > 0)].all()
        problem = problem.with_layer(l, u)
    return used


@pytest.mark.parametrize("semantics", (REAL, Float32()), ids=("real", "float32"))
@pytest.mark.parametrize("region_kind", REGIONS)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
@settings(max_examples=3)
@given(seed=seeds)
def test_windows_give_the_bounds_of_the_whole_network(
    kind: str, name: str, region_kind: str, semantics: Semantics, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    net = CONVOLUTIONS[kind](rng)
    used = assert_windows_equal_the_whole(net, REGIONS[region_kind](rng), METHODS[name], semantics)
    assert used == ({"options": 2, "residual": 2, "sides": 1}[kind] if "pure" in name else 0)


@pytest.mark.parametrize("region_kind", REGIONS)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_windows_of_a_torch_network_give_the_bounds_of_the_whole(kind: str, region_kind: str) -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    net = CONVOLUTIONS[kind](rng)
    region = REGIONS[region_kind](rng)
    for name in ("fastlin pure", "crown pure"):
        assert assert_windows_equal_the_whole(net, region, METHODS[name], device="cpu")
        one, other = (mv.compute_bounds(net, region, METHODS[name], device=d) for d in (None, "cpu"))
        for a, b in zip((*one.lower, *one.upper), (*other.lower, *other.upper), strict=True):
            assert np.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("region_kind", ("box", "l2"))
@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("name", ("fastlin", "crown"))
def test_several_sets_of_bounds_over_one_region_equal_each_alone(name: str, kind: str, region_kind: str) -> None:
    rng = np.random.default_rng(6)
    net, method = CONVOLUTIONS[kind](rng), METHODS[name]
    region = REGIONS[region_kind](rng)
    root = bound_layers(make_problem(net, region, None), method)
    last = len(net.layers)
    cuts = []  # some unstable neurons decided, as in a search
    for _ in range(3):
        l, u = [a.copy() for a in root.lower[: last - 1]], [a.copy() for a in root.upper[: last - 1]]
        for a, b in zip(l, u, strict=True):
            some = np.flatnonzero((a < 0) & (b > 0) & (rng.random(len(a)) < 0.4))
            a[some[::2]], b[some[1::2]] = 0.0, 0.0
        cuts.append((l, u))
    wide, high = (np.tile(v, (3, 1)) for v in (root.lower[last - 1], root.upper[last - 1]))
    lower = tuple(np.stack(part) for part in zip(*(l for l, _ in cuts), strict=True))
    upper = tuple(np.stack(part) for part in zip(*(u for _, u in cuts), strict=True))
    problem = DualProblem(root.layers, region, lower, upper)
    assert fields(problem, last) is not None
    l, u = method.refine(problem, last, wide, high)
    for i, (low, up) in enumerate(cuts):
        one = DualProblem(root.layers, region, tuple(low), tuple(up))
        a, b = method.refine(one, last, wide[i], high[i])
        assert np.allclose(l[i], a, rtol=0, atol=1e-9) and np.allclose(u[i], b, rtol=0, atol=1e-9)
    assert (l > wide + 1e-6).any()


@pytest.mark.parametrize("region_kind", REGIONS)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_chunks_of_windows_do_not_change_bounds(kind: str, region_kind: str) -> None:
    rng = np.random.default_rng(7)
    net = CONVOLUTIONS[kind](rng)
    region = REGIONS[region_kind](rng)
    for method, small in ((Crown(), Crown(budget_bytes=2**19)), (FastLin(), FastLin(budget_bytes=2**18))):
        one, other = mv.compute_bounds(net, region, method), mv.compute_bounds(net, region, small)
        for a, b in zip((*one.lower, *one.upper), (*other.lower, *other.upper), strict=True):
            assert np.allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_networks_that_share_a_layer_keep_their_own_windows(name: str) -> None:
    rng = np.random.default_rng(8)
    shape, method = (1, 6, 6), METHODS[name]
    one, two = (conv(rng, shape, 4, (3, 3), padding=(1, 1, 1, 1)) for _ in range(2))
    shared = conv(rng, one.out_shape, 2, (3, 3))
    top = affine({1: shared}, bias(rng, shared.out_size))
    last = affine({2: weights(rng, 2, shared.out_size)}, bias(rng, 2))
    first, other = (affine({0: c}, bias(rng, c.out_size)) for c in (one, two))
    between = affine({1: Scaling(rng.normal(size=one.out_size))}, bias(rng, one.out_size))
    nets = [
        Network(shape, (2,), (first, top), last),
        Network(shape, (2,), (other, top), last),
        # The same layer one floor higher: what it reads is still layer 1.
        Network(shape, (2,), (first, between, top), affine({3: last.blocks[0][1]}, last.bias)),
    ]
    region = Box(np.full(36, -0.2), np.full(36, 0.2))
    for net in (*nets, *nets):
        assert_windows_equal_the_whole(net, region, method)


def test_windows_that_see_no_input_are_left_to_the_whole_network() -> None:
    rng = np.random.default_rng(9)
    c = conv(rng, (2, 6, 6), 2, (3, 3))
    layers = (affine({}, bias(rng, N)), affine({1: c}, bias(rng, c.out_size)))
    net = Network((2, 6, 6), (2,), layers, affine({2: weights(rng, 2, c.out_size)}, bias(rng, 2)))
    region = Box(-np.ones(N), np.ones(N))
    for method in METHODS.values():
        bounds = mv.compute_bounds(net, region, method)
        zhat = net.activations(np.zeros((1, N)))[0][1][0]
        assert (bounds.lower[1] <= zhat).all() and (zhat <= bounds.upper[1]).all()
        assert np.allclose(bounds.lower[1], zhat) and np.allclose(bounds.upper[1], zhat)


def test_windows_too_large_for_memory_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(10)
    region = REGIONS["box"](rng)
    net = CONVOLUTIONS["options"](rng)
    problem = bound_layers(make_problem(net, region, None), Crown())
    found = fields(problem, 3)
    assert found is not None
    entries = sum(op.matrix.size for window in found.windows for _, op in window.blocks)  # type: ignore[attr-defined]
    for largest, there in ((entries, True), (entries - 1, False), (10, False)):
        monkeypatch.setattr(local, "LARGEST_STACK", largest)
        local._KNOWN.clear()
        assert (fields(problem, 3) is not None) == there
        other = bound_layers(make_problem(net, region, None), Crown())
        assert np.allclose(other.lower[2], problem.lower[2], rtol=0, atol=1e-9)


def test_windows_are_forgotten_with_their_network() -> None:
    gc.collect()
    before = len(local._KNOWN)
    net = CONVOLUTIONS["residual"](np.random.default_rng(11))
    mv.compute_bounds(net, REGIONS["box"](np.random.default_rng(0)), Crown())
    assert len(local._KNOWN) > before
    del net
    gc.collect()
    assert len(local._KNOWN) == before
