"""`range`: what the outputs, or the classes, of a region are, exactly."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from milpverify.commands.options import (
    Commands,
    add_command,
    add_network_options,
    add_region_options,
    add_search_options,
)

if TYPE_CHECKING:
    from milpverify.commands.question import Question
    from milpverify.proof.evidence import Bracket
    from milpverify.report.screen import Screen
    from milpverify.tasks.ranges import OutputRange, ReachableClass

RANGE = """\
The exact range of every output over the region, or (--classes) every class that some input of it gets.

examples:
  milpverify range net.onnx --input x.npy --eps 0.05
  milpverify range net.onnx prop.vnnlib
  milpverify range net.onnx --input x.npy --eps 0.05 --clip 0 1 --classes
"""


def register(commands: Commands) -> None:
    """Add the command."""
    files, summary = "NET (PROP | --input FILE --eps EPS)", "exact output ranges, reachable classes"
    parser = add_command(commands, "range", files, summary, RANGE, run_range)
    parser.add_argument("--classes", action="store_true", help="which classes are reachable, instead of output ranges")
    add_network_options(parser)
    add_region_options(parser, label=False)
    add_search_options(parser, gap=True)


def run_range(args: argparse.Namespace) -> int:
    """Answer and show."""
    from milpverify.commands.question import ask, names

    question = ask(args, names(args, 1, 2, "NET and PROP, or NET with --input and --eps"), classes=False)
    question.one_region()
    return _classes(args, question) if args.classes else _ranges(args, question)


def _ranges(args: argparse.Namespace, question: Question) -> int:
    from milpverify.commands.measure import minimiser
    from milpverify.commands.session import is_closed, respond
    from milpverify.tasks.ranges import output_range

    return respond(
        args,
        question,
        partial(output_range, question.net, question.one_region(), method=minimiser(args)),
        answered=lambda ranges: all(is_closed(end, args.gap) for end in _ends(ranges)),
        to_json=lambda ranges: {"ranges": [r.to_dict() for r in ranges]},
        show=_show_ranges,
        interrupted=lambda ranges: any(end.interrupted for end in _ends(ranges)),
    )


def _classes(args: argparse.Namespace, question: Question) -> int:
    from milpverify.commands.measure import minimiser
    from milpverify.commands.session import respond
    from milpverify.tasks.ranges import reachable_classes

    return respond(
        args,
        question,
        partial(reachable_classes, question.net, question.one_region(), method=minimiser(args)),
        answered=lambda classes: all(c.reachable is not None for c in classes),
        to_json=lambda classes: {"classes": [c.to_dict() for c in classes]},
        show=_show_classes,
        interrupted=lambda classes: any(c.slack.interrupted for c in classes),
    )


def _ends(ranges: tuple[OutputRange, ...]) -> list[Bracket]:
    return [end for r in ranges for end in (r.minimum, r.maximum)]


def _show_ranges(screen: Screen, ranges: tuple[OutputRange, ...]) -> None:
    from milpverify.report.screen import Column
    from milpverify.report.words import interval

    rows = []
    for r in ranges:
        rows.append((r.name, interval(r.minimum), interval(r.maximum), f"{r.minimum.seconds + r.maximum.seconds:.2f}"))
    screen.table("", (Column("output"), Column("minimum", True), Column("maximum", True), Column("s", True)), rows)
    _show_evidence(screen, _ends(ranges))


def _show_classes(screen: Screen, classes: tuple[ReachableClass, ...]) -> None:
    from milpverify.report.screen import Column
    from milpverify.report.words import interval

    words = {True: "reachable", False: "out of reach", None: "open"}
    rows = [(str(c.label), words[c.reachable], interval(c.slack), f"{c.slack.seconds:.2f}") for c in classes]
    screen.table("", (Column("class", True), Column("is"), Column("least lead of the best other class", True),
                      Column("s", True)), rows)  # fmt: skip
    _show_evidence(screen, [c.slack for c in classes])


def _show_evidence(screen: Screen, brackets: list[Bracket]) -> None:
    """What the numbers rest on, and how many of them the time limit left open."""
    from milpverify.report.screen import Tone
    from milpverify.report.words import GRADE_MEANS

    grades = {g for b in brackets for g in (b.lower_grade, b.upper_grade) if g is not None}
    for grade in sorted(grades, key=lambda g: g.value):
        screen.say(f"  {grade.value}: {GRADE_MEANS[grade]}", Tone.QUIET)
    late = sum(b.timed_out for b in brackets)
    if late:
        screen.say(
            f"time ran out with {late} of {len(brackets)} brackets open; a longer --timeout narrows them", Tone.OPEN
        )
