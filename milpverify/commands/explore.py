"""`explore`: an interactive page about the outputs that a box of two inputs can reach."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milpverify.commands.options import (
    BOUND_NAMES,
    Commands,
    Parser,
    add_command,
    add_network_options,
    add_region_options,
    bound_method,
    positive_count,
    quotient,
    seed,
    whole_numbers,
)
from milpverify.errors import BoundsError, OptionError

if TYPE_CHECKING:
    from milpverify.commands.question import Question
    from milpverify.network.graph import Network
    from milpverify.polytope.page import Page
    from milpverify.polytope.page_scene import Relaxation
    from milpverify.report.screen import Screen

OF_FILES = ("input", "key", "index", "mean", "std", "eps_space", "check_import")
METHODS = ("lp", "alpha", "crown", "fastlin", "interval", "norms")

EXPLORE = """\
One HTML file, to open in any browser and to send around: a slider over eps, the linear regions of the inputs beside
their images, the outline that each relaxation proves, areas and gaps in a table, and the neurons that make the linear
program loose. It loads nothing from the network, needs no server, prints, and works by keyboard and on a phone.

Two inputs vary by eps each: those of a network that reads two, or the two that --inputs names, while the others stay at
the input. Everything is worked out beforehand for each eps: a list, or --steps equal steps up to the one given. The
page keeps the --max-regions largest linear regions of each eps and says how many there are.

Without a network at hand, --random makes one: weights N(0, 1/sqrt(inputs of the layer)), biases N(0, 1), around 0.

examples:
  milpverify explore --random 2-100-100-2 --eps 0.25
  milpverify explore net.onnx --input x.npy --eps 0.02,0.05,0.1 --out page.html
  milpverify explore digits.onnx --input x.npy --inputs 27,28 --outputs 3,8 --eps 0.5 --clip 0 1 --methods crown,lp
