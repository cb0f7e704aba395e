r"""Boxes clipped by affine functions below the slack: what is cut off holds no point that the search still looks for.

Over a box x = centre + radius e, e in [-1, 1]^n, every row obeys row(x) >= constant + slope . e. A point whose slack is
at most t has constant - t + slope . e <= 0 for each row, so that for each coordinate with slope_i > 0

    e_i  <=  lo_i + room / slope_i,        room = t - constant - sum_j min over e_j of slope_j e_j,

and the mirrored bound where slope_i < 0; room < 0 shows that there is no such point. `room` is rounded up and the
new sides are rounded outward, so that every float operation errs on the side of the larger box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpverify.bounds.box_forms import BoxBounds
from milpverify.search.boxes import Boxes
from milpverify.spec.grid import Grid
from milpverify.spec.rounding import UNDERFLOW, UNIT, allowance

SWEEPS = 2  # the sides that a row has cut help the next row
STEP = 8.0 * UNIT  # more than the roundings of a step and of the side it moves, which lies in [-1, 1]


@dataclass(frozen=True, eq=False)
class Clipped:
    """What is left of b boxes.

    Attributes:
        low, high: The new corners, shape (b, n); those of the boxes where nothing was cut.
        empty: Whether nothing is left for a case, shape (b, n_cases).
    """

    low: np.ndarray
    high: np.ndarray
    empty: np.ndarray

    def smaller(self, boxes: Boxes) -> np.ndarray:
        """Which boxes have lost something, shape (b, 1)."""
        cut = (self.low > boxes.low) | (self.high < boxes.high)
        return np.asarray(cut.any(axis=1, keepdims=True))

    def on_grid(self, grid: Grid, boxes: Boxes) -> Clipped:
        """The same rounded inward to the points of a grid; a box without one is empty.

        Args:
            grid: The boxes' sides enclose points of it.
            boxes: What was clipped.
        """
        first, last = grid.between(self.low, self.high)
        first = np.maximum(first, grid.nearest(boxes.low))
        last = np.minimum(last, grid.nearest(boxes.high))
        none = (first > last).any(axis=1, keepdims=True)
        low, high = grid.around(first)[0], grid.around(last)[1]
        return Clipped(np.where(none, boxes.low, low), np.where(none, boxes.high, high), self.empty | none)


def clip_boxes(found: BoxBounds, boxes: Boxes, starts: np.ndarray, t: float) -> Clipped:
    """Cut off of each box what has a slack above t in each open case. Rounded outward.

    Args:
        found: With affine functions below the rows of all cases, case after case, right-hand sides taken off.
        boxes: Which they are below.
        starts: The first row of each case, rising.
        t: The slack that a point must have, or less, to be worth keeping.

    Returns:
        The hull of what is left for the open cases. A case that is not open counts as empty.
    """
    low, high, still = boxes.low, boxes.high, boxes.open
    n_rows, (b, n) = found.forms[0].slope.shape[1], low.shape
    slope = np.stack([f.slope for f in found.forms], axis=2)  # (b, rows, forms, n)
    offset = np.stack([f.constant for f in found.forms], axis=2) - t
    lost = allowance(n) * (np.abs(offset) + np.abs(slope).sum(axis=-1) + abs(t)) + UNDERFLOW
    ends = np.append(starts[1:], n_rows)
    left, right, empty = np.full((b, n), np.inf), np.full((b, n), -np.inf), ~still
    for case, (first, last) in enumerate(zip(starts, ends, strict=True)):
        if not still[:, case].any():
            continue
        rows = slice(first, last)
        lo, hi, none = _sides(slope[:, rows], lost[:, rows] - offset[:, rows])
        empty[:, case] |= none
        keep = ~empty[:, case, None]
        left, right = np.where(keep, np.minimum(left, lo), left), np.where(keep, np.maximum(right, hi), right)
    some = ~np.asarray(empty.all(axis=1))[:, None]
    radius, lost_x = found.radius, STEP * (np.abs(found.centre) + 2.0 * found.radius) + UNDERFLOW
    with np.errstate(invalid="ignore"):
        below, above = found.centre + radius * left - lost_x, found.centre + radius * right + lost_x
    new_low = np.where(some & (left > -1.0), np.maximum(low, below), low)
    new_high = np.where(some & (right < 1.0), np.minimum(high, above), high)
    return Clipped(new_low, new_high, empty)


def _sides(slope: np.ndarray, spare: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What one case's forms leave of [-1, 1]^n, and whether that is nothing.

    Args:
        slope: Shape (b, rows, forms, n).
        spare: t - constant, rounded up for the whole sum, shape (b, rows, forms).

    Returns:
        lo and hi, shape (b, n), and a mask (b,).
    """
    b, n = len(slope), slope.shape[-1]
    lo, hi, none = np.full((b, n), -1.0), np.full((b, n), 1.0), np.zeros(b, dtype=bool)
    rises, falls, size = slope > 0, slope < 0, np.abs(slope)
    for _ in range(SWEEPS):
        least = np.where(rises, lo[:, None, None], hi[:, None, None]) * slope
        room = spare - least.sum(axis=-1)
        none |= (room < 0).any(axis=(1, 2))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = (np.maximum(room, 0.0)[..., None] / size) * (1.0 + STEP) + STEP
        most = np.where(rises & (step < 2.0), lo[:, None, None] + step, 1.0).min(axis=(1, 2))
        least = np.where(falls & (step < 2.0), hi[:, None, None] - step, -1.0).max(axis=(1, 2))
        hi, lo = np.minimum(hi, most), np.maximum(lo, least)
        none |= (lo > hi).any(axis=1)
    return lo, hi, none
