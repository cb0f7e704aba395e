"""Properties: robustness cases, exact unsafe sets, and files that give back what was saved."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpverify.errors import PropertyError, RegionError
from milpverify.spec.property import Case, Polyhedron, Property, load_property, robustness
from milpverify.spec.regions import Ball, Box, L1Ball, L2Ball, LinfBall, Region
from milpverify.spec.vnnlib_text import decimal
from tests.spec.strategies import LAW, boxes, regions


@dataclass(frozen=True)
class Shape:
    """What `robustness` asks of a network."""

    n_inputs: int = 2
    n_outputs: int = 3
    input_shape: tuple[int, ...] = (1, 2)


def same_region(a: Region, b: Region) -> bool:
    """Whether two regions have the same type and the same exact data."""
    if isinstance(a, Ball) and isinstance(b, Ball):
        clips = [np.array(x.clip if x.clip is not None else []) for x in (a, b)]
        if not (np.array_equal(a.center, b.center) and a.eps == b.eps and np.array_equal(*clips)):
            return False
    arrays = ("lower", "upper", "inner_lower", "inner_upper")
    return (
        type(a) is type(b)
        and (a.exact_lower, a.exact_upper) == (b.exact_lower, b.exact_upper)
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)
        and np.array_equal(a.cuts.A, b.cuts.A)
        and np.array_equal(a.cuts.b, b.cuts.b)
    )


def same_unsafe(a: Polyhedron, b: Polyhedron) -> bool:
    """Whether two polyhedra have the same rows, in order."""
    return np.array_equal(a.C, b.C) and np.array_equal(a.d, b.d) and a.d_exact == b.d_exact


def test_robustness_has_one_case_per_target_and_a_tie_is_unsafe() -> None:
    region = LinfBall([0.5, 0.5], 0.1)
    prop = robustness(Shape(), region, 1)
    assert [case.name for case in prop.cases] == ["target 0", "target 2"] and prop.label == 1
    assert all(case.region is region for case in prop.cases) and len(prop.groups()) == 1
    second = prop.cases[1].unsafe
    assert second.C.tolist() == [[0, 1, -1]] and second.d.tolist() == [0]
    assert second.contains_exact([0, 2, 2]) and not second.contains_exact([9, 2.0000001, 2])
    assert [case.name for case in robustness(Shape(), region, 0, [2, 2]).cases] == ["target 2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": 3}, "label 3 is out of range: the network has 3 outputs, 0 to 2"),
        ({"label": -1}, "label -1 is out of range"),
        ({"label": 1.0}, "label must be an integer, got float"),
        ({"label": 1, "targets": [0, 5]}, "target 5 is out of range"),
        ({"label": 1, "targets": [0, 1]}, "target 1 is the label itself"),
        ({"label": 1, "targets": []}, "no target is left besides label 1"),
        ({"label": 0, "net": Shape(n_outputs=1)}, "no target is left"),
        ({"label": 0, "net": Shape(784, 10, (1, 28, 28))}, r"2 coordinates, the network reads 784 \(input shape"),
    ],
)
def test_robustness_refuses_what_does_not_fit(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(PropertyError, match=message) as caught:
        robustness(**{"net": Shape(), "region": Box([0, 0], [1, 1]), **arguments})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_right_hand_sides_are_rounded_up_and_kept_exactly() -> None:
    tenth = Fraction(1, 10)
    unsafe = Polyhedron(np.array([[1.0, 0.0], [0.0, -1.0]]), np.zeros(2), (tenth, -tenth))
    assert [Fraction(v) for v in unsafe.d.tolist()] == [Fraction(0.1), -Fraction(np.nextafter(0.1, 0))]
    assert all(Fraction(v) >= q for v, q in zip(unsafe.d.tolist(), unsafe.d_exact or (), strict=True))
    assert unsafe.contains_exact([tenth, tenth]) and not unsafe.contains_exact([0.1, 0.2])
    assert unsafe.slack_exact([Fraction(1, 5), Fraction(0)]) == tenth
    assert Polyhedron(np.eye(1), np.array([0.1])).d_exact == (Fraction(0.1),)


def test_a_set_without_rows_is_every_output() -> None:
    every = Polyhedron(np.zeros((0, 2)), np.zeros(0))
    assert every.contains_exact([Fraction(1), Fraction(2)])
    with pytest.raises(PropertyError, match="without rows"):
        every.slack_exact([Fraction(1), Fraction(2)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Polyhedron(np.eye(2), np.zeros(3)), r"C of shape \(2, 2\) and d of shape \(3,\)"),
        (lambda: Polyhedron(np.zeros((0, 0)), np.zeros(0)), "expected"),
        (lambda: Polyhedron(np.array([[np.nan]]), np.zeros(1)), "NaN"),
        (lambda: Polyhedron(np.eye(2), np.zeros(2)).contains_exact([Fraction(1)]), "1 outputs came, expected 2"),
        (lambda: Property((), 1, 1), "at least one case"),
        (lambda: Property((Case(Box([0], [1]), Polyhedron(np.eye(2), np.zeros(2)), "a"),), 1, 1), "case 0 'a' is"),
    ],
)
def test_bad_properties_are_refused(make: object, message: str) -> None:
    with pytest.raises(PropertyError, match=message):
        make()  # type: ignore[operator]


def test_groups_are_cases_of_one_region_object_in_order() -> None:
    a, b = Box([0], [1]), Box([0], [1])
    unsafe = Polyhedron(np.eye(1), np.zeros(1))
    cases = tuple(Case(region, unsafe, str(i)) for i, region in enumerate((a, b, a)))
    assert [[case.name for case in group] for group in Property(cases, 1, 1).groups()] == [["0", "2"], ["1"]]


@LAW
@given(regions(), regions(), st.lists(st.fractions(-9, 9), min_size=2, max_size=2), st.booleans())
def test_json_gives_back_everything(
    tmp_path_factory: pytest.TempPathFactory, a: Region, b: Region, d: list[Fraction], cut: bool
) -> None:
    n = min(a.dimension, b.dimension)
    if a.dimension != b.dimension:
        b = Box(np.arange(a.dimension) / 3, np.arange(a.dimension) / 3 + 1)
        n = a.dimension
    if cut:
        b = b.with_cuts(np.ones(n) / 3, float(np.abs(b.upper).sum()))
    C = np.array([[0.1, -2.5, 0.0], [1 / 3, 0.0, 1e-300]])
    rows = Polyhedron(C, np.zeros(2), tuple(d))
    every = Polyhedron(np.zeros((0, 3)), np.zeros(0))
    prop = Property((Case(a, rows, "one"), Case(b, every, "two"), Case(a, rows)), n, 3, "näme", 2)
    path = tmp_path_factory.mktemp("json") / "p.json"
    prop.save(path)
    back = load_property(path)
    assert (back.name, back.label, back.n_inputs, back.n_outputs) == ("näme", 2, n, 3)
    assert [case.name for case in back.cases] == ["one", "two", ""]
    assert back.cases[0].region is back.cases[2].region
    for old, new in zip(prop.cases, back.cases, strict=True):
        assert same_region(old.region, new.region) and same_unsafe(old.unsafe, new.unsafe)


def comparisons() -> st.SearchStrategy[Polyhedron]:
    """Up to three different rows that VNN-LIB can say, over three outputs."""
    values = st.one_of(st.integers(-(10**6), 10**6).map(lambda k: Fraction(k, 10**4)), st.floats(-9, 9).map(Fraction))
    singles = st.tuples(st.sampled_from([[1, 0, 0], [0, 0, -1], [0, -1, 0]]), values)
    pairs = st.tuples(st.sampled_from([[1, -1, 0], [0, -1, 1]]), st.just(Fraction(0)))
    rows = st.lists(st.one_of(singles, pairs), max_size=3, unique_by=lambda row: (tuple(row[0]), row[1]))
    return rows.map(
        lambda r: Polyhedron(np.array([c for c, _ in r]).reshape(-1, 3), np.zeros(len(r)), tuple(d for _, d in r))
    )


@LAW
@given(st.lists(st.tuples(st.integers(0, 1), comparisons()), min_size=1, max_size=4), st.data())
def test_vnnlib_gives_back_boxes_and_comparisons_exactly(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, Polyhedron]], data: st.DataObject
) -> None:
    first = data.draw(boxes())
    ball = LinfBall(np.arange(first.dimension) / 7, 0.1, (0, 1 / 3 + first.dimension))
    prop = Property(tuple(Case((first, ball)[k], unsafe) for k, unsafe in parts), first.dimension, 3, "a; name\n(b")
    path = tmp_path_factory.mktemp("vnnlib") / data.draw(st.sampled_from(["p.vnnlib", "p.vnnlib.gz"]))
    prop.save(path)
    back = load_property(path)
    assert (back.n_inputs, back.n_outputs, len(back.cases)) == (first.dimension, 3, len(parts))
    for old, new in zip(prop.cases, back.cases, strict=True):
        assert same_unsafe(old.unsafe, new.unsafe)
        assert (old.region.exact_lower, old.region.exact_upper) == (new.region.exact_lower, new.region.exact_upper)
        assert np.array_equal(old.region.lower, new.region.lower) and np.array_equal(old.region.upper, new.region.upper)
    assert len(back.groups()) == len(prop.groups())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(0), "0.0"),
        (Fraction(-3, 2), "-1.5"),
        (Fraction(1, 1000), "0.001"),
        (Fraction(1200), "1200.0"),
        (Fraction(-1, 64), "-0.015625"),
        (Fraction(0.1), "0.1000000000000000055511151231257827021181583404541015625"),
    ],
)
def test_decimals_are_exact(value: Fraction, text: str) -> None:
    assert decimal(value) == text and Fraction(text) == value


BOX = Box([0.0], [1.0])


@pytest.mark.parametrize(
    ("name", "region", "C", "d", "message"),
    [
        ("p.txt", BOX, [[1.0]], Fraction(1), "no known suffix"),
        ("p.gz", BOX, [[1.0]], Fraction(1), "no known suffix"),
        ("p.vnnlib", BOX, [[1.0]], Fraction(1, 3), "1/3 has no finite decimal"),
        ("p.vnnlib", BOX, [[2.0]], Fraction(1), "a row of C and d says more"),
        ("p.vnnlib", BOX, [[0.0]], Fraction(1), "a row of C and d says more"),
        ("p.vnnlib", L2Ball([0.0], 1.0), [[1.0]], Fraction(1), "boxes only, a region is a L2Ball"),
        ("p.vnnlib", BOX.with_cuts([1.0], 0.5), [[1.0]], Fraction(1), "with 1 cuts"),
        ("missing/p.json", BOX, [[1.0]], Fraction(1), "cannot write"),
    ],
)
def test_a_refused_save_names_the_reason_and_leaves_the_old_file(
    tmp_path: Path, name: str, region: Region, C: list[list[float]], d: Fraction, message: str
) -> None:
    path = tmp_path / name
    if path.parent.exists():
        path.write_text("old")
    prop = Property((Case(region, Polyhedron(np.array(C), np.zeros(1), (d,))),), 1, 1)
    with pytest.raises(PropertyError, match=message):
        prop.save(path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == ([(path.name, "old")] if "/" not in name else [])


def test_a_save_replaces_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text("old")
    robustness(Shape(), L1Ball([0.5, 0.5], 0.1, (0, np.inf)), 0).save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["p.json"]
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert load_property(path).cases[0].region.exact_upper == (Fraction(0.5) + Fraction(0.1),) * 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.json", '{"format": "milpverify-pro', "is no JSON file"),
        ("p.json", "[]", "does not hold a property"),
        ("p.json", "{}", "expected format 'milpverify-property' version 1, got None"),
        ("p.json", '{"format": "milpverify-property", "version": 1}', "does not hold a property.*regions"),
        ("p.toml", "", "no known suffix"),
        ("none.json", None, "cannot read"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(PropertyError, match=message):
        load_property(tmp_path / name)


def test_a_saved_region_that_became_empty_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    robustness(Shape(), Box([0, 0], [1, 1]), 0).save(path)
    path.write_text(path.read_text().replace('"upper": [1.0, 1.0]', '"upper": [1.0, -1.0]'))
    with pytest.raises(RegionError, match=r"lower\[1\]"):
        load_property(path)
