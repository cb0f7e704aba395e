"""`prove` and `verify --proof`, which write proofs, and `check`, which reads them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milpverify.commands.options import (
    Commands,
    add_command,
    add_grid_options,
    add_network_options,
    add_region_options,
    add_time_option,
    chosen_grid,
)
from milpverify.errors import OptionError

if TYPE_CHECKING:
    from milpverify.commands.question import Question
    from milpverify.proof.certificate import Certificate
    from milpverify.proof.evidence import Proof, Verdict
    from milpverify.proof.exact import CheckResult
    from milpverify.tasks.certify import Certified
    from milpverify.tasks.progress import OnProgress

CHECK = """\
Check a proof against the network and the property it is said to be about. The checker evaluates every bound anew, in
exact integers; it shares nothing with the search, and reads network and property from your files, never from the
proof. docs/proofs.md has the theorem and the format.

A proof that was made for 8-bit images, or another grid, says so and is checked for that claim only: give --8bit, or
--grid STEPS.

With --standalone the second checker runs: one file of Python's standard library that can be copied anywhere
(python checker.py PROOF NET PROP). It reads chains of affine maps, convolutions and ReLUs, and takes longer.

Exit status: 0 accepted, 1 rejected, 2 bad input, 3 what the stand-alone checker cannot read.

examples:
  milpverify verify net.onnx prop.vnnlib --proof out.proof
  milpverify check out.proof net.onnx prop.vnnlib
  milpverify check out.proof net.onnx prop.vnnlib --standalone
"""
PROVE = """\
Prove a margin that is known already, for others to check: that the least slack max_i (C_i y - d_i) of every case, or
the difference between the label's output and any other's, exceeds --threshold over the whole region. `margin` finds the
number, `epsilon` the radius (prove it with --eps just below); `verify --proof` does both steps for the threshold 0.
Without PROP the property is saved beside the proof, as FILE.json. Regions that are no boxes count as the box around
them.

Exit status: 0 proved, 1 no proof found, 2 bad input.

examples:
  milpverify prove net.onnx prop.vnnlib --out holds.proof
  milpverify prove net.onnx --input x.npy --label 3 --eps 0.05 --clip 0 1 --threshold 2.9 --out margin.proof
  milpverify check margin.proof net.onnx margin.proof.json --threshold 2.9
