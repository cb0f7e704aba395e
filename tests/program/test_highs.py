from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from itertools import pairwise
from types import SimpleNamespace

import highspy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from program_cases import FEW, MANY, QUARTERS, build, dense, enumerate_optimum, market_split, programs

from milpverify.errors import InputError, OptionError, SolverError
from milpverify.program import highs, highs_calls
from milpverify.program.highs import Highs, MipProgress, Solution, Status, WarmLP
from milpverify.program.program import Program
from milpverify.program.solver import Limits


def knapsack(offset: float = 100.0) -> Program:
    """max 10 a + 13 b + 7 c, 3 a + 4 b + 2 c <= 6, binaries: b and c weigh 6 and are worth 20, a and c 17."""
    return build([-10, -13, -7], [[3, 4, 2]], -np.inf, 6, integer=True, offset=offset)


def test_the_knapsack_has_the_optimum_found_by_hand() -> None:
    solution = Highs().solve(knapsack())
    assert solution.status is Status.OPTIMAL
    assert solution.objective == pytest.approx(80) and solution.dual_bound == pytest.approx(80)
    assert solution.x is not None and solution.x.round().tolist() == [0, 1, 1]
    assert solution.row_dual is None and solution.ray is None


def test_the_lp_relaxation_has_the_optimum_and_duals_found_by_hand() -> None:
    # By value per weight: c (3.5), then a (10/3), then 1/4 of b (13/4): 7 + 10 + 3.25; a unit of room is
    # worth 3.25.
    solution = Highs().solve(knapsack().relax())
    assert solution.status is Status.OPTIMAL
    assert solution.objective == pytest.approx(100 - 20.25) and solution.dual_bound == solution.objective
    assert solution.x == pytest.approx([1, 0.25, 1])
    assert solution.row_dual == pytest.approx([-3.25])
    assert solution.column_dual == pytest.approx([-0.25, 0, -0.5])


@given(programs(), st.booleans())
@MANY
def test_highs_agrees_with_enumeration(program: Program, presolve: bool) -> None:
    best = enumerate_optimum(program)
    solution = Highs(presolve=presolve).solve(program)
    if math.isinf(best):
        assert solution.status is Status.INFEASIBLE
        assert solution.x is None and solution.objective is None and solution.dual_bound == math.inf
    else:
        assert solution.status is Status.OPTIMAL and solution.x is not None
        assert solution.objective == pytest.approx(best, abs=1e-6)
        assert best - 1e-5 <= solution.dual_bound <= solution.objective
        assert program.residual(solution.x) <= 1e-6
        assert program.objective(solution.x) == pytest.approx(solution.objective)


@given(programs(), st.integers(-8, 8), st.booleans())
@MANY
def test_a_cutoff_answers_whether_something_is_better(program: Program, quarters: int, presolve: bool) -> None:
    best = enumerate_optimum(program)
    cutoff = (0.0 if math.isinf(best) else best) + quarters / 4
    solution = Highs(presolve=presolve).solve(program, Limits(cutoff=cutoff))
    if best < cutoff:
        assert solution.status is Status.OPTIMAL
        assert solution.objective == pytest.approx(best, abs=1e-6)
    else:
        assert solution.status is Status.CUTOFF and solution.dual_bound == cutoff
    assert solution.dual_bound <= max(best, cutoff) + 1e-9 and solution.dual_bound <= cutoff


def covering() -> Program:
    """Twelve items, six random covering rows: large enough that heuristics find poor points first."""
    rng = np.random.default_rng(5)
    return build(rng.integers(1, 9, 12), rng.integers(0, 4, (6, 12)), rng.integers(5, 9, 6), np.inf, integer=True)


