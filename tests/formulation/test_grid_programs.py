"""Programs over the points of a grid: two solvers against every point, and what the files say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import milpverify as mv
from milpverify.bounds.compute import compute_bounds
from milpverify.formulation.encode import encode_slack, objective_unit
from milpverify.formulation.property_program import big_m, stack_rows
from milpverify.program.solver import Status
from tests.grids import STEPS, grid_regions, least_slack, network

KINDS = [kind for kind in sorted(grid_regions(2, 0)) if kind != "l2"]  # whose program is a relaxation


def case_of(region: mv.Region, net: mv.Network, seed: int) -> mv.Case:
    rows = np.random.default_rng(seed).normal(size=(1 + seed % 2, net.n_outputs))
    return mv.Case(region, mv.Polyhedron(rows, np.zeros(len(rows))))


@pytest.mark.parametrize("solver", [mv.Highs(), mv.Cbc(), mv.PulpHighs()], ids=["highs", "cbc", "pulp"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_optimum_of_the_integer_program_is_the_least_slack_of_all_grid_points(kind: str, solver: mv.Solver) -> None:
    for seed in range(4):
        net = network(seed, ("chain", "skip")[seed % 2])
        region = grid_regions(net.n_inputs, seed)[kind]
        case = case_of(region, net, seed)
        program = big_m(net, mv.Property((case,), net.n_inputs, net.n_outputs))
        solution = solver.solve(program)
        assert solution.status is Status.OPTIMAL
        assert solution.objective == pytest.approx(float(least_slack(net, case)), abs=1e-5)


def test_relaxed_it_is_no_more_than_the_program_over_real_inputs() -> None:
    for seed in range(4):
        net = network(seed)
        case = case_of(grid_regions(net.n_inputs, seed)["box"], net, seed)
        real = mv.Case(case.region.relaxed, case.unsafe)
        values = []
        for some in (case, real):
            prop = mv.Property((some,), net.n_inputs, net.n_outputs)
            values.append([mv.Highs().solve(p).objective for p in (big_m(net, prop), big_m(net, prop).relax())])
        (grid, grid_lp), (real_mip, real_lp) = values
        assert grid >= real_mip - 1e-6 and grid_lp == pytest.approx(real_lp, abs=1e-6)


def test_several_cases_are_one_program_over_the_same_integers() -> None:
    for seed in range(4):
        net = network(seed)
        region = grid_regions(net.n_inputs, seed)["linf"]
        prop = mv.robustness(net, region, 0)
        least = min(least_slack(net, case) for case in prop.cases)
        solution = mv.Highs().solve(big_m(net, prop))
        assert solution.objective == pytest.approx(float(least), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_grid_point_is_a_solution_with_its_own_slack(kind: str) -> None:
    net = network(3)
    region = grid_regions(net.n_inputs, 3)[kind]
    case = case_of(region, net, 3)
    stacked = stack_rows(net, compute_bounds(net, region), (case,))
    unit = objective_unit(stacked.condensed, stacked.members[0], region.grid)
    encoded = encode_slack(stacked.condensed, region, stacked.members[0], stacked.d, unit=unit)
    for x in region.sample(np.random.default_rng(0), 20):
        if not region.contains(region.exact_point(x)):
            continue
        start = encoded.at_input(x)
        if start is None:
            assert kind == "l1"
            continue
        assert np.array_equal(start[encoded.x], np.rint(x * STEPS))
        assert np.allclose(encoded.input(start), x)
        held = encoded.program.with_column_bounds(
            np.where(np.isin(np.arange(len(start)), encoded.x), start, encoded.program.column_lower),
            np.where(np.isin(np.arange(len(start)), encoded.x), start, encoded.program.column_upper),
        )
        solution = mv.Highs().solve(held)
        slack = float((case.unsafe.C @ net.forward(x) - case.unsafe.d).max())
        assert solution.objective * encoded.unit == pytest.approx(slack, abs=1e-5)


def test_the_file_names_the_steps_and_their_range(tmp_path: Path) -> None:
    net = network(1)
    box = mv.Box(np.full(net.n_inputs, 0.3), np.full(net.n_inputs, 1.1)).with_grid(mv.Grid(255))
    prop = mv.Property((mv.Case(box, mv.Polyhedron(np.eye(net.n_outputs)[:1], [0.0])),), net.n_inputs, net.n_outputs)
    big_m(net, prop).write(tmp_path / "a.lp")
    text = (tmp_path / "a.lp").read_text()
    assert "77 <= k0 <= 280" in text and "x0" not in text
    assert "k0" in text.split("Generals")[1]
