"""A certificate as header and arrays, and back; keys that are not known are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np

from milpverify.errors import ProofError
from milpverify.proof.certificate import Certificate, Claims, Context, Group, Layer, LeafTree, PlaneSet
from milpverify.proof.container import Header

FORMAT, VERSION = "milpverify-proof", 1
RATIONAL = re.compile(r"-?[0-9]{1,4000}(/[0-9]{1,4000})?")

T = TypeVar("T")


def header_of(certificate: Certificate) -> tuple[Header, list[np.ndarray]]:
    """The header without "arrays", and the arrays; one that stands in several places is listed once."""
    arrays = _Listed()
    header: Header = {
        "format": FORMAT,
        "version": VERSION,
        "semantics": certificate.semantics,
        "bits": int(certificate.bits),
        "made_by": certificate.made_by,
        "files": dict(certificate.files),
        "network": certificate.network,
        "property": certificate.property,
        "threshold": f"{certificate.threshold.numerator}/{certificate.threshold.denominator}",
        **({"grid": int(certificate.grid)} if certificate.grid else {}),
        "groups": [_group_part(group, arrays) for group in certificate.groups],
    }
    return header, arrays.arrays


class _Listed:
    """Arrays in the order in which they were first asked for."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self.numbers: dict[int, int] = {}

    def part(self, **arrays: np.ndarray | None) -> dict[str, Any]:
        """Keys and numbers of the arrays that are given."""
        return {name: self._number(array) for name, array in arrays.items() if array is not None}

    def _number(self, array: np.ndarray) -> int:
        if id(array) not in self.numbers:
            self.numbers[id(array)] = len(self.arrays)
            self.arrays.append(array)
        return self.numbers[id(array)]


def _group_part(group: Group, arrays: _Listed) -> dict[str, Any]:
    part: dict[str, Any] = {"cases": [int(case) for case in group.cases]}
    part.update(arrays.part(split=group.split, at=group.at))
    part["contexts"] = [_context_part(context, arrays) for context in group.contexts]
    return part


def _context_part(context: Context, arrays: _Listed) -> dict[str, Any]:
    part: dict[str, Any] = {}
    if context.layers is not None:
        part["layers"] = [_layer_part(layer, arrays) for layer in context.layers]
    if context.planes:
        part["planes"] = [arrays.part(neuron=planes.neuron, P=planes.P) for planes in context.planes]
    part["trees"] = []
    for tree in context.trees:
        piece = arrays.part(split=tree.split, alpha=tree.alpha, beta=tree.beta, mu=tree.mu, theta=tree.theta)
        part["trees"].append(piece if tree.planes is None else {**piece, "planes": int(tree.planes)})
    return part


def _layer_part(layer: Layer, arrays: _Listed) -> dict[str, Any]:
    part: dict[str, Any] = {"rule": layer.rule, **arrays.part(unstable=layer.unstable)}
    if layer.claims:
        part["claims"] = [_claims_part(claims, arrays) for claims in layer.claims]
    return part


def _claims_part(claims: Claims, arrays: _Listed) -> dict[str, Any]:
    part = arrays.part(row=claims.row, split=claims.split, alpha=claims.alpha, beta=claims.beta, theta=claims.theta)
    if claims.planes is not None:
        part["planes"] = arrays.part(neuron=claims.planes.neuron, P=claims.planes.P)
    return part


def certificate_of(header: Header, arrays: list[np.ndarray]) -> Certificate:
    """The certificate that a header and its arrays describe.

    Raises:
        ProofError: If they are not of the form.
    """
    fields = _Fields(header, "the header", arrays)
    needed = {"format", "version", "semantics", "bits", "threshold", "groups"}
    fields.keys(needed, {"made_by", "files", "network", "property", "grid"})
    if header["format"] != FORMAT or type(header["version"]) is not int or header["version"] != VERSION:
        raise ProofError(f"proof: the header must say format {FORMAT!r} and version {VERSION}.")
    return Certificate(
        bits=fields.integer("bits"),
        groups=tuple(fields.each("groups", _group)),
        threshold=_rational(fields.text("threshold")),
        network=fields.text("network"),
        property=fields.text("property"),
        made_by=fields.text("made_by"),
        files=_files(header.get("files", {})),
        semantics=fields.text("semantics"),
        grid=fields.integer("grid") if "grid" in header else 0,
    )


