"""A network compared with another program's execution of the same model, on sampled inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from milpverify.errors import NetworkError, OptionError
from milpverify.network.graph import Network, relu

DEFAULT_SAMPLES = 16
TOLERANCE = 1e-4  # relative; float32 arithmetic of deep networks stays well below it


def sample_count(check: bool | int, who: str) -> int:
    """The number of samples an option `check` asks for."""
    if check is True:
        return DEFAULT_SAMPLES
    if check < 0:
        raise OptionError(f"{who}: check={check}. Give the number of inputs to compare, or 0.")
    return int(check)


def sample_inputs(net: Network, samples: int, seed: int) -> np.ndarray:
    """Float32 numbers as float64, shape (samples, n_inputs): images in [0, 1] and wider normal inputs, in turns."""
    generator = np.random.default_rng(seed)
    images = generator.random((samples, net.n_inputs))
    spread = 10.0 ** generator.uniform(-1, 1, (samples, 1))
    x = np.where(np.arange(samples)[:, None] % 2 == 0, images, spread * generator.standard_normal(images.shape))
    return x.astype(np.float32).astype(np.float64)


def compare(net: Network, inputs: np.ndarray, run: Callable[[np.ndarray], np.ndarray], who: str, other: str) -> float:
    """The largest relative difference between `net` and `run` over inputs of shape (samples, n_inputs). Floating.

    Args:
        run: Maps one flat input to the other program's output.
        who, other: For the message.

    Raises:
        NetworkError: If the shapes differ, or a value differs by more than TOLERANCE.
    """
    worst = 0.0
    for x in inputs:
        values = [x]
        for layer in net.layers:
            values.append(relu(layer.apply(values)))
        y, theirs = net.output.apply(values), run(x)
        if theirs.shape != net.output_shape:
            raise NetworkError(f"{who}: {other} returns shape {theirs.shape}, the network {net.output_shape}. "
                               "Please report this file.")  # fmt: skip
        # The sum of the terms' magnitudes, since float32 loses digits where large terms cancel.
        magnitude = np.abs(net.output.bias) + 1e-6
        for source, op in net.output.blocks:
            magnitude = magnitude + op.magnitude().apply(np.abs(values[source]))
        differences = np.abs(y - theirs.reshape(-1).astype(np.float64)) / magnitude.max()
        at = int(np.argmax(differences))  # a NaN counts as the largest
        worst = max(worst, float(differences[at]))
        if not differences[at] <= TOLERANCE:
            raise NetworkError(
                f"{who}: output {at} is {y[at]:.6g}, but {theirs.reshape(-1)[at]:.6g} by {other}, at a sampled input. "
                "Do not trust verdicts on this network, and please report it."
            )
    return worst
