r"""Estimated bounds of hidden layers, by random columns pushed forward instead of a backward walk for each neuron.

With Fast-Lin's s = u / (u - l) and h = -u l / (u - l) on unstable neurons (s = 1 or 0 and h = 0 on stable ones), a
layer's dual bounds are those of the linear network z_j = s_j zhat_j + delta_j, 0 <= delta_j <= h_j, over the ball:

    zhat_k  in  m_k -+ ( rho(lambda_0) + sum over j < k of || lambda_j h_j / 2 ||_1 ),

m_k the linear network at the ball's centre with delta = h / 2, and rho(lambda) = sum_i |lambda_i| r_i over a box with
half widths r, eps ||lambda||_2 over an L2 ball. The middle m_k is one forward pass. The norms are those of a row for
every neuron, but the products of all these rows with one random vector are one forward pass too: pushed through the
linear network without its biases, the column R at the input and H_j added to every z_j arrive in layer k as
lambda_0.R + sum_j lambda_j.H_j. If the entries of R / r and of H_j / (h_j / 2) are independent standard Cauchy
variables, that is a Cauchy variable with the whole sum above as its scale, which many columns reveal.

These bounds are estimates, often too tight: nothing that rests on them is a proof.

Source: Wong, Schmidt, Metzen & Kolter 2018, "Scaling provable adversarial defenses", section 3.2, with two differences.
The paper pushes columns of their own for the input and for every layer, and adds the estimates; here all of them are
pushed as one sum, so that the work grows with the number of layers and not with its square. And the paper estimates the
scale by the median, whose gradient is that of a single column; that of the likeliest scale averages all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from milpverify.errors import OptionError
from milpverify.training.ball import BallBatch, Norm
from milpverify.training.relaxation import LiveProblem, dual_limits
from milpverify.training.scale import likeliest_scale, median_size
from milpverify.training.twin import LiveAffine

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class RandomProjections:
    """Estimate the bounds of wide hidden layers. Never a proof: about half of the estimates are too tight.

    The relative standard deviation of an estimate over an L-inf ball is about sqrt(2 / columns), 20 % for 50 columns,
    and its mean about 1 / columns too large; by the median pi / (2 sqrt(columns)) and pi^2 / (8 columns).

    Attributes:
        columns: How many random columns are pushed forward. A layer with no more neurons than that, and one that reads
            nothing but the input, is bounded by the dual bound itself, which costs no more.
        median: The paper's estimate, the median size, in place of the likeliest scale. Its gradient is noisier.

    Raises:
        OptionError: If there is no column.

    Source:
        Wong, Schmidt, Metzen & Kolter 2018, section 3.2; both estimates: Li, Hastie & Church 2007, "Nonlinear
        estimators and tail bounds for dimension reduction in l1 using Cauchy random projections".
    """

    columns: int = 50
    median: bool = False

    def __post_init__(self) -> None:
        if self.columns < 1:
            raise OptionError(f"RandomProjections: columns must be at least 1, got {self.columns}. Give 50, say.")

    def check_norm(self, norm: Norm) -> None:
        """Refuse balls whose bounds cannot be estimated.

        Raises:
            OptionError: For L1 balls: their dual norm is L-inf, which no random projection preserves.
        """
        if norm.p == 1:
            raise OptionError(
                "RandomProjections: bounds over L1 balls rest on the largest entry of a row, which no projection "
                "estimates. Leave the projections out, or train on L-inf or L2 balls."
            )

    def pays(self, size: int) -> bool:
        """Whether a layer of that many neurons is estimated."""
        return size > self.columns

    def cauchy(self, count: int, size: int, like: Tensor, generator: Generator | None) -> Tensor:
        """Standard Cauchy columns for each of `count` balls, shape (count, columns, size), drawn on the CPU.

        They are tan(pi (v - 1/2)) of uniform v, which is finite for every float and quicker than torch's own draw.
        """
        import torch

        uniform = torch.rand((count, self.columns, size), dtype=like.dtype, generator=generator)
        return torch.tan(math.pi * (uniform.to(like.device) - 0.5))

    def gaussian(self, count: int, size: int, like: Tensor, generator: Generator | None) -> Tensor:
        """Standard normal columns, likewise."""
        import torch

        return torch.randn((count, self.columns, size), dtype=like.dtype, generator=generator).to(like.device)

    def l1(self, products: Tensor) -> Tensor:
        """L1 norms of rows from their products with Cauchy columns, (B, columns, n) -> (B, n)."""
        return median_size(products) if self.median else likeliest_scale(products)

    def l2(self, products: Tensor) -> Tensor:
        """L2 norms of rows from their products with normal columns, (B, columns, n) -> (B, n): the root mean square."""
        import torch

        size: Tensor = torch.linalg.vector_norm(products, dim=1)  # its gradient at 0 is 0, a square root's is not
        return size / products.shape[1] ** 0.5


def estimated_layers(layers: Sequence[LiveAffine], projection: RandomProjections) -> tuple[int, ...]:
    """The hidden layers, from 1, whose bounds are estimated: not those where the dual bound itself costs no more."""
    return tuple(
        k
        for k, affine in enumerate(layers[:-1], 1)
        if projection.pays(affine.size) and any(source > 0 for source, _ in affine.blocks)
    )


def with_estimated_bounds(
    layers: Sequence[LiveAffine],
    balls: BallBatch,
    projection: RandomProjections,
    generator: Generator | None = None,
) -> LiveProblem:
    """Every hidden layer bounded, the wide ones by estimates. Floating, differentiable; proves nothing.

    The estimates over L2 balls leave out the clip.

    Args:
        layers: The affine maps, the output last.
        balls: Of L-inf or L2.
        projection: How many columns.
        generator: Of the columns, on the CPU; torch's own when None.

    Raises:
        OptionError: For L1 balls.

    Source:
        Wong, Schmidt, Metzen & Kolter 2018, section 3.2.
    """
    projection.check_norm(balls.norm)
    problem = LiveProblem.over(layers, balls)
    wide = estimated_layers(layers, projection)
    columns = _Columns.at_the_input(balls, projection, generator) if wide else None
    for k in range(1, len(layers)):
        arrived = None if columns is None else columns.through(layers[k - 1])
        limits = arrived.limits() if arrived is not None and k in wide else dual_limits(problem, k)
        problem = problem.bounded(*limits)
        if columns is not None and arrived is not None:
            columns = columns.and_past(arrived, problem, k) if k < max(wide) else None
    return problem


@dataclass(frozen=True, eq=False)
class _Arrived:
    """What arrives at zhat_k: the middle (B, 1, n), and products (B, columns, n) with Cauchy and normal columns."""

    projection: RandomProjections
    middle: Any
    cauchy: Any
    gaussian: Any

    def limits(self) -> tuple[Any, Any]:
        """The middle less and plus the estimated radius."""
        radius = 0.0 if self.cauchy is None else self.projection.l1(self.cauchy)
        if self.gaussian is not None:
            radius = radius + self.projection.l2(self.gaussian)
        middle = self.middle[:, 0, :]
        return middle - radius, middle + radius


@dataclass(frozen=True, eq=False)
class _Columns:
    """The columns at every source so far, the input first; None where all of them are zero.

    Attributes:
        middle: The linear network at the ball's centre with delta = h / 2.
        cauchy: For everything whose size counts: a box at the input, and delta of every layer.
        gaussian: For an L2 ball at the input.
    """

    projection: RandomProjections
    generator: Generator | None
    middle: tuple[Any, ...]
    cauchy: tuple[Any, ...]
    gaussian: tuple[Any, ...]

    @classmethod
    def at_the_input(cls, balls: BallBatch, projection: RandomProjections, generator: Generator | None) -> _Columns:
        wanted = (*balls.centre.shape, balls.centre, generator)
        if balls.is_box:
            middle, radius = (balls.lower + balls.upper) / 2, (balls.upper - balls.lower) / 2
            scaled = projection.cauchy(*wanted) * radius[:, None, :]
            return cls(projection, generator, (middle[:, None, :],), (scaled,), (None,))
        scaled = projection.gaussian(*wanted) * balls.eps
        return cls(projection, generator, (balls.centre[:, None, :],), (None,), (scaled,))

    def through(self, affine: LiveAffine) -> _Arrived:
        """All columns pushed through an affine map; the middle with its bias."""
        middle, cauchy, gaussian = (_pushed(affine, part) for part in (self.middle, self.cauchy, self.gaussian))
        if middle is None:
            middle = self.middle[0].new_zeros((len(self.middle[0]), 1, affine.size))
        return _Arrived(self.projection, middle + affine.bias, cauchy, gaussian)

    def and_past(self, arrived: _Arrived, problem: LiveProblem, k: int) -> _Columns:
        """The same with the columns at z_k, once layer k is bounded."""
        import torch

        phases = problem.phases(k)
        l, u, slope = phases.l, phases.u, phases.slope
        half = torch.where((l < 0) & (u > 0), -slope * l, torch.zeros_like(l)) / 2
        noise = half * self.projection.cauchy(len(l), l.shape[-1], l, self.generator)
        return replace(
            self,
            middle=(*self.middle, slope * arrived.middle + half),
            cauchy=(*self.cauchy, noise if arrived.cauchy is None else slope * arrived.cauchy + noise),
            gaussian=(*self.gaussian, None if arrived.gaussian is None else slope * arrived.gaussian),
        )


def _pushed(affine: LiveAffine, values: tuple[Any, ...]) -> Any:
    """W applied to the columns at its sources, (B, columns, n_source) -> (B, columns, n); None for zero."""
    total = None
    for source, op in affine.blocks:
        if values[source] is not None:
            part = op.apply(values[source])
            total = part if total is None else total + part
    return total
