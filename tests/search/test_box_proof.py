"""Trees over boxes as proofs: floats foresee the checker's integers, and only what is true is closed."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from milpverify.network.graph import Network
from milpverify.proof.certificate import Certificate, Context, Group, Layer, LeafTree
from milpverify.proof.exact import check_exact, input_boxes
from milpverify.search.box_columns import BoxBounder, ColumnBoxes
from milpverify.search.box_proof import BoxProver, BoxTree, one_leaf
from milpverify.search.leaf_trees import FEW as FEW_TREES
from milpverify.search.leaf_trees import LeafTrees, Prospects
from milpverify.spec.box import Box
from tests.cases import REGIONS, affine, bias, seeds, weights
from tests.search.proof_cases import (
    KINDS,
    above,
    around,
    as_property,
    checked,
    least_slack,
    random_case,
)

FEW = settings(max_examples=4)
BITS = 44
PROVERS = {
    "default": BoxProver(),
    "no trees": BoxProver(LeafTrees(neurons=0), batch=3),
    "small trees": BoxProver(LeafTrees(leaves=2, first_steps=0, steps=0, candidates=1), batch=1),
}


def forever() -> float:
    return math.inf


def deep(rng: np.random.Generator) -> Network:
    """Three hidden layers, so that walks pass several."""
    layers = [affine({0: weights(rng, 6, 2)}, bias(rng, 6))]
    layers += [affine({k: weights(rng, 6, 6)}, bias(rng, 6)) for k in (1, 2)]
    return Network((2,), (2,), tuple(layers), affine({3: weights(rng, 2, 6)}, bias(rng, 2)))


NETS = {**KINDS, "deep": deep}


def random_boxes(rng: np.random.Generator, n: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of all sizes, some sides of no width."""
    middle = rng.normal(size=(count, n))
    radius = 10.0 ** rng.uniform(-3, 0.5, (count, 1)) * rng.random((count, n)) * (rng.random((count, n)) > 0.2)
    return middle - radius, middle + radius


def layers_of(boxes: ColumnBoxes, b: int) -> tuple[Layer, ...]:
    return tuple(Layer("crown", layer.listed[b].astype(np.uint8)) for layer in boxes.layers)


