"""Chains of bound methods: each step refines what the steps before it left unstable."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from milpverify.bounds.backward import Crown
from milpverify.bounds.compute import check_order, make_problem
from milpverify.bounds.dual import DualBound
from milpverify.bounds.interval import interval_layer
from milpverify.bounds.method import BoundMethod
from milpverify.bounds.problem import DualProblem, InputSet
from milpverify.bounds.semantics import REAL, Semantics
from milpverify.bounds.slopes import AlphaCrown
from milpverify.errors import OptionError
from milpverify.network.graph import Bounds, Network
from milpverify.tighten.lp import TriangleLP
from milpverify.tighten.rows import better_rows


@dataclass(frozen=True)
class StepReport:
    """What one step of a chain bought, over all layers.

    Attributes:
        name: The step's.
        before: Neurons it found unstable; in the first row, of the intervals that every chain starts with, all neurons.
        after: Those it left unstable.
        seconds: Wall time.
    """

    name: str
    before: int = 0
    after: int = 0
    seconds: float = 0.0

    def plus(self, other: StepReport) -> StepReport:
        """The sum, under this name."""
        return StepReport(self.name, self.before + other.before, self.after + other.after, self.seconds + other.seconds)


@dataclass(frozen=True)
class Progressive(BoundMethod):
    """Interval bounds first, then step after step on what is still unstable; a layer without unstable neurons is done.

    Rows are bounded by every step, and the best bound of each counts: a later step need not be the better one for
    every row, and how far beyond zero a row is matters to margins.

    Attributes:
        steps: From the cheapest on.

    Raises:
        OptionError: If there is no step.

    Source:
        Tjeng, Xiao & Tedrake 2019, section 4.2.
    """

    steps: tuple[BoundMethod, ...] = field(default_factory=lambda: (Crown(), AlphaCrown(), TriangleLP()))
    name: ClassVar[str] = "progressive"

    def __post_init__(self) -> None:
        if not self.steps:
            raise OptionError("Progressive: no steps came. Give at least one, e.g. steps=(Crown(), TriangleLP()).")

    @property
    def solver_trusted(self) -> bool:  # type: ignore[override]  # a constant of every other method
        """Whether some step's bounds rest on a solver's word."""
        return any(step.solver_trusted for step in self.steps)

    def refine(self, problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.reported(problem, k, l, u)[:2]

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        best = self.steps[0].rows(problem, rows)
        for step in self.steps[1:]:
            best = better_rows(best, step.rows(problem, rows))
        return best

    def reported(
        self, problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, tuple[StepReport, ...]]:
        """`refine`, with a report of each step; those that had nothing left to do report zeros."""
        reports = []
        for step in self.steps:
            began, before = time.monotonic(), n_unstable(l, u)
            if before:
                l, u = step.refine(problem, k, l, u)
            reports.append(StepReport(step.name, before, n_unstable(l, u), time.monotonic() - began if before else 0.0))
        return l, u, tuple(reports)


def progressive_bounds(
    net: Network,
    region: InputSet,
    method: Progressive | None = None,
    *,
    device: str | None = None,
    semantics: Semantics = REAL,
) -> tuple[Bounds, tuple[StepReport, ...]]:
    """`compute_bounds` with a chain, and what each of its steps bought. Rounded, but for steps that trust a solver.

    Args:
        net, region, device, semantics: As in `compute_bounds`.
        method: The chain; `Progressive()` when None.

    Returns:
        The bounds, and one report for the intervals and each step, summed over the layers.

    Raises:
        RegionError, BoundsError, OptionError: As `compute_bounds`.
    """
    method = method or Progressive()
    problem = make_problem(net, region, device, semantics)
    total = [StepReport(name) for name in ("interval", *(step.name for step in method.steps))]
    for k in range(1, problem.n_hidden + 1):
        began = time.monotonic()
        l, u = interval_layer(problem, k)
        first = StepReport("interval", l.size, n_unstable(l, u), time.monotonic() - began)
        l, u, reports = method.reported(problem, k, l, u)
        check_order(l, u, k, method)
        total = [a.plus(b) for a, b in zip(total, (first, *reports), strict=True)]
        problem = problem.with_layer(l, u)
    return Bounds(problem.lower, problem.upper, method.name, method.solver_trusted, semantics.name), tuple(total)


def n_unstable(l: np.ndarray, u: np.ndarray) -> int:
    """Unstable neurons, over all regions of a batch."""
    return int(((l < 0) & (u > 0)).sum())
