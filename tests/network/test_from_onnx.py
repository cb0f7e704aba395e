from __future__ import annotations

import gzip
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from milpverify.errors import NetworkError, OptionError, UnsupportedError
from milpverify.network.exact import forward_exact
from milpverify.network.from_onnx import compare_with_onnxruntime, from_onnx
from milpverify.network.graph import Network
from tests.network.onnx_cases import CASES, OnnxCase, arrays, build, floats, ints, node, run, write
from tests.paths import mnist, need


def samples(shape: tuple[int, ...], count: int = 6, seed: int = 1) -> np.ndarray:
    spread = np.array([0.1, 1.0, 1.0, 5.0, 1.0, 20.0])[:count].reshape(-1, *[1] * len(shape))
    return (spread * np.random.default_rng(seed).standard_normal((count, *shape))).astype(np.float32)


def assert_agrees(net: Network, model: Any, inputs: np.ndarray) -> None:
    for x in inputs:
        theirs = run(model, x)
        ours = net.forward(x.reshape(-1).astype(np.float64))
        assert net.output_shape == theirs.shape
        np.testing.assert_allclose(ours, theirs.reshape(-1), rtol=2e-5, atol=2e-5 * max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_lowered_model_computes_what_onnxruntime_computes(case: OnnxCase, tmp_path: Path) -> None:
    model = case.model()
    net = from_onnx(write(tmp_path, model))
    assert net.input_shape == case.shape
    assert_agrees(net, model, samples(case.shape))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_exact_arithmetic_agrees_with_floats(case: OnnxCase, tmp_path: Path) -> None:
    net = from_onnx(write(tmp_path, case.model()))
    x = samples(case.shape)[1].reshape(-1).astype(np.float64)
    exact = np.array([float(y) for y in forward_exact(net, list(x))])
    np.testing.assert_allclose(net.forward(x), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_stated_bias_error_holds(case: OnnxCase, tmp_path: Path) -> None:
    net = from_onnx(write(tmp_path, case.model()))
    for layer in (*net.layers, net.output):
        zeros = [np.zeros(n) for n in (net.n_inputs, *net.sizes)]
        alone = Network((1,), (layer.size,), (), type(layer)((), layer.bias_terms, layer.size))
        exact = forward_exact(alone, [0])
        assert all(
            abs(Fraction(b) - e) <= Fraction(t) for b, e, t in zip(layer.bias, exact, layer.bias_error, strict=True)
        )
        np.testing.assert_array_equal(layer.apply(zeros), layer.bias)


# Approximations


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_only_roots_reciprocals_and_folded_constants_are_rounded(case: OnnxCase, tmp_path: Path) -> None:
    net = from_onnx(write(tmp_path, case.model()))
    allowed = ("Batch", "Div", "Average", "ReduceMean")
    uses = any(n.op_type.startswith(allowed) or "Average" in n.op_type for n in case.nodes)
    assert not net.approximations or uses or case.name == "folded constants"


def test_a_power_of_two_pool_is_exact_and_another_is_noted(tmp_path: Path) -> None:
    exact = build([node("AveragePool", "x", kernel_shape=[2, 2])], {}, (1, 1, 4, 4))
    rounded = build([node("AveragePool", "x", kernel_shape=[3, 1])], {}, (1, 1, 4, 4))
    assert from_onnx(write(tmp_path, exact)).approximations == ()
    (note,) = from_onnx(write(tmp_path, rounded)).approximations
    assert "averagepool_y" in note and "1/n" in note


def test_a_batch_norm_with_an_exact_root_is_not_noted(tmp_path: Path) -> None:
    weights = {"g": floats(3, 5), "b": floats(1, 2), "m": floats(0.5, 0.25), "v": floats(4, 0.25)}
    nodes = [node("BatchNormalization", "x g b m v", epsilon=0.0)]
    net = from_onnx(write(tmp_path, build(nodes, weights, (1, 2))))
    assert net.approximations == ()
    assert forward_exact(net, [1, 1]) == (Fraction(1, 2) * Fraction(3, 2) + 1, Fraction(3, 4) * 10 + 2)


def test_float32_weights_are_exactly_the_stored_ones(tmp_path: Path) -> None:
    w, b, mean = floats(0.1, 0.2, 0.3).reshape(3, 1), floats(0.7), floats(1e-8, 3.3, 1e8)
    nodes = [node("Sub", "x m", "a"), node("Gemm", "a w b", alpha=0.1, beta=0.3)]
    net = from_onnx(write(tmp_path, build(nodes, {"w": w, "b": b, "m": mean}, (1, 3))))
    x = [Fraction(1, 3), Fraction(2), Fraction(-5, 7)]
    alpha, beta = Fraction(float(np.float32(0.1))), Fraction(float(np.float32(0.3)))
    centred = [v - Fraction(float(m)) for v, m in zip(x, mean, strict=True)]
    total = sum((Fraction(float(c)) * v for c, v in zip(w[:, 0], centred, strict=True)), Fraction(0))
    assert net.approximations == ()
    assert forward_exact(net, x) == (alpha * total + beta * Fraction(float(b[0])),)


# Random composed graphs


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Any], dict[str, Any], tuple[int, ...]]:
    """A random graph over values of shape (1, c, h, w): convolutions, pools, activations, joins; then a matrix."""
    c, h, w = draw(st.integers(1, 3)), draw(st.integers(3, 5)), draw(st.integers(3, 5))
    values = [("x", (c, h, w))]
    nodes: list[Any] = []
    weights: dict[str, Any] = {}
    for i in range(draw(st.integers(1, 6))):
        name, (c, h, w) = draw(st.sampled_from(values))
        out, kind = (
            f"v{i}",
            draw(st.sampled_from(["Conv", "Relu", "MaxPool", "LeakyRelu", "Add", "Concat", "Clip", "Abs", "Scale"])),
        )
        shape = (c, h, w)
        if kind == "Conv":
            shape = (draw(st.integers(1, 3)), h, w)
            weights |= {f"w{i}": (shape[0], c, 3, 3), f"b{i}": (shape[0],)}
            nodes.append(node("Conv", f"{name} w{i} b{i}", out, pads=[1, 1, 1, 1]))
        elif kind == "MaxPool":
            nodes.append(node("MaxPool", name, out, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        elif kind in ("Add", "Concat"):
            other, theirs = draw(st.sampled_from([v for v in values if v[1][1:] == (h, w)]))
            if kind == "Add" and theirs != shape:
                kind = "Concat"
            shape = shape if kind == "Add" else (c + theirs[0], h, w)
            nodes.append(node(kind, f"{name} {other}", out, **({} if kind == "Add" else {"axis": 1})))
        elif kind == "Clip":
            weights |= {"lo": np.float32(-0.5), "hi": np.float32(1.25)}
            nodes.append(node("Clip", f"{name} lo hi", out))
        elif kind == "Scale":
            weights[f"s{i}"] = (c, 1, 1)
            nodes.append(node("Mul", f"{name} s{i}", out))
        else:
            nodes.append(node(kind, name, out))
        values.append((out, shape))
    name, shape = values[-1]
    weights |= {"last": (int(np.prod(shape)), 2), "bias": (2,)}
    nodes += [node("Flatten", name, "flat"), node("Gemm", "flat last bias", "y")]
    return nodes, weights, (1, *values[0][1])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(graphs(), st.integers(0, 2**16))
def test_random_graphs_agree_with_onnxruntime_and_with_exact_arithmetic(
    tmp_path_factory: pytest.TempPathFactory, graph: tuple[list[Any], dict[str, Any], tuple[int, ...]], seed: int
) -> None:
    nodes, weights, shape = graph
    model = build(nodes, arrays(weights, seed), shape)
    net = from_onnx(write(tmp_path_factory.mktemp("random"), model))
    x = samples(shape, 3, seed)
    assert_agrees(net, model, x)
    flat = x[0].reshape(-1).astype(np.float64)
    exact = np.array([float(y) for y in forward_exact(net, list(flat))])
    np.testing.assert_allclose(net.forward(flat), exact, rtol=1e-11, atol=1e-11)
    assert net.approximations == ()


# Forms of files


PLAIN = OnnxCase("plain", [node("Gemm", "x w b", "a"), node("Relu", "a")], {"w": (6, 4), "b": (4,)})


def test_a_gzip_file_reads_like_the_plain_one(tmp_path: Path) -> None:
    plain = write(tmp_path, PLAIN.model())
    packed = tmp_path / "net.onnx.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert from_onnx(packed).fingerprint == from_onnx(str(plain)).fingerprint
    assert compare_with_onnxruntime(from_onnx(packed), packed) < 1e-5


def test_initializers_among_the_inputs_are_no_inputs(tmp_path: Path) -> None:
    net = from_onnx(write(tmp_path, PLAIN.model(weights_as_inputs=True)))
    assert net.fingerprint == from_onnx(write(tmp_path, PLAIN.model(), "other.onnx")).fingerprint


@pytest.mark.parametrize("batch", ["N", None, 0, -1])
def test_a_free_batch_axis_is_one(tmp_path: Path, batch: Any) -> None:
    model = build(PLAIN.nodes, arrays(PLAIN.weights), (batch, 6))
    assert from_onnx(write(tmp_path, model)).input_shape == (1, 6)


def test_an_open_shape_needs_one_given(tmp_path: Path) -> None:
    path = write(tmp_path, build([node("Relu", "x")], {}, ("N", "C")))
    with pytest.raises(NetworkError, match=r"open shape \(None, None\). Give input_shape"):
        from_onnx(path)
    assert from_onnx(path, input_shape=(1, 3)).n_inputs == 3
    with pytest.raises(NetworkError, match="agree with the file"):
        from_onnx(path, input_shape=(1, 3, 2))
    with pytest.raises(NetworkError, match="agree with the file"):
        from_onnx(write(tmp_path, PLAIN.model()), input_shape=(1, 7))


def test_double_models_are_read(tmp_path: Path) -> None:
    weights = {name: a.astype(np.float64) for name, a in arrays(PLAIN.weights).items()}
    path = write(tmp_path, build(PLAIN.nodes, weights, (1, 6), kind=TensorProto.DOUBLE))
    assert from_onnx(path, check=4).n_neurons == 4


def test_nodes_the_output_does_not_need_are_left_out(tmp_path: Path) -> None:
    nodes = [node("Sigmoid", "x", "unused"), node("Relu", "x", "also_unused"), node("Relu", "x")]
    assert from_onnx(write(tmp_path, build(nodes, {}, (1, 6)))).n_neurons == 6


def test_external_weights_are_read_and_a_missing_side_file_is_an_error(tmp_path: Path) -> None:
    model = PLAIN.model()
    expected = from_onnx(write(tmp_path, model)).fingerprint
    path = tmp_path / "split.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="side.bin", size_threshold=0)
    assert from_onnx(path, check=2).fingerprint == expected
    packed = tmp_path / "split.onnx.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UnsupportedError, match="keeps weights in other files"):
        from_onnx(packed)
    (tmp_path / "side.bin").write_bytes(b"\0" * 10)
    with pytest.raises(NetworkError, match=r"split\.onnx|initializer"):
        from_onnx(path)
    (tmp_path / "side.bin").unlink()
    with pytest.raises(NetworkError, match=r"external weights of split\.onnx cannot be read"):
        from_onnx(path)


# Refusals


def refusal(
    tmp_path: Path,
    nodes: list[Any],
    weights: dict[str, Any] | None = None,
    shape: Any = (1, 6),
    opset: int = 17,
    **changes: Any,
) -> str:
    """The message of the error that a model raises; one line that ends with a remedy."""
    with pytest.raises(NetworkError) as caught:
        from_onnx(write(tmp_path, build(nodes, arrays(weights or {}), shape, opset, **changes)))
    message = str(caught.value)
    assert message.startswith("from_onnx: ") and "\n" not in message and message.endswith(".")
    return message


REFUSED = [
    ([node("Sigmoid", "x")], {}, "operator Sigmoid (node 'sigmoid_y') is not piecewise linear"),
    ([node("Softmax", "x", axis=1)], {}, "operator Softmax (node 'softmax_y') is not piecewise linear"),
    ([node("ArgMax", "x")], {}, "operator ArgMax (node 'argmax_y') is not read"),
    ([helper.make_node("Tanh", ["x"], ["y"])], {}, "operator Tanh (node 'y') is not piecewise linear"),
    ([node("Mul", "x x")], {}, "multiplies two values computed from the input"),
    ([node("Div", "w x")], {"w": (6,)}, "divides by a value computed from the input"),
    ([node("Transpose", "x", "t"), node("MatMul", "x t")], {}, "multiplies two values"),
    ([node("Transpose", "x", "t"), node("Gemm", "x t")], {}, "multiplies two values"),
    ([node("Relu", "x", strange=3)], {}, "operator Relu (node 'relu_y') has the attribute strange=3"),
    ([node("Flatten", "x", axis=1.5)], {}, "axis=1.5 of the wrong kind"),
    ([node("BatchNormalization", "x w w w w", training_mode=1)], {"w": floats(1, 1, 1, 1, 1, 1)}, "training_mode=1"),
    ([node("BatchNormalization", "x w w w v")], {"w": (6,), "v": floats(1, 1, -1, 1, 1, 1)}, "not positive"),
    ([node("BatchNormalization", "x w w w v")], {"w": (1,), "v": floats(1)}, "statistics of other lengths"),
    ([node("Gemm", "x w c")], {"w": (6, 4), "c": (3, 4)}, "adds C of shape (3, 4) to (1, 4)"),
    ([node("Dropout", "x r t")], {"r": np.float32(0.5), "t": np.array(True)}, "training_mode"),
    ([node("Div", "x w")], {"w": floats(1, 0, 1, 1, 1, 1)}, "division by zero"),
    ([node("Clip", "x lo hi")], {"lo": np.float32(1), "hi": np.float32(0)}, "a clip to [1.0, 0.0]"),
    ([node("Clip", "x lo")], {"lo": np.float32("nan")}, "a clip to [nan"),
    ([node("Cast", "x", to=TensorProto.FLOAT16)], {}, "casts to type number 10"),
    ([node("Add", "x w")], {"w": (7,)}, "operator Add (node 'add_y') does not fit its inputs"),
    ([node("MatMul", "x w")], {"w": (7, 2)}, "a matrix of shape (7, 2) does not fit values of shape (1, 6)"),
    ([node("Reshape", "x s")], {"s": ints(1, 4)}, "operator Reshape (node 'reshape_y') does not fit"),
    ([node("Gather", "x i", axis=1)], {"i": ints(6)}, "operator Gather (node 'gather_y') does not fit"),
    ([node("Pad", "x p", mode="wrap")], {"p": ints(0, 1, 0, 0)}, "mode 'wrap'"),
    ([node("Pad", "x p v")], {"p": ints(0, 1, 0, 0), "v": np.float32("inf")}, "by inf"),
    ([node("Add", "x nowhere")], {}, "reads 'nowhere', which nothing computes"),
    ([node("Sum", "w w", "y")], {"w": (6,)}, "is a constant"),
    ([node("Mul", "x w", "a"), node("Add", "w w")], {"w": (6,)}, "is a constant"),
    ([node("Gather", "w x")], {"w": (6,)}, "computes its input 1 ('x')"),
    ([node("Squeeze", "x axes")], {"axes": ints(1)}, "squeezes axes"),
    ([node("Split", "x s", "y b", axis=1)], {"s": ints(2, 2)}, "splits 6 entries"),
    ([node("Reshape", "x f")], {"f": floats(1, 6)}, "expects integers"),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "weights", "fragment"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_what_is_not_read_is_refused_by_name(
    tmp_path: Path, nodes: list[Any], weights: dict[str, Any], fragment: str
) -> None:
    assert fragment in refusal(tmp_path, nodes, weights)


IMAGES_REFUSED = [
    (node("Conv", "x w"), {"w": (3, 3, 2, 2)}, "does not fit 2 channels"),
    (node("Conv", "x w b"), {"w": (3, 2, 2, 2), "b": (1,)}, "a bias of shape (1,) for 3 channels"),
    (node("Conv", "x w", kernel_shape=[3, 3]), {"w": (3, 2, 2, 2)}, "kernel_shape"),
    (node("Conv", "x w", auto_pad="SAME"), {"w": (3, 2, 2, 2)}, "auto_pad='SAME'"),
    (node("Conv", "x w", pads=[-1, 0, 0, 0]), {"w": (3, 2, 2, 2)}, "padding"),
    (node("Conv", "x w", pads=[1, 1]), {"w": (3, 2, 2, 2)}, "pads [1, 1]"),
    (node("MaxPool", "x", kernel_shape=[2, 2], storage_order=1), {}, "storage_order=1"),
    (node("MaxPool", "x", kernel_shape=[9, 9]), {}, "does not fit"),
    (node("MaxPool", "x", kernel_shape=[2, 2], pads=[0, 0, 3, 3]), {}, "over no values"),
    (node("AveragePool", "x", kernel_shape=[2, 2], pads=[0, 0, 3, 3]), {}, "over no values"),
    (node("ConvTranspose", "x w"), {"w": (2, 2, 2, 2)}, "operator ConvTranspose"),
]


@pytest.mark.parametrize(("last", "weights", "fragment"), IMAGES_REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_windows_that_are_not_read_are_refused(
    tmp_path: Path, last: Any, weights: dict[str, Any], fragment: str
) -> None:
    assert fragment in refusal(tmp_path, [last], weights, (1, 2, 4, 4))


def test_a_batch_of_images_is_refused(tmp_path: Path) -> None:
    assert "batch of 3" in refusal(tmp_path, [node("Conv", "x w")], {"w": (3, 2, 2, 2)}, (3, 2, 4, 4))


def test_max_pool_positions_are_refused(tmp_path: Path) -> None:
    nodes = [node("MaxPool", "x", "a i", kernel_shape=[2, 2]), node("Cast", "i", "y", to=1)]
    assert "reads 'i'" in refusal(tmp_path, nodes, {}, (1, 2, 4, 4))


def test_operators_of_other_domains_are_refused(tmp_path: Path) -> None:
    foreign = helper.make_node("Relu", ["x"], ["y"], name="r", domain="com.example")
    assert "operator com.example.Relu (node 'r')" in refusal(tmp_path, [foreign], domains=["com.example"])


def test_old_operator_sets_are_refused(tmp_path: Path) -> None:
    assert "operator set 6" in refusal(tmp_path, [node("Relu", "x")], opset=6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, bad: float) -> None:
    w = np.ones((6, 4), dtype=np.float32)
    w[3, 1] = bad
    message = refusal(tmp_path, [node("MatMul", "x weights")], {"weights": w})
    assert "'weights', whose entry (3, 1) is" in message


def test_several_inputs_or_outputs_are_refused(tmp_path: Path) -> None:
    assert "has 2 inputs ['x', 'z']" in refusal(tmp_path, [node("Add", "x z")], inputs=("x", "z"))
    assert "has 2 outputs ['y', 'x']" in refusal(tmp_path, [node("Relu", "x")], outputs=("y", "x"))


def test_an_output_nothing_computes_is_refused(tmp_path: Path) -> None:
    assert "nothing computes the output 'z'" in refusal(tmp_path, [node("Relu", "x")], outputs=("z",))


def test_a_batch_norm_that_trains_is_refused_in_old_files(tmp_path: Path) -> None:
    nodes = [node("BatchNormalization", "x w w w v", "y m s a b")]
    assert "statistics of its batch" in refusal(tmp_path, nodes, {"w": (6,), "v": floats(1, 1, 1, 1, 1, 1)}, opset=9)


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_other_input_types_are_refused(tmp_path: Path, kind: int) -> None:
    assert "input 'x' is of type" in refusal(tmp_path, [node("Relu", "x")], kind=kind)


def test_bfloat16_and_damaged_weights_are_refused_by_name(tmp_path: Path) -> None:
    model = PLAIN.model()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-3]
    with pytest.raises(NetworkError, match="initializer 'w' is damaged"):
        from_onnx(write(tmp_path, model))
    model = PLAIN.model()
    model.graph.initializer[1].CopyFrom(helper.make_tensor("b", TensorProto.BFLOAT16, [4], [1.0, 2.0, 3.0, 4.0]))
    with pytest.raises(UnsupportedError, match="initializer 'b' has type BFLOAT16"):
        from_onnx(write(tmp_path, model))


def test_sparse_weights_are_refused(tmp_path: Path) -> None:
    model = PLAIN.model()
    values, indices = numpy_helper.from_array(floats(1), "w2"), numpy_helper.from_array(ints(0), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    with pytest.raises(UnsupportedError, match="'w2' is sparse"):
        from_onnx(write(tmp_path, model))


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="no file"):
        from_onnx(tmp_path / "missing.onnx")
    with pytest.raises(NetworkError, match="cannot be read"):
        from_onnx(tmp_path)
    text, empty, packed = tmp_path / "text.onnx", tmp_path / "empty.onnx", tmp_path / "net.onnx.gz"
    text.write_text("this is no model")
    empty.write_bytes(b"")
    packed.write_bytes(b"this is no gzip file")
    for path in (text, empty):
        with pytest.raises(NetworkError, match="no whole ONNX model"):
            from_onnx(path)
    with pytest.raises(NetworkError, match="not a whole gzip file"):
        from_onnx(packed)
    whole = gzip.compress(PLAIN.model().SerializeToString())
    for cut in (len(whole) // 2, len(whole) - 4):
        packed.write_bytes(whole[:cut])
        with pytest.raises(NetworkError, match="not a whole gzip file"):
            from_onnx(packed)
    packed.write_bytes(whole[:30] + bytes(10) + whole[40:])
    with pytest.raises(NetworkError, match=r"gzip|ONNX"):
        from_onnx(packed)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, fraction: float) -> None:
    whole = PLAIN.model().SerializeToString()
    path = tmp_path_factory.mktemp("cut") / "net.onnx"
    path.write_bytes(whole[: int(fraction * (len(whole) - 8))])  # the operator set, a few bytes, may stand last
    with pytest.raises(NetworkError):
        from_onnx(path)


# The comparison


def test_the_comparison_finds_a_wrong_weight(tmp_path: Path) -> None:
    right = write(tmp_path, PLAIN.model())
    model = PLAIN.model()
    w = arrays(PLAIN.weights)["w"].copy()
    w[2, 3] *= 1.01
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))
    wrong = write(tmp_path, model, "wrong.onnx")
    assert compare_with_onnxruntime(from_onnx(right), right, samples=8, seed=3) < 1e-6
    with pytest.raises(NetworkError, match="by onnxruntime, at a sampled input"):
        compare_with_onnxruntime(from_onnx(wrong), right)


def test_the_comparison_finds_a_wrong_shape_and_a_file_onnxruntime_refuses(tmp_path: Path) -> None:
    net = from_onnx(write(tmp_path, PLAIN.model()))
    nodes = [*PLAIN.nodes[:1], node("Relu", "a", "r"), node("Flatten", "r", axis=0)]
    other = write(
        tmp_path,
        build([*nodes[:2], node("Unsqueeze", "r axes")], {**arrays(PLAIN.weights), "axes": ints(0)}, (1, 6)),
        "other.onnx",
    )
    with pytest.raises(NetworkError, match=r"returns shape \(1, 1, 4\)"):
        compare_with_onnxruntime(net, other)
    broken = write(tmp_path, build([node("Nonsense", "x")], {}, (1, 6)), "broken.onnx")
    with pytest.raises(NetworkError, match="onnxruntime cannot load"):
        compare_with_onnxruntime(net, broken)


def test_the_comparison_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, PLAIN.model())
    with pytest.raises(OptionError, match="check=-1"):
        from_onnx(path, check=-1)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(OptionError, match=r"Install milpverify\[onnxruntime\]"):
        from_onnx(path, check=1)
    assert from_onnx(path).n_neurons == 4


