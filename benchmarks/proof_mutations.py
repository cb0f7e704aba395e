"""Ways of damaging a proof, from single bits of the file to well-formed proofs that say something else.

Each mutation takes the pieces of a proof and a random generator and returns the bytes of a file. Most keep the file
well-formed, so that what is tried is the arithmetic and not the reader.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Any

import numpy as np

from benchmarks.tight_proofs import MAGIC, ProofFile, packed

Rng = np.random.Generator
Change = Callable[[ProofFile, Rng], None]

SPECIAL = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    2.0,
    255.0,
    1e-300,
    5e-324,
    1e300,
    -1e300,
    1.0 + 2.0**-52,
    1.0 - 2.0**-53,
    2.0**64,
)
FACTORS = (0.0, -1.0, 0.5, 2.0, 1.0 + 2.0**-52, 1.0 - 2.0**-53, 1e-9, 1e9, 1e150)
BITS = (15, 16, 17, 18, 20, 24, 31, 32, 40, 52, 53, 54, 63, 64, 65, 100, 128, 511, 1000, 4096, 4097)
ODD = (None, True, False, -1, 0, 1, 2, 1.0, 10**30, "", "1", "crown", "float32", [], {}, [0], [[0]], {"cases": [0]})


def mutated(file: ProofFile, rng: Rng, kind: str) -> bytes:
    """The bytes of a proof changed in one way, in two to four ways for "several", or not at all for "none"."""
    if kind in BYTES:
        return BYTES[kind](file.content(), rng)
    copy = file.copy()
    kinds = [kind] if kind in CHANGES else []
    if kind == "several":
        kinds = [*rng.choice(KEEP_FORM, int(rng.integers(1, 4))), str(rng.choice(list(CHANGES)))]
    for each in kinds:
        with suppress(IndexError, ValueError, OverflowError):  # what an earlier change left may be no tree
            CHANGES[each](copy, rng)
    return copy.content()


# What the header refers to


def contexts(file: ProofFile) -> list[dict[str, Any]]:
    """All contexts."""
    return [context for group in file.header["groups"] for context in group["contexts"]]


def trees(file: ProofFile) -> list[dict[str, Any]]:
    """All trees over neurons."""
    return [tree for context in contexts(file) for tree in context["trees"]]


def n_unstable(file: ProofFile, tree: dict[str, Any]) -> int:
    """How many neurons a tree's multipliers are for."""
    return next((file.arrays[tree[key]].shape[1] for key in ("beta", "alpha") if key in tree), 0)


def n_leaves(file: ProofFile, tree: dict[str, Any]) -> int:
    """How many leaves it has."""
    return int((file.arrays[tree["split"]] < 0).sum()) if "split" in tree else 1


def _pick(rng: Rng, some: list[Any]) -> Any:
    return some[int(rng.integers(len(some)))]


def _array(file: ProofFile, rng: Rng, floats: bool = False) -> np.ndarray | None:
    """An array that has entries, and may be changed in place."""
    some = [a for a in file.arrays if a.size and (a.dtype.kind == "f" or not floats)]
    return _pick(rng, some) if some else None


def _spot(file: ProofFile, rng: Rng) -> tuple[np.ndarray, list[int]] | None:
    """Rows of an array of floats, mostly multipliers of the leaves that are open: what a forger would change.

    An optimum mostly lies where patterns meet, so that several leaves are open.
    """
    array = _array(file, rng, floats=True)
    if file.open and rng.random() < 0.8:
        place = file.open[int(rng.integers(len(file.open)))]
        g, c, t, leaf = place
        tree = file.header["groups"][g]["contexts"][c]["trees"][t]
        own = [file.arrays[tree[key]] for key in ("mu", "beta", "alpha", "theta") if key in tree]
        own = [a for a in own if a.size and a.dtype.kind == "f" and leaf < len(a)]
        if own:
            target = _pick(rng, own)
            together = [other[3] for other in file.open if other[:3] == place[:3] and other[3] < len(target)]
            return target, together if rng.random() < 0.6 else [leaf]
    return None if array is None else (array, [int(rng.integers(len(array)))])


