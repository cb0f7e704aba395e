"""Fifty points in the plane: a network trained as usual against one trained on its dual bound, judged exactly.

    python benchmarks/robust_2d.py                        train both, count the points with an adversarial example
    python benchmarks/robust_2d.py --plot figure5.pdf     and draw both decision maps, with the balls around the points
    python benchmarks/robust_2d.py --steps 200            quicker, and worse

Points of [0, 1]^2 at least 0.08 apart (l-infinity), random labels, a 2-100-100-100-100-2 ReLU network, balls of radius
0.03. The robust loss is the cross-entropy of minus the dual bounds of the margins (Wong & Kolter 2018, theorem 2),
with the bounds of all hidden neurons by the same dual (their algorithm 1), differentiated through. Prints a table: how
many points are classified rightly, how many the dual bound certifies, how many the exact verifier proves robust, in how
many balls there is an adversarial example (replayed in exact arithmetic), and how many it left open. The exit status is
1 if a bound contradicts the verifier.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from machine import describe
from matplotlib.figure import Figure
from torch import nn

import milpverify as mv
from milpverify.polytope.plot_regions import draw_decision, key, label_axes, one_scale
from milpverify.polytope.plot_style import DARK, LIGHT, Theme, check_figure, save_figure

NAMES = ("standard training", "training on the dual bound")


@dataclass(frozen=True)
class Recipe:
    """What is trained.

    Attributes:
        widths: Of the layers, input and output included.
        n_points, apart: How many points, and their least distance (l-infinity), in [0, 1]^2.
        eps: Radius of the balls.
        steps: Of Adam, each on all points.
        chunk: Points that are bounded at once: what fits into a processor's cache is twice as fast.
        learning_rate: At the start; it falls to a hundredth of it along a cosine.
        warm_up: Share of the steps in which the radius of the robust loss grows from 0 to `eps`.
        goal: Radius that is trained for, as a multiple of `eps`: a little more room than is asked.
        seed: Of points, labels and weights.
    """

    widths: tuple[int, ...] = (2, 100, 100, 100, 100, 2)
    n_points: int = 50
    apart: float = 0.08
    eps: float = 0.03
    steps: int = 1500
    chunk: int = 10
    learning_rate: float = 1e-3
    warm_up: float = 0.4
    goal: float = 1.05
    seed: int = 0


def spread_points(recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Points drawn one by one, those too near to an earlier one dropped, shape (n, 2), and labels 0 or 1."""
    rng = np.random.default_rng(recipe.seed)
    points: list[np.ndarray] = []
    while len(points) < recipe.n_points:
        point = rng.random(2)
        if all(np.abs(point - other).max() >= recipe.apart for other in points):
            points.append(point)
    return np.array(points), rng.integers(0, 2, recipe.n_points)


