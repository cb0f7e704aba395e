"""The calls into HiGHS: every returned status is read, and an answer believed no further than it holds.

What its documentation does not say, and this file is built around (highspy 1.15):
- With a cut-off (`objective_bound`), HiGHS may call a point "optimal" that is not, as long as it is not below
  the cut-off, and its dual bound then exceeds the true minimum: such answers become CUTOFF, and no dual bound
  is reported above the cut-off.
- The log and the options fail silently unless the returned status is read; coefficients below
  `small_matrix_value` vanish with a warning; `time_limit` counts all LP runs of one object together;
  `threads` is one number per process.
- A starting point within tolerance of integrality is accepted as it is, and then beats the true optimum: its
  integer columns are rounded here, and HiGHS completes the rest.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from types import FrameType
from typing import Any

import highspy
import numpy as np

from milpverify.errors import OptionError, SolverError
from milpverify.program.program import Program
from milpverify.program.solver import Floats, MipProgress, ProgressCallback, Solution, Status

# Callbacks come thousands of times a second; the user's function need not.
_PROGRESS_EVERY_S = 0.05
_ModelStatus = highspy.HighsModelStatus
_STATUS = {
    _ModelStatus.kOptimal: Status.OPTIMAL,
    _ModelStatus.kInfeasible: Status.INFEASIBLE,
    _ModelStatus.kUnbounded: Status.UNBOUNDED,
    _ModelStatus.kObjectiveBound: Status.CUTOFF,
    _ModelStatus.kObjectiveTarget: Status.TARGET,
    _ModelStatus.kTimeLimit: Status.TIME_LIMIT,
    _ModelStatus.kInterrupt: Status.INTERRUPTED,
}


class Watch:
    """The callback HiGHS calls while it works: reports progress, and carries a wish to stop into HiGHS.

    No exception may travel through HiGHS: it is kept in `error` and raised after the run.
    """

    def __init__(self, on_progress: ProgressCallback | None, cutoff: float | None) -> None:
        self._on_progress = on_progress
        self._ceiling = math.inf if cutoff is None else cutoff
        self._x: Floats | None = None
        self._began = time.perf_counter()
        self._reported = -math.inf
        self.stop = False
        self.error: BaseException | None = None

    def __call__(self, kind: Any, message: str, out: Any, back: Any, data: Any) -> None:
        try:
            self._report(kind, out)
        except BaseException as error:
            self.error, self.stop = error, True
        if self.stop and back is not None:
            back.user_interrupt = True

    def _report(self, kind: Any, out: Any) -> None:
        if self._on_progress is None or self.stop or kind == highspy.cb.HighsCallbackType.kCallbackSimplexInterrupt:
            return
        improved = kind == highspy.cb.HighsCallbackType.kCallbackMipImprovingSolution
        now = time.perf_counter() - self._began
        if improved:
            # HiGHS reuses this memory.
            self._x = np.array(out.mip_solution, dtype=np.float64)
        elif now - self._reported < _PROGRESS_EVERY_S:
            return
        self._reported = now
        progress = MipProgress(
            seconds=now,
            nodes=int(out.mip_node_count),
            primal_bound=float(out.objective_function_value if improved else out.mip_primal_bound),
            dual_bound=min(float(out.mip_dual_bound), self._ceiling),
            x=self._x,
        )
        # Ctrl-C may have set `stop` meanwhile: only ever raise it.
        if self._on_progress(progress) is True:
            self.stop = True

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C: stop HiGHS at its next callback."""
        self.error, self.stop = KeyboardInterrupt(), True


def set_option(model: highspy.Highs, option: str, value: bool | int | float | str) -> None:
    """Set one option; OptionError if HiGHS does not know it or its value."""
    if model.setOptionValue(option, value) != highspy.HighsStatus.kOk:
        raise OptionError(f"Highs: option {option} does not take {value!r}. Give a value in HiGHS's range for it.")


def accept(status: highspy.HighsStatus, call: str, name: str) -> None:
    """Raise SolverError unless a call came back without even a warning."""
    if status != highspy.HighsStatus.kOk:
        raise SolverError(
            f"Highs: {call} answered {status.name} on '{name}', so HiGHS would solve another program. Turn "
            "log on to see its reason, and rescale or correct the rows it names."
        )