def test_no_dual_bound_passes_the_cutoff_when_highs_calls_a_poor_point_optimal() -> None:
    # With a cut-off HiGHS stops at "optimal" on points above it that are not; its own dual bound is then
    # wrong.
    rng = np.random.default_rng(1)
    deceived = 0
    for _ in range(60):
        n, m = 10, 5
        rows = rng.normal(size=(m, n)).round(2)
        sides = (rows.clip(max=0).sum(axis=1) * 0.6 + rows.clip(min=0).sum(axis=1) * 0.4).round(2)
        program = build(rng.normal(size=n).round(2), rows, -np.inf, sides + 0.001, integer=True, offset=-50.0)
        best = Highs().solve(program).objective
        if best is None:
            continue
        solution = Highs().solve(program, Limits(cutoff=best - 1e-3))
        assert solution.status is Status.CUTOFF and solution.dual_bound == best - 1e-3
        deceived += solution.objective is not None and solution.objective > best + 1e-3
    assert deceived > 0


@given(programs(), st.integers(-8, 8))
@MANY
def test_a_target_stops_below_it_or_proves_the_optimum(program: Program, quarters: int) -> None:
    best = enumerate_optimum(program)
    target = (0.0 if math.isinf(best) else best) + quarters / 4
    solution = Highs().solve(program, Limits(target=target))
    if math.isinf(best):
        assert solution.status is Status.INFEASIBLE
        return
    assert solution.x is not None and solution.objective is not None and program.residual(solution.x) <= 1e-6
    assert solution.dual_bound <= best + 1e-9 and solution.objective >= best - 1e-6
    if solution.status is Status.TARGET:
        assert solution.objective < target
    else:
        assert solution.status is Status.OPTIMAL and solution.objective == pytest.approx(best, abs=1e-6)


def test_a_hard_program_stops_at_the_first_point_below_the_target() -> None:
    solution = Highs().solve(market_split(), Limits(target=5000.0))
    assert solution.status is Status.TARGET
    assert solution.objective is not None and solution.objective < 5000 and solution.dual_bound <= 7


def test_an_incumbent_is_what_remains_when_no_time_is_left() -> None:
    program = market_split()
    point = np.r_[np.zeros(40), np.zeros(8)]
    point[40:44] = program.row_lower
    solution = Highs().solve(program, Limits(time_limit_s=0, incumbent=point))
    assert solution.status is Status.TIME_LIMIT and solution.dual_bound == -math.inf
    assert solution.x == pytest.approx(point)
    assert solution.objective == pytest.approx(7 + program.row_lower.sum())


def test_an_incumbent_below_the_target_ends_the_solve() -> None:
    program = market_split()
    point = np.zeros(48)
    point[40:44] = program.row_lower
    value = program.objective(point)
    solution = Highs().solve(program, Limits(incumbent=point, target=value + 1))
    assert solution.status is Status.TARGET and solution.objective is not None and solution.objective <= value


def test_an_incumbent_is_completed_from_its_integer_columns() -> None:
    program = market_split()
    point = np.r_[np.random.default_rng(0).integers(0, 2, 40), np.zeros(8)].astype(float)
    assert program.residual(point) > 1
    gap = program.row_lower - program.activity(point)
    solution = Highs().solve(program, Limits(incumbent=point, target=7 + np.abs(gap).sum() + 1))
    assert solution.status is Status.TARGET and solution.x is not None and program.residual(solution.x) <= 1e-6


def test_an_infeasible_incumbent_is_never_reported() -> None:
    for point in (np.zeros(48), np.r_[np.full(40, 0.5), np.zeros(8)], np.full(48, 1e9), np.full(48, -5.0)):
        solution = Highs().solve(market_split(), Limits(incumbent=point, time_limit_s=0))
        assert solution.status is Status.TIME_LIMIT and solution.x is None and solution.objective is None


@given(programs(), st.data())
@MANY
def test_no_incumbent_changes_the_optimum(program: Program, data: st.DataObject) -> None:
    point = data.draw(st.lists(st.floats(-4, 4), min_size=program.n_columns, max_size=program.n_columns))
    best = enumerate_optimum(program)
    solution = Highs().solve(program, Limits(incumbent=np.array(point)))
    if math.isinf(best):
        assert solution.status is Status.INFEASIBLE
    else:
        assert solution.status is Status.OPTIMAL and solution.objective == pytest.approx(best, abs=1e-6)


