"""Pooling and reductions over windows: maxima by trees of ReLUs, averages by depthwise convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milpverify.errors import NetworkError, UnsupportedError
from milpverify.network.convolution import Conv2d
from milpverify.network.expression import Expr, convolve, linear, scale, select
from milpverify.network.lowering import Lowering
from milpverify.network.rounding import rounded_quotient


@dataclass(frozen=True)
class Window:
    """A sliding window along one axis.

    Attributes:
        size: Entries in the window.
        stride: Steps between windows.
        before, after: Padding at either end.
        dilation: Steps between the entries of a window.
        ceil: Keep a last window that reaches past the padding (unless it would start there).
    """

    size: int
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1
    ceil: bool = False

    def __post_init__(self) -> None:
        if min(self.size, self.stride, self.dilation) < 1 or min(self.before, self.after) < 0:
            raise NetworkError(
                f"a window of size {self.size}, stride {self.stride}, dilation {self.dilation} and padding "
                f"({self.before}, {self.after}). Give positive sizes and no negative padding."
            )

    def count(self, length: int) -> int:
        """Number of windows over an axis of `length` entries."""
        span = self.dilation * (self.size - 1) + 1
        rest = length + self.before + self.after - span
        windows = (-(-rest // self.stride) if self.ceil else rest // self.stride) + 1
        if self.ceil and (windows - 1) * self.stride >= length + self.before:
            windows -= 1
        if windows < 1:
            raise NetworkError(f"a window that spans {span} entries does not fit {length} entries with padding "
                               f"({self.before}, {self.after}). Use a smaller window.")  # fmt: skip
        return windows

    def positions(self, length: int) -> np.ndarray:
        """Entry read by (window, tap), which may lie outside [0, length)."""
        starts = np.arange(self.count(length)) * self.stride - self.before
        return np.asarray(starts[:, None] + np.arange(self.size) * self.dilation)


def max_pool(lowering: Lowering, x: Expr, windows: Sequence[Window], name: str = "") -> Expr:
    """Max-pooling over the last axes of x, one window per axis; padding never wins.

    One axis after the other, so that overlapping windows share their neurons.
    """
    for axis, window in zip(range(len(x.shape) - 1, 0, -1), reversed(windows), strict=False):
        length = x.shape[axis]
        positions = window.positions(length)
        slots = np.where((positions >= 0) & (positions < length), positions, -1)
        x = _maximum_along(lowering, x, axis, slots, name)
    return x


def reduce_max(lowering: Lowering, x: Expr, axes: Sequence[int], keepdims: bool, name: str = "") -> Expr:
    """The maximum over some axes (none given: over all)."""
    index, shape = _kept_first(x, axes, keepdims)
    return _shaped(lowering.maximum_over(x, index, name), shape)


def average_pool(lowering: Lowering, x: Expr, windows: Sequence[Window], count_padding: bool, name: str = "") -> Expr:
    """Average-pooling over the last one or two axes of (1, channels, ...).

    Rounded: the weights 1/n are, unless n is a power of two.

    Args:
        count_padding: Whether padding counts as zeros (cells past the padding, which only `ceil` reaches, never do).
    """
    spatial = x.shape[2:]
    if len(spatial) != len(windows):
        raise UnsupportedError(
            f"an average over {len(windows)} axes of values of shape {x.shape}. Use pooling that fits."
        )
    counts, past = np.ones(()), []
    for length, window in zip(spatial, windows, strict=True):
        positions = window.positions(length)
        low, high = (-window.before, length + window.after) if count_padding else (0, length)
        counts = counts[..., None] * ((positions >= low) & (positions < high)).sum(axis=1)
        past.append(max(int(positions.max()) + 1 - length, 0))
    if (counts == 0).any():
        raise UnsupportedError("an average over no values. Reduce the padding, so that every window meets its input.")
    weights, exact = rounded_quotient(np.ones_like(counts), counts)
    if not exact:
        lowering.note(f"{name}: the weights 1/n of an average were rounded to float64 (relative error up to 2^-53).")
    uniform = (weights == weights.reshape(-1)[0]).all()
    channels = x.shape[1]
    kernel = np.full((channels, 1, *(w.size for w in windows)), weights.reshape(-1)[0] if uniform else 1.0)
    padding = [w.before for w in windows], past
    total = convolve(x, kernel, [w.stride for w in windows], padding, [w.dilation for w in windows], channels)
    return total if uniform else scale(total, weights)


def reduce_sum(x: Expr, axes: Sequence[int], keepdims: bool) -> Expr:
    """The sum over some axes (none given: over all)."""
    return _total(x, axes, keepdims, 1.0)


def reduce_mean(lowering: Lowering, x: Expr, axes: Sequence[int], keepdims: bool, name: str = "") -> Expr:
    """The mean over some axes (none given: over all). Rounded: 1/n is, unless n is a power of two."""
    n = _kept_first(x, axes, keepdims)[0].shape[1]
    weight, exact = rounded_quotient(np.ones(1), np.full(1, float(n)))
    if not exact:
        lowering.note(f"{name}: the weights 1/n of an average were rounded to float64 (relative error up to 2^-53).")
    return _total(x, axes, keepdims, float(weight[0]))


def adaptive_windows(lengths: Sequence[int], outputs: Sequence[int]) -> list[Window]:
    """The equal windows of an adaptive pooling; only lengths that the outputs divide are read."""
    for length, out in zip(lengths, outputs, strict=True):
        if length % out:
            raise UnsupportedError(
                f"an adaptive pooling of {length} entries to {out}, which uses windows of several sizes. "
                "Choose an output size that divides the input size."
            )
    return [Window(length // out, length // out) for length, out in zip(lengths, outputs, strict=True)]


def _total(x: Expr, axes: Sequence[int], keepdims: bool, weight: float) -> Expr:
    index, shape = _kept_first(x, axes, keepdims)
    kept, n = index.shape
    row = Conv2d(np.full((1, 1, 1, n), weight), (1, kept, n))
    return linear(select(x, index), row, shape)


def _kept_first(x: Expr, axes: Sequence[int], keepdims: bool) -> tuple[np.ndarray, tuple[int, ...]]:
    """Positions of x as (kept entries, reduced entries), and the shape of the result."""
    rank = len(x.shape)
    if any(not -rank <= axis < rank for axis in axes):
        raise NetworkError(f"a reduction over axes {tuple(axes)} of values of shape {x.shape}. Name axes that exist.")
    reduced = sorted({axis % rank for axis in axes}) if axes else list(range(rank))
    kept = [axis for axis in range(rank) if axis not in reduced]
    rows = int(np.prod([x.shape[axis] for axis in kept]))
    index = np.transpose(x.index, (*kept, *reduced)).reshape(rows, -1)
    shape = [(1 if axis in reduced else n) for axis, n in enumerate(x.shape) if keepdims or axis in kept]
    return index, tuple(shape)


def _maximum_along(lowering: Lowering, x: Expr, axis: int, slots: np.ndarray, name: str) -> Expr:
    """The maximum of each row of slots (windows, taps) along one axis."""
    if slots.shape[1] == 1 and (slots >= 0).all():
        return select(x, np.take(x.index, slots[:, 0], axis=axis))
    moved = np.moveaxis(x.index, axis, -1)
    taps = np.where(slots >= 0, moved[..., slots], -1)
    pooled = lowering.maximum_over(x, taps.reshape(-1, slots.shape[1]), name)
    return select(pooled, np.moveaxis(pooled.index.reshape(taps.shape[:-1]), -1, axis))


def _shaped(x: Expr, shape: tuple[int, ...]) -> Expr:
    return select(x, x.index.reshape(shape))
