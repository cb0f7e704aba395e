"""ONNX files as plain Python: nodes, their attributes, constants and the one input and output."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from milpverify.errors import NetworkError, UnsupportedError, first_line
from milpverify.network.onnx_messages import STORED, messages, numbers

OLDEST_OPSET = 7  # before it, broadcasting and the inference flags of Dropout and BatchNormalization differ


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """One node of the graph.

    Attributes:
        op: Operator type.
        name: Node name, or the first output's where it has none.
        domain: Operator set; empty for the standard one.
        inputs, outputs: Names of values; empty for an optional one left out.
        attributes: Decoded values by name: int, float, str, tuple of those, or array.
    """

    op: str
    name: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """The part of a graph that its one output depends on.

    Attributes:
        opset: Version of the standard operator set.
        input_name: The one input that is no initializer.
        input_shape: Its shape; a free batch axis is 1.
        output_name: The one output.
        constants: Initializers by name, floats as float64.
        nodes: In the order of the file, which is the order of computation.
    """

    opset: int
    input_name: str
    input_shape: tuple[int, ...]
    output_name: str
    constants: dict[str, np.ndarray]
    nodes: tuple[OnnxNode, ...]


def read_bytes(path: Path) -> bytes:
    """The bytes of an .onnx file, unpacked if its name ends in .gz.

    Raises:
        NetworkError: If it is missing, unreadable or no gzip file.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except FileNotFoundError:
        raise NetworkError(f"from_onnx: no file {path}. Check the path.") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise NetworkError(
            f"from_onnx: {path} is not a whole gzip file ({error}). Unpack it, or copy it again."
        ) from None
    except OSError as error:
        raise NetworkError(
            f"from_onnx: {path} cannot be read ({error.strerror}). Check the path and its permissions."
        ) from None


def read_graph(path: str | os.PathLike[str], input_shape: Sequence[int] | None = None) -> OnnxGraph:
    """Read and check an ONNX file.

    Args:
        path: File ending in .onnx or .onnx.gz.
        input_shape: Shape to use instead of the file's.

    Raises:
        NetworkError: If the file is missing, damaged or no ONNX model, or has several inputs or outputs.
        UnsupportedError: For sparse or non-float weights and old operator sets.
    """
    path = Path(path)
    model = _parse(path)
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < OLDEST_OPSET:
        raise UnsupportedError(f"from_onnx: {path.name} uses operator set {opset}, older than {OLDEST_OPSET}. "
                               "Convert it with onnx.version_converter.")  # fmt: skip
    graph = model.graph
    if graph.sparse_initializer:
        raise UnsupportedError(
            f"from_onnx: initializer '{graph.sparse_initializer[0].values.name}' is sparse. Store it dense."
        )
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initializers]
    for kind, names in (("input", [v.name for v in inputs]), ("output", [v.name for v in graph.output])):
        if len(names) != 1:
            raise NetworkError(
                f"from_onnx: {path.name} has {len(names)} {kind}s {names}, expected one. Export one {kind}."
            )
    nodes = _needed(graph.node, graph.output[0].name)
    used = {name for node in nodes for name in node.input} | {graph.output[0].name}
    return OnnxGraph(
        opset=opset,
        input_name=inputs[0].name,
        input_shape=_input_shape(inputs[0], input_shape),
        output_name=graph.output[0].name,
        constants={name: decode_tensor(tensor) for name, tensor in initializers.items() if name in used},
        nodes=tuple(_decoded(node) for node in nodes),
    )