def pass_program(model: highspy.Highs, program: Program) -> None:
    """Hand the arrays over, and make sure that HiGHS kept every one of them."""
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = program.n_columns, program.n_rows
    lp.col_cost_, lp.offset_ = program.cost, program.offset
    lp.col_lower_, lp.col_upper_ = program.column_lower, program.column_upper
    lp.row_lower_, lp.row_upper_ = program.row_lower, program.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = program.row_start, program.row_index
    lp.a_matrix_.value_ = program.row_value
    if program.is_mip:
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[whole] for whole in program.integer.tolist()]
    accept(model.passModel(lp), "passModel", program.name)
    kept = (model.getNumCol(), model.getNumRow(), model.getNumNz())
    if kept != (program.n_columns, program.n_rows, program.n_nonzeros):
        raise SolverError(
            f"Highs: kept (columns, rows, nonzeros) = {kept} of "
            f"{(program.n_columns, program.n_rows, program.n_nonzeros)} of '{program.name}'. Rescale the "
            "rows with the smallest coefficients."
        )


def run(model: highspy.Highs, name: str, watch: Watch) -> None:
    """Run HiGHS under `watch`; raise what it caught."""
    kinds = highspy.cb.HighsCallbackType
    accept(model.setCallback(watch, None), "setCallback", name)
    for kind in (
        kinds.kCallbackMipInterrupt,
        kinds.kCallbackSimplexInterrupt,
        kinds.kCallbackMipImprovingSolution,
    ):
        accept(model.startCallback(kind), "startCallback", name)
    # Python delivers signals to the main thread only; the default handler's exception would unwind HiGHS.
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, watch.on_signal)
    try:
        status = model.run()
        if status == highspy.HighsStatus.kError and model.getModelStatus() == _ModelStatus.kNotset:
            # Some other solve of this process fixed another number of threads.
            highspy.Highs.resetGlobalScheduler(True)
            status = model.run()
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        model.setCallback(None, None)
    if watch.error is not None:
        raise watch.error
    if status == highspy.HighsStatus.kError:
        raise SolverError(f"Highs: run failed on '{name}' ({model.getModelStatus().name}). Turn log on to see why.")


def _feasible_point(model: highspy.Highs) -> tuple[float | None, Floats | None]:
    """Objective and values of HiGHS's point, if it calls it feasible (2)."""
    info, solution = model.getInfo(), model.getSolution()
    if not (solution.value_valid and info.primal_solution_status == 2):
        return None, None
    return float(info.objective_function_value), np.array(solution.col_value, dtype=np.float64)


def mip_solution(model: highspy.Highs, cutoff: float | None, seconds: float) -> Solution:
    """What a finished MIP run shows; with a cut-off, no claim beyond it."""
    status = _STATUS.get(model.getModelStatus(), Status.UNKNOWN)
    info = model.getInfo()
    objective, x = _feasible_point(model)
    dual = float(info.mip_dual_bound)
    if status is Status.OPTIMAL and x is None:
        status = Status.UNKNOWN
    if status is Status.INFEASIBLE:
        dual = math.inf
    elif status in (Status.UNKNOWN, Status.UNBOUNDED) or math.isnan(dual):
        dual = -math.inf
    if cutoff is not None:
        above = objective is None or objective >= cutoff
        if status is Status.INFEASIBLE or (status is Status.OPTIMAL and above):
            status = Status.CUTOFF
        dual = cutoff if status is Status.CUTOFF else min(dual, cutoff)
    if objective is not None:
        dual = min(dual, objective)
    return Solution(status, objective, dual, x, None, None, None, max(0, int(info.mip_node_count)), seconds)


def lp_solution(model: highspy.Highs, row_lower: Floats, row_upper: Floats, want_ray: bool, seconds: float) -> Solution:
    """What a finished LP run shows; an optimum needs its duals."""
    status = _STATUS.get(model.getModelStatus(), Status.UNKNOWN)
    objective, x = _feasible_point(model)
    solution = model.getSolution()
    row_dual = column_dual = ray = None
    dual = -math.inf
    if status is Status.OPTIMAL:
        if objective is None or not solution.dual_valid:
            status = Status.UNKNOWN
        else:
            dual = objective
            row_dual = np.array(solution.row_dual, dtype=np.float64)
            column_dual = np.array(solution.col_dual, dtype=np.float64)
    elif status is Status.INFEASIBLE:
        dual, objective, x = math.inf, None, None
        ray = _farkas(model, row_lower, row_upper) if want_ray else None
    return Solution(status, objective, dual, x, row_dual, column_dual, ray, 0, seconds)


def _farkas(model: highspy.Highs, row_lower: Floats, row_upper: Floats) -> Floats | None:
    """HiGHS's ray with the round-off on infinite sides removed, or None where it has none."""
    returned, exists, values = model.getDualRay()  # type: ignore[attr-defined]
    if returned != highspy.HighsStatus.kOk or not exists:
        return None
    ray = np.array(values, dtype=np.float64)
    ray[((ray > 0) & (row_lower == -np.inf)) | ((ray < 0) & (row_upper == np.inf))] = 0.0
    return ray
