"""Options that several commands share, and the strings they turn into classes.

Nothing heavy is imported here: parsing, `--help` and a mistyped option cost no numpy.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from milpverify.errors import OptionError

if TYPE_CHECKING:
    from milpverify.bounds.method import BoundMethod
    from milpverify.program.solver import Solver
    from milpverify.search.branch_and_bound import BranchAndBound
    from milpverify.search.checkpoint import Checkpoint
    from milpverify.search.milp import MILP
    from milpverify.search.question import Search
    from milpverify.spec.regions import Grid, L1Ball, L2Ball, LinfBall

# Every bound method, roughly from the loosest to the exact one, with the line that `bounds --help` says about it.
BOUND_METHODS = {
    "norms": "products of the layers' l-inf operator norms around the centre: the naive bound of the papers",
    "interval": "each layer from the box of the one before (interval propagation), l1 and l2 balls by their box",
    "zonotope": "affine forms pushed forward through the layers (DeepZ); for boxes with few inputs",
    "fastlin": "the dual bound with one fixed slope u / (u - l) per neuron, met with intervals (Fast-Lin)",
    "fastlin-step": "fastlin, and the slopes that one signed gradient step moves to 0 or 1",
    "wong-kolter": "algorithm 1 as published: fastlin without the intervals",
    "crown": "the dual bound whose lower slope is 0 or 1, whichever triangle is smaller, met with intervals",
    "alpha": "crown with the lower slopes optimised by gradient ascent (alpha-CROWN)",
    "kappa": "alpha with multipliers for each input of each neuron: beyond the triangles, without a program",
    "trees": "kappa, and a small tree over the phases below each neuron that stays unstable: the tightest, and slow",
    "lp": "the linear program of all triangles at once: the best that any choice of slopes could give",
    "milp": "the exact value, by one mixed-integer program per case over the best hidden bounds; l2 balls keep a gap",
}
# What other commands may bound hidden neurons by: those whose bounds are rounded outward, whatever a solver says.
BOUND_NAMES = tuple(name for name in BOUND_METHODS if name != "milp")
NORM_NAMES = ("linf", "l2", "l1")
SOLVER_NAMES = ("highs", "cbc", "pulp-highs")
SEARCH_NAMES = ("portfolio", "branch-and-bound", "milp")


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, raised instead of printed."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{self.prog.removeprefix('milpverify ')}: {message}. See '{self.prog} --help'.")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_command(
    commands: Commands, name: str, files: str, summary: str, text: str, run: Callable[[argparse.Namespace], int]
) -> Parser:
    """A command `milpverify name files [options]`; `text` is its description and, after "examples:", its examples."""
    description, _, examples = text.strip().partition("\n\nexamples:\n")
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{examples}" if examples else None,
        usage=f"milpverify {name} {files}{' ' if files else ''}[options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="*", help=argparse.SUPPRESS)
    parser.set_defaults(run=run, command=name)
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object and nothing else (docs/json.md)")
    group.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="progress; by default live on a terminal, sparse lines on standard error if that is a terminal",
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    return parser


def add_network_options(parser: Parser) -> None:
    """How NET is read."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--check-import",
        action="store_true",
        help="compare the network with onnxruntime on sampled inputs first (needs onnxruntime)",
    )


def add_region_options(
    parser: Parser, *, instead: str = " (instead of PROP)", label: bool = True, radius: bool = True
) -> None:
    """An input and the ball around it.

    Args:
        parser: Where to.
        instead: What the heading says the options replace.
        label: Whether the right class matters to the command.
        radius: Whether --eps is asked for.
    """
    parser.set_defaults(unlabelled=not label)
    group = parser.add_argument_group(f"input and region{instead}")
    group.add_argument("--input", type=Path, metavar="FILE", help="the input: .npy, .npz, .txt or .csv")
    group.add_argument("--key", help="name of the array within an .npz file")
    group.add_argument("--index", type=int, help="which input, if the file holds several (from 0)")
    if label:
        group.add_argument("--label", type=int, help="the right class; the predicted one when left out")
        group.add_argument("--targets", type=whole_numbers, metavar="A,B", help="only these classes count as wrong")
    else:
        parser.set_defaults(label=None, targets=None)
    if radius:
        group.add_argument(
            "--eps", type=quotient, help="radius of the ball, e.g. 0.03 or 8/255; units: see --eps-space"
        )
    group.add_argument("--norm", choices=NORM_NAMES, default="linf", help="norm of the ball (default: linf)")
    group.add_argument("--clip", type=float, nargs=2, metavar=("LOW", "HIGH"), help="range of valid inputs, e.g. 0 1")
    add_grid_options(group)
    group.add_argument("--mean", type=numbers, metavar="M,..", help="the network reads (input - mean) / std")
    group.add_argument("--std", type=numbers, metavar="S,..", help="the standard deviation that goes with --mean")
    group.add_argument(
        "--eps-space",
        choices=("pixel", "input"),
        help="with --mean and --std: is eps in units of the raw pixels, or of the normalised input the network reads?",
    )


