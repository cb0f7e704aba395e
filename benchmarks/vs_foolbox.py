"""Our attacks beside foolbox's and torchattacks', on the same network and images; says what is not installed.

    python benchmarks/vs_foolbox.py [--images 50] [--net mlp50|mlp100_adv] [--norm linf|l2] [--seed 0]

Two tables for each of L-inf and L2. The first is of minimum-distance attacks: distances to the nearest adversarial
point. The second is of attacks on balls, run over the same radii: how many images fall at some of them, and the nearest
point that any of them brought. Everything runs in float64 and in input units. Every point, ours too, is clipped into
[0, 1] and judged by our own forward pass: it counts if the label is not strictly on top there, and its distance is
measured anew; a point that is not adversarial is tried once more, further out by 1e-6 of its distance.

What differs beyond the code: foolbox's DeepFool goes 1e-4 beyond each step and clips after it; torchattacks' has a loop
for each image. Ours by default walks three times to each target and draws what it finds nearer; "as published" it does
neither, but its steps know the limits 0 and 1. The iterative attacks of the others drive up the cross-entropy, ours the
margin of each target in turn. Ours end at their first success, theirs walk on to the end. Our Pgd has one start
for each target here, foolbox's one at random. CPU seconds are of attacks as a user calls them. Exit status 0 without
foolbox, which it says.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from data import mnist_test, need
from machine import describe

import milpverify as mv

RADII = {mv.LinfBall: (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2), mv.L2Ball: (0.2, 0.4, 0.6, 0.9, 1.2, 1.6, 2.2, 3)}
SHOWN = {mv.LinfBall: (0.02, 0.05, 0.1), mv.L2Ball: (0.4, 0.9, 1.6)}
ORDER = {mv.LinfBall: np.inf, mv.L2Ball: 2}
PUSH = 1e-6  # of its distance: torchattacks' DeepFool often ends on the boundary, on either side by rounding
PUBLISHED = {"draws": 0, "passes": 1, "straight": False, "each_target": False}

Points = Callable[[], np.ndarray]
PointsAt = Callable[[float], np.ndarray]


@dataclass(frozen=True, eq=False)
class Images:
    """The images attacked, and how their attackers' points are judged."""

    net: mv.Network
    x: np.ndarray
    y: np.ndarray

    def distances(self, points: np.ndarray, ball: type) -> np.ndarray:
        """Of points that are adversarial once they are clipped, a little further out at most; infinite for others."""
        least = np.full(len(self.x), np.inf)
        for push in (1.0, 1.0 + PUSH):
            tried = np.clip(self.x + push * (np.asarray(points, np.float64) - self.x), 0.0, 1.0)
            out = self.net.forward(tried)
            rows = np.arange(len(out))
            label = out[rows, self.y].copy()
            out[rows, self.y] = -np.inf
            away = np.linalg.norm(tried - self.x, ORDER[ball], axis=1)
            least = np.where(np.isinf(least) & (out.max(axis=1) >= label), away, least)
        return least


