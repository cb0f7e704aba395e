"""How robust a network is on labelled images: attacks from below, bounds from above, and the exact error between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from milpverify.attack.fgsm import Fgsm
from milpverify.attack.method import Attack
from milpverify.attack.pgd import Pgd
from milpverify.bounds.backward import FastLin
from milpverify.bounds.batch import bound_batch
from milpverify.bounds.compute import bound_rows, compute_bounds
from milpverify.bounds.method import BoundMethod, Interval
from milpverify.bounds.slopes import AlphaCrown
from milpverify.errors import BoundsError, OptionError
from milpverify.network.exact import forward_exact
from milpverify.network.graph import Network
from milpverify.proof.evidence import Unknown, Violated
from milpverify.proof.replay import confirm
from milpverify.spec.property import robustness
from milpverify.spec.regions import BoxBatch, L1Ball, L2Ball, LinfBall, Region
from milpverify.tasks.progress import Clock, OnProgress
from milpverify.tasks.verify import Verifier, verify
from milpverify.training.ball import Norm
from milpverify.training.datasets import ImageSet

NEAR_TIE = 1e-6  # relative; beyond it no network that is trained loses the sign of a margin in float64
BALLS: dict[float, type[LinfBall] | type[L2Ball] | type[L1Ball]] = {np.inf: LinfBall, 2.0: L2Ball, 1.0: L1Ball}


@dataclass(frozen=True, eq=False)
class RobustError:
    """How many images one method counts as errors.

    Attributes:
        name: "clean", "fgsm", "pgd", "interval", "dual", "alpha" or "exact".
        wrong: Images that are errors for certain: misclassified, or with a confirmed adversarial example.
        open: Images of which the method cannot tell.
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
        """`name`, `lower`, `upper`, `seconds`."""
        return {"name": self.name, "lower": self.lower, "upper": self.upper, "seconds": self.seconds}


