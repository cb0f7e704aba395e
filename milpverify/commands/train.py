"""`train`: a network trained on labelled images, written as ONNX, with its errors judged by the verifier."""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milpverify.commands.evaluate import show_errors
from milpverify.commands.image_options import norm_of
from milpverify.commands.options import (
    NORM_NAMES,
    Commands,
    Parser,
    add_command,
    positive_count,
    quotient,
    seconds,
    seed,
)
from milpverify.commands.train_choices import LOSS_NAMES, STANDARD
from milpverify.errors import OptionError

if TYPE_CHECKING:
    from milpverify.network.graph import Network
    from milpverify.report.screen import Column, Screen
    from milpverify.training.datasets import ImageSet
    from milpverify.training.error_table import RobustEvaluation
    from milpverify.training.records import TrainedModel

TRAIN = """\
Train a network on labelled images and write it as ONNX, with a report beside it (NET.json and NET.txt): what each epoch
saw, and the errors on test images, clean, under attack, by bounds, and exactly. Needs torch.

The losses: standard (cross-entropy), pgd (at attacked images), interval (interval bounds), dual and dual-hinge (the
dual bound of Wong & Kolter; for wide networks with --projections). eps is in units of the pixels, which lie in [0, 1].
file.py:NAME stands for a function that takes the shape of an image and the number of classes and gives an
nn.Sequential; the file is run.

examples:
  milpverify train net.onnx --loss dual --eps 0.05
  milpverify train net.onnx --data idx:data/mnist --model wong-small --loss pgd --eps 0.1 --epochs 10
  milpverify train net.onnx --loss interval --eps 0.1 --ramp 10 --checkpoint run.pt
  milpverify train net.onnx --data idx:data/mnist --model wong-small --eps 0.1 --ramp 10 --projections 50
"""

REPORTS = {".json": '{\n "command": "train"', ".txt": "milpverify train: "}  # how our own begin


def register(commands: Commands) -> None:
    """Add the command."""
    summary = "train a network, and judge it exactly"
    parser = add_command(commands, "train", "NET.onnx --eps EPS", summary, TRAIN, run_train)
    _add_task_options(parser)
    _add_loop_options(parser)
    group = parser.add_argument_group("judgement")
    group.add_argument(
        "--evaluate", type=_count, default=100, metavar="N", help="test images to judge; 0 for none (default: 100)"
    )
    group.add_argument(
        "--image-timeout", type=seconds, default=60.0, metavar="S", help="of the verifier, an image (default: 60)"
    )


def _add_task_options(parser: Parser) -> None:
    group = parser.add_argument_group("task")
    group.add_argument("--data", default="digits", help="digits (scikit-learn's), or idx:FOLDER (default: digits)")
    group.add_argument("--images", type=positive_count, metavar="N", help="only the first N training images")
    group.add_argument(
        "--model", default="mlp:100-100", help="mlp:WIDTHS, wong-small or file.py:NAME (default: mlp:100-100)"
    )
    group.add_argument("--loss", choices=LOSS_NAMES, default="dual", help="what is minimised (default: dual)")
    group.add_argument("--eps", type=quotient, help="radius of the balls, e.g. 0.1 or 8/255")
    group.add_argument("--norm", choices=NORM_NAMES, default="linf", help="norm of the balls (default: linf)")
    group.add_argument(
        "--clip", type=float, nargs=2, default=(0.0, 1.0), metavar=("LOW", "HIGH"), help="valid pixels (default: 0 1)"
    )
    group.add_argument(
        "--clean-share", type=float, metavar="P", help="of the loss at clean images (pgd, interval: 0.5; dual: 0)"
    )
    group.add_argument(
        "--tightness", type=float, nargs=2, metavar=("D", "R"), help="weights of the indicators d and r (dual losses)"
    )
    group.add_argument(
        "--projections",
        type=positive_count,
        metavar="N",
        help="estimate bounds of layers wider than N by N random columns, e.g. 50 (dual losses, linf and l2); the "
        "judgement never rests on estimates",
    )