def decode_tensor(tensor: Any, owner: str = "") -> np.ndarray:
    """An ONNX tensor as an array: floats as float64, exactly; integers and booleans as they are."""
    types = messages().TensorProto
    name = f"initializer '{tensor.name}'" if not owner else f"the tensor of node '{owner}'"
    if tensor.data_type not in STORED:
        known = tensor.data_type in types.DataType.values()
        kind = types.DataType.Name(tensor.data_type) if known else "unknown"
        raise UnsupportedError(f"from_onnx: {name} has type {kind}. Convert it to float32.")
    try:
        array = numbers(tensor)
    except (ValueError, OverflowError) as error:
        raise NetworkError(f"from_onnx: {name} is damaged ({first_line(error)}). Export the model again.") from None
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _parse(path: Path) -> Any:
    """The model message, with external data loaded."""
    data = read_bytes(path)
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = messages().ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        model = messages().ModelProto()
    if not model.HasField("graph") or not model.graph.output:
        raise NetworkError(f"from_onnx: {path} is no whole ONNX model. Check the file, or export it again.")
    tensors = [*model.graph.initializer, *(a.t for node in model.graph.node for a in node.attribute if a.HasField("t"))]
    if any(tensor.data_location == messages().TensorProto.EXTERNAL for tensor in tensors):
        if path.suffix == ".gz":
            raise UnsupportedError(f"from_onnx: {path.name} keeps weights in other files. Unpack it beside them.")
        from onnx.external_data_helper import load_external_data_for_model

        try:
            load_external_data_for_model(model, str(path.parent))
        except Exception as error:  # the helper raises a different class for every way a side file can be wrong
            raise NetworkError(f"from_onnx: the external weights of {path.name} cannot be read ({first_line(error)}). "
                               "Put their file beside the model.") from None  # fmt: skip
    return model


def _needed(nodes: Sequence[Any], output: str) -> list[Any]:
    """The nodes the output depends on, in order."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted.intersection(name for name in node.output if name):
            kept.append(node)
            wanted.update(name for name in node.input if name)
    return kept[::-1]


def _input_shape(value: Any, given: Sequence[int] | None) -> tuple[int, ...]:
    """The declared shape with a batch of one for a free leading axis, or the given shape if it agrees."""
    types, tensor = messages().TensorProto, value.type.tensor_type
    if tensor.elem_type not in (types.FLOAT, types.DOUBLE):
        kind = types.DataType.Name(tensor.elem_type) if value.type.HasField("tensor_type") else "another kind"
        raise UnsupportedError(
            f"from_onnx: input '{value.name}' is of type {kind}. Export the model with a float32 input."
        )
    declared = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim]
    if given is not None:
        known = declared if tensor.HasField("shape") else [None] * len(given)
        agrees = len(known) == len(given) and all(n is None or n == m for n, m in zip(known, given, strict=False))
        if not agrees or any(n < 1 for n in given):
            raise NetworkError(
                f"from_onnx: input '{value.name}' has shape {tuple(known)}, got input_shape={tuple(given)}. "
                "Give positive sizes that agree with the file."
            )
        return tuple(int(n) for n in given)
    if not tensor.HasField("shape") or None in declared[1:]:
        raise NetworkError(f"from_onnx: input '{value.name}' has the open shape {tuple(declared)}. Give input_shape.")
    return tuple(n or 1 for n in declared)


def _decoded(node: Any) -> OnnxNode:
    name = node.name or next((output for output in node.output if output), "")
    attributes = {a.name: _attribute(a, node.op_type, name) for a in node.attribute}
    return OnnxNode(node.op_type, name, node.domain, tuple(node.input), tuple(node.output), attributes)


def _attribute(attribute: Any, op: str, name: str) -> Any:
    types, kind = messages().AttributeProto, attribute.type
    if kind == types.TENSOR:
        return decode_tensor(attribute.t, name)
    if kind == types.STRING:
        return attribute.s.decode("utf-8", "replace")
    fields = {types.INT: "i", types.FLOAT: "f", types.INTS: "ints", types.FLOATS: "floats"}
    if kind not in fields or attribute.ref_attr_name:
        raise UnsupportedError(
            f"from_onnx: operator {op} (node '{name}') has an attribute '{attribute.name}' of a kind that is not read. "
            "Simplify the model first, for example with onnxsim."
        )
    value = getattr(attribute, fields[kind])
    return value if kind in (types.INT, types.FLOAT) else tuple(value)
