"""Sequences of plain torch layers written as ONNX, node by node: no exporter is needed, and names read well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milpverify.errors import NetworkError, OptionError, UnsupportedError
from milpverify.network.from_onnx import from_onnx
from milpverify.network.from_torch import from_torch
from milpverify.network.graph import Network
from milpverify.training.extras import evaluating, output_on_zeros
from milpverify.whole_files import written_whole

if TYPE_CHECKING:
    from torch import nn

OPSET, IR_VERSION = 13, 8


def save_onnx(model: nn.Module, input_shape: Sequence[int], path: Path | str, note: str = "") -> Network:
    """Write a module as an ONNX file for a batch of one, and read it again. Exact: the file holds the stored weights.

    Args:
        model: Flatten, Linear, Conv2d, ReLU, Identity and Dropout in (nested) `nn.Sequential`s; float32.
        input_shape: Shape of one input without the batch axis.
        path: Where to; replaced in one step, once what was written is known to read as the same network.
        note: Becomes the file's documentation.

    Returns:
        The network that `from_onnx` reads from the file.

    Raises:
        UnsupportedError: If the module holds another layer, or another precision.
        NetworkError: If what was written does not read as the module's own canonical form, coefficient by coefficient.
        OptionError: If the file cannot be written.
    """
    import onnx

    target = Path(path).resolve()
    proto = _proto(model, tuple(int(n) for n in input_shape), note)
    try:
        with written_whole(target, ".onnx") as temporary:
            onnx.save(proto, temporary)
            net = from_onnx(temporary)
            with evaluating(model):
                expected = from_torch(model, input_shape)
            if net.fingerprint != expected.fingerprint:
                raise NetworkError(
                    f"save_onnx: {target.name} would not read as the module that was given: a bug of ours."
                )
    except OSError as error:
        raise OptionError(f"save_onnx: cannot write {path} ({error.strerror}). Choose another place.") from None
    return net


def check_writable_as_onnx(model: nn.Module) -> None:
    """Refuse what `save_onnx` will not write, before any work is done for it.

    Raises:
        UnsupportedError: As `save_onnx`.
    """
    for name, layer in _flat(model):
        _writer(name, layer)
    for name, p in model.named_parameters():
        if str(p.dtype) != "torch.float32":
            raise UnsupportedError(f"save_onnx: {name} is {p.dtype}, expected float32. Call model.float().")


def _proto(model: nn.Module, input_shape: tuple[int, ...], note: str) -> Any:
    import onnx
    from onnx import TensorProto, helper

    check_writable_as_onnx(model)
    graph = _Graph("input")
    for name, layer in _flat(model):
        _writer(name, layer)(graph, layer)
    remedy = "Give the shape of one input, without the batch axis."
    outputs = list(output_on_zeros("save_onnx", model, input_shape, remedy).shape)
    graph.nodes.append(helper.make_node("Identity", [graph.last], ["output"], name="output"))
    body = helper.make_graph(
        graph.nodes,
        "milpverify",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *input_shape])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, outputs)],
        graph.weights,
        doc_string=note,
    )
    proto = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="milpverify"
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto


class _Graph:
    """Nodes and weights written so far, and the name of the last result."""

    def __init__(self, last: str) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.last = last

    def add(self, operator: str, weights: Sequence[tuple[str, Any]] = (), **attributes: Any) -> None:
        """One node that reads the last result."""
        from onnx import helper, numpy_helper

        name = f"{operator.lower()}{len(self.nodes) + 1}"
        inputs = [self.last]
        for part, tensor in weights:
            inputs.append(f"{name}.{part}")
            self.weights.append(numpy_helper.from_array(tensor.detach().cpu().contiguous().numpy(), inputs[-1]))
        self.last = f"{name}.out"
        self.nodes.append(helper.make_node(operator, inputs, [self.last], name=name, **attributes))


def _flat(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested sequences, in order, with their paths."""
    from torch import nn

    if type(model) is not nn.Sequential:
        yield path or "the model", model
        return
    for name, layer in model.named_children():
        yield from _flat(layer, f"{path}.{name}" if path else name)


def _writer(name: str, layer: nn.Module) -> Callable[[_Graph, Any], None]:
    """What writes a layer; exact types, for a subclass may compute something else."""
    from torch import nn

    writers: dict[type[nn.Module], Callable[[_Graph, Any], None]] = {
        nn.Flatten: _flatten,
        nn.Linear: _linear,
        nn.Conv2d: _convolution,
        nn.ReLU: lambda graph, _: graph.add("Relu"),
        nn.Identity: lambda graph, _: None,
        nn.Dropout: lambda graph, _: None,  # does nothing in evaluation mode
    }
    writer = writers.get(type(layer))
    plain = not (isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) != (1, -1))
    plain = plain and not (isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or layer.padding == "same"))
    if writer is None or not plain:
        raise UnsupportedError(
            f"save_onnx: layer {name} is {layer}, expected Flatten(), Linear, Conv2d with zero padding in numbers, "
            "ReLU, Identity or Dropout in an nn.Sequential. Export it yourself, with torch.onnx.export."
        )
    return writer


def _flatten(graph: _Graph, layer: Any) -> None:
    graph.add("Flatten", axis=1)


def _linear(graph: _Graph, layer: Any) -> None:
    bias = () if layer.bias is None else (("bias", layer.bias),)
    graph.add("Gemm", (("weight", layer.weight), *bias), transB=1)


def _convolution(graph: _Graph, layer: Any) -> None:
    bias = () if layer.bias is None else (("bias", layer.bias),)
    padding = (0, 0) if layer.padding == "valid" else tuple(layer.padding)
    graph.add(
        "Conv",
        (("weight", layer.weight), *bias),
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.stride),
        pads=[*padding, *padding],
        dilations=list(layer.dilation),
        group=layer.groups,
    )
