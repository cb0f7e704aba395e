"""Upper planes of single neurons that a tree shares: found at the root for each case, valid on every node."""

from __future__ import annotations

import math

import numpy as np

from milpverify.bounds.ascent import Ascent, Climb, ascend
from milpverify.bounds.nodes import NodeProblem
from milpverify.bounds.own_planes import OwnPlanes
from milpverify.bounds.planes import Planes, raise_planes

ALPHA_STEPS = 40
RATES = (0.3, 0.001)  # of the planes' slopes, first and last


def root_planes(
    problem: NodeProblem, rows: np.ndarray, steps: int, ends: float = math.inf
) -> tuple[list[NodeProblem], np.ndarray]:
    """For each case the problem with one plane a neuron, as an ascent on the case's bound ends with, and theta.

    Args:
        problem: Without planes.
        rows: Per case the weights of its rows, shape (cases, m).
        steps: Of the ascent.
        ends: No step begins after this time, on `time.monotonic`'s clock.

    Returns:
        One problem a case, and the planes' shares, (cases, N).
    """
    slopes, shares = raised_planes(problem, rows, steps, ends)
    return [problem.with_planes(np.arange(problem.n_neurons), each) for each in slopes], shares


def raised_planes(
    problem: NodeProblem, rows: np.ndarray, steps: int, ends: float = math.inf
) -> tuple[np.ndarray, np.ndarray]:
    """The planes of `root_planes` as slopes P, (cases, N, columns), and their shares, (cases, N); floating."""
    found = _raised(problem, rows, steps, ends)
    return plane_slopes(problem, found), np.concatenate(found.share, axis=1)


def plane_slopes(problem: NodeProblem, found: Planes) -> np.ndarray:
    """P of what an ascent found, per row and neuron, (rows, N, columns)."""
    slopes = np.zeros((len(found.slopes.value), problem.n_neurons, problem.ends[-1] + 1))
    for j, (inputs, lam) in enumerate(zip(found.inputs, found.lam, strict=True), start=1):
        row, neuron = np.nonzero(np.asarray(lam) < 0)
        columns = np.where(inputs.columns < 0, problem.ends[-1], inputs.columns)
        slopes[row[:, None], problem.span(j).start + neuron[:, None], columns[neuron]] = found.slopes_of(j)[row, neuron]
    # A neuron whose planes no bound asked for keeps slopes of zero: z <= u.
    return slopes[..., :-1]


def root_theta(problem: OwnPlanes, rows: np.ndarray, steps: int, ends: float = math.inf) -> np.ndarray:
    """For each case the shares and gammas that an ascent on its bound ends with, as `OwnPlanes` keeps them; floating.

    Args: as of `root_planes`.

    Returns:
        Shape (cases, N + gammas).
    """
    found = _raised(problem, rows, steps, ends)
    parts = (gamma[:, some].reshape(len(rows), -1) for gamma, some in zip(found.gamma, problem.neurons, strict=True))
    return np.concatenate([*found.share, *parts], axis=1)


def _raised(problem: NodeProblem, rows: np.ndarray, steps: int, ends: float) -> Planes:
    climb = Climb.of(problem.problem, problem.n_hidden + 1, rows.astype(np.float64))
    return raise_planes(climb, ascend(climb, Ascent(ALPHA_STEPS, ends=ends)), Ascent(steps, *RATES, ends=ends))
