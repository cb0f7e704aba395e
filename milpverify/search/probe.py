"""Points of a search: slacks in floats at many of them, a few steps downhill, and the promising ones replayed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from milpverify.attack.method import Attack, AttackResult, Slack
from milpverify.search.question import Question

RETRIES = 20  # replays, per case, of points whose slack floats take for no lower than that of a point refused before
SHRINK = 0.93  # what each signed step loses of its length
SHARE_S = 0.1  # of the time left, for an attack


@dataclass(eq=False)
class Probe:
    """Looks for points below the question's target; floating, what it finds goes to `question.offer`.

    Attributes:
        question: Whose best point is improved.
        slack: Of its cases.
        refused: Per case the least slack that floats gave to a point which replay did not confirm.
        retries: Per case, how many more points of no lower slack may be replayed.
    """

    question: Question
    slack: Slack = field(init=False)
    refused: np.ndarray = field(init=False)
    retries: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        question, n_cases = self.question, len(self.question.cases)
        self.slack = Slack.of(question.net, question.cases)
        self.refused, self.retries = np.full(n_cases, np.inf), np.full(n_cases, RETRIES)

    def look(self, x: np.ndarray, still: np.ndarray) -> np.ndarray:
        """The cases' slacks at points, of which the best is replayed if it looks better than all before.

        Args:
            x: Shape (p, n_inputs).
            still: Which cases a point is meant for, shape (p, n_cases) or (n_cases,).

        Returns:
            Shape (p, n_cases); infinite for cases that it is not meant for.
        """
        region = self.question.region
        if not region.is_box or region.grid is not None:
            x = region.project(x)
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.where(still, self.slack.at_points(x), np.inf)
        values[np.isnan(values)] = np.inf
        if values.size:
            place, case = divmod(int(values.argmin()), values.shape[1])
            self._offer(case, x[place], float(values[place, case]))
        return values

    def descend(self, x: np.ndarray, case: np.ndarray, steps: int, size: float) -> None:
        """Signed gradient steps from points, each for a case of its own; the best point met is replayed.

        Args:
            x: Shape (p, n_inputs), p >= 1.
            case: Shape (p,).
            steps: How many.
            size: Of the first step, in widths of the region's box.
        """
        region, hull = self.question.region, self.question.region.walkable
        width, best, best_x, best_case = region.upper - region.lower, np.inf, x[0], 0
        for _ in range(steps):
            at = x if region.grid is None else region.project(x)
            value, gradient = self.slack.with_gradient(at, case)
            place = int(value.argmin())
            if value[place] < best:
                best, best_x, best_case = float(value[place]), at[place], int(case[place])
            if self.question.gap is None and best <= 0:
                break
            x = x - np.sign(gradient) * (size * width)
            x = np.clip(x, region.lower, region.upper) if region.is_box else hull.project(x)
            size *= SHRINK
        self._offer(best_case, best_x, best)

    def attack(self, attack: Attack, still: np.ndarray) -> None:
        """Attack the cases `still`, shape (n_cases,), and replay what comes of it."""
        question, open_ = self.question, np.flatnonzero(still)
        limit = None if math.isinf(question.left_s) else SHARE_S * question.left_s
        stop = 0.0 if question.gap is None else -math.inf
        results: tuple[AttackResult, ...] = ()
        with question.interrupt.released():
            results = attack.attack_all(
                question.net, [question.cases[i] for i in open_], start=question.starts, stop=stop, time_limit_s=limit
            )
        if not results:  # interrupted
            return
        meant = np.zeros((len(open_), len(still)), dtype=bool)
        meant[np.arange(len(open_)), open_] = True
        self.look(np.stack([result.x for result in results]), meant)

    def _offer(self, case: int, x: np.ndarray, value: float) -> None:
        """Replay a point if it looks better than the best, and than those that replay has refused."""
        question = self.question
        decide = question.gap is None
        if question.decided or not (value <= 0.0 if decide else value < question.best):
            return
        if value >= self.refused[case]:
            if self.retries[case] <= 0:
                return
            self.retries[case] -= 1
        before = question.best
        if question.offer(case, x) > (0.0 if decide else min(before, np.inf)):
            # Floats err alike near here: ask again only where they promise clearly more.
            self.refused[case] = min(self.refused[case], value - abs(value))
