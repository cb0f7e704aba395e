"""`evaluate`: the errors of a network on labelled images, clean, under attack, by bounds, and exactly."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milpverify.commands.image_options import image_sets, norm_of
from milpverify.commands.options import (
    NORM_NAMES,
    Commands,
    add_command,
    add_network_options,
    add_search_options,
    numbers,
    positive_count,
    quotient,
    seconds,
    seed,
)
from milpverify.errors import OptionError

if TYPE_CHECKING:
    from milpverify.network.graph import Network
    from milpverify.report.screen import Screen
    from milpverify.training.datasets import ImageSet
    from milpverify.training.error_table import RobustEvaluation

EVALUATE = """\
How robust is a network on labelled images? One table: clean error, attacks (from below), bounds (from above), and the
exact robust error, as a bracket where time for an image runs out. "at least" counts errors that exact replay confirms,
"at most" what is not proven robust. Ctrl-C and --timeout keep what is known by then.

The images: digits (scikit-learn's, parted as `train` parts them), idx:FOLDER (the four files of MNIST or
Fashion-MNIST), or FILE.npz with the arrays `images`, (N, channels, height, width) in [0, 1] or of bytes, and `labels`.
eps is in units of the pixels, which lie in [0, 1].

examples:
  milpverify evaluate net.onnx --eps 0.05
  milpverify evaluate net.onnx --data idx:data/mnist --images 500 --eps 0.1 --checkpoint run.json --table errors.md
  milpverify evaluate net.onnx --data mine.npz --eps 2/255 --mean 0.1307 --std 0.3081 --timeout 3600
