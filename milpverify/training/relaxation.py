"""The verifier's bounds on a batch of balls under autograd: intervals, and g with the closed-form choices of nu.

The walk, the rules for nu and the operators are those of `bounds/`; only the arrays differ: torch tensors in the
module's precision, and nothing is rounded outward. These bounds steer training and are never a claim: what a trained
network is worth, the verifier says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from milpverify.bounds.backward import Backward, FastLin
from milpverify.bounds.dual import Neurons, walk
from milpverify.bounds.problem import DualProblem, LayerPhases
from milpverify.network.operators import Array
from milpverify.training.ball import BallBatch
from milpverify.training.twin import LiveAffine

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class LiveProblem(DualProblem):
    """A `DualProblem` of live layers over a batch of balls; its bounds are torch tensors that carry gradients."""

    @classmethod
    def over(cls, layers: Sequence[LiveAffine], balls: BallBatch) -> LiveProblem:
        """The problem before any layer is bounded."""
        return cls(tuple(layers), balls, like=balls.centre)

    def bounded(self, l: Tensor, u: Tensor) -> LiveProblem:
        """The problem with one more layer bounded, by tensors of shape (B, n)."""
        problem = self.with_layer(l, u)  # type: ignore[arg-type]
        assert isinstance(problem, LiveProblem)
        return problem

    def convert(self, x: Any) -> Array:
        import torch

        return x if isinstance(x, torch.Tensor) else torch.as_tensor(x, dtype=self.like.dtype, device=self.like.device)

    def _phases(self, j: int) -> LayerPhases:
        import torch

        l: Any = self.lower[j - 1]
        u: Any = self.upper[j - 1]
        free, active = (l < 0) & (u > 0), (l >= 0).to(l.dtype)
        slope = torch.where(free, u / torch.where(free, u - l, torch.ones_like(u)), active)
        lower = (slope.detach() > 0.5).to(l.dtype)
        every = torch.arange(l.shape[-1], device=l.device)
        l, u, slope, lower = (part[..., None, :] for part in (l, u, slope, lower))
        return LayerPhases(active, every, True, l, u, slope, lower, True)

    def allowance(self, k: int) -> Any:
        """Zeros: nothing is rounded outward."""
        key = ("allowance", k)
        if key not in self.cache:
            self.cache[key] = self.like.new_zeros(self.affine(k).size)
        return self.cache[key]

    def underflow(self, k: int) -> float:
        """None is allowed for."""
        return 0.0


def interval_range(problem: LiveProblem, k: int) -> tuple[Tensor, Tensor]:
    """Bounds of zhat_k from the boxes of its sources: W c + b -+ |W| r. Floating, differentiable; shape (B, n_k) each.

    Source:
        Gowal et al. 2018, section 3.
    """
    affine = problem.affine(k)
    middle: Any = affine.bias
    spread: Any = problem.like.new_zeros((problem.batch[0], affine.size))
    for source, op in affine.blocks:
        low, high = _box(problem, source)
        middle = middle + op.apply((low + high) / 2)
        spread = spread + op.absolute.apply((high - low) / 2)
    return middle - spread, middle + spread


def dual_limits(problem: LiveProblem, k: int, method: type[Backward] = FastLin) -> tuple[Tensor, Tensor]:
    """Bounds of zhat_k by g. Floating, differentiable; shape (B, n_k) each.

    Args:
        problem: Bounds the layers 1..k-1.
        k: The layer, from 1.
        method: The closed form that chooses nu.
    """
    balls: Any = problem.region
    if balls.is_box and all(source == 0 for source, _ in problem.affine(k).blocks):
        return interval_range(problem, k)  # equal to g there, and cheaper
    if method.odd:
        end = walk(problem, k, Neurons(both=False), method.rule, (), both=True)
        least, most = balls.span(end.input_lam)
        return end.low + least, end.high + most
    end = walk(problem, k, Neurons(), method.rule, ())
    value: Any = end.low + balls.minimum(end.input_lam)
    half = problem.affine(k).size
    return value[:, :half], -value[:, half:]


def with_interval_bounds(layers: Sequence[LiveAffine], balls: BallBatch) -> LiveProblem:
    """Every hidden layer bounded by intervals."""
    problem = LiveProblem.over(layers, balls)
    for k in range(1, len(layers)):
        problem = problem.bounded(*interval_range(problem, k))
    return problem


def with_dual_bounds(layers: Sequence[LiveAffine], balls: BallBatch, method: type[Backward] = FastLin) -> LiveProblem:
    """Every hidden layer bounded by g, layer by layer.

    Source:
        Wong & Kolter 2018, algorithm 1.
    """
    problem = LiveProblem.over(layers, balls)
    for k in range(1, len(layers)):
        problem = problem.bounded(*dual_limits(problem, k, method))
    return problem


def interval_rows(problem: LiveProblem, rows: np.ndarray) -> Tensor:
    """Lower bounds of rows . y, rows (B, m, n_outputs), folded into the last affine map. Floating; shape (B, m).

    Source:
        Gowal et al. 2018, section 3 (elision of the last layer).
    """
    k = len(problem.layers)
    affine, C = problem.affine(k), problem.convert(rows)
    value = C @ affine.bias
    for source, op in affine.blocks:
        lam = op.transpose_apply(C)
        low, high = _box(problem, source)
        middle, radius = ((low + high) / 2)[:, :, None], ((high - low) / 2)[:, :, None]
        value = value + (lam @ middle - lam.abs() @ radius)[:, :, 0]
    return value


@dataclass(frozen=True, eq=False)
class RowBounds:
    """Lower bounds of rows of the output, and the multipliers behind them; tensors that carry gradients.

    Attributes:
        value: Shape (B, m).
        input_lam: lambda_0, shape (B, m, n_inputs).
        nu: Per hidden layer, on all its neurons, shape (B, m, n_k).
    """

    value: Tensor
    input_lam: Tensor
    nu: tuple[Tensor, ...]


def dual_rows(problem: LiveProblem, rows: np.ndarray, method: type[Backward] = FastLin) -> RowBounds:
    """Lower bounds of rows . y by g, rows (B, m, n_outputs). Floating, differentiable.

    Source:
        Wong & Kolter 2018, theorem 1 and eq. 5.
    """
    balls: Any = problem.region
    end = walk(problem, len(problem.layers), rows, method.rule, ())
    return RowBounds(end.low + balls.minimum(end.input_lam), end.input_lam, tuple(end.nu))


def _box(problem: LiveProblem, source: int) -> tuple[Any, Any]:
    """The box of a source: the balls', or relu of a layer's bounds."""
    if source == 0:
        region: Any = problem.region
        return region.lower, region.upper
    l: Any = problem.lower[source - 1]
    u: Any = problem.upper[source - 1]
    return l.clamp(min=0), u.clamp(min=0)
