"""Laws of strengthened programs: the same optimum, a better relaxation, and no point of the network cut off."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from milpverify.formulation.encode import Encoded, encode_slack
from milpverify.formulation.property_program import stack_rows
from milpverify.formulation.relu import BigM
from milpverify.program.highs import Highs
from milpverify.search.cut_pool import Strengthening, strengthened
from tests.cases import NETWORKS, POLYHEDRAL, REGIONS, affine, bias, brute_force_slack, seeds, weights

TO_THE_END = Strengthening(stall=0.0, violation=1e-7)


def program(
    net: mv.Network, region: mv.Region, rng: np.random.Generator, m: int = 1, encoding: BigM | None = None
) -> tuple[Encoded, np.ndarray, np.ndarray]:
    C, d = rng.normal(size=(m, net.n_outputs)), rng.normal(size=m)
    bounds = mv.compute_bounds(net, region)
    prop = mv.Property((mv.Case(region, mv.Polyhedron(C, d)),), net.n_inputs, net.n_outputs)
    stacked = stack_rows(net, bounds, prop.cases)
    return encode_slack(stacked.condensed, region, stacked.members[0], stacked.d, encoding), C, d


def wide(rng: np.random.Generator) -> mv.Network:
    """Enough unstable neurons that the ideal rows matter."""
    first, second = affine({0: weights(rng, 8, 4)}, bias(rng, 8)), affine({1: weights(rng, 6, 8)}, bias(rng, 6))
    return mv.Network((4,), (2,), (first, second), affine({2: weights(rng, 2, 6)}, bias(rng, 2)))


@pytest.mark.parametrize("zhat", (False, True), ids=("rows", "columns"))
@pytest.mark.parametrize("region_kind", POLYHEDRAL)
@settings(max_examples=4)
@given(seed=seeds)
def test_the_optimum_is_that_of_the_network(region_kind: str, zhat: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["skip"](rng)
    region = REGIONS[region_kind](rng, 2)
    encoded, C, d = program(net, region, rng, 1 + seed % 2, BigM(preactivation_columns=zhat))
    better = strengthened(encoded, TO_THE_END)
    optimum = Highs().solve(better.encoded.program).objective
    assert optimum is not None
    assert optimum * encoded.unit == pytest.approx(brute_force_slack(net, region, C, d), abs=1e-6)
    assert better.after >= better.before - 1e-9


@settings(max_examples=6)
@given(seed=seeds)
def test_no_input_of_the_region_is_cut_off(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net, region = wide(rng), mv.LinfBall(rng.uniform(0, 1, 4), 0.7)
    encoded, _, _ = program(net, region, rng)
    better = strengthened(encoded, TO_THE_END).encoded
    for x in region.sample(rng, 200):
        point = encoded.at_input(x)
        assert point is not None
        assert better.program.residual(point) <= max(1e-12, encoded.program.residual(point))


def test_the_rows_that_are_kept_are_what_the_bound_needs() -> None:
    gains = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        net, region = wide(rng), mv.LinfBall(rng.uniform(0, 1, 4), 0.7)
        encoded, _, _ = program(net, region, rng)
        better = strengthened(encoded, TO_THE_END)
        relaxed = Highs().solve(better.encoded.program.relax()).objective
        assert relaxed is not None
        assert relaxed * encoded.unit == pytest.approx(better.after, abs=1e-6)
        assert better.encoded.program.n_rows == encoded.program.n_rows + better.rows
        gains.append(better.after - better.before)
    assert max(gains) > 1e-2


def test_without_time_the_program_stays_as_it_is() -> None:
    rng = np.random.default_rng(0)
    net, region = wide(rng), mv.LinfBall(rng.uniform(0, 1, 4), 0.7)
    encoded, _, _ = program(net, region, rng)
    better = strengthened(encoded, Strengthening(time_limit_s=0.0))
    assert better.rows == 0 and better.encoded.program.n_rows == encoded.program.n_rows
    assert better.before == better.after == -math.inf
