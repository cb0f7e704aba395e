"""Upper planes of single neurons that a whole tree shares: found at the root, valid on every node."""

from __future__ import annotations

import numpy as np

from milpverify.bounds.ascent import Ascent, Climb, ascend
from milpverify.bounds.nodes import NodeProblem
from milpverify.bounds.planes import raise_planes
from milpverify.search.branching import relaxation_cost

ALPHA_STEPS = 40
LEAST_ROOM = 128  # planes kept at least; else as many as there are neurons
RATES = (0.3, 0.001)  # of the planes' slopes, first and last


def with_root_planes(problem: NodeProblem, steps: int) -> NodeProblem:
    """The problem with the planes that an ascent on each of its rows ends with: those that matter most."""
    k = problem.n_hidden + 1
    climb = Climb.of(problem.problem, k, np.eye(len(problem.d)))
    found = raise_planes(climb, ascend(climb, Ascent(ALPHA_STEPS)), Ascent(steps, *RATES))
    neurons, slopes, worth = [np.zeros(0, dtype=int)], [np.zeros((0, problem.ends[-1]))], [np.zeros(0)]
    l, u = problem.root
    for part in found.kappa:
        start = problem.span(part.layer).start
        lam = np.asarray(found.lam[part.layer - 1], dtype=np.float64)
        row, neuron = np.nonzero(lam < 0)
        P = np.zeros((len(row), problem.ends[-1] + 1))
        below = part.listed[row, neuron] / lam[row, neuron][:, None]
        np.put_along_axis(P, np.where(part.inputs[neuron] < 0, problem.ends[-1], part.inputs[neuron]), below, axis=1)
        mine = start + part.neurons[neuron]
        neurons.append(mine)
        slopes.append(P[:, :-1])
        worth.append(relaxation_cost(l[mine], u[mine], lam[row, neuron]))
    best = np.sort(np.argsort(-np.concatenate(worth), kind="stable")[: max(LEAST_ROOM, problem.n_neurons)])
    return problem.with_planes(np.concatenate(neurons)[best], np.concatenate(slopes)[best])