# Published networks


FILES = [
    (("acasxu", "onnx", "ACASXU_run2a_1_1_batch_2000.onnx"), 300),
    (("test", "test_nano.onnx"), 1),
    (("test", "test_small.onnx"), 4),
    (("test", "test_tiny.onnx"), 1),
    (("test", "test_sat.onnx"), 300),
    (("mnist_fc", "onnx", "mnist-net_256x4.onnx"), 1024),
    (("mlp", "mlp24.onnx"), 48),
    (("rl_benchmarks", "onnx", "cartpole.onnx"), 128),
    (("rl_benchmarks", "onnx", "dubinsrejoin.onnx"), 512),
    (("reach_prob_density", "onnx", "robot.onnx"), 192),
    (("safenlp", "onnx", "medical", "perturbations_0.onnx"), 128),
    (("linearizenn", "onnx", "AllInOne_10_10.onnx"), 1056),
    (("collins_rul_cnn", "onnx", "NN_rul_small_window_20.onnx"), 5500),
    (("oval21", "onnx", "cifar_deep_kw.onnx"), 6756),
    (("tllverifybench", "onnx", "tllBench_n=2_N=M=8_m=1_instance_0_0.onnx"), 252),
    (("tllverifybench", "onnx", "tllBench_n=2_N=M=24_m=1_instance_2_0.onnx.gz"), 2400),
    (("mipverify_nets", "wk17a_mnist_linf0.1.onnx"), 4804),
]