def make_model(recipe: Recipe) -> nn.Sequential:
    """The untrained network, the same for both trainings."""
    torch.manual_seed(recipe.seed)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(recipe.widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def dual_lower(model: nn.Sequential, x: torch.Tensor, eps: float, rows: torch.Tensor) -> torch.Tensor:
    """Lower bounds of rows . y over the balls around x, by the dual network; differentiable, floating.

    A neuron with l < 0 < u lies between d zhat and d (zhat - l), d = u / (u - l): with one slope for both sides, one
    linear map per layer serves both bounds of all its neurons.

    Args:
        model: Linear and ReLU in turns.
        x: Centres, shape (B, n).
        eps: l-infinity radius.
        rows: Shape (B, m, n_outputs).

    Returns:
        Shape (B, m).

    Source:
        Wong & Kolter 2018, theorem 1 and algorithm 1.
    """
    linears = [layer for layer in model if isinstance(layer, nn.Linear)]
    slopes: list[torch.Tensor] = []
    lowers: list[torch.Tensor] = []  # of the unstable neurons; 0 elsewhere
    for linear in linears[:-1]:
        nu, constant = linear.weight.expand(len(x), -1, -1), linear.bias.expand(len(x), -1)
        l, u = _both_sides(linears, slopes, lowers, (x, eps), nu, constant)
        unstable = (l < 0) & (u > 0)
        slopes.append(torch.where(unstable, u / torch.where(unstable, u - l, 1.0), (l >= 0).to(x.dtype)))
        lowers.append(torch.where(unstable, l, 0.0))
    nu, constant = rows @ linears[-1].weight, rows @ linears[-1].bias
    return _both_sides(linears, slopes, lowers, (x, eps), nu, constant)[0]


def _both_sides(
    linears: list[nn.Linear], slopes: list[torch.Tensor], lowers: list[torch.Tensor], ball: tuple[torch.Tensor, float],
    nu: torch.Tensor, constant: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Bounds of nu . z + constant, z the output of the last layer that has slopes (or x), by one backward pass."""
    below, above = constant, constant
    for linear, d, l in zip(linears[len(slopes) - 1 :: -1] if slopes else [], slopes[::-1], lowers[::-1], strict=True):
        # nu relu(zhat) >= nu d zhat where nu >= 0, and >= nu d (zhat - l) elsewhere.
        reach = (d * l)[..., None]
        lost = ((-nu).clamp(min=0) @ reach)[..., 0]
        above = above - lost - (nu @ reach)[..., 0]
        below = below + lost
        nu = nu * d[:, None, :]
        shift = nu @ linear.bias
        below, above = below + shift, above + shift
        nu = nu @ linear.weight
    x, eps = ball
    middle, width = (nu @ x[..., None])[..., 0], eps * nu.abs().sum(-1)
    return below + middle - width, above + middle + width


def margin_rows(labels: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """y_label - y_other for every class, the label's own row zero; shape (B, 2, 2)."""
    eye = torch.eye(2, dtype=dtype)
    return eye[labels][:, None, :] - eye[None, :, :]


def train(recipe: Recipe, points: np.ndarray, labels: np.ndarray, robust: bool) -> nn.Sequential:
    """The cross-entropy of the outputs, or of minus the dual bounds of the margins."""
    model = make_model(recipe)
    x, y = torch.tensor(points, dtype=torch.float32), torch.tensor(labels)
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps, recipe.learning_rate / 100)
    for step in range(recipe.steps):
        eps = recipe.goal * recipe.eps * min(1.0, step / max(recipe.warm_up * recipe.steps, 1.0))
        optimiser.zero_grad()
        for some in torch.arange(len(x)).split(recipe.chunk):
            scores = -dual_lower(model, x[some], eps, margin_rows(y[some])) if robust else model(x[some])
            (nn.functional.cross_entropy(scores, y[some], reduction="sum") / len(x)).backward()
        optimiser.step()
        schedule.step()
    return model.eval()


@dataclass(frozen=True, eq=False)
class Judgement:
    """What is known of one network.

    Attributes:
        name: How it was trained.
        net: The network.
        training_s: Wall time of the training.
        right: Points classified rightly.
        certified: Which points the dual bound proves robust.
        words: The exact verifier's word for every point: "unsat" is robust, "sat" has an adversarial example.
        witnesses: The adversarial examples that were found, shape (w, 2).
        verification_s: Wall time of the exact verifier, all points.
    """

    name: str
    net: mv.Network
    training_s: float
    right: int
    certified: np.ndarray
    words: tuple[str, ...]
    witnesses: np.ndarray
    verification_s: float

    @property
    def contradicts(self) -> bool:
        """Whether a point is certified and has an adversarial example: one of both is wrong."""
        return any(bound and word == "sat" for bound, word in zip(self.certified.tolist(), self.words, strict=True))

    def row(self) -> str:
        """A line of the table."""
        count = [self.words.count("unsat"), self.words.count("sat")]
        return (
            f"{self.name:<28}{self.right:>8}{int(self.certified.sum()):>11}{count[0]:>8}{count[1]:>12}"
            f"{len(self.words) - sum(count):>6}{self.training_s:>10.1f} s{self.verification_s:>8.1f} s"
        )


HEAD = (
    f"{'':<28}{'right':>8}{'certified':>11}{'robust':>8}{'adversarial':>12}{'open':>6}{'training':>12}{'verifier':>10}"
)


def judge(
    name: str, model: nn.Sequential, points: np.ndarray, labels: np.ndarray, eps: float, training_s: float
) -> Judgement:
    """Every ball, one by one, by `mv.verify`; a point classified wrongly is an adversarial example of itself."""
    net = mv.from_torch(model, input_shape=(2,))
    began = time.perf_counter()
    verdicts = [
        mv.verify(net, mv.robustness(net, mv.LinfBall(point, eps), int(label)), time_limit_s=60)
        for point, label in zip(points, labels, strict=True)
    ]
    seconds = time.perf_counter() - began
    rows = np.eye(2)[labels] - np.eye(2)[1 - labels]
    boxes = mv.BoxBatch(points - eps, points + eps)
    bounds = mv.bound_batch(net, boxes, rows[:, None, :], mv.FastLin(intersect=False)).value[:, 0]
    found = [verdict.witness.x for verdict in verdicts if isinstance(verdict, mv.Violated)]
    right = int(((net.forward(points) * rows).sum(axis=1) > 0).sum())
    words = tuple(verdict.word for verdict in verdicts)
    return Judgement(name, net, training_s, right, bounds > 0, words, np.array(found).reshape(-1, 2), seconds)


def contest(recipe: Recipe) -> tuple[np.ndarray, np.ndarray, list[Judgement]]:
    """Points, labels, and both networks, trained and judged; prints the table as it goes."""
    points, labels = spread_points(recipe)
    found = []
    print(HEAD)
    for name, robust in zip(NAMES, (False, True), strict=True):
        began = time.perf_counter()
        model = train(recipe, points, labels, robust)
        found.append(judge(name, model, points, labels, recipe.eps, time.perf_counter() - began))
        print(found[-1].row(), flush=True)
    return points, labels, found


def draw(recipe: Recipe, points: np.ndarray, labels: np.ndarray, found: list[Judgement], theme: Theme) -> Figure:
    """Figure 5 of the paper: both decision maps, exact, with the balls and every adversarial example."""
    figure = one_scale(theme.figure(9.6, 5.9))
    told, edge = [], recipe.eps + 0.01  # every ball is whole
    square = mv.Box(np.full(2, -edge), np.full(2, 1.0 + edge))
    for axes, judged in zip(figure.subplots(1, 2), found, strict=True):
        regions = mv.linear_regions(judged.net, square)
        decided = mv.decision_map(regions)
        samples = mv.Samples(points, labels, recipe.eps, judged.witnesses)
        drawn = draw_decision(axes, decided, samples, theme=theme)
        label_axes(axes, mv.Wording(judged.name.capitalize(), "x₁", "x₂"), theme)
        share = 100.0 * decided.areas[0] / regions.area
        told.append(
            f"{judged.name.capitalize()}: {len(regions):,} linear regions, class 0 on {share:.2f} % of the area; of "
            f"{len(points)} points {judged.words.count('sat')} have an adversarial example within ε, "
            f"{judged.words.count('unsat')} are proved robust. {drawn}".strip()
        )
    samples = mv.Samples(points, labels, recipe.eps, np.concatenate([judged.witnesses for judged in found]))
    figure.legend(
        handles=key(decided, mv.Wording(), samples, theme), loc="outside upper center", ncols=6, fontsize=8,
        frameon=False, labelcolor=theme.ink,
    )  # fmt: skip
    theme.caption(figure, "\n".join(told))
    return figure


def main() -> int:
    """Train, judge, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="of training (default %(default)s)")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="of points, labels and weights (default 0)")
    parser.add_argument("--plot", type=Path, help="an .svg, .pdf or .png file")
    parser.add_argument("--dark", action="store_true", help="on dark paper")
    arguments = parser.parse_args()
    if arguments.plot:
        check_figure(arguments.plot)
    print(describe(), flush=True)
    recipe = Recipe(steps=arguments.steps, seed=arguments.seed)
    points, labels, found = contest(recipe)
    if arguments.plot:
        save_figure(draw(recipe, points, labels, found, DARK if arguments.dark else LIGHT), arguments.plot)
        print(f"{arguments.plot}: {arguments.plot.stat().st_size:,} bytes")
    return int(any(judged.contradicts for judged in found))


if __name__ == "__main__":
    sys.exit(main())
