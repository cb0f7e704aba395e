"""Train by every loss and judge by exact answers; judge the published networks of Wong & Kolter the same way.

    python benchmarks/training.py digits                     8 x 8 digits, 2 x 100, every loss, all test images
    python benchmarks/training.py mnist                      MNIST, 2 x 100, eps 0.1, 10,000 images, 500 judged
    python benchmarks/training.py published                  wk_repo and WK17a, the first 500 test images, eps 0.1

Every number comes from seeds that are printed; torch runs on `--device`. Errors are shares of the judged images. FGSM
and PGD count exactly confirmed adversarial examples, `interval`, `dual` and `alpha` what is not proven, `exact` what
the verifier says; a bracket where time ran out. Exit status 1 if `published` contradicts the published truth.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from data import mnist_test, need, wk17a_truth
from machine import describe

import milpverify as mv
from milpverify.training.datasets import ImageSet, read_digits, read_idx_folder
from milpverify.training.error_table import RobustEvaluation
from milpverify.training.losses import AdversarialLoss, DualLoss, IntervalLoss, Loss, StandardLoss
from milpverify.training.models import mlp
from milpverify.training.to_onnx import save_onnx

LOSSES: dict[str, Loss] = {
    "standard": StandardLoss(),
    "pgd": AdversarialLoss(),
    "interval": IntervalLoss(),
    "dual": DualLoss(),
    "dual-hinge": DualLoss(hinge=True),
    "dual-tight": DualLoss(),  # and the penalties, whose warm-up depends on the epochs
}
METHODS = ("clean", "fgsm", "pgd", "interval", "dual", "alpha", "exact")
CLOSE = 0.03  # how near the dual bound of a dual-trained network should be to its exact error
PUBLISHED = """\
published, MNIST, L-inf eps 0.1 (all 10,000 test images, other networks and 60,000 training images):
  exact robust error of 2 x 100 networks: 14.85 % and 13.32 %
  Wong & Kolter 2018, table 1, two convolutions: dual bound 5.82 %; the first version of the paper: 2.9 / 5.8 / 6.2 /
  8.4 %, read as clean, FGSM, PGD and dual bound
