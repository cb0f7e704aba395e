"""Small modules and images that training is tested on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from milpverify.training.datasets import ImageSet
from milpverify.training.models import mlp

SHAPE = (1, 4, 4)
CLASSES = 3


class Skip(nn.Module):
    """A dense network whose second layer is also fed by the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 6), nn.Linear(6, 6)
        self.past = nn.Linear(16, 6, bias=False)
        self.last = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(x, 1)
        y = torch.relu(self.first(x))
        return self.last(torch.relu(self.second(y) + self.past(x)))


def modules() -> dict[str, nn.Module]:
    """Dense, convolutional and skip networks in float64, equal at every call."""
    torch.manual_seed(3)
    made: dict[str, nn.Module] = {
        "dense": mlp(SHAPE, (8, 7), CLASSES),
        "convolution": nn.Sequential(
            nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(),
            nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, CLASSES),
        ),
        "skip": Skip(),
    }  # fmt: skip
    return {name: module.double() for name, module in made.items()}


def images(count: int = 60, seed: int = 0) -> ImageSet:
    """Images whose class is the brightest of three rows of pixels, so that they can be learned."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    pixels = 0.4 * rng.random((count, *SHAPE))
    pixels[np.arange(count), 0, labels] += 0.5
    return ImageSet(pixels, labels, "rows")