# Changes of arrays


def flip_bits(file: ProofFile, rng: Rng) -> None:
    """One to three bits."""
    for _ in range(int(rng.integers(1, 4))):
        array = _array(file, rng)
        if array is not None:
            flat = array.reshape(-1).view(np.uint8)
            flat[rng.integers(flat.size)] ^= np.uint8(1 << rng.integers(8))


def scale_rows(file: ProofFile, rng: Rng) -> None:
    """A row, or all, of an array times a factor."""
    spot = _spot(file, rng)
    if spot is not None:
        array, rows = spot
        part = slice(None) if rng.random() < 0.2 else rows
        with np.errstate(over="ignore", invalid="ignore"):
            array[part] *= _pick(rng, list(FACTORS)) if rng.random() < 0.7 else rng.lognormal()


def permute_rows(file: ProofFile, rng: Rng) -> None:
    """Rows or columns permuted, or copied over others."""
    array = _array(file, rng)
    if array is None:
        return
    view = array.T if array.ndim == 2 and rng.random() < 0.4 else array
    if rng.random() < 0.5:
        view[...] = view[rng.permutation(len(view))]
    else:
        spot = _spot(file, rng)
        target, rows = (view, [int(rng.integers(len(view)))]) if spot is None else spot
        target[rows] = target[int(rng.integers(len(target)))].copy()


def set_entries(file: ProofFile, rng: Rng) -> None:
    """A few entries of a row replaced by special values, negated, or moved to the next float."""
    spot = _spot(file, rng)
    if spot is None:
        return
    array, rows = spot
    flat = array[rows].reshape(-1)
    places = np.unique(rng.integers(flat.size, size=int(rng.integers(1, 4))))
    what = rng.integers(5)
    if what == 4:  # another number everywhere
        places = np.arange(flat.size)
    with np.errstate(over="ignore"):
        if what == 0:
            flat[places] = _pick(rng, list(SPECIAL))
        elif what == 1:
            flat[places] = -rng.lognormal(sigma=3.0, size=len(places))
        elif what == 2:
            flat[places] *= rng.lognormal(sigma=2.0, size=len(places))
        elif what == 4:
            flat += rng.random(flat.size) * 10.0 ** rng.uniform(-6, 1)
        else:
            flat[places] = np.nextafter(flat[places], flat.dtype.type(rng.choice([-np.inf, np.inf])))
    array[rows] = flat.reshape(array[rows].shape)


def new_multipliers(file: ProofFile, rng: Rng) -> None:
    """Other alpha, beta or mu of the right shape, of any dtype; or one of them left out."""
    tree = _pick(rng, trees(file))
    key = str(rng.choice(["alpha", "beta", "mu"]))
    columns = file.arrays[tree["mu"]].shape[1] if key == "mu" and "mu" in tree else n_unstable(file, tree)
    if rng.random() < 0.2 and key in tree:
        del tree[key]
        return
    values = rng.random((n_leaves(file, tree), columns))
    values = np.round(values) if rng.random() < 0.3 else values
    values = values * (10.0 ** rng.uniform(-9, 9) if key != "alpha" and rng.random() < 0.5 else 1.0)
    if key == "beta" and rng.random() < 0.3:
        values = -values
    dtype = str(rng.choice(["u1", "f4", "f8"]))
    tree[key] = file.add(np.clip(255 * values, 0, 255) if dtype == "u1" else values, dtype)


