"""The bounds that training differentiates are those that the verifier proves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import milpverify as mv
from milpverify.bounds.backward import Backward, Crown, FastLin
from milpverify.errors import NetworkError, OptionError, UnsupportedError
from milpverify.spec.regions import Region
from milpverify.training.ball import BallBatch, Norm
from milpverify.training.relaxation import dual_rows, interval_rows, with_dual_bounds, with_interval_bounds
from milpverify.training.twin import Twin, forward
from tests.network.torch_cases import CASES, TorchCase
from tests.training.training_cases import CLASSES, SHAPE, modules

NAMES = ("dense", "convolution", "skip")
BALLS = {np.inf: mv.LinfBall, 2.0: mv.L2Ball, 1.0: mv.L1Ball}


def centres(count: int = 4) -> torch.Tensor:
    return torch.rand((count, 16), generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def rows(count: int = 4) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(count, 5, CLASSES))


def region(x: torch.Tensor, eps: float, norm: Norm) -> Region:
    return BALLS[norm.p](x.numpy(), eps, clip=norm.clip)


@pytest.mark.parametrize("name", NAMES)
def test_the_live_form_computes_what_the_module_does(name: str) -> None:
    module = modules()[name]
    x = centres()
    expected = module(x.reshape(-1, *SHAPE))
    torch.testing.assert_close(forward(Twin(module, SHAPE).layers(), x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # index arrays, which nobody writes
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_live_form_of_any_module_computes_the_same_or_is_refused(case: TorchCase) -> None:
    module = case.module().double()
    try:
        twin = Twin(module, case.shape)
    except NetworkError as error:
        assert str(error).startswith("Twin: ")
        return
    x = torch.rand((3, *case.shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        found, expected = forward(twin.layers(), x.reshape(3, -1)), module(x.clone()).reshape(3, -1).double()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # one module casts to float32 and back


def test_most_plain_modules_can_be_trained() -> None:
    plain = ("linear", "dense net", "conv1d", "conv2d", "conv2d valid", "linear without bias, several rows")
    for case in CASES:
        if case.name in plain:
            Twin(case.module(), case.shape)
    assert set(plain) <= {case.name for case in CASES}


@pytest.mark.parametrize("name", NAMES)
def test_the_live_form_follows_the_parameters_and_hands_gradients_to_them(name: str) -> None:
    module = modules()[name]
    twin = Twin(module, SHAPE)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(-0.7).add_(0.1)
    x = centres()
    module(x.reshape(-1, *SHAPE)).square().sum().backward()
    expected = [p.grad for p in module.parameters()]
    found = torch.autograd.grad(forward(twin.layers(), x).square().sum(), list(module.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", [FastLin, Crown])
@pytest.mark.parametrize("norm", [Norm(), Norm(clip=None)], ids=["clip", "free"])
@pytest.mark.parametrize("name", NAMES)
def test_dual_bounds_over_boxes_are_those_of_the_verifier(name: str, norm: Norm, method: type[Backward]) -> None:
    module, x, C = modules()[name], centres(), rows()
    balls = BallBatch(x, 0.15, norm)
    found = dual_rows(with_dual_bounds(Twin(module, SHAPE).layers(), balls, method), C, method).value
    net = mv.from_torch(module.eval(), SHAPE)
    boxes = mv.BoxBatch(balls.lower.numpy(), balls.upper.numpy())
    expected = mv.bound_batch(net, boxes, C, method(intersect=False)).value
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("p", [2.0, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_dual_bounds_over_round_balls_are_those_of_the_verifier(name: str, p: float) -> None:
    module, x, C, norm = modules()[name], centres(), rows(), Norm(p, None)
    found = dual_rows(with_dual_bounds(Twin(module, SHAPE).layers(), BallBatch(x, 0.3, norm)), C).value
    net, method = mv.from_torch(module.eval(), SHAPE), mv.FastLin(intersect=False)
    for i in range(len(x)):
        ball = region(x[i], 0.3, norm)
        expected = mv.bound_rows(net, ball, mv.compute_bounds(net, ball, method), C[i], method).value
        np.testing.assert_allclose(found[i].detach().numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_interval_bounds_are_those_of_the_verifier(name: str) -> None:
    module, C = modules()[name], rows()
    balls = BallBatch(centres(), 0.15, Norm())
    found = interval_rows(with_interval_bounds(Twin(module, SHAPE).layers(), balls), C)
    boxes = mv.BoxBatch(balls.lower.numpy(), balls.upper.numpy())
    expected = mv.bound_batch(mv.from_torch(module.eval(), SHAPE), boxes, C, mv.Interval()).value
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("p", [np.inf, 2.0, 1.0])
@pytest.mark.parametrize("clip", [(0.0, 1.0), None])
def test_minima_over_balls_are_never_above_sampled_points(p: float, clip: tuple[float, float] | None) -> None:
    x, norm = centres(), Norm(p, clip)
    lam = torch.randn((4, 6, 16), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    low = BallBatch(x, 0.3, norm).minimum(lam)
    shared = BallBatch(x, 0.3, norm).minimum(lam[0])
    for i in range(len(x)):
        ball = region(x[i], 0.3, norm)
        points = torch.as_tensor(ball.sample(np.random.default_rng(0), 200))
        assert (low[i] <= (lam[i] @ points.T).amin(dim=1) + 1e-12).all()
        torch.testing.assert_close(shared[i], BallBatch(x, 0.3, norm).minimum(lam[:1].expand(4, -1, -1))[i])
        exact = torch.as_tensor(ball.minimum(lam[i].numpy()))
        assert (low[i] <= exact + 1e-9).all()
        if clip is None or np.isinf(p):
            torch.testing.assert_close(low[i], exact, rtol=1e-9, atol=1e-9)


def test_a_batch_norm_is_refused() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, CLASSES))
    with pytest.raises(UnsupportedError, match="batch-norm"):
        Twin(module, SHAPE)


def test_parameters_that_are_not_finite_are_refused() -> None:
    module = modules()["dense"]
    with torch.no_grad():
        next(module.parameters())[0, 0] = float("nan")
    with pytest.raises(NetworkError, match="finite"):
        Twin(module, SHAPE)


def test_a_module_without_parameters_is_refused() -> None:
    with pytest.raises(NetworkError, match="no parameters"):
        Twin(nn.Flatten(), SHAPE)


@pytest.mark.parametrize("norm", [{"p": 3.0}, {"clip": (1.0, 0.0)}])
def test_norms_that_make_no_sense_are_refused(norm: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        Norm(**norm)  # type: ignore[arg-type]