@pytest.mark.parametrize("kind", NETS)
@FEW
@given(seed=seeds)
def test_bounds_are_the_checkers(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETS[kind](rng)
    low, high = random_boxes(rng, net.n_inputs, 5)
    case = random_case(rng, net, Box(low[0], high[0]), 1)
    boxes = BoxBounder(net, case.unsafe.C, case.unsafe.d).bound(low, high)
    values, _ = boxes.row_bounds()
    for b in range(5):
        one = mv.Case(Box(low[b], high[b]), case.unsafe)
        trace = checked(net, one, Context((LeafTree(),)), BITS).trace[0]
        for layer, lower, upper in zip(boxes.layers, trace.lower, trace.upper, strict=True):
            index = np.flatnonzero(layer.listed[b])
            for side, exact in ((layer.l, lower), (layer.u, upper)):
                expected = np.array(exact, dtype=np.float64)[index] / 2.0**BITS
                np.testing.assert_allclose(side[b, : len(index)], expected, rtol=1e-9, atol=1e-9)
            stable = ~layer.listed[b]
            assert all((np.array(lower)[stable] >= 0) | (np.array(upper)[stable] <= 0))
        assert trace.values[0][0] is not None
        np.testing.assert_allclose(values[b, 0], trace.values[0][0] / 4.0**BITS, rtol=1e-9, atol=1e-9)
        few = boxes.some(np.array([b, 0, b]))  # less filling, the same bounds
        np.testing.assert_allclose(few.row_bounds()[0][[0, 2], 0], values[b, 0], rtol=1e-12, atol=1e-12)
        assert few.valid.sum(axis=1).tolist() == boxes.n_unstable[[b, 0, b]].tolist()


def test_large_operators_are_not_made_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    net = NETS["convolution"](rng)
    low, high = random_boxes(rng, net.n_inputs, 3)
    rows = np.eye(net.n_outputs), np.zeros(net.n_outputs)
    dense = BoxBounder(net, *rows).bound(low, high).row_bounds()[0]
    monkeypatch.setattr("milpverify.search.box_columns.DENSE", 0)
    np.testing.assert_allclose(BoxBounder(net, *rows).bound(low, high).row_bounds()[0], dense, rtol=1e-12)


@pytest.mark.parametrize("kind", ["chain", "skip", "deep"])
@FEW
@given(seed=seeds)
def test_trees_in_boxes_are_accepted(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETS[kind](rng)
    low, high = random_boxes(rng, net.n_inputs, 6)
    m = int(rng.integers(1, 4))
    case = random_case(rng, net, Box(low[0], high[0]), m)
    loose = BoxBounder(net, case.unsafe.C, case.unsafe.d).bound(low, high).row_bounds()[0].max(axis=1)
    case = above(case, float(np.median(loose)) + 0.05)  # some are closed at once, some by a tree, some not at all
    boxes = BoxBounder(net, case.unsafe.C, case.unsafe.d).bound(low, high)
    trees = LeafTrees(leaves=8).grow(boxes, np.ones((6, m)), Prospects())
    for b, tree in enumerate(trees):
        if tree is not None:
            assert tree.lower > 0
            one = mv.Case(Box(low[b], high[b]), case.unsafe)
            result = checked(net, one, Context((tree.written(),), layers_of(boxes, b)))
            assert result.accepted, result.reason
            assert result.n_leaves == len(tree) <= 8
        else:
            assert m > 1 or boxes.row_bounds()[0][b, 0] <= 0


def test_far_boxes_are_given_up_only_after_experience() -> None:
    prospects = Prospects()
    prospects.learn("plain", np.ones(FEW_TREES - 1))
    assert prospects.limit("plain") == math.inf
    prospects.learn("plain", np.ones(1))
    assert 1.0 < prospects.limit("plain") < math.inf
    assert prospects.limit("raised") == math.inf


@pytest.mark.parametrize("prover", PROVERS)
@pytest.mark.parametrize("kind", ["chain", "skip", "no hidden layer", "all stable"])
@settings(max_examples=3)
@given(seed=seeds)
def test_what_is_true_is_proved_and_nothing_else(kind: str, prover: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = KINDS[kind](rng)
    region = around(REGIONS["box"](rng, net.n_inputs))
    cases = [random_case(rng, net, region, m) for m in (1, 2)]
    least = [least_slack(net, case) for case in cases]
    true = [above(case, value - 0.1) for case, value in zip(cases, least, strict=True)]
    tree = BoxTree(net, true, PROVERS[prover])
    assert tree.grow(forever)
    split, at, leaves, contexts = tree.written()
    assert len(leaves) == len(contexts) == (split < 0).sum()
    parts = (split, at) if len(split) > 1 else ()
    certificate = Certificate(BITS, (Group((0, 1), contexts, *parts),))
    result = check_exact(certificate, net, as_property(net, *true))
    assert result.accepted, result.reason
    false = [above(cases[0], least[0] + 1e-9 * (1.0 + abs(least[0]))), true[1]]
    limited = BoxProver(PROVERS[prover].trees, PROVERS[prover].batch, most=60)
    assert not BoxTree(net, false, limited).grow(forever)
    assert not check_exact(certificate, net, as_property(net, *false)).accepted


@cache
def hard_case() -> tuple[mv.Case, Network]:
    """One that takes several boxes."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        net = KINDS["chain"](rng)
        case = random_case(rng, net, Box(-np.ones(net.n_inputs), np.ones(net.n_inputs)), 1)
        case = above(case, least_slack(net, case) - 0.02)
        tree = BoxTree(net, [case], PROVERS["no trees"])
        if tree.grow(forever) and len(tree.written()[2]) > 5:
            return case, net
    raise AssertionError("no such network")


def hard_tree(prover: BoxProver = PROVERS["no trees"]) -> tuple[BoxTree, mv.Case, Network]:
    case, net = hard_case()
    return BoxTree(net, [case], prover), case, net


def test_leaves_cover_the_region() -> None:
    tree, case, _ = hard_tree()
    assert tree.grow(forever)
    split, at, _, contexts = tree.written()
    sides = ([int(v) << BITS for v in side] for side in (case.region.lower, case.region.upper))
    boxes = np.array(input_boxes(Group((0,), contexts, split, at), *sides, BITS, ""), dtype=np.float64) / 2.0**BITS
    x = case.region.sample(np.random.default_rng(0), 1000)
    assert ((boxes[:, 0, None] <= x) & (x <= boxes[:, 1, None])).all(axis=2).any(axis=0).all()
    np.testing.assert_allclose((boxes[:, 1] - boxes[:, 0]).prod(axis=1).sum(), 2.0 ** x.shape[1])  # nor do they overlap


def test_refused_boxes_are_split_and_closed_again() -> None:
    tree, case, net = hard_tree()
    assert tree.grow(forever)
    before = tree.written()
    assert tree.reopen(before[2][[0, 2]])
    assert len(tree.open) == 4
    assert tree.grow(forever)
    split, at, leaves, contexts = tree.written()
    assert len(leaves) >= len(before[2]) + 2
    assert not np.isin(before[2][[0, 2]], leaves).any()
    certificate = Certificate(BITS, (Group((0,), contexts, split, at),))
    assert check_exact(certificate, net, as_property(net, case)).accepted


def test_limits_end_the_search() -> None:
    told: list[tuple[int, int]] = []
    assert hard_tree()[0].grow(forever, lambda nodes, open_: told.append((nodes, open_)))
    assert told[0] == (1, 1)
    assert not hard_tree()[0].grow(lambda: 0.0)
    assert not hard_tree(BoxProver(LeafTrees(neurons=0), most=3))[0].grow(forever)


def test_boxes_that_floats_cannot_split_stay_open() -> None:
    net = KINDS["chain"](np.random.default_rng(3))
    point = Box(np.ones(net.n_inputs), np.ones(net.n_inputs))
    y = net.forward(np.ones(net.n_inputs))
    C = np.eye(net.n_outputs)[:1]
    assert not BoxTree(net, [mv.Case(point, mv.Polyhedron(C, C @ y + 1.0))], BoxProver()).grow(forever)
    assert BoxTree(net, [mv.Case(point, mv.Polyhedron(C, C @ y - 1.0))], BoxProver()).grow(forever)


def test_one_leaf_names_its_row() -> None:
    assert one_leaf(1, 0).mu is None
    mu = one_leaf(3, 1).mu
    assert mu is not None
    assert mu.tolist() == [[0.0, 1.0, 0.0]]