@pytest.mark.parametrize(("parts", "neurons"), FILES, ids=lambda v: v[-1] if isinstance(v, tuple) else "")
def test_published_networks_agree_with_onnxruntime(parts: tuple[str, ...], neurons: int) -> None:
    net = from_onnx(need(*parts), check=4)
    assert (net.n_neurons, net.approximations) == (neurons, ())
    assert all(not layer.bias_error.any() for layer in net.layers[1:])


def test_published_networks_with_a_sigmoid_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"operator Sigmoid .* is not piecewise linear"):
        from_onnx(need("unsupported_ops", "onnx", "mnist_concat.onnx"))


def test_published_logits_are_reproduced() -> None:
    logits = np.load(need("mipverify_nets", "reference_logits.npz"))
    images = mnist()[0][:10]
    net = from_onnx(need("mipverify_nets", "wk17a_mnist_linf0.1.onnx"))
    np.testing.assert_allclose(net.forward(images), logits["wk17a_logits_first10"], rtol=1e-9, atol=1e-9)


def test_published_outputs_of_witnesses_are_reproduced() -> None:
    found = np.load(need("acasxu", "sat_witnesses.npz"))
    for i, line in list(enumerate(found["index"]))[::20]:
        net = from_onnx(need("acasxu", *str(line).split("|")[0].split("/")))
        np.testing.assert_allclose(
            net.forward(found[f"x{i}"].reshape(-1)), found[f"y{i}"].reshape(-1), rtol=1e-9, atol=1e-9
        )
