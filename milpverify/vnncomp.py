"""The verification competition's three scripts: `python -m milpverify.vnncomp install|prepare|run v1 ...`.

    install v1                                          install what is missing, compile, say what is there
    prepare v1 CATEGORY ONNX VNNLIB                     can the instance be read? (nothing is analysed)
    run v1 CATEGORY ONNX VNNLIB RESULTS TIMEOUT         write sat, unsat, unknown, timeout or error to RESULTS

`run` works in a child process that its parent ends before TIMEOUT seconds have passed, whatever it is doing, so that
a verdict is always written: whole, by renaming. A `sat` comes with its counterexample, ((X_0 ...) ... (Y_0 ...)), and
is claimed only when onnxruntime violates strictly at it in float32; else the answer is `unknown`.

Exit status: 0 when a verdict is written, unknown and timeout included; 2 for bad input, 3 for a bug (RESULTS says
`error` where the network or property was at fault, and is left alone where the arguments were).

Source: VNN-COMP rules, "Scripts" (2021, version string v1) and the counterexample format of 2022 and later.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from milpverify.commands.guarded import BAD_INPUT, DONE, Outcome, guarded
from milpverify.commands.process import in_own_process
from milpverify.errors import InputError, MilpverifyError, NetworkError, OptionError

if TYPE_CHECKING:
    from milpverify.network.graph import Network
    from milpverify.spec.property import Property

VERSION = "v1"
USAGE = {
    "install": "install v1",
    "prepare": "prepare v1 CATEGORY ONNX VNNLIB",
    "run": "run v1 CATEGORY ONNX VNNLIB RESULTS TIMEOUT",
}
START_S = 0.1  # what the shell and the interpreter took before the clock here started
# Kept back from the limit: by the parent to end the child and write, by the child to confirm a counterexample.
KILL_SHARE, KILL_MOST_S = 0.05, 0.3
CONFIRM_SHARE, CONFIRM_MOST_S = 0.1, 1.0
MOST_WORKERS = 8  # processes that share the bounding of hidden neurons


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the three.

    Args:
        argv: Arguments without the program's name; those of the process when None.

    Returns:
        The exit status.
    """
    began = time.monotonic() - START_S
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        command, rest = _command(arguments)
        if command == "install":
            from milpverify.commands.install import install

            return install()
        if command == "prepare":
            _category, onnx, vnnlib = rest
            read(onnx, vnnlib)
            return DONE
        _category, onnx, vnnlib, results, timeout = rest
        return run(onnx, vnnlib, Path(results), began, _seconds(timeout))
    except MilpverifyError as error:
        return _complain(str(error), BAD_INPUT)


def read(onnx: str, vnnlib: str) -> tuple[Network, Property]:
    """The network and its property.

    Raises:
        InputError: If one of them cannot be read, or they do not belong together.
    """
    from milpverify.network.from_onnx import from_onnx
    from milpverify.spec.vnnlib import read_vnnlib

    net = from_onnx(onnx)
    return net, read_vnnlib(vnnlib, net)


def run(onnx: str, vnnlib: str, results: Path, began: float, timeout_s: float) -> int:
    """Decide an instance and write its result.

    Args:
        onnx, vnnlib: Files, .gz too.
        results: What to write; the result of an earlier run is removed first.
        began: When the time started to count, on the clock of `time.monotonic`.
        timeout_s: Wall time of everything.

    Returns:
        The exit status.

    Raises:
        InputError: If a file is missing, or the results cannot be written.
    """
    from milpverify.report.files import clear_result, write_atomically

    clear_result(results, "run")
    for path in (onnx, vnnlib):
        if not Path(path).is_file():
            raise InputError(f"run: no file {path}. Check the path.")
    killed_at = began + timeout_s - min(KILL_MOST_S, KILL_SHARE * timeout_s)
    confirm_s = min(CONFIRM_MOST_S, CONFIRM_SHARE * timeout_s)
    outcome = guarded(lambda: answer(onnx, vnnlib, killed_at - confirm_s, killed_at), killed_at)
    outcome = outcome or Outcome(DONE, "timeout: the time limit passed", "timeout\n")
    write_atomically(results, outcome.text, "run")
    if outcome.status:
        return _complain(outcome.message, outcome.status)
    print(outcome.message)
    return DONE


def answer(onnx: str, vnnlib: str, search_until: float = inf, until: float = inf) -> tuple[str, str]:
    """What to say of an instance, and the text of its result file.

    Args:
        onnx, vnnlib: Files.
        search_until: When the search should end, on the clock of `time.monotonic`.
        until: When looking for a counterexample that float32 shows should end.

    Raises:
        InputError: If the instance cannot be read.
    """
    from milpverify.errors import BoundsError, SolverError
    from milpverify.proof.evidence import Violated

    net, prop = read(onnx, vnnlib)
    left = search_until - time.monotonic()
    if left <= 0:
        return "timeout: reading took all the time", "timeout\n"
    from milpverify.bounds.processes import cores
    from milpverify.search.branch_and_bound import BranchAndBound
    from milpverify.search.portfolio import Portfolio
    from milpverify.tasks.verify import verify

    try:
        method = Portfolio(tree=BranchAndBound(workers=min(cores(), MOST_WORKERS)))
        verdict = verify(net, prop, time_limit_s=None if left == inf else left, method=method)
    except (SolverError, BoundsError) as error:  # their word is not trusted: there is no answer
        return f"unknown: {error}", "unknown\n"
    if not isinstance(verdict, Violated):
        return str(verdict), f"{verdict.word}\n"
    from milpverify.tasks.competition import counterexample

    left = max(until - time.monotonic(), 1e-3)
    try:
        found = counterexample(net, prop, verdict.witness, onnx, time_limit_s=None if left == inf else left)
    except (OptionError, NetworkError) as error:
        return f"unknown: there is a violation, but {error}", "unknown\n"
    if found is None:
        exact = f"unknown: exact arithmetic finds a violation ({verdict}), but no float32 run of the file shows it"
        return exact, "unknown\n"
    return f"{verdict}; onnxruntime's slack {found.slack:.6g}", f"sat\n{found.text}\n"


def _command(arguments: list[str]) -> tuple[str, list[str]]:
    """The command and what follows the version string.

    Raises:
        OptionError: If there is no such command or version, or their number is wrong.
    """
    if not arguments or arguments[0] not in USAGE:
        raise OptionError(f"expected install, prepare or run, got {arguments[:1] or 'nothing'}. {_usage()}")
    command, rest = arguments[0], arguments[1:]
    expected = len(USAGE[command].split()) - 1
    if len(rest) != expected:
        raise OptionError(f"{command}: expected {expected} arguments, got {len(rest)}. {_usage(command)}")
    if rest[0] != VERSION:
        raise OptionError(f"{command}: expected the version string {VERSION!r}, got {rest[0]!r}. {_usage(command)}")
    return command, rest[1:]


def _usage(command: str | None = None) -> str:
    lines = [USAGE[command]] if command else USAGE.values()
    return "Usage: " + "; ".join(f"python -m milpverify.vnncomp {line}" for line in lines)


def _seconds(text: str) -> float:
    """The time limit.

    Raises:
        OptionError: If it is no positive finite number.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < inf:
        raise OptionError(f"run: TIMEOUT must be a positive number of seconds, got {text!r}. {_usage('run')}")
    return value


def _complain(text: str, status: int) -> int:
    """One line on standard error."""
    print(f"milpverify.vnncomp: error: {' '.join(text.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(in_own_process(main))
