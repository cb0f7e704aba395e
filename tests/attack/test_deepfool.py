"""Minimum-distance and iterative attacks: exact on linear networks, never below the minimum, within their limits."""

from __future__ import annotations

import numpy as np
import pytest
from attack_cases import affine, case, convolution_network, linear_network, skip_network, slack_at

from milpverify.attack.deepfool import DeepFool, length_of, margins_and_gradients
from milpverify.attack.fgsm import Fgsm
from milpverify.attack.images import attack_images
from milpverify.attack.iterative_fgsm import IterativeFgsm
from milpverify.attack.objective import MarginToTarget, TargetAgainstOthers
from milpverify.attack.pgd import Pgd
from milpverify.attack.steps import Norm, onto_half_space, unit_steepest
from milpverify.errors import NetworkError, OptionError, PropertyError, RegionError
from milpverify.network.graph import Network
from milpverify.network.operators import Dense
from milpverify.spec.regions import Box, L1Ball, L2Ball, LinfBall
from milpverify.tasks.attack_radius import attack_radius
from milpverify.tasks.epsilon import minimum_epsilon
from milpverify.tasks.radius import Radius

NORMS: dict[str, Norm] = {"linf": LinfBall, "l2": L2Ball, "l1": L1Ball}
PUBLISHED = {"draws": 0, "passes": 1, "straight": False, "each_target": False}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())


def labelled(net: Network, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).uniform(0.1, 0.9, (count, net.n_inputs))
    return x, net.forward(x).argmax(axis=1)


@every_norm
def test_the_shortest_step_is_shortest_within_the_box(norm: Norm) -> None:
    rng = np.random.default_rng(0)
    g = rng.normal(size=(200, 4)) * (rng.random((200, 4)) < 0.8)
    low, high = -rng.uniform(0, 1, (200, 4)), rng.uniform(0, 1, (200, 4))
    value = rng.uniform(0, 1.5, 200)
    step, reached = onto_half_space(g, value, low, high, norm)
    assert ((step >= low) & (step <= high)).all()
    most = (np.abs(g) * np.where(g > 0, -low, high)).sum(axis=1)
    np.testing.assert_array_equal(reached, most >= value * (1 - 1e-12))
    np.testing.assert_allclose((g * step).sum(axis=1)[reached], -value[reached], atol=1e-12)
    np.testing.assert_allclose((g * step).sum(axis=1)[~reached], -most[~reached], atol=1e-12)
    # Any other step of the box that gains as much is no shorter.
    others = rng.uniform(low, high, (3000, 200, 4))
    gains = -(g * others).sum(axis=2) >= value
    lengths = np.where(gains & reached, length_of(others, norm), np.inf).min(axis=0)
    assert (length_of(step, norm) <= lengths + 1e-12).all()


@every_norm
def test_a_step_without_limits_has_the_length_of_the_value_over_the_dual_norm(norm: Norm) -> None:
    g = np.array([[3.0, -4.0, 0.0]])
    step, reached = onto_half_space(g, np.array([2.0]), np.full(3, -np.inf), np.full(3, np.inf), norm)
    dual = {LinfBall: 7.0, L2Ball: 5.0, L1Ball: 4.0}[norm]
    assert reached.all() and length_of(step, norm)[0] == pytest.approx(2.0 / dual)


@every_norm
def test_the_steepest_direction_has_length_one_and_rises_most(norm: Norm) -> None:
    rng = np.random.default_rng(0)
    g = rng.normal(size=(50, 5))
    direction = unit_steepest(g, norm)
    np.testing.assert_allclose(length_of(direction, norm), 1.0)
    others = rng.normal(size=(3000, 5))
    others /= length_of(others, norm)[:, None]
    assert ((g * direction).sum(axis=1) >= (g @ others.T).max(axis=1) - 1e-9).all()
    np.testing.assert_array_equal(unit_steepest(np.zeros((1, 5)), norm), 0.0)


@every_norm
@pytest.mark.parametrize("options", [{}, PUBLISHED], ids=["drawn", "published"])
def test_deepfool_is_exact_on_linear_classifiers(norm: Norm, options: dict[str, object]) -> None:
    rng = np.random.default_rng(1)
    matrix, bias = rng.normal(size=(4, 6)), rng.normal(size=4)
    net = linear_network(matrix, bias)
    x, labels = labelled(net, 2, 8)
    found = attack_images(net, x, labels, DeepFool(norm=norm, overshoot=1e-9, **options))  # type: ignore[arg-type]
    dual = {LinfBall: 1, L2Ball: 2, L1Ball: np.inf}[norm]
    for i, label in enumerate(labels):
        y = net.forward(x[i])
        exact = min((y[label] - y[j]) / np.linalg.norm(matrix[label] - matrix[j], dual) for j in range(4) if j != label)
        assert found.success[i] and found.distance[i] == pytest.approx(exact, rel=1e-6)


