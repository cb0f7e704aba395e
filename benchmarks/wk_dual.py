"""Reproduce the reference implementation of Wong & Kolter's dual bound on their MNIST network, image by image.

    python benchmarks/wk_dual.py                 the 500 rows with test index under 1,000
    python benchmarks/wk_dual.py --below 10000   all 5,000 rows

Pure Fast-Lin (nothing but the dual bound), eps 0.1, not clipped to [0, 1], as the paper reports it. Prints the largest
difference of the bounds, the unstable counts that differ, and images per second; exit status 1 above 1e-4.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from data import mnist_test, need

import milpverify as mv

EPS = 0.1


def image_bounds(net: mv.Network, image: np.ndarray, label: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Upper bounds of z_j - z_label for all j, and unstable neurons per layer."""
    ball = mv.LinfBall(image, EPS)
    method = mv.FastLin(intersect=False)
    bounds = mv.compute_bounds(net, ball, method)
    rows = -np.eye(net.n_outputs)
    rows[:, label] += 1.0
    return -mv.bound_rows(net, ball, bounds, rows, method).value, bounds.n_unstable


def main() -> int:
    """Run and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--below", type=int, default=1000, help="test images with an index below this (default 1000)")
    arguments = parser.parse_args()
    net = mv.from_onnx(need("mipverify_nets", "wk_repo_mnist_linf0.1.onnx"))
    reference = np.load(need("mipverify_nets", "wk_dual_reference.npz"))
    images, labels = mnist_test()
    index = reference["mnist_test_index_wk_repo"]
    chosen = np.flatnonzero(index < arguments.below)
    worst, differing, unproven, began = 0.0, 0, 0, time.monotonic()
    for count, row in enumerate(chosen, start=1):
        image, label = images[index[row]], int(labels[index[row]])
        upper, unstable = image_bounds(net, image, label)
        expected = reference["wk_repo_unclipped_ub"][row]
        worst = max(worst, float(np.abs(upper - expected).max()))
        differing += tuple(reference["wk_repo_unclipped_unstable"][row]) != unstable
        unproven += bool(np.delete(upper, label).max() >= 0)
        if count % 50 == 0 or count == len(chosen):
            rate = count / (time.monotonic() - began)
            print(
                f"{count}/{len(chosen)}  largest difference {worst:.2e}  other unstable counts {differing}  "
                f"not proven {unproven}  {rate:.2f} images/s",
                flush=True,
            )
    return int(worst > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
