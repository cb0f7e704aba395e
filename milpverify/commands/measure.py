"""`margin` and `epsilon`: exact numbers, as brackets that narrow until the time is out."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from milpverify.commands.options import (
    Commands,
    add_checkpoint_options,
    add_command,
    add_network_options,
    add_region_options,
    add_search_options,
    quotient,
)
from milpverify.errors import OptionError

if TYPE_CHECKING:
    from milpverify.commands.inputs import Point
    from milpverify.commands.question import Question
    from milpverify.proof.evidence import Bracket
    from milpverify.report.screen import Screen
    from milpverify.tasks.margin import LeastSlack, Minimiser
    from milpverify.tasks.radius import Radius

MARGIN = """\
The exact worst margin: the least difference between the label's output and any other's over the ball. The input is
robust if and only if it is > 0. With a property file, the least slack max_i (C_i y - d_i) of its unsafe set, which is
reached if and only if that is <= 0. The answer is a bracket [proved, witnessed].

examples:
  milpverify margin net.onnx --input x.npy --label 3 --eps 0.05 --clip 0 1
  milpverify margin net.onnx --input x.npy --label 3 --eps 0.05 --targets 5,8
  milpverify margin net.onnx prop.vnnlib --timeout 60 --json
"""

EPSILON = """\
The exact minimum epsilon: the distance from the input to the nearest one that is classified wrongly. The answer is a
bracket [proved, witnessed]. Without --clip, --eps-max says where to stop looking. Norms: linf and l1. With --8bit, the
least distance in linf of an 8-bit image, a whole number of steps of 1/255.

examples:
  milpverify epsilon net.onnx --input x.npy --label 3 --clip 0 1
  milpverify epsilon net.onnx --input x.npy --label 3 --norm l1 --eps-max 2 --timeout 60
"""


def register(commands: Commands) -> None:
    """Add both commands."""
    ball_or_prop = "NET (PROP | --input FILE --eps EPS)"
    parser = add_command(commands, "margin", ball_or_prop, "the exact worst margin", MARGIN, run_margin)
    add_network_options(parser)
    add_region_options(parser)
    add_search_options(parser, gap=True, relative=True)
    add_checkpoint_options(parser)

    summary = "the exact distance to the nearest adversarial example"
    parser = add_command(commands, "epsilon", "NET --input FILE", summary, EPSILON, run_epsilon)
    add_network_options(parser)
    add_region_options(parser, instead="", radius=False)
    parser.add_argument(
        "--as-largest", action="store_true", help="a target counts only where it is the largest output of all"
    )
    parser.add_argument("--eps-max", "--eps", type=quotient, metavar="EPS", help="look no farther than this")
    add_search_options(parser, gap=True, relative=True, searches=("portfolio", "milp"))


def run_margin(args: argparse.Namespace) -> int:
    """Answer and show."""
    from milpverify.commands.options import checkpoint
    from milpverify.commands.question import ask, names
    from milpverify.commands.session import is_closed, respond
    from milpverify.tasks.margin import margin_with_needed

    question = ask(args, names(args, 1, 2, "NET and PROP, or NET with --input and --eps"))
    return respond(
        args,
        question,
        partial(
            margin_with_needed,
            question.net,
            question.one_property(),
            method=minimiser(args),
            checkpoint=checkpoint(args),
        ),
        answered=lambda slack: is_closed(slack.bracket, _gap(args, slack.bracket)),
        to_json=lambda slack: slack.bracket.to_dict(),
        show=lambda screen, slack: _show_margin(screen, question, slack),
        interrupted=lambda slack: slack.bracket.interrupted,
    )


def _gap(args: argparse.Namespace, bracket: Bracket) -> float:
    """The gap that was asked for."""
    relative: float = args.relative_gap * abs(bracket.upper) if math.isfinite(bracket.upper) else 0.0
    return max(args.gap, relative)


def _show_margin(screen: Screen, question: Question, slack: LeastSlack) -> None:
    from milpverify.report.words import show_notes

    _show_bracket(screen, "least slack" if question.point is None else "worst margin", slack.bracket)
    _conclude(screen, question, slack)
    show_notes(screen, slack.bracket.approximations)


def _conclude(screen: Screen, question: Question, slack: LeastSlack) -> None:
    """Robust, not robust, or open: a solver's bound must clear its tolerance, as in `verify`."""
    from milpverify.report.screen import Tone

    words = ("the property holds", "the property is violated") if question.point is None else ("robust", "not robust")
    if slack.reached:
        screen.say(f"{words[1]}: a witness reaches the unsafe set", Tone.BAD)
    elif slack.reached is False:
        screen.say(f"{words[0]}: no input of the region reaches the unsafe set", Tone.GOOD)
    elif slack.bracket.lower <= 0:
        screen.say("open: the bracket holds 0", Tone.OPEN)
    else:
        screen.say(f"open: a MILP solver cannot tell a margin below {slack.needed:g} from 0", Tone.OPEN)