def change_planes(file: ProofFile, rng: Rng) -> None:
    """Planes that were not there, in any number, with any slopes; a tree of the context takes them."""
    context = _pick(rng, contexts(file))
    tree = _pick(rng, context["trees"])
    n = n_unstable(file, tree)
    if not n:
        return
    count = int(rng.integers(1, 4))
    neuron = np.sort(rng.integers(0, n, count))
    slopes = rng.normal(size=(count, file.n_inputs + n)) * 10.0 ** rng.uniform(-6, 6)
    slopes = slopes * (rng.random(slopes.shape) < 0.5)
    sets = context.setdefault("planes", [])
    sets.append({"neuron": file.add(neuron, "i4"), "P": file.add(slopes, str(rng.choice(["f4", "f8"])))})
    theta = rng.random((n_leaves(file, tree), count)) * 10.0 ** rng.uniform(-3, 3)
    theta = -theta if rng.random() < 0.2 else theta
    tree.update(planes=len(sets) - 1, theta=file.add(theta, str(rng.choice(["f4", "f8"]))))


# Changes of trees


def _subtrees(split: list[int]) -> list[tuple[int, int]]:
    """Where each node's subtree begins and ends."""
    ends, waiting = [0] * len(split), []
    for place in reversed(range(len(split))):
        end = place + 1
        if split[place] >= 0:
            end = ends[waiting.pop()]
            end = ends[waiting.pop()]
        ends[place] = end
        waiting.append(place)
    return list(enumerate(ends))


def _rows_of(split: list[int], start: int, end: int) -> tuple[int, int]:
    """The leaves in a part of the list."""
    first = sum(u < 0 for u in split[:start])
    return first, first + sum(u < 0 for u in split[start:end])


def _regrown(file: ProofFile, tree: dict[str, Any], split: list[int], leaves: list[int]) -> None:
    """Give a tree another list of splits, and its multipliers the rows of some of its old leaves."""
    for key in ("alpha", "beta", "mu", "theta"):
        if key in tree:
            old = file.arrays[tree[key]]
            tree[key] = file.add(old[leaves], old.dtype.str[1:])
    tree["split"] = file.add(split, "i4")


def drop_leaves(file: ProofFile, rng: Rng) -> None:
    """One side of a split left out: the other side stands for both. Mostly the side of a leaf that is open."""
    tree = _pick(rng, trees(file))
    place, side = -1, int(rng.integers(2))
    if file.open and rng.random() < 0.7:
        g, c, t, leaf = file.open[int(rng.integers(len(file.open)))]
        tree = file.header["groups"][g]["contexts"][c]["trees"][t]
        if "split" in tree and leaf < n_leaves(file, tree):
            split = file.arrays[tree["split"]].tolist()
            at = [i for i, u in enumerate(split) if u < 0][leaf]
            place = next((i for i, u in reversed(list(enumerate(split[:at]))) if u >= 0), -1)  # often its parent
            side = int(place == at - 1)  # the side that stays: the second if the leaf is the first
    if "split" not in tree:
        return
    split = file.arrays[tree["split"]].tolist()
    inner = [i for i, u in enumerate(split) if u >= 0]
    if inner:
        tree["split"] = file.add(_one_side(file, tree, split, place if place >= 0 else _pick(rng, inner), side), "i4")


def _one_side(file: ProofFile, tree: dict[str, Any], split: list[int], place: int, side: int) -> list[int]:
    """The splits without the one at a place, of which only a side stays; the multipliers lose the other's leaves."""
    ends = dict(_subtrees(split))
    middle, end = ends[place + 1], ends[place]
    gone, kept = ((middle, end), (place + 1, middle))[:: 1 - 2 * side]
    lost = range(*_rows_of(split, *gone))
    for key in ("alpha", "beta", "mu", "theta"):
        if key in tree:
            old = file.arrays[tree[key]]
            tree[key] = file.add(np.delete(old, list(lost), axis=0), old.dtype.str[1:])
    return split[:place] + split[kept[0] : kept[1]] + split[end:]


def copy_leaves(file: ProofFile, rng: Rng) -> None:
    """All multipliers of one leaf copied over those of another, mostly of one that is open."""
    tree = _pick(rng, trees(file))
    rows = [int(rng.integers(n_leaves(file, tree)))]
    if file.open and rng.random() < 0.8:
        place = file.open[int(rng.integers(len(file.open)))]
        tree = file.header["groups"][place[0]]["contexts"][place[1]]["trees"][place[2]]
        rows = [other[3] for other in file.open if other[:3] == place[:3]]
    source = int(rng.integers(n_leaves(file, tree)))
    for key in ("alpha", "beta", "mu", "theta"):
        if key in tree:
            array = file.arrays[tree[key]]
            array[rows] = array[source].copy()


