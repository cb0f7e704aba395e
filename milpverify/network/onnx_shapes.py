"""ONNX operators that move values without changing them, and the small arithmetic of shapes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from milpverify.network.expression import Expr, concatenate, constant, padded, reshape
from milpverify.network.onnx_site import Site, Value

PASSING = {1: "FLOAT", 11: "DOUBLE"}  # casts a computed value may meet: TensorProto types
INTEGERS = {2: np.uint8, 3: np.int8, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_}


def shaped(value: Value, shape: Sequence[int]) -> Value:
    """The value in another shape."""
    return reshape(value, shape) if isinstance(value, Expr) else value.reshape(tuple(shape))


def identity(site: Site) -> Value:
    return site.value(0)


def dropout(site: Site) -> Value:
    site.ignore("ratio", "seed")
    if site.has(2) and bool(site.known(2).any()):
        raise site.refuse("has training_mode set", "Export the model in inference mode (model.eval()).")
    return site.value(0)


def cast(site: Site) -> Value:
    to, value = site.integer("to", 0), site.value(0)
    site.ignore("saturate", "round_mode")
    if isinstance(value, Expr):
        if to not in PASSING:
            raise site.refuse(f"casts to type number {to}, which rounds", "Keep computed values in float32 or float64.")
        return value
    if to in INTEGERS:
        return value.astype(INTEGERS[to])
    wide = value.astype(np.float64)
    stored = wide.astype(np.float32).astype(np.float64) if to == 1 else wide
    if (
        to not in PASSING
        or not np.array_equal(stored, wide)
        or (value.dtype.kind in "iu" and not np.array_equal(wide, value))
    ):
        raise site.refuse(
            f"casts constants to type number {to}, which rounds them", "Store the constants in their final type."
        )
    return wide


def constant_node(site: Site) -> Value:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        value = site.optional(name)
        if value is not None:
            array = np.asarray(value)
            return array.astype(np.float64) if array.dtype.kind == "f" or name.startswith("value_float") else array
    raise site.refuse("holds no numbers", "Store the constant as a dense tensor.")


def constant_of_shape(site: Site) -> Value:
    fill = site.optional("value")
    return np.full(site.integers(0), 0.0 if fill is None else np.asarray(fill).reshape(-1)[0])


def shape_of(site: Site) -> Value:
    shape = site.value(0).shape
    start, end = site.integer("start", 0), site.integer("end", len(shape))
    return np.asarray(shape[slice(start, end)], dtype=np.int64)


def flatten(site: Site) -> Value:
    value = site.value(0)
    rows = int(np.prod(value.shape[: site.integer("axis", 1)]))
    return shaped(value, (rows, int(np.prod(value.shape)) // rows))


def reshape_node(site: Site) -> Value:
    value, wanted = site.value(0), site.integers(1)
    if not site.integer("allowzero", 0):
        wanted = [value.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    return shaped(value, wanted)


def squeeze(site: Site) -> Value:
    value, axes = site.value(0), site.axes(1, since=13)
    rank = len(value.shape)
    dropped = {a % rank for a in axes} if axes is not None else {a for a, n in enumerate(value.shape) if n == 1}
    if any(value.shape[a] != 1 for a in dropped):
        raise site.refuse(f"squeezes axes {axes} of shape {value.shape}", "Squeeze only axes of length one.")
    return shaped(value, [n for a, n in enumerate(value.shape) if a not in dropped])


def unsqueeze(site: Site) -> Value:
    value, axes = site.value(0), site.axes(1, since=13)
    return site.rearrange(value, lambda a: np.expand_dims(a, tuple(axes or ())))


def transpose(site: Site) -> Value:
    value = site.value(0)
    order = site.integer_list("perm", range(len(value.shape))[::-1])
    return site.rearrange(value, lambda a: np.transpose(a, order))


def slice_node(site: Site) -> Value:
    value = site.value(0)
    if site.opset < 10:
        starts, ends = site.integer_list("starts", ()), site.integer_list("ends", ())
        axes, steps = site.integer_list("axes", range(len(starts))), [1] * len(starts)
    else:
        starts, ends = site.integers(1), site.integers(2)
        axes = site.integers(3) if site.has(3) else list(range(len(starts)))
        steps = site.integers(4) if site.has(4) else [1] * len(starts)
    parts = [slice(None)] * len(value.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        length = value.shape[axis]
        # A downward slice that ends before the first entry: Python spells that None, since -1 means the last entry.
        stop = None if step < 0 and end < -length else end
        parts[axis] = slice(start, stop, step)
    return site.rearrange(value, lambda a: a[tuple(parts)])


def gather(site: Site) -> Value:
    value, axis, index = site.value(0), site.integer("axis", 0), np.asarray(site.known(1))
    site.integers(1)
    return site.rearrange(value, lambda a: np.take(a, index, axis=axis))


def split(site: Site) -> list[Value]:
    value, axis, count = site.value(0), site.integer("axis", 0), len(site.node.outputs)
    length = value.shape[axis]
    if site.given("split"):
        sizes = site.integer_list("split", ())
    elif site.has(1):
        sizes = site.integers(1)
    else:
        each = -(-length // site.integer("num_outputs", count))
        if length % count and site.opset < 18:
            raise site.refuse(f"splits {length} entries into {count} equal parts", "Give the sizes of the parts.")
        sizes = [min(each, length - each * k) for k in range(count)]
    if sum(sizes) != length or len(sizes) != count or min(sizes) < 0:
        raise site.refuse(f"splits {length} entries into {sizes}", "Check the file with onnx.checker.")
    cuts = list(accumulate(sizes))[:-1]
    return [site.rearrange(value, lambda a, k=k: np.split(a, cuts, axis=axis)[k]) for k in range(count)]  # type: ignore[misc]


def concat(site: Site) -> Value:
    values, axis = site.values(), site.integer("axis", 1)
    if not any(isinstance(value, Expr) for value in values):
        return np.concatenate([value for value in values if not isinstance(value, Expr)], axis=axis)
    return concatenate([site.expr(i) for i in range(len(values))], axis)


def expand(site: Site) -> Value:
    value = site.value(0)
    shape = np.broadcast_shapes(value.shape, tuple(site.integers(1)))
    return site.rearrange(value, lambda a: np.broadcast_to(a, shape))


def tile(site: Site) -> Value:
    repeats = site.integers(1)
    return site.rearrange(site.value(0), lambda a: np.tile(a, repeats))


def pad(site: Site) -> Value:
    value, mode = site.value(0), site.text("mode", "constant")
    rank = len(value.shape)
    if site.opset < 11:
        amounts, fill, axes = site.integer_list("pads", ()), site.number("value", 0.0), list(range(rank))
    else:
        amounts, fill = site.integers(1), site.scalar(2) or 0.0
        axes = [a % rank for a in site.integers(3)] if site.has(3) else list(range(rank))
    if len(amounts) != 2 * len(axes):
        raise site.refuse(f"has {len(amounts)} pads for {len(axes)} axes", "Check the file with onnx.checker.")
    widths = [(0, 0)] * rank
    for k, axis in enumerate(axes):
        widths[axis] = (amounts[k], amounts[k + len(axes)])
    source = value if isinstance(value, Expr) else constant(value)
    return padded(source, widths, mode, fill)
