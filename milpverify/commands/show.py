"""`demo`: exact answers about ten digits, and a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from milpverify.commands.options import Commands, add_command, seconds

DEMO = """\
Ten images of handwritten digits and a small network that comes with the package: for each, whether every image within
eps keeps its label, the exact worst margin, and the exact distance to the nearest adversarial example. Writes a
picture of the nearest one, and the network and images for commands of your own.

examples:
  milpverify demo
  milpverify demo --out /tmp/demo
"""


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "demo", "", "exact answers about ten digits, and a picture", DEMO, run_demo)
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), metavar="DIR", help="folder for the picture (default: out/demo)"
    )
    parser.add_argument(
        "--time-limit", type=seconds, default=20.0, metavar="S", help="wall time of any one question (default: 20)"
    )


def run_demo(args: argparse.Namespace) -> int:
    """Run the demo."""
    from milpverify.commands.question import names
    from milpverify.commands.session import screen_for
    from milpverify.demo import run, to_json

    names(args, 0, 0, "no file")
    screen = screen_for(args)
    outcome = run(screen, args.out, args.time_limit)
    status = 0 if outcome.answered else 1
    if args.json:
        from milpverify.report.files import envelope, print_json

        print_json(envelope("demo", to_json(outcome), status, outcome.seconds))
    return status
