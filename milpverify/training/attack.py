"""Projected gradient ascent of a loss on a batch of images, in torch: the inner maximum of adversarial training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from milpverify.errors import OptionError
from milpverify.training.ball import BallBatch

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class PgdAscent:
    """Steepest-ascent steps in the ball's own norm, from a random start. Floating: what it finds proves nothing.

    The training of many images at once needs less of an attack than the verifier's (`attack.pgd`): one start each.

    Attributes:
        steps: Gradient steps; one with a step size of 1 and no random start is FGSM.
        step_size: In shares of eps; 2.5 / steps when None.
        random_start: Whether to begin anywhere in the ball instead of at its centre.

    Raises:
        OptionError: If a number is not positive.

    Source:
        Madry et al. 2018, section 2; steps in other norms: Boyd & Vandenberghe 2004, section 9.4.
    """

    steps: int = 7
    step_size: float | None = None
    random_start: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or (self.step_size is not None and not self.step_size > 0):
            raise OptionError(f"PgdAscent: steps={self.steps} and step_size={self.step_size} must be positive.")

    def maximise(
        self, loss: Callable[[Tensor], Tensor], balls: BallBatch, generator: Generator | None = None
    ) -> Tensor:
        """Points of the balls, shape (B, n), at which the sum of a loss is high; detached.

        Args:
            loss: From points (B, n) to one number an image, shape (B,).
            balls: Where the points may lie.
            generator: Of the random start; on the CPU, so that every device draws the same.
        """
        import torch

        x: Any = balls.centre.detach()
        if self.random_start:
            noise = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x) * 2 - 1
            x = project(x + balls.eps * noise, balls)
        step = (2.5 / self.steps if self.step_size is None else self.step_size) * balls.eps
        for _ in range(self.steps):
            with torch.enable_grad():
                x = x.requires_grad_(True)
                (gradient,) = torch.autograd.grad(loss(x).sum(), x)
            x = project(x.detach() + step * _steepest(gradient, balls.norm.p), balls)
        return x.detach()


def project(x: Tensor, balls: BallBatch) -> Tensor:
    """Points (B, n) moved into the balls and their clip: nearest for L-inf, else nearest in the ball, then clipped.

    Clipping moves no coordinate away from a centre within the clip, so the point stays in the ball.
    """
    import torch

    gap = x - balls.centre
    if balls.norm.p == 2:
        length = torch.linalg.vector_norm(gap, dim=1, keepdim=True)
        x = balls.centre + gap * (balls.eps / length.clamp(min=1e-30)).clamp(max=1.0)
    elif balls.norm.p == 1:
        x = balls.centre + _onto_l1(gap, balls.eps)
    return torch.minimum(torch.maximum(x, balls.lower), balls.upper)


def _steepest(gradient: Tensor, p: float) -> Tensor:
    """The unit step of the norm that raises a linear function most."""
    import torch

    if np.isinf(p):
        return gradient.sign()
    if p == 2:
        return gradient / torch.linalg.vector_norm(gradient, dim=1, keepdim=True).clamp(min=1e-30)
    largest = gradient.abs().argmax(dim=1, keepdim=True)
    return torch.zeros_like(gradient).scatter(1, largest, gradient.gather(1, largest).sign())


def _onto_l1(gap: Tensor, eps: float) -> Tensor:
    """The nearest points with |gap|_1 <= eps.

    Source:
        Duchi et al. 2008, figure 1.
    """
    import torch

    size = gap.abs()
    falling = size.sort(dim=1, descending=True).values
    excess = falling.cumsum(dim=1) - eps
    count = torch.arange(1, gap.shape[1] + 1, dtype=gap.dtype, device=gap.device)
    last = (falling * count > excess).sum(dim=1, keepdim=True).clamp(min=1)
    level = (excess.gather(1, last - 1) / last).clamp(min=0.0)
    return gap.sign() * (size - level).clamp(min=0.0)
