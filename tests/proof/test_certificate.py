"""A certificate survives its file, and no bytes do anything but give a certificate or a `ProofError` of one line."""

from __future__ import annotations

import json
import zlib
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from milpverify.errors import ProofError
from milpverify.proof.certificate import (
    Certificate,
    Claims,
    Context,
    Group,
    Layer,
    LeafTree,
    PlaneSet,
    from_bytes,
    read_certificate,
)
from milpverify.proof.container import MAGIC
from milpverify.proof.exact import check_exact
from tests.cases import NETWORKS, seeds
from tests.proof.certificate_cases import question, random_certificate

ONE_LEAF = (Group((0,), (Context((LeafTree(),)),)),)


def same(a: Any, b: Any) -> bool:
    """Whether two certificates, or parts of them, are equal with all dtypes."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    if is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b)


def some_certificate(seed: int, bits: int = 40) -> Certificate:
    rng, net, prop = question("chain", "box", seed)
    certificate = random_certificate(rng, net, prop, bits, Fraction(-7, 3))
    return replace(certificate, files={"network": "ab", "property": "cd"}, network="n", property="p")


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the bytes of the arrays."""
    data = zlib.decompress(content[len(MAGIC) :])
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def packed(header: dict[str, Any] | str, arrays: bytes = b"") -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return MAGIC + zlib.compress(len(text).to_bytes(8, "little") + text + arrays)


def refused(content: bytes, reason: str = "", **options: int) -> None:
    with pytest.raises(ProofError, match=reason) as caught:
        from_bytes(content, **options)
    assert "\n" not in str(caught.value)


@settings(max_examples=25)
@given(seed=seeds)
def test_bytes_read_back_the_same(seed: int) -> None:
    certificate = some_certificate(seed)
    content = certificate.to_bytes()
    again = from_bytes(content)
    assert same(again, certificate)
    assert again.to_bytes() == content


def test_files_read_back_the_same(tmp_path: Path) -> None:
    certificate = some_certificate(5)
    certificate.write(tmp_path / "a.proof")
    assert same(read_certificate(tmp_path / "a.proof"), certificate)
    assert [path.name for path in tmp_path.iterdir()] == ["a.proof"]
    with pytest.raises(ProofError, match="cannot write"):
        certificate.write(tmp_path / "absent" / "a.proof")
    with pytest.raises(ProofError, match="cannot read"):
        read_certificate(tmp_path / "b.proof")
    with pytest.raises(ProofError, match="cannot read"):
        read_certificate(tmp_path)
    with pytest.raises(ProofError, match="more than 100 bytes"):
        read_certificate(tmp_path / "a.proof", max_bytes=100)


def test_an_array_that_stands_twice_is_written_once() -> None:
    alpha = np.random.default_rng(0).random((1, 1000))
    tree = LeafTree(alpha=alpha)
    certificate = Certificate(30, (Group((0, 1), (Context((tree, tree)),)),))
    header, arrays = parts(certificate.to_bytes())
    assert len(header["arrays"]) == 1
    assert len(arrays) == alpha.nbytes


HEADER: dict[str, Any] = {
    "format": "milpverify-proof",
    "version": 1,
    "semantics": "real",
    "bits": 30,
    "threshold": "0/1",
    "arrays": [],
    "groups": [{"cases": [0], "contexts": [{"trees": [{}]}]}],
}


def changed(**values: Any) -> dict[str, Any]:
    """The header above with other values; None takes a key away."""
    return {key: value for key, value in {**HEADER, **values}.items() if value is not None}


def with_tree(**tree: Any) -> list[Any]:
    return [{"cases": [0], "contexts": [{"trees": [tree]}]}]


def with_layer(**layer: Any) -> list[Any]:
    return [{"cases": [0], "contexts": [{"trees": [{}], "layers": [{"rule": "crown", **layer}]}]}]


