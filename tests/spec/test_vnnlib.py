"""The VNN-LIB reader: it means what the formula says, keeps decimals exact, and names the line of an error."""

from __future__ import annotations

import csv
import gzip
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpverify.errors import RegionError, VnnlibError
from milpverify.spec.property import Property
from milpverify.spec.vnnlib import read_vnnlib
from tests.paths import need
from tests.spec.strategies import LAW
from tests.spec.test_property import Shape

HEAD = "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
BOX = "(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= X_1 0)) (assert (<= X_1 1))\n"


def read(folder: Path, text: str) -> Property:
    """The property of a text."""
    path = folder / "p.vnnlib"
    path.write_text(text)
    return read_vnnlib(path)


def is_counterexample(prop: Property, x: list[Fraction], y: list[Fraction]) -> bool:
    """Whether some case has x in its region and y in its unsafe set."""
    return any(case.region.contains(x) and case.unsafe.contains_exact(y) for case in prop.cases)


Formula = tuple[str, object, object] | tuple[str, list["Formula"]]

GRID = [Fraction(k, 10) for k in range(-11, 12)]  # tenths: no floats, many ties


def formulas() -> st.SearchStrategy[Formula]:
    """Nested and/or over comparisons of X_i, Y_j and tenths."""
    value = st.integers(-8, 8).map(lambda k: Fraction(k, 10))
    sides = st.one_of(
        st.tuples(st.sampled_from(["X_0", "X_1", "Y_0", "Y_1"]), value),
        st.tuples(value, st.sampled_from(["X_0", "X_1", "Y_0", "Y_1"])),
        st.tuples(st.sampled_from(["Y_0", "Y_1"]), st.sampled_from(["Y_0", "Y_1"])),
        st.tuples(st.sampled_from(["X_0", "X_1"]), st.sampled_from(["X_0", "X_1"])),
    )
    atom = st.tuples(st.sampled_from(["<=", ">="]), sides).map(lambda t: (t[0], *t[1]))
    words = st.sampled_from(["and", "or"])
    return st.recursive(atom, lambda inner: st.tuples(words, st.lists(inner, min_size=1, max_size=3)), max_leaves=8)


def text_of(formula: Formula, style: int) -> str:
    """VNN-LIB text, with numbers and white space in several styles."""
    if formula[0] in ("and", "or"):
        return f"({formula[0]}\n {' '.join(text_of(part, style) for part in formula[1])} ; a ) comment (\n)"

    def side(v: object) -> str:
        if isinstance(v, str):
            return v
        assert isinstance(v, Fraction)
        return [f"{float(v)}", f"{v * 1000}e-3", f"{float(v):.4f}", f"{float(v * 10)}E-01"][style]

    return f"({formula[0]} {side(formula[1])}\t{side(formula[2])})"


def holds(formula: Formula, values: dict[object, Fraction]) -> bool:
    """The formula's truth at a point, straight from its meaning."""
    if formula[0] == "and":
        return all(holds(part, values) for part in formula[1])
    if formula[0] == "or":
        return any(holds(part, values) for part in formula[1])
    a, b = (values.get(v, v) for v in formula[1:])
    return a <= b if formula[0] == "<=" else a >= b


