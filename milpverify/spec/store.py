"""Properties on disk: lossless JSON, and the suffix that decides between it and VNN-LIB.

    {"format": "milpverify-property", "version": 1, "name", "label", "n_inputs", "n_outputs",
     "regions": [{"type": "Box", "lower": [...], "upper": [...], "exact": null | [["p/q", ...], ["p/q", ...]],
                  "cuts": {"A": [[...]], "b": [...]}, "grid": steps},
                 {"type": "LinfBall" | "L1Ball" | "L2Ball", "center": [...], "eps", "clip": null | [[...], [...]],
                  "cuts", "grid"}],
     "cases": [{"name", "region": index, "C": [[...]], "d": ["p/q", ...]}]}

A region without a grid has no key "grid". Floats are written so that they read back the same; infinite clip entries as
"inf" and "-inf".
"""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from milpverify.errors import InputError, PropertyError
from milpverify.spec.balls import Ball, LinfBall
from milpverify.spec.box import Box
from milpverify.spec.grid import Grid
from milpverify.spec.property import Case, Polyhedron, Property
from milpverify.spec.region import Region
from milpverify.spec.round_balls import L1Ball, L2Ball
from milpverify.spec.vnnlib import read_vnnlib
from milpverify.spec.vnnlib_text import vnnlib_bytes
from milpverify.whole_files import written_whole

FORMAT, VERSION = "milpverify-property", 1

BALLS: dict[str, type[Ball]] = {"LinfBall": LinfBall, "L1Ball": L1Ball, "L2Ball": L2Ball}


def save_property(prop: Property, path: Path) -> None:
    """`Property.save`."""
    if path.suffix == ".json":
        content = json.dumps(_document(prop), indent=None).encode()
    elif _is_vnnlib(path):
        content = vnnlib_bytes(prop, compress=path.suffix == ".gz")
    else:
        raise PropertyError(f"save: {path.name!r} has no known suffix. Use .json, .vnnlib or .vnnlib.gz.")
    write_whole(path, content)


def read_property(path: Path) -> Property:
    """`load_property`."""
    if _is_vnnlib(path):
        return read_vnnlib(path)
    if path.suffix != ".json":
        raise PropertyError(f"load_property: {path.name!r} has no known suffix. Use .json, .vnnlib or .vnnlib.gz.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PropertyError(f"load_property: cannot read {path}: {error.strerror}. Check the path.") from None
    except ValueError as error:
        raise PropertyError(f"load_property: {path} is no JSON file ({error}). It may be truncated.") from None
    try:
        return _property(document)
    except InputError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise PropertyError(
            f"load_property: {path} does not hold a property as `save` writes it ({type(error).__name__}: {error})."
        ) from None


def property_fingerprint(prop: Property) -> str:
    """SHA-256 of all that the property asks, names of cases included, as hex text.

    Raises:
        PropertyError: If a region is of a type that cannot be saved.
    """
    document = _document(prop)
    for remark in ("name", "label"):
        document.pop(remark)
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a crash or a full disk leaves the old one, or none, never half of it.

    Raises:
        PropertyError: If the folder is missing or cannot be written.
    """
    try:
        with written_whole(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise PropertyError(f"save: cannot write {path}: {error.strerror}. Check folder and permissions.") from None


def _is_vnnlib(path: Path) -> bool:
    return path.suffix == ".vnnlib" or path.suffixes[-2:] == [".vnnlib", ".gz"]


def _document(prop: Property) -> dict[str, Any]:
    groups = prop.groups()
    index = {id(group[0].region): i for i, group in enumerate(groups)}
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": prop.name,
        "label": prop.label,
        "n_inputs": prop.n_inputs,
        "n_outputs": prop.n_outputs,
        "regions": [_region_document(group[0].region) for group in groups],
        "cases": [
            {
                "name": case.name,
                "region": index[id(case.region)],
                "C": case.unsafe.C.tolist(),
                "d": [str(q) for q in case.unsafe.d_exact or ()],
            }
            for case in prop.cases
        ],
    }


def _region_document(region: Region) -> dict[str, Any]:
    document: dict[str, Any] = {"type": type(region).__name__}
    if isinstance(region, Box):
        exact = region.exact and [[str(q) for q in side] for side in region.exact]
        document.update(lower=region.lower.tolist(), upper=region.upper.tolist(), exact=exact)
    elif isinstance(region, Ball):
        clip = region.clip and [[v if np.isfinite(v) else str(v) for v in side.tolist()] for side in region.clip]
        document.update(center=region.center.tolist(), eps=region.eps, clip=clip)
    else:
        raise PropertyError(f"save: no file format for regions of type {type(region).__name__}. Use a Box or a ball.")
    document["cuts"] = {"A": region.cuts.A.tolist(), "b": region.cuts.b.tolist()}
    if region.grid is not None:
        document["grid"] = region.grid.steps
    return document


def _property(document: dict[str, Any]) -> Property:
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise PropertyError(
            f"load_property: expected format {FORMAT!r} version {VERSION}, got {document.get('format')!r} version "
            f"{document.get('version')!r}. Save it again with this release."
        )
    regions = [_region(part) for part in document["regions"]]
    n_outputs = int(document["n_outputs"])
    cases = []
    for part in document["cases"]:
        d_exact = tuple(Fraction(text) for text in part["d"])
        C = np.array(part["C"], dtype=np.float64).reshape(len(d_exact), -1 if d_exact else n_outputs)
        cases.append(Case(regions[part["region"]], Polyhedron(C, np.zeros(len(C)), d_exact), part["name"]))
    return Property(tuple(cases), int(document["n_inputs"]), n_outputs, document["name"], document["label"])


def _region(part: dict[str, Any]) -> Region:
    region: Region
    if part["type"] == "Box":
        exact = part["exact"] and tuple(tuple(Fraction(text) for text in side) for side in part["exact"])
        region = Box(part["lower"], part["upper"], exact)
    else:
        clip = part["clip"] and tuple([float(v) for v in side] for side in part["clip"])
        region = BALLS[part["type"]](part["center"], part["eps"], clip)
    if part["cuts"]["b"]:
        region = region.with_cuts(part["cuts"]["A"], part["cuts"]["b"])
    return region.with_grid(Grid(part["grid"])) if "grid" in part else region
