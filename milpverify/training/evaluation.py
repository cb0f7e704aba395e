"""How robust a network is on labelled images: attacks from below, bounds from above, and the exact error between."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
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
from milpverify.errors import BoundsError, OptionError, SolverError
from milpverify.network.exact import forward_exact
from milpverify.network.graph import Network
from milpverify.proof.evidence import Grade, Holds, Unknown, Violated
from milpverify.proof.replay import confirm
from milpverify.spec.property import robustness
from milpverify.spec.regions import BoxBatch, L1Ball, L2Ball, LinfBall
from milpverify.tasks.progress import Clock, OnProgress, Progress
from milpverify.tasks.verify import Verifier, verify
from milpverify.training.ball import Norm
from milpverify.training.datasets import ImageSet, check_image_set
from milpverify.training.error_table import ATTACKS, RobustError, RobustEvaluation
from milpverify.training.verdict_file import Verdict, VerdictFile

BALLS: dict[float, type[LinfBall] | type[L2Ball] | type[L1Ball]] = {np.inf: LinfBall, 2.0: L2Ball, 1.0: L1Ball}
TOGETHER = 50  # images bounded at once: enough for the kernel, few enough for progress and Ctrl-C


@dataclass(frozen=True)
class Evaluator:
    """How `robust_evaluation` goes about it.

    Attributes:
        fgsm, pgd: The attacks.
        bounds: Bound methods by their name in the table, the quickest first.
        exact: Whether the verifier decides what is left.
        attack_proven: Whether the attacks are tried on images too that a bound proves robust. They can find nothing
            there, which makes this a check of the bounds, and most of the work where most images are robust.
        verifier: How; `Verifier()` when None.
        image_limit_s: Wall time of the verifier for one image, None for no limit; beyond it the image is open.

    Raises:
        OptionError: If the limit is not positive, or two rows have one name.
    """

    fgsm: Attack = field(default_factory=Fgsm)
    pgd: Attack = field(default_factory=lambda: Pgd(rounds=1))
    bounds: tuple[tuple[str, BoundMethod], ...] = (
        ("interval", Interval()),
        ("dual", FastLin(intersect=False)),
        ("alpha", AlphaCrown()),
    )
    exact: bool = True
    attack_proven: bool = False
    verifier: Verifier | None = None
    image_limit_s: float | None = 60.0

    def __post_init__(self) -> None:
        if self.image_limit_s is not None and not self.image_limit_s > 0:
            raise OptionError(
                f"Evaluator: image_limit_s must be positive, got {self.image_limit_s}. Leave it None for no limit."
            )
        if len(set(self.names)) < len(self.names):
            raise OptionError(f"Evaluator: two rows have one name, {[*self.names]}. Rename a bound method.")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the rows, in the order of the table; `exact` is its last."""
        return ("clean", *ATTACKS, *(name for name, _ in self.bounds), "exact")


def robust_evaluation(
    net: Network,
    data: ImageSet,
    eps: float,
    *,
    norm: Norm | None = None,
    method: Evaluator | None = None,
    time_limit_s: float | None = None,
    on_progress: OnProgress | None = None,
    checkpoint: Path | str | None = None,
) -> RobustEvaluation:
    """Count a network's errors on balls around images. Every number is rigorous as far as it goes.

    An image is an error if some input of its ball does not get a strictly larger output at the label than at every
    other class. "at least" counts points that exact replay confirms; "at most" counts what is not proven, by bounds
    rounded outward (`interval`, `dual`: Wong & Kolter's; `alpha`) or, in the row `exact`, by the verifier (which may
    rest on a MILP solver's word: `tasks.verify`; a remark says for how many images).

    Args:
        net: The network.
        data: Images that it reads.
        eps: Radius, in units of the input.
        norm: `Norm()` when None: L-inf, clipped to [0, 1].
        method: `Evaluator()` when None.
        time_limit_s: Wall time of the whole; None for no limit. Bounds and attacks on an image are not interrupted.
        on_progress: Called as the work goes on.
        checkpoint: A file that verdicts are saved to every few seconds, and gone on from if it exists. What the row
            `exact` left open is asked again, so that more time for an image counts.

    Returns:
        The table. Ctrl-C and the time limit leave open what has not been judged.

    Raises:
        InputError: If the images do not fit the network, or eps makes no sense.
        CheckpointError: If the checkpoint is damaged or of another question; it is left as it is.
    """
    norm, method = Norm() if norm is None else norm, method or Evaluator()
    _check_question(net, data, eps, norm)
    return _Evaluation(net, data, float(eps), norm, method, time_limit_s, on_progress, checkpoint).table()


