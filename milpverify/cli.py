"""The command line: `milpverify COMMAND ...`. Bad input is one line on standard error, never a traceback.

Exit status: 0 answered, 1 unknown or out of time, 2 bad input, 3 a bug of ours, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from milpverify.commands import (
    bounds,
    evaluate,
    explore,
    export,
    measure,
    polytope,
    proofs,
    ranges,
    show,
    train,
    verify,
)
from milpverify.commands.options import Parser
from milpverify.commands.process import in_own_process
from milpverify.errors import InputError, MilpverifyError, OptionError

OPEN, BAD_INPUT, BUG, INTERRUPTED = 1, 2, 3, 130

ABOUT = """\
Exact answers about ReLU networks: is any input of a region classified wrongly, how small is the worst margin, how near
is the nearest adversarial example. Networks are ONNX files; properties are VNN-LIB files, or a ball around an input.
"""
MORE = """\
examples:
  milpverify demo                                       a bundled network, real digits, verdicts, a picture
  milpverify verify net.onnx prop.vnnlib --timeout 60
  milpverify epsilon net.onnx --input x.npy --label 3 --clip 0 1

exit status: 0 answered, 1 unknown or out of time, 2 bad input, 130 after Ctrl-C.
'milpverify COMMAND --help' explains a command.
"""


def program() -> int:
    """`main` in a process of its own."""
    return in_own_process(main)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; those of the process when None.

    Returns:
        The exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        args = parse(arguments)
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as stop:
        return _complain(str(stop) or "interrupted; nothing is claimed.", INTERRUPTED)
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing more can be said, at the interpreter's exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OPEN
    except InputError as error:
        return _complain(f"error: {error}", BAD_INPUT)
    except MilpverifyError as error:
        return _complain(f"error: {error}", OPEN)
    except MemoryError:
        return _complain("error: out of memory, so there is no answer. Free some, or ask about a smaller region.", OPEN)
    except Exception as error:  # a bug of ours: whatever it is, it must not pass for an answer
        if "--debug" in arguments:
            raise
        kind = type(error).__name__
        remedy = "Run again with --debug and report what it prints."
        return _complain(f"error: a bug of milpverify ({kind}: {error}). {remedy}", BUG)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options and files of one command.

    Raises:
        OptionError: If they make no sense.
    """
    began = time.monotonic()
    # argparse gives files that stand after options back as extras: they are files all the same.
    args, extras = build_parser().parse_known_args(arguments)
    unknown = [extra for extra in extras if extra.startswith("-") and extra != "-"]
    if unknown:
        raise OptionError(f"{args.command}: unknown option {unknown[0]}. See 'milpverify {args.command} --help'.")
    args.files, args.began = [*args.files, *extras], began
    return args


def build_parser() -> Parser:
    """The parser of every command."""
    from milpverify import __version__

    parser = Parser(
        prog="milpverify",
        description=ABOUT,
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"milpverify {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    show.register(commands)
    verify.register(commands)
    proofs.register(commands)
    measure.register(commands)
    ranges.register(commands)
    bounds.register(commands)
    polytope.register(commands)
    explore.register(commands)
    export.register(commands)
    train.register(commands)
    evaluate.register(commands)
    return parser


def _complain(text: str, status: int) -> int:
    """One line on standard error, whatever an error's text holds."""
    print(f"milpverify: {' '.join(text.split())}", file=sys.stderr)
    return status