def test_an_almost_integral_incumbent_does_not_beat_the_optimum() -> None:
    # 1e-7 above an integer passes for one, and is worth 30 * 1e4 * 1e-7 more than it should.
    program = build(np.full(30, -1e4), [np.ones(30)], -np.inf, 15.5, integer=True)
    best = np.r_[np.ones(15), np.zeros(15)]
    solution = Highs(presolve=False).solve(program, Limits(incumbent=best + 1e-7))
    assert solution.objective == pytest.approx(-15e4, abs=1e-6)


@pytest.mark.parametrize("program", [knapsack(), knapsack().relax()], ids=["mip", "lp"])
def test_no_time_proves_nothing(program: Program) -> None:
    solution = Highs().solve(program, Limits(time_limit_s=0))
    assert solution.status is Status.TIME_LIMIT and solution.dual_bound == -math.inf
    assert solution.x is None or program.residual(solution.x) <= 1e-6


def test_a_time_limit_keeps_the_point_and_a_true_bound() -> None:
    solution = Highs().solve(market_split(), Limits(time_limit_s=0.5))
    assert solution.status is Status.TIME_LIMIT
    assert solution.objective is not None and 7 <= solution.dual_bound + 1e-6 <= solution.objective
    assert solution.x is not None and market_split().residual(solution.x) <= 1e-6


def test_a_time_limit_reports_no_dual_bound_above_the_cutoff() -> None:
    solution = Highs().solve(market_split(), Limits(time_limit_s=0.5, cutoff=5.0))
    assert solution.dual_bound <= 5


class _Stopped:
    """What HiGHS shows after a time limit, its own dual bound beyond the cut-off that cut the tree."""

    def getModelStatus(self) -> highspy.HighsModelStatus:
        return highspy.HighsModelStatus.kTimeLimit

    def getInfo(self) -> SimpleNamespace:
        return SimpleNamespace(
            mip_dual_bound=9.0, mip_node_count=3, primal_solution_status=2, objective_function_value=12.0
        )

    def getSolution(self) -> SimpleNamespace:
        return SimpleNamespace(value_valid=True, col_value=[1.0])


def test_a_dual_bound_beyond_the_cutoff_is_cut_back_to_it() -> None:
    assert highs_calls.mip_solution(_Stopped(), None, 0.0).dual_bound == 9  # type: ignore[arg-type]
    assert highs_calls.mip_solution(_Stopped(), 8.5, 0.0).dual_bound == 8.5  # type: ignore[arg-type]


def test_progress_is_told_and_true_interrupts() -> None:
    seen: list[MipProgress] = []

    def stop_at_a_point(progress: MipProgress) -> bool:
        seen.append(progress)
        return progress.x is not None

    program = market_split()
    solution = Highs().solve(program, Limits(time_limit_s=60, on_progress=stop_at_a_point))
    assert solution.status is Status.INTERRUPTED and solution.x is not None
    assert seen[-1].x is not None and program.residual(seen[-1].x) <= 1e-6
    assert program.objective(seen[-1].x) == pytest.approx(seen[-1].primal_bound)
    assert seen[0].x is None and seen[0].primal_bound == math.inf
    assert all(a.seconds <= b.seconds and a.nodes <= b.nodes for a, b in pairwise(seen))


def test_progress_that_does_not_say_true_lets_the_solve_end() -> None:
    bounds: list[float] = []
    solution = Highs(presolve=False).solve(
        covering(), Limits(cutoff=1000.0, on_progress=lambda p: bounds.append(p.dual_bound))
    )
    assert solution.status is Status.OPTIMAL and solution.objective is not None
    assert bounds and max(bounds) <= solution.objective + 1e-6


