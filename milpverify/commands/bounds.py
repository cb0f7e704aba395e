"""`bounds`: what each bound method proves about a region, side by side, and how far that is from the truth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from milpverify.commands.options import (
    BOUND_METHODS,
    Commands,
    add_command,
    add_network_options,
    add_region_options,
    bound_method,
    seconds,
)
from milpverify.errors import BoundsError, OptionError

if TYPE_CHECKING:
    from milpverify.commands.question import Question
    from milpverify.report.screen import Screen
    from milpverify.tasks.ladder import Ladder
    from milpverify.tasks.progress import OnProgress

DEFAULT_METHODS = ("interval", "fastlin", "crown")

BOUNDS = """\
How far each bound method proves the outputs stay from the unsafe set, and what that costs. Every method bounds the
hidden neurons, then the margin of each case (the least slack max_i C_i y - d_i; of a target, label minus target).

methods:
{methods}

The table has a row per method. least bound: the least over the cases; the property is proved where it is > 0. proved:
cases with a bound > 0. unstable per layer: hidden neurons that may still switch. s: seconds for hidden neurons and
cases. With milp among the methods, gap is the exact least margin minus the least bound, and "% of crown" compares
the gaps (to interval's where crown was not asked). Bounds are rounded outward, those of lp too; those of milp rest on
the solver's word, within its tolerances, and count as a proof only where they clear those.

milp bounds no hidden neurons: it stands on those of the method before it that leaves the fewest unstable, and its
seconds include theirs. With --same-bounds all methods stand on the same ones: then only the relaxations differ, and
alpha, lp and milp come in this order.

examples:
  milpverify bounds net.onnx --input x.npy --label 3 --eps 0.05 --clip 0 1
  milpverify bounds net.onnx prop.vnnlib --methods interval,crown,alpha,lp,milp --plot gaps.png
  milpverify bounds net.onnx prop.vnnlib --methods crown,lp,milp --same-bounds crown --json
"""


def register(commands: Commands) -> None:
    """Add the command."""
    methods = "\n".join(f"  {name:<13} {line}" for name, line in BOUND_METHODS.items())
    text = BOUNDS.format(methods=methods)
    parser = add_command(
        commands, "bounds", "NET (PROP | --input FILE --eps EPS)", "bounds by several methods", text, run_bounds
    )
    parser.add_argument(
        "--methods",
        type=_method_names,
        default=DEFAULT_METHODS,
        metavar="A,B",
        help=f"which, in the order of the table (default: {','.join(DEFAULT_METHODS)})",
    )
    parser.add_argument(
        "--same-bounds",
        choices=tuple(BOUND_METHODS),
        metavar="METHOD",
        help="every method bounds the cases over the hidden bounds of this one (default: each over its own)",
    )
    parser.add_argument("--milp-hidden", action="store_true", help="milp bounds the hidden neurons too (slow)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the bounds and the exact margin")
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        help="wall time after which milp stops with a bracket; no other method is interrupted (default: no limit)",
    )
    add_network_options(parser)
    add_region_options(parser)


def run_bounds(args: argparse.Namespace) -> int:
    """Answer and show. Bounds are an answer; the exact margin may stay open."""
    from milpverify.commands.question import ask, names
    from milpverify.commands.session import ANSWERED, OPEN, introduce, print_answer, screen_for, watched

    files = names(args, 1, 2, "NET and PROP, or NET with --input and --eps")
    if args.plot is not None:
        from milpverify.report.ladder_plot import check_plot

        check_plot(args.plot)
    question = ask(args, files)
    question.one_region()
    screen = screen_for(args)
    with watched(screen, "bounds") as listener:
        ladder = _ladder(args, question, listener)
    if args.plot is not None:
        from milpverify.report.ladder_plot import draw_ladder

        draw_ladder(args.plot, ladder, _title(args, question))
    status = ANSWERED if ladder.closed else OPEN
    if args.json:
        plot = None if args.plot is None else str(args.plot)
        print_answer(args, question, status, {**ladder.to_dict(), "plot": plot})
        return status
    introduce(screen, question)
    _show(screen, ladder)
    if args.plot is not None:
        screen.say(f"drawn in {args.plot}")
    return status


def _ladder(args: argparse.Namespace, question: Question, listener: OnProgress) -> Ladder:
    from milpverify.tasks.ladder import bound_ladder

    methods = {name: bound_method(name) for name in args.methods}
    shared = False if args.same_bounds is None else methods.get(args.same_bounds) or bound_method(args.same_bounds)
    try:
        return bound_ladder(
            question.net,
            question.one_property(),
            methods,
            same_bounds=shared,
            tighten_hidden=args.milp_hidden,
            time_limit_s=question.time_left(args),
            on_progress=listener,
        )
    except BoundsError as error:  # the region and the method do not go together: another choice of options would do
        raise OptionError(f"bounds: {error}") from error


def _show(screen: Screen, ladder: Ladder) -> None:
    from milpverify.report.screen import Column, Tone
    from milpverify.report.words import ROWS_SHOWN

    tables = [ladder.table()]
    if 1 < len(ladder.cases) <= ROWS_SHOWN:
        tables.append(ladder.case_table())
    for i, ((first, *rest), rows) in enumerate(tables):
        if i:
            screen.say("")
        screen.table("", (Column(first), *(Column(name, True) for name in rest)), rows)
        if not i:
            for note in ladder.notes():
                screen.say(f"  {note}", Tone.QUIET)


def _title(args: argparse.Namespace, question: Question) -> str:
    """The network and the region."""
    network = Path(question.path).name
    if question.point is None:
        return f"{network}, {Path(args.files[1]).name}"
    index = "" if args.index is None else f"[{args.index}]"
    return f"{network}, {args.norm} ball of radius {args.eps:.4g} around {args.input.name}{index}"


def _method_names(text: str) -> tuple[str, ...]:
    chosen = tuple(name.strip().lower() for name in text.split(","))
    wrong = [name for name in chosen if name not in BOUND_METHODS]
    if wrong:
        raise argparse.ArgumentTypeError(f"unknown method '{wrong[0]}'; choose from {', '.join(BOUND_METHODS)}")
    if len(set(chosen)) != len(chosen):
        raise OptionError(f"--methods {text}: a method is named twice. Name each once.")
    return chosen
