"""ATen operators that move values without changing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from milpverify.network.expression import Expr, concatenate, padded, reshape, select
from milpverify.network.torch_call import Call

PADDING_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


def identity(call: Call) -> Expr:
    call.ignore("memory_format", "layout", "device", "pin_memory", "non_blocking", "copy")
    return call.expr("self")


def cast(call: Call) -> Expr:
    import torch

    dtype = call.optional("dtype", torch.float64)
    if dtype not in (torch.float32, torch.float64):
        raise call.refuse(f"casts to {dtype}, which rounds", "Keep computed values in float32 or float64.")
    return identity(call)


def dropout(call: Call) -> Expr:
    call.ignore("p")
    if call.take("train"):
        raise call.refuse("drops values at random", "Call model.eval().")
    return call.expr("input")


def view(call: Call) -> Expr:
    return reshape(call.expr("self"), call.integers("shape" if call.has("shape") else "size"))


def flatten(call: Call) -> Expr:
    x = call.expr("self")
    start, end = (n % max(len(x.shape), 1) for n in (call.take("start_dim"), call.take("end_dim")))
    return reshape(x, (*x.shape[:start], int(np.prod(x.shape[start : end + 1])), *x.shape[end + 1 :]))


def permute(call: Call) -> Expr:
    order = call.integers("dims")
    return _moved(call.expr("self"), lambda a: np.transpose(a, order))


def transpose(call: Call) -> Expr:
    first, second = call.take("dim0"), call.take("dim1")
    return _moved(call.expr("self"), lambda a: np.swapaxes(a, first, second))


def turned(call: Call) -> Expr:
    return _moved(call.expr("self"), np.transpose)


def squeeze(call: Call) -> Expr:
    x = call.expr("self")
    axes = call.integers("dim") if call.has("dim") else range(len(x.shape))
    dropped = {a % len(x.shape) for a in axes if x.shape[a] == 1}
    return reshape(x, [n for a, n in enumerate(x.shape) if a not in dropped])


def unsqueeze(call: Call) -> Expr:
    dim = call.take("dim")
    return _moved(call.expr("self"), lambda a: np.expand_dims(a, dim))


def expand(call: Call) -> Expr:
    x, size = call.expr("self"), call.integers("size")
    call.ignore("implicit")
    kept = [1] * (len(size) - len(x.shape)) + list(x.shape)
    shape = [m if n == -1 else n for n, m in zip(size, kept, strict=True)]
    return _moved(x, lambda a: np.broadcast_to(a, shape))


def repeat(call: Call) -> Expr:
    times = call.integers("repeats")
    return _moved(call.expr("self"), lambda a: np.tile(a, times))


def slice_along(call: Call) -> Expr:
    x, dim = call.expr("self"), call.take("dim")
    part = slice(call.take("start"), call.take("end"), call.take("step"))
    return _moved(x, lambda a: np.moveaxis(np.moveaxis(a, dim, 0)[part], 0, dim))


def select_along(call: Call) -> Expr:
    dim, at = call.take("dim"), call.take("index")
    return _moved(call.expr("self"), lambda a: np.take(a, at, axis=dim))


def index_select(call: Call) -> Expr:
    dim, positions = call.take("dim"), call.known("index").astype(np.int64)
    return _moved(call.expr("self"), lambda a: np.take(a, positions, axis=dim))


def index_tensors(call: Call) -> Expr:
    x, given = call.expr("self"), call.take("indices")
    if any(isinstance(i, Expr) or (i is not None and i.is_floating_point()) for i in given):
        raise call.refuse("picks entries by values computed from the input", "Use constant positions.")
    parts = tuple(slice(None) if i is None else i.cpu().numpy() for i in given)
    return _moved(x, lambda a: a[parts])


def split(call: Call) -> list[Expr]:
    x, dim = call.expr("self"), call.optional("dim", 0)
    length = x.shape[dim]
    if call.name == "unbind":
        return [select(x, part) for part in np.moveaxis(x.index, dim, 0)]
    if call.name == "chunk":
        size = -(-length // call.take("chunks"))
    else:
        size = call.take("split_sizes" if call.has("split_sizes") else "split_size")
    sizes = list(size) if isinstance(size, Sequence) else [min(size, length - at) for at in range(0, length, size)]
    return [select(x, part) for part in np.split(x.index, list(accumulate(sizes))[:-1], axis=dim)]


def cat(call: Call) -> Expr:
    return concatenate(call.exprs("tensors"), call.take("dim"))


def stack(call: Call) -> Expr:
    dim = call.take("dim")
    return concatenate([_moved(x, lambda a: np.expand_dims(a, dim)) for x in call.exprs("tensors")], dim)


def pad(call: Call) -> Expr:
    x, amounts = call.expr("self"), call.integers("pad")
    mode, fill = call.optional("mode", "constant"), call.optional("value", 0.0)
    widths = [(0, 0)] * len(x.shape)
    for k in range(len(amounts) // 2):
        widths[-1 - k] = (amounts[2 * k], amounts[2 * k + 1])
    return padded(x, widths, PADDING_MODES.get(mode, mode), float(call.as_known(float(fill), "value")))


def slice_scatter(call: Call) -> Expr:
    dim = call.take("dim")
    part = slice(call.take("start"), call.take("end"), call.take("step"))
    return _replaced(call, lambda a: np.moveaxis(a, dim, 0)[part], lambda b: np.moveaxis(b, dim, 0))


def select_scatter(call: Call) -> Expr:
    dim, at = call.take("dim"), call.take("index")
    return _replaced(call, lambda a: np.moveaxis(a, dim, 0)[at], lambda b: b)


def copy(call: Call) -> Expr:
    call.ignore("non_blocking")
    return _replaced(call, lambda a: a, lambda b: b)


def _replaced(call: Call, view: Callable[[np.ndarray], np.ndarray], turn: Callable[[np.ndarray], np.ndarray]) -> Expr:
    """`self` with `src` written into a view of it."""
    x, written = call.expr("self"), call.expr("src")
    index = np.array(x.index)
    view(index)[...] = x.size + turn(written.index)
    joined = concatenate([reshape(x, (x.size,)), reshape(written, (written.size,))], 0)
    return select(joined, index)


def _moved(x: Expr, how: Callable[[np.ndarray], np.ndarray]) -> Expr:
    return select(x, how(x.index))