@dataclass(frozen=True, eq=False)
class RobustEvaluation:
    """One table of a network's errors on a set of images.

    Attributes:
        data: Name of the images.
        n_images: How many.
        eps: Radius, in units of the input.
        norm: Of the balls.
        errors: One row a method, in order: clean, attacks, bounds, exact.
        interrupted: Whether Ctrl-C left images open that the verifier might have decided.

    Raises:
        BoundsError: If an image is an error for certain in one row and proven robust in another: a bug of ours.
    """

    data: str
    n_images: int
    eps: float
    norm: Norm
    errors: tuple[RobustError, ...]
    interrupted: bool = False

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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "data": self.data,
            "images": self.n_images,
            "eps": self.eps,
            "norm": "linf" if np.isinf(self.norm.p) else f"l{self.norm.p:.0f}",
            "clip": self.norm.clip,
            "errors": [e.to_dict() for e in self.errors],
            "interrupted": self.interrupted,
        }

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Cells of the table: method, at least, at most, seconds."""
        cells = []
        for e in self.errors:
            at_most = "-" if e.name in ("fgsm", "pgd") else f"{100 * e.upper:.2f} %"
            cells.append((e.name, f"{100 * e.lower:.2f} %", at_most, f"{e.seconds:.1f}"))
        return cells

    def __str__(self) -> str:
        norm = self.to_dict()["norm"]
        lines = [f"errors on {self.n_images} images of {self.data}, {norm} eps {self.eps:g}"]
        lines.append(f"{'method':10}{'at least':>10}{'at most':>10}{'s':>9}")
        lines += [f"{name:10}{low:>10}{high:>10}{seconds:>9}" for name, low, high, seconds in self.rows()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Evaluator:
    """How `robust_evaluation` goes about it.

    Attributes:
        fgsm, pgd: The attacks.
        bounds: Bound methods by their name in the table, the quickest first.
        exact: Whether the verifier decides what is left.
        verifier: How; `Verifier()` when None.
        image_limit_s: Wall time of the verifier for one image, None for no limit; beyond it the image is open.
    """

    fgsm: Attack = field(default_factory=Fgsm)
    pgd: Attack = field(default_factory=lambda: Pgd(rounds=1))
    bounds: tuple[tuple[str, BoundMethod], ...] = (
        ("interval", Interval()),
        ("dual", FastLin(intersect=False)),
        ("alpha", AlphaCrown()),
    )
    exact: bool = True
    verifier: Verifier | None = None
    image_limit_s: float | None = 60.0


def robust_evaluation(
    net: Network,
    data: ImageSet,
    eps: float,
    *,
    norm: Norm | None = None,
    method: Evaluator | None = None,
    on_progress: OnProgress | None = None,
) -> RobustEvaluation:
    """Count a network's errors on balls around images. Every number is rigorous as far as it goes.

    An image is an error if some input of its ball does not get a strictly larger output at the label than at every
    other class. "at least" counts points that exact replay confirms; "at most" counts what is not proven, by bounds
    rounded outward (`interval`, `dual`: Wong & Kolter's; `alpha`) or, in the row `exact`, by the verifier (which may
    rest on a MILP solver's word: `tasks.verify`).

    Args:
        net: The network.
        data: Images that it reads.
        eps: Radius, in units of the input.
        norm: `Norm()` when None: L-inf, clipped to [0, 1].
        method: `Evaluator()` when None.
        on_progress: Called once an image and row.

    Returns:
        The table. Ctrl-C while the verifier is at work leaves the images that are left open; before, it is raised.

    Raises:
        OptionError: If the images do not fit the network, or eps makes no sense.
    """
    norm, method = norm or Norm(), method or Evaluator()
    norm.check_eps(eps, "robust_evaluation")
    if int(np.prod(data.input_shape)) != net.n_inputs or data.n_classes > net.n_outputs:
        raise OptionError(
            f"robust_evaluation: images of shape {data.input_shape} in {data.n_classes} classes, the network reads "
            f"{net.n_inputs} values and has {net.n_outputs} outputs. Give the images it was made for."
        )
    return _Evaluation(net, data, eps, norm, method, on_progress).table()


class _Evaluation:
    """The images, their balls, and what is known of each so far."""

    def __init__(
        self,
        net: Network,
        data: ImageSet,
        eps: float,
        norm: Norm,
        method: Evaluator,
        on_progress: OnProgress | None,
    ) -> None:
        self.net, self.data, self.eps, self.norm, self.method = net, data, eps, norm, method
        self.clock = Clock("robust_evaluation", None, on_progress)
        ball, x = BALLS[norm.p], data.images.reshape(len(data), -1).astype(np.float64)
        self.x = x
        self.properties = [
            robustness(net, ball(point, eps, clip=norm.clip), int(label))
            for point, label in zip(x, data.labels, strict=True)
        ]
        self.errors: list[RobustError] = []
        self.interrupted = False

    def table(self) -> RobustEvaluation:
        self._row("clean", self._clean)
        self._row("fgsm", lambda i: self._attacked(i, self.method.fgsm))
        self._row("pgd", lambda i: self._attacked(i, self.method.pgd))
        for name, bounds in self.method.bounds:
            self._bounded(name, bounds)
        if self.method.exact:
            self._row("exact", self._decided)
        return RobustEvaluation(
            self.data.name, len(self.data), self.eps, self.norm, tuple(self.errors), self.interrupted
        )

    def _row(self, name: str, judge: Callable[[int], bool | None]) -> None:
        """One row, image by image: True for an error, False for none, None for open."""
        began, verdicts = self.clock.seconds, []
        for i in range(len(self.data)):
            verdicts.append(judge(i))
            self.clock.tell(name, f"image {i + 1} of {len(self.data)}", left=len(self.data) - i - 1)
        wrong, is_open = (np.array([v is kind for v in verdicts]) for kind in (True, None))
        self.errors.append(RobustError(name, wrong, is_open, self.clock.seconds - began))

    def _clean(self, i: int) -> bool:
        y: Any = self.net.forward(self.x[i])
        label = int(self.data.labels[i])
        lead = y[label] - np.delete(y, label).max()
        if abs(lead) < NEAR_TIE * (1.0 + np.abs(y).max()):  # float64 may not be sure of the sign
            exact = forward_exact(self.net, self.x[i])
            lead = exact[label] - max(value for t, value in enumerate(exact) if t != label)
        return bool(lead <= 0)

    def _attacked(self, i: int, attack: Attack) -> bool | None:
        if self.errors[0].wrong[i]:
            return True
        prop = self.properties[i]
        for case, found in zip(prop.cases, attack.attack_all(self.net, prop.cases), strict=True):
            if found.found and confirm(self.net, case, found.x) is not None:
                return True
        return None

    def _bounded(self, name: str, bounds: BoundMethod) -> None:
        """A row of proven margins, all images at once where the balls are boxes."""
        began, wrong = self.clock.seconds, self.errors[0].wrong
        proven = np.zeros(len(self.data), dtype=bool)
        todo = np.flatnonzero(~wrong)
        rows = np.stack([np.concatenate([c.unsafe.C for c in p.cases]) for p in self.properties])
        regions: list[Region] = [p.cases[0].region for p in self.properties]
        if len(todo) and all(region.is_box for region in regions):
            value = bound_batch(self.net, BoxBatch.of([regions[i] for i in todo]), rows[todo], bounds).value
            proven[todo] = (value > 0).all(axis=1)
        else:
            for i in todo:
                hidden = compute_bounds(self.net, regions[i], bounds)
                proven[i] = bool((bound_rows(self.net, regions[i], hidden, rows[i], bounds).value > 0).all())
        self.clock.tell(name, f"{len(self.data)} images")
        self.errors.append(RobustError(name, wrong.copy(), ~wrong & ~proven, self.clock.seconds - began))

    def _decided(self, i: int) -> bool | None:
        """What attacks and bounds have settled already, or else the verifier."""
        if any(e.wrong[i] for e in self.errors):
            return True
        if any(not e.open[i] for e in self.errors if e.name not in ("clean", "fgsm", "pgd")):
            return False
        self.interrupted = self.interrupted or self.clock.interrupt.pending
        if self.interrupted:
            return None
        limit, verifier = self.method.image_limit_s, self.method.verifier
        verdict = verify(self.net, self.properties[i], time_limit_s=limit, method=verifier)
        if isinstance(verdict, Unknown):
            self.interrupted = verdict.interrupted
            return None
        return isinstance(verdict, Violated)
