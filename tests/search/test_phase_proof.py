"""Trees over phases as proofs: they cover the region, the exact checker accepts them, and nothing false is closed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import milpverify as mv
from milpverify.bounds.nodes import NodeProblem
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.small import folded_rows, small_problem
from milpverify.network.graph import Network
from milpverify.proof.certificate import Context, Layer
from milpverify.search.bounding import Ascending
from milpverify.search.phase_proof import Closed, PhaseProver, preorder
from tests.cases import REGIONS, seeds
from tests.search.proof_cases import KINDS, TIGHT, above, around, checked, least_slack, random_case

PROVERS = {
    "default": PhaseProver(),
    "no planes": PhaseProver(plane_steps=0),
    "one split a node, no ascents": PhaseProver(Ascending(batch=2, steps=0, chain=1, candidates=1), 0, 0),
}


def problem_of(net: Network, case: mv.Case) -> tuple[NodeProblem, mv.Bounds]:
    bounds = mv.compute_bounds(net, case.region, mv.Crown())
    problem, k = DualProblem.of(net, case.region, bounds), len(net.layers) + 1
    return NodeProblem.of(small_problem(problem, k, folded_rows(problem, k, case.unsafe.C)), case.unsafe.d), bounds


def context_of(closed: Closed, bounds: mv.Bounds) -> Context:
    tree, planes = closed.written(0)
    masks = [((l < 0) & (u > 0)).astype(np.uint8) for l, u in zip(bounds.lower, bounds.upper, strict=True)]
    return Context((tree,), tuple(Layer("crown", mask) for mask in masks), () if planes is None else (planes,))


def random_tree(rng: np.random.Generator, neurons: int, leaves: int) -> np.ndarray:
    """Phases of the leaves of a random tree, in random order."""
    phase = np.zeros((1, neurons), dtype=np.int8)
    while len(phase) < leaves:
        some = np.flatnonzero((phase == 0).any(axis=1))
        if not len(some):
            break
        leaf = int(rng.choice(some))
        neuron = int(rng.choice(np.flatnonzero(phase[leaf] == 0)))
        both = np.repeat(phase[leaf][None], 2, axis=0)
        both[:, neuron] = 1, -1
        phase = np.concatenate([np.delete(phase, leaf, axis=0), both])
    return rng.permutation(phase)


@settings(max_examples=100)
@given(seed=seeds, neurons=st.integers(1, 8), leaves=st.integers(1, 40))
def test_preorder_leads_to_every_leaf(seed: int, neurons: int, leaves: int) -> None:
    phase = random_tree(np.random.default_rng(seed), neurons, leaves)
    before = phase.copy()
    split, order = preorder(phase)
    np.testing.assert_array_equal(phase, before)
    waiting, reached = [np.zeros(neurons, dtype=np.int8)], []
    for neuron in split.tolist():
        here = waiting.pop()
        if neuron < 0:
            reached.append(here)
            continue
        assert here[neuron] == 0
        for side in (-1, 1):  # the active side comes first
            child = here.copy()
            child[neuron] = side
            waiting.append(child)
    assert not waiting
    np.testing.assert_array_equal(np.array(reached), phase[order])
    assert sorted(order.tolist()) == list(range(len(phase)))


@pytest.mark.parametrize("prover", PROVERS)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=3)
@given(seed=seeds)
def test_what_is_true_is_proved_and_nothing_else(kind: str, prover: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = KINDS[kind](rng)
    region = around(REGIONS["box"](rng, net.n_inputs))
    case = random_case(rng, net, region, int(rng.integers(1, 4)))
    least = least_slack(net, case)
    true, false = above(case, least - TIGHT), above(case, least + 1e-9 * (1.0 + abs(least)))
    problem, bounds = problem_of(net, true)
    closed = PROVERS[prover].close(problem)
    assert closed is not None
    assert closed.lower > 0
    result = checked(net, true, context_of(closed, bounds))
    assert result.accepted, result.reason
    assert PROVERS[prover].close(problem_of(net, false)[0]) is None
    assert not checked(net, false, context_of(closed, bounds)).accepted


@settings(max_examples=4)
@given(seed=seeds)
def test_every_input_follows_some_leaf(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = KINDS["chain"](rng)
    case = random_case(rng, net, around(REGIONS["box"](rng, net.n_inputs)), 1)
    problem, _ = problem_of(net, above(case, least_slack(net, case) - TIGHT))
    closed = replace(PROVERS["no planes"], root_steps=0).close(problem)
    assert closed is not None
    zhat = problem.pattern(case.region.sample(rng, 500))
    follows = (closed.phase == 0) | (closed.phase * zhat[:, None, :] >= 0)
    assert follows.all(axis=2).any(axis=1).all()


def hard_problem() -> NodeProblem:
    """One whose root stays open."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        net = KINDS["chain"](rng)
        case = random_case(rng, net, around(REGIONS["box"](rng, net.n_inputs)), 1)
        problem, _ = problem_of(net, above(case, least_slack(net, case) - TIGHT))
        closed = PROVERS["no planes"].close(problem)
        if closed is not None and len(closed) > 3:
            return problem
    raise AssertionError("no such network")


def test_limits_end_the_search() -> None:
    problem, prover, told = hard_problem(), PROVERS["no planes"], []
    assert prover.close(problem, tell=lambda nodes, open_: told.append((nodes, open_))) is not None
    assert told
    assert all(nodes >= 1 and open_ >= 1 for nodes, open_ in told)
    assert replace(prover, node_limit=1).close(problem) is None
    assert prover.close(problem, lambda: 0.0) is None
