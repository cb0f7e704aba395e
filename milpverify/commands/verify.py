"""`verify` and `detect`: yes, no, or not known."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from milpverify.commands.options import (
    Commands,
    add_checkpoint_options,
    add_command,
    add_network_options,
    add_region_options,
    add_search_options,
)
from milpverify.commands.proofs import add_semantics_option
from milpverify.errors import BoundsError, OptionError, SolverError

if TYPE_CHECKING:
    from milpverify.commands.question import Question
    from milpverify.proof.evidence import Verdict, Violated
    from milpverify.report.screen import Screen
    from milpverify.tasks.detect import Detection
    from milpverify.tasks.progress import OnProgress
    from milpverify.tasks.verify import Verifier

VERIFY = """\
Decide whether some input of the region reaches the unsafe set: Holds (unsat) with what proves it, Violated (sat) with
an input replayed in exact arithmetic, or Unknown. PROP is a VNN-LIB file (.vnnlib, .vnnlib.gz) or a saved property
(.json); instead of PROP, --input and --eps ask whether every input of a ball keeps its label.

Exit status: 0 answered, 1 unknown, out of time, no --proof found or no --cross-check finished, 2 bad input.

examples:
  milpverify verify net.onnx prop.vnnlib --timeout 60
  milpverify verify net.onnx prop.vnnlib --result out.txt     sat|unsat|unknown|timeout, then the counterexample
  milpverify verify net.onnx prop.vnnlib --proof out.proof    if it holds, a proof that 'milpverify check' accepts
  milpverify verify net.onnx prop.vnnlib --cross-check        CBC must confirm what would rest on HiGHS alone
  milpverify verify net.onnx prop.vnnlib --checkpoint tree.npz   go on where an earlier call was stopped
  milpverify verify net.onnx --input x.npy --label 3 --eps 0.05 --clip 0 1
  milpverify verify net.onnx --input pixels.npy --eps 0.01 --mean 0.1307 --std 0.3081 --eps-space pixel
"""

DETECT = """\
Could this input be an adversarial example? If every input within eps gets the same label, it cannot be one made from
an input of another label by a perturbation of at most eps. No false negatives: what is not decided counts as possible.

Exit status: 0 answered, 1 unknown or out of time (counted as possible), 2 bad input.

examples:
  milpverify detect net.onnx --input x.npy --eps 0.05 --clip 0 1
"""


def register(commands: Commands) -> None:
    """Add both commands."""
    parser = add_command(
        commands, "verify", "NET (PROP | --input FILE --eps EPS)", "does a property hold?", VERIFY, run_verify
    )
    add_network_options(parser)
    add_region_options(parser)
    add_search_options(parser)
    add_checkpoint_options(parser)
    group = parser.add_argument_group("result")
    group.add_argument("--result", type=Path, metavar="FILE", help="write the competition's result file")
    group.add_argument(
        "--proof",
        type=Path,
        metavar="FILE",
        help="if it holds, write a proof for others to check (docs/proofs.md); without PROP also FILE.json, "
        "the property",
    )
    group.add_argument(
        "--cross-check",
        action="store_true",
        help="have a second solver (CBC; HiGHS with --solver cbc) confirm each case that would rest on the first one's "
        "word; if they disagree: unknown, and both programs in disagreement-CASE.* beside --result, or else here",
    )
    add_semantics_option(group, "both")
    group.add_argument(
        "--replay-onnxruntime",
        action="store_true",
        help="run the counterexample through onnxruntime too (--check-import does so as well)",
    )
    parser = add_command(
        commands, "detect", "NET --input FILE --eps EPS", "could this input be adversarial?", DETECT, run_detect
    )
    add_network_options(parser)
    add_region_options(parser, instead="", label=False)
    add_search_options(parser)


def run_verify(args: argparse.Namespace) -> int:
    """Answer, write the result file, show."""
    from milpverify.commands.disagreements import check_folder
    from milpverify.commands.proofs import clear_proof
    from milpverify.commands.question import ask, names
    from milpverify.commands.session import respond
    from milpverify.report.files import clear_result
    from milpverify.report.words import show_verdict

    files = names(args, 1, 2, "NET and PROP, or NET with --input and --eps")
    if args.result is not None:
        clear_result(args.result)
    if args.proof is not None:
        clear_proof(args, files)
    if args.cross_check:
        check_folder(args)
    if args.replay_onnxruntime and args.eps_space == "pixel":
        raise OptionError("--replay-onnxruntime: with --eps-space pixel the file is not the whole network. Drop one.")
    question = ask(args, files)
    return respond(
        args,
        question,
        partial(_decide, args, question),
        answered=_answered,
        to_json=lambda verdict: verdict.to_dict(),
        show=show_verdict,
        interrupted=lambda verdict: getattr(verdict, "interrupted", False),
    )


def _answered(verdict: Verdict) -> bool:
    """Whether that is all that was asked for."""
    from milpverify.proof.evidence import Grade, Holds, Unknown

    if not isinstance(verdict, Holds):
        return not isinstance(verdict, Unknown)
    unchecked = verdict.cross_check and not verdict.cross_checked and verdict.grade is Grade.SOLVER_TRUSTED
    return not (verdict.unproved or unchecked)


def _decide(
    args: argparse.Namespace, question: Question, *, time_limit_s: float | None, on_progress: OnProgress | None
) -> Verdict:
    """The verdict, written to the result file; a solver's failure is Unknown."""
    from milpverify.commands.disagreements import write_programs
    from milpverify.commands.options import checkpoint
    from milpverify.commands.proofs import write_proof
    from milpverify.proof.evidence import Unknown
    from milpverify.report.files import write_result
    from milpverify.tasks.verify import verify

    began = time.monotonic()
    verdict: Verdict | None = _clean_witness(question)
    if verdict is None:
        try:
            verdict = verify(
                question.net,
                question.one_property(),
                time_limit_s=time_limit_s,
                method=verifier(args),
                onnx_path=_onnx_path(args, question),
                on_progress=on_progress,
                checkpoint=checkpoint(args),
                prove=args.proof is not None,
                prove_semantics=args.semantics,
                cross_check=args.cross_check,
            )
            verdict = write_programs(args, verdict)
        except (SolverError, BoundsError) as error:
            verdict = Unknown(reason=str(error), seconds=time.monotonic() - began)
    if args.result is not None:
        write_result(args.result, verdict)
    if args.proof is not None:
        write_proof(args, question, verdict)
    return verdict


