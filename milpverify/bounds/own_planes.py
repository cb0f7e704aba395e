r"""The dual function on many nodes where every node has an upper plane of its own for each neuron.

A plane's slopes are gamma_i w_i, one gamma in [0, 1] for each input of the neuron (`bounds.planes`), and a node keeps
all of its gammas: children start from their parent's, and a few steps fit them to the new phases. With a share theta,

    z_n <= theta (sum_i gamma_i w_i t_i + R(gamma)) + (1 - theta) (the triangle's upper side on the node's l and u),

where lambda_n < 0 and n is free. One layer over a box: with theta = 1 the best gammas are worth what an LP with all
ideal cuts is. A node costs as much more than one with shared planes (`bounds.nodes`) as a neuron has inputs.

Source: Anderson et al. 2020, theorem 2; De Palma et al. 2021 (the dual ascent, here with multipliers of splits).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from milpverify.bounds.ascent import QUIET
from milpverify.bounds.node_parts import (
    BETA_SHARE,
    SPARE,
    THETA_SHARE,
    Adam,
    Ascended,
    Multipliers,
    Phases,
    toward,
)
from milpverify.bounds.nodes import NodeProblem
from milpverify.bounds.planes import MOMENTUM, PlaneInputs, plane_inputs, read_by, scattered
from milpverify.network.graph import UNIT

GAMMA_SHARE = 0.04  # step size of gamma next to that of alpha
CACHED = 100_000  # gammas of the nodes that ascend together: their arrays stay in the cache


@dataclass(frozen=True, eq=False)
class OwnPlanes(NodeProblem):
    """A condensed network with stacked rows, whose nodes have planes of their own.

    `Multipliers.theta` holds a node's shares, (N,), and after them its gammas, layer by layer.

    Attributes:
        neurons: Per layer which neurons have planes: of the last one those that some row wants high.
        inputs: What they read, in the ascent's precision.
        wide_inputs: The same in float64.
        plane_allowance: What a unit of a plane's multiplier loses, and by how much R is raised, shape (N,).
    """

    neurons: tuple[np.ndarray, ...]
    inputs: tuple[PlaneInputs, ...]
    wide_inputs: tuple[PlaneInputs, ...]
    plane_allowance: np.ndarray

    @classmethod
    def over(cls, problem: NodeProblem) -> OwnPlanes:
        """The problem with room for planes."""
        layers, n = range(problem.n_hidden), problem.n_neurons
        more = problem.problem.more_roundings + 4 * n + problem.ends[-1]
        wide = NodeProblem.of(replace(problem.problem, more_roundings=more), problem.d)
        kernel, none = wide.problem, np.zeros(0)
        scale = np.concatenate([*(kernel.scale(j + 1) for j in layers), none])
        size = scale + np.maximum(*map(np.abs, wide.root))
        lost = 8.0 * kernel.roundings * UNIT * size + kernel.underflow(len(kernel.layers)) + wide.allowance
        neurons = _planed_neurons(wide)
        narrow, double = (
            tuple(plane_inputs(kernel, j, wide.ends, np.zeros(0, dtype), neurons[j]) for j in layers)
            for dtype in (wide.dtype, np.float64)
        )
        inherited = {part.name: getattr(wide, part.name) for part in fields(NodeProblem)}
        return cls(**inherited, neurons=neurons, inputs=narrow, wide_inputs=double, plane_allowance=2.0 * lost)

    @staticmethod
    def gammas_over(problem: NodeProblem) -> int:
        """About how many gammas a node of a problem would have."""
        neurons = _planed_neurons(problem)
        return sum(int((W[some] != 0).sum()) for W, some in zip(problem.weights, neurons, strict=False))

    @property
    def n_gammas(self) -> int:
        """How many gammas a node has."""
        return sum(part.weights.size for part in self.inputs)

    def parted(self, theta: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """The shares (B, N), and per layer gamma (B, n, r), as views."""
        share, start, gammas = theta[:, : self.n_neurons], self.n_neurons, []
        for part in self.inputs:
            end = start + part.weights.size
            gammas.append(theta[:, start:end].reshape(len(theta), *part.weights.shape))
            start = end
        return share, gammas

    @QUIET
    def ascend(self, l: np.ndarray, u: np.ndarray, start: Multipliers, steps: int, rate: float) -> Ascended:
        """Raise g of every node by alpha, beta, its planes, and mu where its case has several rows. Floating.

        Args: as of `NodeProblem`.
        """
        size = max(1, CACHED // max(1, self.n_gammas))
        groups = [slice(first, first + size) for first in range(0, len(l), size)]
        parts = [self._ascend_some(Phases.of(l[at], u[at], self.dtype), start[at], steps, rate) for at in groups]
        if len(parts) == 1:
            return parts[0]
        multipliers = zip(*(part.multipliers.parts for part in parts), strict=True)
        return Ascended(
            np.concatenate([part.value for part in parts]),
            Multipliers(*(np.concatenate(each) for each in multipliers)),
            np.concatenate([part.lam for part in parts]),
            np.concatenate([part.x for part in parts]),
        )

    def _ascend_some(self, phases: Phases, start: Multipliers, steps: int, rate: float) -> Ascended:
        alpha = np.where(phases.free, start.alpha, phases.slope).astype(self.dtype)
        beta = np.where(phases.free, 0, start.beta).astype(self.dtype)
        theta, mu = np.array(start.theta, self.dtype), start.mu.astype(self.dtype)
        theta[:, : self.n_neurons] *= phases.free
        several = bool(((mu > 0).sum(axis=1) > 1).any())
        adam = [Adam(alpha, rate), Adam(beta, rate * BETA_SHARE), Adam(alpha, rate * THETA_SHARE)]
        push = [np.zeros_like(gamma) for gamma in self.parted(theta)[1]]
        best: Ascended | None = None
        for step in range(steps + 1):
            now = Multipliers(alpha, beta, theta, mu)
            found, planes = self._planed(phases, now)
            best = _best_of(best, found)
            if step == steps:
                break
            zhat, by_share, slack = self._raised(phases, now, found, planes, push, several)
            up = adam[0].move(step, np.where(phases.free, np.maximum(found.lam, 0) * zhat, 0))
            alpha = np.where(phases.free, np.clip(alpha + up, 0, 1), alpha)
            up = adam[1].move(step, phases.offset - phases.sign * zhat)
            beta = np.where(phases.free, 0, np.maximum(beta + up, 0))
            self._move(theta, adam[2].move(step, by_share) * phases.free, push, rate * GAMMA_SHARE)
            if several:
                mu = toward(mu, slack, rate)
        assert best is not None
        return best

    def _move(self, theta: np.ndarray, up: np.ndarray, push: list[np.ndarray], rate: float) -> None:
        """Shares and gammas one step on; a neuron's gammas share one step size, so that larger slopes move farther."""
        share, gammas = self.parted(theta)
        np.clip(share + up, 0, 1, out=share)
        for gamma, slope in zip(gammas, push, strict=True):
            size = np.abs(slope).sum(axis=-1, keepdims=True) / max(1, slope.shape[-1]) + SPARE
            gamma += slope * (rate / size)
            np.clip(gamma, 0, 1, out=gamma)

    def _planed(self, phases: Phases, at: Multipliers) -> tuple[Ascended, list[LayerPlanes]]:
        """g with what belongs to it, and the planes that it was made of. Floating."""
        weights, bias = self.guide[-1]
        columns = at.mu @ weights
        value = at.mu @ (bias - self.d.astype(self.dtype)) + (at.beta * phases.offset).sum(axis=1)
        push, (share, gammas) = phases.sign * at.beta, self.parted(at.theta)
        planes: list[LayerPlanes] = []
        for j in range(self.n_hidden, 0, -1):
            span, end, (weights, bias) = self.span(j), self.ends[j - 1], self.guide[j - 1]
            lam, some = columns[:, end : self.ends[j]], self.neurons[j - 1]
            part = LayerPlanes.of(gammas[j - 1], self.inputs[j - 1], bias[some])
            below = np.minimum(lam, 0)
            pi, kept = -below[:, some] * share[:, span][:, some], below.copy()
            kept[:, some] += pi
            nu = (lam - below) * at.alpha[:, span] + kept * phases.slope[:, span] - push[:, span]
            value += nu @ bias + (kept * phases.intercept[:, span]).sum(axis=1) - (pi * part.R).sum(axis=1)
            columns[:, :end] += nu @ weights - scattered(pi, part.slopes, self.inputs[j - 1])
            planes.insert(0, part)
        lam0 = columns[:, : self.n_inputs]
        x = self.minimiser(lam0)
        value += np.einsum("bn,bn->b", lam0, x)
        return Ascended(value, at, columns[:, self.n_inputs :], x), planes

    def _raised(
        self,
        phases: Phases,
        at: Multipliers,
        found: Ascended,
        planes: list[LayerPlanes],
        push: list[np.ndarray],
        rows: bool,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """At the Lagrangian's minimiser: zhat (B, N), d g / d share (B, N), slacks (B, m); moves `push`. Floating."""
        share, _ = self.parted(at.theta)
        values = np.zeros((len(found.x), self.ends[-1] + 1), found.x.dtype)
        values[:, : self.n_inputs] = found.x
        zhat, by_share = np.empty_like(found.lam), np.zeros_like(found.lam)
        for j, (plane, part) in enumerate(zip(planes, self.inputs, strict=True), start=1):
            span, (weights, bias) = self.span(j), self.guide[j - 1]
            mine, read = span.start + self.neurons[j - 1], read_by(values, part)
            zhat[:, span] = values[:, : self.ends[j - 1]] @ weights.T + bias
            upper = phases.slope[:, span] * zhat[:, span] + phases.intercept[:, span]
            below, shared = np.minimum(found.lam[:, mine], 0), share[:, mine]
            higher = (plane.slopes * read).sum(axis=-1) + plane.R - upper[:, self.neurons[j - 1]]
            by_share[:, mine] = below * higher
            upper[:, self.neurons[j - 1]] += shared * higher
            pull = (part.weights * read) - np.where(plane.on[..., None], part.high, part.low)
            pull *= (below * shared)[..., None]
            push[j - 1] *= MOMENTUM
            push[j - 1] += pull
            z = np.where(found.lam[:, span] > 0, at.alpha[:, span] * zhat[:, span], upper)
            values[:, self.ends[j - 1] : self.ends[j]] = z
        weights, bias = self.guide[-1]
        slack = values[:, :-1] @ weights.T + (bias - self.d.astype(bias.dtype)) if rows else np.zeros((0, 0))
        return zhat, by_share, slack

    def plane_terms(
        self, j: int, lam: np.ndarray, theta: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What the planes of layer j add to lambda, value, slack and the columns below. Rounded once slack is off."""
        share, gammas = self.parted(theta)
        some = self.neurons[j - 1]
        mine, up = self.span(j).start + some, np.zeros_like(lam)
        up[:, some] = pi = share[:, mine] * np.maximum(-lam[:, some], 0.0)
        lost = self.plane_allowance[mine]
        planes = self.planes_at(j, gammas[j - 1])
        below = -scattered(pi, planes.slopes, self.wide_inputs[j - 1])
        return up, -(pi * (planes.R + lost)).sum(axis=1), pi @ lost, below

    def planes_at(self, j: int, gamma: np.ndarray) -> LayerPlanes:
        """The planes of layer j that a claim is made of; R is valid once `plane_allowance` is added."""
        return LayerPlanes.of(np.minimum(gamma, 1.0), self.wide_inputs[j - 1], self.bias[j - 1][self.neurons[j - 1]])


@dataclass(frozen=True, eq=False)
class LayerPlanes:
    """The planes of a layer's neurons on some nodes.

    Attributes:
        slopes: gamma w, (B, n, r).
        R: (B, n).
        on: Whether the active side of the kink sets R, (B, n).
    """

    slopes: np.ndarray
    R: np.ndarray
    on: np.ndarray

    @classmethod
    def of(cls, gamma: np.ndarray, part: PlaneInputs, bias: np.ndarray) -> LayerPlanes:
        """The planes with these gammas."""
        off = -np.einsum("bnr,nr->bn", gamma, part.low)
        on = bias + part.high.sum(axis=-1) - np.einsum("bnr,nr->bn", gamma, part.high)
        return cls(gamma * part.weights, np.maximum(off, on), on >= off)


def _planed_neurons(problem: NodeProblem) -> tuple[np.ndarray, ...]:
    """Per layer the neurons whose lambda can be negative: of the last one those that some row wants high."""
    neurons = [np.arange(size) for size in np.diff(problem.ends)]
    if neurons:
        neurons[-1] = np.flatnonzero((problem.weights[-1][:, problem.ends[-2] :] < 0).any(axis=0))
    return tuple(neurons)


def _best_of(best: Ascended | None, now: Ascended) -> Ascended:
    """Node by node the larger bound with what belongs to it; `best` is overwritten, and `now` copied."""
    parts = (now.value, *now.multipliers.parts, now.lam, now.x)
    if best is None:
        value, alpha, beta, theta, mu, lam, x = (part.copy() for part in parts)
        return Ascended(value, Multipliers(alpha, beta, theta, mu), lam, x)
    better = now.value > best.value
    for kept, part in zip((best.value, *best.multipliers.parts, best.lam, best.x), parts, strict=True):
        kept[better] = part[better]
    return best
