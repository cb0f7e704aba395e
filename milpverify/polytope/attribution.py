r"""Which neurons make the triangle relaxation loose, for one row of outputs.

For multipliers nu and any input x of the region X, what the network attains above the proven bound falls apart exactly:

    c . f(x) - g(nu) = lambda_0 . x - min over X of lambda_0 . x'
                     + sum_j ( lambda_j relu(zhat_j) - nu_j zhat_j - min_v ( lambda_j relu(v) - nu_j v ) ),

v in {l_j, u_j, 0}, every term >= 0: the Lagrangian of the exact network at x less the dual function, term by term. At
the LP's optimal nu and input x* the first difference is 0, and what is left is one share per unstable neuron. The same
term at the LP's own zhat_j is -lambda_j (z_j - relu(zhat_j)): the triangle's slack, weighted by its dual. The share
says what a neuron costs at the input that the LP believes in, the slack what the LP takes from it, and the gain what is
won by making it exact; no two of them need agree.

Source: Wong & Kolter 2018, section 3 (the dual network); Salman et al. 2019 (the LP as its best choice of nu).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from milpverify.bounds.compute import bound_rows, compute_bounds
from milpverify.bounds.dual import fixed
from milpverify.bounds.method import BoundMethod
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.small import folded_rows
from milpverify.errors import OptionError, SolverError
from milpverify.formulation.encode import Encoded, encode_slack, objective_unit
from milpverify.network.graph import Bounds, Network, relu
from milpverify.polytope.exact_neurons import Neuron
from milpverify.program.highs import WarmLP
from milpverify.program.solver import Solution, Status
from milpverify.spec.regions import L2Ball, Region
from milpverify.tighten.target import Target
from milpverify.tighten.triangle import TriangleProgram

HEADINGS = ("layer", "neuron", "gain", "slack", "share")


@dataclass(frozen=True)
class NeuronGap:
    """What one neuron adds to the looseness of an LP, in units of the row. Floating.

    Attributes:
        layer: Hidden layer, from 1.
        index: In that layer.
        slack: -lambda (z - relu(zhat)) at the LP's optimum, >= 0.
        share: Its term in c . f(x*) - LP, >= 0.
        gain: How much the LP's optimum rises when this neuron alone is exact, >= 0; None if that was not asked.
    """

    layer: int
    index: int
    slack: float
    share: float
    gain: float | None = None


@dataclass(frozen=True, eq=False)
class Attribution:
    """The gap of one row, neuron by neuron.

    Attributes:
        lower: The LP's bound of the row; rounded.
        attained: The row at the LP's input; floating.
        point: That input, shape (n_inputs,).
        input_share: lambda_0 . x* less its minimum over the region: about 0.
        neurons: The unstable neurons: first those whose gain is known, by gain, then the others, by slack and share.
        sizes: Neurons of each hidden layer.
    """

    lower: float
    attained: float
    point: np.ndarray
    input_share: float
    neurons: tuple[NeuronGap, ...]
    sizes: tuple[int, ...]

    @property
    def gap(self) -> float:
        """attained - lower: the shares of all neurons and of the input add up to it."""
        return self.attained - self.lower

    def top(self, k: int) -> tuple[Neuron, ...]:
        """The first k neurons as (layer, index): what `ExactNeurons` takes."""
        return tuple((neuron.layer, neuron.index) for neuron in self.neurons[:k])

    def slacks(self) -> tuple[np.ndarray, ...]:
        """Slacks as one array per hidden layer, shape (n_k,); 0 for stable neurons."""
        return self._arrays("slack")

    def shares(self) -> tuple[np.ndarray, ...]:
        """Shares likewise."""
        return self._arrays("share")

    def gains(self) -> tuple[np.ndarray, ...]:
        """Gains likewise; NaN where they were not asked."""
        return self._arrays("gain")

    def _arrays(self, name: str) -> tuple[np.ndarray, ...]:
        arrays = tuple(np.zeros(size) for size in self.sizes)
        for neuron in self.neurons:
            value = getattr(neuron, name)
            arrays[neuron.layer - 1][neuron.index] = math.nan if value is None else value
        return arrays

    def table(self) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        """Headings and one row per neuron, as text."""
        rows = [
            (str(n.layer), str(n.index), "-" if n.gain is None else f"{n.gain:.6g}", f"{n.slack:.6g}", f"{n.share:.6g}")
            for n in self.neurons
        ]
        return HEADINGS, tuple(rows)

    def __str__(self) -> str:
        header, rows = self.table()
        lines = ["  ".join(cell.rjust(10) for cell in row) for row in (header, *rows[:20])]
        more = [f"and {len(rows) - 20} neurons more"] if len(rows) > 20 else []
        return "\n".join([f"LP {self.lower:.6g}, attained {self.attained:.6g}: gap {self.gap:.6g}", *lines, *more])


def attribute_gap(
    net: Network,
    region: Region,
    row: np.ndarray,
    *,
    hidden: BoundMethod | Bounds | None = None,
    candidates: int | None = 20,
) -> Attribution:
    """Attribute the gap of the triangle LP, for a row of outputs that is minimised, to the unstable neurons.

    Args:
        net: The network.
        region: The inputs: anything with linear rows, so no L2 ball.
        row: Shape (n_outputs,).
        hidden: Bounds of the hidden neurons, or the method for them; `Crown()` when None.
        candidates: For so many neurons, those of the largest slack or share, the gain is worked out, by two LPs each;
            for all when None.

    Raises:
        OptionError: If the region is an L2 ball, or `candidates` is negative.
        BoundsError, RegionError: As `bound_rows`.
        SolverError: If HiGHS has no optimum for the LP.
    """
    if isinstance(region, L2Ball):
        raise OptionError("attribute_gap: over an L2 ball the relaxation is no LP. Give the box around it.")
    if candidates is not None and candidates < 0:
        raise OptionError(f"attribute_gap: candidates must be at least 0, got {candidates}.")
    bounds = hidden if isinstance(hidden, Bounds) else compute_bounds(net, region, hidden)
    rows = np.asarray(row, dtype=np.float64).reshape(1, -1)
    crown = float(bound_rows(net, region, bounds, rows).value[0])  # checks the row and the bounds
    problem = DualProblem.of(net, region, bounds)
    k = len(problem.layers)
    target = Target.of(problem, k, folded_rows(problem, k, rows), region)
    at = _Optimum.of(target)
    order = np.argsort(-np.maximum(at.slack, at.share), kind="stable")
    asked = order if candidates is None else order[:candidates]
    gains = dict(zip(asked.tolist(), _gains(target, asked), strict=True))
    layers = np.repeat(np.arange(1, k), list(map(len, target.kept)))
    index = np.concatenate([np.zeros(0, dtype=int), *target.kept])
    found = [
        NeuronGap(int(layers[i]), int(index[i]), float(at.slack[i]), float(at.share[i]), gains.get(i))
        for i in order.tolist()
    ]
    found.sort(key=lambda neuron: -1.0 if neuron.gain is None else neuron.gain, reverse=True)
    return Attribution(
        max(crown, at.lower), float(rows[0] @ net.forward(at.x)), at.x, at.input_share, tuple(found), net.sizes
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Optimum:
    """The LP's optimum, and its terms; neurons of all layers in one array."""

    lower: float
    x: np.ndarray
    input_share: float
    slack: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, target: Target) -> _Optimum:
        triangle, net = TriangleProgram.of(target), target.condensed.net
        lp = WarmLP(triangle.program)
        lp.change_cost(np.arange(triangle.program.n_columns), triangle.cost[0])
        lp.change_offset(float(triangle.offset[0]))
        solution = lp.run()
        if solution.status is not Status.OPTIMAL or solution.x is None or solution.row_dual is None:
            raise SolverError(f"attribute_gap: HiGHS ends the LP with {solution.status.name}. Rescale the network.")
        nu = solution.row_dual[triangle.affine] * triangle.unit[0]
        ends = np.cumsum([0, *map(len, target.kept)])
        parts = [nu[a:b] for a, b in pairwise(ends)]
        x = target.region.project(solution.x[: target.region.dimension])
        hidden = [np.zeros(0), *net.activations(x)[0]]
        lam = _lambdas(target, parts)
        l, u = (np.concatenate([np.zeros(0), *side]) for side in (target.problem.lower, target.problem.upper))
        every, truth = np.concatenate([np.zeros(0), *lam[1:]]), np.concatenate(hidden)
        lp_zhat, lp_z = _neuron_columns(target, solution.x)
        least = np.minimum(np.minimum((every - nu) * u, -nu * l), 0.0)
        share = every * relu(truth) - nu * truth - least
        slack = -every * (lp_z - relu(lp_zhat))
        lower = float(target.bound(np.ones((1, 1)), fixed([part[None] for part in parts])).value[0])
        spare = float(lam[0] @ x - target.region.minimum(lam[0][None])[0])
        # Below 0 there is only rounding, and the solver's tolerance.
        return cls(lower, x, spare, np.maximum(slack, 0.0), np.maximum(share, 0.0))


