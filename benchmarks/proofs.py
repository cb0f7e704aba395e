"""Proofs of what holds: found, checked by the exact checker, and by the stand-alone one on a sample.

    python benchmarks/proofs.py --suite acasxu mnist_fc --limit 60 --out proofs.csv
    python benchmarks/proofs.py --suite all --standalone 100

Every instance published as `unsat` is verified and certified in a process of its own (seconds are in process, reading
before); its proof is written, read back and checked. `--standalone N` runs `checker.py` as a command of its own
(python -I, the file alone) on about N instances spread over the suites. The CSV is appended to, and a run that finds
its file goes on where it stopped. The exit status is 1 if a proof that was found is rejected.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from data import Instance, instances, suites
from machine import describe

import milpverify as mv
import milpverify.proof.checker as standalone

Row = dict[str, str]
FIELDS = ("key", "suite", "word", "grade", "verify_s", "certify_s", "check_s", "bits", "boxes", "leaves", "bytes",
          "accepted", "standalone", "standalone_s", "why")  # fmt: skip
GRACE_S = 30.0
STANDALONE_S = 600.0


def one(instance: Instance, limit_s: float, proof: Path) -> Row:
    """Verify, certify, write, read, check."""
    net = mv.from_onnx(instance.onnx)
    prop = mv.read_vnnlib(instance.vnnlib, net)
    began = time.monotonic()
    verdict = mv.verify(net, prop, time_limit_s=limit_s)
    row = {"word": verdict.word, "verify_s": f"{time.monotonic() - began:.4f}"}
    if not isinstance(verdict, mv.Holds):
        return row
    row["grade"] = verdict.grade.value
    found = mv.certify(net, prop, time_limit_s=limit_s)
    row |= {"certify_s": f"{found.seconds:.4f}", "why": found.reason}
    if found.proof is None:
        return row
    found.proof.certificate.write(proof)
    read = mv.read_certificate(proof)
    check = mv.check_exact(read, net, prop)
    row |= {"check_s": f"{check.seconds:.4f}", "bits": str(read.bits), "boxes": str(check.n_contexts)}
    row |= {"leaves": str(check.n_leaves), "bytes": str(proof.stat().st_size)}
    return row | {"accepted": "yes" if check.accepted else "NO", "why": check.reason}


def _serve(pipe: Connection, instance: Instance, limit_s: float, proof: Path) -> None:
    pipe.send(one(instance, limit_s, proof))


def apart(instance: Instance, limit_s: float, proof: Path) -> Row:
    """The same in a process that is ended when it takes too long."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, instance, limit_s, proof), daemon=True)
    process.start()
    theirs.close()
    row: Row = {"word": "error", "why": "took too long or died"}
    try:
        if ours.poll(4 * limit_s + GRACE_S):
            row = ours.recv()
    except EOFError:
        pass
    process.terminate()
    process.join()
    return {"key": instance.key, "suite": instance.suite} | row


def alone(instance: Instance, proof: Path) -> Row:
    """The stand-alone checker's word, as a process that knows nothing but its own file."""
    command = [sys.executable, "-I", standalone.__file__, str(proof), str(instance.onnx), str(instance.vnnlib)]
    began = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=STANDALONE_S)
    except subprocess.TimeoutExpired:
        return {"standalone": "timeout", "standalone_s": f"{STANDALONE_S:g}"}
    words = {0: "accepted", 1: "REJECTED", 3: "not read"}
    word = words.get(done.returncode, "ERROR")
    why = {} if word == "accepted" else {"why": (done.stdout + done.stderr).strip()[:200]}
    return {"standalone": word, "standalone_s": f"{time.monotonic() - began:.3f}", **why}


