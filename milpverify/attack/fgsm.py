"""FGSM: one step along the gradient, to the edge of the region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpverify.attack.method import Attack, AttackResult, Goal, Slack, centre
from milpverify.spec.regions import Region


@dataclass(frozen=True)
class Fgsm(Attack):
    """The fast gradient (sign) method: the point of the region that minimises the linearised slack.

    From the centre c with gradient g that is c - eps sign(g) for the L-inf ball, c - eps g / |g| for the L2 ball, one
    corner for the L1 ball; clips and boxes are met exactly, since the linear function is minimised over the region.

    Source:
        Goodfellow, Shlens & Szegedy 2015, section 4; targeted as in Kurakin, Goodfellow & Bengio 2017, section 2.3.
    """

    def _search(self, slack: Slack, region: Region, start: np.ndarray, goal: Goal) -> list[AttackResult]:
        tried = np.concatenate([centre(region)[None], region.project(start)])
        if not goal.late:
            which = np.repeat(np.arange(slack.n_cases), len(tried))
            _, gradient = slack.with_gradient(np.tile(tried, (slack.n_cases, 1)), which)
            tried = np.concatenate([tried, region.project(region.minimiser(gradient))])
        values = slack.at_points(tried)
        best = values.argmin(axis=0)
        return [AttackResult(tried[i], float(values[i, c])) for c, i in enumerate(best)]