def cut_tree(file: ProofFile, rng: Rng) -> None:
    """The last leaves of a tree left out, of the list and of the multipliers."""
    tree = _pick(rng, trees(file))
    split = file.arrays[tree["split"]].tolist() if "split" in tree else [-1]
    end = int(rng.integers(len(split))) if rng.random() < 0.3 else len(split) - 1
    _regrown(file, tree, split[:end], list(range(split[:end].count(-1))))


def duplicate_leaves(file: ProofFile, rng: Rng) -> None:
    """A leaf replaced by a split of any neuron, with the leaf on both sides."""
    tree = _pick(rng, trees(file))
    n = n_unstable(file, tree)
    if not n:
        return
    split = file.arrays[tree["split"]].tolist() if "split" in tree else [-1]
    place = _pick(rng, [i for i, u in enumerate(split) if u < 0])
    row = _rows_of(split, place, place + 1)[0]
    leaves = list(range(n_leaves(file, tree)))
    more = [*split[:place], int(rng.integers(n)), -1, -1, *split[place + 1 :]]
    _regrown(file, tree, more, leaves[: row + 1] + leaves[row:])


def change_splits(file: ProofFile, rng: Rng) -> None:
    """A split of another neuron, two sides exchanged, or any entry of the list changed."""
    some = [tree for tree in trees(file) if "split" in tree and len(file.arrays[tree["split"]]) > 1]
    if not some:
        return
    tree = _pick(rng, some)
    split = file.arrays[tree["split"]].tolist()
    what, n = rng.integers(3), n_unstable(file, tree)
    place = _pick(rng, [i for i, u in enumerate(split) if u >= 0])
    if what == 0:
        split[place] = int(rng.integers(n))
        tree["split"] = file.add(split, "i4")
    elif what == 1:
        ends = dict(_subtrees(split))
        middle, end = ends[place + 1], ends[place]
        first, second = _rows_of(split, place + 1, middle), _rows_of(split, middle, end)
        leaves = [*range(first[0]), *range(*second), *range(*first), *range(second[1], n_leaves(file, tree))]
        if rng.random() < 0.5:
            leaves = list(range(n_leaves(file, tree)))  # the splits alone change sides
        _regrown(file, tree, split[: place + 1] + split[middle:end] + split[place + 1 : middle] + split[end:], leaves)
    else:
        split[int(rng.integers(len(split)))] = int(rng.integers(-2, n + 1))
        tree["split"] = file.add(split, "i4")


def change_boxes(file: ProofFile, rng: Rng) -> None:
    """The tree over inputs: other places of splits, one side left out, contexts exchanged, or split where none was."""
    group = _pick(rng, file.header["groups"])
    what = rng.integers(4)
    if "split" not in group:
        at = float(rng.normal() * 10.0 ** rng.integers(-2, 2))
        group.update(split=file.add([int(rng.integers(3)), -1, -1], "i4"), at=file.add([at, 0.0, 0.0], "f8"))
        group["contexts"] = [group["contexts"][0], json.loads(json.dumps(group["contexts"][0]))]
        return
    split, at = file.arrays[group["split"]], file.arrays[group["at"]]
    inner = [i for i, u in enumerate(split.tolist()) if u >= 0]
    place = _pick(rng, inner) if inner else 0
    if what == 0:
        at[place] += float(rng.normal() * 10.0 ** rng.integers(-16, 2))
    elif what == 1:
        split[place] = int(rng.integers(-1, 5))
    elif what == 2:
        group["contexts"] = [group["contexts"][i] for i in rng.permutation(len(group["contexts"]))]
    elif inner:
        nodes = dict(_subtrees(split.tolist()))
        gone = (place + 1, nodes[place + 1])
        lost = range(*_rows_of(split.tolist(), *gone))
        keep = [i for i in range(len(split)) if i != place and not gone[0] <= i < gone[1]]
        group["contexts"] = [c for i, c in enumerate(group["contexts"]) if i not in lost]
        group.update(split=file.add(split[keep], "i4"), at=file.add(at[keep], "f8"))


