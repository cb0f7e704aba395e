"""The bytes of a proof: a magic word, then one zlib stream that holds a JSON header and arrays (docs/proofs.md, 3).

Nothing here knows what the header means. Every way in which bytes can be wrong is a `ProofError` of one line.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from milpverify.errors import ProofError

MAGIC = b"MVPROOF1"
DTYPES = {"u1": "|u1", "i4": "<i4", "i8": "<i8", "f4": "<f4", "f8": "<f8"}
MAX_BYTES = 1 << 31
MAX_AXES = 2
MAX_LENGTH = 1 << 40  # of one axis: also of an array without entries

Header = dict[str, Any]


def dtype_name(array: np.ndarray) -> str:
    """How the file names an array's dtype.

    Raises:
        ProofError: If the format has no such dtype.
    """
    name = array.dtype.kind + str(array.dtype.itemsize)
    if name not in DTYPES:
        raise ProofError(f"proof: an array of dtype {array.dtype} cannot be written. Use one of {', '.join(DTYPES)}.")
    return name


def pack(header: Header, arrays: Sequence[np.ndarray]) -> bytes:
    """The file's bytes; the header gets the list "arrays".

    Raises:
        ProofError: If an array has a dtype that the format does not know.
    """
    listed = [{"dtype": dtype_name(array), "shape": list(array.shape)} for array in arrays]
    text = json.dumps({**header, "arrays": listed}, separators=(",", ":")).encode()
    squeezer = zlib.compressobj(6)
    parts = [MAGIC, squeezer.compress(len(text).to_bytes(8, "little") + text)]
    for array in arrays:
        parts.append(squeezer.compress(np.ascontiguousarray(array, dtype=DTYPES[dtype_name(array)]).tobytes()))
    return b"".join([*parts, squeezer.flush()])


def unpack(content: bytes, max_bytes: int = MAX_BYTES) -> tuple[Header, list[np.ndarray]]:
    """The header without its list "arrays", and the arrays, read-only and finite.

    Args:
        content: The whole file.
        max_bytes: What the stream may inflate to.

    Raises:
        ProofError: If the bytes are not of the format.
    """
    data = _inflated(content, max_bytes)
    if len(data) < 8:
        raise ProofError("proof: the stream ends before the length of its header. The file is damaged.")
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise ProofError(f"proof: a header of {length} bytes in a stream of {len(data)}. The file is damaged.")
    header = _header(data[8 : 8 + length])
    return header, _arrays(header.pop("arrays", None), data, 8 + length)


def _inflated(content: bytes, max_bytes: int) -> bytes:
    if content[: len(MAGIC)] != MAGIC:
        raise ProofError("proof: the file does not begin with MVPROOF1. It is no proof of this format.")
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(memoryview(content)[len(MAGIC) :], max_bytes + 1)
    except (zlib.error, MemoryError, OverflowError) as error:
        raise ProofError(f"proof: the stream cannot be inflated ({error}). The file is damaged.") from None
    if len(data) > max_bytes:
        raise ProofError(f"proof: the stream inflates to more than {max_bytes} bytes. Allow more if you trust it.")
    if not stream.eof:
        raise ProofError("proof: the stream has no end. The file is truncated.")
    if stream.unused_data:
        raise ProofError(f"proof: {len(stream.unused_data)} bytes follow the stream. The file is damaged.")
    return data


def _header(text: bytes) -> Header:
    try:
        header = json.loads(
            text.decode("utf-8"), object_pairs_hook=_once, parse_float=_no_number, parse_constant=_no_number
        )
    except (ValueError, RecursionError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise ProofError(f"proof: the header is not the JSON of a proof ({reason}).") from None
    if not isinstance(header, dict):
        raise ProofError("proof: the header is no JSON object.")
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys all differ."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is no integer")


def _arrays(listed: Any, data: bytes, start: int) -> list[np.ndarray]:
    if not isinstance(listed, list):
        raise ProofError('proof: the header has no list "arrays".')
    arrays = []
    for i, entry in enumerate(listed):
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape"}:
            raise ProofError(f'proof: array {i} must have the keys "dtype" and "shape" and no other.')
        name, shape = entry["dtype"], entry["shape"]
        if not isinstance(name, str) or name not in DTYPES:
            raise ProofError(f"proof: array {i} must have one of the dtypes {', '.join(DTYPES)}.")
        if not isinstance(shape, list) or not 1 <= len(shape) <= MAX_AXES:
            raise ProofError(f"proof: array {i} must have one or two axes.")
        if not all(type(n) is int and 0 <= n <= MAX_LENGTH for n in shape):
            raise ProofError(f"proof: the shape of array {i} must consist of integers from 0 to 2^40.")
        count, dtype = int(np.prod([1, *shape], dtype=object)), np.dtype(DTYPES[name])
        if count * dtype.itemsize > len(data) - start:
            raise ProofError(f"proof: array {i} reaches beyond the end of the stream.")
        array = np.frombuffer(data, dtype=dtype, count=count, offset=start).reshape(shape)
        if dtype.kind == "f" and not np.isfinite(array).all():
            raise ProofError(f"proof: array {i} holds NaN or infinity.")
        start += count * dtype.itemsize
        arrays.append(array)
    if start != len(data):
        raise ProofError(f"proof: {len(data) - start} bytes follow the last array.")
    return arrays
