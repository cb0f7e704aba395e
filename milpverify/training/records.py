"""What a training run saw, epoch by epoch, and what came out of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch saw, while the weights were changing.

    Attributes:
        epoch: From 1.
        eps: The radius at its end.
        loss: Mean over the images.
        errors: Share of the images that the loss counts as wrong or not proven (`LossValue.errors`).
        clean_errors: Share that is misclassified.
        validation_loss: The same loss on the validation images after the epoch, at the final radius; None without.
        seconds: Wall time.
        estimated: Whether both losses and `errors` rest on estimated bounds (`LossValue.estimated`).
    """

    epoch: int
    eps: float
    loss: float
    errors: float
    clean_errors: float
    validation_loss: float | None
    seconds: float
    estimated: bool = False


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained module and how it came about.

    Attributes:
        model: A copy of the one given, with the chosen weights, in evaluation mode, on the CPU.
        epochs: What each epoch saw, those of an earlier call included.
        chosen: The epoch whose weights these are: the best by validation, else the last whole one.
        stopped: Why the run ended before its last epoch; empty if it did not.
        diverged: Whether that was a loss or gradient that is not finite.
        interrupted: Whether it was Ctrl-C.
    """

    model: nn.Module
    epochs: tuple[EpochRecord, ...]
    chosen: int
    stopped: str = ""
    diverged: bool = False
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the weights."""
        return {
            "epochs": [asdict(record) for record in self.epochs],
            "chosen": self.chosen,
            "stopped": self.stopped,
            "diverged": self.diverged,
            "interrupted": self.interrupted,
        }
