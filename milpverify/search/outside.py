"""Which boxes lie outside a region that is no box, so that nothing needs to be proven about them."""

from __future__ import annotations

import numpy as np

from milpverify.spec.batch import BoxBatch
from milpverify.spec.regions import L1Ball, L2Ball, Region
from milpverify.spec.rounding import allowance


def outside(region: Region, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Boxes that no point of the region lies in, shape (b,). Rounded: True is a proof, False is none.

    Args:
        region: Its bounding box contains the boxes.
        low, high: Corners, shape (b, n).
    """
    found = np.zeros(len(low), dtype=bool)
    if region.cuts.n_rows and len(low):
        found |= (BoxBatch(low, high).minimum(region.cuts.A) > region.cuts.b).any(axis=1)
    if isinstance(region, L1Ball | L2Ball):
        with np.errstate(over="ignore"):
            gap = np.maximum(np.maximum(low - region.center, region.center - high), 0.0)
            sure = 1.0 - allowance(low.shape[1])
            if isinstance(region, L1Ball):
                found |= gap.sum(axis=1) * sure > region.radius
            else:
                found |= np.square(gap).sum(axis=1) * sure > region.radius * region.radius * (1.0 + allowance(1))
    return found
