"""What a region looks like to a linear program."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class RegionRows:
    """A region as linear rows over [x, auxiliary columns], for LPs and MILPs; the box itself is x's column bounds.

    Attributes:
        aux_names, aux_lower, aux_upper: The auxiliary columns.
        rows, cols, vals: Matrix entries; column j < n is x_j, column n + j the j-th auxiliary one.
        row_lower, row_upper, row_names: The rows.
        exact: Whether rows and column bounds describe the region up to the rounding of its bounds; False for a
            relaxation, which contains it.
    """

    aux_names: list[str]
    aux_lower: np.ndarray
    aux_upper: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    vals: np.ndarray
    row_lower: np.ndarray
    row_upper: np.ndarray
    row_names: list[str]
    exact: bool

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.row_names)

    @property
    def n_aux(self) -> int:
        """Number of auxiliary columns."""
        return len(self.aux_names)
