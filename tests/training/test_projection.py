"""Estimated bounds: right in all but the norms, which come nearer with more columns; and never taken for a proof."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from milpverify.bounds.backward import Crown
from milpverify.errors import CheckpointError, OptionError
from milpverify.tasks.progress import Progress
from milpverify.training.ball import BallBatch, Norm
from milpverify.training.losses import Batch, DualLoss, StandardLoss, robust_cross_entropy, unproven
from milpverify.training.models import mlp
from milpverify.training.projection import (
    RandomProjections,
    estimated_layers,
    with_estimated_bounds,
)
from milpverify.training.relaxation import LiveProblem, dual_limits, dual_rows, with_dual_bounds
from milpverify.training.schedule import EpsSchedule
from milpverify.training.tightness import TightnessPenalty
from milpverify.training.trainer import Trainer
from milpverify.training.twin import LiveAffine, Twin
from tests.training.test_losses import batch, check_gradient
from tests.training.training_cases import CLASSES, SHAPE, images, modules

NAMES = ("deep", "convolution", "skip")
NORMS = [Norm(), Norm(clip=None), Norm(2.0, None)]
COLUMNS = RandomProjections(5)
DATA = images(60, 0)


@dataclass(frozen=True)
class Everywhere(RandomProjections):
    """Layers of any width are estimated, so that small ones show what wide ones would."""

    def pays(self, size: int) -> bool:
        return True


@dataclass(frozen=True)
class UnitColumns(Everywhere):
    """A column of its own for every coordinate of the input and of the hidden layers: the norms are exact sums."""

    total: int = 0
    used: list[int] = field(default_factory=list)

    def cauchy(self, count: int, size: int, like: Tensor, generator: Generator | None) -> Tensor:
        columns = like.new_zeros((count, self.total, size))
        first = sum(self.used)
        columns[:, first : first + size] = torch.eye(size, dtype=like.dtype)
        self.used.append(size)
        return columns

    def gaussian(self, count: int, size: int, like: Tensor, generator: Generator | None) -> Tensor:
        return torch.eye(size, dtype=like.dtype).expand(count, size, size)

    def l1(self, products: Tensor) -> Tensor:
        return products.abs().sum(dim=1)

    def l2(self, products: Tensor) -> Tensor:
        return products.square().sum(dim=1).sqrt()


def network(name: str) -> nn.Module:
    if name == "deep":
        return mlp(SHAPE, (8, 7, 6), CLASSES, seed=3).double()
    return modules()[name]


def layers_of(name: str) -> tuple[LiveAffine, ...]:
    return Twin(network(name), SHAPE).layers()


def balls(norm: Norm, count: int = 4, eps: float | None = None) -> BallBatch:
    x = torch.rand((count, 16), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return BallBatch(x, (0.15 if np.isinf(norm.p) else 0.4) if eps is None else eps, norm)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def limits(problem: LiveProblem, k: int) -> tuple[Tensor, Tensor]:
    lower, upper = problem.lower[k - 1], problem.upper[k - 1]
    return torch.as_tensor(lower).detach(), torch.as_tensor(upper).detach()


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_with_exact_norms_the_forward_bounds_are_those_of_the_backward_walk(name: str, norm: Norm) -> None:
    layers = layers_of(name)
    unit = UnitColumns(total=16 + sum(layer.size for layer in layers))
    found = with_estimated_bounds(layers, balls(norm), unit)
    expected = with_dual_bounds(layers, balls(norm))
    assert estimated_layers(layers, unit) == tuple(range(2, len(layers)))
    for k in range(1, len(layers)):
        for a, b in zip(limits(found, k), limits(expected, k), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    free = ((limits(found, 1)[0] < 0) & (limits(found, 1)[1] > 0)).double().mean()
    assert 0.1 < float(free) < 0.9  # stable and unstable neurons below


@pytest.mark.parametrize("name", NAMES)
def test_over_round_balls_the_estimates_leave_out_the_clip(name: str) -> None:
    layers = layers_of(name)
    unit = UnitColumns(total=16 + sum(layer.size for layer in layers))
    found = with_estimated_bounds(layers, balls(Norm(2.0), eps=2.0), unit)
    l, u = limits(found, 2)
    low, high = limits(with_dual_bounds(layers, balls(Norm(2.0), eps=2.0)), 2)
    assert (l <= low + 1e-12).all() and (u >= high - 1e-12).all()
    assert float((u - l).sum()) > float((high - low).sum()) * 1.01


def errors_of_radii(name: str, k: int, norm: Norm, projection: RandomProjections, count: int) -> Tensor:
    """Relative errors of the widths of layer k, where the exact ones are not zero."""
    layers = layers_of(name)
    with torch.no_grad():
        l, u = limits(with_estimated_bounds(layers, balls(norm, count), projection, drawn()), k)
        low, high = limits(with_dual_bounds(layers, balls(norm, count)), k)
    wide = high - low > 1e-9
    return (u - l)[wide] / (high - low)[wide] - 1.0


@pytest.mark.parametrize("median", [False, True])
@pytest.mark.parametrize("name", ["deep", "convolution"])
def test_the_error_of_an_estimate_falls_with_the_root_of_the_columns_at_the_rate_of_theory(
    name: str, median: bool
) -> None:
    expected = math.pi / 2 if median else math.sqrt(2)
    for columns in (100, 1600):
        projection = Everywhere(columns, median)
        error = errors_of_radii(name, 2, Norm(), projection, 60)  # below it everything is exact
        assert float(error.square().mean().sqrt()) * math.sqrt(columns) == pytest.approx(expected, rel=0.25)
        assert abs(float(error.mean())) < 4 * expected / math.sqrt(columns * 60)  # neither too tight nor too loose


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_with_many_columns_all_bounds_come_close_to_the_exact_ones(name: str, norm: Norm) -> None:
    layers = layers_of(name)
    with torch.no_grad():
        found = with_estimated_bounds(layers, balls(norm), Everywhere(20_000), drawn())
        expected = with_dual_bounds(layers, balls(norm))
    for k in range(2, len(layers)):
        low, high = limits(expected, k)
        allowed = 6 * math.sqrt(2 / 20_000) * k * (high - low) / 2  # six deviations, and those of the layers below
        for a, b in zip(limits(found, k), (low, high), strict=True):
            assert ((a - b).abs() <= allowed).all()
            assert float((a - b).abs().max()) > 1e-6  # and they are estimates


def test_the_middle_of_an_estimate_is_exact_whatever_the_columns() -> None:
    layers = layers_of("deep")
    with torch.no_grad():
        l, u = limits(with_estimated_bounds(layers, balls(Norm()), Everywhere(3), drawn()), 2)
        low, high = limits(with_dual_bounds(layers, balls(Norm())), 2)
    torch.testing.assert_close(l + u, low + high, rtol=1e-10, atol=1e-10)
    assert float(((u - l) / (high - low)).log().abs().min()) > 1e-3


def test_the_norm_of_a_round_ball_is_the_root_mean_square_and_has_a_gradient_at_zero() -> None:
    assert RandomProjections().l2(torch.tensor([3.0, -4.0]).reshape(1, 2, 1)).item() == pytest.approx(5 / math.sqrt(2))
    none = torch.zeros((2, 4, 3), requires_grad=True)
    (gradient,) = torch.autograd.grad(RandomProjections().l2(none).sum(), none)
    assert (gradient == 0).all()


def test_columns_are_finite_in_single_precision_and_of_the_distributions_they_stand_for() -> None:
    like = torch.zeros(1)
    cauchy = RandomProjections(400).cauchy(10, 100, like, drawn())
    assert cauchy.dtype == torch.float32 and torch.isfinite(cauchy).all()
    points = torch.tensor([-10.0, -1.0, 0.0, 0.5, 3.0])
    share = (cauchy.reshape(-1, 1) <= points).double().mean(dim=0)
    assert float((share - (0.5 + points.double().atan() / math.pi)).abs().max()) < 4 * 0.5 / math.sqrt(cauchy.numel())
    gaussian = RandomProjections(400).gaussian(10, 100, like, drawn())
    assert float(gaussian.mean()) == pytest.approx(0, abs=4 / math.sqrt(gaussian.numel()))
    assert float(gaussian.square().mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / gaussian.numel()))


def test_the_least_uniform_number_gives_a_finite_column(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (torch.float32, torch.float64):
        monkeypatch.setattr(torch, "rand", lambda shape, dtype, generator: torch.zeros(shape, dtype=dtype))
        assert torch.isfinite(RandomProjections(2).cauchy(1, 2, torch.zeros(1, dtype=kind), None)).all()


@pytest.mark.parametrize("median", [False, True])
@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_with_fixed_columns_are_those_of_finite_differences(name: str, norm: Norm, median: bool) -> None:
    module = network(name)
    loss = DualLoss(projection=Everywhere(11, median))
    check_gradient(module, lambda: loss(batch(module, 0.1 if np.isinf(norm.p) else 0.4, norm)).loss)


def test_without_a_radius_the_loss_is_the_clean_one_and_has_a_gradient() -> None:
    module = network("deep")
    clean = StandardLoss()(batch(module, eps=0.0)).loss.item()
    for norm in NORMS:
        value = DualLoss(projection=Everywhere(4))(batch(module, 0.0, norm)).loss
        assert value.item() == pytest.approx(clean, rel=1e-9)
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(value, list(module.parameters())))


def test_the_margins_have_the_dual_bound_on_top_of_the_estimates() -> None:
    module = network("deep")
    b = batch(module)
    value = DualLoss(projection=COLUMNS)(b)
    margin = dual_rows(with_estimated_bounds(b.layers, b.balls, COLUMNS, drawn()), b.rows).value
    assert value.loss.item() == robust_cross_entropy(margin, b.y).item()
    assert value.errors == unproven(margin, b.y)


def test_layers_no_wider_than_the_columns_have_the_dual_bound_itself_and_draw_nothing() -> None:
    module, generator = network("deep"), drawn()
    b = batch(module)
    with_generator = Batch(b.model, b.twin, b.x, b.y, b.eps, b.norm, generator=generator)
    before = generator.get_state()
    value = DualLoss(projection=RandomProjections(8))(with_generator)
    assert value.loss.item() == DualLoss()(b).loss.item() and not value.estimated
    assert torch.equal(before, generator.get_state())
    layers = b.layers
    assert [estimated_layers(layers, RandomProjections(n)) for n in (7, 6, 5)] == [(), (2,), (2, 3)]
    kept, exact = (
        with_estimated_bounds(layers, b.balls, RandomProjections(6), drawn()),
        with_dual_bounds(layers, b.balls),
    )
    assert torch.equal(limits(kept, 1)[0], limits(exact, 1)[0]) and not torch.equal(
        limits(kept, 2)[0], limits(exact, 2)[0]
    )
    third = dual_limits(LiveProblem(layers, b.balls, kept.lower[:2], kept.upper[:2], b.balls.centre), 3)
    assert torch.equal(limits(kept, 3)[0], third[0].detach()) and torch.equal(limits(kept, 3)[1], third[1].detach())


def test_every_batch_draws_columns_anew() -> None:
    module = network("deep")
    b, loss = batch(module), DualLoss(projection=COLUMNS)
    assert loss(b).loss.item() != loss(b).loss.item()  # its generator has moved on
    assert loss(batch(module)).loss.item() == loss(batch(module)).loss.item()


@pytest.mark.parametrize("median", [False, True])
def test_equal_seeds_give_equal_weights_and_a_resumed_run_the_same_ones(tmp_path: Path, median: bool) -> None:
    loss = DualLoss(projection=RandomProjections(4, median))
    trainer = Trainer(loss, EpsSchedule(0.1, ramp=3), epochs=4, batch_size=25, halve_every=2, seed=5)
    model = mlp(SHAPE, (8, 7), CLASSES, seed=2)

    def weights(module: nn.Module) -> list[Tensor]:
        return [p.detach() for p in module.parameters()]

    def equal(a: nn.Module, b: nn.Module) -> bool:
        return all(torch.equal(p, q) for p, q in zip(weights(a), weights(b), strict=True))

    whole = trainer.fit(model, DATA, validation=images(20, 1))
    assert equal(whole.model, trainer.fit(model, DATA, validation=images(20, 1)).model)
    assert not equal(whole.model, replace(trainer, seed=6).fit(model, DATA, validation=images(20, 1)).model)
    path = tmp_path / "run.pt"
    replace(trainer, epochs=2).fit(model, DATA, validation=images(20, 1), checkpoint=path)
    resumed = trainer.fit(model, DATA, validation=images(20, 1), checkpoint=path)
    assert equal(whole.model, resumed.model)
    told = [[(r.loss, r.errors, r.validation_loss, r.estimated) for r in t.epochs] for t in (whole, resumed)]
    assert told[0] == told[1]


def test_training_on_estimates_lowers_the_exact_dual_loss() -> None:
    model = mlp(SHAPE, (12, 10), CLASSES, seed=2).double()
    trainer = Trainer(DualLoss(projection=RandomProjections(8)), 0.05, epochs=8, batch_size=10, learning_rate=0.02)
    trained = trainer.fit(model, DATA)
    before, after = (DualLoss()(batch(m.double(), 0.05, count=40)).loss.item() for m in (model, trained.model))
    assert after < 0.7 * before


def test_estimates_are_called_so_wherever_their_numbers_are_told() -> None:
    model, said = mlp(SHAPE, (8, 7), CLASSES, seed=2), []

    def listen(progress: Progress) -> None:
        said.append(progress.what)

    for columns, estimated in ((4, True), (7, False), (None, False)):
        said.clear()
        projection = None if columns is None else RandomProjections(columns)
        trained = Trainer(DualLoss(projection=projection), 0.05, epochs=2).fit(model, DATA, on_progress=listen)
        assert [r.estimated for r in trained.epochs] == [estimated] * 2
        assert [e["estimated"] for e in trained.to_dict()["epochs"]] == [estimated] * 2
        assert said and all(text.startswith("estimated loss" if estimated else "loss") for text in said)


def test_a_checkpoint_of_exact_bounds_is_not_gone_on_with_by_estimates(tmp_path: Path) -> None:
    model, path = mlp(SHAPE, (8, 7), CLASSES, seed=2), tmp_path / "run.pt"
    Trainer(DualLoss(), 0.05, epochs=1).fit(model, DATA, checkpoint=path)
    for projection in (RandomProjections(4), RandomProjections(4, median=True)):
        with pytest.raises(CheckpointError, match="loss"):
            Trainer(DualLoss(projection=projection), 0.05, epochs=2).fit(model, DATA, checkpoint=path)


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(OptionError, match="columns"):
        RandomProjections(0)
    with pytest.raises(OptionError, match="FastLin"):
        DualLoss(method=Crown, projection=COLUMNS)
    with pytest.raises(OptionError, match="penalties"):
        DualLoss(penalties=(TightnessPenalty(1.0),), projection=COLUMNS)
    with pytest.raises(OptionError, match="L1 balls"):
        Trainer(DualLoss(projection=COLUMNS), 0.1, Norm(1.0))
    with pytest.raises(OptionError, match="L1 balls"):
        DualLoss(projection=COLUMNS)(batch(network("deep"), norm=Norm(1.0)))
    Trainer(DualLoss(), 0.1, Norm(1.0))  # without projections it can be trained on
