"""Local random search: what finishes a descent where several rows or pieces meet and no gradient shows the way down."""

from __future__ import annotations

import numpy as np

from milpverify.attack.descent import Best
from milpverify.attack.method import Goal, Slack
from milpverify.spec.regions import Region

PARENTS = 16
CHILDREN = 64
GENERATIONS = 20
FIRST_RADIUS = 0.1  # in half-widths of the box
GROW, SHRINK = 1.3, 0.6  # of a parent's radius after a success and after a failure


def local_search(
    slack: Slack,
    region: Region,
    case: int,
    points: np.ndarray,
    values: np.ndarray,
    rng: np.random.Generator,
    best: Best,
    goal: Goal,
) -> None:
    """Improve low points of one case by random steps that shrink where they fail; `best` keeps the result.

    Each parent draws children around itself, about half of their coordinates moved, and yields to the best one if that
    is lower. Pays in low dimension only.

    Args:
        case: Index of the case in `slack`.
        points: Shape (m, n_inputs), m >= 1.
        values: The case's slack there, shape (m,).

    Source:
        Evolution strategies with success-controlled steps: Rechenberg 1973.
    """
    parents = best_of_groups(values[:, None], min(PARENTS, len(values)))[:, 0]
    x, value = points[parents], values[parents]
    radius = np.full(len(x), FIRST_RADIUS)
    half = (region.upper - region.lower) / 2
    for _ in range(GENERATIONS):
        if goal.late or goal.met(best.value):
            return
        steps = rng.normal(size=(len(x), CHILDREN, x.shape[1]))
        steps *= rng.random(steps.shape) < 0.5
        children = region.project(x[:, None] + radius[:, None, None] * half * steps)
        scores = slack.at_points(children.reshape(-1, x.shape[1]))[:, case].reshape(len(x), CHILDREN)
        lowest = scores.argmin(axis=1)
        rows = np.arange(len(x))
        better = scores[rows, lowest] < value
        x = np.where(better[:, None], children[rows, lowest], x)
        value = np.where(better, scores[rows, lowest], value)
        radius *= np.where(better, GROW, SHRINK)
        best.update_cases(x, value, np.full(len(x), case))


def best_of_groups(values: np.ndarray, groups: int) -> np.ndarray:
    """Per case the index of the least value of each of so many groups: the least of all would crowd into one basin.

    Args:
        values: Shape (m, cases), m at least `groups`.

    Returns:
        Shape (groups, cases).
    """
    if not groups:
        return np.zeros((0, values.shape[1]), dtype=int)
    whole = values[: len(values) - len(values) % groups].reshape(-1, groups, values.shape[1])
    return np.asarray(whole.argmin(axis=0) * groups + np.arange(groups)[:, None])
