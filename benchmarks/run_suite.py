"""Run the command line over every instance of one or more suites; compare with the published verdicts.

    python benchmarks/run_suite.py --suite acasxu mnist_fc --timeout 60 --out results.csv
    python benchmarks/run_suite.py --suite all --via vnncomp --plot cactus.svg --expect

Each instance is its own process; its wall time is counted from start to end, imports and reading included. The CSV is
appended to as results come, and a run that finds its file goes on where it stopped: an instance is run again only if
it went through another command line, or was not decided within a shorter limit. The counterexample of every `sat` is
judged by counterexample.py, which shares no code with the package. The exit status is 1 if a verdict contradicts a
published one, or a counterexample is none.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from cactus import Curve, plot
from counterexample import LOOSE, STRICT, judge
from data import Instance, instances, suites
from expected import EXPECTATIONS, limit_s
from machine import describe

Row = dict[str, str]

FIELDS = ("key", "suite", "via", "limit_s", "truth", "word", "status", "seconds", "witness", "error")
GRACE_S = 30.0  # beyond its own limit, before an instance is killed and counted as an error
DECIDED = ("sat", "unsat")
MOST_NETWORKS = 8  # of a suite, for a line on each


@dataclass(frozen=True)
class Runner:
    """How an instance is run.

    Attributes:
        via: "verify" for the command of users, "vnncomp" for the competition's.
        threads: Of BLAS and OpenMP in each process; 0 leaves that to the environment.
    """

    via: str = "verify"
    threads: int = 1

    def run(self, instance: Instance, timeout_s: float) -> Row:
        """One process; what it wrote to its result file, and its wall seconds."""
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.txt"
            began = time.monotonic()
            status, error = _watched(
                self._command(instance, timeout_s, result), timeout_s + GRACE_S, self._environment()
            )
            seconds = time.monotonic() - began
            text = result.read_text() if result.exists() else "error"
        word, _, counterexample = text.partition("\n")
        row = {"key": instance.key, "suite": instance.suite, "via": self.via, "limit_s": f"{timeout_s:g}"}
        row |= {"truth": instance.truth, "word": word, "status": status, "seconds": f"{seconds:.3f}"}
        row["witness"] = judge(instance.onnx, instance.vnnlib, counterexample) if word == "sat" else ""
        row["error"] = "" if word in DECIDED else error
        return row

    def _command(self, instance: Instance, timeout_s: float, result: Path) -> list[str]:
        files = [str(instance.onnx), str(instance.vnnlib)]
        if self.via == "vnncomp":
            start = [sys.executable, "-m", "milpverify.vnncomp", "run", "v1"]
            return [*start, instance.suite, *files, str(result), f"{timeout_s:g}"]
        start = [sys.executable, "-m", "milpverify", "verify"]
        return [*start, *files, "--timeout", f"{timeout_s:g}", "--result", str(result)]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        if len(kept) < len(os.environ):  # an installed package has its bytecode: no user's run compiles it again
            kept["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir()) / f"milpverify-bytecode-{os.getuid()}")
        limits = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") if self.threads}
        return {**kept, **limits}


def _watched(command: Sequence[str], most_s: float, environment: dict[str, str]) -> tuple[str, str]:
    """Exit status and last line on standard error of a process that is ended after `most_s` seconds."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, env=environment, start_new_session=True
        )
        late = threading.Event()
        timer = threading.Timer(most_s, lambda: (late.set(), process.terminate()))  # lets it end its own processes
        killer = threading.Timer(most_s + 5, process.kill)
        try:
            timer.start()
            killer.start()
            status = str(process.wait())  # without a limit of its own, which looks only every 0.05 s
            status = f"killed: no end within {most_s:g} s" if late.is_set() else status
        finally:
            timer.cancel()
            killer.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        errors.seek(0)
        return status, (errors.read().strip().splitlines() or [""])[-1]


