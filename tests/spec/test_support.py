"""Support functions: never above the exact minimum, tight, the same on numpy and torch, and what an LP finds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from scipy.optimize import linprog
from scipy.sparse import coo_array

from milpverify.errors import RegionError
from milpverify.spec.regions import Ball, L1Ball, L2Ball, LinfBall, Region
from tests.spec.strategies import LAW, balls, regions, seeds


def rows(region: Region, rng: np.random.Generator) -> np.ndarray:
    """Directions with zeros, ties and very different sizes."""
    lam = rng.standard_normal((12, region.dimension))
    lam[3:6] = rng.integers(-1, 2, (3, region.dimension))
    lam[6] = 0.0
    lam[7:9] *= 10.0 ** rng.integers(-12, 12, (2, region.dimension))
    lam[9] *= 1e-200
    return lam


def dot(a: np.ndarray, b: np.ndarray) -> Fraction:
    """The exact scalar product of floats."""
    return sum((Fraction(p) * Fraction(q) for p, q in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0))


def scale(region: Region, lam: np.ndarray) -> np.ndarray:
    """What a relative error of the region's coordinates can change lam.x by, shape (m,)."""
    return np.abs(lam).max(axis=1) * max(np.abs(region.lower).max(), np.abs(region.upper).max())


HalfSpace = tuple[np.ndarray, float]


def lp_minimum(region: Region, lam: np.ndarray, extra: list[HalfSpace] | None = None) -> tuple[float, np.ndarray]:
    """min lam.x over linear_rows() and further half-spaces, by scipy's HiGHS; the optimum and x."""
    form, n = region.linear_rows(), region.dimension
    width = n + form.n_aux
    A = coo_array((form.vals, (form.rows, form.cols)), shape=(form.n_rows, width)).toarray()
    low, high = np.isfinite(form.row_lower), np.isfinite(form.row_upper)
    left = [A[high], -A[low]] + [np.concatenate([a, np.zeros(form.n_aux)])[None] for a, _ in extra or []]
    right = [form.row_upper[high], -form.row_lower[low]] + [np.array([b]) for _, b in extra or []]
    least, most = np.concatenate([region.lower, form.aux_lower]), np.concatenate([region.upper, form.aux_upper])
    cost = np.concatenate([lam, np.zeros(form.n_aux)])
    result = linprog(cost, np.concatenate(left), np.concatenate(right), bounds=np.column_stack([least, most]))
    assert result.status == 0, result.message
    return float(result.fun), result.x[:n]


def touches(region: Region) -> bool:
    """Whether a ball reaches its clip by next to nothing: then no multiplier makes the minimum tight."""
    try:
        return isinstance(region, Ball) and region.eps > 0 and not region.scaled_to(0.999 * region.eps)
    except RegionError:
        return True


@LAW
@given(regions(), seeds())
def test_the_minimum_is_below_every_point_and_attained(region: Region, rng: np.random.Generator) -> None:
    assume(not (region.inner_lower > region.inner_upper).any())
    lam = rows(region, rng)
    value = region.minimum(lam)
    best = region.project(region.minimiser(lam))
    points = np.concatenate([region.sample(rng, 10), region.anchor[None]])
    size = scale(region, lam)
    for i in range(len(lam)):
        attained = dot(lam[i], best[i])
        assert Fraction(value[i]) <= min(attained, *(dot(lam[i], x) for x in points))
        gap = attained - Fraction(value[i])
        assert touches(region) or gap <= Fraction(1e-9) * Fraction(size[i]) + Fraction(1e-270)


@pytest.mark.parametrize("kind", [LinfBall, L1Ball, L2Ball])
def test_the_minimum_stays_below_exact_corners_of_huge_centres(kind: type) -> None:
    rng = np.random.default_rng(0)
    center = 1e9 * rng.standard_normal(200)
    region = kind(center, 0.1, (center - 0.03, center + 0.05))
    lam = rng.standard_normal((5, 200))
    value = region.minimum(lam)
    best = region.project(region.minimiser(lam))
    for i in range(5):
        assert region.contains(best[i])
        assert Fraction(value[i]) <= dot(lam[i], best[i]) <= Fraction(value[i]) + Fraction(0.1)