@LAW
@given(st.lists(formulas(), min_size=1, max_size=3), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_cases_mean_what_the_formula_says(
    tmp_path_factory: pytest.TempPathFactory, asserted: list[Formula], style: int, seed: int
) -> None:
    bound = [("and", [(">=", f"X_{i}", Fraction(-1)), (">=", Fraction(1), f"X_{i}")]) for i in (0, 1)]
    everything: Formula = ("and", [*bound, *asserted])
    body = "\n".join(f"(assert {text_of(f, style)})" for f in (*bound, *asserted))
    rng = np.random.default_rng(seed)
    points = [[GRID[k] for k in row] for row in rng.integers(0, len(GRID), (60, 4))]
    truths = [holds(everything, dict(zip(("X_0", "X_1", "Y_0", "Y_1"), p, strict=True))) for p in points]
    try:
        prop = read(tmp_path_factory.mktemp("random"), HEAD + body)
    except RegionError as error:
        assert "empty region" in str(error) and not any(truths)
        return
    for p, truth in zip(points, truths, strict=True):
        assert is_counterexample(prop, p[:2], p[2:]) == truth


def test_a_robustness_file_has_one_region_and_exact_decimals(tmp_path: Path) -> None:
    text = """; a comment (with a parenthesis
(declare-fun X_0 () Real) (declare-const X_1 Real)
(declare-const Y_0 Real)(declare-const Y_1 Real)(declare-const Y_2 Real)
(set-logic QF_LRA)
(assert (and (<= 0.1 X_0) (>= 2e-1 X_0)))
(assert (>= X_1 -0.3)) (assert (<= X_1 -.3)) ; lb = ub
(assert (or (and (>= Y_1 Y_0)) (and (<= Y_0 Y_2) (>= Y_2 +1.5E1))))
(check-sat)
"""
    prop = read(tmp_path, text)
    assert prop.name == "p" and (prop.n_inputs, prop.n_outputs) == (2, 3)
    first, second = prop.cases
    assert first.region is second.region
    assert first.region.exact_lower == (Fraction(1, 10), Fraction(-3, 10))
    assert first.region.exact_upper == (Fraction(1, 5), Fraction(-3, 10))
    assert first.unsafe.C.tolist() == [[1, -1, 0]]
    assert second.unsafe.C.tolist() == [[1, 0, -1], [0, 0, -1]] and second.unsafe.d_exact == (0, -15)


def test_disjunctive_inputs_share_a_region_where_they_agree(tmp_path: Path) -> None:
    inputs = "(assert (or (and (<= X_0 0.5) (<= Y_0 7)) (<= 0.75 X_0) (<= X_0 0.5)))\n"
    prop = read(tmp_path, HEAD + BOX + inputs + "(assert (or (<= Y_0 0) (<= Y_1 0)))")
    assert [len(group) for group in prop.groups()] == [4, 2]
    assert [case.name for case in prop.cases] == [f"disjunct {i}" for i in range(1, 7)]
    assert prop.cases[0].unsafe.C.tolist() == [[1, 0], [1, 0]]
    assert prop.cases[2].region.exact_lower == (Fraction(3, 4), 0)


def test_orders_of_inputs_become_cuts_and_tighten_the_box(tmp_path: Path) -> None:
    prop = read(tmp_path, HEAD + "(assert (<= X_0 X_1)) (assert (<= 0 X_0)) (assert (<= X_1 1)) (assert (<= X_0 2))")
    region = prop.cases[0].region
    assert region.exact_lower == (0, 0) and region.exact_upper == (1, 1)
    assert region.contains([0.25, 0.25]) and not region.contains([0.25, 0.2])


def test_a_property_of_inputs_alone_makes_every_output_unsafe(tmp_path: Path) -> None:
    unsafe = read(tmp_path, HEAD + BOX).cases[0].unsafe
    assert unsafe.C.shape == (0, 2) and unsafe.contains_exact([Fraction(5), Fraction(-5)])


def test_contradictory_disjuncts_are_dropped(tmp_path: Path) -> None:
    prop = read(tmp_path, HEAD + BOX + "(assert (or (>= X_0 1.0000000001) (>= X_1 1) (<= X_1 -1e-20)))")
    assert len(prop.cases) == 1 and prop.cases[0].region.exact_lower == (0, 1)


@pytest.mark.parametrize(
    "text",
    [
        "(assert (<= 2 X_1))",
        "(assert (or (<= 2 X_1) (<= X_1 -1)))",
        "(assert (<= X_1 X_0)) (assert (<= X_0 0.25)) (assert (<= 0.5 X_1))",
    ],
)
def test_an_empty_region_names_the_lines(tmp_path: Path, text: str) -> None:
    with pytest.raises(RegionError, match=r"p\.vnnlib:6: empty region: the lower bound of X_[01] here .* on line [56]"):
        read(tmp_path, HEAD + BOX + text)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("(assert (<= X_2 1))", 6, "X_2 is not declared before its use"),
        ("\n\n(assert (<= Y_0 Y_7))", 8, "Y_7 is not declared"),
        ("(assert (< Y_0 1))", 6, "strict inequality '<'. Write <="),
        ("(assert (or (<= Y_0 1)\n (> Y_0 1)))", 7, "strict inequality '>'"),
        ("(assert (= Y_0 1))", 6, "'=' is not read"),
        ("(assert (not (<= Y_0 1)))", 6, "operator 'not' is not read"),
        ("(assert (=> (<= Y_0 1) (<= Y_0 1)))", 6, "operator '=>' is not read"),
        ("(assert (<= (* 2 Y_0) 1))", 6, r"arithmetic '\*' is not read"),
        ("(assert (<= Y_0 (+ Y_1 1)))", 6, r"arithmetic '\+' is not read"),
        ("(assert (<= Y_0 (- 1)))", 6, "arithmetic '-' is not read"),
        ("(assert (<= Y_0 one))", 6, "expected a declared variable or a decimal number, got 'one'"),
        ("(assert (<= Y_0 1.2.3))", 6, "decimal number, got '1.2.3'"),
        ("(assert (<= Y_0 .))", 6, "decimal number, got '.'"),
        ("(assert (<= Y_0 nan))", 6, "decimal number, got 'nan'"),
        ("(assert (<= Y_0 1e400))", 6, "larger than any float64"),
        ("(assert (<= Y_0 1e99999))", 6, "more than 4000 digits"),
        ("(assert (<= X_0 Y_0))", 6, "compares an input with an output, X_0 <= Y_0"),
        ("(assert (>= X_0 Y_0))", 6, "compares an input with an output, Y_0 <= X_0"),
        ("(assert (<= 1 2))", 6, "compares two constants, 1 <= 2"),
        ("(assert (<= Y_0 1 2))", 6, "<= takes two arguments"),
        ("(assert (<= Y_0))", 6, "<= takes two arguments"),
        ("(assert (or))", 6, "'or' without arguments"),
        ("(assert Y_0)", 6, "expected a formula in parentheses, got 'Y_0'"),
        ("(assert (<= Y_0 1)", 6, "never closed. The file may be truncated"),
        ("(assert (<= Y_0", 6, "never closed"),
        ("(assert (or (<= Y_0 1)\n(assert (<= Y_0 1))", 7, r"'assert' inside a formula. A '\)' is missing"),
        ("(assert (<= Y_0 1)\n(assert (<= Y_0 1))", 7, r"expected '\)', got '\('"),
        ("(assert (<= Y_0 1)))", 6, r"expected '\(', got '\)'"),
        ("(declare-const Z_0 Real)", 6, "declares 'Z_0'"),
        ("(declare-const X_02 Real)", 6, "declares 'X_02'"),
        ("(declare-const X_2 Int)", 6, "X_2 has the sort 'Int'. Only Real"),
        ("(declare-fun X_2 (Real) Real)", 6, "function with arguments"),
        ("(declare-const X_3 Real)", 6, "declares X_3 but no X_2"),
        ("(declare-const X_2 Real)\n(assert (<= X_2 1))", 6, r"X_2 has no lower bound. Add \(assert \(>= X_2 ...\)\)"),
        ("(define-fun f () Real 1)", 6, "unknown command 'define-fun'"),
        (f"(assert {'(and ' * 102}(<= Y_0 1){')' * 102})", 6, "nested deeper than 100"),
    ],
)
def test_errors_name_file_line_and_remedy(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(VnnlibError, match=message) as caught:
        read(tmp_path, HEAD + BOX + text)
    assert str(caught.value).startswith(f"{tmp_path / 'p.vnnlib'}:{line}: ") and "\n" not in str(caught.value)


def test_too_many_disjuncts_are_refused_before_they_are_made(tmp_path: Path) -> None:
    with pytest.raises(VnnlibError, match="nest into 1208925819614629174706176 disjuncts, at most 100000"):
        read(tmp_path, HEAD + BOX + "(assert (or (<= Y_0 1) (<= Y_1 1)))\n" * 80)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.vnnlib", None, "cannot be read: No such file"),
        ("p.vnnlib", b"", "the file is empty"),
        ("p.vnnlib.gz", b"", "the file is empty"),
        ("p.vnnlib", b"; only a comment\n", "the file is empty"),
        ("p.vnnlib", b"\xff\xfe\x00", "is not a text file"),
        ("p.vnnlib", b"(declare-const Y_0 Real)", "declares no X_0"),
        ("p.vnnlib", b"(declare-const X_0 Real)", "declares no Y_0"),
        ("p.vnnlib.gz", b"(declare-const X_0 Real)", "is not gzip-compressed"),
        ("p.vnnlib.gz", gzip.compress((HEAD + BOX).encode(), mtime=0)[:-20], "damaged gzip file"),
    ],
)
def test_unreadable_files_are_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VnnlibError, match=message):
        read_vnnlib(path)