"""
MAGIC = b"MVPROOF"


def register(commands: Commands) -> None:
    """Add `prove` and `check`."""
    ball_or_prop = "NET (PROP | --input FILE --eps EPS) --out FILE"
    parser = add_command(commands, "prove", ball_or_prop, "write a proof of a margin", PROVE, run_prove)
    add_network_options(parser)
    add_region_options(parser)
    add_time_option(parser)
    group = parser.add_argument_group("proof")
    group.add_argument("--out", dest="proof", type=Path, metavar="FILE", help="where the proof goes")
    _add_threshold_option(group, "is to exceed")
    add_semantics_option(group, "real")
    parser = add_command(commands, "check", "PROOF NET PROP", "is this proof valid?", CHECK, run_check)
    _add_threshold_option(parser, "must be proved to exceed")
    add_grid_options(parser)
    parser.add_argument("--standalone", action="store_true", help="by the checker of the standard library alone")


def _add_threshold_option(group: argparse._ActionsContainer, does: str) -> None:
    """--threshold."""
    group.add_argument(
        "--threshold", type=rational, default=Fraction(0), metavar="T",
        help=f"what the least slack {does}, e.g. 0.5 or 1/3 (default: 0, the property holds)",
    )  # fmt: skip


def add_semantics_option(group: argparse._ArgumentGroup, default: str) -> None:
    """--semantics."""
    group.add_argument(
        "--semantics", choices=("real", "float32", "both"), default=default,
        help="what the proof is about: the network over the real numbers, every float32 execution of it, or the latter "
        f"if half of the time suffices for that, else the former (default: {default})",
    )  # fmt: skip


def run_prove(args: argparse.Namespace) -> int:
    """Search for a proof, write it, and say what was found."""
    from milpverify.commands.question import ask, names
    from milpverify.commands.session import respond
    from milpverify.report.words import show_certified
    from milpverify.tasks.certify import INTERRUPTED, certify

    files = names(args, 1, 2, "NET and PROP, or NET with --input and --eps")
    if args.proof is None:
        raise OptionError("prove: where to? Give --out FILE.")
    clear_proof(args, files, "--out")
    question = ask(args, files)

    def task(*, time_limit_s: float | None, on_progress: OnProgress | None) -> Certified:
        prop = question.one_property()
        found = certify(
            question.net,
            prop,
            threshold=args.threshold,
            semantics=args.semantics,
            time_limit_s=time_limit_s,
            on_progress=on_progress,
        )
        if found.proof is not None:
            write_certificate(args, question, found.proof)
        return found

    return respond(
        args,
        question,
        task,
        answered=lambda found: found.proof is not None,
        to_json=lambda found: found.to_dict(),
        show=lambda screen, found: show_certified(screen, found.proof, found.reason),
        interrupted=lambda found: found.reason == INTERRUPTED,
    )


def run_check(args: argparse.Namespace) -> int:
    """Check, and show what was proven."""
    from milpverify.commands.question import names

    files = names(args, 3, 3, "PROOF, NET and PROP")
    if args.standalone:
        from milpverify.proof.checker import main

        if args.json:
            raise OptionError("check: --standalone prints words only. Drop --json.")
        grid = [] if args.grid is None else [f"--grid={args.grid}"]
        return int(main([*files, f"--threshold={args.threshold}", *grid]))  # "-1/2" alone looks like an option
    return _check_exactly(args, files)


def _check_exactly(args: argparse.Namespace, files: list[str]) -> int:
    from milpverify.commands.question import read_property
    from milpverify.commands.session import screen_for
    from milpverify.network.from_onnx import from_onnx
    from milpverify.proof.certificate import read_certificate
    from milpverify.proof.exact import check_exact
    from milpverify.report.files import envelope, network_facts, print_json
    from milpverify.report.screen import Tone
    from milpverify.report.words import SEMANTICS_MEAN

    certificate = read_certificate(files[0])
    net = from_onnx(files[1])
    prop = read_property(files[2], net, chosen_grid(args))
    result = check_exact(certificate, net, prop, args.threshold)
    status = 0 if result.accepted else 1
    if args.json:
        facts = {"network": network_facts(net, files[1]), "property": files[2], "proof": files[0]}
        facts["result"] = _facts(result, args.threshold, certificate)
        print_json(envelope("check", facts, status, result.seconds))
        return status
    screen = screen_for(args)
    if result.accepted:
        what = "no input reaches the unsafe set" if not args.threshold else f"every slack exceeds {args.threshold}"
        where = f", of inputs k/{certificate.grid} only" if certificate.grid else ""
        screen.say(f"accepted: {what}, {SEMANTICS_MEAN[certificate.semantics]}{where}", Tone.GOOD)
        screen.say(
            f"  {result.n_cases} cases, {result.n_contexts} boxes, {result.n_leaves} leaves, in exact integers of "
            f"{certificate.bits} fraction bits; {result.seconds:.2f} s"
        )
    else:
        screen.say(f"rejected: {result.reason}", Tone.BAD)
    return status


def _facts(result: CheckResult, threshold: Fraction, certificate: Certificate) -> dict[str, Any]:
    return {
        "accepted": result.accepted,
        "reason": result.reason or None,
        "semantics": certificate.semantics,
        **({"grid": certificate.grid} if certificate.grid else {}),
        "checker": "exact",
        "threshold": str(threshold),
        "cases": result.n_cases,
        "boxes": result.n_contexts,
        "leaves": result.n_leaves,
        "seconds": result.seconds,
    }


def clear_proof(args: argparse.Namespace, files: list[str], option: str = "--proof") -> None:
    """Remove the proof of an earlier run, which must not pass for that of this one; nothing else is removed.

    Raises:
        OptionError: If the file holds something else, cannot be replaced, or no proof could be about NET.
    """
    from milpverify.report.files import check_writable, remove_earlier

    if args.eps_space == "pixel":
        raise OptionError(f"{option}: with --eps-space pixel the file is not the whole network. Drop one.")
    path: Path = args.proof
    if len(files) == 1:
        check_writable(property_path(path), option)
    remove_earlier(path, option, "no proof", lambda start: not start or start.startswith(MAGIC))


def write_proof(args: argparse.Namespace, question: Question, verdict: Verdict) -> None:
    """The proof of a verdict that has one.

    Raises:
        InputError: If it cannot be written.
    """
    from milpverify.proof.evidence import Holds

    if isinstance(verdict, Holds) and verdict.proof is not None:
        write_certificate(args, question, verdict.proof)


def write_certificate(args: argparse.Namespace, question: Question, proof: Proof) -> None:
    """A proof, and its property where that is in no file yet.

    Raises:
        InputError: If they cannot be written.
    """
    if len(args.files) == 1:
        question.one_property().save(property_path(args.proof))
    prop = args.files[1] if len(args.files) > 1 else str(property_path(args.proof))
    hashes = {"network": _sha256(question.path), "property": _sha256(prop)}
    replace(proof.certificate, files=hashes).write(args.proof)


def property_path(proof: Path) -> Path:
    """Where the property of a proof is saved that was asked without a file."""
    return proof.with_name(proof.name + ".json")


def rational(text: str) -> Fraction:
    """A decimal or a quotient, exactly."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"expected a number such as 0.5 or 1/3, got '{text}'") from None


def _sha256(path: str) -> str:
    import hashlib

    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
