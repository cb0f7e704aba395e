"""Losses: their gradients, and that those on bounds are never below the loss at any point of the ball."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from milpverify.bounds.backward import Crown
from milpverify.errors import OptionError
from milpverify.training.attack import PgdAscent, project
from milpverify.training.ball import BallBatch, Norm
from milpverify.training.losses import (
    AdversarialLoss,
    Batch,
    DualLoss,
    IntervalLoss,
    Loss,
    StandardLoss,
    robust_cross_entropy,
    robust_hinge,
    unproven,
)
from milpverify.training.relaxation import LiveProblem, RowBounds
from milpverify.training.twin import Twin
from tests.training.training_cases import SHAPE, images, modules

NORMS = [Norm(), Norm(clip=None), Norm(2.0, None), Norm(2.0), Norm(1.0, None), Norm(1.0)]
LOSSES: dict[str, Loss] = {
    "standard": StandardLoss(),
    "interval": IntervalLoss(),
    "interval, no clean loss": IntervalLoss(clean_share=0.0),
    "dual": DualLoss(),
    "dual, hinge": DualLoss(hinge=True),
    "dual, clean loss": DualLoss(clean_share=0.3),
    "dual, CROWN": DualLoss(method=Crown),
}


@lru_cache(maxsize=4)
def twin_of(module: nn.Module) -> Twin:
    """Reading the structure takes long next to what the tests do with it."""
    return Twin(module, SHAPE)


def batch(module: nn.Module, eps: float = 0.1, norm: Norm | None = None, count: int = 6) -> Batch:
    data = images(count)
    x, y = torch.tensor(data.images, dtype=torch.float64), torch.tensor(data.labels)
    draw = torch.Generator().manual_seed(0)
    return Batch(module, twin_of(module), x, y, eps, norm or Norm(), generator=draw)


def slope_by_differences(module: nn.Module, value: Callable[[], float], direction: list[Tensor], h: float) -> float:
    """(f(theta + h v) - f(theta - h v)) / 2h, the parameters as before afterwards."""
    ends = []
    for sign in (1.0, -2.0):
        with torch.no_grad():
            for p, v in zip(module.parameters(), direction, strict=True):
                p.add_(v, alpha=sign * h)
        ends.append(value())
    with torch.no_grad():
        for p, v in zip(module.parameters(), direction, strict=True):
            p.add_(v, alpha=h)
    return (ends[0] - ends[1]) / (2 * h)


def check_gradient(module: nn.Module, loss: Callable[[], Tensor], seed: int = 0) -> None:
    gradient = torch.autograd.grad(loss(), list(module.parameters()))
    draw = torch.Generator().manual_seed(seed)
    for _ in range(3):
        direction = [torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in module.parameters()]
        slope = float(sum((g * v).sum() for g, v in zip(gradient, direction, strict=True)))
        found = slope_by_differences(module, lambda: loss().item(), direction, 1e-7)
        assert abs(slope) > 1e-3  # else the comparison says nothing
        assert found == pytest.approx(slope, rel=2e-5, abs=1e-6)


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str, norm: Norm) -> None:
    module = modules()["dense"]
    check_gradient(module, lambda: LOSSES[name](batch(module, norm=norm)).loss)


@pytest.mark.parametrize("structure", ["convolution", "skip"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_other_structures_are_those_of_finite_differences(name: str, structure: str) -> None:
    module = modules()[structure]
    check_gradient(module, lambda: LOSSES[name](batch(module)).loss)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_adversarial_gradient_is_that_of_the_loss_at_the_points_found(share: float) -> None:
    module = modules()["dense"]
    b = batch(module)
    cross_entropy = nn.functional.cross_entropy
    found = PgdAscent().maximise(
        lambda x: cross_entropy(b.scores(x), b.y, reduction="none"), b.balls, torch.Generator().manual_seed(0)
    )
    value = AdversarialLoss(clean_share=share)(b).loss
    gradient = torch.autograd.grad(value, list(module.parameters()))

    def at_points() -> Tensor:
        clean = cross_entropy(b.scores(b.x), b.y)
        return share * clean + (1 - share) * cross_entropy(b.scores(found), b.y)

    assert value.item() == pytest.approx(at_points().item(), rel=1e-12)
    expected = torch.autograd.grad(at_points(), list(module.parameters()))
    for a, e in zip(gradient, expected, strict=True):
        torch.testing.assert_close(a, e)
    check_gradient(module, at_points)


@pytest.mark.parametrize("norm", [Norm(clip=None), Norm(2.0, None), Norm(1.0, None)], ids=str)
def test_the_adversarial_gradient_of_a_linear_model_is_that_of_the_exact_maximum(norm: Norm) -> None:
    """Danskin: two classes, one affine map; the worst loss is log(1 + exp(-margin + eps ||w||_q))."""
    torch.manual_seed(1)
    module: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    data = images(8)
    x, y = torch.tensor(data.images, dtype=torch.float64), torch.tensor(data.labels % 2)
    draw = torch.Generator().manual_seed(0)
    b = Batch(module, Twin(module, SHAPE), x, y, 0.1, norm, generator=draw)
    q = {np.inf: 1.0, 2.0: 2.0, 1.0: np.inf}[norm.p]

    def exact() -> Tensor:
        linear = module[1]  # type: ignore[index]
        sign = 1.0 - 2.0 * y.double()
        w, c = linear.weight[0] - linear.weight[1], linear.bias[0] - linear.bias[1]
        margin = sign * (x.reshape(8, -1) @ w + c) - 0.1 * torch.linalg.vector_norm(w, ord=q)
        return torch.nn.functional.softplus(-margin).mean()

    value = AdversarialLoss(PgdAscent(steps=40, step_size=1.0, random_start=False), clean_share=0.0)(b).loss
    assert value.item() == pytest.approx(exact().item(), rel=1e-9)
    parameters = list(module.parameters())
    for a, e in zip(torch.autograd.grad(value, parameters), torch.autograd.grad(exact(), parameters), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("name", [n for n in LOSSES if n not in ("standard", "interval", "dual, clean loss")])
def test_losses_on_bounds_are_never_below_the_loss_at_any_point(name: str, norm: Norm) -> None:
    module = modules()["dense"]
    b, loss = batch(module, norm=norm), LOSSES[name]
    bound = loss(b)
    with torch.no_grad():
        for seed in range(20):
            draw = torch.Generator().manual_seed(seed)
            far = b.balls.centre + 0.3 * torch.randn(b.balls.centre.shape, generator=draw, dtype=torch.float64)
            scores = b.scores(project(far, b.balls))
            margin = (torch.as_tensor(b.rows) @ scores[:, :, None])[:, :, 0]
            hinge = isinstance(loss, DualLoss) and loss.hinge
            at_point = robust_hinge(margin, b.y) if hinge else nn.functional.cross_entropy(scores, b.y)
            assert float(at_point) <= bound.loss.item() + 1e-12
            assert int((scores.argmax(dim=1) != b.y).sum()) <= bound.errors


def test_without_a_radius_every_loss_is_the_clean_one() -> None:
    module = modules()["dense"]
    clean = StandardLoss()(batch(module, eps=0.0)).loss.item()
    for loss in (AdversarialLoss(), IntervalLoss(), DualLoss(), DualLoss(method=Crown)):
        assert loss(batch(module, eps=0.0)).loss.item() == pytest.approx(clean, rel=1e-9)


def test_a_tie_is_not_proven_and_the_hinge_is_the_largest_shortfall() -> None:
    margin, y = torch.tensor([[0.0, 0.5, 0.2], [0.0, 0.0, 4.0], [3.0, 0.0, 2.0]]), torch.tensor([0, 0, 1])
    assert unproven(margin, y) == 1
    assert float(robust_hinge(margin, y)) == pytest.approx((0.8 + 1.0 + 0.0) / 3)
    expected = np.mean([np.log(1 + np.exp(-0.5) + np.exp(-0.2)), np.log(2 + np.exp(-4.0)),
                        np.log(np.exp(-3.0) + 1 + np.exp(-2.0))])  # fmt: skip
    assert float(robust_cross_entropy(margin, y)) == pytest.approx(expected, rel=1e-6)


def test_penalties_are_added_to_the_dual_loss_with_the_bounds_it_rests_on() -> None:
    module = modules()["dense"]

    def width(problem: LiveProblem, found: RowBounds, b: Batch) -> Tensor:
        u: Tensor = problem.upper[0]  # type: ignore[assignment]
        l: Tensor = problem.lower[0]  # type: ignore[assignment]
        return 0.01 * min(b.epoch, 1.0) * (u - l).sum()

    plain = DualLoss()(batch(module)).loss.item()
    assert DualLoss(penalties=(width,))(batch(module)).loss.item() == plain  # epoch 0: not yet warm
    module_1 = modules()["dense"]
    warm = Batch(**{**vars_of(batch(module_1)), "epoch": 1.0})
    added = DualLoss(penalties=(width,))(warm).loss.item() - plain
    # |W| r of the clipped balls, twice, summed over neurons and images
    weight = module_1[1].weight.detach().abs()  # type: ignore[index]
    radius = (warm.balls.upper - warm.balls.lower) / 2
    assert added == pytest.approx(0.01 * float(2 * (radius @ weight.T).sum()), rel=1e-9)
    check_gradient(module_1, lambda: DualLoss(penalties=(width,))(Batch(**{**vars_of(warm)})).loss)


def vars_of(b: Batch) -> dict[str, object]:
    names = ("model", "twin", "x", "y", "eps", "norm", "epoch", "generator")
    return {name: getattr(b, name) for name in names}


@pytest.mark.parametrize("norm", [Norm(), Norm(2.0), Norm(1.0), Norm(2.0, None)], ids=str)
def test_attacked_points_lie_in_the_ball_and_raise_the_loss(norm: Norm) -> None:
    module = modules()["dense"]
    b = batch(module, eps=0.3, norm=norm)
    loss = lambda x: nn.functional.cross_entropy(b.scores(x), b.y, reduction="none")  # noqa: E731
    x = PgdAscent(steps=20).maximise(loss, b.balls, torch.Generator().manual_seed(0))
    gap = torch.linalg.vector_norm(x - b.balls.centre, ord=norm.p, dim=1)
    assert float(gap.max()) <= 0.3 + 1e-9
    if norm.clip is not None:
        assert float(x.min()) >= 0 and float(x.max()) <= 1
    assert loss(x).mean().item() > loss(b.balls.centre).mean().item()


def test_projection_onto_an_l1_ball_is_the_nearest_point() -> None:
    """Optimality of a projection: (x - p).(q - p) <= 0 for every q of the ball."""
    draw = torch.Generator().manual_seed(4)
    x = torch.randn((5, 16), generator=draw, dtype=torch.float64)
    balls = BallBatch(torch.zeros_like(x), 0.7, Norm(1.0, None))
    p = project(x, balls)
    torch.testing.assert_close(p.abs().sum(dim=1), torch.full((5,), 0.7, dtype=torch.float64))
    corners = 0.7 * torch.cat([torch.eye(16), -torch.eye(16)]).double()
    assert float(((x - p)[:, None, :] * (corners[None] - p[:, None, :])).sum(dim=2).max()) <= 1e-12


@pytest.mark.parametrize("make", [AdversarialLoss, IntervalLoss, DualLoss])
def test_shares_outside_0_to_1_are_refused(make: type) -> None:
    with pytest.raises(OptionError, match="clean_share"):
        make(clean_share=1.5)
