"""Where the benchmark data lies, and readers of it that the package itself does not need."""

from __future__ import annotations

import csv
import gzip
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("MILPVERIFY_DATA", Path(__file__).resolve().parents[1] / "../shared/data")).resolve()


def need(*parts: str) -> Path:
    """A file or folder of the data, or a clean end with a clear message."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        print(f"{path} is absent. Set MILPVERIFY_DATA to the folder that holds the benchmark data.", file=sys.stderr)
        raise SystemExit(2)
    return path


@dataclass(frozen=True)
class Instance:
    """One row of a suite's instances.csv.

    Attributes:
        suite: Name of its folder.
        onnx, vnnlib: Files.
        truth: "sat", "unsat" or "unknown", as published.
        published_s: Published seconds of alpha-beta-CROWN on its competition machine, start-up included; None where it
            gave no verdict.
    """

    suite: str
    onnx: Path
    vnnlib: Path
    truth: str
    published_s: float | None = None

    @property
    def key(self) -> str:
        """What names it in a results file."""
        folder = DATA / self.suite
        return f"{self.suite}|{self.onnx.relative_to(folder)}|{self.vnnlib.relative_to(folder)}"


def suites() -> list[str]:
    """Every suite there is, by name."""
    return sorted(path.parent.name for path in need().glob("*/instances.csv"))


def instances(suite: str) -> list[Instance]:
    """The instances of a suite, in the file's order."""
    folder = need(suite)
    with open(need(suite, "instances.csv"), newline="") as file:
        return [
            Instance(suite, folder / r["onnx"], folder / r["vnnlib"], r["verdict"], _published(r))
            for r in csv.DictReader(file)
        ]


def _published(row: dict[str, str]) -> float | None:
    decided = row.get("abcrown_verdict") in ("sat", "unsat") and row.get("abcrown_time_raw")
    return float(row["abcrown_time_raw"]) if decided else None


def mnist_test() -> tuple[np.ndarray, np.ndarray]:
    """The 10,000 test images as float64 in [0, 1], shape (10000, 784), and their labels."""
    images = gzip.decompress(need("mnist", "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress(need("mnist", "t10k-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784)
    return pixels / 255.0, np.frombuffer(labels, np.uint8, offset=8).astype(int)


def wk17a_truth() -> list[dict[str, str]]:
    """The 250 rows of the published truth for WK17a at eps 0.1."""
    with open(need("mipverify_nets", "wk17a_first500_truth.csv"), newline="") as file:
        return list(csv.DictReader(file))
