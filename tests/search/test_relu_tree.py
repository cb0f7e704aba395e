"""The tree over ReLU phases and what is built on it: its answers agree with brute force, and brackets always hold."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from milpverify.bounds.method import BoundMethod
from milpverify.bounds.node_parts import Multipliers
from milpverify.bounds.nodes import NodeProblem
from milpverify.network.convolution import Conv2d
from milpverify.network.graph import Network
from milpverify.network.operators import Dense
from milpverify.proof.evidence import Grade, Holds
from milpverify.search import relu_tree
from milpverify.search.bounding import Ascending, Programs
from milpverify.search.branch_and_bound import BranchAndBound
from milpverify.search.branching import Chains, choose
from milpverify.search.domain import Nodes, Pool
from milpverify.search.milp import MILP
from milpverify.search.portfolio import Portfolio
from milpverify.search.question import Answer, CaseAnswer, Question, Search, Steps
from milpverify.search.relu_splitting import ReluSplitting
from milpverify.search.relu_tree import ReluTree
from tests.cases import NETWORKS, POLYHEDRAL, REGIONS, affine, bias, brute_force_slack, seeds, weights
from tests.search.test_input_tree import ask, random_cases

FEW = settings(max_examples=2)
ASCENTS = ReluSplitting(programs=None, plane_steps=0)
SEARCHES: dict[str, Search] = {
    "ascents": ASCENTS,
    "ascents with planes": ReluSplitting(programs=None, plane_steps=10, root_steps=5, refresh=2),
    "ascents, programs at leaves": ReluSplitting(race=False, plane_steps=0, ascents=Ascending(batch=2, steps=1)),
    "programs": ReluSplitting(ascents=None),
    "race": ReluSplitting(plane_steps=10),
    "one split a node": replace(ASCENTS, ascents=Ascending(chain=1)),
    "no refresh, one candidate": replace(ASCENTS, refresh=0, ascents=Ascending(candidates=1)),
    "branch and bound": BranchAndBound(inputs=None, first_nodes=2, attack=None),
    "rounds": BranchAndBound(inputs=None, first_nodes=0, attack=None, closer=None, patience_s=0.0, neuron_nodes=8),
    "portfolio": Portfolio(BranchAndBound(inputs=None), first_turn_s=0.02),
}
GAP = 0.01


def small_convolution(rng: np.random.Generator) -> Network:
    """Two channels' worth of a 1x2x2 image, with a skip from the input to the output."""
    conv = Conv2d(rng.normal(size=(2, 1, 2, 2)), (1, 2, 2), padding=(0, 0, 0, 0))
    first = affine({0: conv}, bias(rng, conv.out_size))
    second = affine({1: weights(rng, 3, conv.out_size)}, bias(rng, 3))
    last = affine({0: weights(rng, 2, 4), 2: weights(rng, 2, 3)}, bias(rng, 2))
    return Network((1, 2, 2), (2,), (first, second), last)


def no_hidden_layer(rng: np.random.Generator) -> Network:
    return Network((2,), (3,), (), affine({0: weights(rng, 3, 2)}, bias(rng, 3)))


def all_stable(rng: np.random.Generator) -> Network:
    """Neurons that are active or inactive wherever the regions of the tests are."""
    first = affine({0: weights(rng, 3, 2)}, np.array([50.0, -50.0, 50.0]))
    return Network((2,), (2,), (first,), affine({1: weights(rng, 2, 3)}, bias(rng, 2)))


KINDS: dict[str, Callable[[np.random.Generator], Network]] = {
    "chain": NETWORKS["chain"],
    "skip": NETWORKS["skip"],
    "convolution": small_convolution,
    "no hidden layer": no_hidden_layer,
    "all stable": all_stable,
}


def least_slacks(net: Network, cases: tuple[mv.Case, ...]) -> np.ndarray:
    """The truth, case by case."""
    return np.array([brute_force_slack(net, case.region, case.unsafe.C, case.unsafe.d) for case in cases])


