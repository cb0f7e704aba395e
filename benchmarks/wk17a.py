"""WK17a, eps 0.1, on the 250 MNIST images with published truth: verdicts, minimum distortions, exact margins.

python benchmarks/wk17a.py verdicts --jobs 2 --out wk17a.csv
python benchmarks/wk17a.py distances          the adversarial rows, against the published minimum (rtol 1e-3)
python benchmarks/wk17a.py margins            test images 8, 18, 115, the target CROWN finds hardest
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from data import mnist_test, need, wk17a_truth

import milpverify as mv

EPS = 0.1
MARGINS = {8: -0.1371, 18: 0.9293, 115: -0.1159}
WORD = {"robust": "unsat", "adversarial": "sat", "misclassified": "sat"}


def network() -> mv.Network:
    """The network from its ONNX file."""
    return mv.from_onnx(need("mipverify_nets", "wk17a_mnist_linf0.1.onnx"))


def one_verdict(job: tuple[int, int, np.ndarray, float]) -> tuple[int, str, float, str]:
    """Test index, word, seconds, and how the last case was decided."""
    index, label, image, limit = job
    net = network()
    began = time.monotonic()
    verdict = mv.verify(net, mv.robustness(net, mv.LinfBall(image, EPS, clip=(0, 1)), label), time_limit_s=limit)
    how = ",".join(sorted({case.how for case in verdict.cases if case.how}))
    return index, verdict.word, time.monotonic() - began, how


def verdicts(arguments: argparse.Namespace) -> int:
    """Every truth row; resumable through the CSV."""
    images, _ = mnist_test()
    truth = {int(r["mnist_test_index"]): r for r in wk17a_truth()}
    done: dict[int, dict[str, str]] = {}
    if arguments.out.exists():
        with open(arguments.out, newline="") as file:
            done = {int(r["index"]): r for r in csv.DictReader(file)}
    jobs = [(i, int(r["label"]), images[i], arguments.timeout) for i, r in truth.items() if i not in done]
    os.environ["OMP_NUM_THREADS"] = "1"
    fresh = not arguments.out.exists()
    with open(arguments.out, "a", newline="") as file:
        writer = csv.DictWriter(file, ("index", "truth", "word", "seconds", "how"))
        if fresh:
            writer.writeheader()
        with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
            for index, word, seconds, how in pool.map(one_verdict, jobs):
                row = {
                    "index": str(index),
                    "truth": truth[index]["verdict"],
                    "word": word,
                    "seconds": f"{seconds:.2f}",
                    "how": how,
                }
                done[index] = row
                writer.writerow(row)
                file.flush()
                print(*row.values(), flush=True)
    wrong = [i for i, r in done.items() if r["word"] in ("sat", "unsat") and r["word"] != WORD[r["truth"]]]
    late = [i for i, r in done.items() if r["word"] not in ("sat", "unsat")]
    seconds = [float(r["seconds"]) for r in done.values()]
    print(f"{len(done)} images, {len(wrong)} wrong {wrong}, {len(late)} not decided {late}")
    print(f"mean {np.mean(seconds):.2f} s, median {np.median(seconds):.2f} s, slowest {max(seconds):.2f} s")
    return int(bool(wrong))


def distances(arguments: argparse.Namespace) -> int:
    """The minimum distortions of the adversarial rows."""
    images, _ = mnist_test()
    net, failed = network(), 0
    rows = [r for r in wk17a_truth() if r["verdict"] == "adversarial" and r["min_linf_distortion"]]
    for row in rows:
        index, published = int(row["mnist_test_index"]), float(row["min_linf_distortion"])
        radius = mv.minimum_epsilon(
            net, images[index], int(row["label"]), clip=(0, 1), time_limit_s=arguments.timeout,
            method=mv.Radius(relative_gap=5e-4),
        )  # fmt: skip
        agrees = abs(radius.upper - published) <= 1e-3 * published and radius.lower <= published * (1 + 1e-3)
        failed += not agrees
        print(f"image {index}: {radius}  published {published:.7f}  {'agrees' if agrees else 'DIFFERS'}  "
              f"{radius.seconds:.1f} s", flush=True)  # fmt: skip
    return int(bool(failed))


def margins(arguments: argparse.Namespace) -> int:
    """Exact margins of three images for the target that CROWN finds hardest."""
    images, labels = mnist_test()
    net, failed = network(), 0
    for index, expected in MARGINS.items():
        ball, label = mv.LinfBall(images[index], EPS, clip=(0, 1)), int(labels[index])
        targets = [t for t in range(10) if t != label]
        rows = np.array([np.eye(10)[label] - np.eye(10)[t] for t in targets])
        value = mv.bound_rows(net, ball, mv.compute_bounds(net, ball), rows).value
        target = targets[int(value.argmin())]
        margin = mv.worst_margin(net, mv.robustness(net, ball, label, (target,)), time_limit_s=arguments.timeout)
        agrees = margin.is_exact(1e-4) and abs(margin.upper - expected) < 1e-4
        failed += not agrees
        print(f"image {index}, target {target}: {margin}  expected {expected}  {'agrees' if agrees else 'DIFFERS'}  "
              f"{margin.seconds:.1f} s", flush=True)  # fmt: skip
    return int(bool(failed))


def main() -> int:
    """Parse and run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("verdicts", "distances", "margins"))
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("wk17a_results.csv"))
    arguments = parser.parse_args()
    return {"verdicts": verdicts, "distances": distances, "margins": margins}[arguments.what](arguments)


if __name__ == "__main__":
    sys.exit(main())
