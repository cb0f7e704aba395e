"""The rows of all cases of a search, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milpverify.bounds.box_forms import BoxBounds
from milpverify.search.boxes import Boxes
from milpverify.spec.property import Case


@dataclass(frozen=True, eq=False)
class Rows:
    """C y <= d is unsafe, case by case.

    Attributes:
        C: Shape (m, n_outputs).
        d: Right-hand sides with what a solver's word may cost added, rounded up, shape (m,).
        starts: The first row of each case.
        case_of: The case of each row, shape (m,).
    """

    C: np.ndarray
    d: np.ndarray
    starts: np.ndarray
    case_of: np.ndarray

    @classmethod
    def of(cls, cases: Sequence[Case], spare: float) -> Rows:
        """The rows of cases, each of which has at least one."""
        counts = [len(case.unsafe.d) for case in cases]
        d = np.concatenate([case.unsafe.d for case in cases])
        d = np.nextafter(d + spare, np.inf) if spare else d
        starts, case_of = np.cumsum([0, *counts[:-1]]), np.repeat(np.arange(len(cases)), counts)
        return cls(np.concatenate([case.unsafe.C for case in cases]), d, starts, case_of)

    def of_case(self, case: int) -> np.ndarray:
        """The rows of one case."""
        return np.flatnonzero(self.case_of == case)

    def open(self, boxes: Boxes) -> np.ndarray:
        """Which rows are those of an open case, shape (b, m)."""
        return np.asarray(boxes.open[:, self.case_of])

    def per_case(self, found: BoxBounds) -> np.ndarray:
        """The cases' lower bounds: each the largest of its rows', shape (b, n_cases)."""
        values = np.maximum.reduce([form.value for form in found.forms])
        return np.asarray(np.maximum.reduceat(values, self.starts, axis=1))
