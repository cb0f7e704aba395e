r"""The triangle relaxation of a condensed network as one LP that every node of a search shares.

    minimise s       with   s - C_i y / unit >= -d_i / unit     for the rows of a case,
    zhat - W t = b,    z - zhat >= 0,    z - v zhat <= -v l,    0 <= z <= u,      v = u / (u - l)

A node changes bounds: of zhat and z, and of two rows per neuron. Where it made a neuron active, z = zhat; where
inactive, z = 0; the third row then stands aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from milpverify.bounds.problem import DualProblem
from milpverify.errors import InputError
from milpverify.formulation.ideal_cuts import Neurons
from milpverify.program.cutting import CuttingLP
from milpverify.program.program import Program, ProgramBuilder
from milpverify.spec.regions import L2Ball, Region

FARTHEST = 1e15  # LPs with bounds beyond it are refused
LEAST_SLOPE = 1e-9  # a steeper upper side is valid, and one so flat would be dropped


@dataclass(frozen=True, eq=False)
class LayerColumns:
    """Where one layer stands in the LP.

    Attributes:
        zhat, z: Columns, shape (n,).
        affine, above, below: Rows, shape (n,), of zhat - W t = b, z >= zhat and the triangle's upper side.
    """

    zhat: np.ndarray
    z: np.ndarray
    affine: np.ndarray
    above: np.ndarray
    below: np.ndarray


@dataclass(frozen=True, eq=False)
class NodeProgram:
    """The LP at the root, and the condensed network in numbers.

    Attributes:
        program: The LP, without costs other than s.
        sources: The columns of [x, z_1, ..., z_L].
        layers: Where the layers stand.
        outputs: The rows s - C_i y / unit.
        slack: The column s.
        unit: A power of 2, in units of y.
        W, bias: Per layer over its inputs [x, z_1, ...], the output rows last.
        ends: Where the sources end: x ends at ends[0], z_j at ends[j].
    """

    program: Program
    sources: np.ndarray
    layers: tuple[LayerColumns, ...]
    outputs: np.ndarray
    slack: int
    unit: float
    W: tuple[np.ndarray, ...]
    bias: tuple[np.ndarray, ...]
    ends: np.ndarray

    @classmethod
    def of(cls, problem: DualProblem) -> NodeProgram:
        """The LP of a condensed problem: numpy, dense blocks, its last layer the rows.

        Raises:
            InputError: If the region is no polyhedron, or a number is none that a solver can work with.
        """
        region = problem.region
        if not isinstance(region, Region) or isinstance(region, L2Ball) or problem.is_batch:
            raise InputError(
                f"NodeLp: expected one box, L1 ball or cut region, got {type(region).__name__}. Search it by "
                "multipliers alone."
            )
        if any(np.abs(side).max(initial=0.0) > FARTHEST for side in (*problem.lower, *problem.upper)):
            raise InputError(f"NodeLp: bounds beyond {FARTHEST:g} are none that a solver can work with.")
        sizes = [problem.n_inputs, *(layer.size for layer in problem.layers[:-1])]
        ends = np.cumsum(sizes)
        W = tuple(_dense(problem, k, ends) for k in range(1, len(problem.layers) + 1))
        bias = tuple(np.asarray(layer.bias, dtype=np.float64) for layer in problem.layers)
        largest = float(np.abs(W[-1]).max(initial=0.0))
        unit = 2.0 ** np.floor(np.log2(largest)) if largest > 0 else 1.0
        builder = ProgramBuilder(absorb_tiny=True)
        x = builder.add_columns([f"x{i}" for i in range(problem.n_inputs)], region.lower, region.upper)
        layers: list[LayerColumns] = []
        sources = x
        for j in range(1, len(W)):
            layers.append(_add_layer(builder, problem, j, W[j - 1], sources))
            sources = np.concatenate([sources, layers[-1].z])
        slack = builder.add_columns(["s"], -np.inf, np.inf)
        rows, ones = [f"row{i}" for i in range(len(bias[-1]))], np.ones((len(bias[-1]), 1))
        outputs = builder.add_rows([(slack, ones), (sources, -W[-1] / unit)], bias[-1] / unit, np.inf, rows)
        builder.set_cost(slack, [1.0])
        _add_region(builder, region, x)
        program = builder.build("node")
        return cls(program, sources, tuple(layers), outputs, int(slack[0]), unit, W, bias, ends)

    def neurons(self, j: int) -> Neurons:
        """Layer j's neurons, for cuts."""
        return Neurons.of(self.W[j - 1], self.bias[j - 1])