def assert_bracketed(question: Question, answer: Answer, truth: np.ndarray) -> None:
    """Nothing is claimed that brute force contradicts."""
    lower = np.array([case.lower for case in answer.cases])
    assert not np.isnan(lower).any()
    if question.gap is None:
        assert (lower <= truth + 1e-6).all()
        assert not any(case.holds for case, least in zip(answer.cases, truth, strict=True) if least < -1e-6)
    else:
        assert (lower <= np.maximum(truth, question.best) + 1e-6).all()  # a program says no more than its cut-off
        assert not any(case.holds for case in answer.cases)
    assert lower.min() <= truth.min() + 1e-6
    assert question.best >= truth.min() - 1e-6


def assert_decided(question: Question, answer: Answer, truth: np.ndarray, leaves_open: bool) -> None:
    assert_bracketed(question, answer, truth)
    if truth.min() > 1e-4:
        for case in answer.cases:
            assert (case.holds and case.lower > 0 and not case.reason) or (
                leaves_open and case.reason == relu_tree.STUCK
            )
    elif truth.min() < -1e-4 and not leaves_open:
        assert question.decided and question.best_x is not None
    for case in answer.cases:
        assert not case.timed_out


def assert_minimised(question: Question, answer: Answer, truth: np.ndarray, leaves_open: bool) -> None:
    """Ascents alone may leave leaves open, and say so."""
    assert_bracketed(question, answer, truth)
    closed = question.best - min(case.lower for case in answer.cases) <= GAP + 1e-9
    assert closed or (leaves_open and any(case.reason == relu_tree.STUCK for case in answer.cases))


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(seed=seeds)
def test_answers_agree_with_brute_force(kind: str, search: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = KINDS[kind](rng)
    region = REGIONS[str(rng.choice(POLYHEDRAL))](rng, net.n_inputs)
    cases = random_cases(rng, net, region)
    truth = least_slacks(net, cases)
    chosen = SEARCHES[search]
    leaves_open = isinstance(chosen, ReluSplitting) and chosen.programs is None
    question = ask(net, cases)
    assert_decided(question, chosen.run(question), truth, leaves_open)
    question = ask(net, cases, gap=GAP)
    assert_minimised(question, chosen.run(question), truth, leaves_open)


@pytest.mark.parametrize("region_kind", ["l2", "l2 clipped"])
@pytest.mark.parametrize("search", ["ascents", "race", "branch and bound"])
@FEW
@given(seed=seeds)
def test_no_sample_of_a_round_region_is_below_the_bracket(search: str, region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["chain"](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    cases = random_cases(rng, net, region)
    question = ask(net, cases, gap=GAP)
    answer = SEARCHES[search].run(question)
    y = np.array([net.forward(x) for x in region.sample(rng, 300)])
    for case, found in zip(cases, answer.cases, strict=True):
        assert found.lower <= (y @ case.unsafe.C.T - case.unsafe.d).max(axis=1).min() + 1e-9
    assert question.best - min(case.lower for case in answer.cases) <= GAP + 1e-9


@pytest.mark.parametrize("search", SEARCHES)
def test_a_tie_never_holds(search: str) -> None:
    """relu(x) + relu(-x) is 0 at x = 0 and nowhere less: its least slack is exactly 0, so it is reached there."""
    first = affine({0: Dense(np.array([[1.0], [-1.0]]))}, np.zeros(2))
    net = Network((1,), (1,), (first,), affine({1: Dense(np.ones((1, 2)))}, np.zeros(1)))
    region = mv.Box(np.array([-1.0]), np.array([1.0]))
    question = ask(net, (mv.Case(region, mv.Polyhedron(np.ones((1, 1)), np.zeros(1))),), limit_s=2.0)
    answer = SEARCHES[search].run(question)
    assert not answer.cases[0].holds and answer.cases[0].lower <= 0.0
    assert question.decided or answer.cases[0].reason


def wide(rng: np.random.Generator) -> tuple[Network, tuple[mv.Case, ...]]:
    """A network with enough unstable neurons that a tree takes some hundred nodes."""
    layers = (affine({0: weights(rng, 12, 5)}, bias(rng, 12)), affine({1: weights(rng, 12, 12)}, bias(rng, 12)))
    net = Network((5,), (3,), layers, affine({2: weights(rng, 3, 12)}, bias(rng, 3)))
    region = mv.Box(-np.ones(5), np.ones(5))
    rows = [rng.normal(size=(m, 3)) for m in (1, 2)]
    return net, tuple(mv.Case(region, mv.Polyhedron(C, np.zeros(len(C))), str(len(C))) for C in rows)


def moved(cases: tuple[mv.Case, ...], by: np.ndarray) -> tuple[mv.Case, ...]:
    """The cases with right-hand sides larger by so much: slacks smaller by it."""
    return tuple(
        mv.Case(case.region, mv.Polyhedron(case.unsafe.C, case.unsafe.d + b))
        for case, b in zip(cases, by.tolist(), strict=True)
    )


@pytest.fixture(scope="module")
def hard() -> tuple[Network, tuple[mv.Case, ...], np.ndarray]:
    """A wide network, two cases, and their least slacks to 1e-6 by MILP."""
    net, cases = wide(np.random.default_rng(5))
    truth = []
    for case in cases:
        question = ask(net, (case,), gap=1e-6, limit_s=60.0)
        MILP(gap=1e-6).run(question)
        truth.append(question.best)
    return net, cases, np.array(truth)


Hard = tuple[Network, tuple[mv.Case, ...], np.ndarray]


@pytest.mark.parametrize("limit_s", [0.0, 0.05])
@pytest.mark.parametrize("gap", [None, 1e-4])
@pytest.mark.parametrize("search", SEARCHES)
def test_brackets_hold_whenever_time_runs_out(search: str, gap: float | None, limit_s: float, hard: Hard) -> None:
    net, cases, truth = hard
    question = ask(net, cases, gap=gap, limit_s=limit_s)
    answer = SEARCHES[search].run(question)
    assert_bracketed(question, answer, truth)
    for case in answer.cases:
        assert not (case.timed_out and case.holds)


@pytest.mark.parametrize("search", ["ascents", "programs", "race"])
@pytest.mark.parametrize("node_limit", [0, 1, 50])
def test_brackets_hold_when_the_limit_of_nodes_is_reached(search: str, node_limit: int, hard: Hard) -> None:
    net, cases, truth = hard
    chosen = SEARCHES[search]
    assert isinstance(chosen, ReluSplitting)
    question = ask(net, cases, gap=1e-5)
    answer = replace(chosen, node_limit=node_limit).run(question)
    assert_bracketed(question, answer, truth)
    lower = min(case.lower for case in answer.cases)
    closed = question.best - lower <= 1e-5
    assert closed or any(case.reason for case in answer.cases)
    assert not any(case.timed_out for case in answer.cases)


def test_a_tree_of_ascents_takes_the_same_nodes_again(hard: Hard) -> None:
    net, cases, _ = hard
    found = []
    for _ in range(2):
        question = ask(net, cases, gap=1e-3, limit_s=60.0)
        answer = replace(ASCENTS, node_limit=300).run(question)
        found.append((answer.nodes, [case.lower for case in answer.cases], question.best))
    assert found[0] == found[1] and found[0][0] >= 300


@FEW
@given(seed=seeds)
def test_a_tree_without_memory_goes_deepest_first_and_is_right(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["skip"](rng)
    cases = random_cases(rng, net, mv.Box(-np.ones(2), np.ones(2)))
    truth = least_slacks(net, cases)
    question = ask(net, cases, gap=GAP)
    way = Ascending(batch=1, steps=1), Programs()
    tree = ReluTree(question, *way, plane_steps=0, root_steps=1, refresh=8, budget_bytes=1)
    for _ in tree.grow():
        assert (tree.lower() <= np.maximum(truth, question.best) + 1e-9).all()
    assert tree._pool.deepest_first or tree.count <= 4
    assert tree.n_open == 0 and question.best - tree.lower().min() <= GAP


def test_the_pool_hands_out_the_lowest_and_then_the_deepest() -> None:
    def nodes(lower: list[float], depth: list[float]) -> Nodes:
        n, one = len(lower), np.zeros((len(lower), 1))
        return Nodes(one, one, one, one, one, one, one, np.zeros(n, dtype=int), np.array(lower), np.array(depth))

    some = nodes([3.0, 1.0, 2.0, 0.5], [1.0, 2.0, 3.0, 0.0])
    pool = Pool(some, 10**6)
    pool.push(some)
    assert pool.pop(2).lower.tolist() == [0.5, 1.0] and len(pool) == 2
    assert pool.lower(1)[0] == 0.5  # handed out, but nothing has come of it yet
    pool.release()
    assert pool.lower(1)[0] == 2.0
    pool = Pool(some, 1)
    pool.push(some[:1])
    assert not pool.deepest_first
    pool.push(some[1:])
    assert pool.deepest_first and pool.pop(4).depth.tolist() == [3.0, 2.0, 1.0, 0.0]
    pool.release()
    many = nodes(list(range(1000)), [0.0] * 1000)
    pool.push(many)
    assert sorted(pool.all().lower.tolist()) == list(range(1000))


class StopError(Exception):
    """Stands for an interrupt."""


def interruptions() -> Iterator[tuple[object, str]]:
    """Calls that an interrupt may cut short, before or after they did their work."""
    yield NodeProblem, "claim"
    yield NodeProblem, "ascend"
    yield NodeProblem, "refreshed"
    yield ReluTree, "_split"
    yield ReluTree, "_take_in"
    yield ReluTree, "_still_open"
    yield Pool, "push"
    yield Pool, "pop"
    yield Pool, "release"
    yield heapq, "heappush"
    yield heapq, "heappop"


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("owner", "name"), list(interruptions()), ids=lambda v: v if isinstance(v, str) else "")
def test_brackets_hold_after_an_interrupt_anywhere(owner: object, name: str, after: bool, hard: Hard) -> None:
    """The tree is cut short at the n-th call, for many n: what it says then is true, of every case."""
    net, cases, truth = hard
    original = getattr(owner, name)
    for count in (1, 2, 5, 20):
        question = ask(net, cases, gap=0.02)
        tree = ReluTree(question, Ascending(batch=4), None, plane_steps=0, root_steps=5, refresh=8, budget_bytes=10**9)
        left = [count]

        def cut(*args: object, left: list[int] = left) -> object:
            left[0] -= 1
            if left[0] == 0 and not after:
                raise StopError
            done = original(*args)
            if left[0] == 0:
                raise StopError
            return done

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, cut)
            with pytest.raises(StopError):
                for _ in tree.grow():
                    pass
        assert_bracketed(question, tree.answer(), truth)
        assert not any(case.holds for case in tree.answer().cases)
        assert (tree.lower() <= truth + 1e-6).all()


def test_before_it_grows_a_tree_claims_nothing_new(hard: Hard) -> None:
    net, cases, _ = hard
    question = ask(net, cases)
    tree = ReluTree(question, Ascending(), None, plane_steps=0, root_steps=5, refresh=8, budget_bytes=10**9)
    assert (tree.lower() == -np.inf).all()
    assert not any(case.holds for case in tree.answer().cases)


def test_settled_cases_are_left_alone_and_nothing_is_claimed_of_them(hard: Hard) -> None:
    net, cases, truth = hard
    cases = moved(cases, truth - 0.5)
    question = ask(net, cases)
    tree = ReluTree(question, Ascending(batch=1), None, plane_steps=0, root_steps=0, refresh=0, budget_bytes=10**9)
    steps = tree.grow()
    for _ in range(4):
        next(steps)
    question.settled[0] = True
    for _ in steps:
        pass
    answer = tree.answer()
    assert not answer.cases[0].holds and answer.cases[0].lower == -np.inf
    assert answer.cases[1].holds and answer.cases[1].lower <= 0.5 + 1e-6
    before = ask(net, cases)
    before.settled[1] = True
    answer = ASCENTS.run(before)
    assert answer.cases[0].holds and not answer.cases[1].holds and answer.cases[1].lower == -np.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["alpha", "beta", "theta", "mu"])
def test_multipliers_that_are_no_numbers_close_nothing(part: str, bad: float, hard: Hard) -> None:
    net, cases, truth = hard
    question = ask(net, cases)
    tree = ReluTree(question, Ascending(), None, plane_steps=2, root_steps=5, refresh=8, budget_bytes=10**9)
    problem, root = tree._problem, tree._root()
    parts = {name: getattr(root, name).copy() for name in ("alpha", "beta", "theta", "mu")}
    parts[part][:, 0] = bad
    l, u = root.l.copy(), root.u.copy()
    l[:, 0] = 0.0 if part == "beta" else l[:, 0]
    with np.errstate(all="ignore"):
        claimed = problem.claim(l, u, Multipliers(**parts))
    assert not np.isnan(claimed).any() and (claimed <= truth + 1e-6).all()


def faulty(name: str, patch: pytest.MonkeyPatch) -> None:
    """Plant one fault."""
    claim, still_open, children = NodeProblem.claim, ReluTree._still_open, Chains.children
    if name == "claims are too high":
        patch.setattr(NodeProblem, "claim", lambda *args: claim(*args) + 0.02)
    elif name == "nodes vanish":
        patch.setattr(ReluTree, "_still_open", lambda self, nodes: still_open(self, nodes)[: max(1, len(nodes) - 1)])
    elif name == "a child is forgotten":
        patch.setattr(Chains, "children", lambda *args: tuple(part[:-1] for part in children(*args)))
    else:
        refreshed = NodeProblem.refreshed
        patch.setattr(NodeProblem, "refreshed", lambda *args: tuple(v * 0.5 for v in refreshed(*args)))


@pytest.mark.parametrize(
    ("fault", "chain"),
    [("claims are too high", 12), ("nodes vanish", 12), ("a child is forgotten", 12), ("bounds are halved", 1)],
)  # a chain of 12 fixes all neurons of these networks: then no bounds of theirs are left to halve
def test_a_planted_fault_is_seen(fault: str, chain: int) -> None:
    """The comparison with brute force is no idle one."""
    search = replace(ASCENTS, ascents=Ascending(chain=chain))
    for seed in range(40):
        rng = np.random.default_rng(seed)
        net = NETWORKS["chain"](rng)
        cases = random_cases(rng, net, REGIONS["box"](rng, net.n_inputs))
        truth = least_slacks(net, cases)
        question = ask(net, cases, gap=1e-3)
        with pytest.MonkeyPatch.context() as patch:
            faulty(fault, patch)
            answer = search.run(question)
        lower = np.array([case.lower for case in answer.cases])
        beyond = bool((lower > np.maximum(truth, question.best) + 1e-6).any()) or lower.min() > truth.min() + 1e-6
        if beyond or question.best < truth.min() - 1e-6:
            return
    pytest.fail("nothing was seen")


@pytest.mark.parametrize("length", [1, 3, 12, 40])
def test_every_point_of_a_node_is_in_one_child(length: int, hard: Hard) -> None:
    question = ask(hard[0], hard[1])
    tree = ReluTree(question, Ascending(), None, plane_steps=0, root_steps=5, refresh=8, budget_bytes=10**9)
    problem, nodes = tree._problem, tree._root()
    few = nodes[:1].split(np.array([0]))[:1]
    few = replace(few, l=np.where(np.arange(problem.n_neurons) < 3, few.l, np.maximum(few.l, 0.0)))  # 2 free neurons
    x = question.region.sample(np.random.default_rng(0), 200)
    zhat = problem.pattern(x)
    for parents in (nodes, few, Nodes.concat([few, nodes])):
        children, lowest = choose(problem, parents, 6, length).children(parents)
        for case in np.unique(parents.case):
            mine = children[children.case == case]
            inside = [((zhat >= l) & (zhat <= u)).all(axis=1) for l, u in zip(mine.l, mine.u, strict=True)]
            before = parents[parents.case == case]
            above = [((zhat >= l) & (zhat <= u)).all(axis=1) for l, u in zip(before.l, before.u, strict=True)]
            np.testing.assert_array_equal(np.sum(inside, axis=0), np.sum(above, axis=0))
        assert len(children) > len(parents) and (children.depth > 0).all()
        fixed = (children.l >= 0) | (children.u <= 0)
        assert fixed[np.arange(len(children)), lowest].all()


class Told(BoundMethod):
    """Bounds on a solver's word: CROWN's, in truth."""

    solver_trusted = True
    name = "told"

    def layer(self, problem, k):  # type: ignore[no-untyped-def]
        return mv.Crown().layer(problem, k)

    def refine(self, problem, k, l, u):  # type: ignore[no-untyped-def]
        return mv.Crown().refine(problem, k, l, u)

    def rows(self, problem, rows):  # type: ignore[no-untyped-def]
        return replace(mv.Crown().rows(problem, rows), solver_trusted=True)


def test_what_rests_on_a_solver_says_so_and_clears_its_tolerance(hard: Hard) -> None:
    net, cases, truth = hard
    prop = mv.Property(moved(cases, truth * 0 + truth.min() - 0.2), 5, 3)
    tree = BranchAndBound(inputs=None, attack=None)
    for method in (
        mv.Verifier(Told(), None, tree), mv.Verifier(None, None, replace(tree, first_nodes=1, closer=Told())),
        mv.Verifier(None, None, MILP()), mv.Verifier(Told(), None, None),
    ):  # fmt: skip
        verdict = mv.verify(net, prop, method=method, time_limit_s=60)
        if method.search is not None:
            assert isinstance(verdict, Holds) and verdict.grade is Grade.SOLVER_TRUSTED
        assert not isinstance(verdict, Holds) or verdict.grade is Grade.SOLVER_TRUSTED
    verdict = mv.verify(net, prop, method=mv.Verifier(None, None, tree), time_limit_s=60)
    assert isinstance(verdict, Holds) and verdict.grade is Grade.BOUND_ROUNDED


def test_closer_bounds_on_a_solvers_word_cost_their_tolerance() -> None:
    """A slack of 1e-6 is more than rounding, and less than what a solver may be off by."""
    rng = np.random.default_rng(11)
    net, cases = wide(rng)
    question = ask(net, cases[:1], gap=1e-9, limit_s=60.0)
    MILP(gap=1e-9).run(question)
    case = mv.Case(cases[0].region, mv.Polyhedron(cases[0].unsafe.C, np.array([question.best - 2e-6])))
    search = BranchAndBound(inputs=None, first_nodes=1, attack=None)
    for closer, holds in ((None, True), (Told(), False)):
        question = ask(net, (case,), limit_s=20.0)
        answer = replace(search, closer=closer).run(question)
        assert (question.spare > 0) is (closer is not None)
        assert answer.cases[0].holds is holds


class Scripted(BranchAndBound):
    """A tree that ends with given answers."""

    def stepwise(self, question: Question) -> Steps:
        yield
        return Answer((CaseAnswer(0.4, True), CaseAnswer(-0.1, reason="stuck")))


def test_the_last_word_leaves_alone_what_the_tree_has_proven(hard: Hard) -> None:
    net, cases, truth = hard
    cases = moved(cases, truth - 0.5)
    question = ask(net, cases, limit_s=60.0)
    first, second = Portfolio(Scripted()).run(question).cases
    assert first.holds and not first.solver_trusted
    assert second.holds and second.solver_trusted and second.how == "milp"


def test_a_program_left_out_says_nothing_holds_where_nothing_was_to_be_decided(hard: Hard) -> None:
    net, cases, truth = hard
    question = ask(net, cases, gap=0.1)
    question.lower = truth - 0.01
    question.best = float(truth.min())
    answer = MILP().run(question)
    assert not any(case.holds for case in answer.cases)
