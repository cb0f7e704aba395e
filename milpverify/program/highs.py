"""HiGHS, fed by sparse arrays: MIPs and LPs once (`Highs`), or one LP many times (`WarmLP`)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import highspy
import numpy as np
from numpy.typing import ArrayLike

from milpverify.errors import InputError, OptionError
from milpverify.program.checks import LARGEST_FINITE, SMALLEST_COEFFICIENT
from milpverify.program.highs_calls import Watch, accept, lp_solution, mip_solution, pass_program, run, set_option
from milpverify.program.program import Program
from milpverify.program.solver import (
    NO_LIMITS,
    Floats,
    Limits,
    MipProgress,
    ProgressCallback,
    Solution,
    Solver,
    Status,
)

__all__ = ["Highs", "Limits", "MipProgress", "ProgressCallback", "Solution", "Solver", "Status", "WarmLP"]


@dataclass(frozen=True)
class Highs(Solver):
    """HiGHS: branch and cut for a MIP, dual simplex for an LP.

    On an LP only the time limit is used: without it, it is solved to the end.

    Args:
        threads: Number of threads, one number for all solves that run in this process at the same time.
        seed: Random seed.
        log: Whether HiGHS prints its log.
        presolve: Whether HiGHS presolves.
        feasibility_tolerance: Absolute violation of rows and bounds that passes for none. A smaller one makes
            big-M models less, not more, reliable.
        integrality_tolerance: The same for integer columns (and for rows within a MIP).
        mip_gap_abs: A MIP is OPTIMAL once objective - dual_bound is at most this, or
        mip_gap_rel: at most this fraction of the objective.
        ray: Whether an infeasible LP gives its Farkas ray; turns presolve off for LPs.
    """

    threads: int = 1
    seed: int = 0
    log: bool = False
    presolve: bool = True
    feasibility_tolerance: float = 1e-7
    integrality_tolerance: float = 1e-6
    mip_gap_abs: float = 1e-6
    mip_gap_rel: float = 1e-9
    ray: bool = False

    def solve(self, program: Program, limits: Limits = NO_LIMITS) -> Solution:
        """Minimise `program`; see `Solver.solve`. Ctrl-C stops HiGHS and raises KeyboardInterrupt."""
        limits.check_fit("Highs.solve", program)
        began = time.perf_counter()
        model = highspy.Highs()
        presolve = self.presolve and not (self.ray and not program.is_mip)
        self._configure(model, presolve)
        set_option(model, "time_limit", float(limits.time_limit_s))
        cutoff = limits.cutoff if program.is_mip and limits.cutoff != math.inf else None
        if cutoff is not None:
            set_option(model, "objective_bound", float(cutoff))
        if limits.target is not None and program.is_mip:
            set_option(model, "objective_target", float(limits.target))
        if not program.is_mip:
            set_option(model, "solver", "simplex")
        pass_program(model, program)
        if limits.incumbent is not None and program.is_mip:
            start = highspy.HighsSolution()
            rounded = np.where(program.integer, np.rint(limits.incumbent), limits.incumbent)
            start.col_value = np.clip(rounded, program.column_lower, program.column_upper).tolist()
            start.value_valid = True
            accept(model.setSolution(start), "setSolution", program.name)
        run(model, program.name, Watch(limits.on_progress, cutoff))
        if program.is_mip:
            return mip_solution(model, cutoff, time.perf_counter() - began)
        return lp_solution(model, program.row_lower, program.row_upper, self.ray, time.perf_counter() - began)

    def _configure(self, model: highspy.Highs, presolve: bool) -> None:
        set_option(model, "output_flag", self.log)
        set_option(model, "threads", self.threads)
        set_option(model, "random_seed", self.seed)
        set_option(model, "presolve", "on" if presolve else "off")
        # HiGHS drops what is at most this, and Program admits only what is above.
        set_option(model, "small_matrix_value", SMALLEST_COEFFICIENT)
        set_option(model, "primal_feasibility_tolerance", self.feasibility_tolerance)
        set_option(model, "mip_feasibility_tolerance", self.integrality_tolerance)
        set_option(model, "mip_abs_gap", self.mip_gap_abs)
        set_option(model, "mip_rel_gap", self.mip_gap_rel)


class WarmLP:
    """An LP held open in HiGHS: change costs or bounds, run again from the last basis.

    Dual simplex without presolve.

    Args:
        program: The LP.
        options: Solver options; `presolve` and `ray` are not read (off, and always on).

    Raises:
        InputError: If the program has integer columns.
        SolverError: If HiGHS refuses the program or an option.
    """

    def __init__(self, program: Program, options: Highs | None = None) -> None:
        if program.is_mip:
            raise InputError(f"WarmLP: '{program.name}' has integer columns. Pass program.relax().")
        self._name, self._columns = program.name, program.n_columns
        self._row_lower, self._row_upper = program.row_lower, program.row_upper
        self._model = highspy.Highs()
        (options or Highs())._configure(self._model, presolve=False)
        set_option(self._model, "solver", "simplex")
        # 1: dual simplex, the one that stays feasible when bounds change.
        set_option(self._model, "simplex_strategy", 1)
        pass_program(self._model, program)

    def change_cost(self, indices: ArrayLike, values: ArrayLike) -> None:
        """Set the costs of some columns."""
        positions = self._positions("change_cost", indices)
        costs = self._numbers("change_cost", values, len(positions))
        if not (np.abs(costs) < LARGEST_FINITE).all():
            raise InputError("WarmLP.change_cost: costs must be finite and below 1e20. Check the objective.")
        accept(self._model.changeColsCost(len(positions), positions, costs), "changeColsCost", self._name)

    def change_offset(self, offset: float) -> None:
        """Set the constant of the objective."""
        if not abs(offset) < LARGEST_FINITE:
            raise InputError(f"WarmLP.change_offset: the offset must be finite, got {offset}. Check the objective.")
        accept(self._model.changeObjectiveOffset(float(offset)), "changeObjectiveOffset", self._name)

    def change_column_bounds(self, indices: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> None:
        """Set the bounds of some columns."""
        positions = self._positions("change_column_bounds", indices)
        low = self._numbers("change_column_bounds", lower, len(positions))
        up = self._numbers("change_column_bounds", upper, len(positions))
        readable = (np.abs(low) < LARGEST_FINITE) | (low == -np.inf)
        readable &= (np.abs(up) < LARGEST_FINITE) | (up == np.inf)
        if not (readable & (low <= up)).all():
            raise InputError(
                "WarmLP.change_column_bounds: lower <= upper must hold, each finite below 1e20 or infinite "
                "outward. An empty box needs no LP."
            )
        accept(self._model.changeColsBounds(len(positions), positions, low, up), "changeColsBounds", self._name)

    def run(self, time_limit_s: float = math.inf) -> Solution:
        """Minimise what now stands; an infeasible LP gives its Farkas ray.

        Args:
            time_limit_s: Wall time of this run alone.

        Raises:
            OptionError: If the time limit is negative or NaN.
            SolverError: If HiGHS fails.
        """
        if not time_limit_s >= 0:
            raise OptionError(f"WarmLP.run: time_limit_s must be at least 0, got {time_limit_s}. Give seconds.")
        began = time.perf_counter()
        # HiGHS counts the time of all runs of one object.
        set_option(self._model, "time_limit", self._model.getRunTime() + float(time_limit_s))
        run(self._model, self._name, Watch(None, None))
        return lp_solution(self._model, self._row_lower, self._row_upper, True, time.perf_counter() - began)

    def _positions(self, who: str, indices: ArrayLike) -> np.ndarray:
        positions = np.atleast_1d(np.asarray(indices, dtype=np.int32))
        if len(positions) and (positions.min() < 0 or positions.max() >= self._columns):
            raise InputError(f"WarmLP.{who}: indices must lie in 0..{self._columns - 1}. Correct the indices.")
        if len(np.unique(positions)) != len(positions):
            raise InputError(f"WarmLP.{who}: a column is named twice. Name each once.")
        return positions

    def _numbers(self, who: str, values: ArrayLike, count: int) -> Floats:
        numbers = np.asarray(values, dtype=np.float64)
        if numbers.shape not in ((), (1,), (count,)):
            raise InputError(f"WarmLP.{who}: expected {count} values, got shape {numbers.shape}. Pass one per index.")
        return np.array(np.broadcast_to(numbers, (count,)))
