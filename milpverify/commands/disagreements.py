"""The files of `verify --cross-check`: the programs that two solvers disagree about."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from milpverify.errors import OptionError

if TYPE_CHECKING:
    from milpverify.proof.evidence import Verdict

LONGEST = 60  # characters of a case's name in the name of a file


def check_folder(args: argparse.Namespace) -> None:
    """Refuse a folder that cannot be written to before any work is done.

    Raises:
        OptionError: If the programs could not be written there.
    """
    from milpverify.report.files import check_writable

    check_writable(_folder(args) / "disagreement.lp", "--cross-check")


def write_programs(args: argparse.Namespace, verdict: Verdict) -> Verdict:
    """The verdict, with both programs of a disagreement in files, and their paths said.

    The first solver's program goes to disagreement-CASE.SOLVER.lp, the second one's to disagreement-CASE.SOLVER.mps,
    each number to its last bit. Where they cannot be written, the verdict says that instead.
    """
    from milpverify.proof.evidence import Unknown

    if not isinstance(verdict, Unknown) or verdict.disagreement is None:
        return verdict
    refused, files = verdict.disagreement, []
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", refused.case)[:LONGEST].strip("-") or "case"
    try:
        for opinion, suffix in ((refused.first, "lp"), (refused.second, "mps")):
            name = re.sub(r"[^a-z0-9]+", "-", opinion.solver.lower())
            path = _folder(args) / f"disagreement-{stem}.{name}.{suffix}"
            opinion.program.write(path)
            files.append(str(path))
        told = f"Both programs are written: {files[0]} and {files[1]}."
    except OptionError as error:
        told = f"Their programs could not be written ({error})"
    refused = replace(refused, files=tuple(files))
    return replace(verdict, reason=f"{verdict.reason} {told}", disagreement=refused)


def _folder(args: argparse.Namespace) -> Path:
    """Beside the result file, or the current folder."""
    return Path() if args.result is None else Path(args.result).parent
