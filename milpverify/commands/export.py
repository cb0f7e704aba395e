"""`export`: the mixed-integer program, written and not solved."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milpverify.commands.options import (
    BOUND_NAMES,
    Commands,
    add_command,
    add_network_options,
    add_region_options,
    bound_method,
)
from milpverify.errors import OptionError

if TYPE_CHECKING:
    from milpverify.program.program import Program

EXPORT = """\
Write the big-M mixed-integer program of a property as .lp or .mps (.gz too), without solving it. Its optimum is the
least slack of the property: the unsafe set is reached if and only if that is <= 0. --relax leaves out integrality,
which gives the triangle LP. A property with several input regions gives one file each: model_1.lp, model_2.lp, ...

Names count layers from 1 and all else from 0. Columns: x3 an input; z2_7 the output of ReLU 7 of layer 2, and a2_7 its
binary (1: active); slack the objective, where it is not one expression; pick which disjunct it belongs to. Rows: above,
active and inactive hold z at max(0, .); row the slack. ReLUs that the bounds decide are folded away. With --8bit or
--grid STEPS, integer columns k3 stand for the inputs x3 = k3/STEPS.

examples:
  milpverify export net.onnx prop.vnnlib model.mps
  milpverify export net.onnx prop.vnnlib model.lp --relax
  milpverify export net.onnx model.lp --input x.npy --label 3 --eps 0.05
"""
SUFFIXES = (".lp", ".mps", ".lp.gz", ".mps.gz")


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "export", "NET (PROP | --input FILE --eps EPS) MODEL", "the MILP as .lp or .mps", EXPORT, run_export
    )
    parser.add_argument("--relax", action="store_true", help="the triangle LP relaxation")
    parser.add_argument("--bounds", choices=BOUND_NAMES, default="crown", help="bounds for the big-M (default: crown)")
    add_network_options(parser)
    add_region_options(parser)


def run_export(args: argparse.Namespace) -> int:
    """Build every program first, then write: a program that cannot be built leaves no file."""
    from milpverify.bounds.compute import compute_bounds
    from milpverify.commands.question import ask, names
    from milpverify.commands.session import ANSWERED, print_answer, screen_for, watched
    from milpverify.formulation.property_program import big_m
    from milpverify.report.files import check_writable
    from milpverify.spec.property import Property

    *files, model = names(args, 2, 3, "NET, PROP and MODEL, or NET and MODEL with --input and --eps")
    path = Path(model)
    if not model.endswith(SUFFIXES):
        raise OptionError(f"export: {path.name} must end in one of {', '.join(SUFFIXES)}. Rename it.")
    check_writable(path, "export")
    question = ask(args, files)
    screen = screen_for(args)
    programs = []
    with watched(screen, "export"):
        for cases in question.one_property().groups():
            bounds = compute_bounds(question.net, cases[0].region, bound_method(args.bounds))
            program = big_m(question.net, Property(cases, question.net.n_inputs, question.net.n_outputs), bounds)
            programs.append(program.relax() if args.relax else program)
    paths = [path] if len(programs) == 1 else [_numbered(path, i + 1) for i in range(len(programs))]
    for program, to in zip(programs, paths, strict=True):
        program.write(to)
    written = [_described(program, to) for program, to in zip(programs, paths, strict=True)]
    if args.json:
        print_answer(args, question, ANSWERED, {"programs": written})
        return ANSWERED
    for entry in written:
        screen.say("{path}: {columns} columns ({integers} integer), {rows} rows, {nonzeros} nonzeros".format(**entry))
    screen.say(f"built in {time.monotonic() - question.began:.2f} s; not solved")
    return ANSWERED


def _described(program: Program, path: Path) -> dict[str, Any]:
    return {
        "path": str(path),
        "columns": program.n_columns,
        "integers": int(program.integer.sum()),
        "rows": program.n_rows,
        "nonzeros": program.n_nonzeros,
    }


def _numbered(path: Path, i: int) -> Path:
    """model.lp.gz -> model_2.lp.gz."""
    suffix = next(s for s in reversed(SUFFIXES) if path.name.endswith(s))
    return path.with_name(f"{path.name.removesuffix(suffix)}_{i}{suffix}")
