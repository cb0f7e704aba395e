"""torch modules read as networks in canonical form, through torch.export."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from milpverify.errors import NetworkError, OptionError, UnsupportedError, first_line
from milpverify.network.comparison import compare, sample_count, sample_inputs
from milpverify.network.expression import Expr
from milpverify.network.graph import Network
from milpverify.network.lowering import Lowering
from milpverify.network.torch_call import Call
from milpverify.network.torch_ops import OPERATORS

SMOOTH = frozenset(
    "celu cos elu erf exp gelu hardswish log log_softmax log_sigmoid mish pow reciprocal rsqrt selu sigmoid silu sin "
    "softmax _softmax _log_softmax softplus sqrt tan tanh".split()
)
# Operators on known values that move or make numbers without rounding them.
EXACT = frozenset(
    "_unsafe_view alias arange cat clone contiguous detach expand flatten full full_like index_select "
    "lift_fresh_copy ones ones_like permute reshape select slice squeeze stack t transpose unsqueeze "
    "view zeros zeros_like".split()
)
# Operators that are stored as they are executed: sums of products with one bias, ReLUs, and what only moves numbers.
PLAIN = frozenset(
    "_unsafe_view alias clone contiguous conv1d conv2d detach dropout flatten linear matmul mm permute relu reshape "
    "squeeze t transpose unsqueeze view".split()
)


def from_torch(model: Any, input_shape: Sequence[int], *, check: bool | int = False) -> Network:
    """Read a network from a torch module. Exact, but for what `Network.approximations` lists.

    The weights are the stored floats; numbers written in the code (a slope of 0.01, x / 3) are rounded to the module's
    floating type first, as torch does. The module is exported for a batch of one and is not changed.

    Args:
        model: An nn.Module in evaluation mode, float32 or float64, of one tensor in and one tensor out.
        input_shape: Shape of one input without the batch axis, such as (1, 28, 28).
        check: Compare with the module on this many sampled inputs; True for 16.

    Returns:
        The network; its `input_shape` is (1, *input_shape), as in an ONNX file exported for a batch of one.

    Raises:
        UnsupportedError: For an operator that is not read; the message names it and its module.
        NetworkError: If the module is in training mode, does not run on that shape, holds NaN or infinite weights, or
            computes something else than the network.
        OptionError: If `check` is negative, or torch is not installed.
    """
    samples = sample_count(check, "from_torch")
    try:
        import torch
    except ImportError:
        raise OptionError(
            "from_torch: torch is not installed. Install milpverify[torch], or export the model to ONNX."
        ) from None
    if not isinstance(model, torch.nn.Module):
        raise NetworkError(f"from_torch: expected an nn.Module, got {type(model).__name__}. For a file use from_onnx.")
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        raise NetworkError(f"from_torch: {training[0]} is in training mode. Call model.eval() first.")
    shape = (1, *(int(n) for n in input_shape))
    if min(shape) < 1:
        raise NetworkError(
            f"from_torch: input_shape={tuple(input_shape)}. Give positive sizes, without the batch axis."
        )
    example = torch.zeros(shape, dtype=_dtype(model), device=next((p.device for p in model.parameters()), "cpu"))
    net = _read(model, example)
    if samples:
        _check(model, net, example, samples)
    return net


def _read(model: Any, example: Any) -> Network:
    """Export and lower; the graph as written first, torch's decompositions where an operator of it is not known."""
    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.export warns about its own internals
        try:
            exported = torch.export.export(model, (example,))
            if not _plain(exported.graph):
                exported = exported.run_decompositions(_decompositions())
        except Exception as error:  # torch raises a different class for every way a module can refuse its input
            raise NetworkError(
                f"from_torch: torch.export cannot trace the model on shape {tuple(example.shape)} "
                f"({first_line(error)}). Check input_shape; avoid control flow that depends on values."
            ) from None
        return _lowered(exported, tuple(example.shape), example.dtype)


def _plain(graph: Any) -> bool:
    """Whether every operator is known as it stands; in-place ones must be decomposed, for their aliases' sake."""
    import torch

    for node in graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            if node.target._schema.is_mutable or _short(node.target) not in OPERATORS.keys() | EXACT:
                return False
    return True


def _decompositions() -> Any:
    """torch's table without the operators that are read as they are."""
    import torch

    make = getattr(torch.export, "default_decompositions", None)
    if make is None:
        return None
    table = make()
    for target in list(table.keys()):
        if _short(target) in OPERATORS:
            table.pop(target)
    return table


def _lowered(exported: Any, shape: tuple[int, ...], dtype: Any) -> Network:
    """The exported graph as a network."""
    signature = exported.graph_signature
    if len(signature.user_inputs) != 1 or len(signature.user_outputs) != 1:
        raise NetworkError(
            f"from_torch: the model has {len(signature.user_inputs)} inputs and {len(signature.user_outputs)} outputs, "
            "expected one tensor each. Wrap it in a module that has."
        )
    if signature.buffers_to_mutate:
        changed = next(iter(signature.buffers_to_mutate.values()))
        raise UnsupportedError(
            f"from_torch: the model changes its buffer '{changed}'. Make its forward free of side effects."
        )
    lowering = Lowering(shape)
    values: dict[str, Any] = {**_stored(exported), signature.user_inputs[0]: lowering.input}
    needed = _needed(exported.graph)
    for node in exported.graph.nodes:
        if node.op == "call_function" and node in needed:
            values[node.name] = _evaluated(node, values, lowering, dtype)
    result = values.get(signature.user_outputs[0])
    if not isinstance(result, Expr):
        raise NetworkError("from_torch: the output does not depend on the input. Check the model's forward.")
    try:
        return lowering.finish(result)
    except NetworkError as error:
        raise NetworkError(f"from_torch: {error}") from None


