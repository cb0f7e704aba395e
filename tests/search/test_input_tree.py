"""Input splitting: its answers agree with brute force, and nothing it drops holds a point it should have kept."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from milpverify.bounds.box_forms import BoxBounds, LowerForms, bound_boxes
from milpverify.bounds.leaf_forms import leaf_forms
from milpverify.bounds.zonotope import Zonotope
from milpverify.errors import OptionError
from milpverify.network.exact import forward_exact
from milpverify.network.graph import Network
from milpverify.network.operators import Dense
from milpverify.search.boxes import Boxes, OpenBoxes, halves
from milpverify.search.clipping import clip_boxes
from milpverify.search.input_tree import InputSplitting
from milpverify.search.outside import outside
from milpverify.search.phases import PhaseSplits
from milpverify.search.question import Question, TreeProgress
from milpverify.search.rows import Rows
from milpverify.spec.batch import BoxBatch
from milpverify.spec.rounding import round_fractions
from milpverify.tasks.margin import measured
from tests.cases import NETWORKS, REGIONS, affine, brute_force_slack, seeds
from tests.paths import need

FEW = settings(max_examples=4)
BARE = InputSplitting(attack=None, samples=0, steps=0)  # what bounds alone find
# The convolution reads nine inputs: too many to be split in a test.
QUESTIONS = [(kind, region) for kind in ("chain", "skip") for region in ("box", "l1 clipped")]
SEARCHES = {
    "default": InputSplitting(),
    "bounds alone": BARE,
    "inputs only": replace(BARE, phases=None, clip=False, crown=False, batch=7),
    "phases early": replace(BARE, phases=PhaseSplits(neurons=100, depth=20, width=1000), open_boxes=1),
}


def ask(net: Network, cases: tuple[mv.Case, ...], gap: float | None = None, limit_s: float = 10.0) -> Question:
    """A question whose bounds are intervals."""

    def replay(case: int, x: np.ndarray) -> float:
        witness = measured(net, cases[case], x)
        return math.inf if witness is None else witness.replay.slack_upper

    region = cases[0].region
    lower = np.full(len(cases), -np.inf)
    bounds = mv.compute_bounds(net, region, mv.Interval())
    return Question(net, region, cases, bounds, lower, replay, gap, ends=time.monotonic() + limit_s)


def random_cases(rng: np.random.Generator, net: Network, region: mv.Region) -> tuple[mv.Case, ...]:
    """Cases of one, two and one rows, their right-hand sides near what the region reaches."""
    cases = []
    for m in (1, 2, 1):
        C = rng.normal(size=(m, net.n_outputs))
        y = net.forward(region.sample(rng, 1)[0])
        cases.append(mv.Case(region, mv.Polyhedron(C, C @ y - 0.4 * rng.random(m)), f"rows {m}"))
    return tuple(cases)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(("kind", "region_kind"), QUESTIONS)
@FEW
@given(seed=seeds)
def test_answers_agree_with_brute_force(kind: str, region_kind: str, search: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    cases = random_cases(rng, net, region)
    truth = np.array([brute_force_slack(net, region, case.unsafe.C, case.unsafe.d) for case in cases])
    question = ask(net, cases)
    answer = SEARCHES[search].run(question)
    if truth.min() > 1e-4:
        assert all(case.holds and case.lower > 0 for case in answer.cases)
    elif truth.min() < -1e-4 and search != "bounds alone":
        assert question.decided
    assert not any(case.holds for case, least in zip(answer.cases, truth, strict=True) if least < -1e-6)
    question = ask(net, cases, gap=0.02)
    answer = SEARCHES[search].run(question)
    lower = np.array([case.lower for case in answer.cases])
    assert (lower <= np.maximum(truth, question.best - question.gap) + 1e-6).all()
    assert lower.min() <= truth.min() + 1e-6 and truth.min() <= question.best + 1e-6
    assert question.best - lower.min() <= 0.02 + 1e-9
    assert not any(case.timed_out or case.holds for case in answer.cases)


def random_boxes(rng: np.random.Generator, n: int, b: int, finest: float) -> BoxBatch:
    """Boxes from wide to 10^finest, where rounding may decide; some sides without width."""
    radius = 10.0 ** rng.uniform(finest, 0, (b, 1)) * rng.uniform(0, 1, (b, n)) * (rng.random((b, n)) > 0.2)
    middle = rng.normal(size=(b, n))
    return BoxBatch(middle - radius, middle + radius)


def exact_rows(net: Network, cases: list[mv.Case], x: np.ndarray) -> list[Fraction]:
    """C y - d of all rows at x."""
    y = forward_exact(net, x.tolist())
    return [s for case in cases for s in case.unsafe._slacks(y)]


class Bounded:
    """Random boxes of a random network, bounded, with low points in them."""

    def __init__(self, kind: str, seed: int, finest: float = -13) -> None:
        rng = np.random.default_rng(seed)
        self.net = NETWORKS[kind](rng)
        n, b = self.net.n_inputs, 4
        self.batch = random_boxes(rng, n, b, finest)
        self.cases = list(random_cases(rng, self.net, self.batch[0]))
        self.rows = Rows.of(self.cases, 0.0)
        bounds = mv.compute_bounds(self.net, self.batch, Zonotope())
        weights = np.ones((b, len(self.rows.d)))
        self.found = bound_boxes(self.net, self.batch, (bounds.lower, bounds.upper), self.rows.C, weights, True)
        self.found = self.found.less(self.rows.d)
        corners = np.where(rng.random((b, 8, n)) < 0.5, self.batch.lower[:, None], self.batch.upper[:, None])
        lowest = [self.batch.minimiser(form.slope) for form in self.found.forms]
        self.points = np.concatenate([corners, *lowest, self.batch.sample(rng, 3)], axis=1)

    def boxes(self, found: BoxBounds) -> Boxes:
        shape = (len(self.batch), len(self.cases))
        l, u = np.concatenate(found.lower, axis=1), np.concatenate(found.upper, axis=1)
        return Boxes(self.batch.lower, self.batch.upper, l, u, np.full(shape, -np.inf), np.ones(shape, dtype=bool))


@pytest.mark.parametrize("kind", NETWORKS)
@settings(max_examples=6)
@given(seed=seeds)
def test_forms_lie_below_the_rows_exactly(kind: str, seed: int) -> None:
    some = Bounded(kind, seed)
    for i, points in enumerate(some.points):
        centre, radius = (list(map(Fraction, side[i].tolist())) for side in (some.found.centre, some.found.radius))
        for x in points:
            slacks = exact_rows(some.net, some.cases, x)
            e = [
                (Fraction(v) - c) / r if r else Fraction(0) for v, c, r in zip(x.tolist(), centre, radius, strict=True)
            ]
            assert all(abs(v) <= 1 for v in e)
            for form in some.found.forms:
                for k, slack in enumerate(slacks):
                    at = sum((Fraction(a) * v for a, v in zip(form.slope[i, k].tolist(), e, strict=True)), Fraction(0))
                    assert Fraction(float(form.constant[i, k])) + at <= slack
                    assert Fraction(float(form.value[i, k])) <= slack


@pytest.mark.parametrize("kind", NETWORKS)
@settings(max_examples=6)
@given(seed=seeds)
def test_the_symbols_of_small_problems_are_exact_names(kind: str, seed: int) -> None:
    some = Bounded(kind, seed)
    net, found = some.net, some.found
    leaf = leaf_forms(net, some.batch, (found.lower, found.upper), some.rows.C)
    for i, points in enumerate(some.points):
        free = [np.flatnonzero((l[i] < 0) & (u[i] > 0)) for l, u in zip(found.lower, found.upper, strict=True)]
        assert sum(map(len, free)) == leaf.present[i].sum()
        for x in points[-5:]:
            e = [(Fraction(float(v)) - Fraction(float(c))) / Fraction(float(r)) if r else Fraction(0)
                 for v, c, r in zip(x, found.centre[i], found.radius[i], strict=True)]  # fmt: skip
            slot = 0
            for k, neurons in enumerate(free):
                zhat = forward_exact(
                    Network(net.input_shape, (net.sizes[k],), net.layers[:k], net.layers[k]), x.tolist()
                )
                for j in neurons:
                    v = zhat[j]
                    form = sum(
                        (Fraction(float(a)) * s for a, s in zip(leaf.neurons[i, slot], e, strict=False)), Fraction(0)
                    )
                    assert abs(v - Fraction(float(leaf.centre[i, slot])) - form) <= Fraction(float(leaf.noise[i, slot]))
                    slope = Fraction(float(leaf.rise[i, slot] if v >= 0 else leaf.fall[i, slot]))
                    e.append(slope * v - 1)
                    assert abs(e[-1]) <= 1 + Fraction(1, 2**50)
                    slot += 1
            y = forward_exact(net, x.tolist())
            for k, row in enumerate(some.rows.C):
                exact = sum((Fraction(float(c)) * v for c, v in zip(row, y, strict=True)), Fraction(0))
                form = sum((Fraction(float(a)) * s for a, s in zip(leaf.rows[i, k], e, strict=False)), Fraction(0))
                # e is named by slopes that are rounded themselves
                assert Fraction(float(leaf.rows_at[i, k])) + form <= exact + Fraction(1, 2**44)


@pytest.mark.parametrize("kind", NETWORKS)
@settings(max_examples=6)
@given(seed=seeds)
def test_nothing_as_low_as_the_threshold_is_cut_off(kind: str, seed: int) -> None:
    some = Bounded(kind, seed)
    phases = PhaseSplits(neurons=100, depth=3, width=50)
    for i, points in enumerate(some.points):
        slacks = [exact_rows(some.net, some.cases, x) for x in points]
        for case in range(len(some.cases)):
            own = some.rows.of_case(case)
            least = [max(s[r] for r in own) for s in slacks]
            x, low = points[int(np.argmin([float(v) for v in least]))], min(least)
            t = float(round_fractions([low]).up[0])
            boxes = some.boxes(some.found)
            clipped = clip_boxes(some.found, boxes, some.rows.starts, t)
            assert not clipped.empty[i, case]
            assert (clipped.low[i] <= x).all() and (x <= clipped.high[i]).all()
            assert not phases.close(some.net, boxes, some.found, some.rows, t)[i, case]


@pytest.mark.parametrize("kind", NETWORKS)
@settings(max_examples=12)
@given(seed=seeds)
def test_phases_close_no_box_with_a_low_point(kind: str, seed: int) -> None:
    some = Bounded(kind, seed, finest=0)
    x = some.batch.sample(np.random.default_rng(seed), 2000)
    slacks = some.net.forward(x) @ some.rows.C.T - some.rows.d
    for depth in (1, 2, 6):
        phases = PhaseSplits(neurons=100, depth=depth, width=100)
        for case in range(len(some.cases)):
            least = slacks[..., some.rows.of_case(case)].max(axis=-1).min(axis=-1)
            for box, t in enumerate(least.tolist()):
                closed = phases.close(some.net, some.boxes(some.found), some.found, some.rows, t + 1e-9)
                assert not closed[box, case]


@pytest.mark.parametrize("depth", (1, 5))
@settings(max_examples=30)
@given(seed=seeds)
def test_clipping_keeps_the_least_corner_of_exact_forms(depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    b, m, n = 8, 2, 3
    slope = rng.normal(size=(b, m, n)) * 10.0 ** rng.uniform(-depth, depth, (b, m, n))
    form = LowerForms(slope, rng.normal(size=(b, m)))
    one = np.ones((b, n))
    found = BoxBounds((), (), 0 * one, one, (form,), one)
    boxes = Boxes(-one, one, one[:, :0], one[:, :0], np.zeros((b, 1)), np.ones((b, 1), dtype=bool))
    for i in range(b):
        for e in (-np.sign(slope[i, 0]), rng.uniform(-1, 1, n)):
            values = [sum((Fraction(s) * Fraction(v) for s, v in zip(row, e.tolist(), strict=True)), Fraction(c))
                      for row, c in zip(slope[i].tolist(), form.constant[i].tolist(), strict=True)]  # fmt: skip
            t = float(round_fractions([max(values)]).up[0])
            clipped = clip_boxes(found, boxes, np.zeros(1, dtype=int), t)
            assert not clipped.empty[i, 0]
            assert (clipped.low[i] <= e).all() and (e <= clipped.high[i]).all()


@settings(max_examples=8)
@given(seed=seeds)
def test_phases_prove_what_is_true(seed: int) -> None:
    some = Bounded("chain", seed, finest=0)
    phases = PhaseSplits(neurons=100, depth=20, width=1000)
    for case in range(len(some.cases)):
        C, d = some.cases[case].unsafe.C, some.cases[case].unsafe.d
        truth = brute_force_slack(some.net, some.batch[0], C, d)
        size = 1.0 + abs(truth)
        boxes = some.boxes(some.found)
        assert not phases.close(some.net, boxes, some.found, some.rows, truth + 1e-6 * size)[0, case]
        assert phases.close(some.net, boxes, some.found, some.rows, truth - 0.05 * size)[0, case] or len(d) > 1


def numbered(n: int, lower: np.ndarray) -> Boxes:
    """Boxes that are known by their corners."""
    low, none = np.arange(float(n))[:, None], np.zeros((n, 0))
    return Boxes(low, low + 1, none, none, lower[:, None], np.ones((n, 1), dtype=bool))


def test_open_boxes_lose_nothing_and_give_the_least() -> None:
    rng = np.random.default_rng(0)
    lower = rng.permutation(100).astype(float)
    stack, taken = OpenBoxes(numbered(100, lower)), []
    for step in range(40):
        before = stack.everything().least.copy()
        some = stack.pop_least(7) if step % 2 else stack.pop(3)
        if step % 2:
            assert set(some.least) == set(np.sort(before)[:7])
        else:
            assert np.array_equal(some.least, before[len(before) - len(some) :])
        if step < 10:
            stack.push(some[slice(0, 2)])
            some = some[slice(2, None)]
        taken.append(some.low[:, 0])
    assert sorted(np.concatenate(taken)) == list(range(100)) and stack.count == 0


def test_halves_cover_their_box_and_share_a_side() -> None:
    rng = np.random.default_rng(0)
    low = rng.normal(size=(5, 3))
    boxes = numbered(5, np.zeros(5))
    boxes = replace(boxes, low=low, high=low + rng.uniform(0.1, 1, size=(5, 3)))
    cut = np.array([0, 1, 2, 0, 1])
    both = halves(boxes, cut)
    for i, j in enumerate(cut):
        left, right = both[np.array([2 * i])], both[np.array([2 * i + 1])]
        assert left.high[0, j] == right.low[0, j] and low[i, j] < left.high[0, j] < boxes.high[i, j]
        rest = np.arange(3) != j
        for half in (left, right):
            assert (half.low[0, rest] == low[i, rest]).all() and (half.high[0, rest] == boxes.high[i, rest]).all()
        assert left.low[0, j] == low[i, j] and right.high[0, j] == boxes.high[i, j]


def one_neuron(weight: float, bias: float, out: float, out_bias: float) -> Network:
    """y = out relu(weight x + bias) + out_bias."""
    first = affine({0: Dense(np.array([[weight]]))}, np.array([bias]))
    return Network((1,), (1,), (first,), affine({1: Dense(np.array([[out]]))}, np.array([out_bias])))


@pytest.mark.parametrize("search", SEARCHES)
def test_what_floats_hide_is_never_proven(search: str) -> None:
    # In floats x + 2^54 is 2^54 and the slack 1/2; it is 1/2 - x.
    net = one_neuron(1.0, 2.0**54, -1.0, 2.0**54)
    cases = (mv.Case(mv.Box(np.zeros(1), np.ones(1)), mv.Polyhedron(np.ones((1, 1)), np.array([-0.5]))),)
    answer = SEARCHES[search].run(ask(net, cases, limit_s=0.3))
    assert not answer.cases[0].holds and answer.cases[0].lower <= -0.5


@pytest.mark.parametrize("search", SEARCHES)
def test_a_tie_is_no_proof(search: str) -> None:
    # relu(x) + 0 is 0 for x <= 0 and nowhere less.
    net = one_neuron(1.0, 0.0, 1.0, 0.0)
    cases = (mv.Case(mv.Box(-np.ones(1), np.ones(1)), mv.Polyhedron(np.ones((1, 1)), np.zeros(1))),)
    question = ask(net, cases, limit_s=0.5)
    answer = SEARCHES[search].run(question)
    assert not answer.cases[0].holds and answer.cases[0].lower <= 0.0
    assert question.decided and question.best == 0.0


@pytest.mark.parametrize("d", (0.999, 1.0, 1.001))
def test_a_region_without_width_ends(d: float) -> None:
    net = one_neuron(1.0, 0.0, 1.0, 0.0)
    cases = (mv.Case(mv.Box(np.ones(1), np.ones(1)), mv.Polyhedron(np.ones((1, 1)), np.array([d]))),)
    question = ask(net, cases)
    answer = BARE.run(question)
    assert answer.cases[0].holds == (d < 1) and question.decided == (d >= 1)


def test_a_box_that_cannot_be_split_is_left_open_with_a_reason() -> None:
    net = one_neuron(1.0, 2.0**54, -1.0, 2.0**54)
    cases = (mv.Case(mv.Box(np.zeros(1), np.zeros(1)), mv.Polyhedron(np.ones((1, 1)), np.array([-0.5]))),)
    answer = BARE.run(ask(net, cases))
    assert not answer.cases[0].holds and not answer.cases[0].timed_out and "split" in answer.cases[0].reason


@pytest.mark.parametrize("gap", (None, 1e-9))
def test_a_time_limit_leaves_a_valid_bracket(gap: float | None) -> None:
    rng = np.random.default_rng(5)
    net = NETWORKS["chain"](rng)
    region = mv.Box(-np.ones(net.n_inputs), np.ones(net.n_inputs))
    C = rng.normal(size=(1, net.n_outputs))
    truth = brute_force_slack(net, region, C, np.zeros(1))
    cases = (mv.Case(region, mv.Polyhedron(C, np.array([truth - 1e-7]))),)
    question = ask(net, cases, gap, limit_s=0.0)
    answer = BARE.run(question)
    assert answer.cases[0].timed_out and answer.cases[0].lower <= 1e-7 and not answer.cases[0].holds
    told: list[TreeProgress] = []
    question = ask(net, cases, gap)
    question.ends, question.tell = time.monotonic() + 0.05, told.append
    answer = replace(BARE, batch=1, phases=None).run(question)
    assert answer.cases[0].lower <= 1e-7 + 1e-9 and question.best >= 1e-7 - 1e-9
    assert told and told[-1].nodes == answer.nodes and told[-1].lower <= answer.cases[0].lower


def test_what_is_told_already_is_not_searched() -> None:
    rng = np.random.default_rng(1)
    net = NETWORKS["chain"](rng)
    cases = random_cases(rng, net, REGIONS["box"](rng, net.n_inputs))
    question = ask(net, cases)
    question.lower = np.array([1.0, 2.0, 0.5])
    answer = InputSplitting().run(question)
    assert answer.nodes == 0 and [case.lower for case in answer.cases] == [1.0, 2.0, 0.5]
    assert all(case.holds for case in answer.cases)


def test_ctrl_c_comes_out() -> None:
    rng = np.random.default_rng(1)
    net = NETWORKS["chain"](rng)
    question = ask(net, random_cases(rng, net, REGIONS["box"](rng, net.n_inputs)))

    def stop(progress: TreeProgress) -> None:
        raise KeyboardInterrupt

    question.tell = stop
    with pytest.raises(KeyboardInterrupt):
        BARE.run(question)


def test_spare_is_taken_off_every_bound() -> None:
    rng = np.random.default_rng(2)
    net = NETWORKS["chain"](rng)
    region = REGIONS["box"](rng, net.n_inputs)
    C = rng.normal(size=(2, net.n_outputs))
    truth = brute_force_slack(net, region, C, np.zeros(2))
    cases = (mv.Case(region, mv.Polyhedron(C, np.full(2, truth - 0.1))),)
    for spare, proven in ((0.0, True), (0.05, True), (0.11, False)):
        question = ask(net, cases, limit_s=0.5)
        question.spare = spare
        assert InputSplitting().run(question).cases[0].holds is proven


@pytest.mark.parametrize("kind", REGIONS)
@given(seed=seeds)
def test_no_box_with_a_point_of_the_region_lies_outside(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    region = REGIONS[kind](rng, 3)
    a = rng.normal(size=3)
    region = region.with_cuts(a, float(a @ region.project(region.anchor)) + 0.1)
    points = region.project(region.sample(rng, 10))
    points = points[[region.contains(x) for x in points]]
    wide = 10.0 ** rng.uniform(-15, 0, (len(points), 1))
    low, high = np.maximum(points - wide, region.lower), np.minimum(points + wide, region.upper)
    assert not outside(region, low, high).any()
    if kind in ("l1", "l2"):
        corner = np.stack([region.lower, region.upper])
        assert outside(region, corner, corner).all() or region.eps < 1e-6


@pytest.mark.parametrize("name", ("batch", "open_boxes", "starts", "every", "error_weight"))
def test_options_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match=name):
        InputSplitting(**{name: -1})
    with pytest.raises(OptionError, match="depth"):
        PhaseSplits(depth=0)


PUBLISHED = (("1_1", 3, "unsat"), ("1_9", 1, "unsat"), ("2_2", 2, "sat"), ("1_5", 2, "sat"), ("3_3", 9, "unsat"))


@pytest.mark.parametrize(("network", "number", "verdict"), PUBLISHED)
def test_verdicts_are_the_published_ones(network: str, number: int, verdict: str) -> None:
    net = mv.from_onnx(need("acasxu", "onnx", f"ACASXU_run2a_{network}_batch_2000.onnx"))
    prop = mv.read_vnnlib(need("acasxu", "vnnlib", f"prop_{number}.vnnlib"), net)
    verdicts, nodes = [], []
    for _ in range(2):
        questions = [ask(net, cases) for cases in prop.groups()]
        answers = [InputSplitting().run(question) for question in questions]
        if any(question.decided for question in questions):
            verdicts.append("sat")
        else:
            verdicts.append("unsat" if all(c.holds for a in answers for c in a.cases) else "unknown")
        nodes.append([answer.nodes for answer in answers])
    assert verdicts == [verdict, verdict] and nodes[0] == nodes[1]
