"""What training minimises: cross-entropy on images, on attacked images, or on what is proven of whole balls.

A loss is a function of a `Batch`. Those on bounds use J, the lower bounds of the margins y_label - y_j over each ball:
-J is never below any attainable y_j - y_label, so a loss that rises with them is never below the worst loss in the ball
(Wong & Kolter 2018, theorem 2). In training J is floating: it steers, and proves nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from milpverify.bounds.backward import Backward, FastLin
from milpverify.errors import OptionError
from milpverify.training.attack import PgdAscent
from milpverify.training.ball import BallBatch, Norm
from milpverify.training.projection import RandomProjections, estimated_layers, with_estimated_bounds
from milpverify.training.relaxation import (
    LiveProblem,
    RowBounds,
    dual_rows,
    interval_rows,
    with_dual_bounds,
    with_interval_bounds,
)
from milpverify.training.twin import LiveAffine, Twin

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn


@dataclass(frozen=True, eq=False)
class Batch:
    """What a loss is computed on.

    Attributes:
        model: The module at work.
        twin: Its canonical form.
        x: Images, shape (B, *input_shape), in the module's precision, on its device.
        y: Labels, shape (B,).
        eps: Radius, in units of the input.
        norm: Of the balls.
        epoch: Epochs since the start, with their fraction, for what warms up.
        generator: Of random starts and random columns, on the CPU.
    """

    model: nn.Module
    twin: Twin
    x: Tensor
    y: Tensor
    eps: float
    norm: Norm = field(default_factory=Norm)
    epoch: float = 0.0
    generator: Generator | None = None

    @cached_property
    def layers(self) -> tuple[LiveAffine, ...]:
        """The canonical form with the present weights."""
        return self.twin.layers()

    @cached_property
    def balls(self) -> BallBatch:
        """The ball around every image, on flat inputs."""
        return BallBatch(self.x.reshape(len(self.x), -1), self.eps, self.norm)

    @cached_property
    def rows(self) -> np.ndarray:
        """The margins y_label - y_j of every image, shape (B, classes, classes); row `label` is zero."""
        classes = self.twin.form.n_outputs
        unit = np.eye(classes)
        rows: np.ndarray = unit[self.y.cpu().numpy()][:, None, :] - unit
        return rows

    def scores(self, x: Tensor) -> Tensor:
        """The module's outputs at flat or shaped images, shape (B, classes)."""
        y: Any = self.model(x.reshape(self.x.shape))
        return y.reshape(len(y), -1)


@dataclass(frozen=True, eq=False)
class LossValue:
    """A loss and what it saw.

    Attributes:
        loss: The mean over the batch, a scalar that carries gradients.
        errors: Images that are wrong at the points, or not proven by the bounds, that the loss looked at.
        estimated: Whether those bounds are estimates: then `loss` is no bound, and `errors` counts no proofs.
    """

    loss: Tensor
    errors: int
    estimated: bool = False


class Loss(ABC):
    """A loss of a batch; immutable, without state of its own."""

    name: ClassVar[str]
    robust: ClassVar[bool] = True  # whether eps matters to it

    def check_norm(self, norm: Norm) -> None:
        """Refuse balls that the loss cannot be computed on.

        Raises:
            OptionError: If it is about other balls.
        """
        return

    @abstractmethod
    def __call__(self, batch: Batch) -> LossValue:
        """The loss at the module's present weights."""


@dataclass(frozen=True)
class StandardLoss(Loss):
    """Cross-entropy at the images themselves."""

    name: ClassVar[str] = "standard"
    robust: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> LossValue:
        scores = batch.scores(batch.x)
        return LossValue(_cross_entropy(scores, batch.y), _wrong(scores, batch.y))


@dataclass(frozen=True)
class AdversarialLoss(Loss):
    """clean_share x loss at the images + (1 - clean_share) x loss at points that an attack found in the balls.

    The gradient is that at the points found, held fixed: at a true maximiser it is that of the maximum (Danskin).

    Attributes:
        attack: What looks for the points.
        clean_share: Between 0 and 1.

    Raises:
        OptionError: If `clean_share` is not between 0 and 1.

    Source:
        Madry et al. 2018, section 2.1 and appendix A; the mix: Goodfellow, Shlens & Szegedy 2015, section 6.
    """

    name: ClassVar[str] = "pgd"
    attack: PgdAscent = field(default_factory=PgdAscent)
    clean_share: float = 0.5

    def __post_init__(self) -> None:
        _check_share("AdversarialLoss", self.clean_share)

    def __call__(self, batch: Batch) -> LossValue:
        import torch.nn.functional as functional

        found = self.attack.maximise(
            lambda x: functional.cross_entropy(batch.scores(x), batch.y, reduction="none"), batch.balls, batch.generator
        )
        scores = batch.scores(found)
        loss = _mixed(_cross_entropy(scores, batch.y), batch, self.clean_share)
        return LossValue(loss, _wrong(scores, batch.y))


class Penalty(Protocol):
    """A term that is added to a `DualLoss`: a weight that may warm up with `batch.epoch`, times an indicator."""

    def __call__(self, problem: LiveProblem, found: RowBounds, batch: Batch) -> Tensor:
        """A scalar, from what the dual bound rests on.

        Args:
            problem: `problem.lower[k]` and `problem.upper[k]`, tensors of shape (B, n), bound hidden layer k + 1.
            found: The bounds of the margins, with their multipliers.
            batch: `batch.rows` are the margins' rows.
        """


