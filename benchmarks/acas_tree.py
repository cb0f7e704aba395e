"""Input splitting on the 96 ACAS Xu instances, in process, one core.

    python benchmarks/acas_tree.py                     all instances
    python benchmarks/acas_tree.py prop_2 3_3          those whose network and property names hold one of the words
    python benchmarks/acas_tree.py --limit 60 --batch 512

Each line: network, property, verdict, the published one where it differs, boxes, seconds and boxes per second.
Seconds are those of bounding the root by zonotopes and of the search; reading the files is left out. At the end, per
property and for all, how many instances were decided, and the median, the largest and the total of the times.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy loads its BLAS

import numpy as np
from data import Instance, instances

import milpverify as mv
from milpverify.bounds.zonotope import Zonotope
from milpverify.search.input_tree import InputSplitting
from milpverify.search.question import Question
from milpverify.tasks.margin import measured


@dataclass(frozen=True)
class Result:
    """What came of one instance."""

    network: str
    prop: str
    truth: str
    verdict: str
    boxes: int
    seconds: float


def ask(net: mv.Network, cases: tuple[mv.Case, ...], ends: float) -> Question:
    """Whether some case is reached, from the zonotopes of the whole region on."""
    region = cases[0].region
    bounds = mv.compute_bounds(net, region, Zonotope())

    def replay(case: int, x: np.ndarray) -> float:
        witness = measured(net, cases[case], x)
        return np.inf if witness is None else witness.replay.slack_upper

    return Question(net, region, cases, bounds, np.full(len(cases), -np.inf), replay, ends=ends)


def run(instance: Instance, search: InputSplitting, limit_s: float) -> Result:
    """Decide one instance."""
    net = mv.from_onnx(instance.onnx)
    prop = mv.read_vnnlib(instance.vnnlib, net)
    began, boxes, open_, verdict = time.monotonic(), 0, False, "unsat"
    for cases in prop.groups():
        question = ask(net, cases, began + limit_s)
        answer = search.run(question)
        boxes += answer.nodes
        if question.decided:
            verdict = "sat"
            break
        open_ = open_ or not all(case.holds for case in answer.cases)
    seconds = time.monotonic() - began
    verdict = "unknown" if verdict == "unsat" and open_ else verdict
    name = instance.onnx.name.removeprefix("ACASXU_run2a_").removesuffix("_batch_2000.onnx")
    return Result(name, instance.vnnlib.stem, instance.truth, verdict, boxes, seconds)


def summary(name: str, results: list[Result]) -> str:
    """One line about some results."""
    seconds = np.array([r.seconds for r in results])
    boxes = sum(r.boxes for r in results)
    wrong = sum(r.verdict != "unknown" and r.verdict != r.truth for r in results)
    done = sum(r.verdict != "unknown" for r in results)
    return (
        f"{name:<8} {len(results):>4} instances {done:>4} decided {wrong:>3} wrong   median {np.median(seconds):.3f} s"
        f"   slowest {seconds.max():.2f} s   total {seconds.sum():.1f} s"
        f"   {boxes / max(seconds.sum(), 1e-9):.0f} boxes/s"
    )


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="choose instances whose name has one of these")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one instance (default 60)")
    parser.add_argument("--batch", type=int, default=InputSplitting().batch, help="boxes bounded together")
    arguments = parser.parse_args()
    search, results = InputSplitting(batch=arguments.batch), []
    for instance in instances("acasxu"):
        if arguments.words and not any(w in f"{instance.onnx.name} {instance.vnnlib.stem}." for w in arguments.words):
            continue
        r = run(instance, search, arguments.limit)
        note = "" if r.verdict == r.truth else f" (published: {r.truth})"
        print(f"{r.network:<5}{r.prop:<9}{r.verdict:<8}{r.boxes:>9} boxes{r.seconds:>9.3f} s"
              f"{r.boxes / max(r.seconds, 1e-9):>9.0f} boxes/s{note}", flush=True)  # fmt: skip
        results.append(r)
    for prop in dict.fromkeys(r.prop for r in results):
        print(summary(prop, [r for r in results if r.prop == prop]))
    print(summary("all", results))
    return int(any(r.verdict not in ("unknown", r.truth) for r in results))


if __name__ == "__main__":
    sys.exit(main())
