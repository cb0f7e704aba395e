"""docs/equations.md names what exists: every function, every argument, and no row without a word on what it claims."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

import pytest

import milpverify as mv
from tests import test_paper_bounds, test_paper_certificates
from tests.equation_rows import DOCUMENT, HEAD, Row, equation_rows
from tests.paper_chains import COMPARED

NOT_BUILT = "not built"
GRADES = ("exact", "rounded", "floating", "solver", "bracket", "the same", "as ", "no number")
PAPERS = ("Wong & Kolter", "Zhu", "Singla", "Kolter & Madry", "Tjeng", "Attacks")

every_row = pytest.mark.parametrize("row", equation_rows(), ids=lambda row: row.key)


def resolved(name: str) -> Any:
    """What a dotted name stands for: a public name, or a path below the package, and attributes of it.

    Raises:
        LookupError: If there is nothing of that name.
    """
    parts = name.split(".")
    if parts[0] in mv.__all__:
        found, rest = getattr(mv, parts[0]), parts[1:]
    else:
        depth = max((k for k in range(1, len(parts) + 1) if is_module(parts[:k])), default=0)
        if not depth:
            raise LookupError(f"{name}: milpverify has no public name and no module {parts[0]}")
        found, rest = import_module(".".join(["milpverify", *parts[:depth]])), parts[depth:]
    for part in rest:
        if is_dataclass(found) and part in {f.name for f in fields(found)}:
            return None  # a field: it has a value on instances only
        if not hasattr(found, part):
            raise LookupError(f"{name}: {found!r} has no {part}")
        found = getattr(found, part)
    return found


def is_module(parts: list[str]) -> bool:
    try:
        import_module(".".join(["milpverify", *parts]))
    except ModuleNotFoundError:
        return False
    return True


def check(span: str) -> None:
    """Resolve a name, or a call's name and keywords.

    Raises:
        LookupError: If something is not there.
    """
    tree = ast.parse(span, mode="eval").body
    if not isinstance(tree, ast.Call):
        resolved(span)
        return
    parameters = inspect.signature(resolved(ast.unparse(tree.func))).parameters
    missing = [keyword.arg for keyword in tree.keywords if keyword.arg not in parameters]
    if missing or tree.args:
        raise LookupError(f"{span}: no parameters {missing}, or arguments without a name")
    for keyword in tree.keywords:
        for node in ast.walk(keyword.value):
            if isinstance(node, ast.Name):
                resolved(node.id)


@every_row
def test_every_function_of_the_map_exists(row: Row) -> None:
    for span in row.names:
        check(span)


@every_row
def test_a_row_names_a_function_and_its_grade_or_says_why_there_is_none(row: Row) -> None:
    assert row.there and row.says
    if row.here.startswith(NOT_BUILT):
        assert not row.names and not row.grade and len(row.differs) > 20
    else:
        assert row.names and any(grade in row.grade for grade in GRADES)


def test_every_paper_has_its_table_and_no_row_stands_twice() -> None:
    for paper in PAPERS:
        assert any(row.paper.startswith(paper) for row in equation_rows()), paper
    assert [key for key, count in Counter(row.key for row in equation_rows()).items() if count > 1] == []
    assert DOCUMENT.read_text(encoding="utf-8").count("| " + " | ".join(HEAD) + " |") == 7


def test_the_rows_marked_as_compared_are_those_that_tests_compare() -> None:
    assert {row.key for row in equation_rows() if row.checked} == COMPARED
    assert test_paper_bounds.compares is test_paper_certificates.compares  # both have noted their rows


@pytest.mark.parametrize("span", ["no_such_function", "FastLin(intersects=False)", "Tightness.q", "bounds.no_module.f"])
def test_a_name_that_does_not_exist_is_found_out(span: str) -> None:
    with pytest.raises(LookupError):
        check(span)
