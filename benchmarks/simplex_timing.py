"""Milliseconds an image of the simplex certificate on wide networks; published: 3.7 ms (depth 3) and 6.3 ms (depth 4).

    python benchmarks/simplex_timing.py [--images 100] [--repeats 5] [--norm l2] [--device cuda]

784-1024-1024-1024-10 and 784-(1024 x 4)-10 with He's random weights (seed 0) and random images: the work depends on the
sizes, and on how far the nearest faces stand out. The gains are made once per network and timed apart; the fastest of
the repeats counts, and CPU time stands beside it for machines that are shared. Some images are held against the whole
matrices. Exit status 1 where they differ, or above 10 ms.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import pairwise

import numpy as np
from machine import describe

import milpverify as mv
from milpverify.certificates.radii import dual_norm
from milpverify.network.graph import Affine
from milpverify.network.operators import Dense

NORMS = {"l2": mv.L2Ball, "linf": mv.LinfBall, "l1": mv.L1Ball}
PUBLISHED_MS = {3: 3.7, 4: 6.3}
LIMIT_MS = 10.0


def main() -> int:
    """Time both networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--norm", choices=list(NORMS), default="l2")
    parser.add_argument("--device", help="a torch device; numpy without")
    arguments = parser.parse_args()
    ball, failed = NORMS[arguments.norm], False
    print(describe())
    for depth, published in PUBLISHED_MS.items():
        rng = np.random.default_rng(0)
        net = random_network(rng, [784, *[1024] * depth, 10])
        x = rng.uniform(size=(arguments.images, 784))
        labels = net.forward(x).argmax(axis=1)
        began = time.perf_counter()
        gains = mv.Gains.of(net, ball)
        gains_s = time.perf_counter() - began
        twin, points = (net, x) if arguments.device is None else _on(arguments.device, net, x)
        batch_ms, batch_cpu_ms, found = _fastest(arguments.repeats, twin, points, labels, gains)
        one_ms, one_cpu_ms, _ = _fastest(arguments.repeats, twin, points[:1], labels[:1], gains)
        differs = _difference(net, x[:3], labels[:3], ball, np.asarray(found.value[:3].tolist()))
        batch_ms, batch_cpu_ms = batch_ms / arguments.images, batch_cpu_ms / arguments.images
        print(
            f"784-(1024 x {depth})-10, {arguments.norm}: {batch_ms:.2f} ms an image in a batch of {arguments.images} "
            f"({batch_cpu_ms:.2f} of CPU), {one_ms:.2f} ms alone ({one_cpu_ms:.2f} of CPU), published {published} ms; "
            f"gains {gains_s:.2f} s once; largest relative difference from the whole matrices {differs:.1e}",
            flush=True,
        )
        failed |= batch_ms > LIMIT_MS or differs > 1e-9
    return int(failed)


def random_network(rng: np.random.Generator, sizes: list[int]) -> mv.Network:
    """A dense chain with He's weights and small biases."""
    affines = []
    for k, (a, b) in enumerate(pairwise(sizes)):
        op = Dense(rng.normal(size=(b, a)) * np.sqrt(2.0 / a))
        affines.append(Affine(((k, op),), ((None, 0.01 * rng.normal(size=b)),), b))
    return mv.Network((sizes[0],), (sizes[-1],), tuple(affines[:-1]), affines[-1])


def _on(device: str, net: mv.Network, x: np.ndarray):
    import torch

    return net.to_torch(device), torch.as_tensor(x, device=device)


def _fastest(repeats: int, net: mv.Network, x, labels: np.ndarray, gains: mv.Gains):
    """Least wall and CPU milliseconds of a call, and what it found."""
    wall, cpu = [], []
    for _ in range(repeats):
        began, worked = time.perf_counter(), time.process_time()
        found = mv.simplex_certificate(net, x, labels, ball=gains.ball, gains=gains)
        float(found.value[0])  # waits for a device
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - worked)
    return 1e3 * min(wall), 1e3 * min(cpu), found


def _difference(net: mv.Network, x: np.ndarray, labels: np.ndarray, ball: type, value: np.ndarray) -> float:
    worst = 0.0
    for i, label in enumerate(labels):
        region = mv.activation_region(net, x[i])
        point = x[i : i + 1]
        faces = [(s / dual_norm(P, ball)).min() for s, P in zip(region.slack(point), region.P, strict=True)]
        others = np.arange(10) != label
        y, C = region.output(point)[0], region.C[0]
        boundary = ((y[label] - y[others]) / dual_norm(C[label] - C[others], ball)).min()
        worst = max(worst, abs(value[i] / min(*faces, boundary) - 1.0))
    return worst


if __name__ == "__main__":
    sys.exit(main())
