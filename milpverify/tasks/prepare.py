"""What every task does first: bound a region once, for all cases in it, and see what the bounds alone decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from milpverify.bounds.dual import DualProblem
from milpverify.bounds.method import BoundMethod, Crown, FastLin, compute_bounds
from milpverify.errors import PropertyError
from milpverify.formulation.encode import Encoded, encode_slack, objective_unit
from milpverify.formulation.property_program import StackedRows, stack_rows
from milpverify.formulation.relu import ReLUEncoding
from milpverify.network.graph import Bounds, Network
from milpverify.spec.property import Case, Property
from milpverify.spec.regions import Region


@dataclass(frozen=True, eq=False)
class Prepared:
    """A region's bounds, shared by its cases.

    Attributes:
        net: The network.
        cases: All over one region.
        bounds: Of the hidden neurons.
        lower: Per case a lower bound of its least slack (rounded); > 0 proves that the case holds.
        starts: Inputs where the bounds think the rows smallest, shape (rows, n_inputs): good places to attack from.
    """

    net: Network
    cases: tuple[Case, ...]
    bounds: Bounds
    lower: np.ndarray
    starts: np.ndarray

    @property
    def region(self) -> Region:
        """The region of all cases."""
        return self.cases[0].region

    @property
    def n_unstable(self) -> int:
        """Unstable neurons in all layers."""
        return sum(self.bounds.n_unstable)

    @cached_property
    def stacked(self) -> StackedRows:
        """The condensed network with all rows of all cases."""
        return stack_rows(self.net, self.bounds, self.cases)

    def encode(self, i: int, encoding: ReLUEncoding) -> Encoded:
        """The program that minimises the slack of case i."""
        members = self.stacked.members[i]
        small, d = self.stacked.condensed, self.stacked.d[members]
        return encode_slack(small, self.region, members, d, encoding, objective_unit(small, members))


def prepare(net: Network, cases: Sequence[Case], method: BoundMethod | None = None) -> Prepared:
    """Bound one region for its cases.

    The rows are bounded with the slopes of CROWN and of Fast-Lin; the better one counts.

    Args:
        net: The network.
        cases: All over one region.
        method: Bounds of the hidden neurons; `Crown()` when None.
    """
    region = cases[0].region
    bounds = compute_bounds(net, region, method)
    counts = [len(case.unsafe.d) for case in cases]
    rows = np.concatenate([case.unsafe.C for case in cases])
    if not len(rows):
        return Prepared(net, tuple(cases), bounds, np.full(len(cases), -np.inf), np.zeros((0, net.n_inputs)))
    problem = DualProblem.of(net, region, bounds)
    found = [slopes.rows(problem, rows) for slopes in (Crown(), FastLin())]
    value = np.nextafter(np.maximum(*(f.value for f in found)) - np.concatenate([c.unsafe.d for c in cases]), -np.inf)
    ends = np.cumsum([0, *counts])
    lower = [value[a:b].max(initial=-np.inf) for a, b in pairwise(ends)]
    starts = np.concatenate([np.asarray(region.minimiser(f.input_lam)) for f in found])
    return Prepared(net, tuple(cases), bounds, np.array(lower), starts)


def check_fit(who: str, net: Network, prop: Property) -> None:
    """Refuse a property made for another network.

    Raises:
        PropertyError: If the numbers of inputs or outputs differ.
    """
    if (prop.n_inputs, prop.n_outputs) != (net.n_inputs, net.n_outputs):
        raise PropertyError(
            f"{who}: the property is about {prop.n_inputs} inputs and {prop.n_outputs} outputs, the network has "
            f"{net.n_inputs} and {net.n_outputs}. Check that they belong together."
        )
