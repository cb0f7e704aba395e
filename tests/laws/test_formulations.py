"""Laws of formulations: brute force, the condensed and the full program, every encoding and every solver agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from milpverify.bounds.compute import compute_bounds
from milpverify.formulation.encode import encode_slack
from milpverify.formulation.property_program import big_m, stack_rows
from milpverify.network.condense import Condensed, condense
from milpverify.network.graph import Bounds, Network
from milpverify.program.solver import Status
from milpverify.spec.property import Case, Polyhedron, Property
from milpverify.spec.regions import Region
from tests.cases import BOUND_METHODS, ENCODINGS, NETWORKS, POLYHEDRAL, REGIONS, SOLVERS, brute_force_minimum, seeds


def uncondensed(net: Network, region: Region, rows: np.ndarray) -> Condensed:
    """The program's input with every neuron kept: bounds widened until all are unstable."""
    interval = compute_bounds(net, region, BOUND_METHODS["interval"])
    lower = tuple(np.minimum(l, -0.5) for l in interval.lower)
    upper = tuple(np.maximum(u, 0.5) for u in interval.upper)
    return condense(net, Bounds(lower, upper), rows)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("region_kind", POLYHEDRAL)
@pytest.mark.parametrize("kind", NETWORKS)
def test_condensed_full_and_brute_force_agree(kind: str, region_kind: str, encoding: str, solver: str) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        net = NETWORKS[kind](rng)
        region = REGIONS[region_kind](rng, net.n_inputs)
        rows = rng.normal(size=(1, net.n_outputs))
        truth = brute_force_minimum(net, region, rows[0])
        bounds = compute_bounds(net, region)
        for small in (condense(net, bounds, rows), uncondensed(net, region, rows)):
            encoded = encode_slack(small, region, [0], np.zeros(1), ENCODINGS[encoding])
            found = SOLVERS[solver].solve(encoded.program)
            assert found.status is Status.OPTIMAL
            assert found.objective == pytest.approx(truth, abs=2e-5)
            assert encoded.program.relax().n_rows == encoded.program.n_rows


@given(seed=seeds)
def test_the_triangle_relaxation_is_never_above_the_mip(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["chain"](rng)
    region = REGIONS["box"](rng, net.n_inputs)
    rows = rng.normal(size=(1, net.n_outputs))
    encoded = encode_slack(condense(net, compute_bounds(net, region), rows), region, [0], np.zeros(1))
    solver = SOLVERS["highs"]
    whole, relaxed = solver.solve(encoded.program), solver.solve(encoded.program.relax())
    assert whole.objective is not None and relaxed.objective is not None
    assert relaxed.objective <= whole.objective + 1e-6


@given(seed=seeds)
def test_an_input_is_a_feasible_solution_with_its_own_slack(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["skip"](rng)
    region = REGIONS["linf clipped"](rng, net.n_inputs)
    rows, d = rng.normal(size=(3, net.n_outputs)), rng.normal(size=3)
    encoded = encode_slack(condense(net, compute_bounds(net, region), rows), region, [0, 1, 2], d)
    x = region.sample(rng, 1)[0]
    solution = encoded.at_input(x)
    assert solution is not None
    assert encoded.program.residual(solution) < 1e-9
    assert encoded.program.objective(solution) == pytest.approx((rows @ net.forward(x) - d).max(), abs=1e-9)


@given(seed=seeds)
def test_one_program_for_several_cases_is_their_minimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["chain"](rng)
    region = REGIONS["box"](rng, net.n_inputs)
    cases = tuple(
        Case(region, Polyhedron(rng.normal(size=(m, net.n_outputs)), rng.normal(size=m)), f"case {m}")
        for m in (1, 2, 3)
    )
    bounds = compute_bounds(net, region)
    stacked = stack_rows(net, bounds, cases)
    solver = SOLVERS["highs"]
    apart = [
        solver.solve(encode_slack(stacked.condensed, region, m, stacked.d[m]).program).objective
        for m in stacked.members
    ]
    together = solver.solve(big_m(net, Property(cases, net.n_inputs, net.n_outputs), bounds)).objective
    assert together == pytest.approx(min(a for a in apart if a is not None), abs=1e-5)
