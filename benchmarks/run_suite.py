"""Run `milpverify verify` over every instance of one or more suites; compare with the published verdicts.

    python benchmarks/run_suite.py --suite acasxu mnist_fc --timeout 60 --jobs 2 --out results.csv

Each instance is its own process. The CSV is appended to as results come, and a run that finds its file goes on where it
stopped. The exit status is 1 if any verdict contradicts a published one.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from data import Instance, instances

FIELDS = ("key", "suite", "truth", "word", "status", "seconds", "error")
GRACE_S = 30.0  # beyond its own limit, before an instance is killed and counted as an error


def run_one(instance: Instance, timeout_s: float) -> dict[str, str]:
    """One process; the word it wrote to its result file, and its wall seconds."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.txt"
        command = [
            sys.executable, "-m", "milpverify", "verify", str(instance.onnx), str(instance.vnnlib),
            "--timeout", str(timeout_s), "--result", str(result),
        ]  # fmt: skip
        began = time.monotonic()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_s + GRACE_S, env=environment, check=False
            )
            status, error = str(done.returncode), done.stderr.strip().splitlines()[-1:] or [""]
        except subprocess.TimeoutExpired:
            status, error = "killed", [f"no end within {timeout_s + GRACE_S:g} s"]
        seconds = time.monotonic() - began
        word = result.read_text().split()[0] if result.exists() else "error"
    return {
        "key": instance.key, "suite": instance.suite, "truth": instance.truth, "word": word, "status": status,
        "seconds": f"{seconds:.2f}", "error": error[0] if word in ("error", "unknown") else "",
    }  # fmt: skip


def read_done(out: Path) -> dict[str, dict[str, str]]:
    """Results of an earlier run, by key."""
    if not out.exists():
        return {}
    with open(out, newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def wrong(row: dict[str, str]) -> bool:
    """Whether a verdict contradicts a published one."""
    return {row["word"], row["truth"]} == {"sat", "unsat"}


def summary(rows: Iterable[dict[str, str]]) -> list[str]:
    """One line per suite and network."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(row["suite"], []).append(row)
        groups.setdefault(row["suite"] + " " + Path(row["key"].split("|")[1]).stem, []).append(row)
    lines = []
    for name, group in sorted(groups.items()):
        if name.startswith("acasxu "):
            continue  # one line for its 23 networks is enough
        words = Counter(row["word"] for row in group)
        decided = sorted(float(r["seconds"]) for r in group if r["word"] in ("sat", "unsat"))
        median = decided[len(decided) // 2] if decided else float("nan")
        lines.append(
            f"{name}: {len(decided)} of {len(group)} decided ({words['sat']} sat, {words['unsat']} unsat, "
            f"{words['timeout']} timeout, {words['unknown']} unknown, {words['error']} error), "
            f"{sum(map(wrong, group))} wrong; decided in {median:.2f} s (median), "
            f"{decided[-1] if decided else float('nan'):.2f} s (slowest)"
        )
    return lines


def main() -> int:
    """Parse, run, summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", required=True)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds per instance (default 60)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="instances at once (default: all cores)")
    parser.add_argument("--out", type=Path, default=Path("suite_results.csv"))
    parser.add_argument("--only", default="", help="run only instances whose key contains this")
    arguments = parser.parse_args()
    done = read_done(arguments.out)
    todo = [i for suite in arguments.suite for i in instances(suite) if arguments.only in i.key and i.key not in done]
    fresh = not arguments.out.exists()
    with open(arguments.out, "a", newline="") as file, ThreadPoolExecutor(arguments.jobs) as pool:
        writer = csv.DictWriter(file, FIELDS)
        if fresh:
            writer.writeheader()
        futures = [pool.submit(run_one, instance, arguments.timeout) for instance in todo]
        for count, future in enumerate(as_completed(futures), start=1):
            row = future.result()
            writer.writerow(row)
            file.flush()
            done[row["key"]] = row
            mark = "  WRONG" if wrong(row) else ""
            print(f"{count}/{len(todo)} {row['key']} {row['word']} {row['seconds']} s {row['error']}{mark}", flush=True)
    chosen = [row for row in done.values() if row["suite"] in arguments.suite]
    print("\n".join(summary(chosen)))
    return int(any(map(wrong, chosen)))


if __name__ == "__main__":
    sys.exit(main())
