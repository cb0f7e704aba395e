"""Bound methods: objects that bound every hidden neuron over a region, and the property's rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from milpverify.bounds.dual import DualBound
from milpverify.bounds.interval import interval_layer, interval_rows
from milpverify.bounds.problem import DualProblem
from milpverify.errors import OptionError

DEFAULT_BUDGET_BYTES = 256 * 2**20


class BoundMethod(ABC):
    """How l and u of the hidden neurons are proven, layer by layer, and how the rows of a property are bounded.

    Attributes:
        name: For reports.
        solver_trusted: Whether its bounds rest on a solver's word instead of g.
    """

    name: ClassVar[str]
    solver_trusted: ClassVar[bool] = False

    def layer(self, problem: DualProblem, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Bounds l, u of zhat_k, each (*batch, n_k), from a problem that bounds the layers below. Rounded."""
        return self.refine(problem, k, *interval_layer(problem, k))

    @abstractmethod
    def refine(self, problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Known bounds of zhat_k, tightened where a neuron is unstable; never looser. Rounded."""

    @abstractmethod
    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        """Lower bounds of rows . y, rows of shape (m, n_outputs), with every hidden layer bounded. Rounded."""


@dataclass(frozen=True)
class Interval(BoundMethod):
    """Interval propagation; rows by intervals through the last affine map."""

    name: ClassVar[str] = "interval"

    def layer(self, problem: DualProblem, k: int) -> tuple[np.ndarray, np.ndarray]:
        return interval_layer(problem, k)

    def refine(self, problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = interval_layer(problem, k)
        return np.maximum(l, low), np.minimum(u, high)

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        return interval_rows(problem, rows)


def check_budget(method: BoundMethod, budget_bytes: int) -> None:
    """Refuse a memory budget that is none.

    Raises:
        OptionError: If it is not positive.
    """
    if budget_bytes <= 0:
        raise OptionError(f"{type(method).__name__}: budget_bytes must be positive, got {budget_bytes}.")


def rows_at_once(method: BoundMethod, problem: DualProblem, sides: int, budget_bytes: int) -> int:
    """Neurons bounded at once with `sides` rows each: about six arrays of the widest layer are alive.

    Raises:
        OptionError: If not one fits.
    """
    widest = max(problem.n_inputs, *(layer.size for layer in problem.layers))
    regions = max(int(np.prod(problem.batch, dtype=np.int64)), 1)
    needed = sides * 6 * 8 * widest * regions
    if needed > budget_bytes:
        raise OptionError(
            f"{type(method).__name__}: budget_bytes={budget_bytes} does not hold one row of {widest} values for "
            f"{regions} region{'s' if regions > 1 else ''}; give at least {needed}."
        )
    return budget_bytes // needed
