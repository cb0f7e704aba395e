"""What programs read: one JSON object, and the result file of the verification competition."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from milpverify.errors import OptionError
from milpverify.whole_files import written_whole

if TYPE_CHECKING:
    from milpverify.network.graph import Network
    from milpverify.proof.evidence import Verdict

WORDS = (b"sat", b"unsat", b"unknown", b"timeout", b"error")


def write_atomically(path: Path, text: str, who: str) -> None:
    """Write a text file that appears complete or not at all.

    Raises:
        OptionError: If the folder does not exist or cannot be written.
    """
    path = path.resolve()  # through a link, to the file that it names
    try:
        with written_whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionError(f"{who}: cannot write {path} ({error.strerror}). Choose another place.") from error


def check_writable(path: Path, who: str) -> None:
    """Refuse a place that cannot be written before any work is done for it.

    Raises:
        OptionError: If the folder is missing, or the path is a folder or a device.
    """
    path = path.resolve()
    if not path.parent.is_dir():
        raise OptionError(f"{who}: there is no folder {path.parent} to write {path.name} to. Create it first.")
    if path.exists() and not path.is_file():
        raise OptionError(f"{who}: {path} is a folder or a device. Name a file.")
    if not os.access(path.parent, os.W_OK):
        raise OptionError(f"{who}: the folder {path.parent} cannot be written to. Choose another.")


def clear_result(path: Path, who: str = "--result") -> None:
    """Remove the result of an earlier run, which must not pass for that of a run that fails; nothing else is removed.

    Raises:
        OptionError: If the file holds something else, or cannot be replaced.
    """
    remove_earlier(path, who, "no result file", lambda start: start.split(b"\n")[0].strip() in (b"", *WORDS))


def remove_earlier(path: Path, who: str, otherwise: str, ours: Callable[[bytes], bool]) -> None:
    """Remove what an earlier run wrote to a place, once that is known to be writable.

    Args:
        path: The place.
        who: For errors.
        otherwise: What a file is that was not written by such a run, in words.
        ours: Whether a file with these first 16 bytes was.

    Raises:
        OptionError: If the file holds something else, or cannot be replaced.
    """
    check_writable(path, who)
    if not path.exists():
        return
    with open(path, "rb") as file:
        if not ours(file.read(16)):
            raise OptionError(f"{who}: {path} exists and is {otherwise}. Name another file, or remove it.")
    path.resolve().unlink()


def write_result(path: Path, verdict: Verdict) -> None:
    """The competition's result file: one word, then the counterexample of a `sat`.

    Raises:
        OptionError: If the file cannot be written.
    """
    from milpverify.proof.evidence import Violated

    lines = [verdict.word]
    if isinstance(verdict, Violated):
        from milpverify.proof.replay import competition_text

        lines.append(competition_text(verdict.witness))
    write_atomically(path, "\n".join(lines) + "\n", "--result")


def network_facts(net: Network, path: str) -> dict[str, Any]:
    """Which network an answer is about."""
    return {
        "path": path,
        "fingerprint": net.fingerprint,
        "input_shape": list(net.input_shape),
        "output_shape": list(net.output_shape),
        "relus": net.n_neurons,
        "approximations": list(net.approximations),
    }


def envelope(command: str, facts: dict[str, Any], exit_status: int, seconds: float) -> dict[str, Any]:
    """The fields every command's JSON object has, in their order (docs/json.md)."""
    return {"command": command, "exit_status": exit_status, "seconds": seconds, "versions": versions(), **facts}


def versions() -> dict[str, str]:
    """The versions an answer depends on."""
    from importlib.metadata import PackageNotFoundError, version

    import milpverify

    found = {"milpverify": milpverify.__version__, "python": platform.python_version()}
    for package in ("numpy", "highspy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # vendored or frozen: the module is there, its metadata is not
            found[package] = "unknown"
    return found


def print_json(value: dict[str, Any], out: IO[str] | None = None) -> None:
    """One JSON object and a line end; numbers that are not finite are a bug, not JSON."""
    print(json.dumps(value, allow_nan=False), file=out or sys.stdout)
