"""Attacks on batches as users of foolbox or torchattacks call them: torch arrays, clips, norms, clear errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attack_cases import linear_network, skip_network

from milpverify.attack.deepfool import DeepFool
from milpverify.attack.fgsm import Fgsm
from milpverify.attack.images import attack_images
from milpverify.attack.iterative_fgsm import IterativeFgsm
from milpverify.attack.objective import TargetAgainstOthers
from milpverify.attack.steps import Norm, onto_half_space
from milpverify.errors import OptionError, PropertyError, RegionError
from milpverify.spec.regions import Box, L1Ball, L2Ball, LinfBall

every_norm = pytest.mark.parametrize("norm", [LinfBall, L2Ball, L1Ball])


def test_torch_images_give_what_numpy_images_give() -> None:
    net = skip_network(1)
    x = np.random.default_rng(2).uniform(0.1, 0.9, (4, 3)).astype(np.float32)
    labels = net.forward(x.astype(float)).argmax(axis=1)
    for attack in (DeepFool(), Fgsm()):
        ours = attack_images(net, x, labels, attack, eps=0.1, clip=(0, 1))
        images = torch.tensor(x).reshape(4, 1, 3, 1).requires_grad_(True)
        theirs = attack_images(net, images, torch.tensor(labels), attack, eps=0.1, clip=(0, 1))
        np.testing.assert_array_equal(theirs.raw, ours.raw)
        np.testing.assert_array_equal(theirs.success, ours.success)


def test_raw_points_know_no_eps_and_clipped_ones_keep_to_it() -> None:
    net = skip_network(3, n=20, hidden=(30, 20), outputs=4)
    x = np.random.default_rng(4).uniform(0.1, 0.9, (6, 20))
    labels = net.forward(x).argmax(axis=1)
    free = attack_images(net, x, labels, DeepFool(norm=L2Ball), clip=(0, 1))
    eps = float(np.median(free.distance))
    tight = attack_images(net, x, labels, DeepFool(norm=L2Ball), eps=eps, clip=(0, 1))
    np.testing.assert_array_equal(tight.raw, free.raw)
    assert (np.linalg.norm(tight.clipped - x, axis=1) <= eps * (1 + 1e-9)).all()
    assert (np.isinf(tight.distance) | (tight.distance <= eps * (1 + 1e-9))).all()
    np.testing.assert_array_equal(tight.success, free.distance <= eps)


def test_a_target_against_all_others_comes_out_on_top() -> None:
    net = linear_network(np.eye(3), np.zeros(3))
    attack = IterativeFgsm(steps=40, step_size=0.1, objective=TargetAgainstOthers())
    found = attack_images(net, [[1.0, 0.5, 0.0]], [0], attack, eps=0.6, targets=[2])
    y = net.forward(found.clipped)[0]
    assert found.success[0] and y[2] >= y[0]


@every_norm
def test_walks_to_each_target_find_more_and_nearer_points_than_walks_to_the_nearest(norm: Norm) -> None:
    each, nearest = [], []
    for seed in range(12):
        net = skip_network(seed, n=10, hidden=(15, 10), outputs=6)
        x = np.random.default_rng(seed).uniform(0.1, 0.9, (4, 10))
        labels = net.forward(x).argmax(axis=1)
        each.append(attack_images(net, x, labels, DeepFool(norm=norm), clip=(0, 1)).distance)
        nearest.append(attack_images(net, x, labels, DeepFool(norm=norm, each_target=False), clip=(0, 1)).distance)
    a, b = np.concatenate(each), np.concatenate(nearest)
    assert not (np.isinf(a) & np.isfinite(b)).any()
    both = np.isfinite(b)
    assert a[both].mean() <= b[both].mean() and (a[both] < b[both] * (1 - 1e-6)).any()


@every_norm
@pytest.mark.parametrize("power", [-600, -100, 100, 600])
def test_steps_do_not_depend_on_the_scale_of_the_gradient(norm: Norm, power: int) -> None:
    rng = np.random.default_rng(5)
    g, value = rng.normal(size=(20, 4)), rng.uniform(0.1, 2, 20)
    for low, high in ((-0.5, 0.7), (-np.inf, np.inf)):
        sides = np.full(4, low), np.full(4, high)
        step, reached = onto_half_space(g, value, *sides, norm)
        scaled, still = onto_half_space(2.0**power * g, 2.0**power * value, *sides, norm)
        np.testing.assert_array_equal(still, reached)
        np.testing.assert_allclose(scaled, step, rtol=1e-12, atol=1e-15)


@every_norm
def test_a_boundary_beyond_all_floats_is_not_walked_to(norm: Norm) -> None:
    net = linear_network(np.array([[1e-300, 0.0], [0.0, 0.0]]), np.array([1e300, 0.0]))
    found = attack_images(net, [[0.0, 0.0]], [0], DeepFool(norm=norm))
    assert np.isfinite(found.raw).all() and not found.success[0] and found.distance[0] == np.inf


def test_what_does_not_fit_is_refused_in_so_many_words() -> None:
    net, x = skip_network(0), np.full((2, 3), 0.5)
    with pytest.raises(OptionError, match="works on numpy operators"):
        attack_images(net.to_torch(), x, 0, DeepFool())
    with pytest.raises(OptionError, match="names no norm"):
        attack_images(net, x, 0, Fgsm(), eps=0.1, ball=Box)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="expected an attack"):
        attack_images(net, x, 0, "deepfool")  # type: ignore[arg-type]
    for clip in ((1, 0), (np.nan, 1)):
        with pytest.raises(RegionError, match="expected a clip"):
            attack_images(net, x, 0, DeepFool(), clip=clip)
    with pytest.raises(PropertyError, match=r"0\.\.2, got -1"):
        attack_images(net, x, [2, -1], DeepFool())
