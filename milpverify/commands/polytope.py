"""`polytope`: what a region is mapped to in a plane of outputs, exactly, and what relaxations allow."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milpverify.commands.options import (
    BOUND_METHODS,
    Commands,
    add_command,
    add_network_options,
    add_region_options,
    add_time_option,
    bound_method,
    positive_count,
    whole_numbers,
)
from milpverify.errors import BoundsError, OptionError

if TYPE_CHECKING:
    import numpy as np

    from milpverify.commands.question import Question
    from milpverify.polytope.attribution import Attribution
    from milpverify.polytope.comparison import OutlineTable
    from milpverify.polytope.plot_outline import Panel
    from milpverify.report.screen import Screen
    from milpverify.spec.regions import Region

DEFAULT_METHODS = ("lp", "crown", "fastlin", "interval")
CANDIDATES, SHOWN = 20, 12  # ReLUs whose gain is worked out, and that the table shows
CHOICES = tuple(name for name in BOUND_METHODS if name != "milp")

POLYTOPE = """\
The adversarial polytope: all outputs that the inputs of a region have, in the plane of two outputs, and the convex sets
that relaxations put around it. A certificate proves what its set allows; how much larger that is than the exact
one is what it gives away.

Where two inputs vary (the others are fixed by the property, or --inputs names two) the exact set is worked out region
by region, a union of polygons; else its convex hull, by branch and bound. The table has the area of each set, how many
times the exact one's that is, and how far the set reaches beyond the exact one, at most and in the mean over 360
directions. Outlines meet what they stand for to 0.1 percent of their size.

--gaps draws which ReLUs make the triangle LP loose where it minimises the first of the two outputs, and --make-exact K
adds the outline of the LP in which the K that matter most are exact.

examples:
  milpverify polytope net.onnx --input x.npy --eps 0.1 --plot polytope.svg
  milpverify polytope net.onnx prop.vnnlib --outputs 0,3 --methods lp,alpha,crown
  milpverify polytope net.onnx --input x.npy --eps 0.05 --inputs 0,7 --dark --plot polytope.pdf
"""


def register(commands: Commands) -> None:
    """Add the command."""
    files, summary = "NET (PROP | --input FILE --eps EPS)", "the exact set of outputs and its relaxations, drawn"
    parser = add_command(commands, "polytope", files, summary, POLYTOPE, run_polytope)
    parser.add_argument(
        "--outputs", type=whole_numbers, default=(0, 1), metavar="A,B", help="the plane: two outputs (default: 0,1)"
    )
    parser.add_argument("--inputs", type=whole_numbers, metavar="A,B", help="let only these inputs vary")
    parser.add_argument(
        "--methods",
        type=_methods,
        default=DEFAULT_METHODS,
        metavar="A,B",
        help=f"relaxations, of {', '.join(CHOICES)} (default: {','.join(DEFAULT_METHODS)})",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it: .svg, .pdf (vector graphics) or .png")
    parser.add_argument("--dark", action="store_true", help="draw on dark paper")
    parser.add_argument("--gaps", type=Path, metavar="FILE", help="draw which ReLUs make the triangle LP loose")
    parser.add_argument(
        "--make-exact", type=positive_count, metavar="K", help="also outline the LP with K ReLUs exact (a MILP)"
    )
    add_time_option(parser)
    add_network_options(parser)
    add_region_options(parser, label=False)


def run_polytope(args: argparse.Namespace) -> int:
    """Answer and show."""
    from milpverify.commands.question import ask, names
    from milpverify.commands.session import ANSWERED, introduce, print_answer, screen_for
    from milpverify.polytope.plot_style import check_figure

    files = names(args, 1, 2, "NET and PROP, or NET with --input and --eps")
    for path in (args.plot, args.gaps):
        if path is not None:
            check_figure(path)
    question = ask(args, files, classes=False)
    screen = screen_for(args)
    try:
        panel, table, attribution = _answer(args, question, screen)
    except BoundsError as error:  # the region and a method do not go together: another choice of options would do
        raise OptionError(f"polytope: {error}") from error
    drawn = _draw(args, question, panel, attribution)
    if args.json:
        print_answer(args, question, ANSWERED, _facts(args, panel, table, attribution))
        return ANSWERED
    introduce(screen, question)
    _show(screen, panel, table, attribution)
    for path in drawn:
        screen.say(f"drawn in {path}")
    return ANSWERED


def _answer(
    args: argparse.Namespace, question: Question, screen: Screen
) -> tuple[Panel, OutlineTable, Attribution | None]:
    """The sets, what they measure, and where the LP's gap comes from if that was asked."""
    from milpverify.commands.session import watched
    from milpverify.polytope.attribution import attribute_gap
    from milpverify.polytope.comparison import compare_outlines
    from milpverify.polytope.exact_neurons import ExactNeurons
    from milpverify.polytope.outline import EXACT
    from milpverify.polytope.plot_outline import polytope_panel

    rows, region, attribution = _plane(args, question), _region(args, question), None
    methods = [bound_method(name) for name in args.methods]
    with watched(screen, "polytope"):
        if args.gaps is not None or args.make_exact is not None:
            candidates = max(CANDIDATES, args.make_exact or 0)
            attribution = attribute_gap(question.net, region, rows[0], candidates=candidates)
        if args.make_exact is not None and attribution is not None:
            methods.append(ExactNeurons(attribution.top(args.make_exact)))
        panel = polytope_panel(
            question.net,
            region,
            methods,
            rows=rows,
            time_limit_s=question.time_left(args),
            title=_title(args, question),
        )
    if panel.exact is None:
        raise OptionError(f"polytope: no output was attained within --timeout {args.timeout:g}. Give more time.")
    table = compare_outlines([found for found in panel.outlines if found.name != EXACT], panel.exact)
    return panel, table, attribution