class _Fields:
    """An object of the header, read key by key."""

    def __init__(self, part: Any, where: str, arrays: list[np.ndarray]) -> None:
        if not isinstance(part, dict):
            raise ProofError(f"proof: {where} must be a JSON object.")
        self.part, self.where, self.all_arrays = part, where, arrays

    def keys(self, needed: set[str], allowed: set[str]) -> None:
        """Refuse missing and unknown keys."""
        missing, unknown = needed - set(self.part), set(self.part) - needed - allowed
        if missing:
            raise ProofError(f"proof: {self.where} lacks {min(missing)!r}.")
        if unknown:
            raise ProofError(f"proof: {self.where} has the unknown key {min(unknown)[:40]!r}.")

    def integer(self, key: str) -> int:
        """An integer; true and false are none."""
        if type(self.part[key]) is not int:
            raise ProofError(f"proof: {key!r} of {self.where} must be an integer.")
        return int(self.part[key])

    def text(self, key: str) -> str:
        """A text; empty where the key is left out."""
        value = self.part.get(key, "")
        if not isinstance(value, str):
            raise ProofError(f"proof: {key!r} of {self.where} must be a text.")
        return value

    def items(self, key: str) -> list[Any]:
        """A list."""
        if not isinstance(self.part[key], list):
            raise ProofError(f"proof: {key!r} of {self.where} must be a list.")
        return list(self.part[key])

    def each(self, key: str, read: Callable[[_Fields], T]) -> list[T]:
        """The objects of a list."""
        where = f"{key} of {self.where}"
        return [read(_Fields(part, f"{i} of {where}", self.all_arrays)) for i, part in enumerate(self.items(key))]

    def array(self, key: str) -> np.ndarray | None:
        """The array that a number stands for; None where the key is left out."""
        if key not in self.part:
            return None
        number = self.integer(key)
        if not 0 <= number < len(self.all_arrays):
            raise ProofError(f"proof: {key!r} of {self.where} names no array of {len(self.all_arrays)}.")
        return self.all_arrays[number]

    def needed_array(self, key: str) -> np.ndarray:
        """The same for a key that `keys` has asked for."""
        array = self.array(key)
        assert array is not None
        return array


def _group(fields: _Fields) -> Group:
    fields.keys({"cases", "contexts"}, {"split", "at"})
    cases = fields.items("cases")
    if not all(type(case) is int for case in cases):
        raise ProofError(f"proof: the cases of {fields.where} must be integers.")
    contexts = tuple(fields.each("contexts", _context))
    return Group(tuple(cases), contexts, fields.array("split"), fields.array("at"))


def _context(fields: _Fields) -> Context:
    fields.keys({"trees"}, {"layers", "planes"})
    layers = tuple(fields.each("layers", _layer)) if "layers" in fields.part else None
    planes = tuple(fields.each("planes", _plane_set)) if "planes" in fields.part else ()
    return Context(tuple(fields.each("trees", _tree)), layers, planes)


def _layer(fields: _Fields) -> Layer:
    fields.keys({"rule"}, {"unstable", "claims"})
    claims = tuple(fields.each("claims", _claims)) if "claims" in fields.part else ()
    return Layer(fields.text("rule"), fields.array("unstable"), claims)


def _claims(fields: _Fields) -> Claims:
    fields.keys({"row"}, {"split", "alpha", "beta", "planes", "theta"})
    planes = None
    if "planes" in fields.part:
        planes = _plane_set(_Fields(fields.part["planes"], f"planes of {fields.where}", fields.all_arrays))
    split, alpha, beta, theta = (fields.array(key) for key in ("split", "alpha", "beta", "theta"))
    return Claims(fields.needed_array("row"), split, alpha, beta, planes, theta)


def _plane_set(fields: _Fields) -> PlaneSet:
    fields.keys({"neuron", "P"}, set())
    return PlaneSet(fields.needed_array("neuron"), fields.needed_array("P"))


def _tree(fields: _Fields) -> LeafTree:
    fields.keys(set(), {"split", "alpha", "beta", "mu", "planes", "theta"})
    planes = fields.integer("planes") if "planes" in fields.part else None
    split, alpha, beta, mu, theta = (fields.array(key) for key in ("split", "alpha", "beta", "mu", "theta"))
    return LeafTree(split, alpha, beta, mu, planes, theta)


def _files(files: Any) -> Mapping[str, str]:
    if not isinstance(files, dict) or not set(files) <= {"network", "property"}:
        raise ProofError("proof: 'files' of the header must be an object with the keys 'network' and 'property'.")
    if not all(isinstance(digest, str) for digest in files.values()):
        raise ProofError("proof: 'files' of the header must hold texts.")
    return dict(files)


def _rational(text: str) -> Fraction:
    if not RATIONAL.fullmatch(text):
        raise ProofError("proof: the threshold must be written as p/q.")
    try:
        return Fraction(text)
    except ZeroDivisionError:
        raise ProofError("proof: the threshold has the denominator zero.") from None