def _stored(exported: Any) -> dict[str, Any]:
    """Parameters, buffers and constants by the name of their placeholder."""
    signature = exported.graph_signature
    stored = {}
    for table in (
        signature.inputs_to_parameters,
        signature.inputs_to_buffers,
        signature.inputs_to_lifted_tensor_constants,
    ):
        for placeholder, name in table.items():
            stored[placeholder] = exported.state_dict[name] if name in exported.state_dict else exported.constants[name]
    return stored


def _needed(graph: Any) -> set[Any]:
    """The nodes the output depends on."""
    waiting, needed = [node for node in graph.nodes if node.op == "output"], set()
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    return needed


def _evaluated(node: Any, values: dict[str, Any], lowering: Lowering, dtype: Any) -> Any:
    """What a node computes: an expression, a list of them, or a tensor where it does not depend on the input."""
    import operator

    import torch

    arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: values[n.name])
    if node.target is operator.getitem:
        sequence, at = arguments
        if isinstance(sequence, list) and at >= len(sequence):
            raise UnsupportedError(
                f"from_torch: {_place(node.args[0])} returns positions that the model uses. Use only its values."
            )
        return sequence[at]
    if not isinstance(node.target, torch._ops.OpOverload):
        raise UnsupportedError(f"from_torch: {_place(node)} is not read. Write the forward with plain operators.")
    if not _reads_input((arguments, keywords)):
        return _constant(node, arguments, keywords, lowering)
    if _short(node.target) not in PLAIN:
        lowering.rewrite(_place(node))
    handler = OPERATORS.get(_short(node.target))
    if handler is None:
        kind = "is not piecewise linear" if _short(node.target) in SMOOTH else "is not read"
        raise UnsupportedError(
            f"from_torch: {_place(node)} {kind}. Replace it by ReLU, or verify up to the layer before it."
        )
    bound = _bound(node.target, arguments, keywords)
    call = Call(node.target, bound, _place(node), _label(node), lowering, _result_type(node, dtype))
    return _handled(handler, call)


def _handled(handler: Callable[[Call], Any], call: Call) -> Any:
    """Run a handler, with the operator named in every error."""
    try:
        result = handler(call)
    except NetworkError as error:
        if str(error).startswith("from_torch"):
            raise
        raise type(error)(f"from_torch: {call.place}: {error}") from None
    except (ValueError, IndexError, TypeError) as error:
        raise UnsupportedError(f"from_torch: {call.place} does not fit its inputs ({first_line(error)}). "
                               "Write it with simpler operators.") from None  # fmt: skip
    call.finish()
    return result


def _constant(node: Any, arguments: Any, keywords: Any, lowering: Lowering) -> Any:
    """An operator on known values, run by torch."""
    import torch

    if torch.Tag.nondeterministic_seeded in node.target.tags:
        raise UnsupportedError(f"from_torch: {_place(node)} draws random numbers. Remove it from the forward.")
    if _short(node.target) not in EXACT:
        lowering.rewrite(_place(node))
        lowering.note(f"{_label(node)}: constants were combined by torch in the module's own precision.")
    return node.target(*arguments, **keywords)


def _bound(target: Any, arguments: Sequence[Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, defaults filled in."""
    schema = target._schema.arguments
    bound = {a.name: a.default_value for a in schema if a.has_default_value()}
    return {**bound, **dict(zip((a.name for a in schema), arguments, strict=False)), **keywords}


def _reads_input(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_reads_input(v) for v in value)
    return any(_reads_input(v) for v in value.values()) if isinstance(value, dict) else isinstance(value, Expr)


def _result_type(node: Any, default: Any) -> Any:
    """The floating type a node computes in, which is not the module's after a cast."""
    value = node.meta.get("val")
    kind = getattr(value[0] if isinstance(value, (list, tuple)) and value else value, "dtype", default)
    return kind if kind.is_floating_point else default


def _short(target: Any) -> str:
    return str(target._schema.name).split("::")[1] if hasattr(target, "_schema") else str(target)


def _path(node: Any) -> str:
    """The path of the module a node belongs to, empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    entries = list(stack.values())
    return str(entries[-1][0]) if entries else ""


def _label(node: Any) -> str:
    """A short name: the module's path, led by the operator where that is a mere number, as in nn.Sequential."""
    path = _path(node)
    return (f"{_short(node.target)}_{path}" if path[0].isdigit() else path) if path else str(node.name)


def _place(node: Any) -> str:
    path = _path(node)
    return f"operator {_short(node.target)} " + (f"(module '{path}')" if path else f"(node '{node.name}')")


def _dtype(model: Any) -> Any:
    """The floating type the module computes in."""
    import torch

    kinds = {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()} or {torch.float32}
    if len(kinds) > 1 or not kinds <= {torch.float32, torch.float64}:
        raise NetworkError(
            f"from_torch: the module's weights have the types {sorted(map(str, kinds))}. Convert them: model.float()."
        )
    return kinds.pop()


def _check(model: Any, net: Network, example: Any, samples: int) -> None:
    import torch

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            y = model(torch.as_tensor(x).reshape(example.shape).to(example))
        return np.asarray(y.cpu().numpy())

    compare(net, sample_inputs(net, samples, 0), run, "from_torch", "the module")