def main() -> int:
    """All four tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--net", choices=("mlp50", "mlp100_adv"), default="mlp50")
    parser.add_argument("--norm", choices=("linf", "l2"), help="one norm alone (default both)")
    parser.add_argument("--seed", type=int, default=0, help="of attacks that begin at random")
    arguments = parser.parse_args()
    try:
        import foolbox
    except ImportError:
        print("vs_foolbox: foolbox is not installed: pip install foolbox. Nothing was compared.")
        return 0
    net = mv.from_onnx(need("mlp", f"{arguments.net}.onnx"))
    x, labels = mnist_test()
    right = np.flatnonzero(net.forward(x[:2000]).argmax(axis=1) == labels[:2000])[: arguments.images]
    images = Images(net, x[right], labels[right])
    others = _imported_torchattacks()
    print(describe())
    print(f"foolbox {foolbox.__version__}, torchattacks {others.__version__ if others else 'not installed'}")
    for ball in {"linf": (mv.LinfBall,), "l2": (mv.L2Ball,)}.get(arguments.norm, (mv.LinfBall, mv.L2Ball)):
        _nearest_table(images, ball, list(_nearest(images, ball, foolbox, others)))
        _ball_table(images, ball, list(_on_balls(images, ball, foolbox, others, arguments.seed)))
    return 0


def _nearest_table(images: Images, ball: type, attacks: list[tuple[str, Points]]) -> None:
    """Minimum-distance attacks; the first one is what the others are held against."""
    print(f"\n| minimum distance, {ball.__name__} | found | mean | median | largest | CPU s | nearer, farther |")
    print("|---|---|---|---|---|---|---|")
    ours: np.ndarray | None = None
    for name, points in attacks:
        began = time.process_time()
        found = points()
        seconds = time.process_time() - began
        away = images.distances(found, ball)
        ours = away if ours is None else ours
        hit = np.isfinite(away)
        nearer, farther = int((away < ours * (1 - 1e-6)).sum()), int((away > ours * (1 + 1e-6)).sum())
        of = f"{away[hit].mean():.5f} | {np.median(away[hit]):.5f} | {away[hit].max():.5f}" if hit.any() else " | | "
        print(f"| {name} | {hit.sum()} of {len(hit)} | {of} | {seconds:.2f} | {nearer}, {farther} |", flush=True)


def _ball_table(images: Images, ball: type, attacks: list[tuple[str, PointsAt]]) -> None:
    """Attacks on balls: success at some radii, and the nearest point over all of them."""
    shown = " | ".join(f"eps {eps:g}" for eps in SHOWN[ball])
    print(f"\n| on balls, {ball.__name__} | {shown} | nearest of {len(RADII[ball])} radii, mean | CPU s |")
    print("|---" * (len(SHOWN[ball]) + 3) + "|")
    for name, points in attacks:
        began = time.process_time()
        found = {eps: points(eps) for eps in RADII[ball]}
        seconds = time.process_time() - began
        away = {eps: images.distances(z, ball) for eps, z in found.items()}
        away = {eps: np.where(d <= eps * (1 + 1e-6), d, np.inf) for eps, d in away.items()}  # beyond it none counts
        least = np.min(list(away.values()), axis=0)
        rates = " | ".join(f"{100 * np.isfinite(away[eps]).mean():.0f} %" for eps in SHOWN[ball])
        some = np.isfinite(least)
        mean = f"{least[some].mean():.5f}{'' if some.all() else f' ({some.sum()} images)'}"
        print(f"| {name} | {rates} | {mean} | {seconds:.2f} |", flush=True)


def _nearest(images: Images, ball: type, foolbox: Any, others: Any) -> Iterator[tuple[str, Points]]:
    """Minimum-distance attacks of one norm, ours first."""
    linf, model = ball is mv.LinfBall, _module(images.net)
    yield "ours: DeepFool", lambda: _ours(images, mv.DeepFool(norm=ball))
    yield "ours: DeepFool as published", lambda: _ours(images, mv.DeepFool(norm=ball, **PUBLISHED))
    for name in ("LinfDeepFoolAttack", "LInfFMNAttack") if linf else ("L2DeepFoolAttack", "L2FMNAttack", "DDNAttack"):
        attack = getattr(foolbox.attacks, name)()
        yield f"foolbox: {name}", partial(_foolbox, images, foolbox, model, attack, None)
    if others and not linf:
        yield "torchattacks: DeepFool", lambda: _torchattacks(images, others.DeepFool(model))


def _on_balls(images: Images, ball: type, foolbox: Any, others: Any, seed: int) -> Iterator[tuple[str, PointsAt]]:
    """Attacks on balls of one norm: iterative FGSM by 10 steps of 0.2 eps in each library, PGD as each has it."""
    linf, model, kinds = ball is mv.LinfBall, _module(images.net), foolbox.attacks
    yield "ours: IterativeFgsm", lambda eps: _ours(images, mv.IterativeFgsm(steps=10, step_size=0.2), ball, eps)
    kind = kinds.LinfBasicIterativeAttack if linf else kinds.L2BasicIterativeAttack
    basic = kind(rel_stepsize=0.2, steps=10, random_start=False)
    yield f"foolbox: {kind.__name__}", partial(_foolbox, images, foolbox, model, basic)
    if others and linf:
        yield (
            "torchattacks: BIM",
            lambda eps: _torchattacks(images, others.BIM(model, eps=eps, alpha=0.2 * eps, steps=10)),
        )
    ours = mv.Pgd(rounds=1, restarts=1, seed=seed)
    yield "ours: Pgd, one start", lambda eps: _ours(images, ours, ball, eps)
    projected = kinds.LinfProjectedGradientDescentAttack() if linf else kinds.L2ProjectedGradientDescentAttack()
    yield f"foolbox: {type(projected).__name__}", partial(_foolbox, images, foolbox, model, projected)


def _ours(images: Images, attack: Any, ball: type = mv.LinfBall, eps: float | None = None) -> np.ndarray:
    return mv.attack_images(images.net, images.x, images.y, attack, ball=ball, eps=eps, clip=(0, 1)).clipped


def _foolbox(images: Images, foolbox: Any, model: Any, attack: Any, eps: float | None) -> np.ndarray:
    """What foolbox calls clipped: its points moved into the ball; without eps, as the attack left them."""
    import torch

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, clipped, _ = attack(wrapped, torch.tensor(images.x), torch.tensor(images.y), epsilons=eps)
    return clipped.detach().numpy()


def _torchattacks(images: Images, attack: Any) -> np.ndarray:
    """torchattacks wants images of four axes."""
    import torch

    x = torch.tensor(images.x.reshape(-1, 1, 28, 28))
    return attack(x, torch.tensor(images.y)).detach().numpy().reshape(images.x.shape)


def _module(net: mv.Network) -> Any:
    """The network as a torch module that takes images of any shape."""
    import torch

    twin = net.to_torch()

    class Twin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.device_of = torch.nn.Parameter(torch.zeros(1), requires_grad=False)  # torchattacks looks for one

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return twin.forward(z.reshape(len(z), -1))

    return Twin().eval()


def _imported_torchattacks() -> Any:
    """The module, or None where it or something that it imports is absent."""
    try:
        import torchattacks
    except ImportError:
        return None
    return torchattacks


if __name__ == "__main__":
    sys.exit(main())
