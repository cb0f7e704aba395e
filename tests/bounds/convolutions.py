"""Small convolutional networks with every option of a convolution, and skip connections over several layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from milpverify.network.convolution import Conv2d
from milpverify.network.graph import Network
from milpverify.network.operators import Dense, LinearOperator, Product, Scaling
from tests.cases import affine, bias, weights

SHAPE = (2, 6, 6)


def conv(
    rng: np.random.Generator, in_shape: tuple[int, int, int], out: int, kernel: tuple[int, int], **options: Any
) -> Conv2d:
    """A convolution with random weights."""
    fan = in_shape[0] // options.get("groups", 1)
    return Conv2d(rng.normal(size=(out, fan, *kernel)) / np.sqrt(fan * kernel[0] * kernel[1]), in_shape, **options)


def options(rng: np.random.Generator) -> Network:
    """Three convolutions: padded unevenly, strided, dilated, in groups; one output channel has no weights."""
    a = conv(rng, SHAPE, 4, (3, 3), padding=(1, 0, 1, 1))
    b = conv(rng, a.out_shape, 4, (3, 3), stride=(2, 1), padding=(1, 2, 1, 1), groups=2)
    b.kernel[1] = 0.0
    c = conv(rng, b.out_shape, 2, (2, 2), dilation=(2, 1), padding=(0, 1, 0, 0))
    layers = (affine({0: a}, bias(rng, a.out_size) - 0.3), affine({1: b}, bias(rng, b.out_size)))
    layers = (*layers, affine({2: c}, bias(rng, c.out_size)))
    return Network(SHAPE, (3,), layers, affine({3: weights(rng, 3, c.out_size)}, bias(rng, 3)))


def residual(rng: np.random.Generator) -> Network:
    """Convolutions that skip layers, one behind a lazy product, and an output that reads the first layer."""
    a = conv(rng, SHAPE, 3, (3, 3), padding=(1, 1, 1, 1))
    b = conv(rng, a.out_shape, 3, (3, 3), padding=(1, 1, 1, 1))
    c = conv(rng, b.out_shape, 3, (2, 2), padding=(0, 0, 1, 1))
    d, e = (conv(rng, c.out_shape, 2, (3, 3), stride=(3, 3)) for _ in range(2))
    lazy = Product((Scaling(rng.normal(size=a.out_size)), conv(rng, a.out_shape, 3, (1, 1))))
    layers = (
        affine({0: a}, bias(rng, a.out_size) - 0.3),
        affine({0: conv(rng, SHAPE, 3, (1, 1)), 1: b}, bias(rng, b.out_size)),
        affine({0: conv(rng, SHAPE, 3, (3, 3), padding=(1, 1, 1, 1)), 1: lazy, 2: c}, bias(rng, c.out_size)),
        affine({1: d, 3: e}, bias(rng, d.out_size)),
    )
    output = {1: weights(rng, 2, a.out_size), 4: weights(rng, 2, d.out_size)}
    return Network(SHAPE, (2,), layers, affine(output, bias(rng, 2)))


def sides(rng: np.random.Generator) -> Network:
    """Convolutions of a layer that has no inputs, of a scaled one, and of one that is read by nothing else."""
    a = conv(rng, SHAPE, 3, (3, 3), padding=(1, 1, 1, 1))
    b, c = (conv(rng, a.out_shape, 2, (3, 3), stride=(2, 2), padding=(1, 1, 1, 1)) for _ in range(2))
    blocks: dict[int, LinearOperator] = {1: b, 2: c}
    layers = (
        affine({}, bias(rng, a.out_size)),
        affine({0: a}, bias(rng, a.out_size)),
        affine({2: Scaling(rng.normal(size=a.out_size))}, bias(rng, a.out_size)),  # nothing reads it
        affine(blocks, bias(rng, b.out_size)),
    )
    return Network(SHAPE, (2,), layers, affine({4: weights(rng, 2, b.out_size)}, bias(rng, 2)))


CONVOLUTIONS: dict[str, Callable[[np.random.Generator], Network]] = {
    "options": options,
    "residual": residual,
    "sides": sides,
}


def unsettled(rng: np.random.Generator, net: Network, x: np.ndarray) -> Network:
    """The network with biases that put every pre-activation next to zero at x, some exactly: rounding decides."""
    layers, values = [], [x]
    for layer in net.layers:
        moved = affine(dict(layer.blocks), np.zeros(layer.size))
        there = moved.apply(values)
        moved = affine(dict(layer.blocks), -there + 1e-16 * rng.integers(-2, 3, layer.size))
        layers.append(moved)
        values.append(np.maximum(moved.apply(values), 0.0) if rng.random() < 0.7 else np.zeros(layer.size))
    return Network(net.input_shape, net.output_shape, tuple(layers), net.output)


def mlp(rng: np.random.Generator, sizes: tuple[int, ...], scales: tuple[float, ...] = ()) -> Network:
    """A chain of dense layers; the matrices times `scales`."""
    scales = scales or (1.0,) * (len(sizes) - 1)
    layers = []
    for k, (n, m, scale) in enumerate(zip(sizes, sizes[1:], scales, strict=False)):
        layers.append(affine({k: Dense(weights(rng, m, n).matrix * scale)}, bias(rng, m)))
    return Network((sizes[0],), (sizes[-1],), tuple(layers[:-1]), layers[-1])
