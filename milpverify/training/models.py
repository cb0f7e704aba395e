"""The networks of the papers as torch modules, with weights drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from milpverify.errors import OptionError
from milpverify.training.extras import enough_memory, need_torch

if TYPE_CHECKING:
    from torch import nn


def mlp(input_shape: Sequence[int], widths: Sequence[int], n_classes: int, seed: int = 0) -> nn.Module:
    """Flatten, then dense layers of these widths with ReLU between them.

    Raises:
        OptionError: If a width is not positive, or torch is not installed.
    """
    need_torch("mlp")
    import torch
    from torch import nn

    if min(widths, default=1) < 1:
        raise OptionError(f"mlp: widths must be positive, got {tuple(widths)}.")
    with torch.random.fork_rng(devices=[]), enough_memory("mlp", "Give smaller widths."):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in pairwise((int(np.prod(input_shape)), *widths, n_classes)):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def wong_small(input_shape: Sequence[int], n_classes: int, seed: int = 0) -> nn.Module:
    """Two convolutions (16 and 32 filters of 4 x 4, stride 2, padding 1), a dense layer of 100, ReLU between all.

    On 28 x 28 images: 3,136 + 1,568 + 100 ReLUs.

    Raises:
        OptionError: If torch is not installed, or images are not (channels, height, width) with sides of at least 4.

    Source:
        Wong & Kolter 2018, section 4.1 (MNIST).
    """
    need_torch("wong-small")
    import torch
    from torch import nn

    if len(input_shape) != 3 or min(input_shape[1:]) < 4:
        raise OptionError(
            f"wong-small: images of shape {tuple(input_shape)}, expected (channels, height, width), 4 pixels or more. "
            "Use an mlp."
        )
    channels, height, width = input_shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(channels, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (height // 2 // 2) * (width // 2 // 2), 100),
            nn.ReLU(),
            nn.Linear(100, n_classes),
        )
