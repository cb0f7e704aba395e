"""What a person sees: lines, tables and progress; in colour on a terminal, plain everywhere else.

rich is imported by `TerminalScreen` only, so that a piped run does not pay for it.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import IO, TYPE_CHECKING

from milpverify.report.progress import LiveStatus, Recorder, SparseLines

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table as RichTable


class Tone(Enum):
    """What a line means; words say it too, so that no reader depends on colour."""

    PLAIN = ""
    GOOD = "bold green"
    BAD = "bold red"
    OPEN = "bold yellow"
    QUIET = "dim"


@dataclass(frozen=True)
class Column:
    """A column's heading, and whether its entries are numbers, which line up on the right."""

    name: str
    number: bool = False


class Screen(ABC):
    """Where a command shows its answer."""

    @abstractmethod
    def say(self, text: str, tone: Tone = Tone.PLAIN) -> None:
        """One line."""

    @abstractmethod
    def table(self, title: str, columns: tuple[Column, ...], rows: Sequence[tuple[str, ...]]) -> None:
        """A table, all rows at once."""

    @abstractmethod
    def growing(self, title: str, columns: tuple[Column, ...]) -> AbstractContextManager[GrowingTable]:
        """A table whose rows come one by one."""

    @abstractmethod
    def watching(self, title: str) -> AbstractContextManager[Recorder]:
        """Show progress while the body runs; give what it returns to a task's `on_progress`."""


class GrowingTable(ABC):
    """A table in the making, and the progress of its next row."""

    @abstractmethod
    def add(self, row: tuple[str, ...]) -> None:
        """Show a finished row."""

    @abstractmethod
    def working(self, text: str) -> Recorder:
        """Name what is being worked on; the result goes to a task's `on_progress`."""


@dataclass(frozen=True)
class PlainScreen(Screen):
    """Lines without colour, for pipes, files and tests.

    Attributes:
        out: Where answers go; None says nothing, for `--json`.
        progress: Where sparse progress lines go; None for none.
        eager: Whether the first progress line comes at once; else only work that lasts is reported.
    """

    out: IO[str] | None
    progress: IO[str] | None = None
    eager: bool = False

    def say(self, text: str, tone: Tone = Tone.PLAIN) -> None:
        if self.out is not None:
            print(text, file=self.out)

    def table(self, title: str, columns: tuple[Column, ...], rows: Sequence[tuple[str, ...]]) -> None:
        widths = [max(len(cell) for cell in column) for column in zip([c.name for c in columns], *rows, strict=True)]
        if title:
            self.say(title)
        for row in ([c.name for c in columns], *rows):
            self.say(_aligned(tuple(row), columns, widths))

    @contextmanager
    def growing(self, title: str, columns: tuple[Column, ...]) -> Iterator[GrowingTable]:
        if title:
            self.say(title)
        widths = [max(len(c.name), 9) for c in columns]
        self.say(_aligned(tuple(c.name for c in columns), columns, widths))
        yield _PlainGrowing(self, columns, widths)

    @contextmanager
    def watching(self, title: str) -> Iterator[Recorder]:
        yield Recorder() if self.progress is None else SparseLines(self.progress, title, self.eager)


@dataclass(frozen=True)
class _PlainGrowing(GrowingTable):
    screen: PlainScreen
    columns: tuple[Column, ...]
    widths: list[int]

    def add(self, row: tuple[str, ...]) -> None:
        self.screen.say(_aligned(row, self.columns, self.widths))
        if self.screen.out is not None:
            self.screen.out.flush()

    def working(self, text: str) -> Recorder:
        to = self.screen.progress
        return Recorder() if to is None else SparseLines(to, text, self.screen.eager)


def _aligned(row: tuple[str, ...], columns: tuple[Column, ...], widths: list[int]) -> str:
    cells = [
        cell.rjust(width) if column.number else cell.ljust(width)
        for cell, column, width in zip(row, columns, widths, strict=True)
    ]
    return "  ".join(cells).rstrip()


class TerminalScreen(Screen):
    """Colour, rich tables, and one live line (or table) that vanishes when the work is done."""

    def __init__(self, console: Console | None = None, *, live: bool = True) -> None:
        """Write to `console`, or to standard output; `live` shows progress."""
        from rich.console import Console

        self._live = live
        self._console = console or Console(highlight=False)

    def say(self, text: str, tone: Tone = Tone.PLAIN) -> None:
        # Names of files and cases may hold brackets, which are not markup here.
        self._console.print(text, style=tone.value or None, markup=False, soft_wrap=True)

    def table(self, title: str, columns: tuple[Column, ...], rows: Sequence[tuple[str, ...]]) -> None:
        table = self._empty(title, columns)
        for row in rows:
            table.add_row(*map(_escaped, row))
        self._console.print(table)

    @contextmanager
    def growing(self, title: str, columns: tuple[Column, ...]) -> Iterator[GrowingTable]:
        from rich.live import Live

        table, status = self._empty(title, columns), LiveStatus("")
        with Live(_TableAndStatus(table, status), console=self._console, refresh_per_second=8):
            yield _TerminalGrowing(table, status)
            status.finish()

    @contextmanager
    def watching(self, title: str) -> Iterator[Recorder]:
        if not self._live:
            yield Recorder()
            return
        from rich.live import Live

        status = LiveStatus(title)
        with Live(status, console=self._console, refresh_per_second=8, transient=True):
            yield status

    def _empty(self, title: str, columns: tuple[Column, ...]) -> RichTable:
        from rich import box
        from rich.table import Table

        table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for column in columns:
            table.add_column(_escaped(column.name), justify="right" if column.number else "left")
        return table


@dataclass(frozen=True)
class _TerminalGrowing(GrowingTable):
    rich_table: RichTable
    status: LiveStatus

    def add(self, row: tuple[str, ...]) -> None:
        self.rich_table.add_row(*map(_escaped, row))

    def working(self, text: str) -> Recorder:
        self.status.restart(text)
        return self.status


@dataclass(frozen=True)
class _TableAndStatus:
    rich_table: RichTable
    status: LiveStatus

    def __rich__(self) -> Group:
        from rich.console import Group

        return Group(self.rich_table, self.status)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def choose_screen(*, json: bool, progress: bool | None) -> Screen:
    """The screen for this process's standard output.

    Args:
        json: Keep standard output free for one JSON object.
        progress: Whether progress is shown; None: on a terminal, and as sparse lines on a terminal's standard error.
    """
    if sys.stdout.isatty() and not json:
        return TerminalScreen(live=progress is not False)
    lines = sys.stderr.isatty() if progress is None else progress
    return PlainScreen(None if json else sys.stdout, sys.stderr if lines else None, eager=bool(progress))
