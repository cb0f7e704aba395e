"""The indicators d and r: never below the bound's true gap, zero where the relaxation is exact, and differentiable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import milpverify as mv
from milpverify.bounds.backward import Crown
from milpverify.errors import OptionError
from milpverify.training.ball import BallBatch, Norm
from milpverify.training.losses import DualLoss
from milpverify.training.relaxation import dual_rows, with_dual_bounds
from milpverify.training.tightness import TightnessPenalty, indicators
from milpverify.training.twin import Twin
from tests.training.test_losses import batch, check_gradient
from tests.training.training_cases import CLASSES, SHAPE, modules

NORMS = [Norm(), Norm(clip=None), Norm(2.0, None), Norm(1.0, None)]


def found(module: nn.Module, eps: float, norm: Norm, C: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """p, d and r of rows over balls around a few points."""
    x = torch.rand((len(C), 16), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    problem = with_dual_bounds(Twin(module, SHAPE).layers(), BallBatch(x, eps, norm))
    bounds = dual_rows(problem, C)
    d, r = indicators(problem, bounds, torch.as_tensor(C))
    return bounds.value.detach(), d.detach(), r.detach()


def rows(count: int = 4) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(count, 2, CLASSES))


@pytest.mark.parametrize("name", ["dense", "convolution", "skip"])
def test_d_is_at_least_the_gap_to_the_exact_minimum(name: str) -> None:
    module, C = modules()[name], rows()
    x = torch.rand((len(C), 16), generator=torch.Generator().manual_seed(5), dtype=torch.float64).numpy()
    p, d, r = found(module, 0.2, Norm(), C)
    assert (r >= 0).all()
    net = mv.from_torch(module.eval(), SHAPE)
    for i in range(len(C)):
        ball = mv.LinfBall(x[i], 0.2, clip=(0, 1))
        for j in range(C.shape[1]):
            case = mv.Case(ball, mv.Polyhedron(C[i, j][None], np.zeros(1)), "row")
            exact = mv.worst_margin(net, mv.Property((case,), net.n_inputs, net.n_outputs))
            gap = exact.lower - float(p[i, j])
            assert -1e-9 <= gap <= float(d[i, j]) + 1e-6
            if r[i, j] <= 1e-12:
                assert abs(gap) <= 1e-6


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_where_every_neuron_is_stable_both_vanish(norm: Norm) -> None:
    p, d, r = found(modules()["dense"], 1e-7, norm, rows())
    assert float(d.abs().max()) <= 1e-12 and float(r.max()) <= 1e-12 and torch.isfinite(p).all()


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_wherever_r_vanishes_d_does_and_with_large_balls_neither(norm: Norm) -> None:
    _, d, r = found(modules()["dense"], 0.3 if np.isinf(norm.p) else 1.0, norm, rows(20))
    assert (d >= -1e-10).all()
    assert (d[r <= 1e-12].abs() <= 1e-9).all()
    assert float(d.max()) > 1e-2 and float(r.max()) > 1e-2


def test_one_neuron_by_hand() -> None:
    """y = -relu(x) on [-1, 1]: z <= x/2 + 1/2, so p = -1 at x* = 1, where z* = 1 = relu(1): exact, d = r = 0.

    y = relu(x): z >= x/2, so p = -1/2 at x* = -1, where z* = -1/2 and relu = 0: d = r = 1/2.
    """
    module = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2)).double()
    with torch.no_grad():
        module[1].weight.fill_(1.0)
        module[1].bias.zero_()
        module[3].weight.copy_(torch.tensor([[-1.0], [1.0]]))
        module[3].bias.zero_()
    balls = BallBatch(torch.zeros((1, 1), dtype=torch.float64), 1.0, Norm(clip=None))
    problem = with_dual_bounds(Twin(module, (1,)).layers(), balls)
    C = np.eye(2)[None]
    bounds = dual_rows(problem, C)
    d, r = indicators(problem, bounds, torch.as_tensor(C))
    assert bounds.value.tolist() == [[-1.0, -0.5]]
    assert d.tolist() == [[0.0, 0.5]] and r.tolist() == [[0.0, 0.5]]


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.3, 0.2)])
@pytest.mark.parametrize("norm", [Norm(), Norm(2.0, None), Norm(1.0, None)], ids=str)
def test_gradients_of_the_penalised_loss_are_those_of_finite_differences(
    norm: Norm, weights: tuple[float, float]
) -> None:
    module = modules()["dense"]
    eps = 0.3 if np.isinf(norm.p) else 1.0
    loss = DualLoss(penalties=(TightnessPenalty(*weights),))
    assert loss(batch(module, eps, norm)).loss.item() > DualLoss()(batch(module, eps, norm)).loss.item()
    check_gradient(module, lambda: loss(batch(module, eps, norm)).loss)


def test_the_penalty_waits_and_grows_on_a_line() -> None:
    penalty = TightnessPenalty(1.0, 1.0, wait=2, ramp=4)
    assert [penalty.strength(e) for e in (0, 2, 4, 6, 9)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert [TightnessPenalty(1.0, wait=2).strength(e) for e in (1.9, 2)] == [0.0, 1.0]


def test_penalties_that_make_no_sense_are_refused() -> None:
    for bad in ({"weight_d": -1.0}, {"weight_r": float("nan")}, {"ramp": float("inf")}):
        with pytest.raises(OptionError):
            TightnessPenalty(**bad)
    with pytest.raises(OptionError, match="FastLin"):
        DualLoss(method=Crown, penalties=(TightnessPenalty(1.0),))
