"""Exact worst margins with published or hand-checked values: brackets and in-process seconds.

    python benchmarks/margins.py wk17a            WK17a, eps 0.1, test images 0..9, all targets
    python benchmarks/margins.py mlp              mlp24 image 1 and mlp50 images 0 and 2, all targets
    python benchmarks/margins.py mlp100           mlp100_adv, eps 0.1, images 0 and 2, the target CROWN finds hardest
    python benchmarks/margins.py all --out margins.csv

One process for all; seconds are those of `mv.worst_margin` alone, networks and images read before (the least of
--repeat runs). A bracket is closed when its gap is at most 1e-4. The exit status is 1 if a bracket contradicts a known
value.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean

import numpy as np
from data import mnist_test, need
from machine import describe

import milpverify as mv

GAP = 1e-4  # in units of y
FIELDS = ("group", "net", "image", "eps", "targets", "lower", "upper", "closed", "seconds", "known")


@dataclass(frozen=True)
class Instance:
    """One margin.

    Attributes:
        group: What it is reported with.
        net: Path of the network, below the benchmark data.
        image: Index of an MNIST test image.
        eps: Radius of the l-infinity ball, clipped to [0, 1].
        hardest: Whether only the target with CROWN's lowest bound counts.
        known: The margin, as several solvers agree on it (a bracket where nobody closed it), or None.
    """

    group: str
    net: tuple[str, ...]
    image: int
    eps: float
    hardest: bool = False
    known: tuple[float, float] | None = None

    def property(self) -> tuple[mv.Network, mv.Property]:
        """The network, and the robustness of the image."""
        images, labels = images_and_labels()
        net, label = network(self.net), int(labels[self.image])
        ball = mv.LinfBall(images[self.image], self.eps, clip=(0, 1))
        targets = [t for t in range(net.n_outputs) if t != label]
        if self.hardest:
            rows = np.eye(net.n_outputs)[label] - np.eye(net.n_outputs)[targets]
            value = mv.bound_rows(net, ball, mv.compute_bounds(net, ball), rows).value
            targets = [targets[int(value.argmin())]]
        return net, mv.robustness(net, ball, label, targets)


WK17A = ("mipverify_nets", "wk17a_mnist_linf0.1.onnx")
INSTANCES = (
    Instance("mlp", ("mlp", "mlp24.onnx"), 1, 0.05, known=(0.912468, 0.912468)),
    Instance("mlp", ("mlp", "mlp50.onnx"), 2, 0.02, known=(2.40242, 2.40242)),
    Instance("mlp", ("mlp", "mlp50.onnx"), 0, 0.05, known=(2.92885, 2.92885)),
    Instance("mlp100", ("mlp", "mlp100_adv.onnx"), 0, 0.1, True, (2.0496, 2.0496)),
    Instance("mlp100", ("mlp", "mlp100_adv.onnx"), 2, 0.1, True, (1.0005, 1.0010)),
    *(Instance("wk17a", WK17A, image, 0.1) for image in range(10)),
)
KNOWN_TO = 1e-4  # digits that the known values are given to


@cache
def network(path: tuple[str, ...]) -> mv.Network:
    """A network, read once."""
    return mv.from_onnx(need(*path))


@cache
def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """MNIST's test set, read once."""
    return mnist_test()


def measure(instance: Instance, limit_s: float, repeat: int) -> dict[str, str]:
    """The row of one margin."""
    net, prop = instance.property()
    brackets = [mv.worst_margin(net, prop, time_limit_s=limit_s) for _ in range(repeat)]
    best = min(brackets, key=lambda bracket: bracket.seconds)
    known = instance.known
    return {
        "group": instance.group, "net": Path(instance.net[-1]).stem, "image": str(instance.image),
        "eps": f"{instance.eps:g}", "targets": str(len(prop.cases)), "lower": repr(best.lower),
        "upper": repr(best.upper), "closed": str(best.is_exact(GAP)), "seconds": f"{best.seconds:.3f}",
        "known": "" if known is None else f"{known[0]:g}" if known[0] == known[1] else f"[{known[0]:g}, {known[1]:g}]",
    }  # fmt: skip


def contradicts(instance: Instance, row: dict[str, str]) -> bool:
    """Whether a bracket and the known value have nothing in common."""
    if instance.known is None:
        return False
    low, high = instance.known[0] - KNOWN_TO, instance.known[1] + KNOWN_TO
    return float(row["lower"]) > high or float(row["upper"]) < low


def summary(rows: Iterable[dict[str, str]]) -> list[str]:
    """One line per group."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    lines = []
    for group, members in groups.items():
        seconds = [float(row["seconds"]) for row in members]
        closed = sum(row["closed"] == "True" for row in members)
        lines.append(
            f"{group}: {closed} of {len(members)} closed to {GAP:g}, mean {mean(seconds):.2f} s, "
            f"slowest {max(seconds):.2f} s"
        )
    return lines


def main() -> int:
    """Parse, measure, summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("wk17a", "mlp", "mlp100", "all"))
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for each margin (default 120)")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each; the quickest counts")
    parser.add_argument("--images", type=int, nargs="+", help="only these images")
    parser.add_argument("--out", type=Path, help="write a CSV too")
    arguments = parser.parse_args()
    print(describe(), flush=True)
    rows, wrong = [], []
    for instance in INSTANCES:
        if arguments.what not in ("all", instance.group) or instance.image not in (arguments.images or range(10)):
            continue
        row = measure(instance, arguments.timeout, arguments.repeat)
        rows.append(row)
        mark = "closed" if row["closed"] == "True" else "OPEN"
        if contradicts(instance, row):
            wrong.append(row)
            mark = "WRONG"
        bracket = f"[{float(row['lower']):.6f}, {float(row['upper']):.6f}]"
        known = f"known {row['known']}" if row["known"] else ""
        print(f"{row['net']} image {row['image']} eps {row['eps']}, {row['targets']} targets: {bracket} {mark} "
              f"{row['seconds']} s {known}", flush=True)  # fmt: skip
    if arguments.out:
        with open(arguments.out, "w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
    print("\n".join(summary(rows)))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
