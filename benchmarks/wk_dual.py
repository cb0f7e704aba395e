"""Wong & Kolter's dual bound on their MNIST network, all images in one run, against their reference implementation.

    python benchmarks/wk_dual.py                              the 5,000 images that the reference has
    python benchmarks/wk_dual.py --all --workers 2            all 10,000 test images, on two processes
    python benchmarks/wk_dual.py --all --device cuda          on a GPU, in batches

Pure Fast-Lin (nothing but the dual bound), eps 0.1, not clipped to [0, 1], as the paper reports it; all ten margins of
each image. Prints the largest difference from the reference, the unstable counts that differ, how many images are not
proven, and images per second; exit status 1 above 1e-4, or if the count is not the published one.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from data import mnist_test, need

import milpverify as mv

EPS = 0.1
NOT_PROVEN = {5000: 301, 10000: 582}  # of the reference's rows; of all test images: 5.82 % in the paper


def main() -> int:
    """Run and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="all 10,000 test images, not only those of the reference")
    parser.add_argument("--first", type=int, metavar="N", help="only the first N of them")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--device", help="a torch device, such as cuda")
    parser.add_argument("--budget-mib", type=int, default=256, help="memory for a chunk of images (default 256)")
    arguments = parser.parse_args()
    net = mv.from_onnx(need("mipverify_nets", "wk_repo_mnist_linf0.1.onnx"))
    reference = np.load(need("mipverify_nets", "wk_dual_reference.npz"))
    images, labels = mnist_test()
    known = reference["mnist_test_index_wk_repo"]
    index = (np.arange(len(images)) if arguments.all else known)[: arguments.first]
    boxes = mv.BoxBatch(images[index] - EPS, images[index] + EPS)
    rows = np.eye(10)[labels[index]][:, None, :] - np.eye(10)
    method = mv.FastLin(intersect=False)
    options = {"device": arguments.device, "budget_bytes": arguments.budget_mib * 2**20}
    mv.bound_batch(net, boxes[:2], rows[:2], method, **options)  # loads and prepares what the first run pays for
    began = time.perf_counter()
    found = mv.bound_batch(net, boxes, rows, method, workers=arguments.workers, **options)
    seconds = time.perf_counter() - began
    _, here, there = np.intersect1d(index, known, return_indices=True)
    worst = float(np.abs(-found.value[here] - reference["wk_repo_unclipped_ub"][there]).max())
    differing = int((found.n_unstable[here] != reference["wk_repo_unclipped_unstable"][there]).any(axis=1).sum())
    upper = -found.value
    upper[np.arange(len(index)), labels[index]] = -np.inf
    not_proven = int((upper.max(axis=1) >= 0).sum())
    print(
        f"{len(index)} images in {seconds:.1f} s, {len(index) / seconds:.1f} images/s; of {len(here)} in the reference "
        f"largest difference {worst:.2e}, other unstable counts {differing}; not proven {not_proven}"
    )
    return int(worst > 1e-4 or not_proven != NOT_PROVEN.get(len(index), not_proven))


if __name__ == "__main__":
    sys.exit(main())
