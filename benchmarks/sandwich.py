"""The sandwich: certificates below, attacks above, the exact minimum distance between them; never out of order.

    python benchmarks/sandwich.py                              20 images a network, L-inf and L2
    python benchmarks/sandwich.py --nets mlp50 --images 5 --norms linf --limit 60
    python benchmarks/sandwich.py --out sandwich.csv           resumable: rows that are there are not made again

MNIST test images, the first ones that the network classifies rightly, clipped to [0, 1]. `two_layer` is 784-50-10,
trained here on 10,000 MNIST training images (seed 0): the only one that the decision boundary certificate takes. WK17a
is exact in L-inf only: minimum L2 distances of convolutions are out of reach, so there the table has no exact column
and attacks and certificates are held against each other. An open bracket [lower, upper] counts as such: certificates
must not exceed its upper side, nor attacks go below its lower one. Ratios are to its middle where that is known to 1 %.
Exit status 1 where anything is out of order.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from data import mnist_test, need
from machine import describe

import milpverify as mv

NETS = {
    "mlp50": ("mlp", "mlp50.onnx"),
    "mlp100_adv": ("mlp", "mlp100_adv.onnx"),
    "wk17a": ("mipverify_nets", "wk17a_mnist_linf0.1.onnx"),
    "two_layer": (),
}
NORMS = {"linf": mv.LinfBall, "l2": mv.L2Ball}
LOWER = ("lipschitz", "simplex", "boundary", "dual")
UPPER = ("deepfool", "ifgsm", "fgsm", "pgd")
COLUMNS = (*LOWER, "exact_lower", "exact_upper", *UPPER)
CLIP = (0.0, 1.0)
FLOATING = 1e-9  # by which a floating certificate may miss
KNOWN = 0.01  # half a bracket's width as a share of its middle


def main() -> int:
    """Fill the table, print it, and judge its order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--norms", nargs="+", choices=list(NORMS), default=list(NORMS))
    parser.add_argument("--images", type=int, default=20, help="images a network (default 20)")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for an exact distance (default 120)")
    parser.add_argument(
        "--gap", type=float, default=1e-3, help="share that stays open (default %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("sandwich.csv"), help="results, appended to")
    arguments = parser.parse_args()
    print(describe())
    done = _read(arguments.out)
    images, labels = mnist_test()
    for name in arguments.nets:
        net = _two_layer() if name == "two_layer" else mv.from_onnx(need(*NETS[name]))
        right = np.flatnonzero(net.forward(images[:200]).argmax(axis=1) == labels[:200])[: arguments.images]
        for norm in arguments.norms:
            gains = mv.Gains.of(net, NORMS[norm])
            for i in right.tolist():
                if (name, norm, i) not in done:
                    row = _row(net, gains, images[i], int(labels[i]), norm, name, arguments)
                    done[name, norm, i] = {"net": name, "norm": norm, "index": str(i), **row}
                    _append(arguments.out, done[name, norm, i])
                    print(name, norm, i, {k: f"{float(row[k]):.4g}" for k in COLUMNS if row[k]}, flush=True)
    wrong = [problem for row in done.values() for problem in _out_of_order(row)]
    for name in arguments.nets:
        for norm in arguments.norms:
            _summary(name, norm, [row for (n, p, _), row in done.items() if (n, p) == (name, norm)])
    print(f"out of order: {len(wrong)}", *wrong, sep="\n  ")
    return int(bool(wrong))


def _row(
    net: mv.Network, gains: mv.Gains, x: np.ndarray, label: int, norm: str, name: str, arguments: argparse.Namespace
) -> dict[str, str]:
    """Every column's value and seconds; empty where a column does not apply."""
    ball = NORMS[norm]
    jobs: dict[str, Callable[[], float]] = {
        "lipschitz": lambda: mv.lipschitz_certificate(net, x, label, ball=ball, gains=gains).value[0],
        "simplex": lambda: mv.simplex_certificate(net, x, label, ball=ball, gains=gains).value[0],
        "dual": lambda: mv.dual_radius(net, x, label, ball=ball, clip=CLIP).value[0],
        "deepfool": lambda: mv.attack_radius(net, x, label, mv.DeepFool(), ball=ball, clip=CLIP).upper,
        "fgsm": lambda: mv.attack_radius(net, x, label, mv.Fgsm(), ball=ball, clip=CLIP).upper,
        "ifgsm": lambda: mv.attack_radius(net, x, label, mv.IterativeFgsm(steps=20), ball=ball, clip=CLIP).upper,
        "pgd": lambda: mv.attack_radius(net, x, label, mv.Pgd(restarts=4, rounds=1), ball=ball, clip=CLIP).upper,
    }
    if len(net.layers) == 1:
        jobs["boundary"] = lambda: mv.decision_boundary_certificate(net, x, label, ball=ball).value[0]
    row = {column: "" for column in (*COLUMNS, *(f"{c}_s" for c in COLUMNS))}
    for column, job in jobs.items():
        began = time.perf_counter()
        row[column] = repr(float(job()))
        row[f"{column}_s"] = f"{time.perf_counter() - began:.4f}"
    if (name, norm) != ("wk17a", "l2"):
        began = time.perf_counter()
        method, limit = mv.Radius(relative_gap=arguments.gap), arguments.limit
        exact = mv.minimum_epsilon(net, x, label, ball=ball, clip=CLIP, time_limit_s=limit, method=method)
        row |= {"exact_lower": repr(exact.lower), "exact_upper": repr(exact.upper)}
        row["exact_lower_s"] = row["exact_upper_s"] = f"{time.perf_counter() - began:.4f}"
    return row


def _out_of_order(row: dict[str, str]) -> list[str]:
    """What contradicts what: one line each."""
    value = {column: float(row[column]) for column in COLUMNS if row[column]}
    low = {c: v for c, v in value.items() if c in (*LOWER, "exact_lower")}
    high = {c: v for c, v in value.items() if c in (*UPPER, "exact_upper")}
    who = f"{row['net']} {row['norm']} {row['index']}"
    return [
        f"{who}: {a} {v!r} > {b} {u!r}" for a, v in low.items() for b, u in high.items() if v > u * (1.0 + FLOATING)
    ]


def _summary(name: str, norm: str, rows: list[dict[str, str]]) -> None:
    """Mean ratio to the exact distance, over the images where it is known, and mean seconds."""
    known = [row for row in rows if row["exact_upper"] and _closed(row)]
    print(f"\n{name} {norm}: {len(rows)} images, {len(known)} known to 1 %")
    print("| method | mean ratio to exact | least | greatest | mean seconds |\n|---|---|---|---|---|")
    for column in (*LOWER, "exact_upper", *UPPER):
        seconds = [float(row[f"{column}_s"]) for row in rows if row[column]]
        if not seconds:
            continue
        middle = [(float(r["exact_lower"]) + float(r["exact_upper"])) / 2 for r in known]
        ratio = [float(r[column]) / m for r, m in zip(known, middle, strict=True) if np.isfinite(float(r[column]))]
        failed = sum(not np.isfinite(float(r[column])) for r in rows)
        numbers = f"{np.mean(ratio):.4f} | {min(ratio):.4f} | {max(ratio):.4f}" if ratio else " | | "
        print(f"| {column} | {numbers} | {np.mean(seconds):.3f}{f' ({failed} found nothing)' if failed else ''} |")


def _closed(row: dict[str, str]) -> bool:
    low, high = float(row["exact_lower"]), float(row["exact_upper"])
    return np.isfinite(high) and high - low <= KNOWN * (high + low)


def _two_layer() -> mv.Network:
    """784-50-10 on 10,000 training images of MNIST: Adam, 5 epochs, seed 0."""
    import torch

    images = gzip.decompress(need("mnist", "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress(need("mnist", "train-labels-idx1-ubyte.gz").read_bytes())
    x = torch.tensor(np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784)[:10000] / 255.0, dtype=torch.float32)
    y = torch.tensor(np.frombuffer(labels, np.uint8, offset=8)[:10000].astype(np.int64))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(784, 50), torch.nn.ReLU(), torch.nn.Linear(50, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(5):
        for part in torch.randperm(len(x)).split(100):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimiser.step()
    return mv.from_torch(model.eval(), input_shape=(784,))


def _read(path: Path) -> dict[tuple[str, str, int], dict[str, str]]:
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        return {(row["net"], row["norm"], int(row["index"])): row for row in csv.DictReader(file)}


def _append(path: Path, row: dict[str, str]) -> None:
    fresh = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    sys.exit(main())
