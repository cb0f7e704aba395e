"""Programs to PuLP and back, and PuLP's solvers as a second opinion.

PuLP hands CBC a file with 13 significant digits, reports time limits as "Optimal", and reads an unbounded MIP
from HiGHS as infeasible; here `sol_status` and HiGHS's own status decide, and every point is put into the
exact program.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from milpverify.errors import InputError, OptionError, SolverError
from milpverify.program.checks import SMALLEST_COEFFICIENT
from milpverify.program.export import LOWER_SUFFIX, UPPER_SUFFIX
from milpverify.program.program import Program
from milpverify.program.solver import NO_LIMITS, Floats, Limits, Solution, Solver, Status

if TYPE_CHECKING:
    import pulp

# A point further off than this, relative to its largest entry, answers another program.
_RESIDUAL_LIMIT = 1e-4


def to_pulp(program: Program) -> pulp.LpProblem:
    """The same program in PuLP, exactly.

    PuLP has no rows with two different finite sides: such a row `r` becomes `r.lower` (>=) and `r.upper`
    (<=), which `from_pulp` joins again. The objective lists every column, at cost 0 too: PuLP sorts columns
    by name, and this keeps their order.

    Raises:
        OptionError: If PuLP is not installed.
    """
    pulp = _import_pulp()
    problem = pulp.LpProblem(program.name, pulp.LpMinimize)
    categories = ("Continuous", "Integer")
    columns = [
        problem.add_variable(name, None if low == -math.inf else low, None if up == math.inf else up, categories[whole])
        for name, low, up, whole in zip(
            program.column_names,
            program.column_lower.tolist(),
            program.column_upper.tolist(),
            program.integer.tolist(),
            strict=True,
        )
    ]
    problem.setObjective(
        pulp.LpAffineExpression(list(zip(columns, program.cost.tolist(), strict=True)), constant=program.offset)
    )
    start, index, value = program.row_start.tolist(), program.row_index.tolist(), program.row_value.tolist()
    rows = zip(program.row_names, program.row_lower.tolist(), program.row_upper.tolist(), strict=True)
    for i, (name, low, up) in enumerate(rows):
        terms = [(columns[index[k]], value[k]) for k in range(start[i], start[i + 1])]
        for suffix, sense, side in _pulp_sides(low, up):
            expression = pulp.LpAffineExpression(terms)
            problem.addConstraint(pulp.LpConstraint(expression, sense, name + suffix, side))
    return problem


def _pulp_sides(low: float, up: float) -> list[tuple[str, int, float]]:
    """(suffix of the name, PuLP's sense, right-hand side) of the constraints that stand for one row."""
    if low == up:
        return [("", 0, low)]
    if low == -math.inf:
        return [("", -1, up)]
    if up == math.inf:
        return [("", 1, low)]
    return [(LOWER_SUFFIX, 1, low), (UPPER_SUFFIX, -1, up)]


def from_pulp(problem: pulp.LpProblem) -> Program:
    """The Program of a PuLP problem; `from_pulp(program.to_pulp())` is `program`, to the last bit.

    Raises:
        InputError: If the problem maximises, has special ordered sets, or uses names that Program refuses.
    """
    if problem.sense != 1:
        raise InputError("from_pulp: a minimisation was expected, the problem maximises. Negate its objective.")
    if problem.sos1 or problem.sos2:
        raise InputError(f"from_pulp: '{problem.name}' has special ordered sets. Write them with binaries.")
    constraints = list(problem.constraints())
    objective = problem.objective if problem.objective is not None else {}
    # In order of appearance; variables() is sorted by name, and ends with what appears nowhere.
    ordered = dict.fromkeys([*objective, *(v for c in constraints for v in c), *problem.variables()])
    position = {variable: j for j, variable in enumerate(ordered)}
    rows: list[tuple[str, float, float, dict[int, float]]] = []
    for constraint in constraints:
        terms = {position[v]: float(a) for v, a in constraint.items() if a != 0}
        side = -float(constraint.constant)
        low, up = (
            (side if constraint.sense >= 0 else -math.inf),
            (side if constraint.sense <= 0 else math.inf),
        )
        name = constraint.name
        joined = rows and _joins(rows[-1], name, terms)
        if joined:
            rows[-1] = (name.removesuffix(UPPER_SUFFIX), rows[-1][1], up, terms)
        else:
            rows.append((name, low, up, terms))
    return Program(
        cost=np.array([float(objective.get(v, 0.0)) for v in ordered]),
        offset=float(problem.objective.constant) if problem.objective is not None else 0.0,
        column_lower=np.array([-math.inf if v.lowBound is None else v.lowBound for v in ordered], dtype=float),
        column_upper=np.array([math.inf if v.upBound is None else v.upBound for v in ordered], dtype=float),
        integer=np.array([v.cat == "Integer" for v in ordered], dtype=bool),
        row_start=np.concatenate([[0], np.cumsum([len(row[3]) for row in rows])]).astype(np.int32),
        row_index=np.array([j for row in rows for j in sorted(row[3])], dtype=np.int32),
        row_value=np.array([row[3][j] for row in rows for j in sorted(row[3])], dtype=np.float64),
        row_lower=np.array([row[1] for row in rows], dtype=np.float64),
        row_upper=np.array([row[2] for row in rows], dtype=np.float64),
        column_names=tuple(v.name for v in ordered),
        row_names=tuple(row[0] for row in rows),
        name=problem.name or "program",
    )


def _joins(before: tuple[str, float, float, dict[int, float]], name: str, terms: dict[int, float]) -> bool:
    """Whether this constraint is the upper side of the row whose lower side came just before."""
    if not (name.endswith(UPPER_SUFFIX) and before[0].endswith(LOWER_SUFFIX)):
        return False
    return before[0].removesuffix(LOWER_SUFFIX) == name.removesuffix(UPPER_SUFFIX) and before[3] == terms


@dataclass(frozen=True)
class Cbc(Solver):
    """CBC through PuLP, in a process of its own: the binary that PuLP ships, or the one at `path`.

    CBC tells no dual bound: OPTIMAL gives `objective` less the gap allowed below, everything else -inf.
    Of the limits, only the time is used.

    Args:
        threads: CBC's threads.
        log: Whether CBC prints its log.
        mip_gap_abs: Absolute gap at which CBC stops, or
        mip_gap_rel: gap as a fraction of the objective.
        path: The cbc binary; None for PuLP's own.
    """

    threads: int = 1
    log: bool = False
    mip_gap_abs: float = 1e-7
    mip_gap_rel: float = 1e-9
    path: str | None = None

    def solve(self, program: Program, limits: Limits = NO_LIMITS) -> Solution:
        """Minimise `program`; see `Solver.solve`."""
        limits.check_fit("Cbc.solve", program)
        began, time_limit_s = time.perf_counter(), limits.time_limit_s
        if time_limit_s == 0:
            return _answer(Status.TIME_LIMIT, program, None, 0.0, began)
        status, x = self._run(program, time_limit_s, began, [])
        if status is Status.INFEASIBLE and program.is_mip:
            # CBC 2.10's preprocessing and cuts declare some feasible programs infeasible: ask again without them.
            left = max(0.0, time_limit_s - (time.perf_counter() - began))
            status, x = self._run(program, left, began, ["preprocess off", "cuts off"])
        gap = max(self.mip_gap_abs, self.mip_gap_rel * abs(program.objective(x))) if x is not None else 0.0
        return _answer(status, program, x, gap if program.is_mip else 0.0, began)

    def _run(
        self, program: Program, time_limit_s: float, began: float, options: list[str]
    ) -> tuple[Status, Floats | None]:
        """One CBC process; its status and its best point."""
        pulp = _import_pulp()
        problem = to_pulp(program)
        # COIN_CMD with PuLP's own binary: the class PULP_CBC_CMD is on its way out.
        solver = pulp.COIN_CMD(
            path=self.path or pulp.PULP_CBC_CMD.pulp_cbc_path,
            msg=self.log,
            threads=self.threads,
            gapAbs=self.mip_gap_abs,
            gapRel=self.mip_gap_rel,
            timeLimit=None if time_limit_s == math.inf else time_limit_s,
            options=options,
        )
        if not solver.available():
            raise OptionError(f"Cbc: no cbc binary at '{solver.path}'. Give its path, or reinstall PuLP.")
        with tempfile.TemporaryDirectory(prefix="milpverify-") as folder:
            # PuLP writes into the working directory where TMP is not writable, and leaves files after Ctrl-C.
            solver.tmpDir = folder
            try:
                problem.solve(solver)
            except pulp.PulpError as error:
                raise SolverError(f"Cbc: failed on '{program.name}' ({error}). Turn log on to see why.") from error
        status = _status_of(problem, time.perf_counter() - began >= time_limit_s)
        found = problem.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
        return status, _values(problem, program) if found else None


@dataclass(frozen=True)
class PulpHighs(Solver):
    """HiGHS through PuLP's own interface: the same engine, fed by other code.

    Of the limits, only the time is used.

    Args:
        threads: One number for all HiGHS solves of this process.
        log: Whether HiGHS prints its log.
        mip_gap_abs: Absolute gap at which HiGHS stops, or
        mip_gap_rel: gap as a fraction of the objective.
    """

    threads: int = 1
    log: bool = False
    mip_gap_abs: float = 1e-6
    mip_gap_rel: float = 1e-9

    def solve(self, program: Program, limits: Limits = NO_LIMITS) -> Solution:
        """Minimise `program`; see `Solver.solve`."""
        limits.check_fit("PulpHighs.solve", program)
        began, time_limit_s = time.perf_counter(), limits.time_limit_s
        if time_limit_s == 0:
            return _answer(Status.TIME_LIMIT, program, None, 0.0, began)
        pulp = _import_pulp()
        import highspy

        problem = to_pulp(program)
        solver = pulp.HiGHS(
            msg=self.log,
            threads=self.threads,
            gapAbs=self.mip_gap_abs,
            gapRel=self.mip_gap_rel,
            timeLimit=None if time_limit_s == math.inf else time_limit_s,
            small_matrix_value=SMALLEST_COEFFICIENT,
        )
        try:
            problem.solve(solver)
        except (pulp.PulpError, IndexError, KeyError) as error:
            raise SolverError(f"PulpHighs: failed on '{program.name}' ({error!r}). Solve it with Highs.") from error
        model = problem.solverModel
        ended = model.getModelStatus()
        if ended == highspy.HighsModelStatus.kNotset:
            raise SolverError(
                f"PulpHighs: HiGHS did not run on '{program.name}'. Use the same number of threads in all "
                "solves of a process."
            )
        status = _status_of(problem, ended == highspy.HighsModelStatus.kTimeLimit)
        if status is Status.INFEASIBLE and ended != highspy.HighsModelStatus.kInfeasible:
            status = Status.UNKNOWN
        feasible = model.getInfo().primal_solution_status == 2
        x = _values(problem, program) if feasible and model.getSolution().value_valid else None
        gap = max(self.mip_gap_abs, self.mip_gap_rel * abs(program.objective(x))) if x is not None else 0.0
        return _answer(status, program, x, gap if program.is_mip else 0.0, began)


def _import_pulp() -> ModuleType:
    try:
        import pulp
    except ImportError as error:
        raise OptionError("PuLP is not installed. Run `pip install milpverify[pulp]`.") from error
    module: ModuleType = pulp
    return module


def _status_of(problem: pulp.LpProblem, out_of_time: bool) -> Status:
    """PuLP's `sol_status`, which its `status` corrects; a stop that the time limit does not explain is
    UNKNOWN."""
    known = {1: Status.OPTIMAL, -1: Status.INFEASIBLE, -2: Status.UNBOUNDED}
    if problem.sol_status in known:
        return known[problem.sol_status]
    # CBC's "Integer infeasible" becomes "infeasible, no solution found"; only "Stopped" becomes "not solved".
    if problem.status == -1 and problem.sol_status == 0:
        return Status.INFEASIBLE
    return Status.TIME_LIMIT if out_of_time else Status.UNKNOWN


def _values(problem: pulp.LpProblem, program: Program) -> Floats | None:
    """The point PuLP holds, in the program's order, or None if it is not one of this program."""
    values = {variable.name: variable.varValue for variable in problem.variables()}
    found = [values.get(name) for name in program.column_names]
    if any(value is None for value in found):
        return None
    x = np.array(found, dtype=np.float64)
    return x if program.residual(x) <= _RESIDUAL_LIMIT * max(1.0, float(np.abs(x).max())) else None


def _answer(status: Status, program: Program, x: Floats | None, gap: float, began: float) -> Solution:
    """Fail closed: OPTIMAL needs a point, and only OPTIMAL and INFEASIBLE prove a dual bound."""
    if status is Status.OPTIMAL and x is None:
        status = Status.UNKNOWN
    objective = None if x is None else program.objective(x)
    dual = math.inf if status is Status.INFEASIBLE else -math.inf
    if status is Status.OPTIMAL and objective is not None:
        dual = objective - gap
    return Solution(status, objective, dual, x, None, None, None, 0, time.perf_counter() - began)
