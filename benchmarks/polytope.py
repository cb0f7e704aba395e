"""Adversarial polytopes of random networks: exact, and as relaxations outline them.

    python benchmarks/polytope.py figure4      areas of outlines over that of the exact polytope, for growing eps
    python benchmarks/polytope.py figure4 --out figure4.svg        the same, drawn: a row of panels an eps
    python benchmarks/polytope.py section41    true ranges next to the outer bound and the naive layer-wise bound

Networks 2-100-100-100-100-2 with weights N(0, 1 / sqrt(n_in)) (standard deviation) and biases N(0, 1), drawn by numpy's
default generator; the region is the max-norm ball of radius eps around the origin.

Source:
    Wong & Kolter 2018, section 4.1 and figure 4.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import machine
import numpy as np

import milpverify as mv
from milpverify.network.graph import Affine
from milpverify.network.operators import Dense
from milpverify.polytope.convex import polygon_area
from milpverify.polytope.plot_outline import Panel
from milpverify.polytope.plot_style import DARK, LIGHT, check_figure

WIDTHS = (2, 100, 100, 100, 100, 2)
DRAWN = ("fastlin", "crown", "lp")  # the others would hide them or be hidden by them
BOX = mv.Refinement(first=4, most=4)


def random_network(seed: int, widths: Sequence[int] = WIDTHS) -> mv.Network:
    """Weights N(0, 1 / sqrt(n_in)), biases N(0, 1)."""
    rng = np.random.default_rng(seed)
    layers = []
    for k, (n, m) in enumerate(pairwise(widths)):
        weights = rng.normal(size=(m, n)) / np.sqrt(n)
        layers.append(Affine(((k, Dense(weights)),), ((None, rng.normal(size=m)),), m))
    return mv.Network((widths[0],), (widths[-1],), tuple(layers[:-1]), layers[-1])


def figure4(seeds: Sequence[int], radii: Sequence[float], out: Path | None, dark: bool) -> None:
    """One table of outlines per network and radius, and the picture of all of them."""
    methods = (mv.Interval(), mv.FastLin(), mv.Crown(), mv.AlphaCrown(), mv.TriangleLP())
    if out is not None:
        check_figure(out)
    began, panels = time.perf_counter(), [list[Panel]() for _ in radii]
    for seed in seeds:
        net = random_network(seed, WIDTHS)
        for row, eps in zip(panels, radii, strict=True):
            ball = mv.LinfBall(np.zeros(2), eps)
            start = time.perf_counter()
            regions = mv.linear_regions(net, ball)
            parted = time.perf_counter() - start
            image = regions.image()
            area = image.area
            hull = polygon_area(image.hull)
            lost = abs(regions.areas.sum() / regions.area - 1)
            print(f"\nseed {seed}, eps {eps:g}: {len(regions)} regions in {parted:.3f} s, areas add up to 1 within "
                  f"{lost:.1e}; exact polytope: area {area:.6g}, of its hull {hull:.6g}")  # fmt: skip
            found = [mv.outline(net, ball, method) for method in methods]
            print(mv.compare_outlines(found, image), flush=True)
            title = f"network {seed}, ε = {eps:g}: {len(regions):,} regions"
            row.append(Panel(tuple(one for one in found if one.name in DRAWN), image, title))
    print(f"\n{time.perf_counter() - began:.1f} s in all")
    if out is not None:
        title = "The adversarial polytope of 2-100-100-100-100-2 networks, and its relaxations"
        mv.save_figure(mv.plot_panels(panels, DARK if dark else LIGHT, title), out)
        print(f"drawn in {out}, {time.perf_counter() - began:.1f} s with the drawing")


def section41(seeds: Sequence[int], radii: Sequence[float]) -> None:
    """Ranges of both outputs: true, by the dual network (Fast-Lin), by the LP, and layer by layer."""
    rows = [("seed", "eps", "y", "true range", "Fast-Lin", "LP", "layer-wise")]
    for seed in seeds:
        net = random_network(seed, WIDTHS)
        for eps in radii:
            ball = mv.LinfBall(np.zeros(2), eps)
            low, high = mv.linear_regions(net, ball).output_range
            methods = (mv.FastLin(intersect=False), mv.TriangleLP(), mv.Interval())
            boxes = [mv.outline(net, ball, method, refinement=BOX).outer for method in methods]
            for i in range(2):
                ranges = [(low[i], high[i]), *((box[:, i].min(), box[:, i].max()) for box in boxes)]
                rows.append((str(seed), f"{eps:g}", f"y{i}", *(f"[{a:.5g}, {b:.5g}]" for a, b in ranges)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for run, radii in ((figure4, [0.05, 0.1, 0.25]), (section41, [0.01, 0.05, 0.1])):
        command = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the networks (default: 0 1 2)")
        told = " ".join(f"{eps:g}" for eps in radii)
        command.add_argument("--eps", type=float, nargs="+", default=radii, help=f"radii (default: {told})")
        command.set_defaults(run=run, out=None, dark=False)
        if run is figure4:
            command.add_argument("--out", type=Path, metavar="FILE", help="draw it: .svg, .pdf or .png")
            command.add_argument("--dark", action="store_true", help="on dark paper")
    chosen = parser.parse_args(arguments)
    print(machine.describe())
    try:
        if chosen.run is figure4:
            figure4(chosen.seeds, chosen.eps, chosen.out, chosen.dark)
        else:
            section41(chosen.seeds, chosen.eps)
    except mv.InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
