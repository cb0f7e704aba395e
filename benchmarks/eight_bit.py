"""Real inputs against 8-bit images: how many verdicts change, and what either question takes.

python benchmarks/eight_bit.py --net mnist_fc/onnx/mnist-net_256x2.onnx --images 25 --eps 1/255,2/255,0.02 --timeout 20

The images are the first test images that the network classifies rightly. What holds over real inputs must hold for
8-bit images: a contradiction ends the run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from fractions import Fraction

import numpy as np
from data import mnist_test, need

import milpverify as mv

GRID = mv.Grid(255)


def chosen(net: mv.Network, count: int) -> list[tuple[int, np.ndarray, int]]:
    """Index, pixels and label of the first rightly classified images."""
    images, labels = mnist_test()
    right = (i for i in range(len(labels)) if int(np.argmax(net.forward(images[i]))) == labels[i])
    return [(i, images[i], int(labels[i])) for i, _ in zip(right, range(count), strict=False)]


def asked(net: mv.Network, ball: mv.LinfBall, label: int, timeout: float) -> tuple[str, str, float]:
    """The verdict's word, what decided it, and seconds."""
    began = time.monotonic()
    verdict = mv.verify(net, mv.robustness(net, ball, label), time_limit_s=timeout)
    how = ",".join(sorted({case.how for case in verdict.cases if case.how}))
    return verdict.word if verdict.word in ("sat", "unsat") else "open", how, time.monotonic() - began


def main() -> int:
    """Print one row an image and radius, then one a radius."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default="mnist_fc/onnx/mnist-net_256x2.onnx")
    parser.add_argument("--images", type=int, default=25)
    parser.add_argument("--eps", default="1/255,2/255,3/255")
    parser.add_argument("--timeout", type=float, default=20.0)
    arguments = parser.parse_args()
    net = mv.from_onnx(need(*arguments.net.split("/")))
    images, summary = chosen(net, arguments.images), []
    for text in arguments.eps.split(","):
        eps, pairs, seconds = float(Fraction(text)), Counter[tuple[str, str]](), []
        for index, image, label in images:
            real = asked(net, mv.LinfBall(image, eps, clip=(0, 1)), label, arguments.timeout)
            grid = asked(net, mv.LinfBall(image, eps, clip=(0, 1), grid=GRID), label, arguments.timeout)
            print(f"{text:>8} {index:5} real {real[0]:5} {real[2]:6.2f} s   8-bit {grid[0]:5} {grid[2]:6.2f} s "
                  f"{grid[1]}", flush=True)  # fmt: skip
            if (real[0], grid[0]) == ("unsat", "sat"):
                print("a contradiction: robust against real inputs, but not against 8-bit images", file=sys.stderr)
                return 1
            pairs[real[0], grid[0]] += 1
            seconds.append((real[2], grid[2]))
        changed = sum(count for (a, b), count in pairs.items() if (a, b) == ("sat", "unsat"))
        middle = np.median(np.array(seconds), axis=0)
        told = ", ".join(f"{a} -> {b}: {count}" for (a, b), count in sorted(pairs.items()))
        summary.append(f"{text:>8}: {told}; {changed} changed; median {middle[0]:.2f} s real, {middle[1]:.2f} s 8-bit")
    print("real -> 8-bit", *summary, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
