"""d and r of training and of the certificates are the same numbers: one is of live modules, one of networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import milpverify as mv
from milpverify.training.ball import BallBatch, Norm
from milpverify.training.relaxation import dual_rows, with_dual_bounds
from milpverify.training.tightness import indicators
from milpverify.training.twin import Twin
from tests.training.training_cases import CLASSES, SHAPE, modules

BALLS = {np.inf: mv.LinfBall, 2.0: mv.L2Ball, 1.0: mv.L1Ball}
WIDE = (-9.0, 9.0)  # a clip that no ball here reaches, and that changes nothing therefore


@pytest.mark.parametrize("clip", [None, WIDE], ids=["no clip", "wide clip"])
@pytest.mark.parametrize("p", BALLS)
@pytest.mark.parametrize("name", ["dense", "convolution", "skip"])
def test_the_two_agree_on_bound_d_and_r(name: str, p: float, clip: tuple[float, float] | None) -> None:
    module = modules()[name].eval()
    net = mv.from_torch(module, SHAPE)
    rng = np.random.default_rng(4)
    x, C = rng.normal(size=(6, 16)), rng.normal(size=(6, 3, CLASSES))
    unstable = 0.0
    for eps in (0.01, 0.1, 0.6, 2.0):
        problem = with_dual_bounds(Twin(module, SHAPE).layers(), BallBatch(torch.tensor(x), eps, Norm(p, clip)))
        bounds = dual_rows(problem, C)
        d, r = indicators(problem, bounds, torch.tensor(C))
        found = mv.tightness(net, x, 0, eps, ball=BALLS[p], rows=C)
        for ours, theirs in ((found.bound, bounds.value), (found.d, d), (found.r, r)):
            np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-12, atol=1e-12)
        unstable += float(found.r.max())
    assert unstable > 0.1  # or the law would be empty
