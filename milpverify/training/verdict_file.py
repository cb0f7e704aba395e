"""The verdicts of an evaluation in a file, image by image and row by row, from which a later call goes on."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milpverify.errors import CheckpointError
from milpverify.whole_files import written_whole

FORMAT, VERSION = "milpverify-evaluation", 1
WORDS = {"network": "network", "data": "images", "eps": "eps", "norm": "norm or clip", "method": "method"}
EVERY_S = 5.0  # between two saves; an evaluation that is killed loses that much


class Verdict:
    """One letter an image, as the file holds them."""

    WRONG, ROBUST, TRUSTED, OPEN, UNASKED = "e", "r", "s", "o", "."
    ALL = frozenset("erso.")


@dataclass(eq=False)
class VerdictRow:
    """What one row knows so far: a letter of `Verdict` an image, and the wall time that it took."""

    letters: list[str]
    seconds: float = 0.0


@dataclass(eq=False)
class VerdictFile:
    """Where the rows are saved; nowhere without a path.

    Attributes:
        path: The file; its folder must exist.
        question: What must be the same when the work is gone on with: the keys of WORDS.
        n_images: Letters a row.
        rows: By name.
    """

    path: Path | None
    question: dict[str, Any]
    n_images: int
    rows: dict[str, VerdictRow] = field(default_factory=dict)
    _saved: float = field(default_factory=time.monotonic)

    def row(self, name: str) -> VerdictRow:
        """The row, empty at first."""
        return self.rows.setdefault(name, VerdictRow([Verdict.UNASKED] * self.n_images))

    def load(self) -> None:
        """Take the rows from the file, if there is one.

        Raises:
            CheckpointError: If it is no such file, damaged, or of another question. It is left as it is.
        """
        if self.path is None:
            return
        folder = self.path.resolve().parent
        if self.path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise CheckpointError(f"checkpoint: {self.path} cannot be written. Name a file in a folder that exists.")
        if not self.path.exists():
            return
        try:
            told = json.loads(self.path.read_text(encoding="utf-8"))
            ours = told["format"] == FORMAT and told["version"] == VERSION
            known, rows = told["question"], {name: self._read(row) for name, row in told["rows"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"checkpoint: {self.path} is no checkpoint of an evaluation, or damaged ({type(error).__name__}). "
                "Name another file, or remove this one."
            ) from None
        if not ours or not isinstance(known, dict):
            raise CheckpointError(f"checkpoint: {self.path} is of another version, or damaged. Name another file.")
        for key, word in WORDS.items():
            if known.get(key) != self.question[key]:
                raise CheckpointError(
                    f"checkpoint: {self.path} was made with another {word}. Ask the same as then, name another file, "
                    "or remove this one."
                )
        self.rows = rows

    def save(self, *, now: bool = False) -> None:
        """Write the rows, if that is due.

        Raises:
            CheckpointError: If they cannot be written.
        """
        if self.path is None or (not now and time.monotonic() - self._saved < EVERY_S):
            return
        rows = {name: {"verdicts": "".join(row.letters), "seconds": row.seconds} for name, row in self.rows.items()}
        text = json.dumps({"format": FORMAT, "version": VERSION, "question": self.question, "rows": rows}, indent=1)
        try:
            with written_whole(self.path.resolve()) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise CheckpointError(
                f"checkpoint: cannot write {self.path} ({error.strerror}). Choose another place."
            ) from None
        self._saved = time.monotonic()

    def _read(self, row: dict[str, Any]) -> VerdictRow:
        """A row of the file.

        Raises:
            ValueError: If it is none.
        """
        letters, seconds = list(row["verdicts"]), float(row["seconds"])
        if not Verdict.ALL.issuperset(letters) or not 0 <= seconds < float("inf"):
            raise ValueError("no row of verdicts")
        if len(letters) != self.n_images:
            raise ValueError("another number of images")
        return VerdictRow(letters, seconds)
