"""Open boxes of an input-splitting search: what each has inherited, and in which order they are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from milpverify.errors import CheckpointError
from milpverify.spec.grid import Grid


@dataclass(frozen=True, eq=False)
class Boxes:
    """b boxes that wait to be bounded, or are being.

    Attributes:
        low, high: Their corners, shape (b, n).
        l, u: Proven bounds of all hidden neurons over a box that contains them, layer after layer, shape (b, neurons).
        lower: Lower bounds of the cases' least slacks, shape (b, n_cases).
        open: Which cases still need work here, shape (b, n_cases).
    """

    low: np.ndarray
    high: np.ndarray
    l: np.ndarray
    u: np.ndarray
    lower: np.ndarray
    open: np.ndarray

    def __len__(self) -> int:
        return len(self.low)

    def __getitem__(self, index: np.ndarray | slice) -> Boxes:
        return Boxes(*(getattr(self, f.name)[index] for f in fields(self)))

    def arrays(self) -> dict[str, np.ndarray]:
        """All fields by name, as `saved_boxes` takes them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def busy(self) -> np.ndarray:
        """Which boxes have an open case, shape (b,)."""
        return np.asarray(self.open.any(axis=1))

    @property
    def cases(self) -> np.ndarray:
        """Which cases are open in some box, shape (n_cases,)."""
        return np.asarray(self.open.any(axis=0))

    @property
    def least(self) -> np.ndarray:
        """The least lower bound of each box's open cases, shape (b,); infinite where none is open."""
        return np.asarray(np.where(self.open, self.lower, np.inf).min(axis=1, initial=np.inf))

    def per_case(self) -> np.ndarray:
        """The least lower bound of each case over the boxes where it is open, shape (n_cases,)."""
        return np.asarray(np.where(self.open, self.lower, np.inf).min(axis=0, initial=np.inf))


def saved_boxes(arrays: Mapping[str, np.ndarray], like: Boxes) -> Boxes:
    """Boxes from the arrays of `Boxes.arrays`.

    Args:
        arrays: By name; others are ignored.
        like: Boxes of the problem that they must fit.

    Raises:
        CheckpointError: If they do not.
    """
    boxes = Boxes(*(arrays[f.name] for f in fields(Boxes)))
    for name, now in like.arrays().items():
        if arrays[name].shape != (len(boxes), now.shape[1]):
            raise CheckpointError(
                f"checkpoint: {name} of the saved boxes has shape {arrays[name].shape}, expected "
                f"({len(boxes)}, {now.shape[1]}). It is another program's; begin again without it."
            )
    return boxes


def halves(boxes: Boxes, coordinate: np.ndarray, grid: Grid | None = None) -> Boxes:
    """Both halves of each box, side by side, split at one float of a coordinate: together they cover it exactly.

    With a grid they are split between two neighbouring points of it, and together have all of its points.

    Args:
        boxes: To be split.
        coordinate: Which one, shape (b,), among the `divisible`.
        grid: Whose points count.
    """
    each, some = np.arange(len(boxes)), boxes[np.repeat(np.arange(len(boxes)), 2)]
    if grid is None:
        left = right = middle(boxes.low, boxes.high)[each, coordinate]
    else:
        first, last = (grid.nearest(side[each, coordinate]) for side in (boxes.low, boxes.high))
        below = np.floor((first + last) / 2)
        left, right = grid.around(below)[1], grid.around(below + 1)[0]
    some.high[2 * each, coordinate] = left
    some.low[2 * each + 1, coordinate] = right
    return some


def divisible(low: np.ndarray, high: np.ndarray, grid: Grid | None = None) -> np.ndarray:
    """Where a float lies strictly between low and high; with a grid, where two of its points do not lie outside."""
    if grid is not None:
        return np.asarray(grid.nearest(low) < grid.nearest(high))
    at = middle(low, high)
    return np.asarray((low < at) & (at < high))


def middle(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """A float between low and high, each end included."""
    return np.asarray(np.clip(low / 2 + high / 2, low, high))


class OpenBoxes:
    """A stack of boxes that can also give its least ones; rows of arrays that grow by doubling."""

    def __init__(self, first: Boxes) -> None:
        self._rows = first[np.arange(len(first))]  # a copy: it will be written to
        self.count = len(first)

    def push(self, boxes: Boxes) -> None:
        """Put boxes on the stack; the last one will be the first."""
        needed = self.count + len(boxes)
        if needed > len(self._rows):
            spare = max(needed, 2 * len(self._rows)) - self.count
            self._rows = Boxes(*(_grown(getattr(self._rows[: self.count], f.name), spare) for f in fields(Boxes)))
        for f in fields(Boxes):
            getattr(self._rows, f.name)[self.count : needed] = getattr(boxes, f.name)
        self.count = needed

    def pop(self, most: int) -> Boxes:
        """Take the boxes pushed last."""
        first = max(self.count - most, 0)
        taken = self._rows[np.arange(first, self.count)]
        self.count = first
        return taken

    def pop_least(self, most: int) -> Boxes:
        """Take the boxes whose least lower bound is least."""
        if self.count <= most:
            return self.pop(most)
        least = self.everything().least
        chosen = np.sort(np.argpartition(least, most)[:most])
        taken = self._rows[chosen]
        kept = self.count - most
        stay = np.ones(most, dtype=bool)
        stay[chosen[chosen >= kept] - kept] = False
        holes = chosen[chosen < kept]
        for f in fields(Boxes):
            rows = getattr(self._rows, f.name)
            rows[holes] = rows[kept : self.count][stay]
        self.count = kept
        return taken

    def everything(self) -> Boxes:
        """All boxes, in place."""
        return self._rows[: self.count]


def _grown(rows: np.ndarray, spare: int) -> np.ndarray:
    return np.concatenate([rows, np.empty((spare, *rows.shape[1:]), dtype=rows.dtype)])