def read_done(out: Path) -> dict[str, Row]:
    """Results of earlier runs, the last one of each instance."""
    if not out.exists():
        return {}
    with open(out, newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != FIELDS:
            print(f"{out} has other columns than this program writes. Name another file with --out.", file=sys.stderr)
            raise SystemExit(2)
        return {row["key"]: row for row in reader}


def is_done(row: Row | None, via: str, timeout_s: float) -> bool:
    """Whether an earlier result stands."""
    if row is None or row["via"] != via:
        return False
    return row["word"] in DECIDED or float(row["limit_s"]) >= timeout_s


def wrong(row: Row) -> bool:
    """Whether a verdict contradicts a published one, or rests on a counterexample that is none.

    `verify` speaks of the network over the reals, so that a violation which float32 does not quite show is one.
    """
    good = (STRICT,) if row["via"] == "vnncomp" else (STRICT, LOOSE)
    return {row["word"], row["truth"]} == set(DECIDED) or (row["word"] == "sat" and row["witness"] not in good)


def summary(rows: Iterable[Row], published: dict[str, float | None]) -> list[str]:
    """One line per suite, and per network of those with few of them."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        network = row["key"].split("|")[1].removeprefix("onnx/").removesuffix(".gz").removesuffix(".onnx")
        groups.setdefault((row["suite"], ""), []).append(row)
        groups.setdefault((row["suite"], network), []).append(row)
    networks = Counter(suite for suite, network in groups if network)
    lines = []
    for (suite, network), group in sorted(groups.items()):
        if network and not 1 < networks[suite] <= MOST_NETWORKS:
            continue
        name = f"  {network}" if network else suite
        words = Counter(row["word"] for row in group)
        decided = sorted(float(r["seconds"]) for r in group if r["word"] in DECIDED)
        theirs = sorted(t for r in group if (t := published.get(r["key"])) is not None)
        loose = sum(row["witness"] == LOOSE for row in group)
        line = (
            f"{name}: {len(decided)} of {len(group)} decided ({words['sat']} sat, {words['unsat']} unsat, "
            f"{words['timeout']} timeout, {words['unknown']} unknown, {words['error']} error), "
            f"{sum(map(wrong, group))} wrong; total {sum(float(r['seconds']) for r in group):.1f} s"
        )
        if decided:
            line += f", decided in {median(decided):.2f} s (median), {decided[-1]:.2f} s (slowest)"
        if loose:
            line += f"; {loose} counterexamples not strict in float32"
        if theirs:
            line += f"; alpha-beta-CROWN, published: {len(theirs)} in {median(theirs):.2f} s (median)"
        lines.append(line)
    return lines


def curves(rows: Sequence[Row], published: dict[str, float | None]) -> dict[str, Curve]:
    """What the cactus plot shows."""
    found = {}
    for suite in sorted({row["suite"] for row in rows}):
        group = [row for row in rows if row["suite"] == suite]
        ours = [float(row["seconds"]) for row in group if row["word"] in DECIDED]
        found[suite] = Curve(ours, [t for row in group if (t := published.get(row["key"])) is not None])
    return found


def limits(words: Sequence[str]) -> tuple[float | None, dict[str, float]]:
    """The limit for all suites, and those for single ones, from arguments like 60 oval21=300."""
    common, single = None, {}
    for word in words:
        suite, _, seconds = word.rpartition("=")
        if suite:
            single[suite] = float(seconds)
        else:
            common = float(seconds)
    return common, single


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", required=True, help="names, or all")
    parser.add_argument(
        "--timeout", nargs="+", default=[], metavar="S",
        help="seconds per instance, for all suites or as SUITE=S; the default is each suite's own in expected.py",
    )  # fmt: skip
    parser.add_argument("--via", choices=("verify", "vnncomp"), default="verify", help="the command line to run")
    parser.add_argument("--jobs", type=int, default=1, help="instances at once (default 1, as times are the point)")
    parser.add_argument("--threads", type=int, default=1, help="of BLAS in each process; 0: as the environment says")
    parser.add_argument("--out", type=Path, default=Path("suite_results.csv"))
    parser.add_argument("--only", default="", help="run only instances whose key contains this regular expression")
    parser.add_argument("--first", type=int, help="run only so many instances of each suite")
    parser.add_argument("--expect", action="store_true", help="print what each suite is expected to take, and what not")
    parser.add_argument("--plot", type=Path, help="write a cactus plot (.svg, .png, .pdf)")
    return parser.parse_args()


def main() -> int:
    """Parse, run, summarise."""
    arguments = parse()
    names = suites() if arguments.suite == ["all"] else arguments.suite
    common, single = limits(arguments.timeout)
    chosen: list[tuple[Instance, float]] = []
    for suite in names:
        found = [i for i in instances(suite) if re.search(arguments.only, i.key)][: arguments.first]
        chosen += [(i, single.get(suite, common or limit_s(suite))) for i in found]
    runner, done = Runner(arguments.via, arguments.threads), read_done(arguments.out)
    todo = [(i, limit) for i, limit in chosen if not is_done(done.get(i.key), arguments.via, limit)]
    about = f"{arguments.jobs} at once, {arguments.threads or 'all'} BLAS threads each, via {arguments.via}"
    print(f"{describe()}\n{len(todo)} of {len(chosen)} instances to run, {about}", flush=True)
    fresh = not arguments.out.exists()
    with open(arguments.out, "a", newline="") as file, ThreadPoolExecutor(arguments.jobs) as pool:
        writer = csv.DictWriter(file, FIELDS)
        if fresh:
            writer.writeheader()
        futures = [pool.submit(runner.run, *job) for job in todo]
        for count, future in enumerate(as_completed(futures), start=1):
            row = future.result()
            writer.writerow(row)
            file.flush()
            done[row["key"]] = row
            mark = "  WRONG" if wrong(row) else ""
            told = (row["key"], row["word"], row["witness"], f"{row['seconds']} s", row["error"])
            print(f"{count}/{len(todo)}", *filter(None, told), mark, flush=True)
    rows = [done[i.key] for i, _ in chosen]
    published = {i.key: i.published_s for i, _ in chosen}
    print("\n".join(summary(rows, published)))
    if arguments.expect:
        print("\n".join(filter(None, (e.outcome(rows) for e in EXPECTATIONS))))
    if arguments.plot:
        plot(curves(rows, published), arguments.plot)
    bad = [row["key"] for row in rows if wrong(row)]
    if bad:
        print("WRONG:", *bad, sep="\n  ")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