def run_epsilon(args: argparse.Namespace) -> int:
    """Answer and show."""
    from milpverify.commands.inputs import described, read_point
    from milpverify.commands.options import ball_class, chosen_grid
    from milpverify.commands.question import Question, names
    from milpverify.commands.session import is_closed, respond
    from milpverify.tasks.epsilon import minimum_epsilon

    [path] = names(args, 1, 1, "NET, with --input")
    if args.input is None:
        raise OptionError("epsilon: which input? Give --input FILE.")
    if args.clip is None and args.eps_max is None:
        raise OptionError("epsilon: how far to look? Give --clip LOW HIGH, or --eps-max EPS, or both.")
    net, point = read_point(args, path)
    facts = {"eps_max": args.eps_max, "as_largest": args.as_largest, **described(args, point)}
    ball = ball_class(args.norm)
    task = partial(
        minimum_epsilon,
        net,
        point.x,
        point.label,
        ball=ball,
        clip=point.clip,
        targets=args.targets,
        as_largest=args.as_largest,
        eps_max=args.eps_max,
        grid=chosen_grid(args),
        method=_radius(args),
    )
    return respond(
        args,
        Question(net, path, args.began, None, None, point, facts),
        task,
        answered=lambda bracket: _none_so_near(args, point, bracket) or is_closed(bracket, _gap(args, bracket)),
        to_json=lambda bracket: bracket.to_dict(),
        show=lambda screen, bracket: _show_radius(screen, args, point, bracket),
        interrupted=lambda bracket: bracket.interrupted,
    )


def _show_radius(screen: Screen, args: argparse.Namespace, point: Point, bracket: Bracket) -> None:
    from milpverify.report.words import show_notes

    _show_bracket(screen, f"minimum epsilon ({args.norm})", bracket)
    if _none_so_near(args, point, bracket):
        where = "within the clip" if args.eps_max is None else f"nearer than {args.eps_max:g}"
        screen.say(f"no input {where} is classified otherwise")
    elif bracket.witness is not None:
        # Right at the border the label ties, so that argmax would often name the label itself.
        others = [c for c in range(len(bracket.witness.y)) if c != point.label]
        other = max(others, key=bracket.witness.y.__getitem__)
        screen.say(f"there class {other} draws level with, or passes, class {point.label}")
    show_notes(screen, bracket.approximations)


def _none_so_near(args: argparse.Namespace, point: Point, bracket: Bracket) -> bool:
    return math.isinf(bracket.upper) and bracket.lower >= _reach(args, point)


def _reach(args: argparse.Namespace, point: Point) -> float:
    """How far the nearest input was to be looked for: --eps-max, else to the farthest corner of the clip."""
    import numpy as np

    if args.eps_max is not None:
        return float(args.eps_max)
    farthest = np.maximum(*(np.abs(np.asarray(side) - point.x) for side in point.clip))
    return float(farthest.max() if args.norm == "linf" else farthest.sum())


def _show_bracket(screen: Screen, name: str, bracket: Bracket) -> None:
    from milpverify.report.screen import Tone
    from milpverify.report.words import evidence, interval

    late = " (interrupted)" if bracket.interrupted else " (time ran out)" if bracket.timed_out else ""
    screen.say(f"{name}: {interval(bracket)}{late}; {bracket.seconds:.2f} s")
    screen.say(f"  {evidence(bracket)}", Tone.QUIET)


def minimiser(args: argparse.Namespace) -> Minimiser:
    """How minima are found, by the options."""
    from milpverify.commands.options import bound_method, search_options
    from milpverify.tasks.margin import Minimiser
    from milpverify.tasks.prepare import first_attack

    # Only some commands have a relative gap.
    relative: float = getattr(args, "relative_gap", 0.0)
    attack = None if args.no_attack else replace(first_attack(), seed=args.seed)
    return Minimiser(bound_method(args.bounds), attack, search_options(args), args.gap, relative)


def _radius(args: argparse.Namespace) -> Radius:
    """How radii are found, by the options."""
    from milpverify.commands.options import bound_method, milp_options, tree_options
    from milpverify.tasks.radius import Radius

    # No attack by the tree: the task has one of its own.
    tree = None if args.search == "milp" else replace(tree_options(args), attack=None)
    attack = Radius().attack
    attack = None if attack is None or args.no_attack else replace(attack, seed=args.seed)
    return Radius(bound_method(args.bounds), attack, tree, milp_options(args), relative_gap=args.relative_gap)
