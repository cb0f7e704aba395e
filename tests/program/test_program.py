from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import highspy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from program_cases import FEW, MANY, assert_same, build, dense, programs

from milpverify.errors import InputError, OptionError, SolverError
from milpverify.program import export
from milpverify.program.highs import Highs
from milpverify.program.program import Program, ProgramBuilder

SUFFIXES = (".lp", ".mps", ".lp.gz", ".mps.gz")


def knapsack() -> Program:
    """max 10 a + 13 b + 7 c, 3 a + 4 b + 2 c <= 6, binaries: b and c weigh 6 and are worth 20, a and c 17."""
    return build([-10, -13, -7], [[3, 4, 2]], -np.inf, 6, integer=True, offset=100.0)


def ugly() -> Program:
    """Every kind of row and bound, with numbers that need all 17 digits."""
    builder = ProgramBuilder()
    x = builder.add_columns(["x", "y", "z", "alone"], [-np.inf, 0, -1, -3], [np.inf, 1, 1 / 3, -2])
    d = builder.add_columns(["d", "k", "fixed"], [0, -2, 1], [1, np.inf, 1], integer=True)
    builder.add_rows([(x[:2], [[1 / 3, -2.0]]), (d[:2], [[0.1, 7]])], -0.1, 1 / 7, ["both"])
    builder.add_rows([(x, np.zeros((1, 4)))], -1, 0.0, ["empty"])
    builder.add_rows([(x[:1], [[np.pi]])], 0.1, 0.1, ["equal"])
    builder.add_rows([(x[1:3], [[1e-11, 4]]), (d, [[1, 1, -1]])], 0.5, np.inf, ["least"])
    builder.add_rows([([x[0], d[0]], [[-1, 2 / 3]])], -np.inf, 1e9 / 7, ["most"])
    builder.set_cost([x[0], x[2], d[0], d[1]], [1.0, -2.5e-7, 1 / 3, 2], -np.e)
    return builder.build("ugly")


@given(programs(continuous=True))
@MANY
def test_dense_and_triplet_blocks_in_any_column_order_give_one_program(program: Program) -> None:
    matrix, n = dense(program), program.n_columns
    sides = (program.row_lower, program.row_upper, program.row_names)
    builder = ProgramBuilder()
    for name, low, up, whole in zip(
        program.column_names, program.column_lower, program.column_upper, program.integer, strict=True
    ):
        builder.add_columns([name], low, up, bool(whole))
    rows, cols = np.indices(matrix.shape)
    order = np.arange(n)[::-1]
    half = n // 2
    triplets = (rows[:, half:].ravel(), cols[:, : n - half].ravel(), matrix[:, order[half:]].ravel())
    builder.add_rows([(order[:half], matrix[:, order[:half]]), (order[half:], triplets)], *sides)
    builder.set_cost(np.arange(n), program.cost, program.offset)
    assert_same(builder.build(program.name), program)


