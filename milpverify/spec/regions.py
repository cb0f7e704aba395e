"""Input regions: Box, LinfBall, L1Ball, L2Ball, each with optional cuts and grid, and BoxBatch for many boxes at once.

What the regions share is in `region.py`.
"""

from __future__ import annotations

from milpverify.spec.balls import Ball, LinfBall
from milpverify.spec.batch import BoxBatch
from milpverify.spec.box import Box
from milpverify.spec.cuts import Cuts
from milpverify.spec.grid import Grid
from milpverify.spec.region import Region
from milpverify.spec.round_balls import L1Ball, L2Ball
from milpverify.spec.rows import RegionRows

__all__ = ["Ball", "Box", "BoxBatch", "Cuts", "Grid", "L1Ball", "L2Ball", "LinfBall", "Region", "RegionRows"]
