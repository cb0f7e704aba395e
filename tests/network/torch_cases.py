"""Small torch modules, one per layer kind and configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


class Lambda(nn.Module):
    """A forward given as a function, with two parameters it may use."""

    def __init__(self, forward: Callable[[Lambda, Tensor], Tensor]) -> None:
        super().__init__()
        self.how = forward
        self.w = nn.Parameter(torch.randn(6, 4))
        self.register_buffer("c", torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


class Residual(nn.Module):
    """Two convolutions with batch-norms and a skip connection; in-place ReLUs, whose aliases matter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(3), nn.BatchNorm2d(2)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.first(x)))
        return self.head(self.relu(x + self.norm2(self.second(y))))


@dataclass(frozen=True)
class TorchCase:
    """A module and the shape of one input, without the batch axis."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (6,)

    def module(self, seed: int = 0) -> nn.Module:
        """The module with random weights and statistics, in evaluation mode."""
        torch.manual_seed(seed)
        module = self.make()
        for part in module.modules():
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)) and part.running_mean is not None:
                part.running_mean.normal_()
                part.running_var.uniform_(0.3, 2)  # type: ignore[union-attr]
                if part.affine:
                    nn.init.normal_(part.weight)
                    nn.init.normal_(part.bias)
        return module.eval()


def fun(name: str, forward: Callable[..., Tensor], shape: tuple[int, ...] = (6,)) -> TorchCase:
    return TorchCase(name, lambda: Lambda(forward), shape)


def inplace(m: Lambda, x: Tensor) -> Tensor:
    y = x * 2
    z = y + 1
    y.relu_()  # changes y, which the sum below reads
    return y + z


def written(m: Lambda, x: Tensor) -> Tensor:
    y = x * 2
    y[:, 2:4] = 0.5
    y[:, :1] += 3
    y[:, -1] = x[:, 0]
    y[:, ::3].mul_(x.new_tensor(0.5))
    return y


IMAGE, SIGNAL = (2, 7, 6), (3, 9)
CASES = [
    TorchCase("linear", lambda: nn.Linear(6, 3)),
    TorchCase("linear without bias, several rows", lambda: nn.Linear(6, 3, bias=False), (2, 6)),
    TorchCase(
        "conv2d", lambda: nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2), IMAGE
    ),
    TorchCase("conv2d same", lambda: nn.Conv2d(2, 3, (3, 4), padding="same", dilation=(2, 1)), IMAGE),
    TorchCase("conv2d valid", lambda: nn.Conv2d(2, 3, 3, padding="valid", bias=False), IMAGE),
    TorchCase("conv2d reflect", lambda: nn.Conv2d(2, 3, 3, padding=2, padding_mode="reflect"), IMAGE),
    TorchCase("conv2d replicate", lambda: nn.Conv2d(2, 3, 3, padding=2, padding_mode="replicate"), IMAGE),
    TorchCase("conv1d", lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), SIGNAL),
    TorchCase("batch norm 1d", lambda: nn.BatchNorm1d(6)),
    TorchCase("batch norm 1d of a signal", lambda: nn.BatchNorm1d(3), SIGNAL),
    TorchCase("batch norm 2d", lambda: nn.BatchNorm2d(2, eps=0.1), IMAGE),
    TorchCase("batch norm 2d, not affine", lambda: nn.BatchNorm2d(2, affine=False), IMAGE),
    TorchCase("max pool", lambda: nn.MaxPool2d(2), IMAGE),
    TorchCase("max pool, all options", lambda: nn.MaxPool2d((3, 2), (2, 1), 1, (1, 2), ceil_mode=True), IMAGE),
    TorchCase("max pool 1d", lambda: nn.MaxPool1d(3, 2, 1), SIGNAL),
    TorchCase("average pool", lambda: nn.AvgPool2d(2), IMAGE),
    TorchCase("average pool, padding counted", lambda: nn.AvgPool2d(3, (2, 3), 1, ceil_mode=True), IMAGE),
    TorchCase("average pool, padding not counted", lambda: nn.AvgPool2d(3, 2, 1, True, False), IMAGE),
    TorchCase("average pool 1d", lambda: nn.AvgPool1d(3, 2, 1), SIGNAL),
    TorchCase("adaptive average pool to one", lambda: nn.AdaptiveAvgPool2d(1), IMAGE),
    TorchCase("adaptive average pool", lambda: nn.AdaptiveAvgPool2d((7, 3)), IMAGE),
    TorchCase("adaptive average pool 1d", lambda: nn.AdaptiveAvgPool1d(3), SIGNAL),
    TorchCase("relu", nn.ReLU),
    TorchCase("relu in place", lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))),
    TorchCase("leaky relu", lambda: nn.LeakyReLU(0.01)),
    TorchCase("prelu", nn.PReLU),
    TorchCase("prelu per channel", lambda: nn.Sequential(nn.PReLU(2), nn.Flatten()), IMAGE),
    TorchCase("hardtanh", lambda: nn.Hardtanh(-0.3, 0.7)),
    TorchCase("relu6", nn.ReLU6),
    TorchCase(
        "dropout, identity, flatten", lambda: nn.Sequential(nn.Dropout2d(), nn.Identity(), nn.Flatten(1, 2)), IMAGE
    ),
    TorchCase("unflatten", lambda: nn.Unflatten(1, (2, 3))),
    TorchCase("zero pad", lambda: nn.ZeroPad2d((1, 2, 0, 3)), IMAGE),
    TorchCase("residual, in place", Residual, IMAGE),
    fun("in-place change of a value read later", inplace),
    fun("values written into slices", written),
    fun("abs", lambda m, x: x.abs() + torch.abs(-x)),
    fun("arithmetic", lambda m, x: (3 - x * 2.1) / 7 + m.c - (x - m.c) * m.c + (1 - x) + (-x).sub(x, alpha=0.3)),
    fun("division by a buffer", lambda m, x: x / m.c),
    fun("matmul right", lambda m, x: x @ m.w),
    fun("matmul left", lambda m, x: m.w.t() @ x.reshape(6, 1)),
    fun("addmm", lambda m, x: torch.addmm(m.w[0], x, m.w, alpha=0.3, beta=2)),
    fun("linear by hand", lambda m, x: functional.linear(x, m.w.t(), m.w[0])),
    fun("clamps", lambda m, x: x.clamp(-0.5, 0.5) + x.clamp(min=0.1) + torch.clamp_max(x, 0.2) + x.clip(-1)),
    fun("maximum and minimum", lambda m, x: torch.maximum(x, -x * 2) + torch.minimum(m.c, x)),
    fun("amax, amin", lambda m, x: x.amax(1, keepdim=True) + x.amin((1,)) + x.max() + x.max(dim=1).values),
    fun("sum and mean", lambda m, x: x.sum((2, 3)) + x.mean((-1, 1), keepdim=True).sum() + x.mean() + x.sum(), IMAGE),
    fun("shapes", lambda m, x: x.permute(0, 2, 3, 1).reshape(1, -1, 4).transpose(1, 2).unsqueeze(0).squeeze(), IMAGE),
    fun("view, expand, repeat", lambda m, x: x.view(1, 6, 1).expand(-1, 6, 2).repeat(1, 2, 1)),
    fun("slices", lambda m, x: x[:, 1, 2:-1, ::2] + x[:, -1, :4, [0, 3, 2]], IMAGE),
    fun("index select", lambda m, x: x.index_select(1, torch.tensor([3, 3, 0])) + x[:, [1, 2, 5]]),
    fun(
        "split, chunk, unbind",
        lambda m, x: torch.cat([*x.split([1, 2, 3], 1), *x.split(4, 1), *x.chunk(2, 1)], 1) + x.unbind(1)[2],
    ),
    fun("stack", lambda m, x: torch.stack([x, 2 * x, m.c[None]], -1).flatten(1)),
    fun("cat with a constant", lambda m, x: torch.cat([x, m.c[None], torch.ones(1, 2)], 1)),
    fun("pad", lambda m, x: functional.pad(x, (1, -2, 0, 3), value=0.4), IMAGE),
    fun("pad, reflect", lambda m, x: functional.pad(x, (1, 2, 0, 3), mode="reflect"), IMAGE),
    fun(
        "functional",
        lambda m, x: (
            functional.relu6(functional.leaky_relu(x, 0.3))
            + functional.hardtanh(x)
            + functional.dropout(x, 0.5, m.training)
            + functional.relu(x)
        ),
    ),
    fun("casts", lambda m, x: x.to(torch.float64).float().contiguous().clone()),
    fun("dense net", lambda m, x: torch.cat([x, functional.relu(x @ m.w)], 1)[:, ::3]),
    fun("in place and prelu", lambda m, x: functional.prelu(x * 2, m.c[:1]).relu_() + functional.leaky_relu(x)),
]