@given(programs())
@MANY
def test_appended_rows_are_the_rows_of_one_build(program: Program) -> None:
    matrix, m = dense(program), program.n_rows
    first = replace(
        program,
        row_start=program.row_start[: m // 2 + 1],
        row_index=program.row_index[: program.row_start[m // 2]],
        row_value=program.row_value[: program.row_start[m // 2]],
        row_lower=program.row_lower[: m // 2],
        row_upper=program.row_upper[: m // 2],
        row_names=program.row_names[: m // 2],
    )
    rest = slice(m // 2, m)
    block = (np.arange(program.n_columns), matrix[rest])
    names = program.row_names[rest]
    assert_same(first.with_rows([block], program.row_lower[rest], program.row_upper[rest], names), program)


def test_residual_is_the_largest_violation_of_any_kind() -> None:
    program = build([1, 1], [[1, 2], [1, -1]], [-np.inf, 0], [4, 3], 0, 3, integer=[True, False])
    assert program.residual([1, 1]) == 0
    assert program.residual([3, 1]) == 1  # x_0 + 2 x_1 = 5 > 4
    assert program.residual([1, 1.5]) == 0.5  # x_0 - x_1 = -0.5 < 0
    assert program.residual([3.5, -0.25]) == 0.75  # x_0 - x_1 = 3.75 > 3; x_0 0.5 above 3, half off an integer
    assert program.residual([0.75, 0.25]) == 0.25  # not an integer
    assert program.residual([0, -2]) == 2  # below the bound
    assert program.residual([np.nan, 0]) == np.inf
    with pytest.raises(InputError, match=r"shape \(2,\)"):
        program.residual([1])


def test_objective_includes_the_offset() -> None:
    assert knapsack().objective([0, 1, 1]) == 80


def test_a_changed_copy_leaves_the_original_alone() -> None:
    program = knapsack()
    changed = program.relax().with_cost([1, 2, 3], 4.0).with_column_bounds([0, 0, 0], [0, 1, 0.5])
    assert_same(program, knapsack())
    assert not changed.is_mip and changed.objective([1, 1, 1]) == 10
    assert changed.column_upper.tolist() == [0, 1, 0.5]


def test_arrays_are_copies_and_cannot_be_written() -> None:
    cost = np.array([1.0, 2.0])
    program = build([0, 0], [[1, 1]], 0, 1).with_cost(cost, 0.0)
    cost[:] = 5
    assert program.cost.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        program.cost[0] = 3


TINY = st.floats(1e-300, 1e-12) | st.floats(-1e-12, -1e-300)


@given(
    st.lists(TINY, min_size=3, max_size=3),
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e6)), min_size=3, max_size=3),
    st.floats(-10, 10),
    st.lists(st.fractions(0, 1), min_size=3, max_size=3),
)
@MANY
def test_absorbing_tiny_coefficients_only_relaxes(
    tiny: list[float], boxes: list[tuple[float, float]], side: float, where: list[Fraction]
) -> None:
    lower = np.array([low for low, _ in boxes])
    upper = lower + [width for _, width in boxes]
    builder = ProgramBuilder(absorb_tiny=True)
    x = builder.add_columns(["a", "b", "c"], lower, upper)
    y = builder.add_columns(["y"], -np.inf, np.inf)
    builder.add_rows([(x, np.array([tiny, tiny])), (y, [[1.0], [1.0]])], [side, -np.inf], side, ["is", "most"])
    program = builder.build()
    assert program.n_nonzeros == 2
    # Exactly: choose x in its box and y so that the row as asked holds with equality.
    terms = [
        Fraction(t) * (Fraction(low) + f * (Fraction(up) - Fraction(low)))
        for t, low, up, f in zip(tiny, lower.tolist(), upper.tolist(), where, strict=True)
    ]
    exact_y = Fraction(side) - sum(terms)
    assert Fraction(float(program.row_lower[0])) <= exact_y <= Fraction(float(program.row_upper[0]))
    assert exact_y <= Fraction(float(program.row_upper[1])) and program.row_lower[1] == -np.inf
    assert program.row_upper[0] - program.row_lower[0] <= 1e-5


def test_a_tiny_coefficient_is_refused_with_its_row_and_column() -> None:
    with pytest.raises(SolverError, match=r"1e-13 in row 'r_1', column 'x_0'"):
        build([1, 1], [[1, 1], [1e-13, 1]], 0, 1)
    builder = ProgramBuilder(absorb_tiny=True)
    x = builder.add_columns(["boundless", "y"], -np.inf, np.inf)
    builder.add_rows([(x, [[1e-13, 1]])], 0, 1, ["row"])
    with pytest.raises(SolverError, match="'boundless'"):
        builder.build()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": np.ones(2)}, r"cost must have shape \(3,\)"),
        ({"row_start": [0, 2]}, "row_start must rise from 0 to 3"),
        ({"row_index": [0, 1, 3]}, "row 'r_0' names column 3"),
        ({"row_index": [0, 2, 1]}, "increase within row 'r_0'"),
        ({"row_index": [0.5, 1, 2]}, "whole numbers"),
        ({"row_index": [0, 1, 2**32 + 2]}, "whole numbers"),
        ({"column_lower": [0, 2, 0]}, r"column 'x_1' must have lower <= upper.*\[2.0, 1.0\]"),
        ({"column_lower": [0, np.nan, 0]}, "column 'x_1'"),
        ({"column_upper": [1, 1, 1e20]}, "column 'x_2'"),
        ({"column_lower": [np.inf, 0, 0], "column_upper": [np.inf, 1, 1]}, "column 'x_0'"),
        ({"row_upper": [-np.inf]}, "row 'r_0'"),
        ({"row_upper": [np.inf]}, "row 'r_0' is free"),
        ({"cost": [1, np.nan, 0]}, "nan for 'x_1'"),
        ({"cost": [1, 0, 1e20]}, "1e\\+20 for 'x_2'"),
        ({"offset": np.inf}, "inf for 'the offset'"),
        ({"column_names": ("a", "b", "a")}, "column name 'a' is used twice"),
        ({"column_names": ("a", "b c", "d")}, "column name 'b c'"),
        ({"column_names": ("a", "e12", "d")}, "column name 'e12'"),
        ({"row_names": ("Free",)}, "row name 'Free'"),
        ({"row_names": ("1st",)}, "row name '1st'"),
        ({"row_names": ("r" * 91,)}, "at most 90"),
        ({"name": "my program"}, "program name 'my program'"),
    ],
)
def test_a_malformed_program_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(knapsack(), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [1e15, np.inf, np.nan])
def test_a_coefficient_that_solvers_refuse_is_refused(value: float) -> None:
    with pytest.raises(SolverError, match="row 'r_0', column 'x_1'"):
        replace(knapsack(), row_value=[3, value, 2])  # type: ignore[arg-type]


def test_a_program_without_columns_is_refused() -> None:
    with pytest.raises(InputError, match="at least one column"):
        ProgramBuilder().build()


def test_bad_blocks_are_refused() -> None:
    builder = ProgramBuilder()
    x = builder.add_columns(["a", "b"], 0, 1)
    cases: list[tuple[list[object], object, str]] = [
        ([(x, np.ones((2, 2)))], 0, r"shape \(1, 2\), got \(2, 2\)"),
        ([([0, 2], np.ones((1, 2)))], 0, r"0\.\.1, got 0\.\.2"),
        ([(x, np.ones((1, 2))), ([1], [[1.0]])], 0, "column 1 stands twice in row 'row'"),
        ([(x, ([0], [0, 1], [1.0, 2.0]))], 0, "equally long"),
        ([(x, ([1], [0], [1.0]))], 0, "outside"),
        ([(x, ([0], [2], [1.0]))], 0, "outside"),
        ([(x, np.ones((1, 2)))], [0, 0], r"broadcast to \(1,\)"),
    ]
    for blocks, lower, message in cases:
        with pytest.raises(InputError, match=message):
            builder.add_rows(blocks, lower, 1, ["row"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="named twice"):
        builder.set_cost([0, 0], [1, 2])
    builder.set_cost([5], [1])
    with pytest.raises(InputError, match=r"0\.\.1"):
        builder.build()


def read_back(path: Path) -> highspy.HighsLp:
    model = highspy.Highs()
    for option, value in (("output_flag", False), ("small_matrix_value", 1e-12)):
        assert model.setOptionValue(option, value) == highspy.HighsStatus.kOk
    assert model.readModel(str(path)) == highspy.HighsStatus.kOk
    return model.getLp()


def rows_by_name(program: Program) -> dict[str, tuple[dict[str, float], float, float]]:
    matrix = dense(program)
    rows = zip(program.row_names, matrix, program.row_lower.tolist(), program.row_upper.tolist(), strict=True)
    names = program.column_names
    return {name: ({names[j]: float(row[j]) for j in np.flatnonzero(row)}, low, up) for name, row, low, up in rows}


def assert_file_holds(path: Path, program: Program) -> None:
    """HiGHS reads every number of `program` back to the last bit, split rows joined."""
    lp = read_back(path)
    position = {name: j for j, name in enumerate(lp.col_names_)}
    order = [position[name] for name in program.column_names]
    assert len(order) == lp.num_col_ and lp.offset_ == program.offset
    assert np.array_equal(np.array(lp.col_cost_)[order], program.cost)
    assert np.array_equal(np.array(lp.col_lower_)[order], program.column_lower)
    assert np.array_equal(np.array(lp.col_upper_)[order], program.column_upper)
    kinds = np.array([kind == highspy.HighsVarType.kInteger for kind in lp.integrality_] or [False] * len(order))
    assert np.array_equal(kinds[order], program.integer)
    assert lp.num_row_ == 0 or lp.a_matrix_.format_ == highspy.MatrixFormat.kColwise
    terms: dict[str, dict[str, float]] = {name: {} for name in lp.row_names_}
    for name, j in position.items():
        for k in range(lp.a_matrix_.start_[j], lp.a_matrix_.start_[j + 1]):
            if lp.a_matrix_.value_[k] != 0:
                terms[lp.row_names_[lp.a_matrix_.index_[k]]][name] = lp.a_matrix_.value_[k]
    found: dict[str, tuple[dict[str, float], float, float]] = {}
    for name, low, up in zip(lp.row_names_, lp.row_lower_, lp.row_upper_, strict=True):
        base = name.removesuffix(".lower").removesuffix(".upper")
        if base in found:
            assert found[base][0] == terms[name]
            low, up = max(low, found[base][1]), min(up, found[base][2])
        found[base] = (terms[name], low, up)
    assert found == rows_by_name(program)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_written_file_holds_the_program_to_the_last_bit(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"ugly{suffix}"
    ugly().write(path)
    assert_file_holds(path, ugly())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_lp_file_reads_well_and_names_every_column(tmp_path: Path) -> None:
    builder = ProgramBuilder()
    x = builder.add_columns(["x", "alone"], 0, [2, 1])
    d = builder.add_columns(["d"], 0, 1, integer=True)
    builder.add_rows([(np.r_[x[:1], d], [[1, -2.5]])], [-1], [3], ["link"])
    builder.set_cost(d, [-1], 4)
    builder.build("small").write(tmp_path / "small.lp")
    assert (tmp_path / "small.lp").read_text().splitlines() == [
        "\\ small: 3 columns, 1 rows",
        "Minimize",
        " obj:",
        "  + 0 alone - d",
        "  + 4",
        "Subject To",
        " link.lower: + x - 2.5 d >= -1",
        " link.upper: + x - 2.5 d <= 3",
        "Bounds",
        " 0 <= x <= 2",
        " 0 <= alone <= 1",
        " 0 <= d <= 1",
        "Binaries",
        " d",
        "End",
    ]


SIDES = st.floats(-1e6, 1e6).map(lambda v: v + 0.0)


@given(programs(continuous=True), st.lists(SIDES, min_size=14, max_size=14), st.sampled_from(SUFFIXES))
@MANY
def test_random_programs_survive_a_file(
    tmp_path_factory: pytest.TempPathFactory, program: Program, numbers: list[float], suffix: str
) -> None:
    n, m = program.n_columns, program.n_rows
    bent = program.with_cost(numbers[:n], numbers[5])
    sides = np.sort(np.array(numbers[6 : 6 + 2 * m]).reshape(m, 2), axis=1)
    bent = replace(bent, row_lower=sides[:, 0], row_upper=sides[:, 1])
    path = tmp_path_factory.getbasetemp() / f"random{suffix}"
    bent.write(path)
    assert_file_holds(path, bent)


@given(programs(continuous=True), st.sampled_from((".lp", ".mps")))
@FEW
def test_highs_solves_the_file_to_the_same_optimum(
    tmp_path_factory: pytest.TempPathFactory, program: Program, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"solved{suffix}"
    program.write(path)
    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    assert model.readModel(str(path)) == highspy.HighsStatus.kOk
    model.run()
    solution = Highs().solve(program)
    if solution.objective is None:
        assert model.getModelStatus() == highspy.HighsModelStatus.kInfeasible
    else:
        assert model.getInfo().objective_function_value == pytest.approx(solution.objective, abs=1e-5)


def test_a_file_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"must end in .lp, .mps.*'model.txt'"):
        knapsack().write(tmp_path / "model.txt")
    with pytest.raises(OptionError, match="existing, writable folder"):
        knapsack().write(tmp_path / "missing" / "model.lp")
    (tmp_path / "folder.lp").mkdir()
    with pytest.raises(OptionError, match="cannot write"):
        knapsack().write(tmp_path / "folder.lp")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.lp"]


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.mps.gz"
    knapsack().write(path)
    before = path.read_bytes()

    def broken(program: Program):  # type: ignore[no-untyped-def]
        yield from ["NAME broken"] * 10_000
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_mps_lines", broken)
    with pytest.raises(KeyboardInterrupt):
        ugly().write(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.mps.gz" for k in range(2)]
    for path in paths:
        ugly().write(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_programs_are_data_and_import_no_solver() -> None:
    code = (
        "import sys, milpverify.program.program as p; "
        "print([m for m in ('highspy', 'pulp', 'scipy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
