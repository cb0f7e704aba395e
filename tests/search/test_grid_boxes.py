"""Boxes of grid points: halves and clips lose no point, and every box ends where a point lies."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpverify.search.boxes import Boxes, divisible, halves
from milpverify.search.clipping import Clipped
from milpverify.spec.regions import Grid

STEPS = st.sampled_from([1, 3, 255, 65535])


def boxes(first: np.ndarray, last: np.ndarray, grid: Grid) -> Boxes:
    """One box of the points first ... last."""
    low, high = grid.around(first)[0][None], grid.around(last)[1][None]
    none = np.zeros((1, 0))
    return Boxes(low, high, none, none, np.full((1, 1), -np.inf), np.ones((1, 1), dtype=bool))


def holds(low: np.ndarray, high: np.ndarray, k: np.ndarray, grid: Grid) -> bool:
    """Whether a box holds a grid point, exactly."""
    points = [Fraction(int(i), grid.steps) for i in k]
    return all(Fraction(l) <= q <= Fraction(h) for l, q, h in zip(low.tolist(), points, high.tolist(), strict=True))


@given(first=st.integers(-70000, 70000), width=st.integers(0, 9), steps=STEPS)
def test_halving_until_nothing_is_left_to_split_gives_every_point_a_box_of_its_own(
    first: int, width: int, steps: int
) -> None:
    grid, waiting, single = Grid(steps), [], []
    waiting.append(boxes(np.array([float(first)]), np.array([float(first + width)]), grid))
    while waiting:
        box = waiting.pop()
        if not divisible(box.low, box.high, grid).any():
            single.append(box)
            continue
        both = halves(box, np.array([0]), grid)
        waiting += [both[slice(0, 1)], both[slice(1, 2)]]
    assert len(single) == width + 1
    for k in range(first, first + width + 1):
        assert sum(holds(box.low[0], box.high[0], np.array([k]), grid) for box in single) == 1


@given(data=st.data(), steps=STEPS)
def test_a_clipped_box_keeps_every_point_between_its_sides(data: st.DataObject, steps: int) -> None:
    grid, first = Grid(steps), data.draw(st.integers(-70000, 70000))
    width = data.draw(st.integers(0, 8))
    box = boxes(np.array([float(first)]), np.array([float(first + width)]), grid)
    share = sorted(data.draw(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2)))
    span = box.high - box.low
    low, high = (
        np.clip(box.low + share[0] * span, box.low, box.high),
        np.clip(box.low + share[1] * span, box.low, box.high),
    )
    clipped = Clipped(low, high, np.zeros((1, 1), dtype=bool)).on_grid(grid, box)
    kept = [k for k in range(first, first + width + 1) if holds(low[0], high[0], np.array([k]), grid)]
    if clipped.empty.all():
        assert not kept
        return
    assert all(holds(clipped.low[0], clipped.high[0], np.array([k]), grid) for k in kept)
    assert (clipped.low >= box.low).all() and (clipped.high <= box.high).all()
    for side, ends in ((clipped.low, grid.around(grid.nearest(clipped.low))[0]),
                       (clipped.high, grid.around(grid.nearest(clipped.high))[1])):  # fmt: skip
        assert np.array_equal(side, ends)


def test_what_nothing_was_cut_off_is_as_it_was() -> None:
    grid = Grid(255)
    box = boxes(np.array([3.0, 0.0]), np.array([9.0, 255.0]), grid)
    clipped = Clipped(box.low + 1e-4, box.high - 1e-4, np.zeros((1, 1), dtype=bool)).on_grid(grid, box)
    assert clipped.smaller(box).all()  # end points went
    same = Clipped(box.low, box.high, np.zeros((1, 1), dtype=bool)).on_grid(grid, box)
    assert not same.smaller(box).any() and np.array_equal(same.low, box.low) and np.array_equal(same.high, box.high)


@pytest.mark.parametrize("gap", [(0.1, 0.9), (1.2, 1.8)])
def test_a_box_between_grid_points_is_empty(gap: tuple[float, float]) -> None:
    grid = Grid(1)
    box = boxes(np.array([0.0]), np.array([2.0]), grid)
    sides = (np.array([[v]]) for v in gap)
    assert Clipped(*sides, np.zeros((1, 1), dtype=bool)).on_grid(grid, box).empty.all()