def _plane(args: argparse.Namespace, question: Question) -> np.ndarray:
    """Two outputs as rows.

    Raises:
        OptionError: If they are not two different outputs of the network.
    """
    import numpy as np

    n = question.net.n_outputs
    a, *rest = args.outputs
    if len(rest) != 1 or not (0 <= a < n and 0 <= rest[0] < n) or a == rest[0]:
        told = ",".join(map(str, args.outputs))
        raise OptionError(f"--outputs {told}: expected two different outputs of 0 to {n - 1}, such as 0,1.")
    return np.eye(n)[[a, rest[0]]]


def _region(args: argparse.Namespace, question: Question) -> Region:
    """The region, or what is left of it where only some inputs vary.

    Raises:
        OptionError: If an input is named that the network does not have.
    """
    import numpy as np

    from milpverify.spec.regions import Box

    region = question.one_region()
    if args.inputs is None:
        return region
    if not all(0 <= i < region.dimension for i in args.inputs):
        told = ",".join(map(str, args.inputs))
        raise OptionError(f"--inputs {told}: the network has the inputs 0 to {region.dimension - 1}.")
    if not region.is_box:
        raise OptionError("--inputs: the region is no box. Leave the option out, or use --norm linf.")
    at = region.lower / 2 + region.upper / 2 if question.point is None else question.point.x.ravel()
    free = np.isin(np.arange(region.dimension), args.inputs)
    return Box(np.where(free, region.lower, at), np.where(free, region.upper, at))


def _draw(args: argparse.Namespace, question: Question, panel: Panel, attribution: Attribution | None) -> list[Path]:
    from milpverify.polytope.plot_gaps import plot_gaps
    from milpverify.polytope.plot_outline import caption_of, plot_panels
    from milpverify.polytope.plot_style import DARK, LIGHT, save_figure

    theme, drawn = DARK if args.dark else LIGHT, []
    if args.plot is not None:
        save_figure(plot_panels([[panel]], theme, caption=caption_of(panel)), args.plot)
        drawn.append(args.plot)
    if args.gaps is not None and attribution is not None:
        title = f"{_title(args, question)}: the triangle LP, minimising output {args.outputs[0]}"
        save_figure(plot_gaps(attribution, theme=theme, title=title), args.gaps)
        drawn.append(args.gaps)
    return drawn


def _facts(
    args: argparse.Namespace, panel: Panel, table: OutlineTable, attribution: Attribution | None
) -> dict[str, Any]:
    """JSON-ready; numbers that are not finite are null."""
    sets = [
        {
            "method": row.method,
            "area": row.area,
            "ratio": row.ratio if math.isfinite(row.ratio) else None,
            "largest_gap": row.largest_gap,
            "mean_gap": row.mean_gap,
            "seconds": row.seconds,
        }
        for row in table.rows
    ]
    regions = None if panel.image is None else len(panel.image)
    gap = None
    if attribution is not None:
        gap = {
            "lower": attribution.lower,
            "attained": attribution.attained,
            "neurons": [vars(neuron) for neuron in attribution.neurons[:SHOWN]],
        }
    return {
        "outputs": list(args.outputs),
        "regions": regions,
        "exact_area": _area(panel),
        "hull": panel.hull.tolist(),
        "relaxations": sets,
        "gap": gap,
        "plots": [None if path is None else str(path) for path in (args.plot, args.gaps)],
    }


def _show(screen: Screen, panel: Panel, table: OutlineTable, attribution: Attribution | None) -> None:
    from milpverify.report.screen import Column

    low, high = panel.hull.min(axis=0), panel.hull.max(axis=0)
    what = "the exact set's convex hull" if panel.image is None else f"the exact set of {len(panel.image):,} regions"
    screen.say(f"{what}: area {_area(panel):.6g}, from ({low[0]:.6g}, {low[1]:.6g}) to ({high[0]:.6g}, {high[1]:.6g})")
    (first, *rest), rows = table.table()
    screen.table("", (Column(first), *(Column(name, True) for name in rest)), rows)
    if attribution is not None:
        screen.say(
            f"the triangle LP bounds the first output by {attribution.lower:.6g}, its input attains "
            f"{attribution.attained:.6g}; the ReLUs that matter most:"
        )
        header, neurons = attribution.table()
        screen.table("", tuple(Column(name, True) for name in header), neurons[:SHOWN])


def _area(panel: Panel) -> float:
    """Of the exact set, or of what is attained of its hull."""
    assert panel.exact is not None
    return panel.exact.area


def _title(args: argparse.Namespace, question: Question) -> str:
    if question.point is None:
        return f"{Path(question.path).name}, {Path(args.files[1]).name}"
    return f"{Path(question.path).name}, {args.norm} ball of radius {args.eps:.4g} around {args.input.name}"


def _methods(text: str) -> tuple[str, ...]:
    chosen = tuple(name.strip().lower() for name in text.split(","))
    wrong = [name for name in chosen if name not in CHOICES]
    if wrong:
        raise argparse.ArgumentTypeError(f"unknown method '{wrong[0]}'; choose from {', '.join(CHOICES)}")
    return tuple(dict.fromkeys(chosen))
