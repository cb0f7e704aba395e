"""The loop: equal seeds give equal weights, however often it is interrupted; nothing good is ever lost."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from milpverify.errors import CheckpointError, InputError, NetworkError, OptionError
from milpverify.tasks.progress import Progress
from milpverify.training.ball import Norm
from milpverify.training.datasets import ImageSet
from milpverify.training.losses import (
    AdversarialLoss,
    Batch,
    DualLoss,
    IntervalLoss,
    Loss,
    LossValue,
    StandardLoss,
)
from milpverify.training.models import mlp
from milpverify.training.schedule import EpsSchedule
from milpverify.training.trainer import Trainer
from tests.training.training_cases import CLASSES, SHAPE, images

DATA, HELD_OUT = images(60, 0), images(30, 1)


def model(width: int = 8) -> nn.Module:
    return mlp(SHAPE, (width,), CLASSES, seed=2)


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(weights(a), weights(b), strict=True))


@dataclass(frozen=True)
class Breaking(Loss):
    """The standard loss, and NaN (or a gradient of NaN) from some epoch on."""

    name: ClassVar[str] = "breaking"
    robust: ClassVar[bool] = False
    at: float = 2.0
    only_gradient: bool = False

    def __call__(self, batch: Batch) -> LossValue:
        value = StandardLoss()(batch)
        if batch.epoch < self.at:
            return value
        if not self.only_gradient:
            return LossValue(value.loss * float("nan"), value.errors)
        first = next(batch.model.parameters())
        # sqrt(0) is finite, its slope is not; 0 * infinity is NaN
        return LossValue(value.loss + torch.sqrt((first * 0.0).sum()), value.errors)


@pytest.mark.parametrize("loss", [StandardLoss(), AdversarialLoss(), IntervalLoss(), DualLoss()], ids=lambda l: l.name)
def test_training_lowers_the_loss_and_leaves_the_module_given_alone(loss: Loss) -> None:
    start = model()
    before = weights(start)
    trained = Trainer(loss, 0.02, epochs=8, batch_size=10, learning_rate=0.02).fit(start, DATA)
    assert all(torch.equal(p, q) for p, q in zip(before, weights(start), strict=True))
    assert trained.epochs[-1].loss < 0.7 * trained.epochs[0].loss
    assert trained.chosen == len(trained.epochs) == 8 and not trained.stopped
    assert not trained.model.training


@pytest.mark.parametrize("loss", [AdversarialLoss(), DualLoss()], ids=lambda l: l.name)
def test_equal_seeds_give_equal_weights_and_a_resumed_run_the_same_ones(tmp_path: Path, loss: Loss) -> None:
    trainer = Trainer(loss, EpsSchedule(0.1, ramp=3), epochs=4, batch_size=25, halve_every=2, seed=5)
    whole = trainer.fit(model(), DATA)
    assert equal(whole.model, trainer.fit(model(), DATA).model)
    assert not equal(whole.model, replace(trainer, seed=6).fit(model(), DATA).model)
    path = tmp_path / "run.pt"
    replace(trainer, epochs=2).fit(model(), DATA, checkpoint=path)
    resumed = trainer.fit(model(), DATA, checkpoint=path)
    assert equal(whole.model, resumed.model)
    assert [r.loss for r in resumed.epochs] == [r.loss for r in whole.epochs]
    assert equal(whole.model, trainer.fit(model(), DATA, checkpoint=path).model)  # nothing left to do


def test_dropout_draws_from_the_run_and_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    made = nn.Sequential(*list(model())[:-1], nn.Dropout(0.5), list(model())[-1])
    trainer = Trainer(epochs=3, batch_size=20)
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    whole = trainer.fit(made, DATA)
    assert torch.equal(torch.rand(3), expected)
    replace(trainer, epochs=1).fit(made, DATA, checkpoint=tmp_path / "run.pt")
    assert equal(whole.model, trainer.fit(made, DATA, checkpoint=tmp_path / "run.pt").model)


@pytest.mark.parametrize("only_gradient", [False, True])
def test_a_loss_that_is_not_finite_ends_the_run_with_the_last_whole_epoch(tmp_path: Path, only_gradient: bool) -> None:
    path = tmp_path / "run.pt"
    broken = Trainer(Breaking(2.3, only_gradient), epochs=5, batch_size=20).fit(model(), DATA, checkpoint=path)
    assert broken.diverged and broken.chosen == 2 and len(broken.epochs) == 2
    assert "epoch 3" in broken.stopped and "epoch 2" in broken.stopped
    good = Trainer(Breaking(99.0, only_gradient), epochs=2, batch_size=20).fit(model(), DATA)
    assert equal(broken.model, good.model)
    state = torch.load(path, weights_only=True)
    assert len(state["records"]) == 2


def test_a_loss_that_is_not_finite_at_once_is_an_error() -> None:
    with pytest.raises(OptionError, match="before one epoch was done"):
        Trainer(Breaking(0.0), epochs=2).fit(model(), DATA)


def test_ctrl_c_ends_the_run_with_the_last_whole_epoch() -> None:
    def stop(progress: Progress) -> None:
        if progress.stage.startswith("epoch 3"):
            raise KeyboardInterrupt

    trainer = Trainer(epochs=5, batch_size=20)
    stopped = trainer.fit(model(), DATA, on_progress=stop)
    assert stopped.interrupted and stopped.chosen == 2
    assert equal(stopped.model, replace(trainer, epochs=2).fit(model(), DATA).model)


def test_validation_chooses_the_epoch_and_patience_ends_the_run() -> None:
    labels = np.where(np.arange(len(HELD_OUT)) % 3 == 0, (HELD_OUT.labels + 1) % CLASSES, HELD_OUT.labels)
    doubtful = ImageSet(HELD_OUT.images, labels)  # a third of the labels is wrong: to be sure soon costs
    trained = Trainer(epochs=60, batch_size=5, learning_rate=0.03, patience=3).fit(model(), DATA, validation=doubtful)
    losses = [r.validation_loss for r in trained.epochs]
    assert "no better validation loss in 3 epochs" in trained.stopped
    assert trained.chosen == losses.index(min(losses)) + 1 == len(losses) - 3  # type: ignore[type-var]
    with torch.no_grad():
        x = torch.tensor(doubtful.images)
        found = nn.functional.cross_entropy(trained.model(x), torch.tensor(doubtful.labels)).item()
    assert found == pytest.approx(min(losses), rel=1e-5)  # type: ignore[type-var]


def test_no_epoch_before_the_final_radius_counts_as_the_best() -> None:
    trainer = Trainer(DualLoss(), EpsSchedule(0.3, wait=2, ramp=2), epochs=5, batch_size=20)
    trained = trainer.fit(model(), DATA, validation=HELD_OUT)
    assert trained.chosen >= 4


def test_a_checkpoint_of_another_run_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    trainer = Trainer(epochs=1, batch_size=20)
    trainer.fit(model(), DATA, checkpoint=path)
    kept = path.read_bytes()
    others: dict[str, tuple[Trainer, nn.Module, Any]] = {
        "architecture": (trainer, model(9), DATA),
        "loss, schedule or option": (replace(trainer, learning_rate=0.5), model(), DATA),
        "training data": (trainer, model(), HELD_OUT),
    }
    for word, (other, module, data) in others.items():
        with pytest.raises(CheckpointError, match=f"another {word}"):
            other.fit(module, data, checkpoint=path)
        assert path.read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_a_checkpoint_with_more_epochs_than_asked_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    Trainer(epochs=3).fit(model(), DATA, checkpoint=path)
    kept = path.read_bytes()
    with pytest.raises(CheckpointError, match="3 epochs, and 2 are asked"):
        Trainer(epochs=2).fit(model(), DATA, checkpoint=path)
    assert path.read_bytes() == kept


def _one_bit(data: bytes) -> bytes:
    """Another weight, where torch would notice nothing."""
    at = len(data) // 3
    return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"words", _one_bit])
def test_a_damaged_checkpoint_is_refused_and_kept(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "run.pt"
    Trainer(epochs=1).fit(model(), DATA, checkpoint=path)
    path.write_bytes(damage(path.read_bytes()))
    kept = path.read_bytes()
    with pytest.raises(CheckpointError, match="cannot be read"):
        Trainer(epochs=1).fit(model(), DATA, checkpoint=path)
    assert path.read_bytes() == kept


def test_files_of_torch_that_are_no_checkpoints_and_missing_folders_are_refused(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Trainer(epochs=1).fit(model(), DATA, checkpoint=tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="folder"):
        Trainer(epochs=1).fit(model(), DATA, checkpoint=tmp_path / "none" / "run.pt")


BAD: dict[str, dict[str, Any]] = {
    "no epochs": {"epochs": 0},
    "empty batches": {"batch_size": 0},
    "no learning": {"learning_rate": 0.0},
    "infinite learning": {"learning_rate": float("inf")},
    "impatient": {"patience": 0},
    "negative radius": {"eps": -0.1},
    "no radius": {"eps": float("nan")},
    "a loss on balls without a radius": {"loss": DualLoss()},
    "radius beyond the clip": {"eps": 1.5},
    "half an epoch": {"epochs": 1.5},
    "a seed that is no number": {"seed": "zero"},
    "a seed too large": {"seed": 2**31},
    "a class for a loss": {"loss": DualLoss, "eps": 0.1},
    "a number for a norm": {"norm": 2},
    "schedule beyond the clip": {"eps": EpsSchedule(0.6, ramp=3), "norm": Norm(clip=(0.0, 0.5))},
}


@pytest.mark.parametrize("name", BAD)
def test_options_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(OptionError):
        Trainer(**BAD[name])


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(OptionError, match="validation"):
        Trainer(patience=2).fit(model(), DATA)
    with pytest.raises(OptionError, match="device"):
        Trainer(device="nonsense").fit(model(), DATA)
    with pytest.raises(OptionError, match="outputs"):
        Trainer().fit(mlp(SHAPE, (4,), CLASSES - 1), DATA)
    with pytest.raises(NetworkError, match="does not run on an input of shape"):
        Trainer().fit(mlp((1, 3, 3), (4,), CLASSES), DATA)
    with pytest.raises(NetworkError, match="float16"):
        Trainer().fit(model().half(), DATA)
    with pytest.raises(OptionError, match="trained"):
        Trainer().fit(model().requires_grad_(False), DATA)
    with pytest.raises(OptionError, match="beyond the clip"):
        Trainer(norm=Norm(clip=(0.4, 0.5))).fit(model(), DATA)
    with pytest.raises(OptionError, match="meta"):
        Trainer(device="meta").fit(model(), DATA)
    with pytest.raises(InputError, match=r"mv\.ImageSet"):
        Trainer().fit(model(), (DATA.images, DATA.labels))  # type: ignore[arg-type]


def test_where_memory_runs_out_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Loss, batch: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 EB")

    monkeypatch.setattr(StandardLoss, "__call__", full)
    with pytest.raises(OptionError, match=r"out of memory.*batch_size"):
        Trainer().fit(model(), DATA)


def test_without_torch_the_room_can_be_imported_and_says_what_is_missing() -> None:
    code = """
