"""What every solver of programs takes and gives back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from milpverify.errors import InputError, OptionError
from milpverify.program.program import Program

Floats = NDArray[np.float64]


class Status(Enum):
    """How a solve ended. Whatever a solver says beyond these is UNKNOWN."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"
    UNBOUNDED = "unbounded"
    CUTOFF = "cutoff"
    TARGET = "target"
    TIME_LIMIT = "time limit"
    INTERRUPTED = "interrupted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Solution:
    """A solver's answer. Floating: it holds within the solver's tolerances, and proves nothing by itself.

    Args:
        status: CUTOFF: no point is better than the cut-off (none at all, perhaps). TARGET: `x` is below the
            target.
        objective: Objective of `x`, the program's offset included; None without `x`.
        dual_bound: No feasible point has a smaller objective: -inf if nothing was proven, +inf if infeasible,
            the optimum of an LP, at most the cut-off if one was given.
        x: The best feasible point found, shape (n,), or None.
        row_dual: LP optimum only: d optimum / d row bound, shape (m,); >= 0 at a lower side, <= 0 at an upper
            one.
        column_dual: LP optimum only: reduced costs, shape (n,).
        ray: Infeasible LP, when asked: y, shape (m,), with min over the rows' bounds of y.r above the max
            over the columns' bounds of (A^T y).x; y_i has the sign of a `row_dual` and is 0 where that side
            is infinite.
        nodes: Branch-and-bound nodes; 0 for an LP or where the solver does not tell.
        seconds: Wall time of the solve.
    """

    status: Status
    objective: float | None
    dual_bound: float
    x: Floats | None
    row_dual: Floats | None
    column_dual: Floats | None
    ray: Floats | None
    nodes: int
    seconds: float


@dataclass(frozen=True, eq=False)
class MipProgress:
    """Where a MIP solve stands.

    Args:
        seconds: Since the solve began.
        nodes: Finished so far.
        primal_bound: Objective of the best point, +inf if none.
        dual_bound: Proven lower bound, -inf if none; never above the cut-off.
        x: The best point found so far, shape (n,), or None.
    """

    seconds: float
    nodes: int
    primal_bound: float
    dual_bound: float
    x: Floats | None


ProgressCallback = Callable[[MipProgress], bool | None]


@dataclass(frozen=True, eq=False)
class Limits:
    """How far a solve should go. All but the time allow a solver to do less: one that cannot use them answers more.

    Objectives include the program's offset.

    Attributes:
        time_limit_s: Wall time; 0 gives TIME_LIMIT, with the incumbent if it was accepted.
        cutoff: Points with an objective not below this are of no interest: when none is better, the status may be
            CUTOFF and `dual_bound` is the cut-off.
        target: Stop (TARGET) at the first point with an objective below this.
        incumbent: A point to start from, shape (n,); repaired if possible, ignored if not.
        on_progress: Called during a MIP solve, by solvers that can; returning True stops it (INTERRUPTED).

    Raises:
        OptionError: If a limit makes no sense: no solver is left to misread it.
        InputError: If the incumbent is no vector of finite numbers.
    """

    time_limit_s: float = math.inf
    cutoff: float | None = None
    target: float | None = None
    incumbent: Floats | None = None
    on_progress: ProgressCallback | None = None

    def __post_init__(self) -> None:
        if not self.time_limit_s >= 0:
            raise OptionError(
                f"Limits: time_limit_s must be at least 0, got {self.time_limit_s}. Give seconds, or math.inf."
            )
        if self.cutoff is not None and not self.cutoff > -math.inf:
            raise OptionError(f"Limits: cutoff must be a number or +inf, got {self.cutoff}. Pass None for no cut-off.")
        if self.target is not None and not self.target < math.inf:
            raise OptionError(f"Limits: target must be a number or -inf, got {self.target}. Pass None for no target.")
        if self.incumbent is not None and (np.ndim(self.incumbent) != 1 or not np.isfinite(self.incumbent).all()):
            raise InputError(
                f"Limits: incumbent must be a vector of finite numbers, got shape {np.shape(self.incumbent)} or a "
                "NaN. Pass one value per column."
            )

    def check_fit(self, who: str, program: Program) -> None:
        """Refuse an incumbent of another program.

        Raises:
            InputError: If it does not have one value per column.
        """
        if self.incumbent is not None and len(self.incumbent) != program.n_columns:
            raise InputError(
                f"{who}: incumbent holds {len(self.incumbent)} values, '{program.name}' has {program.n_columns} "
                "columns. Pass one value per column."
            )


NO_LIMITS = Limits()


class Solver(ABC):
    """Minimises a Program."""

    @abstractmethod
    def solve(self, program: Program, limits: Limits = NO_LIMITS) -> Solution:
        """Minimise `program`.

        Args:
            program: What to solve.
            limits: When to stop.

        Raises:
            InputError: If the incumbent does not fit the program.
            OptionError: If an option of the solver makes no sense.
            SolverError: If the solver refuses the program or fails.
        """
