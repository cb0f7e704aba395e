"""The scale c of Cauchy variables x, of density c / (pi (x^2 + c^2)): two estimates from a sample, under autograd.

Source: Li, Hastie & Church 2007, "Nonlinear estimators and tail bounds for dimension reduction in l1 using Cauchy
random projections".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MOST_STEPS = 20  # of the search for a scale; 4 or 5 are enough for 50 columns
LEAST_SLOPE = 0.05  # shorter steps than Newton's where a few columns leave a plateau


def median_size(x: Tensor) -> Tensor:
    """The median of |x| along axis 1, (B, columns, n) -> (B, n)."""
    size = x.abs()
    low: Tensor = size.median(dim=1).values  # of an even number, the lower middle one
    return low if size.shape[1] % 2 else (low - (-size).median(dim=1).values) / 2


def likeliest_scale(x: Tensor) -> Tensor:
    """The scale at which x along axis 1 is likeliest, (B, columns, n) -> (B, n).

    It is the c > 0 where q = x^2 / (x^2 + c^2), which falls in c, is 1/2 in the mean; 0 where most of x is 0. Newton's
    method in log c finds it; the last step is on tensors that carry gradients, and gives those of the solution.
    """
    import torch

    with torch.no_grad():
        start = median_size(x)[:, None, :]
        scale = torch.where(start > 0, start, 1.0)
        enough = float(torch.finfo(x.dtype).eps) ** 0.5
        for _ in range(MOST_STEPS):
            step, slope = _to_half(x, scale)
            step = torch.where(start > 0, step / slope, 0.0)
            scale = scale * step.exp()
            if float(step.abs().max()) <= enough:
                break
    miss, slope = _to_half(x, scale)
    return (torch.where(start > 0, scale, 0.0) * (miss / slope.detach()).exp())[:, 0, :]


def _to_half(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of q, less 1/2, and how fast it falls with log c, at least LEAST_SLOPE: its mean is 1/4."""
    size = (x / scale) ** 2
    q = size / (size + 1.0)
    slope = 2.0 * (q * (1.0 - q)).mean(dim=1, keepdim=True)
    return q.mean(dim=1, keepdim=True) - 0.5, slope.clamp(min=LEAST_SLOPE)