"""


def register(commands: Commands) -> None:
    """Add the command."""
    summary = "robust errors on labelled images"
    parser = add_command(commands, "evaluate", "NET --eps EPS", summary, EVALUATE, run_evaluate)
    add_network_options(parser)
    group = parser.add_argument_group("images and balls")
    group.add_argument("--data", default="digits", help="digits, idx:FOLDER or FILE.npz (default: digits)")
    group.add_argument("--part", choices=("test", "train"), default="test", help="of digits and idx (default: test)")
    group.add_argument("--images", type=positive_count, default=100, metavar="N", help="the first N (default: 100)")
    group.add_argument("--split", type=seed, default=0, metavar="SEED", help="of digits: train's --seed (default: 0)")
    group.add_argument("--eps", type=quotient, help="radius of the balls, e.g. 0.1 or 8/255")
    group.add_argument("--norm", choices=NORM_NAMES, default="linf", help="norm of the balls (default: linf)")
    group.add_argument(
        "--clip", type=float, nargs=2, default=(0.0, 1.0), metavar=("LOW", "HIGH"), help="valid pixels (default: 0 1)"
    )
    group.add_argument("--mean", type=numbers, metavar="M,..", help="the network reads (pixel - mean) / std")
    group.add_argument("--std", type=numbers, metavar="S,..", help="the standard deviation that goes with --mean")
    group = parser.add_argument_group("rows and files")
    group.add_argument("--no-exact", action="store_true", help="attacks and bounds only")
    group.add_argument(
        "--image-timeout", type=seconds, default=60.0, metavar="S", help="of the verifier, an image (default: 60)"
    )
    group.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="save verdicts to FILE, and go on from it if it exists"
    )
    group.add_argument("--plot", type=Path, metavar="FILE", help="draw the table (.svg, .pdf or .png)")
    group.add_argument("--table", type=Path, metavar="FILE", help="write the table as .md, .csv or .json")
    add_search_options(parser)


def run_evaluate(args: argparse.Namespace) -> int:
    """Check everything, judge, show, write."""
    from milpverify.commands.inputs import read_network
    from milpverify.commands.question import names
    from milpverify.commands.session import ANSWERED, INTERRUPTED, OPEN, screen_for, watched
    from milpverify.report.files import check_writable, envelope, network_facts, print_json
    from milpverify.training.error_table import check_table_suffix

    [path] = names(args, 1, 1, "NET, with --eps")
    if args.eps is None:
        raise OptionError("evaluate: how large are the balls? Give --eps, in units of the pixels.")
    if args.table is not None:
        check_table_suffix(args.table)
        check_writable(args.table, "evaluate")
        if args.checkpoint is not None and args.table.resolve() == args.checkpoint.resolve():
            raise OptionError(f"evaluate: {args.table} cannot be both --table and --checkpoint. Name two files.")
    if args.plot is not None:
        from milpverify.polytope.plot_style import check_figure

        check_figure(args.plot)
    screen, net, data = screen_for(args), _folded(args, read_network(args, path)), _images(args)
    with watched(screen, "evaluate") as listener:
        table = _judged(args, net, data, listener)
    last = table.errors[-1]
    done = not table.cut_short and (args.no_exact or not last.open.any())
    status = ANSWERED if done else INTERRUPTED if table.interrupted else OPEN
    if args.table is not None:
        table.save(args.table)
    if args.plot is not None:
        from milpverify.polytope.plot_style import save_figure
        from milpverify.report.errors_plot import plot_errors

        save_figure(plot_errors(table), args.plot)
    if args.json:
        facts = {"network": network_facts(net, path), "question": _described(args), "result": table.to_dict()}
        print_json(envelope("evaluate", facts, status, time.monotonic() - args.began))
    else:
        screen.say(f"{path}: {net.n_inputs} inputs, {net.n_neurons} ReLUs, {net.n_outputs} outputs")
        show_errors(screen, table)
    return status


def show_errors(screen: Screen, table: RobustEvaluation) -> None:
    """The table, and what a reader should know about it."""
    from milpverify.report.screen import Column, Tone
    from milpverify.training.error_table import HEADINGS

    columns = tuple(Column(name, i > 0) for i, name in enumerate(HEADINGS))
    screen.table(table.title, columns, list(table.rows()))
    for remark in table.remarks:
        screen.say(remark, Tone.QUIET)


def _judged(args: argparse.Namespace, net: Network, data: ImageSet, listener: Any) -> RobustEvaluation:
    from milpverify.commands.verify import verifier
    from milpverify.training.evaluation import Evaluator, robust_evaluation

    method = Evaluator(exact=not args.no_exact, verifier=verifier(args), image_limit_s=args.image_timeout)
    left = None if args.timeout is None else max(args.timeout - (time.monotonic() - args.began), 1e-3)
    return robust_evaluation(
        net,
        data,
        args.eps,
        norm=norm_of(args),
        method=method,
        time_limit_s=left,
        on_progress=listener,
        checkpoint=args.checkpoint,
    )


def _images(args: argparse.Namespace) -> ImageSet:
    """The images to judge.

    Raises:
        InputError: If they cannot be read.
    """
    from milpverify.training.datasets import read_npz

    if args.data.endswith(".npz"):
        return read_npz(args.data).first(args.images)
    train, test = image_sets(args.data, args.split, "digits, idx:FOLDER or FILE.npz")
    return (train if args.part == "train" else test).first(args.images)


def _folded(args: argparse.Namespace, net: Network) -> Network:
    """The network on pixels.

    Raises:
        OptionError: If one of --mean and --std is missing.
    """
    if args.mean is None and args.std is None:
        return net
    if args.mean is None or args.std is None:
        raise OptionError("evaluate: --mean and --std go together. Give both.")
    import numpy as np

    from milpverify.network.normalise import fold_normalisation

    mean, std = (np.array(v) if len(v) > 1 else np.array(v[0]) for v in (args.mean, args.std))
    return fold_normalisation(net, mean, std)


def _described(args: argparse.Namespace) -> dict[str, Any]:
    """The question, JSON-ready."""
    names = (
        "data",
        "part",
        "images",
        "split",
        "eps",
        "norm",
        "clip",
        "mean",
        "std",
        "image_timeout",
        "search",
        "bounds",
    )
    return {name: getattr(args, name) for name in names}