def _add_loop_options(parser: Parser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=positive_count, default=20, help="passes over the images (default: 20)")
    group.add_argument(
        "--wait", type=float, default=0.0, metavar="E", help="epochs before eps grows from 0 (default: 0)"
    )
    group.add_argument("--ramp", type=float, default=0.0, metavar="E", help="epochs in which it grows (default: 0)")
    group.add_argument(
        "--batch", type=positive_count, default=64, help="images a step (default: 64); fewer take less memory"
    )
    group.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam (default: 0.001)")
    group.add_argument("--halve-every", type=positive_count, metavar="E", help="halve it after each E epochs")
    group.add_argument(
        "--validation", type=float, default=0.0, metavar="SHARE", help="of the images, to choose the epoch (default: 0)"
    )
    group.add_argument("--patience", type=positive_count, metavar="E", help="stop after E epochs without a better one")
    group.add_argument("--seed", type=seed, default=0, help="of weights, data and order (default: 0)")
    group.add_argument("--device", default="cpu", help="a torch device (default: cpu)")
    group.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="save each epoch to FILE, and go on from it if it exists"
    )


def run_train(args: argparse.Namespace) -> int:
    """Check everything first; then train, write the network, judge it, and write the report."""
    from milpverify.commands import train_choices as choices
    from milpverify.commands.session import ANSWERED, INTERRUPTED, OPEN, screen_for, watched
    from milpverify.report.files import print_json
    from milpverify.report.screen import Tone
    from milpverify.training.extras import need_torch
    from milpverify.training.to_onnx import check_writable_as_onnx, save_onnx

    path = _place(args)
    need_torch("train")
    screen, trainer = screen_for(args), choices.trainer(args)
    train, test = choices.data(args)
    model = choices.model(args, train, max(train.n_classes, test.n_classes))
    check_writable_as_onnx(model)
    train, held_out = train.split(args.validation, args.seed) if args.validation else (train, None)
    kind = f"{args.loss} loss" + (f" on {args.projections} projections" if args.projections else "")
    what = f"{args.model} on {len(train)} images of {train.name}, {kind}, {args.norm} eps {args.eps or 0:g}"
    screen.say(what)
    if args.wait + args.ramp > args.epochs and args.loss != STANDARD:
        reached = trainer.schedule.at(args.epochs)
        remark = (
            f"eps only reaches {reached:.4g} in {args.epochs} epochs: --wait and --ramp take {args.wait + args.ramp:g}"
        )
        screen.say(remark, Tone.OPEN)
    with watched(screen, "train") as listener:
        trained = trainer.fit(model, train, validation=held_out, checkpoint=args.checkpoint, on_progress=listener)
    net = save_onnx(trained.model, train.input_shape, path, f"trained by milpverify: {what}")
    _show_epochs(screen, trained)
    status = INTERRUPTED if trained.interrupted else OPEN if trained.diverged else ANSWERED
    report = _written(args, path, what, net, trained, None, status)  # no older report outlives its network
    if args.evaluate and not trained.interrupted:
        table = _judged(args, net, test, screen)
        show_errors(screen, table)
        status = INTERRUPTED if table.interrupted else status
        report = _written(args, path, what, net, trained, table, status)
    screen.say(f"wrote {path}, {path.with_suffix('.json').name} and {path.with_suffix('.txt').name}")
    if args.json:
        print_json(report)
    return status