@every_norm
def test_deepfool_draws_nearer_than_the_published_attack_and_keeps_within_the_clip(norm: Norm) -> None:
    net = skip_network(3, n=20, hidden=(30, 20), outputs=4)
    x, labels = labelled(net, 4, 10)
    plain = attack_images(net, x, labels, DeepFool(norm=norm, **PUBLISHED), clip=(0, 1))  # type: ignore[arg-type]
    drawn = attack_images(net, x, labels, DeepFool(norm=norm), clip=(0, 1))
    assert ((drawn.clipped >= 0) & (drawn.clipped <= 1)).all() and plain.success.any()
    assert (drawn.distance <= plain.distance * (1 + 1e-9)).all() and (drawn.success | ~plain.success).all()


@every_norm
def test_no_attack_comes_nearer_than_the_exact_minimum(norm: Norm) -> None:
    net = skip_network(5, n=3, hidden=(5, 4))
    x, labels = labelled(net, 6, 2)
    for point, label in zip(x, labels, strict=True):
        method = Radius(relative_gap=1e-2, bisections=4)
        exact = minimum_epsilon(net, point, int(label), ball=norm, eps_max=5.0, time_limit_s=20, method=method)
        for attack in (DeepFool(), Pgd(samples=64, rounds=1), Fgsm(), IterativeFgsm(steps=20)):
            found = attack_radius(net, point, int(label), attack, ball=norm, eps_max=5.0)
            assert found.upper >= exact.lower
            assert found.witness is None or found.witness.replay.confirmed
        assert attack_radius(net, point, int(label), ball=norm, eps_max=5.0).upper <= 1.5 * exact.upper


def test_success_is_what_the_network_says_at_the_clipped_points() -> None:
    net = convolution_network(7)
    x, labels = labelled(net, 8, 6)
    for attack in (DeepFool(norm=LinfBall), Fgsm(), IterativeFgsm(), Pgd(rounds=1, samples=0)):
        found = attack_images(net, x, labels, attack, eps=0.05, clip=(0, 1))
        assert found.raw.shape == found.clipped.shape == x.shape
        assert (np.abs(found.clipped - x) <= 0.05 + 1e-12).all()
        y = net.forward(found.clipped)
        margin = y[np.arange(6), labels] - np.where(np.eye(3)[labels] > 0, -np.inf, y).max(axis=1)
        np.testing.assert_array_equal(found.success, margin <= 0)
        np.testing.assert_array_equal(np.isfinite(found.distance), found.success)


def test_deepfool_without_eps_is_its_raw_result() -> None:
    net = skip_network(9)
    x, labels = labelled(net, 10, 5)
    free = attack_images(net, x, labels, DeepFool())
    np.testing.assert_array_equal(free.raw, free.clipped)
    limited = attack_images(net, x, labels, DeepFool(), eps=float(np.median(free.distance)))
    np.testing.assert_array_equal(limited.raw, free.raw)
    np.testing.assert_array_equal(limited.success, free.distance <= np.median(free.distance) * (1 + 1e-9))


@every_norm
def test_a_targeted_attack_ends_at_its_target(norm: Norm) -> None:
    net = skip_network(11, n=20, hidden=(30, 20), outputs=4)
    x, labels = labelled(net, 12, 6)
    targets = (labels + 2) % 4
    found = attack_images(net, x, labels, DeepFool(norm=norm), targets=targets)
    y, rows = net.forward(found.clipped), np.arange(6)
    assert found.success.all() and (y[rows, targets] >= y[rows, labels]).all()
    any_class = attack_images(net, x, labels, DeepFool(norm=norm))
    assert (any_class.distance <= found.distance * 1.2).all()