@dataclass(frozen=True)
class IntervalLoss(Loss):
    """Robust cross-entropy on interval bounds, the last affine map folded into the margins.

    Attributes:
        clean_share: Share of the loss at the images themselves.

    Raises:
        OptionError: If `clean_share` is not between 0 and 1.

    Source:
        Gowal et al. 2018, section 3 (their kappa is `clean_share`); Mirman et al. 2018 (Box).
    """

    name: ClassVar[str] = "interval"
    clean_share: float = 0.5

    def __post_init__(self) -> None:
        _check_share("IntervalLoss", self.clean_share)

    def __call__(self, batch: Batch) -> LossValue:
        margin = interval_rows(with_interval_bounds(batch.layers, batch.balls), batch.rows)
        loss = robust_cross_entropy(margin, batch.y)
        return LossValue(_mixed(loss, batch, self.clean_share), unproven(margin, batch.y))


@dataclass(frozen=True)
class DualLoss(Loss):
    """Robust loss on the dual bound g of Wong & Kolter, for any of the three norms.

    Attributes:
        hinge: Multi-class hinge max_j max(0, 1 - J_j) in place of cross-entropy.
        clean_share: Share of the loss at the images themselves; the paper's is 0.
        method: The closed form that chooses nu: FastLin is the paper's, Crown adapts its lower slopes.
        penalties: Terms that are added, such as `TightnessPenalty`; their repr must tell them apart (checkpoints).
        projection: Estimates the bounds of wide hidden layers, with random columns from `Batch.generator`; the margins
            have the dual bound on top of them. Then the loss and its errors are estimates. None for no estimates.

    Raises:
        OptionError: If `clean_share` is not between 0 and 1, or penalties or a projection come with another method than
            FastLin, or both come together.

    Source:
        Wong & Kolter 2018, algorithm 1 and theorem 2; hinge: Crammer & Singer 2001, eq. 1; projections: Wong, Schmidt,
        Metzen & Kolter 2018, section 3.2.
    """

    name: ClassVar[str] = "dual"
    hinge: bool = False
    clean_share: float = 0.0
    method: type[Backward] = FastLin
    penalties: tuple[Penalty, ...] = ()
    projection: RandomProjections | None = None

    def __post_init__(self) -> None:
        _check_share("DualLoss", self.clean_share)
        if self.penalties and self.method is not FastLin:
            raise OptionError("DualLoss: penalties are about the slopes of FastLin. Leave `method` or `penalties` out.")
        if self.projection is not None and self.method is not FastLin:
            raise OptionError("DualLoss: projections need the slopes of FastLin. Leave `method` or `projection` out.")
        if self.projection is not None and self.penalties:
            raise OptionError(
                "DualLoss: penalties measure a true bound, projections give estimates. Leave one of them out."
            )

    def check_norm(self, norm: Norm) -> None:
        if self.projection is not None:
            self.projection.check_norm(norm)

    def __call__(self, batch: Batch) -> LossValue:
        problem, estimated = self._hidden(batch)
        found = dual_rows(problem, batch.rows, self.method)
        margin = found.value
        robust = robust_hinge if self.hinge else robust_cross_entropy
        loss = _mixed(robust(margin, batch.y), batch, self.clean_share)
        for penalty in self.penalties:
            loss = loss + penalty(problem, found, batch)
        return LossValue(loss, unproven(margin, batch.y), estimated)

    def _hidden(self, batch: Batch) -> tuple[LiveProblem, bool]:
        """Bounds of the hidden layers, and whether some are estimates."""
        layers, balls = batch.layers, batch.balls
        if self.projection is None:
            return with_dual_bounds(layers, balls, self.method), False
        found = with_estimated_bounds(layers, balls, self.projection, batch.generator)
        return found, bool(estimated_layers(layers, self.projection))


def robust_cross_entropy(margin: Tensor, y: Tensor) -> Tensor:
    """Mean of log sum_j exp(-J_j), J_label = 0: cross-entropy of the scores -J, at least that anywhere in the ball.

    Args:
        margin: J, lower bounds of y_label - y_j, shape (B, classes).
        y: Labels, shape (B,).

    Source:
        Wong & Kolter 2018, theorem 2.
    """
    return _cross_entropy(-margin, y)


def robust_hinge(margin: Tensor, y: Tensor) -> Tensor:
    """Mean of max_{j != label} max(0, 1 - J_j), at least the multi-class hinge loss anywhere in the ball."""
    others = _others(margin, y)
    return (1.0 - others.amin(dim=1)).clamp(min=0.0).mean()


def unproven(margin: Tensor, y: Tensor) -> int:
    """How many images have some J_j <= 0, j not the label: a tie is not robust."""
    return int((_others(margin, y).amin(dim=1) <= 0).sum())


def _others(margin: Tensor, y: Tensor) -> Tensor:
    """The margins with infinity at the label."""
    import torch

    index = torch.arange(margin.shape[1], device=margin.device)
    return margin.masked_fill(index == y[:, None], np.inf)


def _cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    import torch.nn.functional as functional

    return functional.cross_entropy(scores, y)


def _wrong(scores: Tensor, y: Tensor) -> int:
    return int((scores.argmax(dim=1) != y).sum())


def _mixed(robust: Tensor, batch: Batch, clean_share: float) -> Tensor:
    if clean_share == 0.0:
        return robust
    return clean_share * _cross_entropy(batch.scores(batch.x), batch.y) + (1.0 - clean_share) * robust


def _check_share(who: str, share: float) -> None:
    if not 0.0 <= share <= 1.0:
        raise OptionError(f"{who}: clean_share must lie between 0 and 1, got {share}.")