"""


@dataclass(frozen=True)
class Job:
    """What is trained on and how it is judged."""

    train: ImageSet
    test: ImageSet
    eps: float
    arguments: argparse.Namespace


def main() -> int:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("digits", "mnist", "published"))
    parser.add_argument("--eps", type=float, help="radius (default: 0.05 on digits, else 0.1)")
    parser.add_argument("--train-images", type=int, help="how many to train on (default: all digits, 10,000 of MNIST)")
    parser.add_argument("--test-images", type=int, help="how many to judge (default: all digits, 500 of MNIST)")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--halve-every", type=int, help="epochs until the learning rate is halved, again and again"
    )
    parser.add_argument("--losses", default=",".join(LOSSES), help="some of: %(default)s")
    parser.add_argument(
        "--tightness", type=float, nargs=2, default=(0.01, 0.01), metavar=("D", "R"), help="weights of d and r"
    )
    parser.add_argument("--image-limit", type=float, default=60.0, help="seconds of the verifier an image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep", type=Path, help="folder for the networks")
    arguments = parser.parse_args()
    print(f"{describe()}\nseed {arguments.seed}, {' '.join(sys.argv[1:])}\n", flush=True)
    if arguments.what == "published":
        return published(arguments)
    if arguments.what == "digits":
        train, test = read_digits(arguments.seed)
        eps, count = 0.05, None
    else:
        train, test = read_idx_folder(need("mnist"))
        train, eps, count = train.first(arguments.train_images or 10_000), 0.1, 500
    eps = eps if arguments.eps is None else arguments.eps
    train, test = train.first(arguments.train_images), test.first(arguments.test_images or count)
    print(f"{len(train)} training images, {len(test)} judged, 2 x 100, L-inf eps {eps:g}, {arguments.epochs} epochs")
    show_head()
    for name in arguments.losses.split(","):
        one(name, Job(train, test, eps, arguments))
    if arguments.what == "mnist":
        print(f"\n{PUBLISHED}")
    return 0


def one(name: str, job: Job) -> None:
    """Train by one loss, and print its row."""
    arguments, began = job.arguments, time.perf_counter()
    wait, ramp = 1.0, max(arguments.epochs / 2 - 1, 0.0)
    loss = LOSSES[name]
    if name == "dual-tight":
        loss = DualLoss(penalties=(mv.TightnessPenalty(*arguments.tightness, wait, ramp),))
    trainer = mv.Trainer(
        loss,
        mv.EpsSchedule(job.eps, wait=wait, ramp=ramp),
        epochs=arguments.epochs,
        batch_size=arguments.batch,
        learning_rate=arguments.learning_rate,
        halve_every=arguments.halve_every,
        seed=arguments.seed,
        device=arguments.device,
    )
    n_classes = max(job.train.n_classes, job.test.n_classes)
    model = mlp(job.train.input_shape, (100, 100), n_classes, arguments.seed)
    trained = trainer.fit(model, job.train)
    seconds = time.perf_counter() - began
    if trained.stopped:
        print(f"{name}: {trained.stopped}")
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        net = save_onnx(trained.model, job.train.input_shape, arguments.keep / f"{arguments.what}_{name}.onnx")
    else:
        net = mv.from_torch(trained.model, job.train.input_shape)
    table = judged(net, job.test, job.eps, arguments.image_limit)
    show(name, table, seconds)
    if name.startswith("dual"):
        gap = table["dual"].upper - table["exact"].upper
        wanted = f"wanted: at most {100 * CLOSE:.0f}"
        print(f"{'':12}dual bound above the exact error: {100 * gap:.2f} points ({wanted})", flush=True)


def judged(net: mv.Network, test: ImageSet, eps: float, image_limit_s: float) -> RobustEvaluation:
    """The table of one network."""
    return mv.robust_evaluation(net, test, eps, method=mv.Evaluator(image_limit_s=image_limit_s))


def show_head() -> None:
    """The columns."""
    print(f"{'':12}" + "".join(f"{name:>10}" for name in METHODS) + f"{'training s':>16}{'judging s':>11}", flush=True)


def show(name: str, table: RobustEvaluation, training_s: float | None) -> None:
    """One row: attacks at least, bounds at most, the exact error or its bracket."""
    cells = []
    for method in METHODS:
        e = table[method]
        if method == "exact" and e.lower < e.upper:
            cells.append(f"{100 * e.lower:.2f}-{100 * e.upper:.2f}")
        else:
            cells.append(f"{100 * (e.lower if method in ('clean', 'fgsm', 'pgd', 'exact') else e.upper):.2f}")
    judging = sum(e.seconds for e in table.errors)
    trained = "-" if training_s is None else f"{training_s:.1f}"
    print(f"{name:12}" + "".join(f"{c:>10}" for c in cells) + f"{trained:>16}{judging:>11.1f}", flush=True)


def published(arguments: argparse.Namespace) -> int:
    """The networks of Wong & Kolter on the first images; WK17a's exact answers against the published truth."""
    pixels, labels = mnist_test()
    count, eps = arguments.test_images or 500, 0.1 if arguments.eps is None else arguments.eps
    test = ImageSet(pixels[:count].reshape(-1, 1, 28, 28), labels[:count], "MNIST test")
    print(f"first {count} test images, L-inf eps {eps:g} within [0, 1]")
    show_head()
    contradicted = 0
    for name in ("wk_repo", "wk17a"):
        net = mv.from_onnx(need("mipverify_nets", f"{name}_mnist_linf0.1.onnx"))
        table = judged(net, test, eps, arguments.image_limit)
        show(name, table, None)
        if name == "wk17a" and eps == 0.1:
            contradicted = against_truth(table, count)
    return int(contradicted > 0)


def against_truth(table: RobustEvaluation, count: int) -> int:
    """How many published verdicts the exact column contradicts."""
    truth = {int(row["mnist_test_index"]): row["verdict"] for row in wk17a_truth()}
    index = np.array([i for i in truth if i < count])
    error = np.array([truth[int(i)] != "robust" for i in index])
    exact = table["exact"]
    wrong = (exact.wrong[index] & ~error) | (~exact.wrong[index] & ~exact.open[index] & error)
    print(f"wk17a against the published truth: {len(index)} images, {int(wrong.sum())} contradicted, "
          f"{int(exact.open[index].sum())} left open")  # fmt: skip
    return int(wrong.sum())


if __name__ == "__main__":
    sys.exit(main())
