"""`bounds`: what each bound method proves about a region, side by side."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from milpverify.commands.options import (
    BOUND_NAMES,
    Commands,
    add_command,
    add_network_options,
    add_region_options,
    bound_method,
)
from milpverify.errors import OptionError, PropertyError

if TYPE_CHECKING:
    from milpverify.commands.question import Question
    from milpverify.report.screen import Screen

BOUNDS = """\
Bounds without search: how far each method proves the outputs stay from the unsafe set (a proof where the bound is
above 0), how many neurons of each layer it leaves unstable, and the seconds it takes. wong-kolter is the published
algorithm 1; fastlin and crown also meet every layer with its interval.

examples:
  milpverify bounds net.onnx --input x.npy --label 3 --eps 0.05 --clip 0 1
  milpverify bounds net.onnx prop.vnnlib --methods interval,crown
"""


@dataclass(frozen=True)
class MethodResult:
    """What one method proved: per case a lower bound of its least slack, unstable neurons per layer, seconds."""

    method: str
    lower: tuple[float, ...]
    unstable: tuple[int, ...]
    seconds: float

    def to_dict(self, names: tuple[str, ...]) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "method": self.method,
            "least": _finite(min(self.lower)),
            "proved": sum(value > 0 for value in self.lower),
            "lower": [{"case": n, "lower": _finite(value)} for n, value in zip(names, self.lower, strict=True)],
            "unstable": list(self.unstable),
            "seconds": self.seconds,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "bounds", "NET (PROP | --input FILE --eps EPS)", "bounds by several methods", BOUNDS, run_bounds
    )
    parser.add_argument(
        "--methods",
        type=_method_names,
        default=("interval", "fastlin", "crown"),
        metavar="A,B",
        help=f"of {', '.join(BOUND_NAMES)} (default: interval,fastlin,crown)",
    )
    add_network_options(parser)
    add_region_options(parser)


def run_bounds(args: argparse.Namespace) -> int:
    """Answer and show; bounds always are an answer."""
    from milpverify.commands.question import ask, names
    from milpverify.commands.session import ANSWERED, introduce, print_answer, screen_for, watched

    question = ask(args, names(args, 1, 2, "NET and PROP, or NET with --input and --eps"))
    question.one_region()
    if any(not len(case.unsafe.d) for case in question.one_property().cases):
        raise PropertyError("bounds: a case of the property has no output constraint, so there is nothing to bound.")
    screen = screen_for(args)
    with watched(screen, "bounds"):
        results = [_bound(question, name) for name in args.methods]
    names_ = tuple(case.name for case in question.one_property().cases)
    if args.json:
        print_answer(args, question, ANSWERED, {"methods": [r.to_dict(names_) for r in results]})
        return ANSWERED
    introduce(screen, question)
    _show(screen, results, names_)
    return ANSWERED


def _bound(question: Question, name: str) -> MethodResult:
    """One method on the whole property: a case is as safe as its safest row."""
    import numpy as np

    from milpverify.bounds.method import bound_rows, compute_bounds

    began = time.monotonic()
    method, region, cases = bound_method(name), question.one_region(), question.one_property().cases
    bounds = compute_bounds(question.net, region, method)
    rows = np.concatenate([case.unsafe.C for case in cases])
    right = np.concatenate([case.unsafe.d for case in cases])
    value = np.nextafter(bound_rows(question.net, region, bounds, rows, method).value - right, -np.inf)
    ends = np.cumsum([0, *(len(case.unsafe.d) for case in cases)])
    lower = tuple(float(value[a:b].max()) for a, b in pairwise(ends))
    return MethodResult(name, lower, bounds.n_unstable, time.monotonic() - began)


def _show(screen: Screen, results: list[MethodResult], names: tuple[str, ...]) -> None:
    from milpverify.report.screen import Column
    from milpverify.report.words import ROWS_SHOWN, number

    numbers = ("least bound", "proved", "unstable per layer", "s")
    rows = []
    for r in results:
        proved, unstable = sum(value > 0 for value in r.lower), "+".join(map(str, r.unstable)) or "0"
        rows.append((r.method, number(min(r.lower)), f"{proved} of {len(names)}", unstable, f"{r.seconds:.3f}"))
    screen.table("", (Column("method"), *(Column(name, True) for name in numbers)), rows)
    if 1 < len(names) <= ROWS_SHOWN:
        screen.say("")
        per_case = [(name, *(number(r.lower[i]) for r in results)) for i, name in enumerate(names)]
        screen.table("", (Column("case"), *(Column(r.method, True) for r in results)), per_case)


def _method_names(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    wrong = [name for name in chosen if name not in BOUND_NAMES]
    if wrong:
        raise argparse.ArgumentTypeError(f"unknown method '{wrong[0]}'; choose from {', '.join(BOUND_NAMES)}")
    if len(set(chosen)) != len(chosen):
        raise OptionError(f"--methods {text}: a method is named twice. Name each once.")
    return chosen
