"""WK17a, eps 0.1, on the 250 MNIST images with published truth: verdicts, minimum distortions, exact margins.

python benchmarks/wk17a.py verdicts --jobs 2 --out wk17a.csv
python benchmarks/wk17a.py distances          the adversarial rows, against the published minimum (rtol 1e-3)
python benchmarks/wk17a.py margins            test images 8, 18, 115, the target CROWN finds hardest
python benchmarks/wk17a.py proofs --out wk17a_proofs.csv   the robust rows, in float32, else over the real numbers
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
from milpverify.tasks.certify import certify

EPS = 0.1
MARGINS = {8: -0.1371, 18: 0.9293, 115: -0.1159}
PROOF_FIELDS = ("index", "semantics", "seconds", "check_seconds", "leaves", "bytes", "reason")
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


def one_proof(job: tuple[int, int, np.ndarray, float]) -> dict[str, str]:
    """The row of one image: in which semantics it was proved, in what time, and how large the file is."""
    index, label, image, limit = job
    net = network()
    prop = mv.robustness(net, mv.LinfBall(image, EPS, clip=(0, 1)), label)
    found = certify(net, prop, semantics="both", time_limit_s=limit)
    row = {"index": str(index), "semantics": "", "seconds": f"{found.seconds:.2f}", "reason": found.reason}
    if found.proof is not None:
        certificate = found.proof.certificate
        row |= {"semantics": certificate.semantics, "check_seconds": f"{found.proof.check_seconds:.2f}"}
        row |= {"leaves": str(found.proof.n_leaves), "bytes": str(len(certificate.to_bytes()))}
    return row


def proofs(arguments: argparse.Namespace) -> int:
    """Every robust truth row; resumable through the CSV."""
    images, _ = mnist_test()
    truth = {int(r["mnist_test_index"]): r for r in wk17a_truth()}
    robust = {i: r for i, r in truth.items() if r["verdict"] == "robust"}
    done: dict[int, dict[str, str]] = {}
    if arguments.out.exists():
        with open(arguments.out, newline="") as file:
            done = {int(r["index"]): r for r in csv.DictReader(file)}
    jobs = [(i, int(r["label"]), images[i], arguments.timeout) for i, r in robust.items() if i not in done]
    os.environ["OMP_NUM_THREADS"] = "1"
    fresh = not arguments.out.exists()
    with open(arguments.out, "a", newline="") as file:
        writer = csv.DictWriter(file, PROOF_FIELDS, restval="")
        if fresh:
            writer.writeheader()
        with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
            for row in pool.map(one_proof, jobs):
                done[int(row["index"])] = row
                writer.writerow(row)
                file.flush()
                print(*row.values(), flush=True)
    print(f"{len(truth)} images, {len(robust)} robust, {len(truth) - len(robust)} not")
    for name, words in (("float32", "for every float32 execution"), ("real", "only over the real numbers")):
        mine = [r for r in done.values() if r["semantics"] == name]
        size, leaves = (sum(int(r[field]) for r in mine) for field in ("bytes", "leaves"))
        seconds, checks = (sum(float(r[field]) for r in mine) for field in ("seconds", "check_seconds"))
        print(f"{len(mine)} proved {words}: {size} bytes, {leaves} leaves; {seconds:.0f} s to find them, the last "
              f"checks {checks:.0f} s of that")  # fmt: skip
    late = [i for i, r in done.items() if not r["semantics"]]
    print(f"{len(late)} not proved {late}")
    return int(bool(late))


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
    """Parse and run one of the four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("verdicts", "distances", "margins", "proofs"))
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("wk17a_results.csv"))
    arguments = parser.parse_args()
    tasks = {"verdicts": verdicts, "distances": distances, "margins": margins, "proofs": proofs}
    return tasks[arguments.what](arguments)


if __name__ == "__main__":
    sys.exit(main())