# Changes of the header


def change_bits(file: ProofFile, rng: Rng) -> None:
    """Another F."""
    file.header["bits"] = int(_pick(rng, list(BITS[:-2] if rng.random() < 0.97 else BITS)))


def change_rules(file: ProofFile, rng: Rng) -> None:
    """Another rule of some layers, or none said."""
    context = _pick(rng, contexts(file))
    if rng.random() < 0.2:
        context.pop("layers", None)
    for layer in context.get("layers", []):
        layer["rule"] = str(rng.choice(["crown", "interval", "interval", "zonotope"], p=[0.4, 0.3, 0.28, 0.02]))


def change_claims(file: ProofFile, rng: Rng) -> None:
    """Claims about neurons of a layer, with any multipliers, more of them, fewer, or about other neurons."""
    g = int(rng.integers(len(file.header["groups"])))
    c = int(rng.integers(len(file.header["groups"][g]["contexts"])))
    context, listed = file.header["groups"][g]["contexts"][c], file.listed[g][c]
    if not listed:
        return
    layers = context.setdefault("layers", [{"rule": "crown"} for _ in listed])
    for layer, own in zip(layers, listed, strict=True):  # so that a neuron that becomes stable leaves leaves empty
        layer["unstable"] = layer.get("unstable", file.add(own, "u1"))
    k = int(rng.integers(len(listed)))
    claims = layers[k].setdefault("claims", [])
    what = rng.integers(6)
    if what == 0 and claims:
        claims.remove(_pick(rng, claims))
    elif what == 1 and claims:
        rows = file.arrays[_pick(rng, claims)["row"]]
        rows[int(rng.integers(len(rows)))] += int(rng.choice([-1, 1, len(listed[k]), -len(listed[k])]))
    elif what == 2 and claims:
        trees = _pick(rng, claims)
        split = file.arrays[trees["split"]].tolist() if "split" in trees else [-1] * len(file.arrays[trees["row"]])
        split[int(rng.integers(len(split)))] = int(rng.integers(-2, 4))
        trees["split"] = file.add(split, "i4")
    else:
        claims.append(_new_claims(file, rng, len(listed[k]), int(sum(layer.sum() for layer in listed[:k]))))
    if not claims:
        del layers[k]["claims"]


def _new_claims(file: ProofFile, rng: Rng, n: int, below: int) -> dict[str, Any]:
    """Claims about a layer of n neurons that are of the form, over some unstable neurons below."""
    rows = rng.integers(0, 2 * n, int(rng.integers(1, 2 * n + 1)))
    split: list[int] = []
    for _ in rows:
        u = int(rng.integers(below)) if below else -1
        split += [u, -1, -1] if u >= 0 and rng.random() < 0.5 else [-1]
    leaves = split.count(-1)
    claims: dict[str, Any] = {"row": file.add(rows, "i4"), "split": file.add(split, "i4")}
    claims["alpha"] = file.add(rng.random((leaves, below)).round(int(rng.integers(3))), "f8")
    if rng.random() < 0.7:
        claims["beta"] = file.add(rng.normal(size=(leaves, below)) * 10.0 ** rng.integers(-3, 3), "f8")
    if below and rng.random() < 0.4:
        neuron = np.sort(rng.integers(0, below, int(rng.integers(1, 4))))
        P = rng.normal(size=(len(neuron), file.n_inputs + below))
        claims["planes"] = {"neuron": file.add(neuron, "i4"), "P": file.add(P, "f8")}
        claims["theta"] = file.add(rng.random((leaves, len(neuron))), "f8")
    return claims


