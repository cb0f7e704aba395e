"""What every command does around its answer: watch it, survive a solver's failure, print it, choose the exit status."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from milpverify.commands.question import Question
from milpverify.proof.evidence import Bracket
from milpverify.report.files import envelope, network_facts, print_json
from milpverify.report.progress import Recorder, describe
from milpverify.report.screen import Screen, choose_screen

ANSWERED, OPEN = 0, 1

# A witness is replayed exactly, a solver's bound holds within its feasibility tolerance: brackets closed to a smaller
# gap may still be this far open.
SOLVER_SLACK = 1e-5


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a task; the message says where it stood."""


def screen_for(args: argparse.Namespace) -> Screen:
    """The screen that the output options ask for."""
    return choose_screen(json=args.json, progress=args.progress)


@contextmanager
def watched(screen: Screen, title: str) -> Iterator[Recorder]:
    """Progress of a task.

    Raises:
        Interrupted: After Ctrl-C, with the last progress.
    """
    with screen.watching(title) as recorder:
        try:
            yield recorder
        except KeyboardInterrupt:
            where = f" during {describe(recorder.last)}" if recorder.last else ""
            raise Interrupted(f"interrupted{where}; nothing is claimed.") from None


def is_closed(bracket: Bracket, gap: float) -> bool:
    """Whether a bracket is as narrow as was asked, up to the solver's tolerance."""
    scale = max(1.0, abs(bracket.lower)) if bracket.gap < float("inf") else 1.0
    return not bracket.timed_out and bracket.is_exact(max(gap, SOLVER_SLACK) * scale)


def print_answer(args: argparse.Namespace, question: Question, status: int, result: Any) -> None:
    """The JSON object of a command that was asked about a network."""
    facts = {"network": network_facts(question.net, question.path), "question": question.described, "result": result}
    print_json(envelope(args.command, facts, status, time.monotonic() - question.began))


def introduce(screen: Screen, question: Question) -> None:
    """What a reader should know before the answer: the network, and what is odd about the clean input."""
    net = question.net
    screen.say(f"{question.path}: {net.n_inputs} inputs, {net.n_neurons} ReLUs, {net.n_outputs} outputs")
    for remark in question.point.remarks if question.point is not None else ():
        screen.say(remark)