def test_gradients_of_all_margins_are_those_of_one_at_a_time() -> None:
    net = convolution_network(13)
    x, _ = labelled(net, 14, 3)
    rows = np.random.default_rng(0).normal(size=(3, 5, 3))
    _, margins, gradients = margins_and_gradients(net, x, rows)
    h = 1e-6
    for i in range(3):
        np.testing.assert_allclose(margins[i], rows[i] @ net.forward(x[i]))
        for j in range(0, 25, 6):
            step = h * np.eye(25)[j]
            slope = rows[i] @ (net.forward(x[i] + step) - net.forward(x[i] - step)) / (2 * h)
            np.testing.assert_allclose(gradients[i, :, j], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("objective", [MarginToTarget(), TargetAgainstOthers()], ids=["margin", "others"])
@pytest.mark.parametrize("norm", [None, *NORMS.values()])
def test_iterative_fgsm_improves_on_its_start_within_the_ball(norm: Norm | None, objective: MarginToTarget) -> None:
    net = skip_network(15, n=30, hidden=(20, 20), outputs=4)
    x, labels = labelled(net, 16, 1)
    row = np.zeros((1, 4))
    row[0, labels[0]], row[0, (labels[0] + 1) % 4] = 1.0, -1.0
    for ball in NORMS.values():
        one = case(ball(x[0], 0.2, clip=(0, 1)), row.tolist(), [-50.0])
        result = IterativeFgsm(steps=30, step_size=0.1, norm=norm, objective=objective).attack(net, one)
        assert one.region.contains(result.x) or np.allclose(one.region.project(result.x), result.x)
        assert result.slack == pytest.approx(slack_at(net, one, result.x))
        assert result.slack < slack_at(net, one, x[0])


def test_many_small_steps_do_at_least_as_well_as_one_on_a_linear_function() -> None:
    net = linear_network(np.array([[1.0, -2.0, 0.5]]), np.zeros(1))
    for ball in (LinfBall, L2Ball):
        one = case(ball(np.zeros(3), 0.7, clip=(-0.5, 0.6)), [[1.0]], [-50.0])
        least = Fgsm().attack(net, one).slack
        assert IterativeFgsm(steps=200, step_size=0.05).attack(net, one).slack == pytest.approx(least, abs=1e-3)


def test_the_target_against_all_others_is_their_sum() -> None:
    rows = TargetAgainstOthers().rows(np.array([[[1.0, 0.0, -1.0, 0.0]]]))
    np.testing.assert_array_equal(rows, [[[1.0, 1.0, -1.0, 1.0]]])
    with pytest.raises(PropertyError, match="TargetAgainstOthers"):
        TargetAgainstOthers().rows(np.array([[[1.0, 0.5, -1.0]]]))


def test_a_network_that_cannot_be_fooled_is_not() -> None:
    hidden = affine([(0, Dense(np.ones((1, 2))))], np.zeros(1))
    net = Network((2,), (2,), (hidden,), affine([(1, Dense(np.zeros((2, 1))))], np.array([1.0, 0.0])))
    found = attack_images(net, np.full((1, 2), 0.5), [0], DeepFool(), clip=(0, 1))
    assert not found.success[0] and found.distance[0] == np.inf
    assert attack_radius(net, np.full(2, 0.5), 0, clip=(0, 1)).upper == np.inf


def test_a_misclassified_input_is_adversarial_at_distance_zero() -> None:
    net = skip_network(17)
    x, labels = labelled(net, 18, 4)
    found = attack_images(net, x, (labels + 1) % 3, DeepFool(), clip=(0, 1))
    assert found.success.all() and (found.distance == 0).all()
    assert attack_radius(net, x[0], int(labels[0] + 1) % 3, clip=(0, 1)).upper == 0.0


def test_what_does_not_fit_is_refused() -> None:
    net, x = skip_network(0), np.full((2, 3), 0.5)
    with pytest.raises(NetworkError, match="reads 3 values"):
        attack_images(net, np.zeros(4), [0], DeepFool())
    with pytest.raises(NetworkError, match="NaN"):
        attack_images(net, np.full(3, np.nan), [0], DeepFool())
    with pytest.raises(PropertyError, match="labels"):
        attack_images(net, x, [0, 1, 2], DeepFool())
    with pytest.raises(PropertyError, match=r"0\.\.2"):
        attack_images(net, x, [0, 3], DeepFool())
    with pytest.raises(PropertyError, match="own label"):
        attack_images(net, x, [0, 1], DeepFool(), targets=[1, 1])
    with pytest.raises(RegionError, match="outside the clip"):
        attack_images(net, x + 1, [0, 0], DeepFool(), clip=(0, 1))
    with pytest.raises(OptionError, match="Give eps"):
        attack_images(net, x, [0, 0], Fgsm())
    with pytest.raises(OptionError, match="is no ball"):
        attack_radius(net, x[0], 0, ball=int, clip=(0, 1))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="attack_radius: expected an attack"):
        attack_radius(net, x[0], 0, "deepfool", clip=(0, 1))  # type: ignore[arg-type]
    with pytest.raises(RegionError, match="attack_radius: without a clip"):
        attack_radius(net, x[0], 0)
    for options in ({"steps": 0}, {"overshoot": -1.0}, {"draws": -1}, {"passes": 0}, {"longest_step": 0.0}):
        with pytest.raises(OptionError, match=next(iter(options))):
            DeepFool(**options)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="names no norm"):
        DeepFool(norm=Box)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="steps=0"):
        IterativeFgsm(steps=0)
    with pytest.raises(OptionError, match="names no norm"):
        IterativeFgsm(norm=Box)  # type: ignore[arg-type]


def test_a_step_beyond_what_lies_on_the_way_does_not_hide_it() -> None:
    # y_0 - y_1 = |x - 0.2| - 0.1 is negative between 0.1 and 0.3 alone: a step to the edge of a wide ball misses it.
    hidden = affine([(0, Dense(np.array([[1.0], [-1.0]])))], np.array([-0.2, 0.2]))
    output = affine([(1, Dense(np.array([[1.0, 1.0], [0.0, 0.0]])))], np.array([-0.1, 0.0]))
    net = Network((1,), (2,), (hidden,), output)
    found = attack_radius(net, np.zeros(1), 0, Fgsm(), eps_max=1.0)
    assert 0.1 <= found.upper <= 0.1 * 1.01
