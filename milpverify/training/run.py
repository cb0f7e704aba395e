"""One run of a trainer: steps, epochs, validation, and what is kept of them."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milpverify.errors import CheckpointError, OptionError, first_line
from milpverify.tasks.progress import OnProgress, Progress
from milpverify.training.checkpoint import TrainingFile, described_run
from milpverify.training.datasets import ImageSet
from milpverify.training.losses import Batch, LossValue
from milpverify.training.records import EpochRecord, TrainedModel
from milpverify.training.twin import Twin

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from milpverify.training.trainer import Trainer

SEEDS = 1_000_003  # seeds of epochs of different runs do not meet


class DivergedError(Exception):
    """A loss or a gradient that is not finite."""


class Run:
    """One call of `fit`: the module at work and what is known so far."""

    def __init__(
        self,
        trainer: Trainer,
        model: nn.Module,
        data: ImageSet,
        validation: ImageSet | None,
        checkpoint: Path | str | None,
        on_progress: OnProgress | None,
    ) -> None:
        import torch

        self.trainer, self.on_progress, self.began = trainer, on_progress, time.monotonic()
        self.model = _moved(model, trainer.device)
        self.twin = Twin(self.model, data.input_shape)
        for part in (data, validation) if validation is not None else (data,):
            _check_fit(self.twin, part)
        like = next(self.model.parameters())
        self.data, self.validation = (None if part is None else _tensors(part, like) for part in (data, validation))
        self.optimiser = torch.optim.Adam(self.model.parameters(), trainer.learning_rate)
        self.records: list[EpochRecord] = []
        self.last = self.chosen = _weights(self.model)
        self.chosen_epoch, self.best = 0, math.inf
        self.file: TrainingFile | None = None
        if checkpoint is not None:
            known = data.fingerprint + ("" if validation is None else validation.fingerprint)
            self.file = TrainingFile(Path(checkpoint), described_run(self.model, _recipe(trainer), known))
            self._restore(self.file.load())

    def whole(self) -> TrainedModel:
        """Every epoch that is left."""
        stopped, diverged, interrupted = "", False, False
        try:
            for epoch in range(len(self.records) + 1, self.trainer.epochs + 1):
                if self._is_stale():
                    stopped = f"no better validation loss in {self.trainer.patience} epochs"
                    break
                self._epoch(epoch)
        except DivergedError as error:
            if not self.records:
                raise OptionError(
                    f"Trainer: {error}, before one epoch was done. Lower the learning rate, or let eps grow slowly."
                ) from None
            stopped, diverged = f"{error}; the weights are those of epoch {self.chosen_epoch}", True
        except KeyboardInterrupt:
            if not self.records:
                raise
            stopped, interrupted = f"interrupted; the weights are those of epoch {self.chosen_epoch}", True
        self.model.load_state_dict(self.chosen)
        return TrainedModel(
            self.model.cpu().eval(), tuple(self.records), self.chosen_epoch, stopped, diverged, interrupted
        )

    def _epoch(self, epoch: int) -> None:
        import torch

        began, trainer, schedule = time.monotonic(), self.trainer, self.trainer.schedule
        for group in self.optimiser.param_groups:
            group["lr"] = trainer.learning_rate * 0.5 ** ((epoch - 1) // (trainer.halve_every or trainer.epochs))
        assert self.data is not None
        total, errors, clean, seen, estimated = 0.0, 0, 0, 0, False
        generator = torch.Generator().manual_seed(trainer.seed * SEEDS + epoch)
        self.model.train()
        with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
            torch.manual_seed(trainer.seed * SEEDS + epoch)
            parts = list(torch.randperm(len(self.data[0]), generator=generator).split(trainer.batch_size))
            for i, part in enumerate(parts):
                at = epoch - 1 + i / len(parts)
                batch = self._batch(self.data, part, schedule.at(at), at, generator)
                value = self._step(batch, f"epoch {epoch}, step {i + 1}")
                total += float(value.loss.detach()) * len(part)
                errors, clean, seen = errors + value.errors, clean + _clean_errors(batch), seen + len(part)
                estimated = estimated or value.estimated
                word = "estimated loss" if estimated else "loss"
                self._tell(f"epoch {epoch}/{trainer.epochs}", f"{word} {total / seen:.4g}, eps {batch.eps:.4g}")
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise DivergedError(f"the weights are not finite after epoch {epoch}")
        validation_loss = self._validate(epoch)
        eps, seconds = schedule.at(epoch), time.monotonic() - began
        shares = (total / seen, errors / seen, clean / seen)
        self._keep(EpochRecord(epoch, eps, *shares, validation_loss, seconds, estimated))

    def _step(self, batch: Batch, where: str) -> LossValue:
        import torch

        self.optimiser.zero_grad()
        value = self.trainer.loss(batch)
        if not bool(torch.isfinite(value.loss)):
            raise DivergedError(f"the loss is {float(value.loss.detach())} in {where}")
        value.loss.backward()
        for name, p in self.model.named_parameters():
            if p.grad is not None and not bool(torch.isfinite(p.grad).all()):
                raise DivergedError(f"the gradient of {name} is not finite in {where}")
        self.optimiser.step()
        return value

    def _validate(self, epoch: int) -> float | None:
        """The loss on the validation images at the final radius."""
        import torch

        if self.validation is None:
            return None
        generator = torch.Generator().manual_seed(self.trainer.seed)
        self.model.eval()
        total, count = 0.0, len(self.validation[0])
        with torch.no_grad():
            for part in torch.arange(count).split(self.trainer.batch_size):
                batch = self._batch(self.validation, part, self.trainer.schedule.eps, epoch, generator)
                total += float(self.trainer.loss(batch).loss) * len(part)
        if not math.isfinite(total):
            raise DivergedError(f"the validation loss is {total} after epoch {epoch}")
        return total / count

    def _keep(self, record: EpochRecord) -> None:
        """A whole epoch: remember its weights, choose them if they are the best, and save."""
        self.records.append(record)
        self.last = _weights(self.model)
        at_full_eps = record.epoch >= self.trainer.schedule.full_from
        if record.validation_loss is None or not at_full_eps:
            self.chosen, self.chosen_epoch = self.last, record.epoch
        elif record.validation_loss < self.best:
            self.chosen, self.chosen_epoch, self.best = self.last, record.epoch, record.validation_loss
        if self.file is not None:
            self.file.save(
                {
                    "records": [asdict(r) for r in self.records],
                    "last": self.last,
                    "chosen": self.chosen,
                    "chosen_epoch": self.chosen_epoch,
                    "best": self.best,
                    "optimiser": self.optimiser.state_dict(),
                }
            )

    def _restore(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        self.records = [EpochRecord(**r) for r in state["records"]]
        if len(self.records) > self.trainer.epochs:
            raise CheckpointError(
                f"Trainer: the checkpoint holds {len(self.records)} epochs, and {self.trainer.epochs} are asked. "
                "Ask for no fewer, or name another file."
            )
        self.last, self.chosen = state["last"], state["chosen"]
        self.chosen_epoch, self.best = state["chosen_epoch"], state["best"]
        self.model.load_state_dict(self.last)
        self.optimiser.load_state_dict(state["optimiser"])

    def _is_stale(self) -> bool:
        """Whether `patience` epochs at the final radius have not been better than the one chosen."""
        first = max(self.chosen_epoch, math.ceil(self.trainer.schedule.full_from))
        return self.trainer.patience is not None and len(self.records) - first >= self.trainer.patience

    def _batch(
        self, data: tuple[Tensor, Tensor], part: Tensor, eps: float, epoch: float, generator: Generator
    ) -> Batch:
        x, y = (values[part.to(values.device)] for values in data)
        return Batch(self.model, self.twin, x, y, eps, self.trainer.norm, epoch, generator)

    def _tell(self, stage: str, what: str) -> None:
        if self.on_progress is not None:
            self.on_progress(Progress(stage, what, time.monotonic() - self.began))


def _clean_errors(batch: Batch) -> int:
    import torch

    with torch.no_grad():
        return int((batch.scores(batch.x).argmax(dim=1) != batch.y).sum())


def _weights(model: nn.Module) -> dict[str, Any]:
    """A copy of the weights on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _moved(model: nn.Module, device: str) -> nn.Module:
    import torch

    if not isinstance(model, torch.nn.Module) or not any(p.requires_grad for p in model.parameters()):
        raise OptionError(
            f"Trainer: expected an nn.Module with parameters that can be trained, got {type(model).__name__}. "
            "Give such a module, with requires_grad where weights may change."
        )
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("it holds no numbers")
        return copy.deepcopy(model).to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if "memory" in str(error):
            raise
        raise OptionError(f"Trainer: the device {device!r} cannot be used ({first_line(error)}). Use cpu.") from None


def _tensors(data: ImageSet, like: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    x = torch.tensor(data.images, dtype=like.dtype, device=like.device)
    return x, torch.tensor(data.labels, device=like.device)


def _check_fit(twin: Twin, data: ImageSet) -> None:
    if data.input_shape != twin.input_shape or data.n_classes > twin.form.n_outputs:
        raise OptionError(
            f"Trainer: {data.name!r} has images of shape {data.input_shape} with labels up to {data.n_classes - 1}, "
            f"the module reads {twin.input_shape} and has {twin.form.n_outputs} outputs. Build it for these images."
        )


def _recipe(trainer: Trainer) -> str:
    """Everything that decides an epoch's weights: not their number, nor when to stop, nor where it runs."""
    t = trainer
    return (
        f"loss={t.loss!r}, eps={t.schedule!r}, norm={t.norm!r}, batch_size={t.batch_size}, "
        f"learning_rate={t.learning_rate!r}, halve_every={t.halve_every}, seed={t.seed}"
    )
