"""Two-dimensional convolution as a linear operator: the one operator with code per array namespace."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from milpverify.errors import NetworkError
from milpverify.network.arrays import to_host
from milpverify.network.operators import Array, ArrayMap, LinearOperator, to_scaled_integers


@dataclass(frozen=True, eq=False)
class Conv2d(LinearOperator):
    """Cross-correlation of a (channels, height, width) image with a kernel, as torch and ONNX define it.

    Attributes:
        kernel: Shape (out_channels, in_channels // groups, kernel_height, kernel_width).
        in_shape: (channels, height, width) of the input, flattened in C order.
        stride: (rows, columns).
        padding: Zeros added at the (top, left, bottom, right).
        dilation: (rows, columns).
        groups: Channel groups that do not mix.
    """

    kernel: Array
    in_shape: tuple[int, int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        channels = self.in_shape[0]
        if (
            self.kernel.ndim != 4
            or self.kernel.shape[1] * self.groups != channels
            or self.kernel.shape[0] % self.groups
        ):
            raise NetworkError(
                f"Conv2d: a kernel of shape {tuple(self.kernel.shape)} in {self.groups} groups does not fit "
                f"{channels} channels."
            )
        if min(self.out_shape) < 1 or min(self.padding) < 0:
            raise NetworkError(
                f"Conv2d: input {self.in_shape}, kernel {tuple(self.kernel.shape)} and padding {self.padding} leave "
                "no output."
            )

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the output."""
        _, height, width = self.in_shape
        top, left, bottom, right = self.padding
        out, _, rows, columns = self.kernel.shape
        high = (height + top + bottom - self.dilation[0] * (rows - 1) - 1) // self.stride[0] + 1
        wide = (width + left + right - self.dilation[1] * (columns - 1) - 1) // self.stride[1] + 1
        return int(out), high, wide

    @property
    def in_size(self) -> int:  # type: ignore[override]
        return int(np.prod(self.in_shape))

    @property
    def out_size(self) -> int:  # type: ignore[override]
        return int(np.prod(self.out_shape))

    def apply(self, x: Array) -> Array:
        batch = x.reshape((-1, *self.in_shape))
        if _is_torch(batch):
            return _torch_apply(self, batch).reshape((*x.shape[:-1], self.out_size))
        out = self.out_shape[0]
        windows = _windows(self, _padded(self, batch))  # (N, g, high*wide, i*kh*kw)
        weights = self.kernel.reshape(self.groups, out // self.groups, -1)
        y = np.matmul(weights, windows.swapaxes(-1, -2))  # (N, g, o/g, high*wide)
        return y.reshape((*x.shape[:-1], self.out_size))

    def transpose_apply(self, y: Array) -> Array:
        out, high, wide = self.out_shape
        if _is_torch(y):
            return _torch_transpose(self, y.reshape((-1, *self.out_shape))).reshape((*y.shape[:-1], self.in_size))
        channels, height, width = self.in_shape
        top, left, bottom, right = self.padding
        rows, columns = self.kernel.shape[2:]
        batch = y.reshape((-1, self.groups, out // self.groups, high * wide))
        weights = self.kernel.reshape(self.groups, out // self.groups, -1).swapaxes(-1, -2)
        parts = np.matmul(weights, batch).reshape((-1, channels, rows, columns, high, wide))
        image = np.zeros((len(parts), channels, height + top + bottom, width + left + right), dtype=parts.dtype)
        for i in range(rows):
            for j in range(columns):
                image[_taps(self, i, j)] += parts[:, :, i, j]
        image = image[:, :, top : top + height, left : left + width]
        return image.reshape((*y.shape[:-1], self.in_size))

    def magnitude(self) -> LinearOperator:
        return self.map_arrays(abs)

    def map_arrays(self, convert: ArrayMap) -> LinearOperator:
        return Conv2d(convert(self.kernel), self.in_shape, self.stride, self.padding, self.dilation, self.groups)

    def scaled_integer(self) -> tuple[LinearOperator, int]:
        integers, exponent = to_scaled_integers(self.kernel)
        return self.map_arrays(lambda _: integers), exponent

    def description(self) -> tuple[object, ...]:
        return ("conv2d", self.kernel, self.in_shape, self.stride, self.padding, self.dilation, self.groups)

    @property
    def roundings(self) -> int:
        _, fan_in, rows, columns = self.kernel.shape
        return int(rows * columns * max(fan_in, self.kernel.shape[0] // self.groups)) + 2

    @property
    def apply_roundings(self) -> int:
        return self.fan_in + 1

    @property
    def fan_in(self) -> int:
        return int(np.prod(self.kernel.shape[1:]))

    def entries(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        columns, values = self._entries
        return columns[index], values[index]

    @cached_property
    def _entries(self) -> tuple[np.ndarray, np.ndarray]:
        """`entries` of all rows."""
        out, high, wide = self.out_shape
        _, height, width = self.in_shape
        kernel = to_host(self.kernel)
        fan_in, rows, columns = kernel.shape[1:]
        y = np.arange(high)[:, None] * self.stride[0] - self.padding[0] + np.arange(rows) * self.dilation[0]
        x = np.arange(wide)[:, None] * self.stride[1] - self.padding[1] + np.arange(columns) * self.dilation[1]
        down, across = (y >= 0) & (y < height), (x >= 0) & (x < width)
        inside = down[:, None, None, :, None] & across[None, :, None, None, :]  # (high, wide, 1, rows, columns)
        place = y[:, None, None, :, None] * width + x[None, :, None, None, :]
        place = place + np.arange(fan_in)[:, None, None] * (height * width)
        first = np.arange(out) // (out // self.groups) * fan_in * (height * width)  # the group's first channel
        shape = (out, high, wide, fan_in, rows, columns)
        column = np.where(inside, place + first[:, None, None, None, None, None], -1)
        values = np.where(inside, kernel[:, None, None], 0.0)
        column, values = np.broadcast_to(column, shape), np.broadcast_to(values, shape)
        return column.reshape((self.out_size, self.fan_in)), values.reshape((self.out_size, self.fan_in))

    def rows(self, index: Sequence[int] | np.ndarray) -> np.ndarray:
        columns, values = self.entries(np.asarray(index))
        dense = np.zeros((len(columns), self.in_size + 1), dtype=values.dtype)
        np.put_along_axis(dense, np.where(columns < 0, self.in_size, columns), values, axis=1)
        return dense[:, :-1]

    @property
    def work(self) -> int:
        _, high, wide = self.out_shape
        return int(np.prod(self.kernel.shape)) * high * wide


def _is_torch(x: Array) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _padded(conv: Conv2d, batch: np.ndarray) -> np.ndarray:
    """The image with its zeros around it.

    Not by np.pad: among Python integers its zeros are int64, which overflow silently in exact arithmetic.
    """
    top, left, bottom, right = conv.padding
    if not any(conv.padding):
        return batch
    n, channels, height, width = batch.shape
    image = np.zeros((n, channels, height + top + bottom, width + left + right), dtype=batch.dtype)
    image[:, :, top : top + height, left : left + width] = batch
    return image


def _taps(conv: Conv2d, i: int, j: int) -> tuple[slice, ...]:
    """The padded pixels that kernel entry (i, j) touches, one per output pixel."""
    _, high, wide = conv.out_shape
    top, left = i * conv.dilation[0], j * conv.dilation[1]
    down = slice(top, top + (high - 1) * conv.stride[0] + 1, conv.stride[0])
    across = slice(left, left + (wide - 1) * conv.stride[1] + 1, conv.stride[1])
    return slice(None), slice(None), down, across


def _windows(conv: Conv2d, image: np.ndarray) -> np.ndarray:
    """Every window as a row: (N, groups, high*wide, in_channels/groups * kernel_h * kernel_w)."""
    rows, columns = conv.kernel.shape[2:]
    _, high, wide = conv.out_shape
    taps = np.stack([image[_taps(conv, i, j)] for i in range(rows) for j in range(columns)], axis=-1)
    fan_in = conv.in_shape[0] // conv.groups  # no -1 below: a batch may be empty
    taps = taps.reshape((len(image), conv.groups, fan_in, high * wide, rows * columns))
    return taps.swapaxes(2, 3).reshape((len(image), conv.groups, high * wide, fan_in * rows * columns))


def _torch_apply(conv: Conv2d, batch: Any) -> Any:
    import torch.nn.functional as functional

    top, left, bottom, right = conv.padding
    image = functional.pad(batch, (left, right, top, bottom))
    return functional.conv2d(image, conv.kernel, None, conv.stride, 0, conv.dilation, conv.groups)


def _torch_transpose(conv: Conv2d, batch: Any) -> Any:
    import torch.nn.functional as functional

    _, height, width = conv.in_shape
    top, left, bottom, right = conv.padding
    image = functional.conv_transpose2d(batch, conv.kernel, None, conv.stride, 0, 0, conv.groups, conv.dilation)
    missing = (height + top + bottom - image.shape[-2], width + left + right - image.shape[-1])
    image = functional.pad(image, (0, missing[1], 0, missing[0]))  # pixels no window reaches
    return image[..., top : top + height, left : left + width]