def add_grid_options(group: argparse._ActionsContainer) -> None:
    """--grid and --8bit."""
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--grid", type=grid_steps, metavar="STEPS", help="only inputs k/STEPS with integer k count; of a PROP file too"
    )
    either.add_argument(
        "--8bit", dest="grid", action="store_const", const=255, help="8-bit images: the same as --grid 255"
    )


def add_time_option(parser: Parser) -> None:
    """The time limit."""
    group = parser.add_argument_group("time")
    group.add_argument("--timeout", type=seconds, metavar="S", help="wall time, reading included (default: no limit)")


def add_search_options(
    parser: Parser, *, gap: bool = False, relative: bool = False, searches: Sequence[str] = SEARCH_NAMES
) -> None:
    """How the answer is sought.

    Args:
        parser: Where to.
        gap: Whether an exact number is asked for, which is closed to a gap.
        relative: Whether that gap may be relative too.
        searches: Which ones the command has.
    """
    add_time_option(parser)
    group = parser.add_argument_group("search")
    group.add_argument(
        "--search",
        choices=searches,
        default="portfolio",
        help="our own tree and MILPs in turns, or one of them alone (default: portfolio)",
    )
    group.add_argument("--bounds", choices=BOUND_NAMES, default="crown", help="of hidden neurons (default: crown)")
    group.add_argument("--no-attack", action="store_true", help="do not look for a counterexample by gradients first")
    group.add_argument("--solver", choices=SOLVER_NAMES, default="highs", help="who solves the MILPs (default: highs)")
    group.add_argument("--threads", type=positive_count, default=1, metavar="N", help="of the MILP solver (default: 1)")
    group.add_argument(
        "--workers",
        type=positive_count,
        default=1,
        metavar="N",
        help="processes that share the bounding of hard hidden neurons (default: 1)",
    )
    group.add_argument("--seed", type=seed, default=0, help="seed of the attack and of HiGHS (default: 0)")
    if gap:
        group.add_argument("--gap", type=float, default=1e-6, help="how far to close the answer (default: 1e-6)")
    if relative:
        group.add_argument(
            "--relative-gap",
            type=float,
            default=0.0,
            metavar="SHARE",
            help="the same as a share of the answer's size; the wider of both counts (default: 0)",
        )


def add_checkpoint_options(parser: Parser) -> None:
    """Where an interrupted search is gone on from."""
    group = parser.add_argument_group("checkpoint")
    group.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="save the search to FILE, and go on from it if it exists"
    )
    group.add_argument(
        "--checkpoint-every", type=seconds, default=30.0, metavar="S", help="seconds between two saves (default: 30)"
    )


def checkpoint(args: argparse.Namespace) -> Checkpoint | None:
    """The checkpoint that the options ask for."""
    if args.checkpoint is None:
        return None
    from milpverify.search.checkpoint import Checkpoint

    return Checkpoint(args.checkpoint, args.checkpoint_every)


def bound_method(name: str) -> BoundMethod:
    """The bound method of that name."""
    if name in ("lp", "milp", "trees"):
        return _slow_method(name)
    if name in ("norms", "zonotope", "fastlin-step", "alpha", "kappa"):
        return _further_method(name)
    from milpverify.bounds.backward import Crown, FastLin
    from milpverify.bounds.method import Interval

    methods: dict[str, Callable[[], BoundMethod]] = {
        "interval": Interval,
        "fastlin": FastLin,
        "wong-kolter": lambda: FastLin(intersect=False),
        "crown": Crown,
    }
    return methods[name]()