def verifier(args: argparse.Namespace) -> Verifier:
    """The steps of `verify` that the options ask for."""
    from milpverify.commands.options import bound_method, search_options
    from milpverify.tasks.prepare import first_attack
    from milpverify.tasks.verify import Verifier

    attack = None if args.no_attack else replace(first_attack(), seed=args.seed)
    return Verifier(bounds=bound_method(args.bounds), attack=attack, search=search_options(args))


def _onnx_path(args: argparse.Namespace, question: Question) -> str | None:
    """The file to replay a witness with. A folded normalisation is not in the file, so it cannot be."""
    wanted = (args.check_import or args.replay_onnxruntime) and args.eps_space != "pixel"
    return question.path if wanted else None


def _clean_witness(question: Question) -> Violated | None:
    """A misclassified clean input is its own counterexample: no search is needed, and none could say otherwise."""
    if question.point is None or question.point.wins:
        return None
    from milpverify.proof.evidence import CaseReport, Violated
    from milpverify.proof.replay import confirm

    began = time.monotonic()
    # The class that wins by most comes first, so that the witness names it.
    y = question.net.forward(question.point.x)
    cases = sorted(question.one_property().cases, key=lambda case: float((case.unsafe.C @ y - case.unsafe.d).max()))
    for case in cases:
        witness = confirm(question.net, case, question.point.x)
        if witness is not None:
            seconds = time.monotonic() - began
            report = CaseReport(case.name, "violated", "attack", None, seconds)
            return Violated(witness, seconds=seconds, cases=(report,), approximations=question.net.approximations)
    return None


def run_detect(args: argparse.Namespace) -> int:
    """Answer and show."""
    from milpverify.commands.options import ball_class, chosen_grid
    from milpverify.commands.question import ask, names
    from milpverify.commands.session import respond
    from milpverify.proof.evidence import Unknown
    from milpverify.tasks.detect import possibly_adversarial

    question = ask(args, names(args, 1, 1, "NET, with --input and --eps"))
    point = question.point
    assert point is not None

    ball, grid, method = ball_class(args.norm), chosen_grid(args), verifier(args)
    task = partial(
        possibly_adversarial, question.net, point.x, args.eps, ball=ball, clip=point.clip, grid=grid, method=method
    )
    return respond(
        args,
        question,
        task,
        answered=lambda detection: not isinstance(detection.verdict, Unknown),
        to_json=lambda detection: detection.to_dict(),
        show=lambda screen, detection: _show_detection(screen, args.eps, detection),
        interrupted=lambda d: isinstance(d.verdict, Unknown) and d.verdict.interrupted,
    )


def _show_detection(screen: Screen, eps: float, detection: Detection) -> None:
    from milpverify.report.screen import Tone
    from milpverify.report.words import show_verdict

    if detection.possible:
        found = "another label was found" if detection.certain else "another label was not excluded"
        screen.say(f"possibly adversarial: predicted {detection.label}, and {found} within eps {eps:g}", Tone.OPEN)
    else:
        screen.say(f"not adversarial: every input within eps {eps:g} is a {detection.label}", Tone.GOOD)
    show_verdict(screen, detection.verdict)