def change_unstable(file: ProofFile, rng: Rng) -> None:
    """An unstable neuron is listed no more, or a stable one is; trees and multipliers are changed to fit."""
    g = int(rng.integers(len(file.header["groups"])))
    c = int(rng.integers(len(file.header["groups"][g]["contexts"])))
    context = file.header["groups"][g]["contexts"][c]
    listed = [layer.copy() for layer in file.listed[g][c]]
    flat = np.concatenate(listed) if listed else np.zeros(0, np.uint8)
    if not flat.size:
        return
    neuron = int(rng.integers(len(flat)))
    number = int(flat[:neuron].sum())
    flat[neuron] ^= 1
    parts = np.split(flat, np.cumsum([len(layer) for layer in listed])[:-1])
    rules = [layer["rule"] for layer in context.get("layers", [])] or ["crown"] * len(parts)
    context["layers"] = [
        {"rule": rule, "unstable": file.add(part, "u1")} for rule, part in zip(rules, parts, strict=True)
    ]
    for tree in context["trees"]:
        _renumber(file, tree, number, bool(flat[neuron]), int(rng.integers(2)))


def _renumber(file: ProofFile, tree: dict[str, Any], number: int, added: bool, side: int) -> None:
    """A tree after an unstable neuron was added before the one of some number, or the one of that number was lost."""
    split = file.arrays[tree["split"]].tolist() if "split" in tree else [-1]
    while not added and number in split:
        split = _one_side(file, tree, split, split.index(number), side)
    change = 1 if added else -1
    tree["split"] = file.add([u + change if u >= number else u for u in split], "i4")
    for key in ("alpha", "beta"):
        if key in tree:
            old = file.arrays[tree[key]]
            new = np.insert(old, number, 0, axis=1) if added else np.delete(old, number, axis=1)
            tree[key] = file.add(new, old.dtype.str[1:])


def change_threshold(file: ProofFile, rng: Rng) -> None:
    """What is claimed: less, more, or no number."""
    value = Fraction(file.header["threshold"])
    step = Fraction(float(10.0 ** rng.integers(-18, 9)))
    wrong = ["", "1/0", "nan", "1e400", "-", "0x1", " 1", "1/-2", "9" * 5000, None, 0, [1, 2]]
    near = [str(value - step), str(value + step), str(-value), f"{float(value)!r}", "0"]
    file.header["threshold"] = _pick(rng, near if rng.random() < 0.6 else wrong)


def change_header(file: ProofFile, rng: Rng) -> None:
    """A value of the header replaced, left out, doubled or exchanged, wherever it stands."""
    places = list(_places(file.header))
    holder, key = places[int(rng.integers(len(places)))]
    what = rng.integers(4)
    if what == 0:
        holder[key] = _pick(rng, list(ODD))
    elif what == 1:
        del holder[key]
    elif what == 2 and type(holder[key]) is int:
        holder[key] += int(rng.choice([-1, 1]))
    elif isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder["surplus"] = holder[key]


def _places(part: Any) -> Iterator[tuple[Any, Any]]:
    """All (container, key) of a header."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        yield part, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def change_cases(file: ProofFile, rng: Rng) -> None:
    """A group about other cases, a group less, a group twice, two groups as one, or trees exchanged."""
    some = file.header["groups"]
    group = _pick(rng, some)
    what = rng.integers(5)
    if what == 4 and len(some) > 1:
        first, second = some[:2]
        first["cases"] += second["cases"]
        for context, other in zip(first["contexts"], second["contexts"], strict=False):
            context["trees"] += other["trees"]
        some.remove(second)
        return
    if what == 0:
        group["cases"][int(rng.integers(len(group["cases"])))] = int(rng.integers(-1, 4))
    elif what == 1:
        some.remove(group)
    elif what == 2:
        some.append(json.loads(json.dumps(group)))
    else:
        for context in group["contexts"]:
            rng.shuffle(context["trees"])


def change_shapes(file: ProofFile, rng: Rng) -> None:
    """An array's bytes under another dtype or shape."""
    listed = [{"dtype": a.dtype.str[1:], "shape": list(a.shape)} for a in file.arrays]
    if not listed:
        return
    entry = _pick(rng, listed)
    if rng.random() < 0.4:
        entry["dtype"] = str(rng.choice(["u1", "i4", "i8", "f4", "f8", "f2", "O"]))
    shapes = [entry["shape"][::-1], [*entry["shape"], 1], [], [-1, -1], [0], [2**62, 2**62], [True], [1.0], "2"]
    if rng.random() < 0.7:
        entry["shape"] = _pick(rng, shapes)
    file.header["arrays"] = listed


