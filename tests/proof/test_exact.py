"""The fast checker gets the integers of docs/proofs.md, and accepts no claim that is false."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from milpverify.network.expression import Expr, add, convolve, linear, select, shift
from milpverify.network.graph import Network
from milpverify.network.lowering import Lowering
from milpverify.network.operators import Dense, Scaling
from milpverify.proof.certificate import Certificate, Claims, Context, Group, Layer, LeafTree, PlaneSet
from milpverify.proof.exact import CheckResult, check_exact
from milpverify.spec.property import Case, Polyhedron, Property
from tests.cases import NETWORKS, affine, brute_force_slack, seeds, weights
from tests.proof import literal
from tests.proof.certificate_cases import question, random_certificate, split_until_closed

FEW = settings(max_examples=6)
FEWER = settings(max_examples=2)
REGION_KINDS = ("box", "linf clipped", "l2")


def integers(result: CheckResult) -> list[tuple[object, object, object, object]]:
    return [(context.lower, context.upper, context.values, context.claims) for context in result.trace]


def agree(certificate: Certificate, net: Network, prop: Property) -> CheckResult:
    """The result, after both arithmetics have met the literal check in every integer."""
    want = literal.check(certificate, net, prop)
    by_words = check_exact(certificate, net, prop, certificate.threshold, trace=True)
    by_python = check_exact(certificate, net, prop, certificate.threshold, trace=True, machine=False)
    assert integers(by_words) == want
    assert integers(by_python) == want
    closed = all(v is None or v > 0 for *_, trees, _ in want for leaves in trees for v in leaves)
    assert by_words.accepted == by_python.accepted == closed
    assert by_words.reason == by_python.reason
    return by_words


@pytest.mark.parametrize("bits", [16, 31, 44, 55, 64, 300])
@pytest.mark.parametrize("kind", NETWORKS)
@FEW
@given(seed=seeds)
def test_every_integer_is_that_of_the_page(kind: str, bits: int, seed: int) -> None:
    rng, net, prop = question(kind, REGION_KINDS[seed % 3], seed)
    threshold = Fraction(int(rng.integers(-5, 6)), int(rng.integers(1, 9)))
    certificate = random_certificate(rng, net, prop, bits, threshold)
    result = agree(certificate, net, prop)
    assert result.n_cases == 3
    assert result.n_contexts == sum(len(group.contexts) for group in certificate.groups)


def residual(rng: np.random.Generator) -> Network:
    """A normalised, padded convolution, a residual branch, a transposition, a leaky ReLU, two dense maps in a row."""
    lowering = Lowering((1, 2, 3, 3))
    x = linear(shift(lowering.input, rng.normal(size=(1, 2, 1, 1))), Scaling(rng.normal(size=18)), (1, 2, 3, 3))
    kernel = rng.normal(size=(2, 1, 2, 2))
    first = lowering.relu(
        shift(convolve(x, kernel, (1, 1), ((1, 0), (0, 1)), (1, 1), 2), rng.normal(size=(1, 2, 1, 1)))
    )
    both = add(first, x)
    turned = select(both, both.index.transpose(0, 2, 3, 1))
    flat = Expr((18,), turned.blocks, turned.bias_terms)
    twice = linear(linear(flat, weights(rng, 4, 18), (4,)), weights(rng, 3, 4), (3,))
    second = lowering.leaky_relu(shift(twice, rng.normal(size=3)), np.array(0.1))
    return lowering.finish(linear(second, weights(rng, 2, 3), (2,)))


@pytest.mark.parametrize("bits", [20, 40, 70])
@FEWER
@given(seed=seeds)
def test_sums_products_selections_and_convolutions_are_those_of_the_page(bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = residual(rng)
    middle = rng.normal(size=18)
    region = mv.Box(middle - 0.2, middle + 0.2 * rng.random(18))
    cases = tuple(Case(region, Polyhedron(rng.normal(size=(m, 2)), -rng.random(m))) for m in (1, 2, 1))
    prop = Property(cases, 18, 2)
    agree(random_certificate(rng, net, prop, bits), net, prop)


@pytest.mark.parametrize("bits", [40, 60, 100])
@FEW
@given(seed=seeds)
def test_huge_and_tiny_weights_are_those_of_the_page(bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.integers(-12, 18, 3) + 2.0 ** rng.integers(-40, 61, 3)
    layers = tuple(
        affine({k: Dense(rng.normal(size=(3, 3)) * scale)}, rng.normal(size=3) * scale)
        for k, scale in enumerate(scales[:2])
    )
    net = Network((3,), (2,), layers, affine({2: Dense(rng.normal(size=(2, 3)) * scales[2])}, rng.normal(size=2)))
    region = mv.Box(-rng.random(3) * 2.0 ** rng.integers(-30, 61), rng.random(3))
    cases = tuple(Case(region, Polyhedron(rng.normal(size=(m, 2)), -rng.random(m))) for m in (1, 2, 1))
    prop = Property(cases, 3, 2)
    agree(random_certificate(rng, net, prop, bits), net, prop)


@pytest.mark.parametrize("kind", NETWORKS)
@FEWER
@given(seed=seeds)
def test_no_accepted_claim_is_false(kind: str, seed: int) -> None:
    rng, net, prop = question(kind, "box", seed)
    truth = [brute_force_slack(net, case.region, case.unsafe.C, case.unsafe.d) for case in prop.cases]
    certificate = random_certificate(rng, net, prop, int(rng.choice([16, 24, 40, 60])))
    for group in certificate.groups:
        for q, i in enumerate(group.cases):
            one = Property((prop.cases[i],), prop.n_inputs, prop.n_outputs)
            contexts = tuple(replace(context, trees=(context.trees[q],)) for context in group.contexts)
            alone = replace(certificate, groups=(replace(group, cases=(0,), contexts=contexts),))
            past = Fraction(truth[i] + 1e-6 * (1 + abs(truth[i])))  # the solver of the truth is floating
            assert not check_exact(replace(alone, threshold=past), net, one, past).accepted


@pytest.mark.parametrize("kind", ["chain", "skip"])
@FEW
@given(seed=seeds)
def test_what_is_true_with_some_room_is_proved_by_splitting_inputs(kind: str, seed: int) -> None:
    _, net, prop = question(kind, "box", seed)
    case = prop.cases[0]
    prop = Property((case,), prop.n_inputs, prop.n_outputs)
    truth = brute_force_slack(net, case.region, case.unsafe.C, case.unsafe.d)
    room = Fraction(1, 20)
    certificate, closed = split_until_closed(net, prop, 30, Fraction(truth) - room, 18)
    assert closed
    asked = certificate.threshold
    assert check_exact(certificate, net, prop, asked).accepted
    refused = check_exact(certificate, net, prop, asked + Fraction(1, 10**9))
    assert not refused.accepted
    assert "threshold" in refused.reason
    past = Fraction(truth) + Fraction(1, 10**6)
    assert not check_exact(replace(certificate, threshold=past), net, prop, past).accepted
    assert not split_until_closed(net, prop, 30, past, 8)[1]


def small() -> tuple[Network, Property, Certificate]:
    """y = relu(x_0 + x_1) + relu(x_0 - x_1) on [-1, 1]^2, claimed to exceed -1/4: by symmetry its least value is 0."""
    hidden = affine({0: Dense(np.array([[1.0, 1.0], [1.0, -1.0]]))}, np.zeros(2))
    net = Network((2,), (1,), (hidden,), affine({1: Dense(np.ones((1, 2)))}, np.zeros(1)))
    case = Case(mv.Box([-1, -1], [1, 1]), Polyhedron(np.ones((1, 1)), np.zeros(1)))
    prop = Property((case,), 2, 1)
    tree = LeafTree(alpha=np.zeros((1, 2)))
    return net, prop, Certificate(30, (Group((0,), (Context((tree,)),)),), Fraction(-1, 4))


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


PLANE = PlaneSet(ints(0), np.ones((1, 4)))


def with_plane(neuron: int, columns: int) -> Context:
    planes = PlaneSet(np.array([neuron], dtype=np.int32), np.ones((1, columns)))
    return Context((LeafTree(planes=0, theta=np.ones((1, 1))),), None, (planes,))


def with_claims(*claims: Claims) -> Context:
    return Context((LeafTree(alpha=np.zeros((1, 2))),), (Layer(claims=claims),))


def with_context(certificate: Certificate, context: Context) -> Certificate:
    return replace(certificate, groups=(Group((0,), (context,)),))


def test_by_hand() -> None:
    # With alpha = 0, nu = 0: the rows' least value is 0 - (-1/4) up to the roundings, all of which are counted.
    net, prop, certificate = small()
    result = check_exact(certificate, net, prop, Fraction(-1, 4), trace=True)
    assert result.accepted
    assert (result.n_cases, result.n_contexts, result.n_leaves, result.n_python) == (1, 1, 1, 0)
    (context,) = result.trace
    assert context.lower[0] == [-(2 << 30) - 3, -(2 << 30) - 3]  # eps is ceil((2 + 2) / 2) + 1
    assert Fraction(context.values[0][0] or 0, 1 << 60) == pytest.approx(0.25, abs=1e-6)
    assert (context.values[0][0] or 0) < 1 << 58


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        (Context((LeafTree(alpha=np.zeros((1, 3))),)), "alpha has 3 columns for 2"),
        (Context((LeafTree(beta=np.zeros((1, 1))),)), "beta has 1 columns for 2"),
        (Context((LeafTree(mu=np.ones((1, 2))),)), "mu does not fit"),
        (Context((LeafTree(split=np.array([2, -1, -1], dtype=np.int32)),)), "split of neuron 2"),
        (Context((LeafTree(),), (Layer(), Layer())), "2 layers, the network 1"),
        (Context((LeafTree(),), (Layer("crown", np.ones(3, dtype=np.uint8)),)), "lists 3 neurons"),
        (Context((LeafTree(),), (Layer("crown", np.array([1, 0], dtype=np.uint8)),)), "neuron 1 of layer 1 is not"),
        (with_plane(0, 3), "planes over 3 columns, where there are 4"),
        (with_plane(2, 4), "a plane of neuron 2"),
        (with_claims(Claims(ints(0, 4))), "claims 0 of layer 1: a claim of row 4, where there are 4"),
        (with_claims(Claims(ints(0)), Claims(ints(0), alpha=np.ones((1, 1)))), "claims 1 of layer 1: alpha has 1"),
        (with_claims(Claims(ints(0), beta=np.ones((1, 2)))), "beta has 2 columns for 0"),
        (with_claims(Claims(ints(0), ints(0, -1, -1))), "split of neuron 0, where 0"),
        (with_claims(Claims(ints(0), planes=PLANE, theta=np.ones((1, 1)))), "planes over 4 columns, where there are 2"),
    ],
)
def test_what_does_not_fit_is_rejected_with_its_place(context: Context, reason: str) -> None:
    net, prop, certificate = small()
    result = check_exact(with_context(certificate, context), net, prop, Fraction(-1, 4))
    assert not result.accepted
    assert reason in result.reason
    assert "group 0, context 0" in result.reason


def test_cases_inputs_and_boxes_must_be_those_of_the_property() -> None:
    net, prop, certificate = small()
    (case,) = prop.cases
    other = Case(mv.Box([-1, -1], [1, 0.5]), case.unsafe)
    context = Context((LeafTree(alpha=np.zeros((1, 2))),) * 2)
    together = replace(certificate, groups=(Group((0, 1), (context,)),))
    least = certificate.threshold
    assert check_exact(together, net, Property((case, case), 2, 1), least).accepted
    assert "boxes" in check_exact(together, net, Property((case, other), 2, 1), least).reason
    assert "cases" in check_exact(certificate, net, Property((case, case), 2, 1), least).reason
    assert "cases" in check_exact(together, net, prop, least).reason
    far = replace(
        certificate,
        groups=(Group((0,), certificate.groups[0].contexts * 2, np.array([1, -1, -1], "i4"), np.array([1.5, 0, 0])),),
    )
    assert "outside" in check_exact(far, net, prop, least).reason
    wide = Property((Case(mv.Box([0, 0, 0], [1, 1, 1]), case.unsafe),), 3, 1)
    assert "inputs" in check_exact(certificate, net, wide, least).reason


@FEW
@given(seed=seeds)
def test_networks_without_hidden_layers_and_cases_without_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = Network((3,), (2,), (), affine({0: weights(rng, 2, 3)}, rng.normal(size=2)))
    region = mv.Box(-rng.random(3), rng.random(3))
    C = rng.normal(size=(1, 2))
    cases = tuple(Case(region, Polyhedron(rows, np.full(len(rows), -9.0))) for rows in (C, C[:0]))
    trees = LeafTree(), LeafTree(mu=np.ones((1, 0)))
    for alone in (0, 1):
        certificate = Certificate(40, (Group((0,), (Context(trees[alone : alone + 1]),)),))
        assert agree(certificate, net, Property(cases[alone : alone + 1], 3, 2)).accepted == (alone == 0)


def test_a_leaf_that_its_splits_leave_empty_is_closed() -> None:
    # Both neurons active and then the first inactive: lo = hi = 0 is not empty; a listed one with lo > 0 is.
    net, prop, certificate = small()
    (case,) = prop.cases
    shifted = Property((Case(mv.Box([2, -1], [3, 1]), case.unsafe),), 2, 1)
    listed = (Layer("crown", np.ones(2, dtype=np.uint8)),)
    tree = LeafTree(split=np.array([0, -1, -1], dtype=np.int32))
    result = agree(with_context(certificate, Context((tree,), listed)), net, shifted)
    assert result.accepted
    assert result.trace[0].values[0][1] is None


def step() -> tuple[Network, Property]:
    """y = relu(relu(x) - relu(x - 1) + 1/4) on [-1, 2], claimed to be positive: it lies between 1/4 and 5/4."""
    first = affine({0: Dense(np.array([[1.0], [1.0]]))}, np.array([0.0, -1.0]))
    second = affine({1: Dense(np.array([[1.0, -1.0]]))}, np.array([0.25]))
    net = Network((1,), (1,), (first, second), affine({2: Dense(np.array([[1.0]]))}, np.zeros(1)))
    return net, Property((Case(mv.Box([-1], [2]), Polyhedron(np.ones((1, 1)), np.zeros(1))),), 1, 1)


# Where x >= 1, relu(x) >= x and x - (x - 1) = 1; where x <= 1, relu(x) >= 0 and the other neuron is zero.
HALVES = Claims(ints(0), ints(1, -1, -1), np.array([[1.0, 0.0], [0.0, 0.0]]))


def bounded_by(net: Network, prop: Property, *claims: Claims, listed: tuple[int, ...] | None = (1, 1)) -> CheckResult:
    """What comes of claims about the last layer, on top of intervals; proved by halves, if so."""
    first = Layer("interval", None if listed is None else np.array(listed, dtype=np.uint8))
    stable = Layer("interval", np.zeros(1, dtype=np.uint8), claims)
    tree = LeafTree(HALVES.split, HALVES.alpha)
    return agree(Certificate(30, (Group((0,), (Context((tree,), (first, stable)),)),)), net, prop)


def test_a_claim_makes_a_neuron_stable_that_no_rule_does() -> None:
    net, prop = step()
    result = bounded_by(net, prop, HALVES)
    assert result.accepted
    (context,) = result.trace
    first, second = context.claims[1][0]
    assert first == pytest.approx(1.25 * 2**60, rel=1e-6) and second == pytest.approx(0.25 * 2**60, rel=1e-6)
    assert second < 1 << 58  # the roundings are counted
    assert context.lower[1] == [second >> 30]
    assert context.upper[1] == [pytest.approx(2.25 * 2**30, rel=1e-6)]  # of the other side nothing is said
    certificate = Certificate(
        30, (Group((0,), (Context((LeafTree(),), (Layer(), Layer(unstable=np.zeros(1, dtype=np.uint8)))),)),)
    )
    assert "not listed as unstable and not stable" in check_exact(certificate, net, prop).reason


def test_the_least_leaf_counts_and_the_best_claim_of_a_side() -> None:
    net, prop = step()
    # -relu(x) >= -(x + 1) 2/3, and alpha = 2/3 for the other neuron: 1/4 + 4/3 from above.
    above = Claims(ints(1), alpha=np.array([[0.0, 2 / 3]]))
    poor = Claims(ints(1, 0, 1), ints(-1, 0, -1, -1, -1), np.zeros((4, 2)))
    for claims in ((HALVES, above, poor), (poor, above, HALVES)):
        (context,) = bounded_by(net, prop, *claims).trace
        assert context.lower[1] == [pytest.approx(0.25 * 2**30, rel=1e-6)]
        assert context.upper[1] == [pytest.approx((0.25 + 4 / 3) * 2**30, rel=1e-6)]


def test_a_leaf_that_is_empty_counts_for_no_claim() -> None:
    # On [1/2, 2] the first neuron is listed though it is active: its inactive side is empty.
    net, prop = step()
    prop = Property((Case(mv.Box([0.5], [2]), prop.cases[0].unsafe),), 1, 1)
    claims = Claims(ints(0), ints(0, 1, -1, -1, -1), np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    (context,) = bounded_by(net, prop, claims).trace
    first, second, empty = context.claims[1][0]
    assert empty is None and first is not None and second is not None
    assert context.lower[1] == [min(first, second) >> 30]


@pytest.mark.parametrize("kind", NETWORKS)
@FEW
@given(seed=seeds)
def test_no_claim_moves_a_bound_past_the_network(kind: str, seed: int) -> None:
    rng, net, prop = question(kind, "box", seed)
    certificate = random_certificate(rng, net, prop, int(rng.choice([16, 24, 40, 60])))
    contexts = iter(check_exact(certificate, net, prop, certificate.threshold, trace=True).trace)
    claimed = 0
    for group in certificate.groups:
        region = prop.cases[group.cases[0]].region
        boxes = literal.boxes(group, prop, literal.Literal(certificate.bits))
        for (low, high), context in zip(boxes, contexts, strict=False):
            claimed += sum(map(len, context.claims))
            x = region.sample(rng, 200)
            scaled = x * 2.0**certificate.bits
            inside = ((scaled >= low) & (scaled <= high)).all(axis=1)
            for zhat, lower, upper in zip(net.activations(x[inside])[0], context.lower, context.upper, strict=True):
                spare = 1e-9 * (1 + np.abs(zhat))
                assert (zhat >= np.array(lower) / 2.0**certificate.bits - spare).all()
                assert (zhat <= np.array(upper) / 2.0**certificate.bits + spare).all()


def test_fingerprints_explain_a_rejection_and_decide_nothing() -> None:
    net, prop, certificate = small()
    good = replace(certificate, network="other")
    assert check_exact(good, net, prop, Fraction(-1, 4)).accepted
    bad = replace(good, threshold=Fraction(1))
    assert check_exact(bad, net, prop).reason.endswith("(the proof was made for another network)")
    bad = replace(bad, network=net.fingerprint, property="other")
    assert check_exact(bad, net, prop).reason.endswith("(the proof was made for another property)")
