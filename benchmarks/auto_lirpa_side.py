"""A network as auto_LiRPA 0.3 holds it: its side of `vs_auto_lirpa.py`."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import milpverify as mv


@dataclass(frozen=True)
class Question:
    """A box and the rows to bound over it, shape (m, n_outputs)."""

    region: mv.Region
    rows: np.ndarray

    @classmethod
    def of(cls, prop: mv.Property) -> Question:
        """The margins of a robustness property, whose cases share one box."""
        return cls(prop.cases[0].region, np.concatenate([case.unsafe.C for case in prop.cases]))


@dataclass(frozen=True)
class Answer:
    """Lower bounds of the rows, and the unstable neurons of each layer."""

    lower: np.ndarray
    unstable: tuple[int, ...]


Ask = Callable[[Question], Answer]


def allow_current_libraries(torch: Any) -> None:
    """Put back the names auto_LiRPA 0.3 uses that numpy 2 and torch 2 dropped or moved. None of them computes a bound.

    The graph pass and the opset setter moved to private modules, `node[key]` read an attribute of a traced node by its
    kind, `torch._six.string_classes` was (str,), and `isin` stands at numpy's top level.
    """
    exporter = import_module("torch.onnx._internal.torchscript_exporter.utils")
    options = import_module("torch.onnx._internal.torchscript_exporter._globals").GLOBALS
    old_numpy: Any = types.ModuleType("numpy.lib.arraysetops")
    old_numpy.isin = np.isin
    sys.modules.setdefault(old_numpy.__name__, old_numpy)
    for owner, name, value in (
        (import_module("torch.onnx.utils"), "_optimize_graph", exporter._optimize_graph),
        (
            import_module("torch.onnx.symbolic_helper"),
            "_set_opset_version",
            lambda version: setattr(options, "export_onnx_opset_version", version),
        ),
        (torch._C.Node, "__getitem__", lambda node, key: getattr(node, node.kindOf(key))(key)),
        (torch, "_six", types.SimpleNamespace(string_classes=(str,))),
    ):
        if not hasattr(owner, name):
            setattr(owner, name, value)


def import_theirs(float32: bool) -> tuple[Any, Any]:
    """torch on one thread in the precision asked for, and auto_LiRPA; or a clean end with a clear message."""
    try:
        torch = import_module("torch")
        allow_current_libraries(torch)
        with warnings.catch_warnings(record=True):  # it scripts functions when imported, and changes the filters
            library = import_module("auto_LiRPA")
    except (ImportError, AttributeError) as error:
        print(
            f"vs_auto_lirpa: auto_LiRPA 0.3 with torch is needed and did not import: {error}. "
            "`--help` says how to install it.",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32 if float32 else torch.float64)
    return torch, library


def torch_module(torch: Any, path: Path) -> tuple[Any, tuple[int, ...]]:
    """A chain of Conv, Gemm, Relu and Flatten from an ONNX file, and its input shape.

    A Flatten in front is left out and the input given flat: auto_LiRPA bounds a first layer by intervals, exactly and
    fast, only if it reads the input itself.
    """
    graph = onnx.load(path).graph
    weights = {t.name: torch.tensor(numpy_helper.to_array(t)).to(torch.get_default_dtype()) for t in graph.initializer}
    shape = tuple(d.dim_value for d in graph.input[0].type.tensor_type.shape.dim)
    layers: list[Any] = []
    for node in graph.node:
        options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Relu":
            layers.append(torch.nn.ReLU())
        elif node.op_type == "Flatten" and layers:
            layers.append(torch.nn.Flatten())
        elif node.op_type == "Flatten":
            shape = (1, int(np.prod(shape)))
        elif node.op_type in ("Gemm", "Conv"):
            W, b = (weights[name] for name in node.input[1:])
            if node.op_type == "Gemm":
                layer = torch.nn.Linear(W.shape[1], W.shape[0])
            else:
                stride, pads = options["strides"][0], options["pads"][0]
                layer = torch.nn.Conv2d(W.shape[1], W.shape[0], tuple(W.shape[2:]), stride=stride, padding=pads)
            layer.load_state_dict({"weight": W, "bias": b})
            layers.append(layer)
        else:
            raise SystemExit(f"vs_auto_lirpa: {path} holds {node.op_type}, which this benchmark does not rebuild.")
    return torch.nn.Sequential(*layers).eval(), shape


@dataclass(frozen=True)
class Theirs:
    """A network as auto_LiRPA holds it."""

    torch: Any
    library: Any
    module: Any
    shape: tuple[int, ...]

    def tensor(self, values: np.ndarray) -> Any:
        """An array as a tensor of the default precision."""
        return self.torch.tensor(values).to(self.torch.get_default_dtype())

    def given(self, question: Question) -> tuple[Any, Any]:
        """The input and the rows as auto_LiRPA wants them."""
        lower, upper = (self.tensor(v).reshape(self.shape) for v in (question.region.lower, question.region.upper))
        ball = self.library.PerturbationLpNorm(norm=np.inf, x_L=lower, x_U=upper)
        return (self.library.BoundedTensor((lower + upper) / 2, ball),), self.tensor(question.rows)[None]

    def call(self, method: str, x: Any, C: Any) -> Any:
        """Lower bounds of the rows, shape (1, m)."""
        bounded = self.module
        for relu in bounded.relus:
            # Slopes of the last question would decide which neurons of this one are bounded backward.
            vars(relu).pop("alpha_lookup_idx", None)
        if method in ("ibp", "crown"):
            with self.torch.no_grad():
                return bounded.compute_bounds(x=x, C=C, method=method.upper(), bound_upper=False)[0]
        # Slopes and intermediate bounds of a CROWN pass, where the ascent starts. Left to itself, the library makes the
        # pass, drops which neurons it left open, and fails an assertion of its own on mnist_fc and wk17a.
        found = bounded.init_slope(x, c=C, bound_upper=False)[2]
        use = {"intermediate_layer_bounds" if method == "alpha-last" else "aux_reference_bounds": found}
        optimised = bounded.compute_bounds(x=x, C=C, method="CROWN-Optimized", bound_upper=False, **use)
        return optimised[0].detach()

    def unstable(self) -> tuple[int, ...]:
        """Unstable neurons of each layer by the bounds of the last call."""
        inputs = [relu.inputs[0] for relu in self.module.relus]
        return tuple(int(((node.lower < 0) & (node.upper > 0)).sum()) for node in inputs)

    def ask(self, method: str) -> Callable[[tuple[Any, Any]], Answer]:
        """Their side of a method, of what `given` made."""
        return lambda pair: Answer(self.call(method, *pair)[0].double().numpy(), self.unstable())
