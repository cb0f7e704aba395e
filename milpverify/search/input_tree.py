r"""Branch and bound over input boxes, for networks with few free inputs.

Every box is bounded by one zonotope pass and a backward walk of the property's rows (`bounds.box_forms`), clipped to
where the rows can be as low as the search needs (`clipping`), closed by the phases of its neurons where few are
unstable (`phases`), and else split where that promises most. All cases are searched at once: a box remembers which of
them are open in it. A case's lower bound over a box is the largest of its rows'.

What is discarded. A box, or what is clipped off it, is dropped for a case only on a rounded bound of the case's least
slack, `question.spare` taken off. Both halves of a split share the float they meet in, so the boxes always cover the
region; on a grid, boxes are rounded inward to it, halves lie on either side of a gap between its points, and a box of a
single point is evaluated exactly. Hence per case

    least slack  >=  min( bounds at which boxes were closed, bounds of boxes still open ),

the bound of what was clipped off, or closed by phases, being the threshold t of that step: `CLOSED` to decide, the
cut-off to minimise.

Source: Wang et al. 2018, "Formal security analysis of neural networks using symbolic intervals" (input splitting);
Singh et al. 2018 (DeepZ); Bunel et al. 2020 (branch and bound).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np

from milpverify.attack.method import Attack
from milpverify.attack.pgd import Pgd
from milpverify.bounds.box_forms import BoxBounds, bound_boxes
from milpverify.errors import OptionError
from milpverify.network.exact import forward_exact
from milpverify.proof.evidence import float_at_most
from milpverify.search.boxes import Boxes, OpenBoxes, divisible, halves, middle, saved_boxes
from milpverify.search.clipping import clip_boxes
from milpverify.search.outside import outside
from milpverify.search.phases import PhaseSplits
from milpverify.search.probe import Probe
from milpverify.search.question import Answer, CaseAnswer, Question, Search, Steps, TreeProgress, driven
from milpverify.search.rows import Rows
from milpverify.spec.batch import BoxBatch
from milpverify.spec.grid import Grid

CLOSED = 2.0**-1000  # a positive slack below the absolute allowance of clipping and of phases
TELL_S = 0.2
WORDS = 2**23  # generators of a batch, about: 64 MiB an array
TIME = "time ran out"
STUCK = "a box that floats cannot split is left open: its least slack is 0, or within rounding of it"


@dataclass(frozen=True)
class InputSplitting(Search):
    """Branch and bound over sub-boxes of the input region.

    The work grows with the number of inputs that have a width. Balls and regions with cuts are searched as their
    bounding box without the boxes that lie outside.

    Attributes:
        batch: Boxes bounded together, at most.
        open_boxes: From so many open boxes on, the search goes depth-first instead of best-first.
        crown: Walk the rows backward for a second bound of each.
        clip: Cut off of a box what the rows' affine bounds exclude.
        phases: Close boxes with few unstable neurons by splitting on those; None to split inputs only.
        error_weight: What halving an input's share of the relaxations' error counts, next to halving its slope.
        attack: Run once, if `patience` batches have not answered the question; None for no attack.
        patience: Batches before the attack.
        samples: Random points before the first batch.
        steps: Gradient steps from the best `starts` of these, and every `every` batches from those of the boxes.
        starts, every: See there.
        seed: Of the random points.

    Raises:
        OptionError: If a count is out of range.
    """

    batch: int = 256
    open_boxes: int = 50_000
    crown: bool = True
    clip: bool = True
    phases: PhaseSplits | None = field(default_factory=PhaseSplits)
    error_weight: float = 8.0
    attack: Attack | None = field(default_factory=lambda: Pgd(rounds=1, samples=1024))
    patience: int = 16
    samples: int = 1000
    steps: int = 40
    starts: int = 16
    every: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"batch": 1, "open_boxes": 1, "error_weight": 0, "patience": 0, "samples": 0, "steps": 0, "starts": 1,
                 "every": 1}  # fmt: skip
        for name, value in least.items():
            if not value <= getattr(self, name) < math.inf:
                raise OptionError(
                    f"InputSplitting: {name} must be at least {value} and finite, got {getattr(self, name)}."
                )

    def run(self, question: Question) -> Answer:
        """Search the question's region."""
        return driven(self.stepwise(question))

    def stepwise(self, question: Question) -> Steps:
        """The search, a batch of boxes at a time."""
        return _Tree(self, question).stepwise()


