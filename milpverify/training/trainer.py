"""One loop for every loss: a radius that grows, checkpoints, early stop, and no weights lost to a NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milpverify.errors import OptionError
from milpverify.tasks.progress import OnProgress
from milpverify.training.ball import Norm
from milpverify.training.datasets import ImageSet, check_image_set
from milpverify.training.extras import enough_memory, need_torch
from milpverify.training.losses import Loss, StandardLoss
from milpverify.training.records import TrainedModel
from milpverify.training.run import Run
from milpverify.training.schedule import EpsSchedule

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Trainer:
    """Adam on a loss over balls around the images.

    Equal seeds, data, options and versions give equal weights on one machine's CPU, also when a run is interrupted and
    gone on with: every epoch draws from a generator of its own.

    Attributes:
        loss: What is minimised.
        eps: How the radius grows; a number stands for that radius from the start.
        norm: Norm of the balls, and the range of valid inputs.
        epochs: Passes over the images.
        batch_size: Images a step.
        learning_rate: Of Adam (Kingma & Ba 2015); its other numbers are torch's.
        halve_every: Epochs after which the learning rate is halved, again and again; None for never.
        patience: Epochs at the final radius without a better validation loss after which the run ends; None for all.
        seed: Of the order of the images, of random starts and of random columns.
        device: A torch device.

    Raises:
        OptionError: If a number is out of range, the radius grows beyond the clip, or a loss on balls has none or
            cannot be computed on these.
    """

    loss: Loss = field(default_factory=StandardLoss)
    eps: EpsSchedule | float = 0.0
    norm: Norm = field(default_factory=Norm)
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    halve_every: int | None = None
    patience: int | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        counts: dict[str, Any] = {"epochs": self.epochs, "batch_size": self.batch_size}
        counts.update({k: v for k in ("halve_every", "patience") if (v := getattr(self, k)) is not None})
        for name, count in counts.items():
            if not isinstance(count, Integral) or count < 1:
                raise OptionError(f"Trainer: {name} must be a whole number from 1, got {count!r}.")
        seed: Any = self.seed
        if not isinstance(seed, Integral) or not 0 <= self.seed < 2**31:
            raise OptionError(f"Trainer: seed must be a whole number from 0 to {2**31 - 1}, got {self.seed!r}.")
        kinds: tuple[tuple[Any, type], ...] = ((self.loss, Loss), (self.norm, Norm))
        if not all(isinstance(given, kind) for given, kind in kinds):
            raise OptionError(
                f"Trainer: expected a loss such as DualLoss() and a Norm, got {self.loss!r} and {self.norm!r}. "
                "Give objects of these classes."
            )
        if not 0 < self.learning_rate < math.inf:
            raise OptionError(f"Trainer: learning_rate must be positive and finite, got {self.learning_rate}.")
        self.norm.check_eps(self.schedule.eps, "Trainer")
        self.loss.check_norm(self.norm)
        if self.loss.robust and self.schedule.eps == 0:
            raise OptionError(f"Trainer: the {self.loss.name} loss is about balls of a radius above 0. Give eps.")

    @property
    def schedule(self) -> EpsSchedule:
        """The radius as a schedule."""
        return self.eps if isinstance(self.eps, EpsSchedule) else EpsSchedule(float(self.eps), float(self.eps))

    def fit(
        self,
        model: nn.Module,
        data: ImageSet,
        *,
        validation: ImageSet | None = None,
        checkpoint: Path | str | None = None,
        on_progress: OnProgress | None = None,
    ) -> TrainedModel:
        """Train a copy of a module. Floating: nothing here proves anything; the verifier judges what comes out.

        Args:
            model: What `Twin` takes, with one output a class.
            data: The images to train on.
            validation: Images that choose the epoch, by their loss at the final radius.
            checkpoint: A file that the run is saved to after each epoch, and gone on from if it exists; more epochs
                than then are allowed.
            on_progress: Called after every step.

        Returns:
            The module with its history. A loss that is not finite and Ctrl-C end the run with the last whole epoch.

        Raises:
            OptionError: If torch or the device is not there, memory does not suffice, `patience` has no validation
                images, or a loss is not finite before the first epoch is done.
            NetworkError: If the module cannot be trained on these images.
            CheckpointError: If the checkpoint is damaged or of another run; it is left as it is.
        """
        need_torch("Trainer")
        if self.patience is not None and validation is None:
            raise OptionError("Trainer: patience needs validation images. Give some, or leave patience out.")
        for part in (data, validation) if validation is not None else (data,):
            check_image_set(part, "Trainer")
            self.norm.check_images(part.images, part.name, "Trainer")
        with enough_memory("Trainer", "Take fewer images a step: batch_size, or --batch."):
            return Run(self, model, data, validation, checkpoint, on_progress).whole()
