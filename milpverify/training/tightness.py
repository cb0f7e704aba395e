r"""How tight the dual bound of a batch is, as a term of the loss: the indicators d and r of Zhu et al.

With Fast-Lin's s = u / (u - l) and h = -u l / (u - l) on unstable neurons, the dual bound p of c . y is the least value
of the linear network z_k = s_k zhat_k + delta_k, 0 <= delta_k <= h_k, over the ball. It is attained at the input x*
that minimises lambda_0.x, with delta = h where lambda < 0 and 0 where lambda > 0. Then

    d = c . f(x*) - p  >=  p_exact - p  >=  0,       r = sum over unstable neurons of | z*_i - relu(zhat*_i) |,

and r = 0 only if the relaxation's optimum is a run of the network, which makes the bound exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from milpverify.errors import OptionError
from milpverify.training.losses import Batch
from milpverify.training.relaxation import LiveProblem, RowBounds
from milpverify.training.twin import LiveAffine, forward

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TightnessPenalty:
    """weight_d x mean d + weight_r x mean r, over the images and their wrong classes.

    Attributes:
        weight_d, weight_r: At full strength, in units of the loss per unit of y and of z.
        wait, ramp: Epochs without the penalty, and epochs in which it grows on a line to full strength after them.

    Raises:
        OptionError: If a number is negative or not finite.

    Source:
        Zhu, Ni, Chiang, Li, Huang & Goldstein 2020, "Improving the tightness of convex relaxation bounds for training
        certifiably robust classifiers", eq. 8 to 10, up to normalisation.
    """

    weight_d: float = 0.0
    weight_r: float = 0.0
    wait: float = 0.0
    ramp: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.weight_d, self.weight_r, self.wait, self.ramp)
        if not all(0 <= number < math.inf for number in numbers):
            raise OptionError(f"TightnessPenalty: weights and epochs must be finite and not negative, got {self}.")

    def __call__(self, problem: LiveProblem, found: RowBounds, batch: Batch) -> Tensor:
        """The term for one batch; see `losses.Penalty`."""
        strength = self.strength(batch.epoch)
        if strength == 0.0:
            return found.value.sum() * 0.0
        d, r = indicators(problem, found, problem.convert(batch.rows))
        others = d.shape[0] * (d.shape[1] - 1)  # the label's own row is zero, and so are its d and r
        return strength * (self.weight_d * d.sum() + self.weight_r * r.sum()) / others

    def strength(self, epoch: float) -> float:
        """Share of the full weights after that many epochs."""
        if epoch >= self.wait + self.ramp:
            return 1.0
        return max(epoch - self.wait, 0.0) / self.ramp if self.ramp else 0.0


def indicators(problem: LiveProblem, found: RowBounds, rows: Tensor) -> tuple[Tensor, Tensor]:
    """d and r of every row, each of shape (B, m). Floating, differentiable; d is not negative but for rounding.

    Args:
        problem: Bounds every hidden layer.
        found: The rows' bounds by `FastLin`.
        rows: Shape (B, m, n_outputs).
    """
    import torch

    balls: Any = problem.region
    layers: Any = problem.layers
    point = balls.minimiser(found.input_lam)
    d = (rows * forward(layers, point)).sum(dim=-1) - found.value
    values, r = [point], torch.zeros_like(d)
    for k in range(1, len(layers)):
        affine: LiveAffine = layers[k - 1]
        zhat: Any = affine.bias
        for source, op in affine.blocks:
            zhat = zhat + op.apply(values[source])
        z, off = _relaxed(problem, k, zhat + 0.0 * d[..., None], found.nu[k - 1])
        r = r + off
        values.append(z)
    return d, r


def _relaxed(problem: LiveProblem, k: int, zhat: Tensor, nu: Tensor) -> tuple[Tensor, Tensor]:
    """z of the linear network's optimum in layer k, and by how much it misses the ReLU, summed over the neurons."""
    import torch

    phases = problem.phases(k)
    l, u, slope = phases.l, phases.u, phases.slope
    free = (l < 0) & (u > 0)
    none = torch.zeros_like(zhat)
    most = torch.where(free, -slope * l, none)
    true = zhat.clamp(min=0)
    # Where lambda is 0 every noise is optimal: the one that suits the ReLU. nu = s lambda has lambda's sign, as s > 0.
    suits = (true - slope * zhat).clamp(min=0).minimum(most)
    noise = torch.where(nu < 0, most, torch.where(nu > 0, none, suits))
    z = slope * zhat + noise
    return z, torch.where(free, (z - true).abs(), none).sum(dim=-1)
