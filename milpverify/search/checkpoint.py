"""Checkpoints: the open tree in a file, from which a later call of the same question goes on.

The file is a NumPy archive (.npz, not compressed, without pickles) of

    header      JSON text: "format", "version", "program" (milpverify's version), and what was asked: "network" and
                "property" (fingerprints), "question" ("verify" or "worst_margin"), "options" (the method's repr)
    checksum    SHA-256 of all other arrays with their names, types and shapes, as hex text
    g/...       of the g-th region of the property (from 0) where its search has begun:
        cases           which cases of the region are searched
        lower           a proven lower bound of each one's least slack
        best_x, best_case   the best point, where there is one
        answer/...      what the search said of each case, if it is finished; else
        tree/, race/, boxes/, told/     the parts of the search (`record`): open nodes with their bounds and
                multipliers, bounds at which nodes were closed, counts, the hidden bounds and planes they are made on

Trust. Bounds in the file were proven by this program when it wrote them, and are believed as they stand: a checkpoint
is as trustworthy as whoever kept it. The checksum tells damage, not forgery. Points are replayed exactly all the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from milpverify.errors import CheckpointError, OptionError
from milpverify.search.question import Answer, Question, Search, answers_arrays, saved_answers
from milpverify.search.record import Record, put_under, taken_from
from milpverify.whole_files import written_whole

FORMAT, VERSION = "milpverify-checkpoint", 1
SHARE = 0.05  # of the time that saving may take
WORDS = {
    "format": "format",
    "version": "version of the format",
    "program": "version of milpverify",
    "network": "network",
    "property": "property",
    "question": "question",
    "options": "method or gap",
}


@dataclass(frozen=True)
class Checkpoint:
    """Where a search is saved, and how often.

    A call that finds the file goes on from it; the file must be of the same network, property, method and program. It
    is kept when the question is answered: the same call then gives the answer again without a search.

    Attributes:
        path: The file; its folder must exist.
        every_s: Seconds between two saves, at least; more where saving takes long.

    Raises:
        OptionError: If `every_s` is negative or no number.
    """

    path: Path | str
    every_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.every_s < float("inf"):
            raise OptionError(f"Checkpoint: every_s must be finite and not negative, got {self.every_s}.")

    @classmethod
    def of(cls, checkpoint: Checkpoint | Path | str) -> Checkpoint:
        """The checkpoint with its defaults: a path alone stands for the rest as it is."""
        return checkpoint if isinstance(checkpoint, Checkpoint) else cls(checkpoint)


class CheckpointFile:
    """A checkpoint of one call: what it holds from before, and what is put into it."""

    def __init__(self, checkpoint: Checkpoint, asked: dict[str, str]) -> None:
        """Read the file, if there is one.

        Args:
            checkpoint: Where.
            asked: What the call is about: the fields of the header from "program" on.

        Raises:
            CheckpointError: If the file is damaged, another question's or no checkpoint; or cannot be read, or written.
        """
        self._path, self._every_s = Path(checkpoint.path), checkpoint.every_s
        self._header: dict[str, Any] = {"format": FORMAT, "version": VERSION, **asked}
        self._groups: dict[str, dict[str, np.ndarray]] = {}
        folder = self._path.resolve().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise CheckpointError(f"checkpoint: cannot write to the folder {folder}. Create it, or choose another.")
        if self._path.exists() or self._path.is_symlink():
            arrays = _read(self._path)
            self._check(json.loads(str(arrays.pop("header"))))
            for key in arrays:
                group = key.partition("/")[0]
                self._groups.setdefault(group, taken_from(group, arrays))

    def _check(self, header: dict[str, Any]) -> None:
        for key, word in WORDS.items():
            if header.get(key) != self._header.get(key):
                raise CheckpointError(
                    f"checkpoint: {self._path} was made with another {word} ({_short(header.get(key))}, now "
                    f"{_short(self._header.get(key))}). Ask the same as then, name another file, or remove this one."
                )

    def run(self, search: Search, question: Question, group: int, positions: list[int]) -> Answer:
        """Search from where an earlier call stopped, saving on the way.

        Args:
            search: Whose turn it is.
            question: Of some cases of one region.
            group: Which region of the property.
            positions: Which of its cases.
        """
        key, found = str(group), self._groups.get(str(group), {})
        if found and not np.array_equal(found["cases"], positions):
            found = {}  # the bounds alone closed other cases then: begin again
        if found:
            np.maximum(question.lower, found["lower"], out=question.lower)
            if "best_x" in found:
                question.offer(int(found["best_case"]), found["best_x"])
        if "answer/lower" in found:
            return _saved_answer(taken_from("answer", found))
        cases = np.array(positions, dtype=int)

        def state() -> dict[str, np.ndarray]:
            return {"cases": cases, **_facts(question), **question.record.describe()}

        question.record = Record(found, lambda: self._write({key: state()}))
        answer = search.run(question)
        if any(case.reason or case.timed_out for case in answer.cases):
            self._groups[key] = state()
        else:  # answered: the tree is not needed any more
            self._groups[key] = {"cases": cases, **_facts(question), **put_under("answer", _answer_arrays(answer))}
        self._write({})
        return answer

    def _write(self, at_work: dict[str, dict[str, np.ndarray]]) -> float:
        """Write the file so that a crash leaves the old one or the new one.

        Args:
            at_work: The state of a region whose search goes on, in place of what was known of it.

        Returns:
            How many seconds to wait until the next time.
        """
        began = time.monotonic()
        arrays = {"header": np.array(json.dumps(self._header))}
        for key, group in {**self._groups, **at_work}.items():
            arrays.update(put_under(key, group))
        arrays["checksum"] = np.array(_checksum(arrays))
        path = self._path.resolve()  # through a link, to the file that it names
        try:
            with written_whole(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # a full disk must not cost the search
            warnings.warn(f"checkpoint: cannot write {path} ({error.strerror}); the search goes on.", stacklevel=2)
        return max(self._every_s, (time.monotonic() - began) / SHARE)


def _read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint but the checksum, which fits them."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        whole = str(arrays.pop("checksum")) == _checksum(arrays)
        ours = json.loads(str(arrays["header"]))["format"] == FORMAT
    except OSError as error:
        if error.strerror is not None:
            raise CheckpointError(f"checkpoint: cannot read {path} ({error.strerror}). Check the path.") from None
        whole = ours = False
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, NotImplementedError, zipfile.BadZipFile):
        whole = ours = False
    except Exception as error:  # zlib.error, struct.error and what else a damaged archive raises
        raise _no_checkpoint(path) from error
    if not (whole and ours):
        raise _no_checkpoint(path)
    return arrays


def _no_checkpoint(path: Path) -> CheckpointError:
    return CheckpointError(
        f"checkpoint: {path} is no checkpoint, or a truncated or damaged one; it is left as it is. Name another file, "
        "or remove this one to begin again."
    )


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {value.dtype.str} {np.shape(arrays[name])}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _facts(question: Question) -> dict[str, np.ndarray]:
    facts = {"lower": question.lower.copy()}
    if question.best_x is not None and question.best_case >= 0:
        facts.update(best_x=question.best_x, best_case=np.array(question.best_case))
    return facts


def _answer_arrays(answer: Answer) -> dict[str, np.ndarray]:
    return {**answers_arrays(answer.cases), "nodes": np.array(answer.nodes)}


def _saved_answer(arrays: dict[str, np.ndarray]) -> Answer:
    return Answer(saved_answers(arrays), int(arrays["nodes"]))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
