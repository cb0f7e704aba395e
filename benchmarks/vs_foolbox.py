"""DeepFool and iterative FGSM beside foolbox's, on the same network and images; says so where foolbox is absent.

    python benchmarks/vs_foolbox.py [--images 50] [--net mlp50|mlp100_adv]

Mean and median distance of each minimum-distance attack, how often ours is the nearer one, and the success rate of
iterative FGSM at several eps. The network runs in float64 in both. Exit status 0 without foolbox, which it says.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from data import mnist_test, need
from machine import describe

import milpverify as mv

EPSILONS = (0.02, 0.05, 0.1)


def main() -> int:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--net", choices=("mlp50", "mlp100_adv"), default="mlp50")
    arguments = parser.parse_args()
    try:
        import foolbox
    except ImportError:
        print("vs_foolbox: foolbox is not installed: pip install foolbox. Nothing was compared.")
        return 0
    import torch

    net = mv.from_onnx(need("mlp", f"{arguments.net}.onnx"))
    images, labels = mnist_test()
    right = np.flatnonzero(net.forward(images[:500]).argmax(axis=1) == labels[:500])[: arguments.images]
    x, y = images[right], labels[right]
    twin = net.to_torch()

    class Wrapped(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return twin.forward(z)

    model = foolbox.PyTorchModel(Wrapped().eval(), bounds=(0, 1))
    points, classes = torch.tensor(x), torch.tensor(y)
    print(describe())
    print("| attack | ours: mean, median, s | foolbox: mean, median, s, found | ours nearer |\n|---|---|---|---|")
    for ball, theirs, order in (
        (mv.L2Ball, foolbox.attacks.L2DeepFoolAttack(), 2),
        (mv.LinfBall, foolbox.attacks.LinfDeepFoolAttack(), np.inf),
    ):
        began = time.perf_counter()
        ours = mv.attack_images(net, x, y, mv.DeepFool(norm=ball), clip=(0, 1))
        between = time.perf_counter()
        raw, _, _ = theirs(model, points, classes, epsilons=None)
        ended = time.perf_counter()
        hit = net.forward(raw.numpy()).argmax(axis=1) != y
        other = np.where(hit, np.linalg.norm(raw.numpy() - x, order, axis=1), np.inf)
        print(
            f"| DeepFool {ball.__name__} | {ours.distance.mean():.5f}, {np.median(ours.distance):.5f}, "
            f"{between - began:.2f} | {other[hit].mean():.5f}, {np.median(other[hit]):.5f}, {ended - between:.2f}, "
            f"{int(hit.sum())} of {len(hit)} | {int((ours.distance <= other).sum())} of {len(hit)} |"
        )
    print("\n| iterative FGSM, L-inf, 10 steps of 0.2 eps | ours | foolbox |\n|---|---|---|")
    for eps in EPSILONS:
        ours = mv.attack_images(net, x, y, mv.IterativeFgsm(), eps=eps, clip=(0, 1))
        attack = foolbox.attacks.LinfBasicIterativeAttack(rel_stepsize=0.2, steps=10, random_start=False)
        _, _, success = attack(model, points, classes, epsilons=eps)
        print(f"| eps {eps} | {ours.success.mean():.3f} | {float(success.double().mean()):.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
