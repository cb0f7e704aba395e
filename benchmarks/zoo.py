"""A zoo of questions that floats, tolerances and loose big-M get wrong, with the exact truth beside every answer.

    python benchmarks/zoo.py

Columns: the truth, from exact rationals ("safe", or "UNSAFE" where some input has a slack of 0 or less); HiGHS on a
plain big-M program with interval bounds, and with M = 1e5, 1e6, 1e7 for every neuron (too small for some, too loose
for others); interval arithmetic in float64; float64 runs at the box's corners, its centre and the exact minimiser; then
`verify`, with the grade of its evidence, the same with `MILP()` as its search, and whether a proof was found that both
checkers accept. An answer that contradicts the truth has an exclamation mark, "?" is none. The exit status is 1 if
`verify` or a proof is wrong anywhere.

Source:
    Zombori et al. 2021 (constants that absorb inputs); Jia & Rinard 2021 (float-only counterexamples); HiGHS's options
    small_matrix_value and mip_feasibility_tolerance (defaults 1e-9 and 1e-6).
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy loads its BLAS
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import highspy
import numpy as np

import milpverify as mv
from benchmarks.small_questions import PlainCase, PlainLayer, Question
from milpverify.proof import checker
from milpverify.tasks.certify import certify

SAFE, UNSAFE, NONE = "safe", "UNSAFE", "?"
WORDS = {"unsat": SAFE, "sat": UNSAFE, "unknown": NONE, "timeout": NONE}
LOOSE = (1e5, 1e6, 1e7)
MARGINS = (1e-6, 1e-8, 1e-10, 1e-12)
COLUMNS = ("HiGHS", *(f"M={M:.0e}" for M in LOOSE), "intervals", "float runs", "verify", "MILP only", "proof")
OURS = COLUMNS[-3:]
TIME_LIMIT_S = 20.0


@dataclass(frozen=True, eq=False)
class Animal:
    """A question and why it is here."""

    name: str
    question: Question

    @cached_property
    def truth(self) -> str:
        """In exact rationals."""
        return SAFE if self.question.least[0] > 0 else UNSAFE

    def answers(self) -> dict[str, str]:
        """What every column says; ours with their evidence after a blank."""
        q = self.question
        bounds = interval_bounds(q)
        found = {"HiGHS": big_m_answer(q, bounds[:-1])}
        for M in LOOSE:
            loose = [(np.full(len(l), -M), np.full(len(l), M)) for l, _ in bounds[:-1]]
            found[f"M={M:.0e}"] = big_m_answer(q, loose)
        found["intervals"] = _interval_answer(q, bounds[-1])
        found["float runs"] = _float_answer(q)
        for name, method in (("verify", None), ("MILP only", mv.MILP())):
            verdict = mv.verify(q.net, q.prop, time_limit_s=TIME_LIMIT_S, method=method)
            grade = getattr(verdict, "grade", None)
            found[name] = WORDS[verdict.word] + (f" {grade.value}" if grade is not None else "")
        found["proof"] = proof_answer(q)
        return found

    def is_wrong(self, answer: str) -> bool:
        """Whether it contradicts the truth."""
        return answer.split()[0] not in (self.truth, NONE)


def animals(nets: int = 4) -> Iterator[Animal]:
    """All of them, with so many random networks."""
    yield from _absorbing()
    yield from _vanishing()
    yield from _narrow(nets)
    yield from _ties()
    yield from _decimals()


def question(
    layers: Sequence[tuple[Sequence[Sequence[float]], Sequence[float]]],
    box: Sequence[tuple[Fraction | float, Fraction | float]],
    row: Sequence[float],
    right: Fraction | float,
) -> Question:
    """A chain of dense layers over a box, and the unsafe set row.y <= right."""
    plain = tuple(
        PlainLayer({k: np.array(W, dtype=float)}, np.array(b, dtype=float)) for k, (W, b) in enumerate(layers)
    )
    lower, upper = ([Fraction(side[i]) for side in box] for i in (0, 1))
    case = PlainCase(lower, upper, np.array([row], dtype=float), [Fraction(right)])
    return Question(len(box), plain, (case,))


def _absorbing() -> Iterator[Animal]:
    """q = relu(relu(v + K) - K) is v, but 0 where floats absorb v in K."""
    for power in (25, 30, 40, 53, 54, 56, 60):
        K = 2.0**power
        # v = x in [0, 1] and the claim q < 1/2: false, but true of q = 0.
        yield Animal(
            f"absorbed input, K=2^{power}",
            question([([[1.0]], [K]), ([[1.0]], [-K]), ([[1.0]], [0.0])], [(0, 1)], [-1.0], -0.5),
        )
        # v = 0.4 x + 0.6 w with w fixed to 1, and the claim q > 1/4: true, but false of q = 0.
        yield Animal(
            f"absorbed bias, K=2^{power}",
            question([([[0.4, 0.6]], [K]), ([[1.0]], [-K]), ([[1.0]], [0.0])], [(0, 1), (1, 1)], [1.0], 0.25),
        )


def _vanishing() -> Iterator[Animal]:
    """1e9 x times a weight that a solver may drop from its matrix."""
    for w in (2e-9, 1e-9, 8e-10, 1e-10, 1e-12):
        size = 1.0 / w
        for name, sign, right in (("needed for safety", 1.0, 0.5), ("that breaks it", -1.0, -0.5)):
            # Safety: 1.5 w size > 0.5 on [1, 2]; the reverse: -w size x <= -0.5 is reached.
            yield Animal(
                f"weight {w:.0e} {name}",
                question([([[size]], [0.0]), ([[w]], [0.0]), ([[sign]], [0.0])], [(1, 2)], [1.0], right),
            )


def _narrow(nets: int) -> Iterator[Animal]:
    """Random networks whose least slack is a small number, or 0."""
    for seed in range(nets):
        rng = np.random.default_rng(seed)
        sizes, layers = (3, 6, 5, 1), []
        for n, m in itertools.pairwise(sizes):
            W, b = 1.5 * rng.normal(size=(m, n)) / np.sqrt(n), 0.1 * rng.normal(size=m)
            layers.append((W.astype(np.float32).tolist(), b.astype(np.float32).tolist()))
        middle = rng.uniform(-1, 1, 3)
        box = [(Fraction(round(100 * v) - 50, 100), Fraction(round(100 * v) + 50, 100)) for v in middle.tolist()]
        least = question(layers, box, [1.0], 0).least[0]
        for margin in (*MARGINS, 0.0, *(-m for m in MARGINS)):
            yield Animal(
                f"random net {seed}, margin {margin:+.0e}", question(layers, box, [1.0], least - Fraction(margin))
            )


def _ties() -> Iterator[Animal]:
    """A least slack of exactly 0, at points that are floats and at points that are not; and one unit away."""
    hat = [([[1.0], [1.0]], [0.0, -1.0]), ([[1.0, -1.0]], [0.0])]  # relu(x) - relu(x - 1)
    third = [([[3.0], [-3.0]], [-1.0, 1.0]), ([[1.0, 1.0]], [0.0])]  # |3 x - 1|
    for name, layers in (("plateau", hat), ("at 1/3", third)):
        row = [-1.0] if layers is hat else [1.0]
        level = -1.0 if layers is hat else 0.0
        for what, right in (
            ("tie", Fraction(level)),
            ("above by 2^-60", Fraction(level) - Fraction(1, 2**60)),
            ("below by 2^-60", Fraction(level) + Fraction(1, 2**60)),
        ):
            yield Animal(f"{name}, {what}", question(layers, [(0, 2)], row, right))


def _decimals() -> Iterator[Animal]:
    """Inputs and thresholds that no float equals: float64 has 0.1 above 1/10, and 0.3 below 3/10."""
    same = [([[1.0]], [0.0]), ([[1.0]], [0.0])]
    tenth = Fraction(1, 10)
    yield Animal("x = 1/10, y <= 1/10", question(same, [(tenth, tenth)], [1.0], tenth))
    yield Animal("x = 1/10, y >= 0.1", question(same, [(tenth, tenth)], [-1.0], -0.1))
    yield Animal("x = 3/10, y <= 0.3", question(same, [(Fraction(3, 10), Fraction(3, 10))], [1.0], 0.3))
    yield Animal("x = 1/10, y <= 0.1", question(same, [(tenth, tenth)], [1.0], 0.1))


# What others would say


def interval_bounds(q: Question) -> list[tuple[np.ndarray, np.ndarray]]:
    """Bounds of every zhat and of y by interval arithmetic in plain float64, rounded to nearest."""
    low, high = (np.array([float(v) for v in side]) for side in (q.cases[0].lower, q.cases[0].upper))
    found = []
    for k, layer in enumerate(q.layers):
        W = layer.blocks[k]
        plus, minus = np.maximum(W, 0.0), np.minimum(W, 0.0)
        low, high = plus @ low + minus @ high + layer.bias, plus @ high + minus @ low + layer.bias
        found.append((low, high))
        low, high = np.maximum(low, 0.0), np.maximum(high, 0.0)
    return found


def _interval_answer(q: Question, y: tuple[np.ndarray, np.ndarray]) -> str:
    C, d = q.cases[0].C, np.array([float(v) for v in q.cases[0].d])
    least = np.maximum(C, 0.0) @ y[0] + np.minimum(C, 0.0) @ y[1] - d
    return SAFE if least.max() > 0 else NONE


def _float_answer(q: Question) -> str:
    """Whether a float64 run at some likely point is unsafe."""
    case = q.cases[0]
    ends = [sorted({float(l), float(u)}) for l, u in zip(case.lower, case.upper, strict=True)]
    middle = [float((l + u) / 2) for l, u in zip(case.lower, case.upper, strict=True)]
    points = [*itertools.product(*ends), middle, [float(v) for v in q.least[1]]]
    y = q.net.forward(np.array(points))
    slack = (y @ case.C.T - np.array([float(v) for v in case.d])).max(axis=1)
    return UNSAFE if (slack <= 0).any() else NONE


def big_m_answer(q: Question, bounds: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    """HiGHS with its default options on the feasibility of C y <= d, relu written by big-M of these bounds."""
    model = _BigM(q.n_inputs)
    case = q.cases[0]
    z = [model.column(float(l), float(u)) for l, u in zip(case.lower, case.upper, strict=True)]
    for layer, k in zip(q.layers[:-1], range(len(q.layers)), strict=False):
        rows = zip(layer.blocks[k].tolist(), layer.bias.tolist(), *(side.tolist() for side in bounds[k]), strict=True)
        z = [model.relu(row, z, b, low, high) for row, b, low, high in rows]
    last = q.layers[-1]
    W, b = case.C @ last.blocks[len(q.layers) - 1], case.C @ last.bias
    for row, shift, right in zip(W.tolist(), b.tolist(), case.d, strict=True):
        model.row(-highspy.kHighsInf, float(right) - shift, dict(zip(z, row, strict=True)))
    return model.answer()


class _BigM:
    """A feasibility program, built row by row."""

    def __init__(self, n: int) -> None:
        self.highs = highspy.Highs()
        self.highs.setOptionValue("output_flag", False)
        self.highs.setOptionValue("time_limit", TIME_LIMIT_S)
        self.n = 0

    def column(self, low: float, high: float, binary: bool = False) -> int:
        """A variable; its number."""
        self.highs.addVar(low, high)
        if binary:
            self.highs.changeColIntegrality(self.n, highspy.HighsVarType.kInteger)
        self.n += 1
        return self.n - 1

    def row(self, low: float, high: float, entries: dict[int, float]) -> None:
        """low <= entries <= high."""
        entries = {k: v for k, v in entries.items() if v}
        index, values = np.array(list(entries), dtype=np.int32), np.array(list(entries.values()))
        self.highs.addRow(low, high, len(index), index, values)

    def relu(self, row: Sequence[float], z: Sequence[int], b: float, low: float, high: float) -> int:
        """relu(row.z + b), for a zhat between low and high; its number."""
        infinity, entries = highspy.kHighsInf, {k: -w for k, w in zip(z, row, strict=True)}
        if high <= 0:
            return self.column(0.0, 0.0)
        out = self.column(0.0, high)
        if low >= 0:
            self.row(b, b, {**entries, out: 1.0})
            return out
        on = self.column(0.0, 1.0, binary=True)
        self.row(b, infinity, {**entries, out: 1.0})  # z >= zhat
        self.row(-infinity, b - low, {**entries, out: 1.0, on: -low})  # z <= zhat - low (1 - on)
        self.row(-infinity, 0.0, {out: 1.0, on: -high})  # z <= high on
        return out

    def answer(self) -> str:
        """What the status says."""
        self.highs.run()
        status = self.highs.getModelStatus()
        said = {highspy.HighsModelStatus.kInfeasible: SAFE, highspy.HighsModelStatus.kOptimal: UNSAFE}
        return said.get(status, NONE)


# What we say


def proof_answer(q: Question) -> str:
    """Whether a proof is found, and the stand-alone checker accepts it too."""
    found = certify(q.net, q.prop, time_limit_s=TIME_LIMIT_S).proof
    if found is None:
        return NONE
    _, _, cases = checker.read_property(memoryview(q.document()))
    _, network = checker.read_onnx(memoryview(q.onnx()), q.n_inputs)
    try:
        checker.check(checker.Proof(found.certificate.to_bytes(), 1 << 26), network, cases)
    except checker.Stop as stop:
        return f"{NONE} refused by the stand-alone checker: {stop.args[1]}"
    return f"{SAFE} {found.certificate.bits} bits"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="only names that contain this")
    options = parser.parse_args(arguments)
    wrong, none, count, bad = dict.fromkeys(COLUMNS, 0), dict.fromkeys(COLUMNS, 0), 0, 0
    print(f"{'question':34}{'least slack':>13} {'truth':7}" + "".join(f"{c:{_width(c)}}" for c in COLUMNS))
    for animal in animals():
        if options.only not in animal.name:
            continue
        count += 1
        answers = animal.answers()
        line = f"{animal.name:34}{float(animal.question.least[0]):13.2e} {animal.truth:7}"
        for column in COLUMNS:
            mark = "!" if animal.is_wrong(answers[column]) else ""
            wrong[column] += bool(mark)
            # What is unsafe has no proof.
            none[column] += answers[column].startswith(NONE) and (column != "proof" or animal.truth == SAFE)
            line += f"{answers[column] + mark:{_width(column)}}"
        bad += any(animal.is_wrong(answers[column]) for column in OURS)
        print(line.rstrip(), flush=True)
    for what, counts in (("wrong", wrong), ("no answer", none)):
        print(f"{f'{what} of {count}':55}" + "".join(f"{counts[c]:<{_width(c)}}" for c in COLUMNS))
    return 1 if bad else 0


def _width(column: str) -> int:
    return {"verify": 22, "MILP only": 22, "proof": 14}.get(column, 11)


if __name__ == "__main__":
    sys.exit(main())