def swap_arrays(file: ProofFile, rng: Rng) -> None:
    """The contents of two arrays of one shape exchanged."""
    first = _pick(rng, file.arrays) if file.arrays else None
    same = [a for a in file.arrays if first is not None and a is not first and a.shape == first.shape]
    if first is not None and same:
        second = _pick(rng, same)
        with np.errstate(over="ignore", invalid="ignore"):
            first[...], second[...] = second.astype(first.dtype), first.astype(second.dtype)


# Changes of bytes


def flip_file(content: bytes, rng: Rng) -> bytes:
    """One to four bytes of the file."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    return bytes(data)


def flip_stream(content: bytes, rng: Rng) -> bytes:
    """One to four bytes of what is compressed, compressed again."""
    return packed(flip_file(zlib.decompress(content[8:]), rng))


def cut_file(content: bytes, rng: Rng) -> bytes:
    """The file cut short or longer, or its stream, or its stream in two parts."""
    what, body = rng.integers(5), zlib.decompress(content[8:])
    if what == 0:
        return content[: int(rng.integers(len(content)))]
    if what == 1:
        return content + bytes(int(rng.integers(1, 20)))
    if what == 2:
        return packed(body[: int(rng.integers(len(body)))])
    if what == 3:
        return packed(body + bytes(int(rng.integers(1, 20))))
    return content + packed(body)[8:]


def inflate_again(content: bytes, rng: Rng) -> bytes:
    """The same stream by another way of compression: a file that stays what it is."""
    squeezer = zlib.compressobj(int(rng.integers(0, 10)), zlib.DEFLATED, int(rng.choice([9, 12, 15])))
    return MAGIC + squeezer.compress(zlib.decompress(content[8:])) + squeezer.flush()


CHANGES: dict[str, Change] = {
    "bits of arrays": flip_bits,
    "scaled rows": scale_rows,
    "permuted rows": permute_rows,
    "special values": set_entries,
    "new multipliers": new_multipliers,
    "planes": change_planes,
    "dropped leaves": drop_leaves,
    "copied leaves": copy_leaves,
    "cut trees": cut_tree,
    "doubled leaves": duplicate_leaves,
    "splits": change_splits,
    "boxes": change_boxes,
    "precision": change_bits,
    "rules": change_rules,
    "unstable lists": change_unstable,
    "claims": change_claims,
    "threshold": change_threshold,
    "header": change_header,
    "cases": change_cases,
    "shapes": change_shapes,
    "swapped arrays": swap_arrays,
}
KEEP_FORM = [kind for kind in CHANGES if kind not in ("header", "cases", "shapes", "threshold")]
BYTES: dict[str, Callable[[bytes, Rng], bytes]] = {
    "bytes of the file": flip_file,
    "bytes of the stream": flip_stream,
    "cut": cut_file,
    "compressed anew": inflate_again,
}
KINDS = ("none", *CHANGES, *BYTES, "several")
# How often each is tried: arithmetic more often than reading.
WEIGHTS = {
    "none": 1,
    "precision": 6,
    "claims": 6,
    "several": 6,
    **dict.fromkeys(BYTES, 1),
    "shapes": 1,
    "threshold": 1,
    "cases": 2,
}
SHARES = [WEIGHTS.get(kind, 3) / sum(WEIGHTS.get(each, 3) for each in KINDS) for kind in KINDS]
