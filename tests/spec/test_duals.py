"""Cuts in lower bounds: never above the exact minimum, exact for one cut, never looser than without the cuts."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from milpverify.errors import RegionError
from milpverify.spec.regions import Box, L1Ball, L2Ball, LinfBall, Region
from tests.spec.strategies import LAW, balls, boxes, regions, seeds
from tests.spec.test_support import dot, lp_minimum, rows, touches


def above(value: Fraction) -> float:
    """A float64 at least as large as a rational."""
    near = float(value)
    return near if Fraction(near) >= value else float(np.nextafter(near, np.inf))


def cut_at(region: Region, A: np.ndarray, point: np.ndarray) -> Region:
    """The region cut by half-spaces that end at a point of it, which stays inside in exact arithmetic."""
    return region.with_cuts(A, [above(dot(a, point)) for a in A])


def uneven(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Weights over 48 orders of magnitude, some of them zero."""
    return rng.standard_normal(shape) * 10.0 ** rng.integers(-24, 25, shape) * rng.integers(0, 5, shape).clip(0, 1)


def best_of_box_and_cut(box: Box, lam: np.ndarray, a: np.ndarray, b: float) -> tuple[Fraction, Fraction]:
    """min lam.x over a box and one cut, and its multiplier, in rationals: a fractional knapsack.

    From the corner with the least lam.x, coordinates move to their other end, cheapest relief of a.x first.
    """
    weights = [(Fraction(l), Fraction(c)) for l, c in zip(lam.tolist(), a.tolist(), strict=True)]
    value, excess, moves = Fraction(0), -Fraction(b), []
    for (l, c), low, high in zip(weights, box.exact_lower, box.exact_upper, strict=True):
        at_low = l > 0 or (l == 0 and c > 0)
        x, other = (low, high) if at_low else (high, low)
        value, excess = value + l * x, excess + c * x
        if c * (other - x) < 0:
            moves.append((l * (other - x) / (c * (x - other)), c * (x - other)))
    mu = Fraction(0)
    for price, relief in sorted(moves):
        if excess <= 0:
            break
        part = min(excess, relief)
        value, excess, mu = value + price * part, excess - part, price
    assert excess <= 0
    return value, mu


@settings(LAW, max_examples=150)
@given(boxes(), seeds(), st.booleans())
def test_one_cut_of_a_box_gives_the_knapsack_minimum_at_any_scale(
    box: Box, rng: np.random.Generator, wild: bool
) -> None:
    assume((box.inner_lower <= box.inner_upper).all())
    n = box.dimension
    lam, a = (uneven(rng, (6, n)), uneven(rng, (n,))) if wild else (rows(box, rng), rng.standard_normal(n))
    cut = cut_at(box, a[None], box.sample(rng, 1)[0])
    b, reach = float(cut.cuts.b[0]), np.maximum(np.abs(box.lower), np.abs(box.upper))
    for row, value in zip(lam, cut.minimum(lam), strict=True):
        exact, mu = best_of_box_and_cut(box, row, a, b)
        # What rounding may lose is in the size of the terms; a cut whose only relief is tiny has a large multiplier.
        size = dot(np.abs(row), reach) + mu * (dot(np.abs(a), reach) + abs(Fraction(b)))
        assert exact - Fraction(1e-12) * size - Fraction(1e-270) <= Fraction(float(value)) <= exact


@settings(LAW, max_examples=100)
@given(regions(), seeds(), st.integers(1, 3), st.booleans())
def test_no_point_that_meets_the_cuts_is_below_the_minimum(
    region: Region, rng: np.random.Generator, k: int, wild: bool
) -> None:
    assume(not (region.inner_lower > region.inner_upper).any())
    n = region.dimension
    lam, A = (uneven(rng, (6, n)), uneven(rng, (k, n))) if wild else (rows(region, rng), rng.standard_normal((k, n)))
    inside = region.sample(rng, 12)
    cut = cut_at(region, A, inside[0])
    assert cut.contains(inside[0])
    points = [x for x in (*inside, *region.project(region.minimiser(lam)), *cut.minimiser(lam)) if cut.contains(x)]
    loose, value = region.minimum(lam), cut.minimum(lam)
    assert (value >= loose).all()
    for row, least in zip(lam, value, strict=True):
        assert Fraction(float(least)) <= min(dot(row, x) for x in points)


