"""Certified radii never exceed exact distances, in any norm; formulas agree with the whole matrices."""

from __future__ import annotations

import numpy as np
import pytest
from certificate_cases import NETWORKS, NORMS, affine, chain, length, points, skips
from hypothesis import given
from hypothesis import strategies as st

from milpverify.bounds.backward import Crown
from milpverify.certificates.activation_region import activation_region
from milpverify.certificates.decision_boundary import decision_boundary_certificate
from milpverify.certificates.dual_radius import dual_radius, proves
from milpverify.certificates.gains import Gains, lipschitz_certificate, operator_norm_above, spectral_norm_above
from milpverify.certificates.linear_model import linear_certificate, worst_cross_entropy, worst_linear_margins
from milpverify.certificates.radii import Ball, CertifiedRadii, Exactness, dual_norm
from milpverify.certificates.simplex import simplex_certificate
from milpverify.errors import NetworkError, OptionError, PropertyError, RegionError, UnsupportedError
from milpverify.network.graph import Network
from milpverify.network.operators import Dense
from milpverify.spec.regions import L2Ball, LinfBall
from milpverify.tasks.epsilon import minimum_epsilon
from milpverify.tasks.radius import Radius

every_norm = pytest.mark.parametrize("ball", NORMS.values(), ids=NORMS.keys())
every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())


def certificates(net: Network, x: np.ndarray, labels: np.ndarray, ball: type[Ball]) -> dict[str, CertifiedRadii]:
    """Every certificate that takes this network."""
    found: dict[str, CertifiedRadii] = {
        "simplex": simplex_certificate(net, x, labels, ball=ball),
        "simplex rounded": simplex_certificate(net, x, labels, ball=ball, rounded=True),
        "lipschitz": lipschitz_certificate(net, x, labels, ball=ball),
        "dual": dual_radius(net, x, labels, ball=ball),
        "dual by crown": dual_radius(net, x, labels, ball=ball, method=Crown()),
    }
    if len(net.layers) == 1 and len(net.output.blocks) == 1:
        found["decision boundary"] = decision_boundary_certificate(net, x, labels, ball=ball)
    if not net.layers:
        found["linear"] = linear_certificate(net, x, labels, ball=ball)
    return found


@every_norm
@pytest.mark.parametrize("make", [*NETWORKS.values(), lambda s: chain(s, 3, 9, 3), lambda s: chain(s, 4, 3)])
def test_no_certificate_exceeds_the_exact_minimum_distance(make: object, ball: type[Ball]) -> None:
    net = make(1)  # type: ignore[operator]
    x, labels = points(net, 2, 2)
    found = certificates(net, x, labels, ball)
    for i in range(len(x)):
        method = Radius(relative_gap=1e-3, bisections=4)
        exact = minimum_epsilon(net, x[i], int(labels[i]), ball=ball, eps_max=20.0, time_limit_s=20, method=method)
        for name, radii in found.items():
            slack = 1e-9 if radii.exactness is Exactness.FLOATING else 0.0
            assert radii.value[i] <= exact.upper * (1 + slack), name
            assert radii.value[i] > 0, name
        if "linear" in found:
            assert found["linear"].value[i] >= exact.upper * (1 - 2e-3)


