"""Batches of boxes: never above the exact minima, tight, the same on numpy and torch and box by box."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpverify.errors import RegionError
from milpverify.spec.regions import Box, BoxBatch, L1Ball, L2Ball, LinfBall
from tests.spec.strategies import LAW, seeds


def exact_minimum(lower: np.ndarray, upper: np.ndarray, lam: np.ndarray) -> Fraction:
    """min lam.x over one box, in rationals."""
    ends = zip(lam.tolist(), lower.tolist(), upper.tolist(), strict=True)
    return sum((Fraction(w) * Fraction(l if w > 0 else u) for w, l, u in ends), Fraction(0))


def size(lower: np.ndarray, upper: np.ndarray, lam: np.ndarray) -> Fraction:
    """|lam|.max(|lower|, |upper|), in rationals: the size of the terms of the minimum."""
    reach = np.maximum(np.abs(lower), np.abs(upper))
    return sum(
        (Fraction(w) * Fraction(r) for w, r in zip(np.abs(lam).tolist(), reach.tolist(), strict=True)), Fraction(0)
    )


def batches(rng: np.random.Generator, shape: tuple[int, ...], wild: bool) -> BoxBatch:
    """Boxes around all kinds of centres, some coordinates of no width or the width of a float."""
    grow = 10.0 ** rng.integers(-24, 25, shape) if wild else np.array(1.0)
    center = rng.standard_normal(shape) * grow
    width = rng.choice([0.0, 1e-17, 1e-6, 1.0], shape) * rng.random(shape) * grow
    upper = np.where(rng.random(shape) < 0.1, np.nextafter(center, np.inf), center + width)
    return BoxBatch(center, upper)


def coefficients(rng: np.random.Generator, shape: tuple[int, ...], wild: bool) -> np.ndarray:
    """Rows with zeros, over 48 orders of magnitude if `wild`."""
    lam = rng.standard_normal(shape) * rng.integers(0, 4, shape).clip(0, 1)
    return lam * 10.0 ** rng.integers(-24, 25, shape) if wild else lam


@LAW
@given(seeds(), st.integers(1, 9), st.booleans())
def test_no_minimum_is_above_the_exact_one_and_all_are_tight(rng: np.random.Generator, n: int, wild: bool) -> None:
    boxes, lam = batches(rng, (3, n), wild), coefficients(rng, (3, 4, n), wild)
    value = boxes.minimum(lam)
    assert value.shape == (3, 4)
    for i, k in np.ndindex(3, 4):
        exact = exact_minimum(boxes.lower[i], boxes.upper[i], lam[i, k])
        least = exact - Fraction(1e-13) * size(boxes.lower[i], boxes.upper[i], lam[i, k]) - Fraction(1e-270)
        assert least <= Fraction(float(value[i, k])) <= exact


@pytest.mark.parametrize("rows", [(7, 2), (1, 2), (7, 1)])
def test_the_chunks_of_a_large_batch_give_the_bounds_of_its_boxes(rows: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    n, (count, m) = 40_000, rows  # several chunks, and chunks of a single box
    boxes, lam = batches(rng, (7, n), False), rng.standard_normal((count, m, n))
    value, scale = boxes.minimum(lam), np.abs(lam).sum(-1)
    assert value.shape == (7, m)
    alone = np.array([boxes[i].minimum(lam[i % count]) for i in range(7)])
    assert np.abs(value - alone).max() <= 1e-10 * scale.max()
    exact = exact_minimum(boxes.lower[3], boxes.upper[3], lam[3 % count, 0])
    assert Fraction(float(value[3, 0])) <= exact


@pytest.mark.parametrize("batch", [(4,), (2, 3), (2, 1, 3), (0,)])
def test_leading_axes_broadcast_against_each_other(batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    boxes = batches(rng, (*batch, 5), False)
    full = rng.standard_normal((*batch, 6, 5))
    for lam in (
        full,
        rng.standard_normal((6, 5)),
        rng.standard_normal((1, 6, 5)),
        rng.standard_normal((2, *full.shape)),
    ):
        value, corner = boxes.minimum(lam), boxes.minimiser(lam)
        shape = np.broadcast_shapes(lam.shape[:-2], batch)
        assert value.shape == (*shape, 6) and corner.shape == (*shape, 6, 5)
        attained = (lam * corner).sum(-1)
        assert (value <= attained).all() and np.allclose(value, attained, rtol=0, atol=1e-12)


def test_shared_rows_and_repeated_rows_have_the_same_bounds() -> None:
    rng = np.random.default_rng(4)
    boxes, lam = batches(rng, (5, 30), False), rng.standard_normal((4, 30))
    assert np.allclose(boxes.minimum(lam), boxes.minimum(np.broadcast_to(lam, (5, 4, 30))), rtol=0, atol=1e-12)


@LAW
@given(seeds(), st.integers(1, 6), st.sampled_from([(3,), (2, 2)]))
def test_torch_and_numpy_agree(rng: np.random.Generator, n: int, batch: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    boxes = batches(rng, (*batch, n), False)
    for lam in (coefficients(rng, (*batch, 4, n), False), coefficients(rng, (4, n), False)):
        value = boxes.minimum(torch.from_numpy(lam))
        assert value.dtype == torch.float64 and value.shape == (*batch, 4)
        assert np.abs(value.numpy() - boxes.minimum(lam)).max() <= 1e-13 * (1 + np.abs(lam).sum() * 5)
        assert np.array_equal(boxes.minimiser(torch.from_numpy(lam)).numpy(), boxes.minimiser(lam))
        again = boxes.minimum(torch.from_numpy(lam))
        assert torch.equal(again, value)


def test_torch_chunks_agree_with_numpy() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    boxes, lam = batches(rng, (6, 30_000), False), rng.standard_normal((6, 3, 30_000))
    assert np.allclose(boxes.minimum(torch.from_numpy(lam)).numpy(), boxes.minimum(lam), rtol=0, atol=1e-8)


def test_radii_cover_the_boxes_and_vanish_with_their_width() -> None:
    rng = np.random.default_rng(7)
    boxes = batches(rng, (40, 20), True)
    for low, high, c, r in zip(
        *(v.ravel().tolist() for v in (boxes.lower, boxes.upper, boxes.center, boxes.radius)), strict=True
    ):
        assert Fraction(c) - Fraction(r) <= Fraction(low) and Fraction(high) <= Fraction(c) + Fraction(r)
        assert low <= c <= high and (r == 0) == (low == high)


def test_float32_rows_are_taken_exactly() -> None:
    lam = np.full((1, 3), 0.1, dtype=np.float32)
    value = BoxBatch([[1.0, 2.0, 3.0]], [[2.0, 3.0, 4.0]]).minimum(lam)
    assert value.dtype == np.float64 and value[0, 0] == pytest.approx(6 * float(np.float32(0.1)), rel=1e-14)


def test_bounds_that_overflow_are_minus_infinity() -> None:
    boxes = BoxBatch([[-1.7e308, 0.0], [0.0, 0.0]], [[1.7e308, 1.0], [1.0, 1.0]])
    value = boxes.minimum(np.array([[2.0, 0.0], [0.0, -1.0]]))
    assert value[0, 0] == -np.inf and value[1, 0] <= 0 and value[1, 1] == pytest.approx(-1.0)
    assert not np.isnan(value).any()


def test_a_batch_of_regions_bounds_each_as_it_bounds_itself() -> None:
    tenth = Fraction(1, 10)
    regions = [
        LinfBall([0.5, 0.1], 0.3, (0, 1)),
        Box.of_fractions([tenth, tenth], [tenth, 2 * tenth]),
        Box([0, 0], [1, 1]),
    ]
    boxes = BoxBatch.of(regions)
    assert boxes.n_regions == len(boxes) == 3 and boxes.dimension == 2 and boxes.is_box
    lam = np.random.default_rng(8).standard_normal((5, 2))
    for i, region in enumerate(regions):
        assert np.array_equal(boxes.lower[i], region.lower) and np.array_equal(boxes.upper[i], region.upper)
        assert np.allclose(boxes.minimum(lam)[i], region.minimum(lam), rtol=0, atol=1e-14)
    assert Fraction(boxes.lower[1, 0]) <= tenth <= Fraction(boxes.upper[1, 0])


def test_indexing_gives_boxes_and_smaller_batches() -> None:
    boxes = BoxBatch(np.arange(12.0).reshape(2, 3, 2), np.arange(12.0).reshape(2, 3, 2) + 1)
    assert isinstance(boxes[0], BoxBatch) and boxes[0].batch_shape == (3,) and boxes.n_regions == 6 and len(boxes) == 2
    one = boxes[1, -1]
    assert isinstance(one, Box) and list(one.lower) == [10.0, 11.0] and list(one.upper) == [11.0, 12.0]
    row = boxes[1]
    assert isinstance(row, BoxBatch)
    for index, expected in ((slice(1, None), [8, 10]), ([2, 0], [10, 6]), (np.array([True, False, False]), [6])):
        part = row[index]
        assert isinstance(part, BoxBatch) and list(part.lower[:, 0]) == expected
    assert [box.lower[0] for box in row if isinstance(box, Box)] == [6.0, 8.0, 10.0]
    empty = row[[False, False, False]]
    assert len(empty) == 0 and empty.minimum(np.ones((4, 2))).shape == (0, 4)
    with pytest.raises(IndexError):
        boxes[0, 0, 0]


def test_samples_lie_in_their_boxes() -> None:
    rng = np.random.default_rng(9)
    boxes = batches(rng, (3, 2, 4), True)
    points = boxes.sample(rng, 50)
    assert points.shape == (3, 2, 50, 4)
    assert all(boxes[i].contains(x) for i in np.ndindex(3, 2) for x in points[i])
    assert len(np.unique(BoxBatch([[0.0]], [[1.0]]).sample(rng, 9))) == 9


def test_the_minimiser_is_a_corner_and_the_centre_where_nothing_matters() -> None:
    boxes = BoxBatch([[0.0, 1.0, 2.0]], [[1.0, 3.0, 5.0]])
    assert boxes.minimiser(np.array([[1.0, -1.0, 0.0]])).tolist() == [[[0.0, 3.0, 3.5]]]


def test_arrays_are_copied_and_read_only() -> None:
    lower = np.zeros((2, 3))
    boxes = BoxBatch(lower, lower + 1)
    lower[0, 0] = 9.0
    assert boxes.lower[0, 0] == 0
    for values in (boxes.lower, boxes.upper, boxes.center, boxes.radius):
        with pytest.raises(ValueError, match="read-only"):
            values[0, 0] = 9.0


UNIT = BoxBatch([[0.0, 0.0]], [[1.0, 1.0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: BoxBatch([[0, 0], [0, 2]], [[1, 1], [1, 1]]),
            r"box 1 is empty: lower\[1\] = 2.0 exceeds upper\[1\] = 1",
        ),
        (lambda: BoxBatch([[[0.0], [2.0]]], [[[1.0], [1.0]]]), r"box \(0, 1\) is empty"),
        (lambda: BoxBatch([[0, 0], [np.nan, 0]], [[1, 1], [1, 1]]), r"box 1: lower\[0\] is nan"),
        (lambda: BoxBatch([[0, 0]], [[1, np.inf]]), r"box 0: upper\[1\] is inf"),
        (lambda: BoxBatch([[0, 0]], [[1, 1], [1, 1]]), "the same shape"),
        (lambda: BoxBatch([0, 0], [1, 1]), "Use Box for a single box"),
        (lambda: BoxBatch([["a"]], [[1]]), "expected an array of numbers"),
        (lambda: BoxBatch.of([]), "at least one region"),
        (lambda: BoxBatch.of([Box([0], [1]), L1Ball([0], 1)]), "region 1 is L1Ball.*Bound it alone"),
        (lambda: BoxBatch.of([L2Ball([0], 1)]), "region 0 is L2Ball"),
        (lambda: BoxBatch.of([Box([0], [1]).with_cuts([1.0], 0.5)]), "region 0 is Box.*cuts=1"),
        (lambda: BoxBatch.of([Box([0], [1]), Box([0, 0], [1, 1])]), "region 1 has 2 coordinates, region 0 has 1"),
        (lambda: UNIT.minimum(np.zeros((1, 3))), r"BoxBatch.minimum: lam of shape \(1, 3\) came, expected \(1, m, 2\)"),
        (lambda: UNIT.minimum(np.zeros(2)), "lam of shape"),
        (lambda: BoxBatch(np.zeros((2, 1)), np.ones((2, 1))).minimiser(np.zeros((3, 1, 1))), "lam of shape"),
    ],
)
def test_bad_batches_are_refused_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(RegionError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
