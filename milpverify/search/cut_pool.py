"""Ideal cuts in an LP that the nodes of a search share, and in a big-M program before a MIP solver gets it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from milpverify.bounds.problem import DualProblem
from milpverify.formulation.encode import Encoded
from milpverify.formulation.ideal_cuts import Box, IdealCuts, Neurons, right_sides, with_phases, without_phases
from milpverify.program.cutting import CuttingLP
from milpverify.program.program import Program
from milpverify.program.solver import Status
from milpverify.search.node_claim import CutDuals
from milpverify.search.node_program import NodeProgram

NEAR = 1e-4  # rows with more room than that share of their terms are not handed on

Blocks = list[tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]]


@dataclass(eq=False)
class _LayerPool:
    """Cuts of one layer: neurons, slopes (q, r), their rows in the LP, solves since one bound; (q,)."""

    neurons: np.ndarray
    slopes: np.ndarray
    rows: np.ndarray
    idle: np.ndarray

    @classmethod
    def empty(cls, neurons: Neurons) -> _LayerPool:
        """No cuts yet."""
        none = np.zeros(0, dtype=np.int64)
        return cls(none, np.zeros((0, neurons.weights.shape[1])), none, none)


class CutPool:
    """The cuts (without phases) that stand in one LP; right-hand sides follow the node."""

    def __init__(self, parts: NodeProgram, neurons: Sequence[Neurons]) -> None:
        self._parts, self._neurons = parts, neurons
        self._layers = [_LayerPool.empty(part) for part in neurons]

    def __len__(self) -> int:
        return sum(len(layer.rows) for layer in self._layers)

    def place(self, lp: CuttingLP, node: DualProblem) -> None:
        """Give every cut the right-hand side of a node; cuts of neurons that are stable there stand aside."""
        for j, layer in enumerate(self._layers):
            if len(layer.rows):
                off, on = right_sides(self._neurons[j][layer.neurons], layer.slopes, _box(node, j))
                free = (node.lower[j] < 0) & (node.upper[j] > 0)
                upper = np.where(free[layer.neurons], np.maximum(off, on), np.inf)
                lp.change_row_bounds(layer.rows, -np.inf, upper)

    def separate(self, lp: CuttingLP, node: DualProblem, x: np.ndarray, least: float, layers: int | None) -> int:
        """Add the rows that a solution of the LP violates, and say how many.

        Args:
            lp: The LP.
            node: Whose bounds the rows are for.
            x: The solution.
            least: The least violation, next to the neuron's upper bound.
            layers: Only the first so many; all when None.
        """
        return sum(self._separate_layer(lp, node, j, x, least) for j in range(len(self._layers[:layers])))

    def _separate_layer(self, lp: CuttingLP, node: DualProblem, j: int, x: np.ndarray, least: float) -> int:
        parts, layer, box = self._parts, self._layers[j], _box(node, j)
        free = np.flatnonzero((node.lower[j] < 0) & (node.upper[j] > 0))
        neurons, place, t = self._neurons[j][free], parts.layers[j], x[parts.sources[: parts.ends[j]]]
        found = without_phases(neurons, box, t, x[place.z[free]])
        found = found[found.violation > least * node.upper[j][free][found.neurons]]
        if not len(found):
            return 0
        mine, first = free[found.neurons], lp.n_rows
        lp.add_rows(_row_blocks(found, neurons, parts.sources, place.z[mine]), -np.inf, found.right, len(found))
        layer.neurons, layer.slopes = np.append(layer.neurons, mine), np.concatenate([layer.slopes, found.slopes])
        layer.rows = np.append(layer.rows, np.arange(first, first + len(found)))
        layer.idle = np.append(layer.idle, np.zeros(len(found), dtype=np.int64))
        return len(found)

    def duals(self, y: np.ndarray, scale: float) -> tuple[CutDuals | None, ...]:
        """What the cuts add to a dual solution, per layer; duals are multiplied by `scale`."""
        return tuple(self._layer_duals(layer, y, scale) for layer in self._layers)

    def _layer_duals(self, layer: _LayerPool, y: np.ndarray, scale: float) -> CutDuals | None:
        mine = np.minimum(y[layer.rows], 0.0) * scale
        used = np.flatnonzero(mine)
        if not len(used):
            return None
        neurons, place = np.unique(layer.neurons[used], return_inverse=True)
        weight = np.bincount(place, weights=mine[used], minlength=len(neurons))
        kappa = np.zeros((len(neurons), layer.slopes.shape[1]))
        np.add.at(kappa, place, mine[used, None] * layer.slopes[used])
        return CutDuals(neurons, weight, kappa)

    def retire(self, lp: CuttingLP, y: np.ndarray, most: int) -> None:
        """Count the solves since each cut bound; beyond `most` rows, half of them go, the longest idle ones."""
        for layer in self._layers:
            layer.idle = np.where(y[layer.rows] != 0, 0, layer.idle + 1)
        if len(self) <= most:
            return
        rows = np.concatenate([layer.rows for layer in self._layers])
        idle = np.concatenate([layer.idle for layer in self._layers])
        order = np.argsort(-idle, kind="stable")[: len(self) - most // 2]
        gone = lp.delete_rows(rows[order[idle[order] > 0]])
        for layer in self._layers:
            kept = ~np.isin(layer.rows, gone)
            layer.neurons, layer.slopes, layer.idle = layer.neurons[kept], layer.slopes[kept], layer.idle[kept]
            layer.rows = layer.rows[kept] - np.searchsorted(gone, layer.rows[kept])


def _box(node: DualProblem, j: int) -> Box:
    """The box of what layer j + 1 reads: the region's, and relu of the bounds below."""
    sides = [node.source_box(source) for source in range(j + 1)]
    return Box(np.concatenate([low for low, _ in sides]), np.concatenate([high for _, high in sides]))


