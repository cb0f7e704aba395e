"""Scales of Cauchy variables: by hand, by their definition, and under autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from milpverify.training.scale import likeliest_scale, median_size


def sample(count: int, columns: int) -> Tensor:
    v = torch.rand((count, columns, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.tan(math.pi * (v - 0.5))


def test_scales_by_hand() -> None:
    x = torch.tensor([1.0, -4.0], dtype=torch.float64).reshape(1, 2, 1)
    assert likeliest_scale(x).item() == pytest.approx(2.0, rel=1e-12)  # 1/5 + 4/5 = 2 * 1/2
    assert median_size(x).item() == 2.5
    three = torch.tensor([7.0, -1.0, 2.0], dtype=torch.float64).reshape(1, 3, 1)
    assert median_size(three).item() == 2.0


@pytest.mark.parametrize("columns", [3, 10, 51])
def test_the_likeliest_scale_is_likelier_than_its_neighbours_and_scales_with_the_sample(columns: int) -> None:
    x = sample(40, columns)
    scale = likeliest_scale(x)

    def log_likelihood(c: Tensor) -> Tensor:
        return (c.log()[:, None] - (c[:, None] ** 2 + x**2).log()).sum(dim=1)

    assert (log_likelihood(scale) > log_likelihood(scale * 1.001)).all()
    assert (log_likelihood(scale) > log_likelihood(scale * 0.999)).all()
    torch.testing.assert_close(likeliest_scale(-30.0 * x), 30.0 * scale, rtol=1e-9, atol=0.0)


def test_the_gradient_of_the_likeliest_scale_is_that_of_finite_differences() -> None:
    x = sample(2, 11).requires_grad_()
    assert torch.autograd.gradcheck(likeliest_scale, (x,), eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_scales_of_zeros_are_zero_with_gradients_that_are_finite(kind: torch.dtype) -> None:
    for estimate in (likeliest_scale, median_size):
        x = torch.zeros((2, 4, 3), dtype=kind, requires_grad=True)
        value = estimate(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert (value == 0).all() and torch.isfinite(gradient).all()


@pytest.mark.parametrize("columns", [11, 50])
def test_both_estimates_of_a_sample_spread_as_theory_says(columns: int) -> None:
    x = 3.0 * sample(4000, columns)
    for estimate, expected in ((likeliest_scale, math.sqrt(2)), (median_size, math.pi / 2)):
        error = estimate(x).log() - math.log(3.0)  # the scale's logarithm: without the long tail above
        assert float(error.mean()) == pytest.approx(0, abs=0.02)
        assert float(error.std()) * math.sqrt(columns) == pytest.approx(expected, rel=0.1)
