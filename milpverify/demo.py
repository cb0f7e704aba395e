"""Exact answers about ten handwritten digits, and a picture of the nearest adversarial example."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from milpverify.errors import OptionError
from milpverify.network.from_onnx import from_onnx
from milpverify.network.graph import Network
from milpverify.proof.evidence import Bracket, Grade, Holds, Unknown, Verdict
from milpverify.report.screen import Column, Screen, Tone
from milpverify.report.words import GRADE_MEANS, interval, number
from milpverify.spec.property import robustness
from milpverify.spec.regions import LinfBall
from milpverify.tasks.epsilon import minimum_epsilon
from milpverify.tasks.margin import worst_margin
from milpverify.tasks.verify import verify

IMAGES = 10
EPS = 0.1
CLIP = (0.0, 1.0)
SAME = 1e-4  # brackets this narrow print as one number
BORDER = 1e-3  # scores this near are level: witnesses lie a hair beyond the border
COLUMNS = (
    Column("image", True),
    Column("label", True),
    Column("verdict"),
    Column("worst margin", True),
    Column("minimum epsilon", True),
    Column("nearest is a", True),
    Column("rests on"),
    Column("seconds", True),
)


@dataclass(frozen=True, eq=False)
class Answer:
    """What is known about one image.

    Attributes:
        image: Position in digits.npz.
        label: Its class.
        verdict: Does every image within EPS keep the label?
        margin: The worst margin within EPS.
        radius: The distance to the nearest adversarial example (L-inf).
        seconds: For all three.
    """

    image: int
    label: int
    verdict: Verdict
    margin: Bracket
    radius: Bracket
    seconds: float

    @property
    def other(self) -> int | None:
        """The class whose output is the largest of all others at the nearest adversarial example."""
        if self.radius.witness is None:
            return None
        y = self.radius.witness.y.copy()
        y[self.label] = -np.inf
        return int(y.argmax())

    @property
    def rests_on(self) -> str:
        """The weakest grade among the three answers' proven sides."""
        grades = [g for g in (self.margin.lower_grade, self.radius.lower_grade) if g is not None]
        if isinstance(self.verdict, Holds):
            grades.append(self.verdict.grade)
        return Grade.weakest(grades).value

    @property
    def closed(self) -> bool:
        """Whether all three questions are answered."""
        return not (isinstance(self.verdict, Unknown) or self.margin.timed_out or self.radius.timed_out)

    def row(self) -> tuple[str, ...]:
        """The table's cells."""
        other = "-" if self.other is None else str(self.other)
        return (
            str(self.image), str(self.label), type(self.verdict).__name__, _short(self.margin), _short(self.radius),
            other, self.rests_on, f"{self.seconds:.2f}",
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Outcome:
    """The whole demo: its answers, the picture (None without an adversarial example), the seconds."""

    answers: tuple[Answer, ...]
    picture: Path | None
    seconds: float

    @property
    def answered(self) -> bool:
        """Whether nothing was left open."""
        return all(answer.closed for answer in self.answers)

    @property
    def nearest(self) -> Answer | None:
        """The answer with the nearest adversarial example."""
        found = [answer for answer in self.answers if answer.radius.witness is not None]
        return min(found, key=lambda answer: answer.radius.upper, default=None)


@contextmanager
def bundled() -> Iterator[tuple[Path, Path]]:
    """The paths of digits.onnx and digits.npz, wherever the package is installed."""
    data = files("milpverify") / "data"
    with as_file(data / "digits.onnx") as network, as_file(data / "digits.npz") as images:
        yield network, images


def run(screen: Screen, out: Path, time_limit_s: float, images: int = IMAGES) -> Outcome:
    """Answer, show every row as it comes, draw the picture, name commands to go on with.

    Args:
        screen: Where to show it.
        out: Folder for the picture and the files that the commands need; made if it is missing.
        time_limit_s: Wall time of any one question.
        images: How many of the bundled images.

    Raises:
        OptionError: If the folder cannot be written.
    """
    began = time.monotonic()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with bundled() as sources:
            network, data = (Path(shutil.copyfile(source, out / source.name)) for source in sources)
    except OSError as error:
        raise OptionError(
            f"demo: cannot write to folder {out} ({error.strerror}). Choose another with --out."
        ) from error
    net = from_onnx(network)
    with np.load(data) as arrays:
        pictures, labels = arrays["images"][:images], arrays["labels"][:images]
    screen.say(f"{len(pictures)} images of 8 x 8 grey levels, {net.n_neurons} ReLUs, {net.n_outputs} classes")
    screen.say(f"Does every image within eps = {EPS} per pixel keep its label? How near is the nearest that does not?")
    screen.say("")
    answers = []
    with screen.growing("", COLUMNS) as table:
        for i, (image, label) in enumerate(zip(pictures, labels, strict=True)):
            answers.append(_answer(net, image, int(label), i, time_limit_s, table.working(f"image {i}")))
            table.add(answers[-1].row())
    outcome = Outcome(tuple(answers), None, time.monotonic() - began)
    return _with_picture(screen, outcome, pictures, out, began)


def _answer(net: Network, image: np.ndarray, label: int, i: int, limit: float, listener: Any) -> Answer:
    began = time.monotonic()
    prop = robustness(net, LinfBall(image, EPS, clip=CLIP), label)
    verdict = verify(net, prop, time_limit_s=limit, on_progress=listener)
    margin = worst_margin(net, prop, time_limit_s=limit, on_progress=listener)
    radius = minimum_epsilon(net, image, label, ball=LinfBall, clip=CLIP, time_limit_s=limit, on_progress=listener)
    return Answer(i, label, verdict, margin, radius, time.monotonic() - began)


def _with_picture(screen: Screen, outcome: Outcome, pictures: np.ndarray, out: Path, began: float) -> Outcome:
    """Draw the nearest adversarial example and close the demo."""
    robust = sum(isinstance(answer.verdict, Holds) for answer in outcome.answers)
    screen.say("")
    screen.say(f"{robust} of {len(outcome.answers)} images keep their label within eps = {EPS}.", Tone.GOOD)
    nearest = outcome.nearest
    picture = None
    if nearest is not None and nearest.radius.witness is not None:
        from milpverify.report.picture import draw_adversarial

        picture = out / "nearest.png"
        shape = pictures[nearest.image].shape
        adversarial = nearest.radius.witness.x.reshape(shape)
        caption = describe(nearest, pictures[nearest.image])
        title = f"adversarial: {nearest.label} {becomes(nearest)} {nearest.other}"
        titles = (f"original: {nearest.label}", title, "difference")
        draw_adversarial(picture, pictures[nearest.image], adversarial, titles, caption)
        np.save(out / "nearest.npy", adversarial)
        screen.say(caption)
        screen.say(f"picture: {picture}")
    seconds = time.monotonic() - began
    screen.say(f"{seconds:.1f} s in all")
    _suggest(screen, out, nearest)
    return Outcome(outcome.answers, picture, seconds)


def becomes(nearest: Answer) -> str:
    """What the nearest adversarial example is: on the border (as it is when the search was closed), or beyond it."""
    assert nearest.radius.witness is not None and nearest.other is not None
    y = nearest.radius.witness.y
    return "ties with" if abs(y[nearest.label] - y[nearest.other]) < BORDER else "is taken for"


def describe(nearest: Answer, image: np.ndarray) -> str:
    """The picture's caption: what changed, by how much, and what says that nothing nearer exists."""
    assert nearest.radius.witness is not None and nearest.radius.lower_grade is not None
    change = np.abs(nearest.radius.witness.x - image.reshape(-1))
    moved, y, other = int((change > 1e-9).sum()), nearest.radius.witness.y, nearest.other
    # Six digits, the claims rounded so that they stay true.
    least, most = math.floor(nearest.radius.lower * 1e6) / 1e6, math.ceil(nearest.radius.upper * 1e6) / 1e6
    return (
        f"The nearest adversarial example: image {nearest.image}, a {nearest.label}, {becomes(nearest)} {other} "
        f"(scores {y[nearest.label]:.4f} and {y[other]:.4f}) when {moved} of {change.size} pixels change by at most "
        f"{most:.6f} of the grey range. No change below {least:.6f} does it, "
        f"{GRADE_MEANS[nearest.radius.lower_grade]}."
    )


def _suggest(screen: Screen, out: Path, nearest: Answer | None) -> None:
    """Commands that run as they stand."""
    network, data = out / "digits.onnx", out / "digits.npz"
    image = f"--input {data} --key images"
    screen.say("")
    screen.say("Go on with:")
    screen.say(f"  milpverify verify {network} {image} --index 3 --label 3 --eps 0.1 --clip 0 1")
    screen.say(f"  milpverify epsilon {network} {image} --index 3 --label 3 --clip 0 1 --norm l1")
    screen.say(f"  milpverify range {network} {image} --index 3 --eps 0.1 --clip 0 1 --classes")
    if nearest is not None:
        screen.say(f"  milpverify detect {network} --input {out / 'nearest.npy'} --eps {EPS} --clip 0 1")
    screen.say("  milpverify --help")


def to_json(outcome: Outcome) -> dict[str, Any]:
    """The answers and where the picture is, JSON-ready."""
    return {
        "eps": EPS,
        "clip": list(CLIP),
        "picture": None if outcome.picture is None else str(outcome.picture),
        "images": [
            {
                "image": answer.image,
                "label": answer.label,
                "verdict": answer.verdict.to_dict(),
                "margin": answer.margin.to_dict(),
                "minimum_epsilon": answer.radius.to_dict(),
                "nearest_class": answer.other,
                "seconds": answer.seconds,
            }
            for answer in outcome.answers
        ],
    }


def _short(bracket: Bracket) -> str:
    """Four decimals where the bracket is closed."""
    if bracket.is_exact(SAME):
        return f"{(bracket.lower + bracket.upper) / 2:.4f}"
    return interval(bracket) if bracket.upper < np.inf else f"> {number(bracket.lower)}"
