r"""The dual function on many nodes of a search at once: one condensed problem, phases and a row of its own per node.

The neurons of all layers lie side by side, so that a node is a few vectors: l, u, slopes alpha and multipliers beta of
shape (B, N). With s = +1 where a neuron is active on the node, -1 where inactive and 0 where it is still free, and
lambda = lambda+ + lambda-,

    nu = alpha lambda+ + slope lambda- - s beta        alpha = slope = 1 where active, 0 where inactive; beta >= 0

and any such nu is valid (`bounds.dual`, theorem and rounding: what a unit of |nu_k| may lose is taken from the root,
whose bounds contain every node's). d g / d beta is l - zhat where active and zhat - u where inactive.

Planes. An upper plane z_n <= P.t + R of a neuron over its inputs t, valid at the root (`Planes`), is one more linear
constraint: with a multiplier pi >= 0 it adds pi to lambda_n, takes pi P from the inputs' lambda and pi R from g. The
search keeps theta with pi = theta max(-lambda_n, 0).

The ascent runs in float32 where that cannot overflow and claims nothing; `claim` evaluates g in float64, outward.

Source: Wang et al. 2021 (beta-CROWN); Xu et al. 2021 (alpha-CROWN); Zhang et al. 2022 (cutting planes in the dual);
Anderson et al. 2020 (which planes are ideal).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from milpverify.bounds.ascent import LARGEST, QUIET, dense_weights, tame
from milpverify.bounds.node_parts import (
    BETA_SHARE,
    THETA_SHARE,
    Adam,
    Ascended,
    Multipliers,
    Phases,
    Planes,
    better_of,
    toward,
)
from milpverify.bounds.problem import DualProblem
from milpverify.network.graph import UNIT


@dataclass(frozen=True, eq=False)
class NodeProblem:
    """A condensed network with stacked rows, as dense arrays over the columns [x, z_1, ..., z_K].

    Attributes:
        problem: What it was made from; its last layer is the rows y = C f(x), and a row's slack is y_i - d_i.
        d: Shape (m,).
        ends: Columns end here, per source.
        weights, bias: Per hidden layer (n_k, ends[k - 1]) and (n_k,), float64; the rows come last.
        guide: The same in the ascent's precision.
        allowance: What a unit of |nu| loses, all hidden neurons side by side, shape (N,).
        row_allowance: The same for the rows, shape (m,).
        underflow: Lost once per bound.
    """

    problem: DualProblem
    d: np.ndarray
    ends: tuple[int, ...]
    weights: tuple[np.ndarray, ...]
    bias: tuple[np.ndarray, ...]
    guide: tuple[tuple[np.ndarray, np.ndarray], ...]
    allowance: np.ndarray
    row_allowance: np.ndarray
    underflow: float
    planes: Planes
    plane_guide: tuple[np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def of(cls, problem: DualProblem, d: np.ndarray) -> NodeProblem:
        """The nodes of a condensed problem with dense blocks, numpy, one region.

        Args:
            problem: Bounds every hidden layer; its last layer holds the rows.
            d: Right-hand sides of the rows, shape (m,).
        """
        problem = replace(problem, more_roundings=problem.more_roundings + 2 * len(d) + 8)
        k = len(problem.layers)
        sizes = [problem.n_inputs, *(layer.size for layer in problem.layers[:-1])]
        ends = tuple(int(end) for end in np.cumsum(sizes))
        dense = tuple(np.ascontiguousarray(dense_weights(problem, j, ends)) for j in range(1, k + 1))
        bias = tuple(np.asarray(layer.bias) for layer in problem.layers)
        easy = tame(problem, k, np.eye(len(d)), dense) and np.abs(d).max(initial=0.0) < LARGEST
        dtype = np.float32 if easy else np.float64
        guide = tuple((w.astype(dtype), b.astype(dtype)) for w, b in zip(dense, bias, strict=True))
        lost = [np.broadcast_to(problem.allowance(j), (problem.affine(j).size,)) for j in range(1, k + 1)]
        rows = lost[-1] + 4.0 * problem.roundings * UNIT * np.abs(d)
        hidden = np.concatenate([*lost[:-1], np.zeros(0)])
        none, n = np.zeros((0, ends[-1])), ends[-1] - ends[0]
        planes = Planes(np.zeros(0, dtype=int), none, np.zeros(0), np.zeros(0), np.zeros((0, n)))
        guided = (none.astype(dtype), np.zeros(0, dtype), np.zeros((0, n), dtype))
        return cls(problem, d, ends, dense, bias, guide, hidden, rows, problem.underflow(k), planes, guided)

    def with_planes(self, neuron: np.ndarray, slopes: np.ndarray) -> NodeProblem:
        """The problem with these planes and no others; R is the least that is valid over the box of the inputs.

        Args:
            neuron: Which of the N each plane is about, (c,).
            slopes: P, (c, columns); what lies beyond a neuron's inputs must be zero.
        """
        order = np.argsort(neuron, kind="stable")
        neuron, P = neuron[order], np.ascontiguousarray(slopes[order], dtype=np.float64)
        problem = replace(self.problem, more_roundings=self.problem.more_roundings + 4 * len(neuron) + self.ends[-1])
        wide = NodeProblem.of(problem, self.d)
        boxes = [problem.source_box(source) for source in range(len(self.ends))]
        low, high = (np.concatenate(side) for side in zip(*boxes, strict=True))
        size = np.maximum(np.abs(low), np.abs(high))
        unit = 2.0 * problem.roundings * UNIT
        lost = unit * (np.abs(P) @ size) + problem.underflow(len(problem.layers))
        R, reach = np.maximum(-np.minimum(P * low, P * high).sum(axis=1), 0.0), np.zeros(len(neuron))
        layer = self.layer_of(neuron)
        for j in range(1, self.n_hidden + 1):
            mine, end = np.flatnonzero(layer == j), self.ends[j - 1]
            place = neuron[mine] - self.span(j).start
            rest = self.weights[j - 1][place] - P[mine, :end]
            on = self.bias[j - 1][place] + np.maximum(rest * low[:end], rest * high[:end]).sum(axis=1)
            off = -np.minimum(P[mine] * low, P[mine] * high).sum(axis=1)
            R[mine], reach[mine] = np.maximum(off, on), high[self.n_inputs + neuron[mine]]
        R = np.nextafter(R + wide.allowance[neuron] + 2.0 * lost, np.inf)
        allowance = lost + unit * (np.abs(R) + reach) + wide.allowance[neuron]
        of_neuron = np.zeros((len(neuron), self.n_neurons))
        of_neuron[np.arange(len(neuron)), neuron] = 1.0
        guide = (P.astype(self.dtype), R.astype(self.dtype), of_neuron.astype(self.dtype))
        return replace(wide, planes=Planes(neuron, P, R, allowance, of_neuron), plane_guide=guide)

    def planes_of(self, j: int) -> slice:
        """Which planes are about neurons of layer j."""
        span = self.span(j)
        return slice(*(int(v) for v in np.searchsorted(self.planes.neuron, (span.start, span.stop))))

    @property
    def n_inputs(self) -> int:
        """Number of input coordinates."""
        return self.ends[0]

    @property
    def n_hidden(self) -> int:
        """Number of hidden layers."""
        return len(self.ends) - 1

    @property
    def n_neurons(self) -> int:
        """Number N of neurons, all layers together."""
        return self.ends[-1] - self.ends[0]

    @property
    def dtype(self) -> Any:
        """Of the ascent."""
        return self.guide[-1][0].dtype

    @property
    def root(self) -> tuple[np.ndarray, np.ndarray]:
        """l and u of all neurons at the root, each (N,)."""
        none = np.zeros(0)
        return np.concatenate([*self.problem.lower, none]), np.concatenate([*self.problem.upper, none])

    def span(self, j: int) -> slice:
        """Where the neurons of layer j (from 1) lie among the N."""
        return slice(self.ends[j - 1] - self.ends[0], self.ends[j] - self.ends[0])

    def layer_of(self, neuron: np.ndarray) -> np.ndarray:
        """The layers, from 1, of neurons given by their place among the N."""
        return np.searchsorted(np.asarray(self.ends[1:]) - self.ends[0], neuron, side="right") + 1

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Slacks y - d at inputs of the region, (B, n_inputs) -> (B, m). Floating."""
        values = self._values(x)
        return values @ self.weights[-1].T + (self.bias[-1] - self.d)

    def pattern(self, x: np.ndarray) -> np.ndarray:
        """Pre-activations at inputs of the region, (B, n_inputs) -> (B, N). Floating."""
        values, hidden = self._values(x), np.zeros((len(x), self.n_neurons))
        for j in range(1, self.n_hidden + 1):
            hidden[:, self.span(j)] = values[:, : self.ends[j - 1]] @ self.weights[j - 1].T + self.bias[j - 1]
        return hidden

    def _values(self, x: np.ndarray) -> np.ndarray:
        values = np.zeros((len(x), self.ends[-1]))
        values[:, : self.n_inputs] = x
        for j in range(1, self.n_hidden + 1):
            zhat = values[:, : self.ends[j - 1]] @ self.weights[j - 1].T + self.bias[j - 1]
            values[:, self.ends[j - 1] : self.ends[j]] = np.maximum(zhat, 0.0)
        return values

    # The search's own walk: floating.

    @QUIET
    def ascend(self, l: np.ndarray, u: np.ndarray, start: Multipliers, steps: int, rate: float) -> Ascended:
        """Raise g of every node by alpha and beta, and by mu where its case has several rows. Floating.

        Args:
            l, u: Bounds on the nodes, (B, N).
            start: Where to start; mu >= 0 says which rows a node is about, and only those may get weight.
            steps: Of Adam; 0 evaluates `start`.
            rate: Its step size for alpha.
        """
        phases = Phases.of(l, u, self.dtype)
        alpha = np.where(phases.free, start.alpha, phases.slope).astype(self.dtype)
        beta = np.where(phases.free, 0, start.beta).astype(self.dtype)
        theta, mu = start.theta.astype(self.dtype), start.mu.astype(self.dtype)
        several = bool(((mu > 0).sum(axis=1) > 1).any())
        adam = [Adam(alpha, rate), Adam(beta, rate * BETA_SHARE), Adam(theta, rate * THETA_SHARE)]
        best = None
        for step in range(steps + 1):
            value, lam, pi, x = self._guided(phases, Multipliers(alpha, beta, theta, mu))
            raw = lam - (theta * pi) @ self.plane_guide[2] if len(self.planes) else lam
            best = better_of(best, Ascended(value, Multipliers(alpha, beta, theta, mu), raw, x))
            if step == steps:
                break
            zhat, gap, slack = self._relaxed(phases, alpha, lam, x, several)
            up = adam[0].move(step, np.where(phases.free, np.maximum(lam, 0) * zhat, 0))
            alpha = np.where(phases.free, np.clip(alpha + up, 0, 1), alpha)
            up = adam[1].move(step, phases.offset - phases.sign * zhat)
            beta = np.where(phases.free, 0, np.maximum(beta + up, 0))
            if len(self.planes):
                theta = self.shared(theta + adam[2].move(step, pi * gap))
            if several:
                mu = toward(mu, slack, rate)
        assert best is not None
        return best

    def shared(self, theta: np.ndarray) -> np.ndarray:
        """theta >= 0 whose sum over the planes of each neuron is at most 1."""
        theta, of_neuron = np.maximum(theta, 0), self.plane_guide[2]
        total = np.maximum(theta @ of_neuron, 1)
        return np.asarray(theta / total[:, self.planes.neuron])

    def _guided(self, phases: Phases, at: Multipliers) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """g, lambda of the neurons, max(-lambda, 0) of the planes' before them, the minimiser. Floating."""
        weights, bias = self.guide[-1]
        P, R, of_neuron = self.plane_guide
        columns = at.mu @ weights
        value = at.mu @ (bias - self.d.astype(self.dtype)) + (at.beta * phases.offset).sum(axis=1)
        push, room = phases.sign * at.beta, np.zeros_like(at.theta)
        for j in range(self.n_hidden, 0, -1):
            span, planes, end, (weights, bias) = self.span(j), self.planes_of(j), self.ends[j - 1], self.guide[j - 1]
            lam = columns[:, end : self.ends[j]]
            if planes.start < planes.stop:
                room[:, planes] = np.maximum(-lam[:, self.planes.neuron[planes] - span.start], 0)
                pi = at.theta[:, planes] * room[:, planes]
                lam += pi @ of_neuron[planes, span]
                value -= pi @ R[planes]
                columns[:, :end] -= pi @ P[planes, :end]
            below = np.minimum(lam, 0)
            nu = (lam - below) * at.alpha[:, span] + below * phases.slope[:, span] - push[:, span]
            value += nu @ bias + np.einsum("bn,bn->b", below, phases.intercept[:, span])
            columns[:, :end] += nu @ weights
        lam0 = columns[:, : self.n_inputs]
        x = self.minimiser(lam0)
        value += np.einsum("bn,bn->b", lam0, x)
        return value, columns[:, self.n_inputs :], room, x

    def minimiser(self, lam: np.ndarray) -> np.ndarray:
        """Points of the region that nearly attain min lam.x, (B, n_inputs). Floating."""
        region = self.problem.region
        if region.is_box:
            centre = (region.lower / 2 + region.upper / 2).astype(lam.dtype)
            return centre - np.sign(lam) * (region.upper - region.lower).astype(lam.dtype) / 2
        return np.asarray(region.minimiser(lam.astype(np.float64))).astype(lam.dtype)

    def _relaxed(
        self, phases: Phases, alpha: np.ndarray, lam: np.ndarray, x: np.ndarray, rows: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """At the Lagrangian's minimiser: zhat (B, N), by how much planes are passed (B, c), slacks (B, m). Floating.

        Planes do not move it: what theta > 0 changes in the slopes of all others gains less than it costs.
        """
        values = np.empty((len(x), self.ends[-1]), x.dtype)
        values[:, : self.n_inputs] = x
        zhat = np.empty_like(lam)
        for j in range(1, self.n_hidden + 1):
            span, (weights, bias) = self.span(j), self.guide[j - 1]
            part = values[:, : self.ends[j - 1]] @ weights.T + bias
            zhat[:, span] = part
            upper = phases.slope[:, span] * part + phases.intercept[:, span]
            values[:, self.ends[j - 1] : self.ends[j]] = np.where(lam[:, span] > 0, alpha[:, span] * part, upper)
        P, R, _ = self.plane_guide
        gap = values[:, self.n_inputs + self.planes.neuron] - values @ P.T - R
        weights, bias = self.guide[-1]
        slack = values @ weights.T + (bias - self.d.astype(bias.dtype)) if rows else np.zeros((0, 0))
        return zhat, gap, slack

    # What is claimed: float64, rounded outward.

    def claim(self, l: np.ndarray, u: np.ndarray, multipliers: Multipliers) -> np.ndarray:
        """Lower bounds of the nodes' least slack max_i (y_i - d_i), (B,). Rounded; infinite where a node is empty.

        Args:
            l, u: Proven bounds on the nodes, within the root's, (B, N).
            multipliers: Any; mu is taken as it is, and must be >= 0 and 0 on the rows of other cases.
        """
        phases = Phases.of(l, u)
        alpha = np.where(phases.free, multipliers.alpha, phases.slope)
        push = phases.sign * multipliers.beta
        mu = multipliers.mu.astype(np.float64)
        value, slack = mu @ (self.bias[-1] - self.d), mu @ self.row_allowance
        columns = mu @ self.weights[-1]
        theta = np.maximum(multipliers.theta, 0.0)
        g = self._walk(self.n_hidden, columns, value, slack, (l, u, phases, alpha), push, theta)
        return _per_unit(g, mu)

    def plane_terms(
        self, j: int, lam: np.ndarray, theta: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What the planes of layer j add to lambda, value, slack and the columns below. Rounded once slack is off."""
        planes, span, some = self.planes, self.span(j), self.planes_of(j)
        if some.start == some.stop:
            none = np.zeros(len(lam))
            return np.zeros_like(lam), none, none, np.zeros((len(lam), self.ends[j - 1]))
        pi = theta[:, some] * np.maximum(-lam[:, planes.neuron[some] - span.start], 0.0)
        below = -(pi @ planes.P[some, : self.ends[j - 1]])
        return pi @ planes.of_neuron[some, span], -(pi @ planes.R[some]), pi @ planes.allowance[some], below

    def refreshed(
        self, l: np.ndarray, u: np.ndarray, node: np.ndarray, neuron: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of some neurons on their nodes by CROWN's slopes, each (R,). Rounded.

        Args:
            l, u: Proven bounds on the nodes, (B, N).
            node, neuron: Which, (R,) each; neurons of one layer.
        """
        j = int(self.layer_of(neuron[:1])[0])
        place = neuron - self.span(j).start
        l, u = l[node], u[node]
        phases = Phases.of(l, u)
        alpha = (phases.slope > 0.5).astype(np.float64)
        sides = []
        for sign in (1.0, -1.0):
            columns = np.zeros((len(node), self.ends[-1]))
            columns[:, : self.ends[j - 1]] = sign * self.weights[j - 1][place]
            value, slack = sign * self.bias[j - 1][place], self.allowance[neuron].copy()
            sides.append(self._walk(j - 1, columns, value, slack, (l, u, phases, alpha)))
        return sides[0], -sides[1]

    def _walk(
        self,
        top: int,
        columns: np.ndarray,
        value: np.ndarray,
        slack: np.ndarray,
        nodes: tuple[np.ndarray, np.ndarray, Phases, np.ndarray],
        push: np.ndarray | None = None,
        theta: np.ndarray | None = None,
    ) -> np.ndarray:
        """g of rows over the columns up to layer `top`, outward."""
        l, u, phases, alpha = nodes
        with np.errstate(over="ignore", invalid="ignore"):
            for j in range(top, 0, -1):
                span = self.span(j)
                lam, end = columns[:, self.ends[j - 1] : self.ends[j]], self.ends[j - 1]
                if theta is not None:
                    up, gain, lost, below = self.plane_terms(j, lam, theta)
                    lam += up
                    value, slack = value + gain, slack + lost
                    columns[:, :end] += below
                nu = lam * np.where(lam < 0, phases.slope[:, span], alpha[:, span])
                if push is not None:
                    nu = nu - push[:, span]
                low, high = l[:, span], u[:, span]
                at_l, at_u = lam * np.maximum(low, 0.0) - nu * low, lam * np.maximum(high, 0.0) - nu * high
                least = np.minimum(at_l, at_u)
                least = np.where(phases.free[:, span], np.minimum(least, 0.0), least)
                value = value + nu @ self.bias[j - 1] + least.sum(axis=1)
                slack = slack + np.abs(nu) @ self.allowance[span]
                columns[:, :end] += nu @ self.weights[j - 1]
            least = np.asarray(self.problem.region.minimum(np.ascontiguousarray(columns[:, : self.n_inputs])))
            total = value + least - (slack * (1.0 + 1e-9) + self.underflow)
        return np.where(np.isfinite(total), np.nextafter(total, -np.inf), -np.inf)


def _per_unit(g: np.ndarray, mu: np.ndarray) -> np.ndarray:
    """g over the sum of mu, rounded down: max_i s_i >= mu.s / sum(mu). Where mu is 0, g > 0 means no input at all."""
    total = mu.sum(axis=1)
    spread = mu.shape[1] * 2.0**-52
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scaled = np.nextafter(g / (total * np.where(g > 0, 1.0 + spread, 1.0 - spread)), -np.inf)
    value = np.where((total == 0) & (g > 0), np.inf, np.where((total > 0) & (total < np.inf), scaled, -np.inf))
    one_row = (mu != 0.0).sum(axis=1) == 1  # a sum of several may round to 1
    return np.where(one_row & (total == 1.0), g, value)
