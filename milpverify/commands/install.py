"""What `vnncomp install` does: packages that are missing, bytecode, and a line on what is there."""

from __future__ import annotations

import compileall
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from milpverify.errors import OptionError

NEEDED = ("numpy", "highspy", "onnx", "onnxruntime", "array_api_compat")
PACKAGE = Path(__file__).resolve().parents[1]


def install() -> int:
    """Make the competition's runs ready, with the Python that runs this; the exit status.

    Packages are fetched only where some are missing, and then from the source tree this lies in, at the versions of its
    constraints.txt.

    Raises:
        OptionError: If some are missing and there is no source tree, or pip fails.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        _fetch(missing)
    compileall.compile_dir(PACKAGE, quiet=1)
    print("ready: " + ", ".join(f"{name} {_version(name)}" for name in ("milpverify", *NEEDED)))
    return 0


def _fetch(missing: list[str]) -> None:
    root = PACKAGE.parent
    constraints = root / "constraints.txt"
    if not constraints.is_file():
        raise OptionError(f"install: {', '.join(missing)} missing. Run pip install 'milpverify[onnxruntime]'.")
    command = [sys.executable, "-m", "pip", "install", "--constraint", str(constraints), f"{root}[onnxruntime]"]
    if subprocess.run(command, check=False).returncode:
        raise OptionError(f"install: pip failed, and {', '.join(missing)} are missing. Its messages stand above.")


def _version(name: str) -> str:
    try:
        return version(name.replace("_", "-"))
    except PackageNotFoundError:  # run from a source tree, or vendored
        from milpverify import __version__

        return __version__ if name == "milpverify" else "unknown"