@dataclass(eq=False)
class NodeState:
    """The LP in HiGHS and the bounds that stand in it: `place` moves it to another node."""

    parts: NodeProgram
    lp: CuttingLP
    lower: list[np.ndarray] = field(default_factory=list)
    upper: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def at_root(cls, parts: NodeProgram, problem: DualProblem) -> NodeState:
        """A fresh LP."""
        lp = CuttingLP(parts.program)
        return cls(parts, lp, [l.copy() for l in problem.lower], [u.copy() for u in problem.upper])

    def place(self, lower: Sequence[np.ndarray], upper: Sequence[np.ndarray]) -> None:
        """Change whatever differs between the node that stands there and this one."""
        for j, (l, u) in enumerate(zip(lower, upper, strict=True)):
            moved = np.flatnonzero((l != self.lower[j]) | (u != self.upper[j]))
            if len(moved):
                self._place_layer(self.parts.layers[j], moved, l[moved], u[moved])
                self.lower[j], self.upper[j] = np.array(l), np.array(u)

    def _place_layer(self, layer: LayerColumns, moved: np.ndarray, l: np.ndarray, u: np.ndarray) -> None:
        low, high = np.minimum(l, 0.0), np.maximum(u, 0.0)  # g knows of a stable neuron's other bound no more than that
        columns = np.concatenate([layer.zhat[moved], layer.z[moved]])
        self.lp.change_column_bounds(columns, np.append(low, np.zeros_like(low)), np.append(high, high))
        free = (l < 0) & (u > 0)
        slope = np.where(free, np.maximum(u / np.where(free, u - l, 1.0), LEAST_SLOPE), 0.0)
        rows = np.concatenate([layer.above[moved], layer.below[moved]])
        lower = np.append(np.zeros_like(low), np.full_like(low, -np.inf))
        upper = np.append(np.where(l >= 0, 0.0, np.inf), np.where(free, -slope * l, np.inf))
        self.lp.change_row_bounds(rows, lower, upper)
        some = moved[free]
        self.lp.change_coefficients(layer.below[some], layer.zhat[some], -slope[free])

    def aim(self, rows: np.ndarray, d: np.ndarray) -> None:
        """Make some rows the case whose largest y_i - d_i is minimised."""
        parts = self.parts
        lower = np.full(len(parts.outputs), -np.inf)
        lower[rows] = (parts.bias[-1][rows] - d) / parts.unit
        self.lp.change_row_bounds(parts.outputs, lower, np.inf)


def _dense(problem: DualProblem, k: int, ends: np.ndarray) -> np.ndarray:
    layer = problem.affine(k)
    W = np.zeros((layer.size, int(ends[k - 1])))
    for source, op in layer.blocks:
        start = int(ends[source - 1]) if source else 0
        W[:, start : int(ends[source])] = op.rows(np.arange(layer.size))
    return W


def _add_layer(
    builder: ProgramBuilder, problem: DualProblem, j: int, W: np.ndarray, sources: np.ndarray
) -> LayerColumns:
    """The columns and rows of layer j at the root, where every neuron is unstable."""
    l, u, bias = problem.lower[j - 1], problem.upper[j - 1], problem.affine(j).bias
    slack = problem.slack[j - 1] if problem.slack else np.zeros(len(l))
    labels, unit, slope = [f"{j}_{i}" for i in range(len(l))], np.eye(len(l)), u / (u - l)
    zhat = builder.add_columns([f"zhat{label}" for label in labels], l, u)
    z = builder.add_columns([f"z{label}" for label in labels], 0.0, u)
    names = [f"affine{label}" for label in labels]
    affine = builder.add_rows([(zhat, unit), (sources, -W)], bias - slack, bias + slack, names)
    above = builder.add_rows([(z, unit), (zhat, -unit)], 0.0, np.inf, [f"above{label}" for label in labels])
    names = [f"below{label}" for label in labels]
    below = builder.add_rows([(z, unit), (zhat, -unit * slope)], -np.inf, -slope * l, names)
    return LayerColumns(zhat, z, affine, above, below)


def _add_region(builder: ProgramBuilder, region: Region, x: np.ndarray) -> None:
    extra = region.linear_rows()
    if extra.n_rows:
        auxiliary = builder.add_columns(extra.aux_names, extra.aux_lower, extra.aux_upper)
        matrix = (np.concatenate([x, auxiliary]), (extra.rows, extra.cols, extra.vals))
        builder.add_rows([matrix], extra.row_lower, extra.row_upper, extra.row_names)
