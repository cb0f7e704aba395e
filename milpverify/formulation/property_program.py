"""A whole property as one program: what `export` writes and what a second solver is given."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from milpverify.bounds.dual import DualProblem
from milpverify.bounds.method import bound_rows, compute_bounds
from milpverify.errors import PropertyError
from milpverify.formulation.encode import add_network, at_points, encode_slack, row_names, slack_rows
from milpverify.formulation.relu import ReLUEncoding
from milpverify.network.condense import Condensed, condense
from milpverify.network.graph import Bounds, Network
from milpverify.program.program import Program, ProgramBuilder
from milpverify.spec.property import Case, Property
from milpverify.spec.regions import Region


@dataclass(frozen=True, eq=False)
class StackedRows:
    """The rows of several cases as the outputs of one condensed network.

    Attributes:
        condensed: Outputs are all rows of all cases, in order.
        d: Their right-hand sides.
        members: Per case the indices of its rows.
    """

    condensed: Condensed
    d: np.ndarray
    members: tuple[np.ndarray, ...]


def stack_rows(net: Network, bounds: Bounds, cases: tuple[Case, ...]) -> StackedRows:
    """Condense a network with the rows of `cases` (of one region) as its outputs, its errors included."""
    problem = DualProblem.of(net, cases[0].region, bounds)
    allowances = [problem.allowance(k) for k in range(1, len(net.layers) + 2)]
    ends = np.cumsum([0, *(len(case.unsafe.d) for case in cases)])
    members = tuple(np.arange(a, b) for a, b in pairwise(ends))
    rows = np.concatenate([case.unsafe.C for case in cases])
    d = np.concatenate([case.unsafe.d for case in cases])
    return StackedRows(condense(net, bounds, rows, allowances), d, members)


def big_m(net: Network, prop: Property, bounds: Bounds | None = None, encoding: ReLUEncoding | None = None) -> Program:
    """The big-M program whose optimum is the least slack of a property over its region; `.relax()` is the triangle LP.

    The unsafe set is reached iff the optimum is <= 0 (up to the solver's tolerances). Several cases of one region
    become one program: binaries pick1, pick2, ... choose the case whose rows must be small.

    Args:
        net: The network.
        prop: Cases that share one region.
        bounds: Proven bounds over that region; computed by CROWN when None.
        encoding: Defaults to `BigM()`.

    Raises:
        PropertyError: If the cases have different regions, or one has no rows.

    Source:
        Tjeng, Xiao & Tedrake 2019, section 4; Ehlers 2017 (the relaxation).
    """
    region = prop.cases[0].region
    if any(case.region is not region for case in prop.cases):
        raise PropertyError(
            f"big_m: the {len(prop.cases)} cases have different input regions, which are different programs. "
            "Build one per group: Property(group, ...) for group in prop.groups()."
        )
    if any(not len(case.unsafe.d) for case in prop.cases):
        raise PropertyError("big_m: a case without output constraints holds everywhere; there is nothing to minimise.")
    bounds = bounds or compute_bounds(net, region)
    stacked = stack_rows(net, bounds, prop.cases)
    if len(prop.cases) == 1:
        return encode_slack(stacked.condensed, region, stacked.members[0], stacked.d, encoding).program
    return _disjunction(net, region, bounds, stacked, prop.cases, encoding)


def _disjunction(
    net: Network,
    region: Region,
    bounds: Bounds,
    stacked: StackedRows,
    cases: tuple[Case, ...],
    encoding: ReLUEncoding | None,
) -> Program:
    """min over cases of max over rows: one binary per case, with proven bounds of the rows as its big-M.

    slack >= y_i - d_i - (high_i - least) (1 - pick): a row of a case not picked asks for no more than `least`, which
    no slack is below.
    """
    rows = np.concatenate([case.unsafe.C for case in cases])
    low = bound_rows(net, region, bounds, rows).value - stacked.d
    high = -bound_rows(net, region, bounds, -rows).value - stacked.d
    least = min(low[member].max() for member in stacked.members)
    big = high - least
    builder = ProgramBuilder(absorb_tiny=True)
    small, lower, upper = at_points(stacked.condensed, region)
    columns = add_network(builder, small, region, lower, upper, encoding)
    slack = builder.add_columns(["slack"], least, np.inf)
    picks = builder.add_columns([f"pick{i + 1}" for i in range(len(cases))], 0.0, 1.0, integer=True)
    chosen = np.zeros((len(big), len(cases)))
    for case, member in enumerate(stacked.members):
        chosen[member, case] = -big[member]
    output, index = small.net.output, np.arange(len(big))
    terms = [*slack_rows(columns, output, index, slack), (picks, chosen)]
    right = output.bias - stacked.d - big - small.errors[-1]
    builder.add_rows(terms, right, np.inf, row_names(index))
    builder.add_rows([(picks, np.ones((1, len(cases))))], 1.0, 1.0, ["one_case"])
    builder.set_cost(slack, [1.0])
    return builder.build("slack")
