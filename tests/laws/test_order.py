"""The order of bound methods over the same intermediate bounds: each is at least as tight as the ones before it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

import milpverify as mv
from milpverify.bounds.method import BoundMethod
from tests.cases import NETWORKS, POLYHEDRAL, REGIONS, brute_force_minimum, seeds
from tests.paths import mnist, need

# The ascent is given the steps to arrive; what it may lack of the LP's optimum is judged below, on real networks.
LADDER: tuple[BoundMethod, ...] = (
    mv.Interval(),
    mv.Crown(),
    mv.AlphaCrown(steps=100, ascent=mv.Ascent(stall=0.0)),
    mv.TriangleLP(),
    mv.MILPTightening(),
)


@pytest.mark.parametrize("region_kind", POLYHEDRAL)
@pytest.mark.parametrize("kind", NETWORKS)
@given(seed=seeds)
def test_every_rung_is_at_least_as_tight_as_the_one_below(kind: str, region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    bounds = mv.compute_bounds(net, region, mv.Crown())
    row = rng.normal(size=net.n_outputs)
    values = [float(mv.bound_rows(net, region, bounds, row, method).value[0]) for method in LADDER]
    fastlin = float(mv.bound_rows(net, region, bounds, row, mv.FastLin()).value[0])
    truth = brute_force_minimum(net, region, row)
    interval, crown, alpha, lp, milp = values
    slack = 1e-9 * (1.0 + abs(truth))
    assert interval <= fastlin + slack and interval <= crown + slack
    assert crown <= alpha + slack
    assert fastlin <= lp + 1e-7 and alpha <= lp + 1e-7  # the solver's tolerance on its optimum
    assert lp <= truth + 1e-7 and milp <= truth + 1e-7
    assert milp >= truth - 1e-4  # exact but for what is taken off for the solver's tolerance


@pytest.mark.slow
@pytest.mark.parametrize(("name", "eps"), (("mlp50", 0.03), ("mlp50", 0.05), ("mlp100_adv", 0.1)))
def test_the_ascent_closes_what_the_lp_closes(name: str, eps: float) -> None:
    net = mv.from_onnx(need("mlp", f"{name}.onnx"))
    images, labels = mnist()
    open_shares = []
    for image, label in zip(images[:10], labels[:10], strict=True):
        ball = mv.LinfBall(image, eps, clip=(0, 1))
        bounds = mv.compute_bounds(net, ball, mv.Crown())
        rows = np.eye(10)[label] - np.delete(np.eye(10), label, axis=0)
        crown, alpha, lp = (
            mv.bound_rows(net, ball, bounds, rows, method).value
            for method in (mv.Crown(), mv.AlphaCrown(), mv.TriangleLP())
        )
        gap = float((lp - crown).sum())
        assert (lp >= crown - 1e-9).all() and (lp >= alpha - 1e-7).all()
        if gap > 1e-6:
            open_shares.append(float((lp - alpha).sum()) / gap)
    assert len(open_shares) >= 3  # elsewhere CROWN is as good as the LP
    assert np.median(open_shares) <= 0.02