def test_an_error_in_the_progress_function_reaches_the_caller() -> None:
    def fail(progress: MipProgress) -> bool:
        raise RuntimeError("from the callback")

    with pytest.raises(RuntimeError, match="from the callback"):
        Highs().solve(market_split(), Limits(time_limit_s=60, on_progress=fail))


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_stops_a_mip_and_is_raised() -> None:
    before = signal.getsignal(signal.SIGINT)

    def press(progress: MipProgress) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Highs().solve(market_split(), Limits(time_limit_s=60, on_progress=press))
    assert signal.getsignal(signal.SIGINT) is before
    assert Highs().solve(knapsack()).status is Status.OPTIMAL


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_stops_an_lp_and_is_raised() -> None:
    rng = np.random.default_rng(0)
    big = build(rng.normal(size=900), rng.normal(size=(900, 900)), -np.inf, 1.0, -1.0)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        WarmLP(big).run(time_limit_s=60)
    timer.join()


def test_a_solve_outside_the_main_thread_works() -> None:
    solutions: list[Solution] = []
    thread = threading.Thread(target=lambda: solutions.append(Highs().solve(knapsack())))
    thread.start()
    thread.join()
    assert solutions[0].objective == pytest.approx(80)


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("presolve", [False, True])
def test_an_unbounded_program_never_gets_a_dual_bound(integer: bool, presolve: bool) -> None:
    program = build([-1, -1], [[0, 1]], -np.inf, 2, 0, [np.inf, 1], [integer, False])
    solution = Highs(presolve=presolve).solve(program)
    # HiGHS's presolve cannot tell an unbounded MIP from an infeasible one.
    expected = Status.UNKNOWN if integer and presolve else Status.UNBOUNDED
    assert solution.status is expected and solution.dual_bound == -math.inf


def test_a_program_without_rows_is_solved() -> None:
    for integer in (False, True):
        program = build([1, -1], np.zeros((0, 2)), [], [], integer=integer, offset=5.0)
        assert Highs().solve(program).objective == pytest.approx(4)


def test_rows_without_coefficients_count() -> None:
    assert Highs().solve(build([1], [[0]], -1, 1)).status is Status.OPTIMAL
    assert Highs().solve(build([1], [[0]], 1, 2)).status is Status.INFEASIBLE


@st.composite
def linear_programs(draw: st.DrawFn) -> Program:
    seed, n, m = draw(st.integers(0, 10**6)), draw(st.integers(1, 8)), draw(st.integers(1, 10))
    rng = np.random.default_rng(seed)
    lower, upper = np.full(m, -np.inf), rng.normal(size=m) + draw(st.sampled_from([-1.0, 0.5]))
    kind = rng.integers(0, 4, m)
    lower[kind == 0], lower[kind == 1] = upper[kind == 0], upper[kind == 1] - 0.3
    lower[kind == 2], upper[kind == 2] = upper[kind == 2] - 1, np.inf
    program = build(rng.normal(size=n), rng.normal(size=(m, n)), lower, upper, -1.0, rng.random(n), offset=3.0)
    return program


def row_bound(program: Program, y: np.ndarray) -> float:
    """min of y.r over row_lower <= r <= row_upper."""
    ends = np.where(y > 0, program.row_lower, program.row_upper)
    return float(np.sum(np.where(y == 0, 0.0, y * np.where(y == 0, 0.0, ends))))


@given(linear_programs())
@MANY
def test_lp_duals_prove_the_optimum_and_rays_prove_infeasibility(program: Program) -> None:
    solution = Highs(ray=True).solve(program)
    matrix = dense(program)
    if solution.status is Status.INFEASIBLE:
        assert solution.ray is not None and solution.x is None and solution.dual_bound == math.inf
        slope = matrix.T @ solution.ray
        reachable = np.maximum(slope * program.column_lower, slope * program.column_upper).sum()
        assert row_bound(program, solution.ray) > reachable + 1e-9 * np.abs(solution.ray).max()
        return
    assert solution.status is Status.OPTIMAL and solution.ray is None
    assert solution.row_dual is not None and solution.column_dual is not None
    assert solution.column_dual == pytest.approx(program.cost - matrix.T @ solution.row_dual, abs=1e-9)
    y = solution.row_dual.copy()
    y[(np.abs(y) < 1e-9)] = 0
    slope = program.cost - matrix.T @ y
    floor = np.minimum(slope * program.column_lower, slope * program.column_upper).sum()
    assert row_bound(program, y) + floor + program.offset == pytest.approx(solution.dual_bound, abs=1e-6)