def _further_method(name: str) -> BoundMethod:
    if name == "norms":
        from milpverify.bounds.norms import NormBounds

        return NormBounds()
    if name == "zonotope":
        from milpverify.bounds.zonotope import Zonotope

        return Zonotope()
    from milpverify.bounds.slopes import AlphaCrown, FastLinStep, KappaCrown

    if name == "fastlin-step":
        return FastLinStep()
    return KappaCrown() if name == "kappa" else AlphaCrown()


def _slow_method(name: str) -> BoundMethod:
    if name == "trees":
        from milpverify.search.neuron_trees import NeuronTrees

        return NeuronTrees()
    from milpverify.tighten.lp import TriangleLP
    from milpverify.tighten.milp import MILPTightening

    return TriangleLP() if name == "lp" else MILPTightening()


def ball_class(name: str) -> type[LinfBall] | type[L1Ball] | type[L2Ball]:
    """The ball of that norm."""
    from milpverify.spec.regions import L1Ball, L2Ball, LinfBall

    balls: dict[str, type[LinfBall] | type[L1Ball] | type[L2Ball]]
    balls = {"linf": LinfBall, "l1": L1Ball, "l2": L2Ball}
    return balls[name]


def solver(name: str, threads: int, seed_: int) -> Solver:
    """The solver of that name."""
    if name == "highs":
        from milpverify.program.highs import Highs

        return Highs(threads=threads, seed=seed_)
    from milpverify.program.pulp_backend import Cbc, PulpHighs

    return Cbc(threads=threads) if name == "cbc" else PulpHighs(threads=threads)


def search_options(args: argparse.Namespace) -> Search:
    """The search that the options ask for."""
    if args.search == "milp":
        return milp_options(args)
    from milpverify.search.portfolio import Portfolio

    tree = tree_options(args)
    return tree if args.search == "branch-and-bound" else Portfolio(tree=tree, milp=milp_options(args))


def tree_options(args: argparse.Namespace) -> BranchAndBound:
    """Branch and bound with the seed and the workers of the options."""
    from milpverify.attack.pgd import Pgd
    from milpverify.search.branch_and_bound import BranchAndBound
    from milpverify.search.input_tree import InputSplitting

    tree = BranchAndBound()
    inputs = InputSplitting() if tree.inputs is None else tree.inputs
    attack = replace(tree.attack, seed=args.seed) if isinstance(tree.attack, Pgd) else tree.attack
    return replace(tree, inputs=replace(inputs, seed=args.seed), attack=attack, workers=args.workers)


def milp_options(args: argparse.Namespace) -> MILP:
    """The programs that the options ask for."""
    from milpverify.search.milp import MILP

    chosen = solver(args.solver, args.threads, args.seed)
    return MILP(solver=chosen, gap=args.gap) if hasattr(args, "gap") else MILP(solver=chosen)


def seconds(text: str) -> float:
    """A time limit: a positive number of seconds."""
    value = _float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"the time limit must be a positive number of seconds, got '{text}'")
    return value


def seed(text: str) -> int:
    """A whole number that every generator takes."""
    if not text.strip().isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**31 - 1}, got '{text}'")
    return int(text)


def grid_steps(text: str) -> int:
    """The steps of a grid."""
    if not text.strip().isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 65535, got '{text}'")
    return int(text)


def chosen_grid(args: argparse.Namespace) -> Grid | None:
    """The grid that the options ask for."""
    if args.grid is None:
        return None
    from milpverify.spec.regions import Grid

    return Grid(args.grid)


def positive_count(text: str) -> int:
    """A whole number from 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got '{text}'")
    return int(text)


def quotient(text: str) -> float:
    """A number, or p/q: the nearest float of either."""
    top, slash, bottom = text.partition("/")
    if not slash:
        return _float(text)
    try:
        return float(Fraction(top) / Fraction(bottom))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise argparse.ArgumentTypeError(f"expected a number or a quotient such as 8/255, got '{text}'") from None


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    return tuple(_float(part) for part in text.split(","))


def whole_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers with commas between them, got '{text}'") from None


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got '{text}'") from None
