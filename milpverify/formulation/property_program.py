"""A whole property as one program, as `export` writes it, and the program of a distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from milpverify.bounds.compute import bound_rows, compute_bounds
from milpverify.bounds.problem import DualProblem
from milpverify.errors import PropertyError
from milpverify.formulation.encode import (
    Encoded,
    Frame,
    Scaled,
    add_network,
    encode_slack,
    helper_frame,
    objective_unit,
    row_error,
    row_names,
    slack_rows,
)
from milpverify.formulation.relu import ReLUEncoding
from milpverify.network.condense import Condensed, condense
from milpverify.network.graph import Bounds, Network
from milpverify.program.program import Program, ProgramBuilder
from milpverify.spec.property import Case, Property
from milpverify.spec.regions import Box, L1Ball, LinfBall, Region


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
    scaled = Scaled.of(stacked.condensed, region, np.arange(len(rows)))
    small, columns = scaled.condensed, add_network(builder, scaled, region, encoding)
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


def encode_distance(
    condensed: Condensed,
    ball: LinfBall | L1Ball,
    rows: Sequence[int] | np.ndarray,
    d: np.ndarray,
    inside: float = 0.0,
    encoding: ReLUEncoding | None = None,
) -> Encoded:
    """Minimise the distance from the ball's centre to a point of the ball with y_i <= d_i for all i.

    Args:
        condensed: Outputs are the rows of unsafe polyhedra; its bounds hold in the ball.
        ball: Gives centre, norm, clip and the largest distance of interest.
        rows, d: As in `encode_slack`.
        inside: How far inside the unsafe set polished solutions must lie, in units of y.
        encoding: Defaults to `BigM()`.

    Source:
        Tjeng, Xiao & Tedrake 2019, eq. 3 to 7.
    """
    index, d = np.asarray(rows, dtype=int), np.asarray(d, dtype=np.float64)
    builder = ProgramBuilder(absorb_tiny=True)
    # The ball's own rows follow with its radius as a column: here its box and cuts are enough.
    hull = Box(ball.lower, ball.upper, cuts=ball.cuts)
    unit = objective_unit(condensed, index)
    scaled = Scaled.of(condensed, hull, index, unit, alike=True)
    small, columns = scaled.condensed, add_network(builder, scaled, hull, encoding)
    eps, eps_unit = _add_distance(builder, ball, columns.x, scaled.frame)
    blocks = [(column, matrix / unit) for column, matrix in columns.blocks(small.net.output, index)]
    error = row_error(small, index, d)
    right = (d - small.net.output.bias[index] + error) / unit
    unsafe = builder.add_rows(blocks, -np.inf, right, [f"unsafe{i}" for i in range(len(index))])
    builder.set_cost(eps, [1.0])
    program = builder.build("distance")
    # What the rows give way by is no room for witnesses.
    inside = (inside + 2.0 * float(error.max(initial=0.0))) / unit
    return Encoded(program, small, index, d, columns.x, columns.z, columns.a, unsafe, scaled.frame, inside, eps_unit)


def _add_distance(
    builder: ProgramBuilder, ball: LinfBall | L1Ball, x: np.ndarray, frame: Frame
) -> tuple[np.ndarray, float]:
    """The column eps >= |x - centre|, and what it counts in."""
    n, radius = len(x), np.array([float(ball.eps)])
    eye, centre, inf = np.eye(n), np.asarray(ball.center), np.full(n, np.inf)
    names = [*(f"below{i}" for i in range(n)), *(f"over{i}" for i in range(n))]
    low, high = np.concatenate([-inf, centre]), np.concatenate([centre, inf])
    own = Frame(np.zeros(1), helper_frame(frame, np.zeros(1), radius).unit)
    columns, whole = [x], frame
    if isinstance(ball, LinfBall):
        matrix = np.block([[eye, -np.ones((n, 1))], [eye, np.ones((n, 1))]])
    else:
        none, most = np.zeros(n), np.full(n, radius[0])
        gaps = helper_frame(frame, none, most)
        columns.append(builder.add_columns(gaps.names([f"s{i}" for i in range(n)]), *gaps.bounds(none, most)))
        whole = frame.then(gaps)
        matrix = np.block([[eye, -eye, np.zeros((n, 1))], [eye, eye, np.zeros((n, 1))]])
        matrix = np.vstack([matrix, np.concatenate([none, np.ones(n), [-1.0]])])
        names, low, high = [*names, "norm"], np.append(low, -np.inf), np.append(high, 0.0)
    eps = builder.add_columns(own.names(["eps"]), 0.0, own.bounds(radius, radius)[1])
    rows, cols = np.nonzero(matrix)
    triplets, low, high = whole.then(own).rows((rows, cols, matrix[rows, cols]), low, high)
    builder.add_rows([(np.concatenate([*columns, eps]), triplets)], low, high, names)
    return eps, float(own.unit[0])