@settings(LAW, max_examples=40)
@given(st.one_of(boxes(), balls((LinfBall, L1Ball))), seeds(), st.integers(1, 3))
def test_the_minimum_is_below_the_lp_optimum_and_equals_it_for_one_cut(
    region: Region, rng: np.random.Generator, k: int
) -> None:
    # A solver's feasibility tolerance (1e-7) is relative to nothing: keep to regions that it can resolve.
    assume(np.abs(region.center).max() < 10 and not (region.inner_lower > region.inner_upper).any())
    assume((region.upper - region.lower).min() > 1e-2 and not touches(region))
    A = rng.standard_normal((k, region.dimension))
    inside = region.sample(rng, 1)[0]
    cut = region.with_cuts(A, A @ inside + 0.01)
    lam = rng.standard_normal((3, region.dimension))
    for row, value in zip(lam, cut.minimum(lam), strict=True):
        optimum = lp_minimum(cut, row)[0]
        assert value <= optimum + 2e-6
        assert k > 1 or value >= optimum - 2e-6


def test_several_cuts_close_most_of_the_gap_on_separate_coordinates() -> None:
    # Cuts that share no coordinate have a separable dual, where taking turns is exact.
    box = Box(np.zeros(6), np.ones(6))
    A = np.kron(np.eye(3), np.array([1.0, 2.0]))
    lam = -np.array([[3.0, 4.0, 1.0, 3.0, 5.0, 1.0]])
    # Per pair, x + 2 y <= 1.5: the dearer per unit of the cut goes first, so (1, 1/4), (0, 3/4) and (1, 1/4).
    expected = -(3 + 4 * 0.25) - 3 * 0.75 - (5 + 0.25)
    assert box.with_cuts(A, [1.5, 1.5, 1.5]).minimum(lam)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", [Box, LinfBall, L1Ball])
def test_turns_on_three_crossing_cuts_lie_between_no_cuts_and_the_lp(kind: type) -> None:
    rng = np.random.default_rng(5)
    closed = []
    for _ in range(20):
        center = rng.standard_normal(12)
        region = Box(center - 1, center + 1) if kind is Box else kind(center, 1.5, (center - 0.4, center + 0.9))
        A = rng.standard_normal((3, 12))
        cut = region.with_cuts(A, A @ region.sample(rng, 1)[0])
        lam = rng.standard_normal((1, 12))
        loose, value, optimum = region.minimum(lam)[0], cut.minimum(lam)[0], lp_minimum(cut, lam[0])[0]
        assert loose <= value <= optimum + 1e-9
        closed.append((value - loose) / max(optimum - loose, 1e-9))
    assert np.mean(closed) > 0.5  # about 0.95 is usual


@LAW
@given(seeds(), st.integers(2, 6), st.floats(-0.9, 0.9))
def test_an_l2_ball_and_a_cut_have_their_closed_form(rng: np.random.Generator, n: int, share: float) -> None:
    center, eps = rng.standard_normal(n), 0.5 + rng.random()
    a = rng.standard_normal(n)
    unit = a / np.linalg.norm(a)
    lam = rng.standard_normal((8, n))
    along = lam @ unit
    across = np.linalg.norm(lam - along[:, None] * unit, axis=1)
    length = np.linalg.norm(lam, axis=1)
    # The ball's own minimiser has the coordinate -along/length along the cut's normal; else the cut's rim is best.
    free = -along / length <= share
    rim = share * along - np.sqrt(1 - share**2) * across
    expected = lam @ center + eps * np.where(free, -length, rim)
    value = L2Ball(center, eps).with_cuts(a, float(a @ center + eps * share * np.linalg.norm(a))).minimum(lam)
    assert np.abs(value - expected).max() <= 1e-9 * length.max()


@LAW
@given(regions(), seeds(), st.integers(1, 3))
def test_torch_and_numpy_agree_with_cuts(region: Region, rng: np.random.Generator, k: int) -> None:
    torch = pytest.importorskip("torch")
    assume(not (region.inner_lower > region.inner_upper).any() and not touches(region))
    A, inside = rng.standard_normal((k, region.dimension)), region.sample(rng, 1)[0]
    cut = region.with_cuts(A, A @ inside + 0.1)
    lam = rng.standard_normal((5, region.dimension))
    value = cut.minimum(torch.from_numpy(lam.copy()))
    assert value.dtype == torch.float64
    # Several cuts' turns can part on a rounding where the dual is flat: they agree for one cut.
    size = np.abs(lam).sum(1) * max(1.0, np.abs(region.lower).max(), np.abs(region.upper).max())
    assert k > 1 or (np.abs(value.numpy() - cut.minimum(lam)) <= 1e-10 * size).all()
    assert (value.numpy() >= region.minimum(lam) - 1e-11 * size).all()
    assert cut.minimiser(torch.from_numpy(lam)).shape == lam.shape