def test_a_ray_leans_on_no_infinite_side() -> None:
    # HiGHS's own ray often does, by round-off, which makes the certificate -inf: it does for several of these seeds.
    for seed in range(60):
        rng = np.random.default_rng(seed)
        upper = rng.normal(size=20) - 1
        lower = np.where(rng.random(20) < 0.3, upper - 0.1, -np.inf)
        program = build(rng.normal(size=12), rng.normal(size=(20, 12)), lower, upper, -1.0)
        ray = Highs(ray=True).solve(program).ray
        if ray is None:
            continue
        slope = dense(program).T @ ray
        reachable = np.maximum(slope * program.column_lower, slope * program.column_upper).sum()
        assert row_bound(program, ray) > reachable


def test_both_outcomes_of_the_lp_law_occur() -> None:
    seen = set()

    @given(linear_programs())
    @MANY
    def collect(program: Program) -> None:
        seen.add(Highs().solve(program).status)

    collect()
    assert seen == {Status.OPTIMAL, Status.INFEASIBLE}


def test_a_ray_comes_only_when_asked() -> None:
    program = build([1], [[1]], 3, np.inf)
    assert Highs().solve(program).ray is None
    assert Highs(ray=True).solve(program).ray is not None


@given(linear_programs(), st.lists(st.tuples(st.integers(0, 7), QUARTERS, st.floats(-1, 1)), max_size=12))
@MANY
def test_a_warm_lp_equals_a_cold_one_after_any_changes(
    program: Program, changes: list[tuple[int, float, float]]
) -> None:
    warm = WarmLP(program)
    cost, lower, upper = program.cost.copy(), program.column_lower.copy(), program.column_upper.copy()
    for number, (column, value, bound) in enumerate(changes):
        j = column % program.n_columns
        if number % 2:
            cost[j] = value
            warm.change_cost([j], [value])
        else:
            lower[j], upper[j] = sorted([bound, value / 3])
            warm.change_column_bounds([j], lower[j], upper[j])
        offset = program.offset + number
        warm.change_offset(offset)
        cold = Highs().solve(program.with_cost(cost, offset).with_column_bounds(lower, upper))
        again = warm.run()
        assert again.status is cold.status
        assert (again.objective is None) == (cold.objective is None)
        if cold.objective is not None:
            assert again.objective == pytest.approx(cold.objective, abs=1e-6)
        assert (again.ray is not None) == (cold.status is Status.INFEASIBLE)


def test_the_time_limit_of_a_warm_lp_is_for_each_run() -> None:
    rng = np.random.default_rng(0)
    warm = WarmLP(build(rng.normal(size=80), rng.normal(size=(80, 80)), -np.inf, 1.0, -1.0))
    limit = 0.4
    while warm._model.getRunTime() < 2 * limit:
        warm.change_cost(np.arange(80), rng.normal(size=80))
        assert warm.run().status is Status.OPTIMAL
    warm.change_cost(np.arange(80), rng.normal(size=80))
    assert warm.run(time_limit_s=limit).status is Status.OPTIMAL
    warm.change_cost(np.arange(80), rng.normal(size=80))
    assert warm.run(time_limit_s=0).status is Status.TIME_LIMIT


