"""Iterative FGSM: many small steps of steepest descent, each projected back into the region."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from milpverify.attack.descent import Best, steepest
from milpverify.attack.method import Attack, AttackResult, Goal, Slack, centre
from milpverify.attack.objective import MarginToTarget, Objective
from milpverify.attack.steps import Norm, unit_steepest
from milpverify.errors import OptionError
from milpverify.spec.regions import L1Ball, L2Ball, LinfBall, Region


@dataclass(frozen=True)
class IterativeFgsm(Attack):
    """x <- P(x - a s(g)) from the centre, without momentum or random starts: the basic iterative method.

    Attributes:
        steps: Gradient steps.
        step_size: a in radii of the region.
        norm: Whose steepest direction s is: `LinfBall` (signs), `L2Ball` (the gradient), `L1Ball` (few coordinates).
            The region's own when None. P is always the region's.
        objective: What is driven down.

    Raises:
        OptionError: If steps or step size are not positive, or the norm is no ball.

    Source:
        Kurakin, Goodfellow & Bengio 2017, section 2.2 and 2.3; steepest directions of a norm: Boyd & Vandenberghe 2004,
        section 9.4.
    """

    steps: int = 10
    step_size: float = 0.2
    norm: Norm | None = None
    objective: Objective = field(default_factory=MarginToTarget)

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.step_size < np.inf:
            raise OptionError(
                f"IterativeFgsm: steps={self.steps} and step_size={self.step_size} must be positive and finite."
            )
        check_norm("IterativeFgsm", self.norm, or_none=True)

    def _search(self, slack: Slack, region: Region, start: np.ndarray, goal: Goal) -> list[AttackResult]:
        tried = np.concatenate([centre(region)[None], region.project(start)])
        best = Best.of(slack.n_cases, tried, slack.at_points(tried))
        driven = Slack(slack.net, self.objective.rows(slack.C), slack.d)
        which = np.repeat(np.arange(slack.n_cases), len(tried))
        x = np.tile(tried, (slack.n_cases, 1))
        for _ in range(self.steps):
            if goal.late or goal.met(best.value):
                break
            _, gradient = driven.with_gradient(x, which)
            x = region.project(x - self.step_size * self._direction(region, gradient))
            best.update_cases(x, slack.at_points(x)[np.arange(len(x)), which], which)
        return best.results()

    def _direction(self, region: Region, gradient: np.ndarray) -> np.ndarray:
        """The steepest direction, of the region's radius (half its largest width where it is a box)."""
        if self.norm is None:
            return steepest(region, gradient)
        radius = getattr(region, "eps", float((region.upper - region.lower).max(initial=0.0)) / 2)
        return unit_steepest(gradient, self.norm) * float(radius)


def check_norm(who: str, norm: object, *, or_none: bool = False) -> None:
    """Refuse what names no norm.

    Raises:
        OptionError: If it is no class of balls.
    """
    if norm not in (LinfBall, L2Ball, L1Ball) and not (or_none and norm is None):
        raise OptionError(f"{who}: {norm!r} names no norm. Choose LinfBall, L2Ball or L1Ball.")
