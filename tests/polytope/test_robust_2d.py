"""The dual bound that networks are trained on is the package's, and autograd differentiates it."""

import sys
from dataclasses import replace

import numpy as np
import pytest

import milpverify as mv
from tests.paths import ROOT

torch = pytest.importorskip("torch")
sys.path.insert(0, str(ROOT / "benchmarks"))
robust_2d = pytest.importorskip("robust_2d")

RECIPE = robust_2d.Recipe(widths=(2, 12, 12, 12, 2), n_points=9, steps=60)


@pytest.fixture(scope="module")
def problem():
    points, labels = robust_2d.spread_points(RECIPE)
    return points, labels, robust_2d.make_model(replace(RECIPE, seed=3)).double().eval()


def test_points_are_apart_and_in_the_square():
    points, labels = robust_2d.spread_points(robust_2d.Recipe())
    apart = np.abs(points[:, None] - points[None]).max(axis=2)[~np.eye(50, dtype=bool)]
    assert points.shape == (50, 2) and apart.min() >= 0.08 and (points >= 0).all() and (points <= 1).all()
    assert set(labels.tolist()) == {0, 1}


@pytest.mark.parametrize("eps", [0.0, 0.05, 0.3])
def test_the_dual_bound_is_that_of_the_package(problem, eps):
    points, labels, model = problem
    rows = robust_2d.margin_rows(torch.tensor(labels), torch.float64)
    with torch.no_grad():
        mine = robust_2d.dual_lower(model, torch.tensor(points), eps, rows).numpy()
    boxes = mv.BoxBatch(points - eps, points + eps)
    net = mv.from_torch(model, input_shape=(2,))
    theirs = mv.bound_batch(net, boxes, rows.numpy(), mv.FastLin(intersect=False)).value
    assert np.abs(mine - theirs).max() <= 1e-9 * max(1.0, np.abs(theirs).max())


def test_the_gradient_is_that_of_differences(problem):
    points, labels, model = problem
    x, rows = torch.tensor(points), robust_2d.margin_rows(torch.tensor(labels), torch.float64)
    weight = model[2].weight
    (gradient,) = torch.autograd.grad(robust_2d.dual_lower(model, x, 0.05, rows).sum(), weight)
    direction = torch.tensor(np.random.default_rng(0).normal(size=tuple(weight.shape)))
    step, values = 1e-6, []
    with torch.no_grad():
        for sign in (1.0, -1.0):
            weight += sign * step * direction
            values.append(float(robust_2d.dual_lower(model, x, 0.05, rows).sum()))
            weight -= sign * step * direction
    slope = float((gradient * direction).sum())
    assert slope != 0.0 and abs((values[0] - values[1]) / (2 * step) - slope) <= 1e-4 * abs(slope)


def test_training_on_the_bound_raises_it():
    points, labels = robust_2d.spread_points(RECIPE)
    x, rows = torch.tensor(points, dtype=torch.float32), robust_2d.margin_rows(torch.tensor(labels))
    before, after = robust_2d.make_model(RECIPE), robust_2d.train(RECIPE, points, labels, robust=True)
    with torch.no_grad():
        worst = [
            float(
                torch.nn.functional.cross_entropy(-robust_2d.dual_lower(m, x, RECIPE.eps, rows), torch.tensor(labels))
            )
            for m in (before, after)
        ]
    assert worst[1] < worst[0]


def test_the_verifier_never_finds_an_example_where_the_bound_certifies():
    points, labels = robust_2d.spread_points(RECIPE)
    model = robust_2d.train(RECIPE, points, labels, robust=False)
    judged = robust_2d.judge("standard", model, points, labels, 0.03, 0.0)
    assert not judged.contradicts and len(judged.words) == 9
    assert judged.words.count("sat") == len(judged.witnesses)
    for witness in judged.witnesses:
        near = np.abs(points - witness).max(axis=1).argmin()
        y = judged.net.forward(witness)
        assert np.abs(points[near] - witness).max() <= 0.03 + 1e-12 and y[labels[near]] <= y[1 - labels[near]] + 1e-9