@every_norm
@pytest.mark.parametrize("seed", range(4))
def test_points_within_a_certified_radius_keep_their_label(ball: type[Ball], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for net in (chain(seed, 4, 12, 3), skips(seed)):
        x, labels = points(net, seed, 6)
        for radii in certificates(net, x, labels, ball).values():
            direction = rng.normal(size=(500, 6, net.n_inputs)) ** 3
            step = direction / length(direction, ball)[..., None] * (radii.value * (1 - 1e-9))[:, None]
            assert (net.forward(x + step).argmax(axis=-1) == labels).all()


@every_network
def test_the_affine_function_of_a_region_is_the_network_within_the_nearest_face(make: object) -> None:
    net = make(3)  # type: ignore[operator]
    x, labels = points(net, 4, 5)
    region = activation_region(net, x)
    assert min(float(slack.min()) for slack in region.slack(x)) >= -1e-12
    reach = simplex_certificate(net, x, labels).region
    rng = np.random.default_rng(0)
    for _ in range(50):
        step = rng.normal(size=x.shape)
        near = x + 0.999 * reach[:, None] * step / length(step, L2Ball)[:, None]
        np.testing.assert_allclose(region.output(near), net.forward(near), rtol=1e-10, atol=1e-10)
        assert min(float(slack.min()) for slack in region.slack(near)) >= 0


@every_norm
@every_network
def test_the_simplex_certificate_is_that_of_the_whole_matrices(make: object, ball: type[Ball]) -> None:
    net = make(5)  # type: ignore[operator]
    x, labels = points(net, 6, 8)
    found, region = simplex_certificate(net, x, labels, ball=ball), activation_region(net, x)
    ratios = [slack / dual_norm(P, ball) for slack, P in zip(region.slack(x), region.P, strict=True)]
    np.testing.assert_allclose(found.region, np.concatenate(ratios, axis=1).min(axis=1), rtol=1e-9)
    for i, label in enumerate(labels):
        others = np.arange(net.n_outputs) != label
        y, C = region.output(x)[i], region.C[i]
        distance = (y[label] - y[others]) / dual_norm(C[label] - C[others], ball)
        assert found.boundary[i] == pytest.approx(distance.min(), rel=1e-9)
        layer, neuron = found.face[i]
        assert found.region[i] == pytest.approx(ratios[layer - 1][i, neuron], rel=1e-9)
    np.testing.assert_array_equal(found.value, np.minimum(found.region, found.boundary))


def test_rounding_costs_the_simplex_certificate_next_to_nothing() -> None:
    net = chain(7, 5, 20, 20, 4)
    x, labels = points(net, 8, 6)
    floating = simplex_certificate(net, x, labels)
    rounded = simplex_certificate(net, x, labels, rounded=True)
    assert rounded.exactness is Exactness.ROUNDED and floating.exactness is Exactness.FLOATING
    assert (rounded.value <= floating.value).all() and (rounded.value >= floating.value * (1 - 1e-8)).all()


@every_norm
def test_a_misclassified_input_has_radius_zero_and_says_so(ball: type[Ball]) -> None:
    for net in (chain(9, 3, 8, 3), chain(9, 3, 3)):
        x, labels = points(net, 10, 4)
        wrong = labels.copy()
        wrong[1] = (labels[1] + 1) % 3
        for name, radii in certificates(net, x, wrong, ball).items():
            np.testing.assert_array_equal(radii.correct, [True, False, True, True], err_msg=name)
            np.testing.assert_array_equal(radii.value > 0, [True, False, True, True], err_msg=name)


def test_a_tie_is_misclassified() -> None:
    net = Network((1,), (2,), (affine({0: Dense(np.ones((1, 1)))}, np.zeros(1)),), affine({}, np.zeros(2)))
    for radii in (simplex_certificate(net, [1.0], 0), lipschitz_certificate(net, [1.0], 0), dual_radius(net, [1.0], 0)):
        assert radii.value[0] == 0 and not radii.correct[0]


def test_a_margin_that_cannot_change_has_an_infinite_radius() -> None:
    net = Network((2,), (2,), (), affine({0: Dense(np.ones((2, 2)))}, np.array([1.0, 0.0])))
    assert simplex_certificate(net, [0.0, 0.0], 0).value[0] == np.inf
    hidden = affine({0: Dense(np.zeros((1, 2)))}, np.array([1.0]))
    constant = Network((2,), (2,), (hidden,), affine({1: Dense(np.array([[1.0], [0.0]]))}, np.zeros(2)))
    assert simplex_certificate(constant, [0.0, 0.0], 0).value[0] == np.inf
    assert dual_radius(net, [0.5, 0.5], 0, clip=(0, 1)).value[0] == np.inf


def test_radii_of_a_network_worked_out_by_hand() -> None:
    # y_0 = relu(x_0 + x_1), y_1 = 1 - relu(x_0 + x_1): at (2, 0) the boundary is x_0 + x_1 = 1/2, the face is = 0.
    hidden = affine({0: Dense(np.ones((1, 2)))}, np.zeros(1))
    net = Network((2,), (2,), (hidden,), affine({1: Dense(np.array([[1.0], [-1.0]]))}, np.array([0.0, 1.0])))
    for ball, distance in ((LinfBall, 0.75), (L2Ball, 1.5 / np.sqrt(2)), (NORMS["l1"], 1.5)):
        simplex = simplex_certificate(net, [2.0, 0.0], 0, ball=ball)
        assert simplex.value[0] == pytest.approx(distance)
        assert simplex.region[0] == pytest.approx(distance * 2 / 1.5)
        boundary = decision_boundary_certificate(net, [2.0, 0.0], 0, ball=ball, relative_gap=1e-6)
        assert boundary.value[0] == pytest.approx(distance, rel=1e-5)
        assert dual_radius(net, [2.0, 0.0], 0, ball=ball, relative_gap=1e-6).value[0] == pytest.approx(
            distance, rel=1e-5
        )
        assert lipschitz_certificate(net, [2.0, 0.0], 0, ball=ball).value[0] == pytest.approx(distance)


@every_norm
def test_mean_slopes_never_do_worse_than_the_hyperplanes_of_all_patterns(ball: type[Ball]) -> None:
    for seed in range(4):
        net = chain(seed, 6, 15, 4)
        x, labels = points(net, seed, 5)
        found = decision_boundary_certificate(net, x, labels, ball=ball)
        assert (found.hyperplanes <= found.value * (1 + 2e-3)).all()
        assert (found.value >= lipschitz_certificate(net, x, labels, ball=ball).value * (1 - 2e-3)).all()


@every_norm
def test_a_dual_radius_is_proven_and_the_next_one_is_not(ball: type[Ball]) -> None:
    net = chain(11, 4, 10, 10, 3)
    x, labels = points(net, 12, 4)
    found = dual_radius(net, x, labels, ball=ball, method=Crown(), relative_gap=1e-4)
    for centre, label, radius in zip(x, labels, found.value, strict=True):
        assert proves(net, ball(centre, radius), int(label), Crown())
        assert not proves(net, ball(centre, radius * 1.001), int(label), Crown())


@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 12), st.integers(-300, 300))
def test_spectral_norms_are_bounded_from_above_and_tightly(seed: int, rows: int, columns: int, power: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(rows, columns)) * 10.0 ** (power / 10)
    exact = np.linalg.norm(matrix, 2)
    assert exact * (1 - 1e-15) <= spectral_norm_above(matrix) <= exact * (1 + 1e-6)