def test_the_minimiser_with_a_cut_turns_towards_it() -> None:
    cut = Box([0, 0], [1, 1]).with_cuts([1.0, 2.0], 1.0)
    # x0 is worth more per unit of the cut: x1 stays at 0 for the best multiplier 3.
    assert list(cut.minimiser(np.array([[-3.0, -1.0]]))[0]) in ([1.0, 0.0], [0.5, 0.0], [0.0, 0.0])
    assert cut.minimum(np.array([[-3.0, -1.0]]))[0] == pytest.approx(-3.0, rel=1e-13)
    assert Box([0, 0], [1, 1]).with_cuts([-1, -1], -0.5).minimum(np.array([[1.0, 1.0]]))[0] == pytest.approx(0.5)


def test_coefficients_that_overflow_give_no_wrong_number() -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        cut = Box([-1e300, -1.0], [1e300, 1.0]).with_cuts([[1e-300, 1e300]], [0.0])
        lam = np.array([[1e300, 1.0], [-1e300, 1e300], [1e-300, -1e-300], [0.0, -1e300]])
        value = cut.minimum(lam)
        far = Box([1e300, 1e300], [2e300, 2e300]).with_cuts([1.0, 0.0], 1.5e300)
        assert far.minimum(np.array([[1e300, -1e300]]))[0] == -np.inf
    assert not np.isnan(value).any()
    for row, least in zip(lam, value, strict=True):
        exact, _ = best_of_box_and_cut(cut, row, cut.cuts.A[0], 0.0)
        assert least == -np.inf or Fraction(float(least)) <= exact


@pytest.mark.parametrize(
    ("region", "A", "b"),
    [
        (Box([0, 0], [1, 1]), [[1, 1], [-1, -1]], [0.9, -0.91]),
        (Box([0, 0, 0], [1, 1, 1]), [[1, -1, 0], [0, 1, -1]], [-0.6, -0.6]),
        (L1Ball([0, 0], 1.0), [[1, 2], [1, -2]], [-1.0, -1.5]),
        (L2Ball([0, 0], 1.0), [[1, 1], [1, -1]], [-1.1, -1.1]),
    ],
)
def test_cuts_that_exclude_each_other_are_refused_with_proof(region: Region, A: object, b: object) -> None:
    for a, right in zip(np.array(A), np.array(b), strict=True):
        region.with_cuts(a, right)  # alone each leaves something
    with pytest.raises(RegionError, match=r"empty region, which is proven: cut \d asks") as caught:
        region.with_cuts(A, b)
    assert "\n" not in str(caught.value)


@LAW
@given(regions(), seeds(), st.integers(2, 4), st.booleans())
def test_cuts_that_leave_a_single_point_are_never_refused(
    region: Region, rng: np.random.Generator, k: int, wild: bool
) -> None:
    assume(not (region.inner_lower > region.inner_upper).any())
    n = region.dimension
    A = uneven(rng, (k, n)) if wild else rng.integers(-2, 3, (k, n)).astype(float)
    point = region.sample(rng, 1)[0]
    both = cut_at(region, np.concatenate([A, -A]), point)
    lam = rows(region, rng)
    for row, value in zip(lam, both.minimum(lam), strict=True):
        assert Fraction(float(value)) <= dot(row, point)


def test_multipliers_of_rows_that_have_ended_stay_where_they_were() -> None:
    """Rows are searched together: one without a bracket of its own must not follow the others, below zero."""
    corner = np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    region = LinfBall(np.zeros(5), 1.0, clip=(corner, corner))
    A = np.array([[0.0, -2.0, 1.0, -1.0, 0.0], [-1.0, 2.0, 2.0, 1.0, -1.0]])
    rng = np.random.default_rng(0)
    for _ in range(40):
        lam = rows(region, rng)
        both = cut_at(region, np.concatenate([A, -A]), corner)
        assert (both._cut_dual._multipliers(lam) >= 0).all()
        for row, value in zip(lam, both.minimum(lam), strict=True):
            assert Fraction(float(value)) <= dot(row, corner)


def test_no_rows_are_legal() -> None:
    cut = L2Ball([0, 0], 1.0).with_cuts([[1.0, 1.0], [1.0, 0.0]], [0.0, 0.5])
    assert cut.minimum(np.zeros((0, 2))).shape == (0,) and cut.minimiser(np.zeros((0, 2))).shape == (0, 2)


def test_a_plane_between_opposite_cuts_bounds_from_both_sides() -> None:
    plane = Box([0, 0], [1, 1]).with_cuts([[1.0, 1.0], [-1.0, -1.0]], [1.0, -1.0])
    lam = np.array([[1.0, 1.0], [-1.0, -1.0], [2.0, 1.0], [-1.0, -2.0]])
    assert plane.minimum(lam) == pytest.approx([1.0, -1.0, 1.0, -2.0], rel=1e-12)