"""


def register(commands: Commands) -> None:
    """Add the command."""
    files, summary = "(NET --input FILE | --random SIZES) --eps EPS", "an interactive page: exact set and relaxations"
    parser = add_command(commands, "explore", files, summary, EXPLORE, run_explore)
    group = parser.add_argument_group("page")
    group.add_argument(
        "--out", type=Path, default=Path("explore.html"), metavar="FILE.html", help="(default: explore.html)"
    )
    group.add_argument("--eps", type=_radii, metavar="E,..", help="radii, e.g. 0.02,0.05,8/255")
    group.add_argument(
        "--steps", type=positive_count, metavar="N", help="N equal steps up to a single --eps (default: 10)"
    )
    group.add_argument("--inputs", type=whole_numbers, metavar="A,B", help="let these two inputs vary, the others not")
    group.add_argument(
        "--outputs", type=whole_numbers, metavar="A,B", default=(0, 1), help="the plane of outputs (default: 0,1)"
    )
    group.add_argument(
        "--methods",
        type=_method_names,
        default=METHODS,
        metavar="A,B",
        help=f"relaxations, in the order of the table, as of 'bounds' (default: {','.join(METHODS)})",
    )
    group.add_argument(
        "--neurons", type=int, default=12, metavar="N", help="neurons ranked by what the LP loses there (default: 12)"
    )
    group.add_argument(
        "--max-regions", type=positive_count, default=3000, metavar="N", help="drawn for each eps (default: 3000)"
    )
    group.add_argument("--title", help="heading of the page")
    _add_random_options(parser)
    add_network_options(parser)
    add_region_options(parser, instead="", label=False, radius=False)


def _add_random_options(parser: Parser) -> None:
    group = parser.add_argument_group("random network (instead of NET and --input)")
    group.add_argument("--random", type=_sizes, metavar="SIZES", help="inputs, ReLU layers, outputs: 2-100-100-2")
    group.add_argument("--seed", type=seed, default=0, help="(default: 0)")


def run_explore(args: argparse.Namespace) -> int:
    """Work out, write and show."""
    from milpverify.commands.session import ANSWERED, introduce, print_answer, screen_for, watched
    from milpverify.polytope.page import PageOptions, explore_page
    from milpverify.report.files import check_writable, write_atomically

    radii = _chosen_radii(args)
    check_writable(args.out, "--out")
    question, x = _question(args)
    options = PageOptions(
        inputs=args.inputs,
        outputs=args.outputs,
        clip=args.clip if question.point is None else question.point.clip,
        relaxations=_relaxations(args.methods),
        max_regions=args.max_regions,
        neurons=args.neurons,
        title=args.title or f"{Path(question.path).name}: exact set and relaxations",
    )
    screen = screen_for(args)
    try:
        with watched(screen, "explore") as listener:
            page = explore_page(question.net, x, radii, options, on_progress=listener)
    except BoundsError as error:  # the region and a method do not go together: another choice of options would do
        raise OptionError(f"explore: {error}") from error
    write_atomically(args.out, page.html, "--out")
    if args.json:
        print_answer(args, question, ANSWERED, {"page": str(args.out), **page.to_dict()})
        return ANSWERED
    introduce(screen, question)
    _show(screen, page, args.out)
    return ANSWERED


def _show(screen: Screen, page: Page, out: Path) -> None:
    from milpverify.report.screen import Column

    rows = []
    for scene in page.to_dict()["eps"]:
        ratios = [f"{row['method']} {row['ratio']:.4g}" for row in scene["table"][1:] if row["ratio"] is not None]
        rows.append((f"{scene['eps']:.6g}", str(scene["regions"]), str(scene["shown"]), ", ".join(ratios)))
    columns = (Column("eps", True), Column("regions", True), Column("shown", True), Column("area over exact"))
    screen.table("", columns, rows)
    screen.say(f"wrote {out} ({len(page.html.encode()) / 1e6:.2f} MB); open it in a browser")


def _question(args: argparse.Namespace) -> tuple[Question, Any]:
    """The network and the clean input."""
    from milpverify.commands.inputs import described, read_point
    from milpverify.commands.question import Question, names

    if args.norm != "linf":
        raise OptionError(f"explore: --norm {args.norm}: a page shows boxes of two inputs. Leave --norm out.")
    settings = {name: getattr(args, name) for name in ("eps", "steps", "inputs", "outputs", "methods")}
    if args.random is not None:
        names(args, 0, 0, "no network with --random")
        given = [name for name in OF_FILES if getattr(args, name) is not None and getattr(args, name) is not False]
        if given:
            option = given[0].replace("_", "-")
            raise OptionError(f"explore: --random is explored around 0, without --{option}. Drop one of them.")
        net, sizes = _random(args), "-".join(map(str, args.random))
        name = f"random {sizes}, seed {args.seed}"
        return Question(net, name, args.began, described={**settings, "seed": args.seed}), [0.0] * net.n_inputs
    (path,) = names(args, 1, 1, "NET with --input and --eps, or --random SIZES")
    if args.input is None:
        raise OptionError("explore: NET needs --input, the point that eps is measured from.")
    net, point = read_point(args, path)
    return Question(net, path, args.began, point=point, described={**settings, **described(args, point)}), point.x


def _random(args: argparse.Namespace) -> Network:
    from milpverify.polytope.random_network import random_network

    return random_network(args.random, args.seed)


def _chosen_radii(args: argparse.Namespace) -> tuple[float, ...]:
    if args.eps is None:
        raise OptionError("explore: no --eps. Give radii such as 0.02,0.05,0.1, or one with --steps.")
    if len(args.eps) > 1:
        if args.steps is not None:
            raise OptionError("explore: --steps divides one --eps, several were given. Drop one of them.")
        return tuple(args.eps)
    steps = 10 if args.steps is None else args.steps
    return tuple(args.eps[0] * (i + 1) / steps for i in range(steps))


def _relaxations(chosen: tuple[str, ...]) -> tuple[Relaxation, ...]:
    from milpverify.polytope.page import RELAXATIONS
    from milpverify.polytope.page_scene import Relaxation

    known = {drawn.name: drawn for drawn in RELAXATIONS}
    return tuple(known.get(name) or Relaxation(name, bound_method(name)) for name in chosen)


def _method_names(text: str) -> tuple[str, ...]:
    chosen = tuple(name.strip().lower() for name in text.split(","))
    wrong = [name for name in chosen if name not in BOUND_NAMES]
    if wrong:
        raise argparse.ArgumentTypeError(f"unknown method '{wrong[0]}'; choose from {', '.join(BOUND_NAMES)}")
    return chosen


def _radii(text: str) -> tuple[float, ...]:
    return tuple(quotient(part) for part in text.split(","))


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(part) if part.strip().isdecimal() else 0 for part in text.split("-"))
    if len(sizes) < 2 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected sizes such as 2-100-100-2, got '{text}'")
    return sizes
