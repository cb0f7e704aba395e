"""Projected gradient descent with many starts, batched over cases and restarts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpverify.attack.descent import Best, Starts, descend
from milpverify.attack.local import best_of_groups, local_search
from milpverify.attack.method import Attack, AttackResult, Goal, Slack, centre
from milpverify.errors import OptionError
from milpverify.spec.regions import L1Ball, Region

LOW_DIMENSION = 50  # beyond this, uniform samples all look like the centre and are not worth a forward pass
LOW_DIMENSION_STARTS = 8  # times as many starts there: steps are cheap, basins many
SAMPLES_AT_ONCE = 1024
STRETCH = 2.0  # every other sample is pushed from the centre by this factor: half of a box's coordinates reach a face
FIRST_STEPS = (1.0, 0.1)  # shares of `step_size`: short ones stay in a narrow valley that a sample met
CLOSED_SLOPES = (0.0, 0.1, 0.3)  # of closed ReLUs in the backward pass at first, so that starts see dead features
COMFORT = 1e-2  # share of the first slack by which a violation should clear the goal


@dataclass(frozen=True)
class Pgd(Attack):
    """Projected gradient descent in rounds: each doubles the starts per case and keeps the better half of the cases.

    Attributes:
        steps: Gradient steps of every start.
        restarts: Starts per case in the first round, `LOW_DIMENSION_STARTS` times as many in low dimension: the best
            points given, the corners their gradients point to, the best samples, random points.
        rounds: Rounds after which a search ends.
        samples: Random points tried before each round, where at most `LOW_DIMENSION` inputs are free.
        step_size: First step, in radii of the region.
        seed: Of every random choice: equal seeds give equal results (a time limit that strikes aside).

    Raises:
        OptionError: If a count or the step is not positive.

    Source:
        Madry et al. 2018, section 2; momentum and step rule of Croce & Hein 2020, algorithm 1; L1 steps of Tramer &
        Boneh 2019, section 3.2, and corner steps of Jaggi 2013, algorithm 1 (Frank & Wolfe). Surrogate slopes,
        stretched samples, the halving of cases and the local search in low dimension are our own: they find most of
        what plain restarts leave.
    """

    steps: int = 40
    restarts: int = 8
    rounds: int = 4
    samples: int = 16384
    step_size: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.restarts, self.rounds) < 1 or self.samples < 0 or not self.step_size > 0:
            raise OptionError(
                f"Pgd: steps={self.steps}, restarts={self.restarts}, rounds={self.rounds} and step_size="
                f"{self.step_size} must be positive, samples={self.samples} at least 0."
            )

    def _search(self, slack: Slack, region: Region, start: np.ndarray, goal: Goal) -> list[AttackResult]:
        rng = np.random.default_rng(self.seed)
        given = np.concatenate([centre(region)[None], region.project(start)])
        at_given = slack.at_points(given)
        best = Best.of(slack.n_cases, given, at_given)
        comfort = COMFORT * np.abs(best.value)
        restarts = self.restarts * (LOW_DIMENSION_STARTS if _is_low(region) else 1)
        for i in range(self.rounds):
            if goal.late or goal.met(best.value, comfort * (i == 0)):
                break
            sampled = self._sample(slack, region, rng, best, goal)
            if goal.late or goal.met(best.value, comfort):
                break
            cases = self._open_cases(best.value + comfort, goal, i)
            first = (given, at_given) if i == 0 else (given[:0], at_given[:0])
            starts = self._starts(slack, region, rng, first, sampled, cases, restarts << i)
            step = slack.points_at_once
            for j in range(0, len(starts.x), step):
                if goal.late or goal.met(best.value, comfort):
                    break
                part = starts.part(slice(j, j + step))
                x, value = descend(slack, region, part, best, goal, steps=self.steps, comfort=comfort)
                for case in np.unique(part.which) if _is_low(region) else ():
                    mine = part.which == case
                    local_search(slack, region, int(case), x[mine], value[mine], rng, best, goal)
        return best.results()

    def _open_cases(self, value: np.ndarray, goal: Goal, round_: int) -> np.ndarray:
        """Indices of the cases to work on: all that must be met, or the lowest, half as many (but two) each round."""
        if goal.every_case:
            return np.flatnonzero(value > goal.stop)
        return np.sort(np.argsort(value, kind="stable")[: max(2, -(-len(value) >> round_))])

    def _sample(
        self, slack: Slack, region: Region, rng: np.random.Generator, best: Best, goal: Goal
    ) -> tuple[np.ndarray, np.ndarray]:
        """Random points and their slacks, shapes (m, n_inputs) and (m, cases); they update `best`."""
        count = self.samples if _is_low(region) else 0
        points, values = [np.zeros((0, len(region.lower)))], [np.zeros((0, slack.n_cases))]
        chunk, middle = min(slack.points_at_once, SAMPLES_AT_ONCE), centre(region)
        for i in range(0, count, chunk):
            x = region.sample(rng, min(chunk, count - i))
            x[::2] = region.project(middle + STRETCH * (x[::2] - middle))
            points.append(x)
            values.append(slack.at_points(x))
            best.update(x, values[-1])
            if goal.late or goal.met(best.value):
                break
        return np.concatenate(points), np.concatenate(values)

    def _starts(
        self,
        slack: Slack,
        region: Region,
        rng: np.random.Generator,
        given: tuple[np.ndarray, np.ndarray],
        sampled: tuple[np.ndarray, np.ndarray],
        cases: np.ndarray,
        count: int,
    ) -> Starts:
        """`count` starts per case: the best of those given and their corners, the best samples, random points.

        `given` and `sampled` are points (m, n_inputs) with every case's slack there (m, n_cases).
        """
        n = slack.net.n_inputs
        near = given[0][np.argsort(given[1][:, cases], axis=0, kind="stable")[: (count + 1) // 2]]  # (k, cases, n)
        _, gradient = slack.with_gradient(near.reshape(-1, n), np.tile(cases, len(near)))
        corners = region.project(region.minimiser(gradient)).reshape(near.shape)[: count - len(near)]
        wanted = count - len(near) - len(corners)
        groups = min(wanted - wanted // 4, len(sampled[0]))
        low = sampled[0][best_of_groups(sampled[1][:, cases], groups)]
        drawn = region.sample(rng, (wanted - groups) * len(cases)).reshape(-1, len(cases), n)
        x = np.concatenate([near, corners, low, drawn])
        first_step = np.resize(FIRST_STEPS, len(x)) * self.step_size
        closed_slope = np.resize(CLOSED_SLOPES, len(x))
        # Gradient steps stall near the corners of an L1 ball, and there its minima lie: half of the starts walk those.
        to_corner = np.resize((False, False, True, True), len(x)) & isinstance(region, L1Ball)
        return Starts(
            x.reshape(-1, n),
            np.tile(cases, len(x)),
            np.repeat(first_step, len(cases)),
            np.repeat(closed_slope, len(cases)),
            np.repeat(to_corner, len(cases)),
        )


def _is_low(region: Region) -> bool:
    return int((region.upper > region.lower).sum()) <= LOW_DIMENSION