def test_the_spectral_norm_of_an_orthogonal_matrix_is_one_and_of_zero_is_zero() -> None:
    assert 1.0 <= spectral_norm_above(np.eye(5)[::-1]) <= 1 + 1e-10
    assert 5.0 <= spectral_norm_above(np.array([[3.0, 4.0]])) <= 5 + 1e-10
    assert spectral_norm_above(np.zeros((2, 3))) == 0.0


@every_norm
@every_network
def test_no_layer_moves_faster_than_its_gain(make: object, ball: type[Ball]) -> None:
    net = make(13)  # type: ignore[operator]
    gains, rng = Gains.of(net, ball), np.random.default_rng(0)
    x = rng.normal(size=(200, net.n_inputs))
    other = x + rng.normal(size=x.shape) * 10.0 ** rng.uniform(-3, 1, (200, 1))
    for k, (a, b) in enumerate(zip(net.activations(x)[0], net.activations(other)[0], strict=True), start=1):
        moved, step = np.maximum(a, 0) - np.maximum(b, 0), length(x - other, ball)
        assert (length(moved, ball) <= gains.layer[k] * step * (1 + 1e-9)).all()
        assert (np.abs(a - b) <= gains.rows[k - 1] * step[:, None] * (1 + 1e-9)).all()


def test_operator_norms_of_matrices_are_those_of_the_textbook() -> None:
    op = Dense(np.array([[1.0, -2.0], [3.0, 4.0]]))
    assert operator_norm_above(op, LinfBall) == pytest.approx(7.0)
    assert operator_norm_above(op, NORMS["l1"]) == pytest.approx(6.0)
    assert operator_norm_above(op, L2Ball) == pytest.approx(np.linalg.norm(op.matrix, 2))