def _place(args: argparse.Namespace) -> Path:
    """Where the network goes, once all three files are known to be writable.

    Raises:
        OptionError: If one is not, or options are missing.
    """
    from milpverify.commands.question import names
    from milpverify.report.files import check_writable

    path = Path(names(args, 1, 1, "NET.onnx")[0])
    if path.suffix != ".onnx":
        raise OptionError(f"train: {path.name} must end in .onnx. Rename it.")
    if args.eps is None and args.loss != STANDARD:
        raise OptionError(f"train: --loss {args.loss} needs --eps, the radius of the balls.")
    check_writable(path, "train")
    if args.checkpoint is not None:
        for place in (path, *map(path.with_suffix, REPORTS)):
            if args.checkpoint.resolve() == place.resolve():
                raise OptionError(f"train: {place} cannot be the checkpoint as well. Name another --checkpoint.")
    for suffix, start in REPORTS.items():
        place = path.with_suffix(suffix)
        check_writable(place, "train")
        if place.exists() and not place.read_bytes().startswith(start.encode()):
            raise OptionError(f"train: {place} exists and is no report of train. Name another network, or move it.")
    return path


def _judged(args: argparse.Namespace, net: Network, test: ImageSet, screen: Screen) -> RobustEvaluation:
    """The errors on the first test images."""
    from milpverify.commands.session import watched
    from milpverify.training.evaluation import Evaluator, robust_evaluation

    method = Evaluator(image_limit_s=args.image_timeout)
    with watched(screen, "judge") as listener:
        return robust_evaluation(
            net, test.first(args.evaluate), args.eps or 0.0, norm=norm_of(args), method=method, on_progress=listener
        )


def _show_epochs(screen: Screen, trained: TrainedModel) -> None:
    from milpverify.report.screen import Tone

    screen.table(*_epochs(trained))
    if trained.stopped:
        screen.say(f"stopped: {trained.stopped}", Tone.BAD if trained.diverged else Tone.OPEN)


def _epochs(trained: TrainedModel) -> tuple[str, tuple[Column, ...], list[tuple[str, ...]]]:
    """The table of epochs: title, columns, rows."""
    from milpverify.report.screen import Column

    note = ", estimated" if any(r.estimated for r in trained.epochs) else ""
    losses = (f"loss{note}", f"errors of the loss{note}", "clean errors", f"validation loss{note}")
    names = ("epoch", "eps", *losses, "s")
    rows: list[tuple[str, ...]] = []
    for r in trained.epochs:
        validation = "-" if r.validation_loss is None else f"{r.validation_loss:.4f}"
        shares = (f"{100 * r.errors:.2f} %", f"{100 * r.clean_errors:.2f} %")
        rows.append((str(r.epoch), f"{r.eps:.4g}", f"{r.loss:.4f}", *shares, validation, f"{r.seconds:.1f}"))
    return f"training; the weights are those of epoch {trained.chosen}", tuple(Column(n, True) for n in names), rows


def _described(args: argparse.Namespace) -> dict[str, Any]:
    """The options, JSON-ready."""
    left_out = ("files", "run", "command", "began", "json", "progress", "debug")
    options = {name: value for name, value in vars(args).items() if name not in left_out}
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def _written(
    args: argparse.Namespace,
    path: Path,
    what: str,
    net: Network,
    trained: TrainedModel,
    table: RobustEvaluation | None,
    status: int,
) -> dict[str, Any]:
    """The report, once it stands in NET.json and NET.txt, each whole or not at all."""
    from milpverify.report.files import envelope, network_facts, write_atomically
    from milpverify.report.screen import PlainScreen

    result = {"training": trained.to_dict(), "evaluation": None if table is None else table.to_dict()}
    facts = {"network": network_facts(net, str(path)), "question": _described(args), "result": result}
    report = envelope("train", facts, status, time.monotonic() - args.began)
    text = io.StringIO()
    page = PlainScreen(text)
    page.say(f"{REPORTS['.txt']}{what}")
    page.say("")
    _show_epochs(page, trained)
    if table is not None:
        page.say("")
        show_errors(page, table)
    write_atomically(path.with_suffix(".txt"), text.getvalue(), "train")
    write_atomically(path.with_suffix(".json"), json.dumps(report, indent=1, allow_nan=False) + "\n", "train")
    return report


def _count(text: str) -> int:
    """A whole number from 0."""
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got '{text}'")
    return int(text)
