from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pulp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from program_cases import FEW, MANY, assert_same, build, enumerate_optimum, market_split, programs

from milpverify.errors import InputError, OptionError, SolverError
from milpverify.program.highs import Highs
from milpverify.program.program import Program, ProgramBuilder
from milpverify.program.pulp_backend import Cbc, PulpHighs, from_pulp, to_pulp
from milpverify.program.solver import Limits, Solver, Status

SOLVERS = [pytest.param(Cbc(), id="cbc"), pytest.param(PulpHighs(), id="pulp-highs")]


def mixed() -> Program:
    """Names whose alphabetical order differs from the columns', and every kind of row."""
    builder = ProgramBuilder()
    z = builder.add_columns(["zebra", "ape", "unused"], [0, -np.inf, 0], [1, 5, np.inf], integer=True)
    y = builder.add_columns(["mole", "bee"], [-1, -np.inf], [1 / 3, np.inf])
    rows = np.array([[1, 1, 1 / 7, 0], [0, 1, 0, 1], [2, 0, 1, -1], [0, 0, 0, 1]])
    builder.add_rows(
        [(z[:2], rows[:, :2]), (y, rows[:, 2:])],
        [-0.1, -np.inf, 0.25, -3],
        [1 / 3, 4, 0.25, np.inf],
        ["range", "most", "same", "least"],
    )
    builder.add_rows([(z, np.zeros((1, 3)))], -1, 1, ["empty"])
    builder.set_cost([z[0], y[0], y[1]], [1 / 3, -0.1, 1e-7], math.pi)
    return builder.build("mixed")


def test_a_program_survives_pulp_to_the_last_bit() -> None:
    assert_same(from_pulp(mixed().to_pulp()), mixed())


@given(programs(continuous=True), st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=6))
@MANY
def test_random_programs_survive_pulp(program: Program, numbers: list[float]) -> None:
    bent = program.with_cost(numbers[: program.n_columns], numbers[5])
    assert_same(from_pulp(to_pulp(bent)), bent)


def test_a_program_survives_being_solved_in_pulp() -> None:
    problem = mixed().to_pulp()
    problem.solve(pulp.HiGHS(msg=False))
    assert_same(from_pulp(problem), mixed())


def test_a_range_row_is_two_constraints_in_pulp() -> None:
    names = [constraint.name for constraint in mixed().to_pulp().constraints()]
    assert names == ["range.lower", "range.upper", "most", "same", "least", "empty.lower", "empty.upper"]


def test_a_problem_written_in_pulp_is_read() -> None:
    problem = pulp.LpProblem("by_hand", pulp.LpMinimize)
    b, a = problem.add_variable("b", 0, 4, "Integer"), problem.add_variable("a", None, 2)
    problem += 3 * b - a + 7
    problem += (2 * b + a >= 3, "first")
    problem += (b - a == 1, "second")
    program = from_pulp(problem)
    assert (program.column_names, program.row_names) == (("b", "a"), ("first", "second"))
    assert program.column_lower.tolist() == [0, -np.inf] and program.column_upper.tolist() == [4, 2]
    # a = b - 1, so 3 b >= 4: b = 2, a = 1.
    assert Highs().solve(program).objective == pytest.approx(12)


def test_an_unconstrained_problem_without_objective_is_read() -> None:
    problem = pulp.LpProblem("bare", pulp.LpMinimize)
    a = problem.add_variable("a", 0, 1)
    problem += (a >= 0.5, "half")
    program = from_pulp(problem)
    assert program.cost.tolist() == [0] and program.objective([1]) == 0


def test_problems_that_a_program_cannot_hold_are_refused() -> None:
    problem = pulp.LpProblem("up", pulp.LpMaximize)
    problem += problem.add_variable("a", 0, 1)
    with pytest.raises(InputError, match="maximises"):
        from_pulp(problem)
    problem = pulp.LpProblem("sos", pulp.LpMinimize)
    a = problem.add_variable("a", 0, 1)
    problem += a
    problem.sos1["s"] = {a: 1}
    with pytest.raises(InputError, match="special ordered"):
        from_pulp(problem)
    problem = pulp.LpProblem("names", pulp.LpMinimize)
    problem += problem.add_variable("x_(1,2)", 0, 1)
    with pytest.raises(InputError, match=r"x_\(1,2\)"):
        from_pulp(problem)


@given(programs())
@FEW
def test_three_solvers_and_enumeration_agree(program: Program) -> None:
    best = enumerate_optimum(program)
    for solver in (Highs(), Cbc(), PulpHighs()):
        solution = solver.solve(program)
        if math.isinf(best):
            assert solution.status is Status.INFEASIBLE, solver
            assert solution.x is None and solution.dual_bound == math.inf
        else:
            assert solution.status is Status.OPTIMAL and solution.x is not None, solver
            assert solution.objective == pytest.approx(best, abs=1e-6), solver
            assert best - 1e-5 <= solution.dual_bound <= solution.objective
            assert program.residual(solution.x) <= 1e-6