def _lambdas(target: Target, nu: list[np.ndarray]) -> list[np.ndarray]:
    """lambda of the input and of each layer, for the target's only row."""
    net = target.condensed.net
    lam = [np.zeros(net.n_inputs), *(np.zeros(size) for size in net.sizes)]
    for part, affine in zip([np.ones(1), *nu[::-1]], [net.output, *net.layers[::-1]], strict=True):
        for source, op in affine.blocks:
            lam[source] = lam[source] + op.transpose_apply(part)
    return lam


def _neuron_columns(target: Target, solution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """zhat and z of all neurons at a solution: behind the inputs, layer after layer."""
    zhat, z, first = [np.zeros(0)], [np.zeros(0)], target.region.dimension
    for kept in target.kept:
        middle, end = first + len(kept), first + 2 * len(kept)
        zhat.append(solution[first:middle])
        z.append(solution[middle:end])
        first = end
    return np.concatenate(zhat), np.concatenate(z)


def _gains(target: Target, neurons: np.ndarray) -> list[float]:
    """How much the LP rises for each of some neurons, counted through all layers, when it alone is exact.

    The least of both its phases: two LPs that differ from the relaxation in the bounds of one column.
    """
    if not len(neurons):
        return []
    row = np.zeros(1, dtype=int)
    unit = objective_unit(target.condensed, row)
    encoded: Encoded = encode_slack(target.condensed, target.region, row, np.zeros(1), unit=unit)
    phases = np.concatenate(encoded.a)
    lp = WarmLP(encoded.program.relax())
    base, gains = _least(lp.run()), []
    for column in phases[neurons].tolist():
        values = []
        for phase in (0.0, 1.0):
            lp.change_column_bounds([column], [phase], [phase])
            values.append(_least(lp.run()))
        lp.change_column_bounds([column], [0.0], [1.0])
        gains.append(max(min(values) - base, 0.0) * unit)
    return gains


def _least(solution: Solution) -> float:
    """An LP's optimum; infinite if no point is left in that phase."""
    if solution.status is Status.INFEASIBLE:
        return math.inf
    if solution.status is not Status.OPTIMAL or solution.objective is None:
        raise SolverError(f"attribute_gap: HiGHS ends an LP with {solution.status.name}. Rescale the network.")
    return solution.objective