def test_the_network_must_have_the_declared_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "p.vnnlib.gz"
    path.write_bytes(gzip.compress((HEAD + BOX).encode(), mtime=0))
    assert read_vnnlib(path, Shape(n_outputs=2)).n_inputs == 2  # type: ignore[arg-type]
    with pytest.raises(VnnlibError, match=r"declares 2 inputs and 2 outputs, the network has 784 \(shape .* and 10"):
        read_vnnlib(path, Shape(784, 10, (1, 28, 28)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "inputs", "outputs", "cases", "groups"),
    [
        (("acasxu", "vnnlib", "prop_1.vnnlib"), 5, 5, 1, 1),
        (("acasxu", "vnnlib", "prop_6.vnnlib"), 5, 5, 8, 2),
        (("mnist_fc", "vnnlib", "prop_0_0.03.vnnlib"), 784, 10, 9, 1),
        (("test", "test_prop.vnnlib"), 5, 5, 1, 1),
    ],
)
def test_published_files(parts: tuple[str, ...], inputs: int, outputs: int, cases: int, groups: int) -> None:
    prop = read_vnnlib(need(*parts))
    assert (prop.n_inputs, prop.n_outputs, len(prop.cases), len(prop.groups())) == (inputs, outputs, cases, groups)


@pytest.mark.parametrize("suite", ["acasxu", "reach_prob_density", "rl_benchmarks"])
def test_published_counterexamples_satisfy_the_files(suite: str) -> None:
    witnesses = np.load(need(suite, "sat_witnesses.npz"))
    rows = list(csv.reader(str(line) for line in witnesses["index"]))
    assert rows
    for i, row in enumerate(rows):
        prop = read_vnnlib(need(suite, row[0].split("|")[1]))
        x, y = witnesses[f"x{i}"].reshape(-1), witnesses[f"y{i}"].reshape(-1).tolist()
        # Published inputs are rounded to float32: they lie within its rounding of a region.
        near = [case for case in prop.cases if np.abs(case.region.project(x) - x).max() <= 1e-6 * (1 + np.abs(x).max())]
        assert any(case.unsafe.contains_exact(y) for case in near), row
