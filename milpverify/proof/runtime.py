"""The network's own file in onnxruntime: what a deployed copy of it computes."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from milpverify.errors import NetworkError, OptionError


class OnnxRuntime:
    """A session on a file, for one input at a time, with one thread: the order of sums is the same on every run.

    Args:
        path: .onnx or .onnx.gz.
        input_shape: Of the network as milpverify read it; a batch axis of the file gets size 1.

    Raises:
        OptionError: If onnxruntime is not installed.
        NetworkError: If it cannot load the file.
    """

    def __init__(self, path: str | Path, input_shape: tuple[int, ...]) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise OptionError("onnxruntime is not installed, so the file itself was not run.") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        try:
            data = Path(path).read_bytes()
            model = gzip.decompress(data) if str(path).endswith(".gz") else data
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises types of its own
            raise NetworkError(_trouble(error)) from error
        weights = {w.name for w in self._session.get_overridable_initializers()}
        entry = next(i for i in self._session.get_inputs() if i.name not in weights)
        self._name, self._shape = entry.name, input_shape
        self._dtype = np.float64 if entry.type == "tensor(double)" else np.float32

    def run(self, x: np.ndarray) -> np.ndarray:
        """The outputs, flat, in the file's own precision.

        Args:
            x: Shape (n_inputs,), rounded to the file's precision.

        Raises:
            NetworkError: If onnxruntime fails.
        """
        try:
            feed = {self._name: x.astype(self._dtype).reshape(self._shape)}
            return np.asarray(self._session.run(None, feed)[0]).reshape(-1)
        except Exception as error:
            raise NetworkError(_trouble(error)) from error


def _trouble(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"onnxruntime could not run the file ({type(error).__name__}: {first})."