@every_norm
def test_the_worst_margins_of_a_linear_model_are_attained(ball: type[Ball]) -> None:
    net = chain(14, 5, 4)
    x, labels = points(net, 15, 3)
    worst = worst_linear_margins(net, x, labels, 0.3, ball=ball)
    matrix = net.output.blocks[0][1].dense()
    for i, label in enumerate(labels):
        others = [j for j in range(4) if j != label]
        for j, least in zip(others, worst[i], strict=True):
            point = ball(x[i], 0.3).minimiser((matrix[label] - matrix[j])[None])[0]
            y = net.forward(point)
            assert y[label] - y[j] == pytest.approx(least, abs=1e-9)
        sampled = net.forward(ball(x[i], 0.3).sample(np.random.default_rng(0), 500))
        assert (sampled[:, [label]] - sampled[:, others]).min() >= worst[i].min() - 1e-12
        losses = np.log(np.exp(sampled).sum(axis=1)) - sampled[:, label]
        assert losses.max() <= worst_cross_entropy(worst)[i] + 1e-12


def test_the_worst_cross_entropy_of_two_classes_is_attained() -> None:
    net = chain(16, 5, 2)
    x, labels = points(net, 17, 1)
    row = np.diff(net.output.blocks[0][1].dense(), axis=0) * (1 if labels[0] == 1 else -1)
    y = net.forward(L2Ball(x[0], 0.4).minimiser(row)[0])
    loss = np.log(np.exp(y).sum()) - y[labels[0]]
    assert worst_cross_entropy(worst_linear_margins(net, x, labels, 0.4, ball=L2Ball))[0] == pytest.approx(loss)


def test_what_does_not_fit_is_refused() -> None:
    net, x = chain(0, 3, 4, 3), np.zeros(3)
    with pytest.raises(UnsupportedError, match="chain of 1 hidden layers"):
        decision_boundary_certificate(skips(0), x, 0)
    with pytest.raises(UnsupportedError, match="chain of 0 hidden layers"):
        linear_certificate(net, x, 0)
    with pytest.raises(UnsupportedError, match="chain of 0 hidden layers"):
        worst_linear_margins(net, x, 0, 0.1)
    with pytest.raises(RegionError, match="eps"):
        worst_linear_margins(chain(0, 3, 3), x, 0, -1.0)
    for certificate in (simplex_certificate, lipschitz_certificate, dual_radius, decision_boundary_certificate):
        with pytest.raises(NetworkError, match="reads 3 values"):
            certificate(net, np.zeros(4), 0)
        with pytest.raises(NetworkError, match="reads 3 values"):
            certificate(net, np.zeros((0, 3)), 0)
        with pytest.raises(NetworkError, match="NaN"):
            certificate(net, np.array([0.0, np.nan, 0.0]), 0)
        with pytest.raises(PropertyError, match="label 3"):
            certificate(net, x, 3)
        with pytest.raises(PropertyError, match="integer labels"):
            certificate(net, x, [0, 1])
        with pytest.raises(OptionError, match="no ball"):
            certificate(net, x, 0, ball=int)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="gains are of L2Ball"):
        simplex_certificate(net, x, 0, ball=LinfBall, gains=Gains.of(net, L2Ball))
    with pytest.raises(OptionError, match="different libraries"):
        simplex_certificate(net.to_torch(), x, 0)
    with pytest.raises(OptionError, match="relative_gap"):
        dual_radius(net, x, 0, relative_gap=0.0)
