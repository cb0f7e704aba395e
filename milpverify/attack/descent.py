"""Many descents at once: projected steps with momentum, each start with a step size of its own.

    x <- P( x + a (P(x - eta s(g)) - x) + (1 - a) (x - x_before) ),     a = 0.75,

where P projects onto the region, g is the gradient of the slack, s(g) is the steepest descent direction of the region's
norm in units of its radius, and each start halves its own eta and returns to its best point when it stops improving.
Some starts step towards the corner that the gradient points to instead: x <- x + 2 eta / (t + 2) (corner - x).

On a grid the steps are taken in its convex hull and slack and gradient at the grid point next to x, so that steps
shorter than the grid add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpverify.attack.method import AttackResult, Goal, Slack
from milpverify.spec.regions import L1Ball, L2Ball, Region

MOMENTUM = 0.75
POLISH = 10  # further steps granted to a violation without the comfort asked for


@dataclass(frozen=True, eq=False)
class Starts:
    """A batch of descents to be made.

    Attributes:
        x: Shape (batch, n_inputs).
        which: The case each works on, shape (batch,).
        first_step: In radii of the region, shape (batch,).
        closed_slope: Slope of closed ReLUs in the backward pass, shape (batch,).
        to_corner: Whether it steps towards the minimiser of the linearised slack (Frank-Wolfe) instead, shape (batch,).
    """

    x: np.ndarray
    which: np.ndarray
    first_step: np.ndarray
    closed_slope: np.ndarray
    to_corner: np.ndarray

    def part(self, rows: slice) -> Starts:
        """Some of them."""
        kept = (self.x, self.which, self.first_step, self.closed_slope, self.to_corner)
        return Starts(*(values[rows] for values in kept))


@dataclass(eq=False)
class Best:
    """The best point of each case so far; the one mutable thing here, private to a search.

    Attributes:
        x: Shape (cases, n_inputs).
        value: Shape (cases,).
    """

    x: np.ndarray
    value: np.ndarray

    @classmethod
    def of(cls, n_cases: int, points: np.ndarray, values: np.ndarray) -> Best:
        """From a first set of points; shapes as in `update`."""
        best = cls(np.repeat(points[:1], n_cases, axis=0), np.full(n_cases, np.inf))
        best.update(points, values)
        return best

    def update(self, points: np.ndarray, values: np.ndarray) -> None:
        """Take points (m, n_inputs) with every case's value (m, cases)."""
        if len(points):
            self._take(np.arange(len(self.value)), values.argmin(axis=0), points, values.min(axis=0))

    def update_cases(self, points: np.ndarray, values: np.ndarray, which: np.ndarray) -> None:
        """Take points (m, n_inputs), each with the value (m,) of its case which[i]."""
        order = np.lexsort((values, which))
        cases, first = np.unique(which[order], return_index=True)
        self._take(cases, order[first], points, values[order[first]])

    def _take(self, cases: np.ndarray, index: np.ndarray, points: np.ndarray, values: np.ndarray) -> None:
        better = values < self.value[cases]
        self.x[cases[better]], self.value[cases[better]] = points[index[better]], values[better]

    def results(self) -> list[AttackResult]:
        """One result per case."""
        return [AttackResult(x.copy(), float(v)) for x, v in zip(self.x, self.value, strict=True)]


def descend(
    slack: Slack, region: Region, starts: Starts, best: Best, goal: Goal, *, steps: int, comfort: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Walk every start downhill; `best` keeps the best point of each case.

    Args:
        steps: Gradient steps.
        comfort: By how much the goal should be cleared, per case.

    Returns:
        The lowest point of each start and its slack, shapes (batch, n_inputs) and (batch,).
    """
    x, before, hull = starts.x, starts.x, region.walkable
    lowest_x, lowest = x.copy(), np.full(len(x), np.inf)
    eta = starts.first_step.copy()
    gains, halved, lowest_then = np.zeros(len(x)), np.zeros(len(x), dtype=bool), lowest.copy()
    checkpoints, last, spare = _checkpoints(steps), 0, POLISH
    for t in range(steps + 1):
        slope = starts.closed_slope[:, None] * (1 - t / steps) ** 2  # ends as the gradient itself
        at = x if region.grid is None else region.project(x)
        value, gradient = slack.with_gradient(at, starts.which, slope)
        better = value < lowest
        lowest_x[better], lowest[better] = at[better], value[better]
        gains += better
        best.update_cases(lowest_x, lowest, starts.which)
        if t == steps or goal.late or goal.met(best.value, comfort) or spare == 0:
            break
        spare -= goal.met(best.value)
        if t in checkpoints:
            stuck = (gains < 0.75 * (t - last)) | (~halved & (lowest_then <= lowest))
            eta[stuck] /= 2
            x, before = np.where(stuck[:, None], lowest_x, x), np.where(stuck[:, None], lowest_x, before)
            gains, halved, lowest_then, last = np.zeros(len(x)), stuck, lowest.copy(), t
        ahead = hull.project(x - eta[:, None] * steepest(region, gradient))
        ahead = x + MOMENTUM * (ahead - x) + (1 - MOMENTUM) * (x - before)
        corner = starts.to_corner
        if corner.any():
            share = np.minimum(2 * eta[corner] / (t + 2), 1.0)[:, None]
            ahead[corner] = x[corner] + share * (region.minimiser(gradient[corner]) - x[corner])
        x, before = hull.project(ahead), x
    return lowest_x, lowest


def steepest(region: Region, gradient: np.ndarray) -> np.ndarray:
    """The direction of steepest ascent in the region's norm, of the region's radius. Floating.

    L2 ball: eps g / |g|. L1 ball: eps / k on the k coordinates of largest |g|. Otherwise sign(g) times half the width
    of each coordinate, which for the L-inf ball is eps sign(g).

    Args:
        gradient: Shape (batch, n_inputs).

    Returns:
        Shape (batch, n_inputs).
    """
    if isinstance(region, L2Ball):
        length = np.sqrt((gradient * gradient).sum(axis=1, keepdims=True))
        return float(region.eps) * gradient / np.where(length > 0, length, 1.0)
    if isinstance(region, L1Ball):
        k = max(1, gradient.shape[1] // 20)
        size = np.abs(gradient) * (region.upper > region.lower)
        top = size >= np.partition(size, -k, axis=1)[:, [-k]]
        return float(region.eps) / k * np.sign(gradient) * top
    return np.sign(gradient) * (region.upper - region.lower) / 2


def _checkpoints(steps: int) -> frozenset[int]:
    """Steps at which progress is judged: after 22 % of them, then at intervals that shrink by 3 % down to 6 %."""
    marks, at, interval = [], 0.22, 0.22
    while at < 1:
        marks.append(max(1, int(np.ceil(at * steps))))
        interval = max(interval - 0.03, 0.06)
        at += interval
    return frozenset(marks)