@given(programs(continuous=True))
@FEW
def test_three_solvers_agree_on_mixed_programs(program: Program) -> None:
    expected = Highs().solve(program)
    for solver in (Cbc(), PulpHighs()):
        solution = solver.solve(program)
        assert solution.status is expected.status, solver
        if expected.objective is not None:
            assert solution.objective == pytest.approx(expected.objective, abs=1e-6), solver


@pytest.mark.parametrize("solver", SOLVERS)
def test_both_solvers_find_the_optimum_of_every_kind_of_row(solver: Solver) -> None:
    solution = solver.solve(mixed())
    assert solution.status is Status.OPTIMAL
    assert solution.objective == pytest.approx(Highs().solve(mixed()).objective, abs=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_time_proves_nothing(solver: Solver) -> None:
    solution = solver.solve(mixed(), Limits(time_limit_s=0))
    assert solution.status is Status.TIME_LIMIT and solution.x is None and solution.dual_bound == -math.inf


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_time_limit_is_not_an_optimum(solver: Solver) -> None:
    program = market_split()
    solution = solver.solve(program, Limits(time_limit_s=1))
    assert solution.status is Status.TIME_LIMIT and solution.dual_bound == -math.inf
    assert solution.x is not None and program.residual(solution.x) <= 1e-5
    assert solution.objective == pytest.approx(program.objective(solution.x))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("integer", [False, True])
def test_an_unbounded_program_is_never_called_infeasible_or_optimal(solver: Solver, integer: bool) -> None:
    # Of the second, HiGHS's presolve says "unbounded or infeasible", and PuLP makes that "infeasible".
    for row in ([1, -1], [0, 1]):
        program = build([-1, -1], [row], -1, 1, 0, np.inf, [integer, False])
        solution = solver.solve(program)
        assert solution.status in (Status.UNBOUNDED, Status.UNKNOWN) and solution.dual_bound == -math.inf


@pytest.mark.parametrize("solver", SOLVERS)
def test_nothing_is_left_in_the_working_directory_or_printed(
    solver: Solver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # PuLP falls back to the working directory when TMP is no folder.
    monkeypatch.setenv("TMP", "/nonexistent")
    assert solver.solve(mixed()).status is Status.OPTIMAL
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_small_coefficients_reach_highs_through_pulp() -> None:
    solution = PulpHighs().solve(build([1], [[1.1e-12]], 1.0, np.inf, 0, 1e15))
    assert solution.objective == pytest.approx(1 / 1.1e-12)


def test_a_missing_cbc_is_one_clear_error() -> None:
    with pytest.raises(OptionError, match="no cbc binary at '/nonexistent/cbc'"):
        Cbc(path="/nonexistent/cbc").solve(mixed())


def test_a_cbc_that_fails_is_a_solver_error_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("TMP", "/nonexistent")
    broken = tmp_path / "cbc"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(SolverError, match="Cbc: failed on 'mixed'"):
        Cbc(path=str(broken)).solve(mixed())
    assert list(work.iterdir()) == []


def test_a_cbc_that_claims_a_wrong_point_is_not_believed(tmp_path: Path) -> None:
    # Answers "Optimal" with all columns 0, which breaks the row `same`.
    liar = tmp_path / "cbc"
    liar.write_text(
        '#!/bin/sh\nwhile [ "$1" != "-solution" ]; do shift; done\necho "Optimal - objective value 0.00000000" > "$2"\n'
    )
    liar.chmod(0o755)
    solution = Cbc(path=str(liar)).solve(mixed())
    assert solution.status is Status.UNKNOWN and solution.x is None and solution.dual_bound == -math.inf


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_incumbent_of_another_program_is_refused(solver: Solver) -> None:
    with pytest.raises(InputError, match=f"{type(solver).__name__}.solve: incumbent holds 1 values"):
        solver.solve(mixed(), Limits(incumbent=np.zeros(1)))


def test_a_missing_pulp_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pulp", None)
    with pytest.raises(OptionError, match="pip install"):
        mixed().to_pulp()


def test_the_backend_imports_pulp_only_when_used() -> None:
    code = "import sys, milpverify.program.pulp_backend; print('pulp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_cbc_reads_the_mps_file_of_every_kind_of_row(tmp_path: Path) -> None:
    path = tmp_path / "mixed.mps"
    mixed().write(path)
    command = [pulp.PULP_CBC_CMD.pulp_cbc_path, str(path), "solve"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    objective = next(line.split()[-1] for line in out.splitlines() if line.startswith("Objective value"))
    assert "read with 0 errors" in out
    assert float(objective) == pytest.approx(Highs().solve(mixed()).objective, abs=1e-6)


def test_cbc_reads_an_mps_file_whose_first_column_has_a_short_name(tmp_path: Path) -> None:
    builder = ProgramBuilder()
    x = builder.add_columns(["x0", "x1"], 0.25, [0.5210005306090129, 1.0])
    builder.add_rows([(x, np.ones((1, 2)))], 0.75, np.inf, ["above1_0"])
    builder.set_cost(x, [1.0, 2.0], 0.5)
    path = tmp_path / "short.mps"
    builder.build("slack").write(path)
    cbc = pulp.PULP_CBC_CMD.pulp_cbc_path
    done = subprocess.run([cbc, str(path), "-solve", "-quit"], capture_output=True, text=True, check=True)
    assert "read with 0 errors" in done.stdout