def report(rows: Sequence[Row]) -> int:
    """A line for each suite; the exit status."""
    bad = 0
    for suite in sorted({row["suite"] for row in rows}):
        mine = [row for row in rows if row["suite"] == suite]
        holds = [row for row in mine if row["word"] == "unsat"]
        proved = [row for row in holds if row.get("accepted") == "yes"]
        tried = [row for row in proved if row.get("standalone")]
        taken = [row for row in tried if row["standalone"] == "accepted"]
        wrong = [row for row in mine if "NO" == row.get("accepted") or row.get("standalone") in ("REJECTED", "ERROR")]
        bad += len(wrong)
        parts = [f"{suite}: {len(mine)} published unsat, {len(holds)} hold, {len(proved)} proofs accepted"]
        if proved:
            verify, certify, check = ([float(row[f"{n}_s"]) for row in proved] for n in ("verify", "certify", "check"))
            size = [int(row["bytes"]) for row in proved]
            share = median(c / max(v, 1e-3) for c, v in zip(check, verify, strict=True))
            parts.append(f"bytes {median(size):.0f} (median), {max(size)} (largest)")
            parts.append(f"verify {median(verify):.3f} s, certify {median(certify):.3f}, check {median(check):.3f}")
            parts.append(f"check / verify {share:.2f} (medians)")
        if tried:
            seconds = [float(row["standalone_s"]) for row in tried]
            parts.append(f"stand-alone: {len(taken)} of {len(tried)} accepted, {median(seconds):.2f} s (median)")
        parts += [f"WRONG {row['key']}: {row.get('why')}" for row in wrong]
        print("; ".join(parts))
    return 1 if bad else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run, append, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", required=True, help="names, or all")
    parser.add_argument("--limit", type=float, default=60.0, metavar="S", help="of verify, and of certify")
    parser.add_argument("--every", type=int, default=1, help="only every so manieth unsat instance of a suite")
    parser.add_argument(
        "--standalone", type=int, default=0, metavar="N", help="instances for checker.py, over all suites"
    )
    parser.add_argument("--out", type=Path, default=Path("proofs_results.csv"))
    arguments = parser.parse_args(argv)
    names = suites() if arguments.suite == ["all"] else arguments.suite
    todo = [i for s in names for i in [i for i in instances(s) if i.truth == "unsat"][:: arguments.every]]
    sample = _sample(todo, arguments.standalone)
    done: dict[str, Row] = {}
    if arguments.out.exists():
        with open(arguments.out, newline="") as file:
            done = {row["key"]: row for row in csv.DictReader(file)}
    print(describe())
    with open(arguments.out, "a", newline="") as file, tempfile.TemporaryDirectory() as folder:
        writer = csv.DictWriter(file, FIELDS)
        if not done:
            writer.writeheader()
        for number, instance in enumerate(todo, start=1):
            if instance.key in done:
                continue
            proof = Path(folder) / "one.proof"
            row = apart(instance, arguments.limit, proof)
            if instance.key in sample and row.get("accepted") == "yes":
                row |= alone(instance, proof)
            proof.unlink(missing_ok=True)
            writer.writerow(row)
            file.flush()
            done[instance.key] = row
            facts = (
                "word",
                "verify_s",
                "certify_s",
                "check_s",
                "boxes",
                "leaves",
                "bytes",
                "accepted",
                "standalone",
                "why",
            )
            print(f"{number}/{len(todo)}", row["key"], *(row.get(name, "") for name in facts), flush=True)
    return report([done[i.key] for i in todo if i.key in done])


def _sample(todo: Sequence[Instance], count: int) -> set[str]:
    """About `count` instances, as many of each suite."""
    names = sorted({i.suite for i in todo})
    chosen: set[str] = set()
    for place, suite in enumerate(names):
        mine = [i.key for i in todo if i.suite == suite]
        share = min(len(mine), -(-(count - len(chosen)) // (len(names) - place)))
        chosen |= {mine[i * len(mine) // max(share, 1)] for i in range(share)}
    return chosen


if __name__ == "__main__":
    raise SystemExit(main())