def test_the_least_header_is_read() -> None:
    assert same(from_bytes(packed(HEADER)), Certificate(30, ONE_LEAF, made_by=""))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (changed(more=1), "unknown key 'more'"),
        (changed(bits=None), "lacks 'bits'"),
        (changed(bits=15), "bits"),
        (changed(bits=4097), "bits"),
        (changed(bits=30.0), "30.0 is no integer"),
        (changed(bits=True), "integer"),
        (changed(bits="30"), "integer"),
        (changed(version=True), "version"),
        (changed(version=2), "version"),
        (changed(format="proof"), "format"),
        (changed(semantics="float64"), "semantics"),
        (changed(threshold="0.5"), "p/q"),
        (changed(threshold="1/0"), "zero"),
        (changed(threshold="1/-2"), "p/q"),
        (changed(threshold="٣/4"), "p/q"),
        (changed(threshold="9" * 5000), "p/q"),
        (changed(threshold=0), "text"),
        (changed(files={"network": 1}), "texts"),
        (changed(files={"solver": "x"}), "keys"),
        (changed(files=[]), "object"),
        (changed(made_by=7), "text"),
        (changed(groups=[]), "exactly one group"),
        (changed(groups={}), "list"),
        (changed(groups=[1]), "object"),
        (changed(groups=HEADER["groups"] * 2), "exactly one group"),
        (changed(groups=[{"cases": [0]}]), "lacks 'contexts'"),
        (changed(groups=[{"cases": [], "contexts": [{"trees": []}]}]), "at least one"),
        (changed(groups=[{"cases": [-1], "contexts": [{"trees": [{}]}]}]), "indices from 0"),
        (changed(groups=[{"cases": [False], "contexts": [{"trees": [{}]}]}]), "integers"),
        (changed(groups=[{"cases": [0, 0], "contexts": [{"trees": [{}, {}]}]}]), "different"),
        (changed(groups=[{"cases": [0], "contexts": []}]), "0 contexts"),
        (changed(groups=[{"cases": [0], "contexts": [{"trees": [{}]}, {"trees": [{}]}]}]), "2 contexts"),
        (changed(groups=[{"cases": [0], "contexts": [{"trees": []}]}]), "0 trees"),
        (changed(groups=[{"cases": [0], "split": 0, "contexts": [{"trees": [{}]}]}]), "no array"),
        (changed(groups=[{"cases": [0], "contexts": [{"trees": [{}], "layers": [{}]}]}]), "lacks 'rule'"),
        (changed(groups=[{"cases": [0], "contexts": [{"trees": [{}], "layers": [{"rule": "lp"}]}]}]), "crown"),
        (changed(groups=with_layer(claims={})), "list"),
        (changed(groups=with_layer(claims=[0])), "object"),
        (changed(groups=with_layer(claims=[{}])), "lacks 'row'"),
        (changed(groups=with_layer(claims=[{"row": 0}])), "no array"),
        (changed(groups=with_layer(claims=[{"row": 0, "mu": 0}])), "unknown key 'mu'"),
        (changed(groups=with_layer(claims=[{"row": 0, "planes": 0}])), "planes of 0 of claims .* object"),
        (changed(groups=with_layer(claims=[{"row": 0, "planes": {}}])), "lacks 'P'"),
        (changed(groups=with_tree(gamma=0)), "unknown key 'gamma'"),
        (changed(groups=with_tree(alpha=-1)), "no array"),
        (changed(groups=with_tree(alpha=0)), "no array"),
        (changed(groups=with_tree(alpha=False)), "integer"),
        (changed(groups=with_tree(planes=0)), "together"),
        (changed(arrays={}), '"arrays"'),
        (changed(arrays=None), '"arrays"'),
        (changed(arrays=[{"dtype": "f8"}]), "keys"),
        (changed(arrays=[{"dtype": "f2", "shape": [0]}]), "dtypes"),
        (changed(arrays=[{"dtype": ["f8"], "shape": [0]}]), "dtypes"),
        (changed(arrays=[{"dtype": "f8", "shape": []}]), "axes"),
        (changed(arrays=[{"dtype": "f8", "shape": 3}]), "axes"),
        (changed(arrays=[{"dtype": "f8", "shape": [1]}]), "beyond the end"),
        (changed(arrays=[{"dtype": "f8", "shape": [-1]}]), "integers from 0"),
        (changed(arrays=[{"dtype": "f8", "shape": [True]}]), "integers from 0"),
        (changed(arrays=[{"dtype": "f8", "shape": [2**40, 2**40]}]), "beyond the end"),
        (changed(arrays=[{"dtype": "f8", "shape": [0, 2**63]}]), "integers from 0"),
        ("[]", "no JSON object"),
        ("{", "JSON"),
        ('{"bits": NaN}', "no integer"),
        ('{"bits": 1, "bits": 2}', "twice"),
        ('{"bits": ' + "9" * 5000 + "}", "JSON"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_a_header_that_is_not_of_the_form_is_refused(header: dict[str, Any] | str, reason: str) -> None:
    refused(packed(header), reason)


def test_bytes_around_the_header_are_refused() -> None:
    content = some_certificate(1).to_bytes()
    refused(b"", "MVPROOF1")
    refused(b"MVPROOF2" + content[8:], "MVPROOF1")
    refused(content[:-1], "truncated")
    refused(content[:20], "truncated|damaged")
    refused(content + b"\0", "follow the stream")
    refused(content + content, "follow the stream")
    refused(MAGIC + b"not zlib", "inflated")
    refused(MAGIC + zlib.compress(b"1234"), "before the length")
    refused(MAGIC + zlib.compress(b"\xff" * 8 + b"{}"), "header of")
    refused(packed(HEADER, b"\0"), "1 bytes follow the last array")
    refused(MAGIC + zlib.compress((2).to_bytes(8, "little") + b"\xff\xfe"), "JSON")


def test_a_stream_that_inflates_too_far_is_refused() -> None:
    bomb = MAGIC + zlib.compress(bytes(10_000_000), 9)
    assert len(bomb) < 20_000
    refused(bomb, "more than 1000000 bytes", max_bytes=1_000_000)
    content = packed(HEADER)
    size = len(zlib.decompress(content[8:]))
    assert from_bytes(content, max_bytes=size).bits == 30
    refused(content, "more than", max_bytes=size - 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_arrays_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ProofError, match="NaN"):
        LeafTree(alpha=np.array([[value]]))
    arrays = [{"dtype": "f4", "shape": [1, 1]}]
    refused(packed(changed(arrays=arrays), np.float32(value).tobytes()), "NaN")


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def context() -> Context:
    return Context((LeafTree(),))


@pytest.mark.parametrize(
    "split", [(), (-1, -1), (0, -1), (0,), (-2,), (0, -1, -1, -1), (-1, 0, -1, -1), (0, 0, -1, -1)]
)
def test_lists_that_are_no_trees_are_refused(split: tuple[int, ...]) -> None:
    with pytest.raises(ProofError, match="preorder"):
        LeafTree(split=ints(*split))
    with pytest.raises(ProofError, match="preorder"):
        Group((0,), (context(),), ints(*split), np.zeros(len(split)))


@pytest.mark.parametrize("split", [(), (-1,), (-1, -1, -1), (0, -1, -1), (-1, 0, -1), (0, -1, -1, -1, -1), (-1, -2)])
def test_lists_that_are_not_as_many_trees_as_claims_are_refused(split: tuple[int, ...]) -> None:
    with pytest.raises(ProofError, match="not 2 trees in preorder"):
        Claims(ints(0, 1), split=ints(*split))
    assert Claims(ints(0, 1), split=ints(-1, 0, -1, -1)).n_leaves == 3


def test_arrays_of_another_kind_are_refused() -> None:
    one = np.ones((1, 1))
    planes = PlaneSet(ints(0, 0), np.ones((2, 3)))
    for make in (
        lambda: LeafTree(split=np.array([-1])),
        lambda: LeafTree(alpha=np.ones((2, 1))),
        lambda: LeafTree(alpha=np.ones(1)),
        lambda: LeafTree(alpha=np.ones((1, 1), dtype=np.int32)),
        lambda: LeafTree(alpha=np.ones((1, 1), dtype=np.float16)),
        lambda: LeafTree(alpha=one * 1.001),
        lambda: LeafTree(alpha=-one),
        lambda: LeafTree(mu=-one),
        lambda: LeafTree(planes=0, theta=-one),
        lambda: LeafTree(planes=0),
        lambda: LeafTree(theta=one),
        lambda: LeafTree(planes=-1, theta=one),
        lambda: Claims(ints()),
        lambda: Claims(ints(-1)),
        lambda: Claims(np.zeros(1)),
        lambda: Claims(ints(0), alpha=np.ones((2, 1))),
        lambda: Claims(ints(0), alpha=one * 2),
        lambda: Claims(ints(0), theta=one),
        lambda: Claims(ints(0), planes=planes),
        lambda: Claims(ints(0), planes=planes, theta=one),
        lambda: Claims(ints(0), planes=planes, theta=-np.ones((1, 2))),
        lambda: Layer("lp"),
        lambda: Layer(unstable=np.array([2], dtype=np.uint8)),
        lambda: Layer(unstable=np.ones((1, 1), dtype=np.uint8)),
        lambda: Layer(unstable=np.ones(1)),
        lambda: PlaneSet(ints(1, 0), np.ones((2, 3))),
        lambda: PlaneSet(ints(-1), np.ones((1, 3))),
        lambda: PlaneSet(ints(0), np.ones((2, 3))),
        lambda: Context((LeafTree(planes=0, theta=one),)),
        lambda: Context((LeafTree(planes=0, theta=one),), None, (planes,)),
        lambda: Group((0,), (context(),), ints(-1)),
        lambda: Group((0,), (context(),), ints(-1), np.ones(1)),
        lambda: Group((0,), (context(),), ints(-1), np.zeros(1, dtype=np.float32)),
        lambda: Group((0,), (context(),), ints(-1), np.zeros(2)),
        lambda: Certificate(15, ONE_LEAF),
        lambda: Certificate(4097, ONE_LEAF),
        lambda: Certificate(30, ONE_LEAF * 2),
        lambda: Certificate(30, ()),
    ):
        with pytest.raises(ProofError) as caught:
            make()
        assert "\n" not in str(caught.value)
    assert LeafTree(beta=-one).n_leaves == 1  # any real multiplier of a split is valid


@settings(max_examples=150)
@given(seed=seeds)
def test_damaged_bytes_never_do_anything_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kind = list(NETWORKS)[seed % 2]
    made, net, prop = question(kind, "box", seed % 7)
    content = random_certificate(made, net, prop, 30).to_bytes()
    header, arrays = parts(content)
    text, level = json.dumps(header), int(rng.integers(3))
    if level == 0:
        damaged = bytearray(content)
    elif level == 1:
        damaged = bytearray(text.encode())
    else:
        damaged = bytearray(arrays or b"\0")
    for _ in range(int(rng.integers(1, 4))):
        i = int(rng.integers(len(damaged)))
        action = rng.integers(3)
        if action == 0:
            damaged[i] ^= 1 << int(rng.integers(8))
        elif action == 1:
            damaged[i : i + 1] = bytes(
                rng.choice(list(b'0123456789-,:[]{}"tfn'), size=int(rng.integers(0, 3))).tolist()
            )
        else:
            del damaged[i : i + int(rng.integers(1, 9))]
            damaged += b"\0" * (len(damaged) == 0)
    if level == 1:
        damaged = bytearray(MAGIC + zlib.compress(len(damaged).to_bytes(8, "little") + bytes(damaged) + arrays))
    elif level == 2:
        damaged = bytearray(packed(text, bytes(damaged)))
    try:
        certificate = from_bytes(bytes(damaged), max_bytes=1 << 22)
    except ProofError as error:
        assert "\n" not in str(error)
        return
    false = replace(certificate, threshold=Fraction(1000))  # more than any slack there is
    result = check_exact(false, net, prop)
    assert not result.accepted
    assert result.reason
    again = check_exact(certificate, net, prop, certificate.threshold)
    assert again.accepted == (not again.reason)