def _row_blocks(found: IdealCuts, neurons: Neurons, sources: np.ndarray, z: np.ndarray) -> Blocks:
    """The left-hand sides z - g.t of some cuts, over a program's columns."""
    rows, entries = np.nonzero(found.slopes)
    columns = neurons.columns[found.neurons[rows], entries]
    each = np.arange(len(found))
    own, place = np.unique(z, return_inverse=True)
    return [(sources, (rows, columns, -found.slopes[rows, entries])), (own, (each, place, np.ones(len(found))))]


@dataclass(frozen=True)
class Strengthening:
    """How a big-M program gets its ideal rows.

    Attributes:
        rounds: Of separation.
        stall: Stop once two rounds gain less than that share of all that was gained.
        violation: Least violation of a row, in units of its neuron's upper bound.
        time_limit_s: Wall time.
    """

    rounds: int = 60
    stall: float = 0.01
    violation: float = 1e-4
    time_limit_s: float = math.inf


@dataclass(frozen=True, eq=False)
class Strengthened:
    """A program with ideal rows, and what its relaxation was worth before and after. Floating."""

    encoded: Encoded
    before: float
    after: float
    rows: int
    rounds: int
    seconds: float


def strengthened(encoded: Encoded, how: Strengthening | None = None) -> Strengthened:
    """A big-M program with the ideal inequalities that its LP relaxation violates as further rows. Valid.

    Only rows that bind at the end, or nearly do, are kept.

    Raises:
        SolverError: If HiGHS fails.
    """
    how = how or Strengthening()
    began = time.monotonic()
    neurons = _program_neurons(encoded)
    lp = CuttingLP(encoded.program.relax())
    parts: list[_Rows] = []
    values: list[float] = []
    last: np.ndarray | None = None
    for _ in range(how.rounds + 1):
        solution = lp.run(max(0.0, began + how.time_limit_s - time.monotonic()))
        if solution.status is not Status.OPTIMAL or solution.x is None:
            break
        values.append((solution.objective or 0.0) * encoded.unit)
        last = solution.x
        if len(values) > 3 and values[-1] - values[-3] <= how.stall * (values[-1] - values[0]):
            break
        if len(values) > how.rounds:
            break
        found = _violated(encoded, neurons, solution.x, how.violation)
        if not found:
            break
        for rows in found:
            lp.add_rows(rows.blocks, -np.inf, rows.right, len(rows.right))
        parts += found
    if last is not None:
        parts = [rows.near(last) for rows in parts]
    program = _with_all(encoded.program, [rows for rows in parts if len(rows.right)])
    before, after = (values[0], values[-1]) if values else (-math.inf, -math.inf)
    count = program.n_rows - encoded.program.n_rows
    seconds = time.monotonic() - began
    return Strengthened(replace(encoded, program=program), before, after, count, max(0, len(values) - 1), seconds)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows over a program's columns."""

    blocks: Blocks
    right: np.ndarray

    def near(self, x: np.ndarray) -> _Rows:
        """Those that hold with next to no room at a point."""
        activity = np.zeros(len(self.right))
        size = np.abs(self.right)
        for columns, (rows, cols, values) in self.blocks:
            terms = values * x[columns[cols]]
            np.add.at(activity, rows, terms)
            np.add.at(size, rows, np.abs(terms))
        kept = activity >= self.right - NEAR * size
        place = np.cumsum(kept) - 1
        blocks = [
            (columns, (place[rows[kept[rows]]], cols[kept[rows]], values[kept[rows]]))
            for columns, (rows, cols, values) in self.blocks
        ]
        return _Rows(blocks, self.right[kept])


def _program_neurons(encoded: Encoded) -> list[Neurons]:
    """The neurons of every layer over a program's columns [x, z_1, ...]."""
    net, errors = encoded.condensed.net, encoded.condensed.errors
    sizes = np.cumsum([len(encoded.x), *map(len, encoded.z)])
    neurons = []
    for j, layer in enumerate(net.layers):
        W = np.zeros((layer.size, int(sizes[j])))
        for source, op in layer.blocks:
            start = int(sizes[source - 1]) if source else 0
            W[:, start : int(sizes[source])] = op.rows(np.arange(layer.size))
        neurons.append(Neurons.of(W, layer.bias, errors[j]))
    return neurons


def _violated(encoded: Encoded, neurons: Sequence[Neurons], x: np.ndarray, least: float) -> list[_Rows]:
    program = encoded.program
    sources, found = encoded.x, []
    for part, z, a in zip(neurons, encoded.z, encoded.a, strict=True):
        if len(z):
            box = Box(program.column_lower[sources], program.column_upper[sources])
            cuts = with_phases(part, box, x[sources], x[z], x[a])
            cuts = cuts[cuts.violation > least * program.column_upper[z][cuts.neurons]]
            if len(cuts):
                each = np.arange(len(cuts))
                phase = (a[cuts.neurons], (each, each, -cuts.phase))
                found.append(_Rows([*_row_blocks(cuts, part, sources, z[cuts.neurons]), phase], cuts.right))
        sources = np.concatenate([sources, z])
    return found


def _with_all(program: Program, parts: Sequence[_Rows]) -> Program:
    count = program.n_rows
    for rows in parts:
        names = [f"ideal{count + i}" for i in range(len(rows.right))]
        program = program.with_rows(rows.blocks, -np.inf, rows.right, names)
        count = program.n_rows
    return program
