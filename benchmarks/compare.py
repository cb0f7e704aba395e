"""Exact worst margins against what can be installed from PyPI, on the same instances in one run.

    python benchmarks/compare.py --out compare.csv
    python benchmarks/compare.py --methods milpverify pulp-highs --nets mlp24 --images 0 1 2 --limit 30
    python benchmarks/compare.py --marabou-python /venv/with/maraboupy/bin/python

mlp24 and mlp50, MNIST test images 0..9, eps 0.05, the worst margin over all nine other classes; what each method is,
and what of it is timed, stands in peers.py. Every instance and method is a process of its own, killed when it passes
the limit; its seconds are those from the network in memory to the answer, and those of the whole process (start,
imports, reading, one answer) stand beside them. A method that does not close its bracket to 1e-4 in time counts at the
limit and is marked `>` (in CPU seconds at what it had used by then). The CSV is appended to, and a run that finds its
file goes on where it stopped. The exit status is 1 if two methods disagree by more than 1e-4.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

from machine import describe
from peers import METHODS

Row = dict[str, str]

FIELDS = ("net", "image", "eps", "method", "limit_s", "lower", "upper", "seconds", "cpu_s", "process_s",
          "closed", "error")  # fmt: skip
DEFAULT = ("milpverify", "highs-condensed", "highs-kept", "pulp-highs", "pulp-cbc", "marabou")
GRACE_S = 45.0  # beyond the limit: imports, reading, and answers given again
AGREE = 1e-4  # in units of y


@dataclass(frozen=True)
class Job:
    """One instance by one method."""

    net: str
    image: int
    eps: float
    method: str
    limit_s: float

    def is_row(self, row: Row) -> bool:
        """Whether a row of the CSV answers it."""
        same = (row["net"], int(row["image"]), float(row["eps"]), row["method"])
        if row["closed"] == "True":
            enough = float(row["seconds"]) <= self.limit_s
        else:
            enough = float(row["limit_s"]) == self.limit_s
        return same == (self.net, self.image, self.eps, self.method) and enough

    def run(self, python: str) -> Row:
        """Its row, from a process of its own."""
        program = str(Path(__file__).with_name("peers.py"))
        words = [self.method, self.net, str(self.image), str(self.eps), str(self.limit_s)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        began = time.perf_counter()
        process = subprocess.Popen(
            [python, program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip
        error = ""
        try:
            out, complaints = process.communicate(timeout=self.limit_s + GRACE_S)
            if process.returncode:
                error = (complaints.strip().splitlines() or [f"status {process.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            out, error = "", "killed at the limit"
        finally:
            with suppress(ProcessLookupError):  # solvers that it started, too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process_s = time.perf_counter() - began
        row = {"net": self.net, "image": str(self.image), "eps": str(self.eps), "method": self.method}
        row |= {"limit_s": f"{self.limit_s:g}", "lower": "", "upper": "", "seconds": "", "cpu_s": "", "closed": "False"}
        if not error:
            answer = json.loads(out.strip().splitlines()[-1])
            process_s -= answer["after_s"]
            told = {name: answer[name] for name in ("lower", "upper", "seconds", "cpu_s")}
            row |= {name: "" if value is None else repr(value) for name, value in told.items()}
            row["closed"] = str(answer["closed"] and answer["seconds"] <= self.limit_s)
        return row | {"process_s": repr(process_s), "error": error}


def counted(row: Row, clock: str = "seconds") -> float:
    """Seconds that count: for what was not closed in time the limit, or the CPU seconds it had used (then too few)."""
    if clock == "cpu_s":
        return float(row["cpu_s"] or row["limit_s"])
    return float(row[clock]) if row["closed"] == "True" else float(row["limit_s"])


def disagreements(rows: Sequence[Row]) -> list[str]:
    """Pairs of methods whose brackets of one instance lie apart."""
    found = []
    for i, a in enumerate(rows):
        for b in rows[i + 1 :]:
            if (a["net"], a["image"], a["eps"]) != (b["net"], b["image"], b["eps"]):
                continue
            for low, high in ((a, b), (b, a)):
                if low["lower"] and high["upper"] and float(low["lower"]) > float(high["upper"]) + AGREE:
                    found.append(
                        f"{a['net']} image {a['image']}: {low['method']} says at least {low['lower']}, "
                        f"{high['method']} at most {high['upper']}"
                    )
    return found


def table(rows: Sequence[Row], methods: Sequence[str]) -> list[str]:
    """Seconds by instance and method."""
    by_instance: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        by_instance.setdefault((row["net"], row["image"]), {})[row["method"]] = row
    lines = [f"{'net':<8}{'image':>5} {'margin':>12}" + "".join(f"{m:>22}" for m in methods)]
    for (net, image), found in by_instance.items():
        cells, margins = [], [r["upper"] for r in found.values() if r["closed"] == "True"]
        for method in methods:
            row = found.get(method)
            late = "" if row is None or row["closed"] == "True" else ">"
            cells.append("-" if row is None else f"{late}{counted(row):.3f}")
        margin = f"{float(margins[0]):.6f}" if margins else "?"
        lines.append(f"{net:<8}{image:>5} {margin:>12}" + "".join(f"{cell:>22}" for cell in cells))
    return lines


def ratios(rows: Sequence[Row], methods: Sequence[str]) -> list[str]:
    """How many times as fast the first method is as each other one: geometric means, by network and over all."""
    found = {(row["net"], row["image"], row["method"]): row for row in rows}
    instances = list(dict.fromkeys((row["net"], row["image"]) for row in rows))
    nets, first, lines = list(dict.fromkeys(net for net, _ in instances)), methods[0], []
    for method in methods[1:]:
        for some in [[net] for net in nets] + ([nets] if len(nets) > 1 else []):
            both = [((*i, method), (*i, first)) for i in instances if i[0] in some]
            pairs = [(found[a], found[b]) for a, b in both if a in found and b in found]
            if not pairs:
                continue
            wall = [counted(theirs) / counted(ours) for theirs, ours in pairs]
            cpu, whole = ([counted(a, clock) / counted(b, clock) for a, b in pairs] for clock in ("cpu_s", "process_s"))
            late = sum(theirs["closed"] != "True" for theirs, _ in pairs)
            lines.append(
                f"{first} against {method}, {' and '.join(some)}: {geometric_mean(wall):.1f} times as fast (geometric "
                f"mean of {len(pairs)}, from {min(wall):.2f} to {max(wall):.0f}; {late} counted at the limit); "
                f"in CPU seconds {geometric_mean(cpu):.1f}, whole processes {geometric_mean(whole):.1f}"
            )
    return lines


def read_rows(out: Path) -> list[Row]:
    """Rows of an earlier run; ends the program where they have other columns."""
    if not out.exists():
        return []
    with open(out, newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != FIELDS:
            raise SystemExit(f"{out} has other columns than {', '.join(FIELDS)}. Give another --out.")
        return list(reader)


def has_marabou(python: str) -> bool:
    """Whether that Python can import maraboupy."""
    try:
        return not subprocess.run([python, "-c", "import maraboupy"], capture_output=True, check=False).returncode
    except OSError:
        return False


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(DEFAULT))
    parser.add_argument("--nets", nargs="+", choices=("mlp24", "mlp50"), default=["mlp24", "mlp50"])
    parser.add_argument("--images", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--eps", type=float, default=0.05)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for each instance (default 300)")
    parser.add_argument("--marabou-python", default=sys.executable, help="a Python that has maraboupy and onnx 1.15")
    parser.add_argument("--out", type=Path, default=Path("compare_results.csv"))
    return parser.parse_args()


def main() -> int:
    """Run what is missing, print the table."""
    arguments = parse()
    methods = list(dict.fromkeys(arguments.methods))
    print(describe(), flush=True)
    if "marabou" in methods and not has_marabou(arguments.marabou_python):
        print("marabou: left out, as maraboupy is not installed; --marabou-python names a Python that has it")
        methods.remove("marabou")
    jobs = [
        Job(net, image, arguments.eps, method, arguments.limit)
        for net in arguments.nets
        for image in arguments.images
        for method in methods
    ]
    rows, chosen = read_rows(arguments.out), []
    fresh = not arguments.out.exists()
    with open(arguments.out, "a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if fresh:
            writer.writeheader()
        for count, job in enumerate(jobs, start=1):
            row = next((row for row in reversed(rows) if job.is_row(row)), None)
            if row is None:
                row = job.run(arguments.marabou_python if job.method == "marabou" else sys.executable)
                writer.writerow(row)
                file.flush()
                state = "closed" if row["closed"] == "True" else "open"
                print(f"{count}/{len(jobs)}", *(row[name] for name in FIELDS[:4]), state, row["seconds"], row["error"],
                      flush=True)  # fmt: skip
            chosen.append(row)
    apart = disagreements(chosen)
    print("\n".join([*table(chosen, methods), *ratios(chosen, methods), *(f"DISAGREE: {line}" for line in apart)]))
    return int(bool(apart))


if __name__ == "__main__":
    sys.exit(main())
