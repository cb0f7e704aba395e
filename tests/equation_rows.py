"""The tables of docs/equations.md, row by row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from tests.paths import ROOT

DOCUMENT = ROOT / "docs" / "equations.md"
HEAD = ("there", "what it says", "here", "grade", "what differs")
CHECKED = "†"  # a row whose formula some test transcribes


@dataclass(frozen=True)
class Row:
    """One row: where it stands, its first cell without the mark, and the rest."""

    paper: str
    there: str
    says: str
    here: str
    grade: str
    differs: str
    checked: bool

    @property
    def names(self) -> list[str]:
        """The code spans of the column "here"."""
        return re.findall(r"`([^`]+)`", self.here)

    @property
    def key(self) -> str:
        """What tests call the row by."""
        return f"{self.paper}: {self.there}"


@cache
def equation_rows() -> tuple[Row, ...]:
    """Every row of every table, in order."""
    found, paper, inside = [], "", False
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            paper = line[3:].split(":")[0].strip('"')
        cells = tuple(cell.strip() for cell in line.strip().strip("|").split("|")) if line.startswith("|") else ()
        inside = cells == HEAD or (inside and bool(cells))
        if inside and cells != HEAD and not set(line) <= set("|- "):
            if len(cells) != len(HEAD):
                raise ValueError(f"{DOCUMENT.name}: a row of {len(cells)} cells, expected {len(HEAD)}: {line}")
            there, checked = cells[0].removesuffix(CHECKED).strip(), cells[0].endswith(CHECKED)
            found.append(Row(paper, there, *cells[1:], checked))
    return tuple(found)