@LAW
@given(regions(), seeds())
def test_torch_and_numpy_agree(region: Region, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    lam = rows(region, rng)
    tensor = torch.from_numpy(lam.copy())
    size = scale(region, lam)
    value = region.minimum(tensor)
    assert value.dtype == torch.float64 and value.shape == (len(lam),)
    assert touches(region) or (np.abs(value.numpy() - region.minimum(lam)) <= 1e-11 * size + 1e-270).all()
    points = region.project(region.minimiser(tensor).numpy())
    assert touches(region) or (np.abs((lam * points).sum(1) - region.minimum(lam)) <= 1e-8 * size + 1e-270).all()


def test_float32_rows_are_taken_exactly() -> None:
    lam = np.full((1, 3), 0.1, dtype=np.float32)
    value = L2Ball([1.0, 2.0, 3.0], 0.5).minimum(lam)
    assert value.dtype == np.float64
    assert value[0] == pytest.approx(float(np.float32(0.1)) * (6 - 0.5 * 3**0.5), rel=1e-14)


@LAW
@given(balls((LinfBall, L1Ball)), seeds())
def test_the_minimum_is_the_optimum_of_the_linear_rows(region: Region, rng: np.random.Generator) -> None:
    # A solver's feasibility tolerance (1e-7) is relative to nothing: keep to regions that it can resolve.
    assume(np.abs(region.center).max() < 10)
    lam = rng.standard_normal((2, region.dimension))
    assert region.linear_rows().exact
    for row, value in zip(lam, region.minimum(lam), strict=True):
        assert lp_minimum(region, row)[0] == pytest.approx(value, abs=2e-6)


@settings(LAW, max_examples=15)
@given(balls((L2Ball,)), seeds())
def test_tangent_cuts_close_in_on_the_l2_ball(region: L2Ball, rng: np.random.Generator) -> None:
    assume(np.abs(region.center).max() < 10 and region.eps > 1e-3)
    lam = rng.standard_normal(region.dimension)
    assert not region.linear_rows().exact
    value = float(region.minimum(lam[None])[0])
    cuts: list[tuple[np.ndarray, float]] = []
    points = region.sample(rng, 20)
    first = last = lp_minimum(region, lam)[0]
    for _ in range(30):
        last, x = lp_minimum(region, lam, cuts)
        if np.linalg.norm(x - region.center) <= region.eps * (1 + 1e-6):
            break
        cuts.append(region.tangent_cut(x))
        a, right = cuts[-1]
        assert all(dot(a, point) <= Fraction(right) for point in points)
        assert a @ x > right
    assert first <= last + 1e-6
    assert last <= value + 1e-6
    assert last >= value - 1e-2 * (region.eps + 1e-3)


def test_l1_rows_describe_the_ball_and_carry_the_cuts() -> None:
    ball = L1Ball([0.5, 0.0], 1.0, (0, 1)).with_cuts([[1.0, 2.0]], [1.0])
    form = ball.linear_rows()
    assert form.aux_names == ["s0", "s1"] and form.row_names[-2:] == ["norm", "cut0"]
    assert list(form.aux_upper) == [0.5, 1.0]
    value, x = lp_minimum(ball, np.array([-1.0, -1.0]))
    # x0 + x1 is largest at x = (1, 0): the cut x0 + 2 x1 <= 1 is worth more per unit of x0.
    assert value == pytest.approx(-1.0) and x == pytest.approx([1.0, 0.0], abs=1e-6)


def test_the_minimum_of_hand_made_cases() -> None:
    # L1 in the unit box around its corner: the budget 1.5 buys 1 of the dear coordinate and 0.5 of the next.
    assert L1Ball([0, 0, 0], 1.5, (0, 1)).minimum(np.array([[-3.0, -2.0, -1.0]]))[0] == pytest.approx(-4.0)
    # L2: coordinate 0 is held at 0.6 by the clip, 0.8 is left for the other one.
    assert L2Ball([0, 0], 1.0, (-0.6, 1)).minimum(np.array([[9.0, 1.0]]))[0] == pytest.approx(-6.0)
    assert L2Ball([0, 0], 1.0, ([-0.6, -1], 1)).minimum(np.array([[9.0, 1.0]]))[0] == pytest.approx(-6.2)
    # A centre outside its clip: (0, 0) takes 1 of the budget 1.5, and 0.5 goes to the dearer coordinate.
    assert L1Ball([0.5, 0.5], 1.5, (-1, 0)).minimum(np.array([[3.0, 2.0]]))[0] == pytest.approx(-1.5)
    assert L1Ball([-0.5, -0.5], 1.5, (0, 1)).minimum(np.array([[-3.0, -2.0]]))[0] == pytest.approx(-1.5)
    # The same in L2: coordinates 0 and 2 stay at the clip, 1 goes to sqrt(1 - 0.25).
    outside = L2Ball([0, 0, 0], 1.0, ([0, 0.5, 0.5], [1, 1.5, 1.5]))
    expected = 0.64 * 0.5 - 0.13 * 0.75**0.5
    assert outside.minimum(np.array([[0.12, -0.13, 0.64]]))[0] == pytest.approx(expected)
    assert L2Ball([1, 2], 0.5).minimum(np.array([[3.0, 4.0]]))[0] == pytest.approx(8.5)
    assert LinfBall([1, 2], 0.5, (0.75, 3)).minimum(np.array([[3.0, -4.0]]))[0] == pytest.approx(-7.75)


def test_tangent_cut_needs_a_direction() -> None:
    with pytest.raises(RegionError, match="other than the center"):
        L2Ball([0, 0], 1).tangent_cut([0, 0])