def test_bad_calls_of_a_warm_lp_are_refused() -> None:
    with pytest.raises(InputError, match="integer columns"):
        WarmLP(knapsack())
    warm = WarmLP(knapsack().relax())
    with pytest.raises(InputError, match=r"0\.\.2"):
        warm.change_cost([3], [1])
    with pytest.raises(InputError, match="named twice"):
        warm.change_cost([1, 1], [1, 2])
    with pytest.raises(InputError, match="expected 2 values"):
        warm.change_cost([0, 1], [1, 2, 3])
    with pytest.raises(InputError, match="finite"):
        warm.change_cost([0], [np.nan])
    with pytest.raises(InputError, match="lower <= upper"):
        warm.change_column_bounds([0], [2], [1])
    with pytest.raises(InputError, match="lower <= upper"):
        warm.change_column_bounds([0], [np.nan], [1])
    with pytest.raises(InputError, match="offset"):
        warm.change_offset(np.inf)
    with pytest.raises(OptionError, match="time_limit_s"):
        warm.run(time_limit_s=math.nan)
    assert warm.run().objective == pytest.approx(100 - 20.25)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"time_limit_s": -1}, "time_limit_s"),
        ({"time_limit_s": math.nan}, "time_limit_s"),
        ({"cutoff": math.nan}, "cutoff"),
        ({"cutoff": -math.inf}, "cutoff"),
        ({"target": math.nan}, "target"),
        ({"target": math.inf}, "target"),
        ({"incumbent": np.zeros((3, 1))}, "incumbent"),
        ({"incumbent": np.array([0, math.nan, 0])}, "incumbent"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"Limits: {message}"):
        Limits(**limits)  # type: ignore[arg-type]


def test_an_incumbent_of_another_program_is_refused() -> None:
    with pytest.raises(InputError, match=r"Highs.solve: incumbent holds 2 values, 'case' has 3 columns"):
        Highs().solve(knapsack(), Limits(incumbent=np.zeros(2)))


def test_open_limits_are_no_limits() -> None:
    solution = Highs().solve(knapsack(), Limits(cutoff=math.inf, target=-math.inf))
    assert solution.status is Status.OPTIMAL and solution.dual_bound == pytest.approx(80)


@pytest.mark.parametrize(
    "options",
    [Highs(seed=-1), Highs(threads=-1), Highs(feasibility_tolerance=1e-20), Highs(mip_gap_abs=-1.0)],
)
def test_an_option_that_highs_refuses_is_refused(options: Highs) -> None:
    with pytest.raises(OptionError, match="does not take"):
        options.solve(knapsack())


def test_a_coefficient_that_highs_drops_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(highs, "SMALLEST_COEFFICIENT", 1e-9)
    with pytest.raises(SolverError, match="passModel answered kWarning on 'case'"):
        Highs().solve(build([1, 1], [[1e-10, 1]], 0, 1))


def test_small_coefficients_that_program_admits_are_kept() -> None:
    # x_0 >= 1 / 1.1e-12 only if the coefficient counts.
    solution = Highs().solve(build([1], [[1.1e-12]], 1.0, np.inf, 0, 1e15))
    assert solution.objective == pytest.approx(1 / 1.1e-12)


def test_nothing_is_printed_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    Highs().solve(knapsack())
    WarmLP(knapsack().relax()).run()
    assert capfd.readouterr() == ("", "")
    Highs(log=True).solve(knapsack())
    assert "HiGHS" in capfd.readouterr().out


def test_another_number_of_threads_in_the_same_process_does_not_stop_us() -> None:
    code = """
import highspy
from milpverify.program.highs import Highs
from milpverify.program.program import ProgramBuilder
builder = ProgramBuilder()
builder.set_cost(builder.add_columns(["a"], 0, 1, integer=True), [-1])
model = highspy.Highs()
model.setOptionValue("output_flag", False)
model.setOptionValue("threads", 2)
model.addVar(0, 1)
model.run()
print(Highs(threads=1).solve(builder.build()).objective, Highs(threads=2).solve(builder.build()).objective)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert [float(word) for word in done.stdout.split()] == [-1, -1]


@given(programs(continuous=True))
@FEW
def test_relaxing_never_raises_the_optimum(program: Program) -> None:
    solution, relaxed = Highs().solve(program), Highs().solve(program.relax())
    if solution.objective is not None:
        assert relaxed.objective is not None and relaxed.objective <= solution.objective + 1e-6
    if relaxed.status is Status.INFEASIBLE:
        assert solution.status is Status.INFEASIBLE
