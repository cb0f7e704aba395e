"""ONNX files read as networks in canonical form.

What is read is read exactly: every attribute of every node is used or checked, and anything else is refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from milpverify.errors import NetworkError, OptionError, UnsupportedError, first_line
from milpverify.network.comparison import compare, sample_count, sample_inputs
from milpverify.network.expression import Expr
from milpverify.network.graph import Network
from milpverify.network.lowering import Lowering
from milpverify.network.onnx_file import OnnxGraph, OnnxNode, read_bytes, read_graph
from milpverify.network.onnx_ops import OPERATORS, SMOOTH
from milpverify.network.onnx_site import Site, Value

# What is stored as it is executed: sums of products with one bias, ReLUs, and what only moves numbers. Gemm and sums
# only in some forms, see `_as_executed`.
PLAIN = frozenset(
    "Concat Constant ConstantOfShape Conv Dropout Expand Flatten Gather Identity MatMul Relu Reshape Shape Slice Split "
    "Squeeze Tile Transpose Unsqueeze".split()
)


def from_onnx(
    path: str | os.PathLike[str], *, input_shape: Sequence[int] | None = None, check: bool | int = False
) -> Network:
    """Read a network from an ONNX file. Exact, but for what `Network.approximations` lists.

    The weights are the stored floats. A free leading axis of the input (the batch) is read as one.

    Args:
        path: File ending in .onnx or .onnx.gz.
        input_shape: Shape of the input, batch axis included, where the file leaves more than the batch open.
        check: Compare with onnxruntime on this many sampled inputs; True for 16.

    Returns:
        The network; `input_shape` and `output_shape` are those of the file.

    Raises:
        UnsupportedError: For an operator, attribute or type that is not read; the message names the node.
        NetworkError: If the file is missing, damaged or inconsistent, holds NaN or infinite weights, has several
            inputs or outputs, or computes something else than onnxruntime does.
        OptionError: If `check` is negative, or asked for without onnxruntime.
    """
    count = sample_count(check, "from_onnx")
    graph = read_graph(path, input_shape)
    net = _lowered(graph)
    if count:
        compare_with_onnxruntime(net, path, samples=count)
    return net


def compare_with_onnxruntime(net: Network, path: str | os.PathLike[str], *, samples: int = 16, seed: int = 0) -> float:
    """Compare a network with onnxruntime's execution of a file. Floating.

    Args:
        net: The network read from the file.
        path: The file.
        samples: Number of inputs.
        seed: Seed of the inputs.

    Returns:
        The largest difference, relative to the magnitude of the terms that are summed in the output.

    Raises:
        NetworkError: If an output differs by more than float32 rounding explains.
        OptionError: If onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise OptionError(
            "from_onnx: check needs onnxruntime. Install milpverify[onnxruntime], or leave the check out."
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    path = Path(path)
    try:
        # From the path where possible: weights in other files are found beside it.
        model = read_bytes(path) if path.suffix == ".gz" else str(path)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes are not public
        raise NetworkError(
            f"from_onnx: onnxruntime cannot load {path.name} ({first_line(error)}). Leave the check out."
        ) from None
    entry = session.get_inputs()[0]
    dtype = np.float64 if entry.type == "tensor(double)" else np.float32
    inputs = sample_inputs(net, samples, seed)

    def run(x: np.ndarray) -> np.ndarray:
        try:
            (y,) = session.run(None, {entry.name: x.astype(dtype).reshape(net.input_shape)})
        except Exception as error:
            raise NetworkError(
                f"from_onnx: onnxruntime cannot run {path.name} ({first_line(error)}). Leave the check out."
            ) from None
        return np.asarray(y)

    return compare(net, inputs, run, f"from_onnx: {path.name}", "onnxruntime")


def _lowered(graph: OnnxGraph) -> Network:
    """The graph as a network."""
    lowering = Lowering(graph.input_shape)
    values: dict[str, Value] = {**graph.constants, graph.input_name: lowering.input}
    for node in graph.nodes:
        outputs = _outputs(node, values, graph.opset, lowering)
        values.update(zip(node.outputs, outputs, strict=False))
    result = values.get(graph.output_name)
    if result is None:
        raise NetworkError(
            f"from_onnx: nothing computes the output '{graph.output_name}'. Check the file with onnx.checker."
        )
    if not isinstance(result, Expr):
        raise NetworkError(
            f"from_onnx: the output '{graph.output_name}' is a constant. Check which output the model returns."
        )
    try:
        return lowering.finish(result)
    except NetworkError as error:
        raise NetworkError(f"from_onnx: output '{graph.output_name}': {error}") from None


def _outputs(node: OnnxNode, values: dict[str, Value], opset: int, lowering: Lowering) -> Sequence[Value]:
    """What a node computes, with the node named in every error."""
    handler = OPERATORS.get(node.op) if node.domain in ("", "ai.onnx") else None
    if handler is None:
        kind = "is not piecewise linear" if node.op in SMOOTH else "is not read"
        remedy = "Replace it by ReLU, or verify up to the layer before it."
        domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
        raise UnsupportedError(f"from_onnx: operator {domain}{node.op} (node '{node.name}') {kind}. {remedy}")
    site = Site(node, values, opset, lowering)
    if not _as_executed(site):
        lowering.rewrite(site.place)
    try:
        computed = handler(site)
    except NetworkError as error:
        if str(error).startswith("from_onnx"):
            raise
        raise type(error)(f"from_onnx: {site.place}: {error}") from None
    except (ValueError, IndexError, TypeError) as error:
        raise NetworkError(f"from_onnx: {site.place} does not fit its inputs ({first_line(error)}). "
                           "Check the file with onnx.checker.") from None  # fmt: skip
    site.finish()
    return computed if isinstance(computed, list) else [computed]


def _as_executed(site: Site) -> bool:
    """Whether a float32 execution rounds what a node computes as one of the network's form does."""
    op, options = site.node.op, site.node.attributes
    if op == "Gemm":
        return options.get("alpha", 1.0) == 1.0 and (options.get("beta", 1.0) == 1.0 or not site.has(2))
    if op not in ("Add", "Sub") or site.n_inputs != 2:
        return op in PLAIN
    a, b = site.value(0), site.value(1)
    if op == "Add" and not isinstance(a, Expr):
        a, b = b, a
    if not isinstance(a, Expr) or isinstance(b, Expr):
        return False
    return not b.any() or (op == "Add" and not a.bias_terms)  # a second bias could be merged with the first