@dataclass(eq=False)
class _Tree:
    """One search.

    Attributes:
        rows: Of all cases.
        waiting: Boxes to be bounded.
        proven: Per case the least bound at which a box, or a part of one, was closed; infinite where none was.
        stuck: The same of the boxes that could not be split.
        nodes: Boxes bounded.
        batches: How often.
        told: When progress was told last.
    """

    options: InputSplitting
    question: Question
    rows: Rows = field(init=False)
    waiting: OpenBoxes = field(init=False)
    probe: Probe = field(init=False)
    proven: np.ndarray = field(init=False)
    stuck: np.ndarray = field(init=False)
    nodes: int = 0
    batches: int = 0
    told: float = -math.inf

    def __post_init__(self) -> None:
        question = self.question
        self.rows, self.probe = Rows.of(question.cases, question.spare), Probe(question)
        lower = np.array(question.lower, dtype=np.float64)
        done = question.closed(lower)
        self.proven, self.stuck = np.where(done, lower, np.inf), np.full(len(lower), np.inf)
        l, u = (np.concatenate([np.zeros(0), *side])[None] for side in (question.bounds.lower, question.bounds.upper))
        first = Boxes(question.region.lower[None], question.region.upper[None], l, u, lower[None], ~done[None])
        self.waiting = OpenBoxes(first)
        if done.all() or question.decided:
            self.waiting.pop(1)
        saved = question.record.take("boxes")
        if saved:
            self.waiting = OpenBoxes(saved_boxes(saved, first))
            self.proven, self.stuck = saved["proven"].copy(), saved["stuck"].copy()
            self.nodes, self.batches = int(saved["nodes"]), int(saved["batches"])
        question.record.keep("boxes", self.state)

    def state(self) -> dict[str, np.ndarray]:
        """The boxes still open, the bounds at which others were closed, and the counts; between two batches."""
        counts = {"nodes": np.array(self.nodes), "batches": np.array(self.batches)}
        boxes = self.waiting.everything().arrays()
        return {"proven": self.proven.copy(), "stuck": self.stuck.copy(), **counts, **boxes}

    def stepwise(self) -> Steps:
        question, options = self.question, self.options
        if self.waiting.count and not self.batches:
            self._first_points()
        while self.waiting.count and not question.decided and question.left_s > 0:
            if self.batches == options.patience and options.attack is not None:
                self.probe.attack(options.attack, self.waiting.everything().cases)
            self._step(self._next())
            self._tell()
            question.record.tick()
            yield
        self._tell(last=True)
        return self._answer()

    def _next(self) -> Boxes:
        """Some boxes whose generators fit in memory."""
        depth_first = self.question.gap is None or self.waiting.count > self.options.open_boxes
        boxes = (self.waiting.pop if depth_first else self.waiting.pop_least)(self.options.batch)
        symbols = ((boxes.l < 0) & (boxes.u > 0)).sum(axis=1) + boxes.low.shape[1]
        needed = np.cumsum(symbols[::-1])[::-1] * max(self.question.net.sizes, default=1)
        needed[-1] = 0
        first = int((needed <= WORDS).argmax())
        if first:
            self.waiting.push(boxes[slice(0, first)])
        return boxes[slice(first, None)]

    def _step(self, boxes: Boxes) -> None:
        """Bound boxes, close what can be closed, and put the halves of the rest on the stack."""
        question, self.batches = self.question, self.batches + 1
        boxes.open[outside(question.region, boxes.low, boxes.high)] = False
        boxes = self._closed(boxes)  # the cut-off may have come nearer since they were put there
        if not len(boxes):
            return
        self.nodes += len(boxes)
        found = self._bound(boxes)
        boxes.lower[...] = np.maximum(boxes.lower, self.rows.per_case(found))
        values = self._look(boxes, found)
        if question.decided:
            self.waiting.push(boxes)  # so that the answer counts them as open
            return
        self._close(boxes.lower, boxes.open & question.closed(boxes.lower))
        boxes.open[question.closed(boxes.lower)] = False
        t = CLOSED if question.gap is None else question.cutoff
        if math.isfinite(t):
            self._cut(boxes, found, t)
        boxes = Boxes(boxes.low, boxes.high, np.concatenate(found.lower, axis=1), np.concatenate(found.upper, axis=1),
                      boxes.lower, boxes.open)  # fmt: skip
        kept = np.flatnonzero(boxes.busy)
        if question.gap is None:  # the most promising box comes last, and is taken first
            kept = kept[np.argsort(-values[kept], kind="stable")]
        score = self._score(found, boxes)
        self._split(boxes[kept], score[kept])

    def _cut(self, boxes: Boxes, found: BoxBounds, t: float) -> None:
        """Close cases, and shrink boxes, where nothing has a slack of t or less."""
        if self.options.clip:
            clipped, grid = clip_boxes(found, boxes, self.rows.starts, t), self.question.region.grid
            clipped = clipped if grid is None else clipped.on_grid(grid, boxes)
            self._close(np.full(boxes.lower.shape, t), boxes.open & (clipped.empty | clipped.smaller(boxes)))
            boxes.open[clipped.empty] = False
        if self.options.phases is not None:
            done = self.options.phases.close(self.question.net, boxes, found, self.rows, t)
            self._close(np.full(boxes.lower.shape, t), done)
            boxes.open[done] = False
        if self.options.clip:
            boxes.low[...], boxes.high[...] = clipped.low, clipped.high

    def _bound(self, boxes: Boxes) -> BoxBounds:
        """The forms of all rows over the boxes, right-hand sides taken off."""
        net, rows = self.question.net, self.rows
        lower, upper = (tuple(np.split(side, np.cumsum(net.sizes), axis=1)[:-1]) for side in (boxes.l, boxes.u))
        weights = rows.open(boxes) / np.maximum(rows.open(boxes).sum(axis=1, keepdims=True), 1)
        region = BoxBatch(boxes.low, boxes.high)
        return bound_boxes(net, region, (lower, upper), rows.C, weights, self.options.crown).less(rows.d)

    def _score(self, found: BoxBounds, boxes: Boxes) -> np.ndarray:
        """What splitting each input promises, shape (b, n); -1 where there is nothing to split."""
        slope = np.abs(found.forms[-1].slope).mean(axis=1)
        with np.errstate(invalid="ignore", over="ignore"):
            left = (boxes.high - boxes.low) / np.maximum(found.radius, 1e-300)
            score = np.nan_to_num((self.options.error_weight * found.share + slope) * left)
        return np.where(divisible(boxes.low, boxes.high, self.question.region.grid), score, -1.0)

    def _split(self, boxes: Boxes, score: np.ndarray) -> None:
        whole, grid = np.asarray(score.max(axis=1, initial=-1.0) < 0), self.question.region.grid
        if grid is not None:
            self._evaluate(boxes[whole], grid)
        else:
            self.stuck = np.minimum(self.stuck, boxes[whole].per_case())
        self.waiting.push(halves(boxes[~whole], score[~whole].argmax(axis=1), grid))

    def _evaluate(self, boxes: Boxes, grid: Grid) -> None:
        """Close boxes that hold one grid point: its exact slack is their least."""
        question, region = self.question, self.question.region
        for i in range(len(boxes)):
            x = grid.values(grid.nearest(boxes.low[i]))
            point = region.exact_point(x)
            if not region.contains(point):  # a ball or a cut excludes it
                continue
            y = forward_exact(question.net, point)
            for case in np.flatnonzero(boxes.open[i]):
                slack = question.cases[case].unsafe.slack_exact(y)
                if slack <= 0 or slack < question.best:
                    question.offer(int(case), x)
                if question.decided:
                    self.waiting.push(boxes[slice(i, None)])  # so that the answer counts them as open
                    return
                below = float_at_most(slack)
                if question.gap is None and not below > 0:  # a slack of less than any float
                    self.stuck[case] = min(self.stuck[case], below)
                self.proven[case] = min(self.proven[case], below)

    def _closed(self, boxes: Boxes) -> Boxes:
        """The boxes that have an open case still."""
        done = boxes.open & self.question.closed(boxes.lower)
        self._close(boxes.lower, done)
        boxes.open[done] = False
        return boxes[boxes.busy]

    def _close(self, bound: np.ndarray, done: np.ndarray) -> None:
        self.proven = np.minimum(self.proven, np.where(done, bound, np.inf).min(axis=0, initial=np.inf))

    def _first_points(self) -> None:
        question, options = self.question, self.options
        region, rng = question.region, np.random.default_rng(options.seed)
        x = np.concatenate([question.starts.reshape(-1, region.dimension), region.anchor[None]])
        x = np.concatenate([region.project(x), region.sample(rng, options.samples)])
        self._descend(x, self.probe.look(x, self.waiting.everything().open[0]), 4 * options.starts, 0.15)

    def _look(self, boxes: Boxes, found: BoxBounds) -> np.ndarray:
        """The least slack of an open case at each box's centre and where its forms are least, shape (b,)."""
        each, form = np.arange(len(boxes)), found.forms[-1]
        slope = form.slope[each, np.where(self.rows.open(boxes), form.value, np.inf).argmin(axis=1)]
        x = np.concatenate([np.where(slope > 0, boxes.low, boxes.high), middle(boxes.low, boxes.high)])
        values = self.probe.look(x, np.concatenate([boxes.open, boxes.open]))
        if self.batches % self.options.every == 0:
            self._descend(x, values, self.options.starts, 0.03)
        least = values.min(axis=1)
        return np.minimum(least[: len(boxes)], least[len(boxes) :])

    def _descend(self, x: np.ndarray, values: np.ndarray, most: int, size: float) -> None:
        """Go down from the lowest points."""
        if not self.question.decided:
            best = np.argsort(values.min(axis=1), kind="stable")[:most]
            self.probe.descend(x[best], values[best].argmin(axis=1), self.options.steps, size)

    def _tell(self, last: bool = False) -> None:
        question = self.question
        if question.tell is None or (not last and time.monotonic() < self.told + TELL_S):
            return
        self.told = time.monotonic()
        lower = min(float(self._lower().min()), question.best)
        question.tell(TreeProgress(self.nodes, self.waiting.count, lower, question.best))

    def _lower(self) -> np.ndarray:
        """What is proven of each case so far."""
        here = np.minimum(np.minimum(self.proven, self.stuck), self.waiting.everything().per_case())
        return np.maximum(here, self.question.lower)

    def _answer(self) -> Answer:
        question, waiting = self.question, self.waiting.everything().cases
        cases = []
        for i, lower in enumerate(self._lower().tolist()):
            stuck = bool(np.isfinite(self.stuck[i]) or self.stuck[i] == -np.inf)
            timed_out = bool(waiting[i]) and not question.decided
            reason = TIME if timed_out else STUCK if stuck and not question.decided else ""
            holds = question.gap is None and lower > 0.0 and not waiting[i] and not stuck
            cases.append(CaseAnswer(lower, holds, question.bounds.solver_trusted, timed_out, reason))
        return Answer(tuple(cases), self.nodes)