import sys
sys.modules["torch"] = None  # as if it were not installed
import milpverify as mv
from milpverify.training import attack, ball, checkpoint, evaluation, losses, models, relaxation, tightness, to_onnx
for call in (lambda: mv.Trainer().fit(None, None), lambda: models.mlp((1, 2, 2), (3,), 2)):
    try:
        call()
    except mv.OptionError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("torch is not installed. Install milpverify[torch].") == 2


def test_every_step_is_told() -> None:
    heard: list[Progress] = []
    Trainer(epochs=2, batch_size=20, eps=0.1).fit(model(), DATA, on_progress=heard.append)
    assert [p.stage for p in heard] == ["epoch 1/2"] * 3 + ["epoch 2/2"] * 3
    assert all("loss" in p.what and "eps 0.1" in p.what for p in heard)


def test_the_radius_waits_grows_on_a_line_and_stays() -> None:
    eps = EpsSchedule(0.3, start=0.1, wait=2, ramp=4)
    assert [eps.at(e) for e in (0, 2, 4, 6, 9)] == pytest.approx([0.1, 0.1, 0.2, 0.3, 0.3])
    assert EpsSchedule(0.3).at(0) == 0.3
    for bad in ({"eps": 0.1, "start": 0.2}, {"eps": float("inf")}, {"eps": 0.1, "ramp": -1}, {"eps": float("nan")}):
        with pytest.raises(InputError):
            EpsSchedule(**bad)
