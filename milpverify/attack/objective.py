"""What a targeted attack drives down: the margin to its target, or the target against the sum of all others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from milpverify.errors import PropertyError


class Objective(ABC):
    """Rows that an attack descends on, made from the rows of a case; what counts as found is the case's alone."""

    @abstractmethod
    def rows(self, C: np.ndarray) -> np.ndarray:
        """The rows descended on, in place of the rows C of shape (cases, rows, n_outputs); the same shape."""


@dataclass(frozen=True)
class MarginToTarget(Objective):
    """y_label - y_target: the case's own slack, and the default.

    Source:
        Carlini & Wagner 2017, section V-A (f_6, with the label's score in place of the largest other one);
        Kolter & Madry, adversarial robustness tutorial, chapter 3.
    """

    def rows(self, C: np.ndarray) -> np.ndarray:
        return C


@dataclass(frozen=True)
class TargetAgainstOthers(Objective):
    """sum over all others j of y_j, less y_target: pushes every other class down, not the label alone.

    Raises:
        PropertyError: On rows that name no single target, that is have not exactly one -1 among zeros and one 1.

    Source:
        Kolter & Madry, adversarial robustness tutorial, chapter 3 (targeted attacks, the second objective).
    """

    def rows(self, C: np.ndarray) -> np.ndarray:
        margins = ((C == -1).sum(axis=-1) == 1) & ((C == 1).sum(axis=-1) == 1) & ((C != 0).sum(axis=-1) == 2)
        if not margins.all():
            raise PropertyError(
                "TargetAgainstOthers: expected margins y_label - y_target, got another combination of outputs. Use "
                "MarginToTarget() for such cases."
            )
        target = C == -1
        return np.where(target, -1.0, 1.0)