def _check_question(net: Network, data: ImageSet, eps: float, norm: Norm) -> None:
    who = "robust_evaluation"
    kinds: tuple[tuple[Any, type], ...] = ((net, Network), (norm, Norm))
    if not all(isinstance(given, kind) for given, kind in kinds):
        got = f"{type(net).__name__} and {type(norm).__name__}"
        raise OptionError(f"{who}: expected a Network and a Norm, got {got}. Make them by from_onnx and Norm(2).")
    check_image_set(data, who)
    norm.check_eps(eps, who)
    norm.check_images(data.images, data.name, who)
    shape, wanted = data.input_shape, net.input_shape
    axes, expected = ([n for n in s if n != 1] for s in (shape, wanted))
    if math.prod(shape) != net.n_inputs or (len(expected) > 1 and axes != expected):
        raise OptionError(
            f"{who}: images of {data.name!r} have shape {shape}, the network reads {wanted}. Give the images it was "
            "made for, their axes in that order."
        )
    if data.n_classes > net.n_outputs:
        raise OptionError(
            f"{who}: {data.name!r} has labels up to {data.n_classes - 1}, the network has {net.n_outputs} outputs. "
            "Give the images it was made for."
        )


class _Evaluation:
    """The images, their balls, and what is known of each so far."""

    def __init__(
        self,
        net: Network,
        data: ImageSet,
        eps: float,
        norm: Norm,
        method: Evaluator,
        time_limit_s: float | None,
        on_progress: OnProgress | None,
        checkpoint: Path | str | None,
    ) -> None:
        self.net, self.data, self.eps, self.norm, self.method = net, data, eps, norm, method
        self.on_progress, self.clock = on_progress, Clock("robust_evaluation", time_limit_s, on_progress)
        ball, self.x = BALLS[norm.p], data.images.reshape(len(data), -1).astype(np.float64)
        self.properties = [
            robustness(net, ball(point, eps, clip=norm.clip), int(label))
            for point, label in zip(self.x, data.labels, strict=True)
        ]
        # Per image, label - others.
        self.margins = np.stack([np.concatenate([c.unsafe.C for c in p.cases]) for p in self.properties])
        question = {
            "network": net.fingerprint,
            "data": data.fingerprint,
            "eps": eps,
            "norm": repr(norm),
            "method": repr((method.fgsm, method.pgd, method.bounds, method.attack_proven, method.verifier)),
        }
        self.file = VerdictFile(None if checkpoint is None else Path(checkpoint), question, len(data))
        self.file.load()
        self.names: list[str] = []
        self.failures: list[str] = []
        self.interrupted = False

    def table(self) -> RobustEvaluation:
        """Every row that there is time for; of `exact`, what the others have settled in any case."""
        try:
            self._rows()
        finally:
            self.file.save(now=True)
        errors = tuple(self._error(name) for name in self.method.names if name in self.names)
        cut = any(Verdict.UNASKED in self.file.row(name).letters for name in self.names)
        timed_out = (
            not self.interrupted
            and self.clock.out
            and (cut or len(errors) < len(self.method.names) - (not self.method.exact))
        )
        return RobustEvaluation(
            self.data.name, len(self.data), self.eps, self.norm, errors, self.interrupted, timed_out, self._remarks()
        )

    def _rows(self) -> None:
        self._row("clean", self._clean, TOGETHER)
        for name, bounds in self.method.bounds:  # before the attacks, which leave alone what is proven
            self._row(name, partial(self._bounded, bounds=bounds), TOGETHER)
        self._row("fgsm", partial(self._attacked, attack=self.method.fgsm))
        self._row("pgd", partial(self._attacked, attack=self.method.pgd))
        if self.method.exact:
            self._row("exact", self._decided)

    def _row(self, name: str, judge: Callable[[np.ndarray], list[str]], together: int = 1) -> None:
        """One row, some images at a time, from where an earlier call has left it."""
        row, last = self.file.row(name), name == "exact"
        again = (Verdict.UNASKED, Verdict.OPEN) if last else (Verdict.UNASKED,)
        todo = np.array([i for i, letter in enumerate(row.letters) if letter in again], dtype=int)
        if self._over and not last and len(todo) == len(row.letters):
            return  # not begun
        self.names.append(name)
        before, began = row.seconds, self.clock.seconds
        for start in range(0, len(todo), together):
            if self._over and not last:
                break
            part = todo[start : start + together]
            try:
                for i, letter in zip(part, judge(part), strict=True):
                    row.letters[i] = letter
                row.seconds = before + self.clock.seconds - began
                self.clock.tell(name, f"image {part[-1] + 1} of {len(self.data)}", left=len(todo) - start - len(part))
                self.file.save()
            except KeyboardInterrupt:
                self.interrupted = True

    @property
    def _over(self) -> bool:
        """Whether Ctrl-C or the time limit has ended the work."""
        self.interrupted = self.interrupted or self.clock.interrupt.pending
        return self.interrupted or self.clock.out

    def _is(self, letter: str, name: str, i: int) -> bool:
        return self.file.row(name).letters[i] == letter

    def _clean(self, part: np.ndarray) -> list[str]:
        """Margins at the images themselves, by bounds rounded outward, and exactly where these do not tell."""
        C = self.margins[part]
        found = bound_batch(
            self.net, BoxBatch(self.x[part], self.x[part]), np.concatenate([C, -C], 1), Interval()
        ).value
        low, high = found[:, : C.shape[1]], -found[:, C.shape[1] :]
        letters = []
        for i, least, most in zip(part, low.min(axis=1), high.min(axis=1), strict=True):
            wrong = most <= 0
            if least <= 0 < most:
                exact, label = forward_exact(self.net, self.x[i]), int(self.data.labels[i])
                wrong = any(value >= exact[label] for t, value in enumerate(exact) if t != label)
            letters.append(Verdict.WRONG if wrong else Verdict.ROBUST)
        return letters

    def _attacked(self, part: np.ndarray, attack: Attack) -> list[str]:
        [i] = part
        if not self._is(Verdict.ROBUST, "clean", i):
            return [self.file.row("clean").letters[i]]
        prop = self.properties[i]
        if self.eps > 0 and (self.method.attack_proven or not self._proven(i)):  # at 0 there is no other point
            for case, found in zip(prop.cases, attack.attack_all(self.net, prop.cases), strict=True):
                if found.found and confirm(self.net, case, found.x) is not None:
                    return [Verdict.WRONG]
        return [Verdict.OPEN]

    def _bounded(self, part: np.ndarray, bounds: BoundMethod) -> list[str]:
        """Proven margins, all images at once where the balls are boxes."""
        letters = {int(i): self.file.row("clean").letters[i] for i in part}
        todo = [i for i, letter in letters.items() if letter == Verdict.ROBUST]
        regions = [self.properties[i].cases[0].region for i in todo]
        if todo and all(region.is_box for region in regions):
            least = bound_batch(self.net, BoxBatch.of(regions), self.margins[todo], bounds).value.min(axis=1)
        else:
            least = np.zeros(len(todo))
            for n, (i, region) in enumerate(zip(todo, regions, strict=True)):
                hidden = compute_bounds(self.net, region, bounds)
                least[n] = bound_rows(self.net, region, hidden, self.margins[i], bounds).value.min()
        for i, value in zip(todo, least, strict=True):
            letters[i] = Verdict.ROBUST if value > 0 else Verdict.OPEN
        return [letters[int(i)] for i in part]

    def _proven(self, i: int) -> bool:
        """Whether one of the bounds has proven the image robust."""
        return any(self._is(Verdict.ROBUST, name, i) for name, _ in self.method.bounds if name in self.names)

    def _decided(self, part: np.ndarray) -> list[str]:
        """What attacks and bounds have settled already, or else the verifier."""
        [i] = part
        settled = [name for name in self.names if name != "exact"]
        if any(self._is(Verdict.WRONG, name, i) for name in settled):
            return [Verdict.WRONG]
        if self._proven(i) or (self.eps == 0 and any(self._is(Verdict.ROBUST, name, i) for name in settled)):
            return [Verdict.ROBUST]
        if self._over:
            return [self.file.row("exact").letters[i]]
        return [self._verified(i)]

    def _verified(self, i: int) -> str:
        limit = min(self.clock.left, self.method.image_limit_s or math.inf)
        listener = None if self.on_progress is None else lambda p: self._heard(i, p)
        try:
            verdict = verify(
                self.net,
                self.properties[i],
                time_limit_s=None if math.isinf(limit) else limit,
                method=self.method.verifier,
                on_progress=listener,
            )
        except (SolverError, BoundsError) as error:
            self.failures.append(f"image {i} is open: {' '.join(str(error).split())}")
            return Verdict.OPEN
        if isinstance(verdict, Unknown):
            self.interrupted = self.interrupted or verdict.interrupted
            return Verdict.UNASKED if verdict.interrupted or self.clock.out else Verdict.OPEN
        if isinstance(verdict, Violated):
            return Verdict.WRONG
        assert isinstance(verdict, Holds)
        return Verdict.TRUSTED if verdict.grade is Grade.SOLVER_TRUSTED else Verdict.ROBUST

    def _heard(self, i: int, p: Progress) -> None:
        """What the verifier tells, as the evaluation tells it."""
        assert self.on_progress is not None
        what = f"image {i + 1} of {len(self.data)}, {p.stage} {p.what}"
        self.on_progress(replace(p, stage="exact", what=what, seconds=self.clock.seconds))

    def _error(self, name: str) -> RobustError:
        row = self.file.row(name)
        letters, clean = np.array(row.letters), np.array(self.file.row("clean").letters)
        letters[(letters == Verdict.UNASKED) & (clean == Verdict.WRONG)] = Verdict.WRONG  # needs no asking
        is_open = (letters == Verdict.OPEN) | (letters == Verdict.UNASKED)
        return RobustError(name, letters == Verdict.WRONG, is_open, row.seconds)

    def _remarks(self) -> tuple[str, ...]:
        trusted = self.file.row("exact").letters.count(Verdict.TRUSTED) if self.method.exact else 0
        word = (f"{trusted} of the images proven robust rest on a MILP solver's word",) if trusted else ()
        return (*word, *self.failures)
