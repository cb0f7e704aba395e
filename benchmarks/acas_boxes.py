"""Boxes per second and tightness of bound methods on sub-boxes of ACAS Xu property 2, network 3_3, one core.

    python benchmarks/acas_boxes.py                          1,000 boxes of the 16-piece grid, all methods
    python benchmarks/acas_boxes.py --pieces 8 --batch 250   coarser boxes, 250 at a time

Each side of the property's input box is cut into equal pieces, and the boxes are cells of that grid, drawn with a
fixed seed without repetition. 16 pieces a side (2^20 cells, four halvings of each input) is where a search works: most
cells are proved by good bounds, and not by poor ones. The unsafe set is "y_0 is the largest output" (y_j - y_0 <= 0 for
all j), so a box is proved if the lower bound of one row is above zero; its margin is the largest of its rows' bounds.

Every method bounds all six layers and then the rows, each from its own layers' bounds. Reported: boxes per second (the
median and the best of the repeats), the mean and least margin over the boxes, how many are proved, and the unstable
neurons per box. Set OMP_NUM_THREADS=1 (the script does, unless it is set).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy loads its BLAS

import numpy as np
from data import need

import milpverify as mv
from milpverify.bounds.compute import bound_layers, make_problem
from milpverify.bounds.method import BoundMethod
from milpverify.bounds.norms import NormBounds
from milpverify.bounds.zonotope import Zonotope
from milpverify.spec.batch import BoxBatch


@dataclass(frozen=True)
class Result:
    """What one method did on all boxes, once.

    Attributes:
        seconds: For layers and rows.
        margin: Shape (B,).
        unstable: Unstable neurons over all boxes and layers.
    """

    seconds: float
    margin: np.ndarray
    unstable: int


def sub_boxes(region: mv.Region, count: int, pieces: int, seed: int) -> BoxBatch:
    """`count` different cells of the grid with `pieces` cells along each side of the region's box."""
    n = region.dimension
    if count > pieces**n:
        raise SystemExit(
            f"acas_boxes: {pieces} pieces a side make {pieces**n} boxes, fewer than the {count} asked for."
        )
    cells = np.random.default_rng(seed).choice(pieces**n, size=count, replace=False)
    place = np.stack(np.unravel_index(cells, (pieces,) * n), axis=1)
    width = (region.upper - region.lower) / pieces
    lower = region.lower + place * width
    return BoxBatch(lower, np.minimum(lower + width, region.upper))


def run(net: mv.Network, boxes: BoxBatch, rows: np.ndarray, d: np.ndarray, method: BoundMethod, batch: int) -> Result:
    """Bound all boxes, `batch` at a time."""
    margins, unstable, began = [], 0, time.perf_counter()
    for start in range(0, len(boxes), batch):
        problem = bound_layers(make_problem(net, boxes[start : start + batch], None), method)
        margins.append((method.rows(problem, rows).value - d).max(axis=-1))
        unstable += sum(int(((l < 0) & (u > 0)).sum()) for l, u in zip(problem.lower, problem.upper, strict=True))
    return Result(time.perf_counter() - began, np.concatenate(margins), unstable)


def methods() -> list[BoundMethod]:
    """Every method that bounds a batch of boxes."""
    return [NormBounds(), mv.Interval(), Zonotope(), Zonotope(intersect=False), mv.FastLin(), mv.Crown()]


def label(method: BoundMethod) -> str:
    """The method's name, and whether it stands alone."""
    return method.name if getattr(method, "intersect", True) else f"{method.name} (pure)"


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, default=1000, help="how many boxes (default 1000)")
    parser.add_argument("--pieces", type=int, default=16, help="pieces of each side of the input box (default 16)")
    parser.add_argument("--batch", type=int, default=1000, help="boxes bounded together (default 1000)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="runs of each method, after one that warms up (default 5)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    parser.add_argument(
        "--alpha-steps", type=int, default=0, help="add alpha ascent with so many steps (default: leave out)"
    )
    arguments = parser.parse_args()
    if min(arguments.boxes, arguments.pieces, arguments.batch, arguments.repeats) < 1:
        parser.error("--boxes, --pieces, --batch and --repeats must be positive")
    net = mv.from_onnx(need("acasxu", "onnx", "ACASXU_run2a_3_3_batch_2000.onnx"))
    case = mv.read_vnnlib(need("acasxu", "vnnlib", "prop_2.vnnlib"), net).cases[0]
    boxes = sub_boxes(case.region, arguments.boxes, arguments.pieces, arguments.seed)
    chosen = methods()
    if arguments.alpha_steps:
        chosen.append(mv.AlphaCrown(steps=arguments.alpha_steps))
    print(f"{len(boxes)} boxes, {arguments.pieces} pieces a side, {arguments.batch} at a time, seed {arguments.seed}")
    print(f"{'method':<16}{'boxes/s':>9}{'best':>9}{'mean margin':>13}{'least':>11}{'proved':>8}{'unstable':>10}")
    for method in chosen:
        every = [
            run(net, boxes, case.unsafe.C, case.unsafe.d, method, arguments.batch) for _ in range(arguments.repeats + 1)
        ]
        seconds, last = [result.seconds for result in every[1:]], every[-1]
        print(
            f"{label(method):<16}{len(boxes) / np.median(seconds):>9.0f}{len(boxes) / min(seconds):>9.0f}"
            f"{last.margin.mean():>13.4g}{last.margin.min():>11.4g}{(last.margin > 0).sum():>8}"
            f"{last.unstable / len(boxes):>10.1f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
