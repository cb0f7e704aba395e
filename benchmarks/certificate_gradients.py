"""Gradients of the simplex certificate, the dual bound and the indicators d and r against central differences.

    python benchmarks/certificate_gradients.py [--cases 50] [--seed 0]

Random networks 6-12-10-4 and every norm, along a random direction in the input and one in all weights. A value is
piecewise smooth: where the two one-sided differences disagree, a kink lies within the step and the case is counted
apart. Prints the largest relative error of each; exit status 1 above 1e-5.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
import torch
from machine import describe
from simplex_timing import random_network

import milpverify as mv

NORMS = {"linf": mv.LinfBall, "l2": mv.L2Ball, "l1": mv.L1Ball}
EPS, STEP, LIMIT = 0.15, 1e-6, 1e-5
Value = Callable[[mv.Network, torch.Tensor, np.ndarray, type], torch.Tensor]
VALUES: dict[str, Value] = {
    "simplex": lambda net, x, labels, ball: mv.simplex_certificate(net, x, labels, ball=ball).value.sum(),
    "dual bound": lambda net, x, labels, ball: mv.tightness(net, x, labels, EPS, ball=ball).bound.sum(),
    "d": lambda net, x, labels, ball: mv.tightness(net, x, labels, EPS, ball=ball).d.sum(),
    "r": lambda net, x, labels, ball: mv.tightness(net, x, labels, EPS, ball=ball).r.sum(),
}


def main() -> int:
    """Compare every value on every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, failed = np.random.default_rng(arguments.seed), False
    print(describe())
    print("| value | norm | directions | at kinks | largest relative error |\n|---|---|---|---|---|")
    for name, value in VALUES.items():
        for norm, ball in NORMS.items():
            errors = [error for _ in range(arguments.cases) for error in _errors(rng, value, ball)]
            smooth = [error for error in errors if error is not None]
            failed |= not smooth or max(smooth) > LIMIT
            kinks = len(errors) - len(smooth)
            print(f"| {name} | {norm} | {len(errors)} | {kinks} | {max(smooth, default=np.nan):.1e} |", flush=True)
    return int(failed)


def _errors(rng: np.random.Generator, value: Value, ball: type) -> list[float | None]:
    """The error along one direction in the input and one in the weights; None at a kink."""
    net = random_network(rng, [6, 12, 10, 4])
    x = rng.normal(size=(2, 6))
    labels = net.forward(x).argmax(axis=1)
    point, weights = torch.tensor(x, requires_grad=True), []

    def collect(array: np.ndarray) -> torch.Tensor:
        weights.append(torch.tensor(array, requires_grad=True))
        return weights[-1]

    twin = net.map_arrays(collect)
    found = value(twin, point, labels, ball)
    found.backward()
    here = float(found.detach())
    errors: list[float | None] = []
    for group in ([point], weights):
        directions = [torch.tensor(rng.normal(size=tuple(p.shape))) for p in group]
        slope = sum(float((p.grad * v).sum()) for p, v in zip(group, directions, strict=True) if p.grad is not None)
        up, down = (_moved(value, twin, point, labels, ball, group, directions, s) for s in (STEP, -STEP))
        right, left = (up - here) / STEP, (here - down) / STEP
        size = max(abs(slope), 1.0)
        kink = abs(right - left) > 1e-3 * size
        errors.append(None if kink else abs((right + left) / 2 - slope) / size)
    return errors


def _moved(value, twin, point, labels, ball, group, directions, step) -> float:
    with torch.no_grad():
        for p, v in zip(group, directions, strict=True):
            p += step * v
        found = float(value(twin, point, labels, ball))
        for p, v in zip(group, directions, strict=True):
            p -= step * v
    return found


if __name__ == "__main__":
    sys.exit(main())
