"""Many norm balls at once, in torch: what the dual function needs of a batch of inputs, differentiable."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from milpverify.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

DUAL_NORM = {1.0: np.inf, 2.0: 2.0, np.inf: 1.0}


@dataclass(frozen=True)
class Norm:
    """Which inputs count as near: the L-p norm of the ball, and the range of valid inputs.

    Attributes:
        p: 1, 2 or infinity.
        clip: (low, high) that every coordinate must stay in; None for no limit.

    Raises:
        OptionError: If p is another number, or the clip holds no number.
    """

    p: float = np.inf
    clip: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.p not in DUAL_NORM:
            raise OptionError(f"Norm: p must be 1, 2 or infinity, got {self.p}. Balls of other norms are not trained.")
        if self.clip is not None and not (len(self.clip) == 2 and self.clip[0] < self.clip[1]):
            raise OptionError(f"Norm: clip must be (low, high) with low < high, got {self.clip}. Give (0, 1) or None.")

    @property
    def name(self) -> str:
        """ "linf", "l2" or "l1"."""
        return "linf" if np.isinf(self.p) else f"l{self.p:.0f}"

    def check_eps(self, eps: float, who: str) -> None:
        """Refuse a radius that makes no sense.

        Raises:
            OptionError: If it is negative or no number, or an L-inf ball is wider than the clip on both sides.
        """
        given: Any = eps
        if not isinstance(given, Real) or not 0 <= eps < np.inf:
            raise OptionError(f"{who}: eps must be finite and at least 0, got {eps}. Give a radius in input units.")
        if self.clip is not None and np.isinf(self.p) and eps > self.clip[1] - self.clip[0]:
            raise OptionError(
                f"{who}: eps {eps:g} reaches beyond the clip [{self.clip[0]:g}, {self.clip[1]:g}], where every input "
                "is near every other. Give eps in units of the input, or leave the clip out."
            )

    def check_images(self, images: np.ndarray, name: str, who: str) -> None:
        """Refuse centres of balls outside of the clip.

        Raises:
            OptionError: If a pixel lies beyond it.
        """
        if self.clip is not None and not (self.clip[0] <= images.min() and images.max() <= self.clip[1]):
            raise OptionError(
                f"{who}: the pixels of {name!r} go from {images.min():g} to {images.max():g}, beyond the clip "
                f"[{self.clip[0]:g}, {self.clip[1]:g}]. Give the range of all valid pixels, or no clip."
            )


@dataclass(frozen=True, eq=False)
class BallBatch:
    """The balls { x : ||x - centre||_p <= eps } within the clip, one per entry of the leading axis.

    Attributes:
        centre: Shape (B, n).
        eps: Radius, in units of the input.
        norm: p and clip.
    """

    centre: Tensor
    eps: float
    norm: Norm = field(default_factory=Norm)

    @cached_property
    def lower(self) -> Any:
        """The bounding box, shape (B, n). Floating."""
        low = self.centre - self.eps
        return low if self.norm.clip is None else low.clamp(min=self.norm.clip[0])

    @cached_property
    def upper(self) -> Any:
        """The bounding box, shape (B, n). Floating."""
        high = self.centre + self.eps
        return high if self.norm.clip is None else high.clamp(max=self.norm.clip[1])

    @property
    def dimension(self) -> int:
        """Number of coordinates n."""
        return int(self.centre.shape[-1])

    @property
    def is_box(self) -> bool:
        """Whether the balls are their bounding boxes."""
        return bool(np.isinf(self.norm.p))

    def minimum(self, lam: Tensor) -> Tensor:
        """Lower bounds of min lam.x over each ball: the lower end of `span`."""
        return self.span(lam)[0]

    def span(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        r"""Bounds of lam.x over each ball, from below and above. Floating, differentiable in lam.

        Over the ball lam.c -+ eps ||lam||_q with 1/p + 1/q = 1, over the box lam.m -+ |lam|.r with its middle and half
        widths; both are exact without a clip, and the box is for p = infinity. With a clip and p < infinity the tighter
        of both is taken, which is not always exact (`spec.round_balls` splits lam to close the rest).

        Args:
            lam: Shape (m, n), the same rows for every ball, or (B, m, n).

        Returns:
            Two of shape (B, m).

        Source:
            Wong & Kolter 2018, theorem 1 (the dual norm of nu_1).
        """
        if self.is_box:
            return self._over_box(lam)
        middle, reach = _product(lam, self.centre), self.eps * _size(lam, DUAL_NORM[self.norm.p])
        if self.norm.clip is None:
            return middle - reach, middle + reach
        low, high = self._over_box(lam)
        return low.maximum(middle - reach), high.minimum(middle + reach)

    def minimiser(self, lam: Tensor) -> Tensor:
        """Points of the balls where lam.x is least, moved into the clip: (B, m, n) to the same shape. Floating.

        For p = infinity and without a clip they attain `minimum`; otherwise they are points of the ball all the same,
        if its centre lies within the clip.
        """
        import torch

        low, high, centre = (v[:, None, :] for v in (self.lower, self.upper, self.centre))
        if self.is_box:
            return torch.where(lam > 0, low, torch.where(lam < 0, high, centre))
        if self.norm.p == 2:
            direction = lam / _size(lam, 2.0)[..., None].clamp(min=1e-30)
        else:
            largest = lam.abs().argmax(dim=-1, keepdim=True)
            direction = torch.zeros_like(lam).scatter(-1, largest, lam.gather(-1, largest).sign())
        return (centre - self.eps * direction).maximum(low).minimum(high)

    def _over_box(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        middle = _product(lam, (self.lower + self.upper) / 2)
        reach = _product(lam.abs(), (self.upper - self.lower) / 2)
        return middle - reach, middle + reach


def _product(lam: Tensor, x: Tensor) -> Tensor:
    """lam.x for every ball: (m, n) or (B, m, n), with (B, n) -> (B, m)."""
    return x @ lam.T if lam.ndim == 2 else (lam @ x[:, :, None])[:, :, 0]


def _size(lam: Tensor, q: float) -> Tensor:
    import torch

    return torch.linalg.vector_norm(lam, ord=q, dim=-1)
