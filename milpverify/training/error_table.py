"""The table of a network's errors: one row a method, errors for certain below, what is not proven above."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from milpverify.errors import BoundsError, OptionError
from milpverify.tasks.rungs import aligned
from milpverify.training.ball import Norm
from milpverify.whole_files import written_whole

ATTACKS = ("fgsm", "pgd")
HEADINGS = ("method", "at least", "at most", "s")


@dataclass(frozen=True, eq=False)
class RobustError:
    """How many images one method counts as errors.

    Attributes:
        name: "clean", "fgsm", "pgd", "interval", "dual", "alpha" or "exact".
        wrong: Images that are errors for certain: misclassified, or with a confirmed adversarial example.
        open: Images of which the method cannot tell, or which it has not been asked about.
        seconds: Wall time; of "exact", beyond what the rows before it have settled.
    """

    name: str
    wrong: np.ndarray
    open: np.ndarray
    seconds: float

    @property
    def lower(self) -> float:
        """Share of the images that are errors for certain."""
        return float(self.wrong.mean())

    @property
    def upper(self) -> float:
        """Share that is not proven robust; of an attack 1.0, as it proves nothing."""
        return float((self.wrong | self.open).mean())

    def to_dict(self) -> dict[str, Any]:
        """`name`, `lower`, `upper`, `seconds`, and the numbers of the images that are `wrong` and `open`, from 0."""
        return {
            "name": self.name,
            "lower": self.lower,
            "upper": self.upper,
            "seconds": self.seconds,
            "wrong": np.flatnonzero(self.wrong).tolist(),
            "open": np.flatnonzero(self.open).tolist(),
        }


@dataclass(frozen=True, eq=False)
class RobustEvaluation:
    """One table of a network's errors on a set of images.

    Attributes:
        data: Name of the images.
        n_images: How many.
        eps: Radius, in units of the input.
        norm: Of the balls.
        errors: One row a method, in order: clean, attacks, bounds, exact. Where the work was cut short, rows that were
            not begun are missing, and images that a row did not come to are open in it.
        interrupted: Whether Ctrl-C cut the work short.
        timed_out: Whether the time limit of the whole did.
        remarks: What a reader should know: how many images rest on a solver's word, and solvers that failed.

    Raises:
        BoundsError: If an image is an error for certain in one row and proven robust in another: a bug of ours.
    """

    data: str
    n_images: int
    eps: float
    norm: Norm
    errors: tuple[RobustError, ...]
    interrupted: bool = False
    timed_out: bool = False
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = np.logical_or.reduce([e.wrong for e in self.errors])
        for e in self.errors:
            contradicted = np.flatnonzero(wrong & ~(e.wrong | e.open))
            if e.name != "clean" and len(contradicted):
                raise BoundsError(
                    f"robust_evaluation: image {contradicted[0]} is proven robust by {e.name}, and an adversarial "
                    "example of it is confirmed. Please report this."
                )

    def __getitem__(self, name: str) -> RobustError:
        for e in self.errors:
            if e.name == name:
                return e
        raise KeyError(name)

    @property
    def cut_short(self) -> str:
        """Why the work ended before its end; empty if it did not."""
        return "interrupted" if self.interrupted else "time ran out" if self.timed_out else ""

    @property
    def title(self) -> str:
        """What the table is about, in a line."""
        images = "1 image" if self.n_images == 1 else f"{self.n_images} images"
        late = f" ({self.cut_short})" if self.cut_short else ""
        return f"errors on {images} of {self.data}, {self.norm.name} eps {self.eps:g}{late}"

    @property
    def sentence(self) -> str:
        """The title as a sentence."""
        return f"{self.title[0].upper()}{self.title[1:]}."

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "data": self.data,
            "images": self.n_images,
            "eps": self.eps,
            "norm": self.norm.name,
            "clip": self.norm.clip,
            "errors": [e.to_dict() for e in self.errors],
            "interrupted": self.interrupted,
            "timed_out": self.timed_out,
            "remarks": list(self.remarks),
        }

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Cells of the table: method, at least, at most, seconds."""
        cells = []
        for e in self.errors:
            at_most = "-" if e.name in ATTACKS else f"{100 * e.upper:.2f} %"
            cells.append((e.name, f"{100 * e.lower:.2f} %", at_most, f"{e.seconds:.1f}"))
        return cells

    def __str__(self) -> str:
        return "\n".join([self.title, *aligned(HEADINGS, tuple(self.rows())), *self.remarks])

    def to_markdown(self) -> str:
        """The table for a page: shares in percent."""
        lines = [self.sentence, "", f"| {' | '.join(HEADINGS)} |", "|---|---:|---:|---:|"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows()]
        if self.remarks:
            lines += ["", *self.remarks]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """The table for programs: shares between 0 and 1, nothing where an attack proves nothing."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("method", "at_least", "at_most", "seconds"))
        for e in self.errors:
            writer.writerow((e.name, e.lower, "" if e.name in ATTACKS else e.upper, round(e.seconds, 3)))
        return out.getvalue()

    def save(self, path: Path | str) -> None:
        """Write the table as .md, .csv or .json (with the numbers of the images), by the file's suffix; whole or not.

        Raises:
            OptionError: If the suffix is another, or the file cannot be written.
        """
        path = Path(path)
        check_table_suffix(path)
        if path.suffix == ".json":
            text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        else:
            text = self.to_csv() if path.suffix == ".csv" else self.to_markdown()
        try:
            with written_whole(path.resolve()) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OptionError(
                f"RobustEvaluation: cannot write {path} ({error.strerror}). Choose another place."
            ) from None


def check_table_suffix(path: Path) -> None:
    """Refuse a file name that does not say how to write the table.

    Raises:
        OptionError: If it ends otherwise than in .md, .csv or .json.
    """
    if path.suffix not in (".md", ".csv", ".json"):
        raise OptionError(f"RobustEvaluation: {path.name} must end in .md, .csv or .json. Rename it.")
