r"""Check a proof that no input of a box makes a ReLU network's output unsafe: standard library only, exact integers.

    python3 -I checker.py PROOF NETWORK.onnx PROPERTY.vnnlib [--threshold T] [--grid STEPS] [--limit BYTES]

This file imports nothing of the package that makes proofs: copy it, read it, run it alone (Python 3.10 or newer).
docs/proofs.md defines what it computes to the last bit. The idea:

The network is zhat_k = W_k z_{k-1} + b_k, z_k = relu(zhat_k), from the input z_0 = x to y = W_o z + b_o. The claim: no
x of a box has C y <= d + threshold. If l <= zhat <= u is known, then for *any* numbers nu, and any mu >= 0,

    g = sum_k nu_k.b_k + mu.(C b_o - d - threshold) + min over the box of lambda_0.x
        + sum over neurons of min over v in {l, u, and 0 if l < 0 < u} of (lambda relu(v) - nu v)

with lambda_j = W_{j+1}^T nu_{j+1} (for the last layer W_o^T C^T mu) is at most mu.(C y - d - threshold) for every x of
the box: it is the Lagrangian of the network's equations. So g > 0 means that no x is unsafe, and a proof is a list of
numbers, found in whatever way. A tree splits the box, or neurons by the sign of zhat, which tightens l and u; if all
its leaves are closed, its root is. A plane z <= P.t + R is one more inequality, with a multiplier theta. A claim is a
tree about a single neuron zhat_k in place of C y - d - threshold: the least g of its leaves is a bound of that neuron.

Numbers are integers in units of 2^-F. A value v of the network is known by its form (E, beta, eps), which says
|v - (E.t + beta)| <= eps, over columns t: the inputs, and those neurons z that are not known to be linear or zero
("unstable"). eps collects what rounding loses. `Context.walk` evaluates g for a form from its layer down to the inputs.

That is about real numbers. In the semantics "float32", eps also collects what any float32 execution may add. With a
grid, the claim is about inputs that are multiples of 1/steps only, and every box is rounded inward to those.

Exit status: 0 accepted, 1 rejected, 2 unreadable network or property or wrong usage, 3 what this checker cannot check.
"""

from __future__ import annotations

import argparse
import array
import itertools
import json
import math
import re
import struct
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from operator import gt, mul
from typing import Any

Matrix = list[dict[int, Any]]  # by row, the entries that are not zero: exact (float, Fraction), integers once rounded
# A product, the first acts first, and the bias added at its end; of how many products each value is the sum where that
# is one operator of the file with one bias at most, else 0.
Affine = tuple[list[Matrix], list[Any], int]
Case = tuple[list[Fraction], list[Fraction], Matrix, list[Fraction]]  # no x with lower <= x <= upper has C y <= d
Form = tuple[list[int], int, int]  # E, beta, eps
Source = Form | int | None  # what an affine step reads: a form, a column, or zero
Plane = tuple[int, list[int], int]  # k, P, R: the unstable neuron number k has z <= P.t + R
Path = list[tuple[int, bool]]  # to a leaf: the places of the splits in their list, and whether it is on the second side
Values = list[int | None]  # V of leaves, None where one is empty

# The header of a proof: "?" marks keys that may be left out; most integers are the numbers of arrays.
TREE = {key + "?": int for key in ("split", "alpha", "beta", "mu", "planes", "theta")}
PLANES = {"neuron": int, "P": int}
CLAIMS = {"row": int, "split?": int, "alpha?": int, "beta?": int, "planes?": PLANES, "theta?": int}
LAYER = {"rule": str, "unstable?": int, "claims?": [CLAIMS]}
CONTEXT = {"layers?": [LAYER], "planes?": [PLANES], "trees": [TREE]}
GROUP = {"cases": [int], "split?": int, "at?": int, "contexts": [CONTEXT]}
HEADER = {"format": str, "version": int, "semantics": str, "bits": int, "threshold": str, "grid?": int, "made_by?": str,
          "network?": str, "property?": str, "files?": {"network?": str, "property?": str},
          "arrays": [{"dtype": str, "shape": [int]}], "groups": [GROUP]}  # fmt: skip
CODES = {"u1": "B", "i4": "i", "i8": "q", "f4": "f", "f8": "d"}  # types of arrays, as the module array names them
REALS = "u1 f4 f8"
GRID_SLACK = Fraction(1, 1024)  # of a step: bounds are floats, and what misses a grid point by less means that point
LARGEST = 1 << 24  # entries of what a few bytes of a network or a property could ask for


class Stop(Exception):  # noqa: N818 (an answer, no error of the program)
    """Why the proof is not accepted: the exit status and a reason."""


def need(condition: Any, reason: str, status: int = 1) -> None:
    """Stop unless a condition holds."""
    if not condition:
        raise Stop(status, reason)


def near(q: Any, F: int) -> int:
    """q in units of 2^-F, rounded to the nearest."""
    p, r = q.as_integer_ratio()
    return int(((p << (F + 1)) + r) // (2 * r))


def down(q: Any, F: int) -> int:
    """The floor of q in units of 2^-F."""
    p, r = q.as_integer_ratio()
    return int((p << F) // r)


def rounded(W: Matrix, F: int) -> Matrix:
    """A matrix in integers."""
    return [{j: near(w, F) for j, w in row.items()} for row in W]


def float32_at_most(q: Fraction) -> Fraction:
    """The greatest number of 24 bits, and multiple of 2^-149, that is at most q."""
    p, r = abs(q).as_integer_ratio()
    exponent = p.bit_length() - r.bit_length()
    exponent -= abs(q) < Fraction(2) ** exponent  # 2^exponent <= |q| < 2^(exponent + 1)
    unit = Fraction(2) ** max(exponent - 23, -149)
    return q // unit * unit


def is_float32(q: Any) -> bool:
    """Whether a number is one of float32: of 24 bits, a multiple of 2^-149, and below 2^128."""
    p, r = q.as_integer_ratio()
    return p == 0 or ((p // (p & -p)).bit_length() <= 24 and (1 << 149) % r == 0 and abs(p) < r << 128)


class Context:
    """What is known of the network over one box of inputs."""

    def __init__(self, F: int, lower: list[int], upper: list[int], float32: bool = False) -> None:
        self.F, self.half, self.float32 = F, 1 << (F - 1), float32
        self.lo, self.hi = lower, upper  # the box of all columns, and their sizes
        self.size = [max(abs(lo), abs(hi)) for lo, hi in zip(lower, upper, strict=True)]
        # Of each unstable neuron: bounds of zhat, its form, and nu / lambda where nothing else is given.
        self.l, self.u, self.forms, self.alpha = list[int](), list[int](), list[Form](), list[int]()
        # By layer: the first and one past the last of its unstable neurons, the number of columns below it, and for
        # each of these columns its coefficients in the neurons' E.
        self.layers: list[tuple[int, int, int, list[Any]]] = []

    def affine(self, W: Matrix, bias: list[int], sources: Sequence[Source], sizes: list[int]) -> list[Form]:
        """The forms of W z + bias, given those of z and |z| <= sizes."""
        lost = -(-(sum(sizes) + sum(self.size)) >> (self.F + 1)) + 1
        forms = []
        for row, b in zip(W, bias, strict=True):
            E, w, read = [0] * len(self.lo), [], []
            for j, weight in row.items():
                source = sources[j]
                if isinstance(source, int):
                    E[source] += weight  # E = 2^F there: nothing is rounded
                elif source is not None:
                    w.append(weight)
                    read.append(source)
            for c, column in enumerate(zip(*(form[0] for form in read), strict=True)):
                E[c] += (sum(map(mul, w, column)) + self.half) >> self.F
            beta = b + ((sum(map(mul, w, (form[1] for form in read))) + self.half) >> self.F)
            eps = -(-sum(map(mul, map(abs, w), (form[2] for form in read))) >> self.F) + lost
            forms.append((E, beta, eps))
        return forms

    def product(self, affine: Affine, sources: Sequence[Source], sizes: list[int]) -> list[Form]:
        """The forms of an affine map's values, matrix by matrix."""
        *inner, last = affine[0]
        for W in inner:
            sources = forms = self.affine(W, [0] * len(W), sources, sizes)
            sizes = self.sizes(forms)
        forms = self.affine(last, affine[1], sources, sizes)
        return self.computed(forms, affine, sizes) if self.float32 else forms

    def computed(self, forms: list[Form], affine: Affine, sizes: list[int]) -> list[Form]:
        """The forms of what any float32 execution computes for W z + bias: n products a row, in any order."""
        (W,), biases, n = affine
        F, A, found = self.F, sum(sizes), list[Form]()
        for (E, beta, eps), row, b in zip(forms, W, biases, strict=True):
            S = sum(abs(w) * sizes[j] for j, w in row.items()) + A + ((abs(b) + 1) << F)
            lost = -(-(n + 2) * S // (((1 << 24) - n - 2) << F))  # n + 2 roundings, each of a share up to 2^-24
            lost -= -(((2 * n + 4) << F) + sum(map(abs, row.values())) + n + A) >> 125  # flushed to zero
            need((S >> F) + lost < 1 << (127 + F), "a float32 execution may overflow")
            found.append((E, beta, eps + lost))
        return found

    def interval(self, form: Form) -> tuple[int, int]:
        """Bounds of a form over the box of all columns."""
        E, beta, eps = form
        ends = list(map(mul, E, self.lo)), list(map(mul, E, self.hi))
        return (sum(map(min, *ends)) >> self.F) + beta - eps, -(-sum(map(max, *ends)) >> self.F) + beta + eps

    def sizes(self, forms: list[Form]) -> list[int]:
        """Bounds of the forms' absolute values."""
        return [max(map(abs, self.interval(form))) for form in forms]

    def walk(self, form: Form, l: list[int], u: list[int], alpha: list[int], beta: list[int],
             planes: Sequence[tuple[Plane, int]] = ()) -> int:  # fmt: skip
        """A lower bound of a form over all columns so far, in units of 2^-2F.

        Args:
            l, u: Bounds of the unstable neurons' zhat.
            alpha, beta: The choice of nu, for neurons with l < 0 < u and for those of one sign.
            planes: Planes and their multipliers.
        """
        lam, V = form[0], (form[1] - form[2]) << self.F
        for first, last, below, by_column in reversed(self.layers):
            own, lam, acc = lam[below:], lam[:below], [0] * below
            for (k, P, R), theta in planes:
                if first <= k < last and (pi := theta * max(-own[k - first], 0) >> self.F):
                    own[k - first] += pi
                    V -= pi * R
                    acc = [a - pi * p for a, p in zip(acc, P, strict=True)]
            nus = []
            for k, x in enumerate(own, start=first):
                low, high = l[k], u[k]
                if low >= 0:
                    nu = x - beta[k]
                    V += min((x - nu) * low, (x - nu) * high)
                elif high <= 0:
                    nu = beta[k]
                    V += min(-nu * low, -nu * high)
                else:
                    nu = (alpha[k] if x >= 0 else (high << self.F) // (high - low)) * x >> self.F
                    V += min(-nu * low, 0, (x - nu) * high)
                V += nu * self.forms[k][1] - abs(nu) * self.forms[k][2]
                nus.append(nu)
            lam = [x + ((a + sum(map(mul, nus, column)) + self.half) >> self.F)
                   for x, a, column in zip(lam, acc, by_column, strict=True)]  # fmt: skip
            V -= (sum(self.size[:below]) + 1) >> 1
        return V + sum(map(min, map(mul, lam, self.lo), map(mul, lam, self.hi)))  # lam has the inputs only

    def bounds(self, form: Form, rule: str) -> tuple[int, int]:
        """Bounds of a neuron's zhat by a rule."""
        lo, hi = self.interval(form)
        if rule == "crown" and lo < 0 < hi:
            negative = [-e for e in form[0]], -form[1], form[2]
            free = self.l, self.u, self.alpha, [0] * len(self.l)
            lo, hi = max(lo, self.walk(form, *free) >> self.F), min(hi, -(self.walk(negative, *free) >> self.F))
        return lo, hi

    def add_layer(self, forms: list[Form], bounds: list[tuple[int, int]], listed: Sequence[int]) -> list[Source]:
        """Make the listed neurons of a layer columns; what the next step reads of each neuron."""
        first, below, sources = len(self.forms), len(self.lo), list[Source]()
        for form, (lo, hi), unstable in zip(forms, bounds, listed, strict=True):
            need(unstable or lo >= 0 or hi <= 0, "a neuron is neither listed as unstable nor proved to be stable")
            sources.append(len(self.lo) if unstable else form if lo >= 0 else None)
            if unstable:
                self.forms.append(form)
                new = max(lo, 0), max(hi, 0), max(lo, hi, 0), lo, hi, 1 << self.F if hi > -lo else 0
                for store, v in zip((self.lo, self.hi, self.size, self.l, self.u, self.alpha), new, strict=True):
                    store.append(v)
        by_column = list(zip(*(form[0] for form in self.forms[first:]), strict=True)) or [()] * below
        self.layers.append((first, len(self.forms), below, by_column))
        return sources

    def plane(self, k: int, slope: list[int]) -> Plane:
        """The plane of a slope over an unstable neuron."""
        E, beta, eps = self.forms[k]
        P = slope[: len(E)]
        on = [e - p for e, p in zip(E, P, strict=True)]
        return k, P, max(self.interval(([-p for p in P], 0, 0))[1], self.interval((on, beta, eps))[1])


class Proof:
    """The header and the arrays of a proof."""

    def __init__(self, data: bytes, limit: int) -> None:
        need(data[:8] == b"MVPROOF1", "it does not begin like a proof")
        body = inflated(data[8:], zlib.MAX_WBITS, limit)
        start = 8 + int.from_bytes(body[:8], "little")
        self.header = read_json(bytes(body[8:start]).decode())
        need(fits(self.header, HEADER), "its header has unknown keys, lacks some, or holds values of other types")
        rationals = re.fullmatch("-?[0-9]{1,4000}(/[0-9]{1,4000})?", self.header["threshold"])
        need(rationals, "its threshold is not written as p/q")
        self.arrays: list[tuple[str, list[int], Sequence[Any]]] = []
        for dtype, shape in ((entry["dtype"], entry["shape"]) for entry in self.header["arrays"]):
            values = array.array(CODES[dtype])
            end = start + math.prod(shape) * values.itemsize
            need(min(shape, default=0) >= 0 and end <= len(body), "the arrays are larger than the proof")
            values.frombytes(body[start:end])
            if sys.byteorder == "big":
                values.byteswap()
            need(all(map(math.isfinite, values)), "an array holds NaN or infinity")
            self.arrays.append((dtype, shape, values))
            start = end
        need(start == len(body), "its length is not that of header and arrays")

    def get(self, part: dict[str, Any], key: str, dtypes: str, shape: list[int] | None = None) -> Sequence[Any]:
        """The values of the array for a key, flat; without a shape it must have one axis."""
        need(0 <= part[key] < len(self.arrays), f"the array for {key!r} is not there")
        dtype, found, values = self.arrays[part[key]]
        fitting = dtype in dtypes.split() and (len(found) == 1 if shape is None else found == shape)
        need(fitting, f"the array for {key!r} has another type or shape")
        return [v / 255 for v in values] if dtype == "u1" and dtypes == REALS else values

    def rows(self, part: dict[str, Any], key: str, count: int, default: list[int], F: int) -> Iterable[list[int]]:
        """The rows of a matrix of reals, rounded down; where it is left out, the default for each."""
        if key not in part:
            return [default] * count
        n, values = len(default), self.get(part, key, REALS, [count, len(default)])
        need(key != "alpha" or max(values, default=0) <= 1, "an alpha is greater than 1")
        return ([down(v, F) for v in values[i * n : i * n + n]] for i in range(count))


def fits(value: Any, form: Any) -> bool:
    """Whether a JSON value has the keys and types of a form."""
    if isinstance(form, list):
        return type(value) is list and all(fits(part, form[0]) for part in value)
    if isinstance(form, dict):
        keys = {key.rstrip("?"): part for key, part in form.items()}
        needed = set(keys).intersection(form)
        return type(value) is dict and needed <= set(value) <= set(keys) and all(fits(value[k], keys[k]) for k in value)
    return type(value) is form  # not isinstance: true is no integer


def paths(split: Sequence[int], below: int, trees: int = 1) -> Iterator[tuple[int, Path]]:
    """The number of the tree and the path of each leaf, of trees in preorder; splits are numbers below a limit."""
    path: Path = []
    tree = 0
    for place, what in enumerate(split):
        need(-1 <= what < below and tree < trees, "a tree splits what is not there, or goes on after its end")
        if what >= 0:
            path.append((place, False))
            continue
        yield tree, path
        while path and path[-1][1]:
            path.pop()
        path[-1:] = [(last, True) for last, _ in path[-1:]]
        tree += not path
    need(not path and tree == trees, "a tree ends before its last leaf")


def check(
    proof: Proof, network: list[Affine], cases: list[Case], trace: list[Any] | None = None, steps: int = 0
) -> tuple[int, int]:
    """Check a proof against a network and the cases of a property.

    Args:
        steps: Of the grid that the inputs lie on, 0 for none.
        trace: Is given (lower, upper) of each layer of each context, and the list of V of the leaves of each tree.

    Returns:
        The numbers of contexts and of leaves.

    Raises:
        Stop: If the proof is not accepted.
    """
    header, F, trace = proof.header, proof.header["bits"], [] if trace is None else trace
    kind, float32 = (header["format"], header["version"]), header["semantics"] == "float32"
    known = kind == ("milpverify-proof", 1) and (float32 or header["semantics"] == "real")
    need(known and 16 <= F <= 4096, "it is of another format, version or semantics")
    made_for = header.get("grid", 0)
    need(made_for in (0, steps), f"it is only about inputs on the grid k/{made_for}: ask that by --grid {made_for}")
    need(made_for == steps, "it is about all inputs, which is more than those on a grid: check it without --grid")
    for product, bias, n in network if float32 else []:
        need(0 < n < (1 << 20) - 2, "in float32: a layer that is not one operator of the file with one bias")
        weights = itertools.chain(bias, *(row.values() for row in product[0]))
        need(all(map(is_float32, weights)), "in float32: weights that are no float32 numbers")
    threshold, unproved, leaves, n_contexts = rational(header["threshold"]), set(range(len(cases))), [], 0
    maps = [([rounded(W, F) for W in product], [near(b, F) for b in bias], n) for product, bias, n in network]
    for group in header["groups"]:
        numbers = group["cases"]
        new = numbers and unproved.issuperset(numbers) and len(set(numbers)) == len(numbers)
        need(new, "a group has no cases, cases that are not there, or cases that are proved twice")
        unproved.difference_update(numbers)
        box, *others = (rounded_box(cases[i], F, float32, steps) for i in numbers)
        need(others == [box] * len(others), "the cases of a group have different boxes")
        split, at = [-1], [0.0]
        if "split" in group or "at" in group:
            split, at = list(proof.get(group, "split", "i4")), list(proof.get(group, "at", "f8"))
        need(len(split) == len(at) and not any(t for i, t in zip(split, at, strict=True) if i < 0), "'at' does not fit")
        need(sum(i < 0 for i in split) == len(group["contexts"]), "a tree has not one context for each leaf")
        for (_, path), part in zip(paths(split, len(box[0])), group["contexts"], strict=True):
            lower, upper = list(box[0]), list(box[1])
            for place, second in path:
                i, t = split[place], down(at[place], F)
                need(lower[i] <= t <= upper[i], f"a split of input {i} lies outside of its box")
                if steps:
                    t = grid_split(t, second, F, float32, steps)
                if second:
                    lower[i] = max(lower[i], t)
                else:
                    upper[i] = min(upper[i], t)
                need(lower[i] <= upper[i], f"a split of input {i} leaves a side without a point of the grid")
            context = Context(F, lower, upper, float32)
            y = bound_layers(proof, part, context, maps, trace)
            sizes = context.sizes(y)
            claims = [context.affine(rounded(C, F), [near(-q - threshold, F) for q in d], y, sizes)
                      for _, _, C, d in (cases[i] for i in numbers)]  # fmt: skip
            trees = list(walk_trees(proof, part, context, claims))
            trace += trees
            leaves += [V for tree in trees for V in tree]
            n_contexts += 1
    n_open = sum(V is not None and V <= 0 for V in leaves)
    need(n_open == 0, f"{n_open} of {len(leaves)} leaves are not closed")
    need(not unproved, f"{len(unproved)} of {len(cases)} cases are left out")
    return n_contexts, len(leaves)


def grid_at_least(q: Fraction, steps: int) -> Fraction:
    """The least multiple of 1/steps that is at least q."""
    return Fraction(math.ceil(q * steps), steps)


def grid_split(t: int, second: bool, F: int, float32: bool, steps: int) -> int:
    """Where the grid points on a side of a split begin (the second) or end, rounded outward."""
    q = grid_at_least(Fraction(t if second else -t, 1 << F), steps)
    inward = down(float32_at_most(q) if float32 else q, F)
    return inward if second else -inward


def rounded_box(case: Case, F: int, float32: bool, steps: int = 0) -> list[list[int]]:
    """The box of a case, rounded inward to a grid and then outward; in float32 to its numbers first."""
    sides = case[0], [-q for q in case[1]]
    if steps:
        sides = tuple([grid_at_least(q - GRID_SLACK / steps, steps) for q in side] for side in sides)  # type: ignore
        need(all(l <= -u for l, u in zip(*sides, strict=True)), "a box has no point of the grid", 2)
    lower, upper = (map(float32_at_most, side) if float32 else side for side in sides)
    return [[down(q, F) for q in lower], [-down(q, F) for q in upper]]


def bound_layers(proof: Proof, part: Any, context: Context, maps: list[Affine], trace: list[Any]) -> list[Form]:
    """Bound all layers over the box of a context, and make their unstable neurons columns; the forms of y."""
    layers = part.get("layers", [{"rule": "crown"}] * (len(maps) - 1))
    need(len(layers) == len(maps) - 1, f"a context has {len(layers)} layers, the network {len(maps) - 1}")
    sources: Sequence[Source] = range(len(context.lo))
    sizes = list(context.size)
    for layer, affine in zip(layers, maps, strict=False):
        need(layer["rule"] in ("interval", "crown"), "a layer's rule is neither interval nor crown")
        forms = context.product(affine, sources, sizes)
        bounds = [context.bounds(form, layer["rule"]) for form in forms]
        for claims in layer.get("claims", []):
            trace.append(claim(proof, claims, context, forms, bounds))
        listed: Sequence[int] = [lo < 0 < hi for lo, hi in bounds]
        if "unstable" in layer:
            listed = proof.get(layer, "unstable", "u1", [len(forms)])
            need(max(listed, default=0) <= 1, "a list of unstable neurons holds more than 0 and 1")
        sources = context.add_layer(forms, bounds, listed)
        sizes = [0 if source is None else max(hi, 0) for source, (_, hi) in zip(sources, bounds, strict=True)]
        trace.append(([lo for lo, _ in bounds], [hi for _, hi in bounds]))
    return context.product(maps[-1], sources, sizes)


def claim(proof: Proof, claims: Any, context: Context, forms: list[Form], bounds: list[tuple[int, int]]) -> Values:
    """Tighten the bounds of a layer by what is claimed of its neurons; V of the leaves of all trees."""
    rows, n = proof.get(claims, "row", "i4"), len(forms)
    need(len(rows) > 0 and all(0 <= row < 2 * n for row in rows), "a claim is about a neuron that is not there")
    roots = [forms[row] if row < n else ([-e for e in forms[row - n][0]], -forms[row - n][1], forms[row - n][2])
             for row in rows]  # fmt: skip
    used = read_planes(proof, claims["planes"], context) if "planes" in claims else None
    values = list(walk_leaves(proof, claims, context, used, len(rows), lambda tree, _: roots[tree]))
    for tree, row in enumerate(rows):
        lo, hi = bounds[row % n]
        if found := [V for number, V in values if number == tree and V is not None]:
            least = min(found) >> context.F
            bounds[row % n] = (max(lo, least), hi) if row < n else (lo, min(hi, -least))
    return [V for _, V in values]


def read_planes(proof: Proof, planes: Any, context: Context) -> list[Plane]:
    """A set of planes over the columns so far."""
    n, m = len(context.forms), len(context.lo)
    neurons = proof.get(planes, "neuron", "i4")
    need(list(neurons) == sorted(neurons) and all(0 <= k < n for k in neurons), "a plane's neuron is not there")
    P = [near(p, context.F) for p in proof.get(planes, "P", REALS, [len(neurons), m])]
    return [context.plane(k, P[i * m : i * m + m]) for i, k in enumerate(neurons)]


def walk_trees(proof: Proof, part: Any, context: Context, claims: list[list[Form]]) -> Iterator[Values]:
    """V of each leaf of each tree of a context; a claim is the forms of a case's rows."""
    sets = [read_planes(proof, planes, context) for planes in part.get("planes", [])]
    need(len(part["trees"]) == len(claims), "a context has not one tree for each case")
    for tree, rows in zip(part["trees"], claims, strict=True):
        need("mu" in tree or len(rows) == 1, "mu is left out where there is not one row")
        need(0 <= tree.get("planes", 0) < len(sets) or "planes" not in tree, "a tree's planes are not there")
        count = sum(k < 0 for k in proof.get(tree, "split", "i4")) if "split" in tree else 1
        mu = list(proof.rows(tree, "mu", count, [1 << context.F] * len(rows), context.F))
        need(min(map(min, filter(None, mu)), default=0) >= 0, "a multiplier is negative")
        root = lambda _, leaf, rows=rows, mu=mu: context.affine([dict(enumerate(mu[leaf]))], [0], rows, [])[0]  # noqa: E731
        used = sets[tree["planes"]] if "planes" in tree else None
        yield [V for _, V in walk_leaves(proof, tree, context, used, 1, root)]


def walk_leaves(proof: Proof, trees: Any, context: Context, planes: list[Plane] | None, count: int,
                root: Callable[[int, int], Form]) -> Iterator[tuple[int, int | None]]:  # fmt: skip
    """The number of the tree and V, None where it is empty, of each leaf of trees of a context.

    Args:
        planes: None where none are given.
        count: How many trees.
        root: The form that is walked, of the numbers of tree and leaf.
    """
    F, n = context.F, len(context.forms)
    need((planes is None) == ("theta" not in trees), "theta has no planes, or planes no theta")
    used = planes or []
    split = proof.get(trees, "split", "i4") if "split" in trees else [-1] * count
    defaults = {"alpha": context.alpha, "beta": [0] * n, "theta": [0] * len(used)}
    leaves = sum(k < 0 for k in split)
    tables = [proof.rows(trees, key, leaves, default, F) for key, default in defaults.items()]
    for leaf, ((tree, path), alpha, beta, theta) in enumerate(zip(paths(split, n, count), *tables, strict=True)):
        need(min([*alpha, *theta], default=0) >= 0, "a multiplier is negative")
        l, u = list(context.l), list(context.u)
        for place, second in path:
            k = split[place]
            l[k], u[k] = (l[k], min(u[k], 0)) if second else (max(l[k], 0), u[k])
        weighted = list(zip(used, theta, strict=True))
        yield tree, None if any(map(gt, l, u)) else context.walk(root(tree, leaf), l, u, alpha, beta, weighted)


# Reading files. Whatever damage raises (ValueError, IndexError, ...), `main` turns into an answer.


def inflated(data: bytes, wbits: int, limit: int, status: int = 1) -> memoryview:
    """One zlib or gzip stream, unpacked."""
    stream = zlib.decompressobj(wbits)
    body = stream.decompress(data, limit + 1)
    whole = len(body) <= limit and stream.eof and not stream.unused_data
    need(whole, f"it is no whole zlib stream of at most {limit} bytes, see --limit", status)
    return memoryview(body)


def read_json(text: str) -> Any:
    """JSON without repeated keys."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key is repeated")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)


def rational(text: str) -> Fraction:
    """A fraction or a decimal number, exactly."""
    if not re.fullmatch(r"[+-]?([0-9]+/0*[1-9][0-9]*|(?=\.?[0-9])[0-9]*\.?[0-9]*([eE][+-]?[0-9]{1,3})?)", text):
        raise ValueError(f"{text[:40]!r} is no number")
    return Fraction(text)


def read_property(data: memoryview, steps: int = 0) -> tuple[int, int, list[Case]]:
    """The numbers of inputs and outputs, and the cases of a property in VNN-LIB or milpverify's JSON."""
    text = bytes(data).decode()
    n, m, cases = read_document(read_json(text), steps) if text.startswith("{") else read_vnnlib(text)
    for lower, upper, _, _ in cases:
        fitting = len(lower) == len(upper) == n and not any(map(gt, lower, upper))
        need(fitting, "a box is empty, or has not the dimension of the input", 2)
    return n, m, cases


def read_document(document: dict[str, Any], steps: int = 0) -> tuple[int, int, list[Case]]:
    """A property as milpverify saves it; cuts of a region are left out, and its grid unless one of so many steps is
    asked for, which makes it larger."""
    need((document["format"], document["version"]) == ("milpverify-property", 1), "a property of this format", 3)
    boxes, cases = [], list[Case]()
    for region in document["regions"]:
        need(region["type"] in ("Box", "LinfBall"), f"a region of type {region['type']}", 3)
        need(not steps or region.get("grid", steps) == steps, "a region has another grid than was asked for", 2)
        sides = ("lower", "upper") if region["type"] == "Box" else ("center", "center")
        lower, upper = ([Fraction(float(v)) for v in region[side]] for side in sides)
        if region.get("exact"):
            lower, upper = ([rational(q) for q in side] for side in region["exact"])
        if region["type"] == "LinfBall":
            eps, clip = Fraction(float(region["eps"])), region["clip"] or [["-inf"] * len(lower), ["inf"] * len(lower)]
            low, high = ([float(v) for v in side] for side in clip)
            lower = [q - eps if v == -math.inf else max(q - eps, Fraction(v)) for q, v in zip(lower, low, strict=True)]
            upper = [q + eps if v == math.inf else min(q + eps, Fraction(v)) for q, v in zip(upper, high, strict=True)]
        boxes.append((lower, upper))
    for case in document["cases"]:
        C, d = [dict(enumerate(map(float, row))) for row in case["C"]], [rational(q) for q in case["d"]]
        fitting = len(C) == len(d) and all(len(row) == document["n_outputs"] for row in C)
        need(fitting and case["region"] >= 0, "the parts of a case do not fit", 2)
        cases.append((*boxes[case["region"]], C, d))
    return document["n_inputs"], document["n_outputs"], cases


def read_vnnlib(text: str) -> tuple[int, int, list[Case]]:
    """A property in VNN-LIB 1.0: one case for each disjunct whose inputs do not contradict each other."""
    stack: list[list[Any]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n]*", "", text)):
        if token == "(":
            stack.append([])
            need(len(stack) < 110, "a formula of this depth", 3)
        elif token == ")":
            whole = stack.pop()
            stack[-1].append(whole)
        else:
            stack[-1].append(token)
    (commands,) = stack
    names, asserted = dict[str, tuple[str, Any]](), ["and"]
    for command in commands:
        match command:
            case ["declare-const", str(name), "Real"] | ["declare-fun", str(name), [], "Real"]:
                need(re.fullmatch("[XY]_(0|[1-9][0-9]{0,8})", name), f"a variable {name[:60]}", 3)
                names[name] = name[0], int(name[2:])
            case ["assert", form]:
                asserted.append(named(form, names))
            case ["set-logic" | "set-info" | "set-option" | "check-sat" | "get-model" | "exit", *_]:
                pass
            case _:
                raise Stop(3, f"the command {str(command)[:60]}")
    n, m = (sum(kind == letter for kind, _ in names.values()) for letter in "XY")
    need(all(i < (n if kind == "X" else m) for kind, i in names.values()), "variables with gaps in their numbers", 3)
    parts = sorted(conjuncts(asserted), key=lambda part: part[0] == "or")  # the rows of all cases come first
    cases = [case for clause in clauses(["and", *parts]) if (case := read_clause(clause, n))]
    need(cases, "no input satisfies its assertions", 2)
    return n, m, cases


def named(form: Any, names: dict[str, tuple[str, Any]]) -> Any:
    """A formula with "<=" only, of variables ("X" or "Y", number) and constants ("", value)."""
    match form:
        case ["and" | "or" as word, _, *_]:
            return [word, *(named(part, names) for part in form[1:])]
        case ["<=", str(small), str(large)] | [">=", str(large), str(small)]:
            a, b = (names[name] if name in names else ("", rational(name)) for name in (small, large))
            need(a[0] == b[0] != "" or bool(a[0]) != bool(b[0]), f"{small} <= {large}", 3)
            return ["<=", a, b]
    raise Stop(3, f"the formula {str(form)[:60]}")


def conjuncts(form: Any) -> Iterator[Any]:
    """The parts of nested conjunctions; a disjunction of one part is that part."""
    if form[0] == "<=" or (form[0] == "or" and len(form) > 2):
        yield form
    else:
        yield from itertools.chain(*map(conjuncts, form[1:]))


def clauses(form: Any) -> list[list[Any]]:
    """The clauses of the disjunctive normal form, in the order of the text."""
    if form[0] == "<=":
        return [[form]]
    parts = [clauses(part) for part in form[1:]]
    if form[0] == "or":
        return list(itertools.chain(*parts))
    size = math.prod(map(len, parts)) * sum(len(part[0]) for part in parts)
    need(size <= LARGEST, "a property of so many disjuncts", 3)
    return [list(itertools.chain(*choice)) for choice in itertools.product(*parts)]


def read_clause(clause: list[Any], n: int) -> Case | None:
    """The case of a clause; None where its inputs contradict each other."""
    lower, upper, orders = dict[int, Fraction](), dict[int, Fraction](), list[tuple[int, int]]()
    rows: dict[Any, tuple[dict[int, Any], Fraction]] = {}
    for _, (kind, a), (other, b) in clause:
        if kind == other == "X":
            orders.append((a, b))
        elif kind == "X":
            upper[a] = min(b, upper.get(a, b))
        elif other == "X":
            lower[b] = max(a, lower.get(b, a))
        elif kind != other:
            rows[kind, a, other, b] = ({a: 1}, b) if kind else ({b: -1}, -a)
        elif a != b:
            rows[kind, a, other, b] = {a: 1, b: -1}, Fraction(0)
    before = None
    while orders and before != (lower, upper):  # X_a <= X_b carries bounds along
        before = dict(lower), dict(upper)
        for a, b in orders:
            lower.update({b: max(lower[a], lower.get(b, lower[a]))} if a in lower else {})
            upper.update({a: min(upper[b], upper.get(a, upper[b]))} if b in upper else {})
    if any(lower[i] > upper[i] for i in lower if i in upper):
        return None
    need(len(lower) == len(upper) == n, "an input without bounds", 3)
    C, d = [row for row, _ in rows.values()], [q for _, q in rows.values()]
    return [lower[i] for i in range(n)], [upper[i] for i in range(n)], C, d


# ONNX: as much of protobuf, and of the operators, as a chain of affine maps and ReLUs needs.

Tensor = tuple[list[int], Sequence[Any]]  # shape, values


def varint(data: memoryview, i: int) -> tuple[int, int]:
    """The integer at a place, and the place after it."""
    value = 0
    for k in range(10):
        value |= (data[i + k] & 127) << 7 * k
        if data[i + k] < 128:
            value &= (1 << 64) - 1
            return value - (value >> 63 << 64), i + k + 1
    raise ValueError("an integer of more than ten bytes")


class Message:
    """A protobuf message: the values of each field, integers or bytes."""

    def __init__(self, data: memoryview) -> None:
        self.fields: dict[int, list[Any]] = defaultdict(list)
        i = 0
        while i < len(data):
            key, i = varint(data, i)
            value: Any
            value, i = varint(data, i) if key & 7 in (0, 2) else ({1: 8, 5: 4}[key & 7], i)
            if key & 7:
                need(0 <= value <= len(data) - i, "a message is cut short", 2)
                value, i = data[i : i + value], i + value
            self.fields[key >> 3].append(value)

    def one(self, number: int, default: Any = memoryview(b"")) -> Any:  # noqa: B008 (never changed)
        """A field that is there at most once."""
        (value,) = self.fields[number] or [default]
        need(type(value) is type(default), "a field is of another type", 2)
        return value

    def text(self, number: int = 1) -> str:
        """A text."""
        return bytes(self.one(number)).decode()

    def integers(self, number: int) -> list[int]:
        """A repeated integer, packed or not."""
        values: list[int] = []
        for part in self.fields[number]:
            i = 0
            while not isinstance(part, int) and i < len(part):
                value, i = varint(part, i)
                values.append(value)
            values += [part] if isinstance(part, int) else []
        return values

    def tensor(self) -> Tensor:
        """The shape and the numbers of a tensor of float32, float64 or int64."""
        shape, kind, raw = self.integers(1), self.one(2, 0), self.one(9)
        here = not (self.fields[3] or self.fields[13] or self.one(14, 0))
        need(here and kind in (1, 7, 11), "a tensor kept elsewhere, or of another type than float32, float64, int64", 3)
        values = array.array({1: "f", 7: "q", 11: "d"}[kind])
        if kind == 7 and not raw:
            values.extend(self.integers(7))
        else:
            values.frombytes(raw or b"".join(self.fields[4 if kind == 1 else 10]))
            if sys.byteorder == "big":
                values.byteswap()
        fitting = min(shape, default=0) >= 0 and math.prod(shape) == len(values) and all(map(math.isfinite, values))
        need(fitting, "the numbers of a tensor are not finite, or do not fit its shape", 2)
        return shape, values

    def attribute(self) -> Any:
        """The value of a node's attribute: a float, an integer, a text, a tensor or integers."""
        kind = self.one(20, 0)
        need(kind in (1, 2, 3, 4, 7) and not self.fields[21], f"the attribute {self.text()}", 3)
        if kind == 1:
            return struct.unpack("<f", self.one(2, memoryview(bytes(4))))[0]
        if kind == 4:
            return Message(self.one(5)).tensor()
        return self.one(3, 0) if kind == 2 else self.text(4) if kind == 3 else self.integers(8)


class Chain:
    """The network read so far: its finished affine maps, and the one since the last ReLU."""

    def __init__(self, shape: list[int]) -> None:
        self.shape, self.maps, self.matrices = shape, list[Affine](), list[Matrix]()
        self.bias = [Fraction(0)] * math.prod(shape)
        self.kinds, self.n = "", 0  # W, b, ?: a matrix, a bias, another operator since the last ReLU; products a row

    def push(self, W: Matrix, shape: list[int], n: int) -> None:
        """One more matrix, of sums of n products; the bias so far goes through it exactly."""
        self.kinds, self.n = self.kinds + "W", n
        b = {i: q for i, q in enumerate(self.bias) if q}
        self.bias = [sum((Fraction(w) * b[j] for j, w in row.items() if j in b), Fraction(0)) for row in W]
        self.matrices, self.shape = [*self.matrices, W], shape

    def end(self) -> None:
        """The affine map ends here."""
        identity = [{i: 1} for i in range(len(self.bias))]
        self.maps.append((self.matrices or [identity], self.bias, self.n if self.kinds in ("W", "Wb") else 0))
        self.matrices, self.bias, self.kinds = [], [Fraction(0)] * len(self.bias), ""

    def shift(self, constant: Tensor, factor: float = 1) -> None:
        """One more constant times a factor, broadcast."""
        shape, values = [1] * (len(self.shape) - len(constant[0])) + constant[0], constant[1]
        fitting = len(shape) == len(self.shape) and all(c in (1, n) for c, n in zip(shape, self.shape, strict=True))
        need(fitting, f"adding a constant of shape {shape} to values of shape {self.shape}", 3)
        self.kinds += ("b" if factor == 1 else "?") if any(values) else ""
        steps = [math.prod(shape[i + 1 :]) * (c > 1) for i, c in enumerate(shape)]
        places = (sum(map(mul, place, steps)) for place in itertools.product(*map(range, self.shape)))
        self.bias = [b + Fraction(factor) * Fraction(values[i]) for b, i in zip(self.bias, places, strict=True)]

    def multiply(self, matrix: Tensor, turned: int = 0, factor: float = 1) -> None:
        """x @ matrix, or x @ matrix.T, times a factor, for x of one row."""
        need(len(matrix[0]) == 2, "a product with a constant that is no matrix", 3)
        (rows, columns), values = matrix
        n, m = (columns, rows) if turned else (rows, columns)
        need(self.shape[-1:] == [n] == [math.prod(self.shape)] and m > 0, "a product with several rows", 3)
        exactly = (lambda w: w) if factor == 1 else (lambda w: Fraction(w) * Fraction(factor))
        lines = (values[j * n : j * n + n] if turned else values[j::m] for j in range(m))
        self.push([{i: exactly(w) for i, w in enumerate(line) if w} for line in lines], [*self.shape[:-1], m], n)
        self.kinds += "" if factor == 1 else "?"

    def convolve(self, kernel: Tensor, steps: list[int], pads: list[int], gaps: list[int], groups: int) -> None:
        """A two-dimensional convolution of a batch of one."""
        need(len(kernel[0]) == len(self.shape) == len(pads) == 4, "a convolution that is not two-dimensional", 3)
        ((out, depth, *window), values), (batch, channels, *sides) = kernel, self.shape
        reach = [sides[a] + pads[a] + pads[a + 2] - gaps[a] * (window[a] - 1) - 1 for a in (0, 1)]
        fitting = batch == 1 and groups * depth == channels and out % groups == 0 and min(*steps, *gaps, *window) > 0
        need(fitting and min(*reach, *pads) >= 0, "a convolution of these sizes", 3)
        high, wide = (reach[a] // steps[a] + 1 for a in (0, 1))
        need(high * wide * len(values) <= LARGEST, "a convolution as large", 3)
        W: Matrix = []
        for f, y, x in itertools.product(range(out), range(high), range(wide)):
            row = {}
            taps = itertools.product(range(depth), range(window[0]), range(window[1]))
            for k, (c, i, j) in enumerate(taps, start=f * depth * math.prod(window)):
                s, t = y * steps[0] - pads[0] + i * gaps[0], x * steps[1] - pads[1] + j * gaps[1]
                if values[k] and 0 <= s < sides[0] and 0 <= t < sides[1]:
                    row[((f // (out // groups) * depth + c) * sides[0] + s) * sides[1] + t] = values[k]
            W.append(row)
        self.push(W, [1, out, high, wide], depth * math.prod(window))

    def step(self, op: str, at: int, rest: list[Tensor], options: dict[str, Any]) -> bool:
        """Apply an operator to the value so far, its input number `at`, and constants; False where it is not read."""
        shape = self.shape

        def take(key: str, default: Any) -> Any:
            value = options.pop(key, default)
            need(type(value) is type(default), f"the attribute {key} of {op}", 3)
            return value

        if op == "Relu" and not rest:
            if self.matrices or any(self.bias) or not self.maps:  # otherwise the values are ReLUs already
                self.end()
        elif op == "Dropout" and at == 0 and len(rest) < 2:
            options.clear()  # ratio and seed; in inference nothing is dropped
        elif op == "Flatten" and not rest:
            axis = take("axis", 1)
            self.shape = [math.prod(shape[:axis]), math.prod(shape[axis:])]
        elif op == "Reshape" and at == 0 and len(rest) == 1 and take("allowzero", 0) == 0:
            new = [n or shape[i] for i, n in enumerate(rest[0][1])]
            self.shape = [len(self.bias) // math.prod(k for k in new if k > 0) if n == -1 else n for n in new]
            return min(self.shape) > 0 and math.prod(self.shape) == len(self.bias) and not options
        elif op in ("Add", "Sub") and len(rest) == 1:
            if op == "Sub" and at == 1:  # c - x: the last matrix and the bias change their signs
                last = self.matrices.pop() if self.matrices else [{i: 1} for i in range(len(self.bias))]
                self.matrices.append([{j: -w for j, w in row.items()} for row in last])
                self.bias = [-b for b in self.bias]
                self.kinds += "?"
            self.shift(rest[0], -1 if op == "Sub" and at == 0 else 1)
        elif op == "MatMul" and len(rest) == 1 and (at == 0 or len(shape) == 1):
            self.multiply(rest[0], turned=at)
        elif op == "Gemm" and at == 0 and len(rest) in (1, 2) and take("transA", 0) == 0 and len(shape) == 2:
            beta = take("beta", 1.0)
            self.multiply(rest[0], take("transB", 0), take("alpha", 1.0))
            for constant in rest[1:]:
                self.shift(constant, beta)
        elif op == "Conv" and at == 0 and len(rest) in (1, 2) and take("auto_pad", "NOTSET") == "NOTSET":
            need(take("kernel_shape", rest[0][0][2:]) == rest[0][0][2:], "a kernel_shape that is not the kernel's", 3)
            lists = take("strides", [1, 1]), take("pads", [0] * 4), take("dilations", [1, 1])
            self.convolve(rest[0], *lists, take("group", 1))
            for (size,), values in rest[1:]:
                self.shift(([size, 1, 1], values))
        elif op != "Identity" or rest:
            return False
        return not options


def read_onnx(data: memoryview, n: int) -> tuple[int, list[Affine]]:
    """A chain of operators with n inputs: the number of outputs, and the affine maps to each ReLU layer and to y."""
    model = Message(data)
    graph = Message(model.one(7))
    versions = [o.one(2, 0) for o in map(Message, model.fields[8]) if o.text() in ("", "ai.onnx")]
    fresh = max(versions, default=0) >= 7 and not model.fields[25] and not graph.fields[15]
    need(fresh, "an operator set before 7, functions, or sparse tensors", 3)
    tensors = list(map(Message, graph.fields[5]))
    constants = {t.text(8): t.tensor() for t in tensors}
    inputs = [v for v in map(Message, graph.fields[11]) if v.text() not in constants]
    outputs = [v.text() for v in map(Message, graph.fields[12])]
    single = len(inputs) == len(outputs) == 1 and len(constants) == len(tensors)
    need(single, "several inputs or outputs, or tensors of one name", 3)
    declared = Message(Message(inputs[0].one(2)).one(1))
    shape = [Message(d).one(1, 0) for d in Message(declared.one(2)).fields[1]]
    shape[:1] = [size or 1 for size in shape[:1]]  # a free batch axis
    need(declared.one(1, 0) in (1, 11) and min(shape, default=1) > 0, "an input of this type or shape", 3)
    need(math.prod(shape) == n, f"it has an input of shape {shape}, the property {n} inputs", 2)
    chain, current, taken = Chain(shape), inputs[0].text(), {inputs[0].text(), *constants}
    for node in map(Message, graph.fields[1]):
        op, options = node.text(4), {a.text(): a.attribute() for a in map(Message, node.fields[5])}
        names, (result, *others) = ([bytes(part).decode() for part in node.fields[k]] for k in (1, 2))
        new = {result, *filter(None, others)}
        place = f"operator {op} (node '{node.text(3) or result}')"
        known = node.text(7) in ("", "ai.onnx") and len(options) == len(node.fields[5])
        need(known and taken.isdisjoint(new), place, 3)
        taken |= new
        if op == "Constant" and list(options) == ["value"]:
            constants[result] = options["value"]
            continue
        while names[-1:] == [""]:
            names.pop()
        need(names.count(current) == 1 and constants.keys() | {current} >= set(names), f"{place} in no chain", 3)
        rest = [constants[name] for name in names if name != current]
        need(chain.step(op, names.index(current), rest, options), place, 3)
        current = result
    need([current] == outputs, "an output that is not the end of the chain", 3)
    chain.end()
    return len(chain.maps[-1][1]), chain.maps


def load(path: str, limit: int) -> memoryview:
    """The bytes of a file, unpacked if they are gzip's."""
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    need(len(data) <= limit, f"it has more than {limit} bytes, see --limit", 2)
    return inflated(data, 31, limit, 2) if data[:2] == b"\x1f\x8b" else memoryview(data)


def main(arguments: list[str]) -> int:
    """The command line; its exit status."""
    parser = argparse.ArgumentParser(prog="checker", description="Check a proof by exact integers, without a solver.")
    parser.add_argument("proof")
    parser.add_argument("network", help=".onnx or .onnx.gz")
    parser.add_argument("property", help=".vnnlib, .vnnlib.gz, or .json as milpverify saves it")
    parser.add_argument("--threshold", default="0", help="what the least slack is claimed to exceed (default 0)")
    parser.add_argument("--grid", type=int, metavar="STEPS", help="only inputs k/STEPS count: 255 for 8-bit images")
    parser.add_argument("--limit", type=int, default=1 << 31, help="bytes of a file, unpacked (default 2 GiB)")
    options = parser.parse_args(arguments)

    status, at = 2, "--threshold"
    try:
        threshold = rational(options.threshold)
        at, steps = "--grid", 0 if options.grid is None else options.grid
        need(options.grid is None or 1 <= steps <= 65535, f"{steps} is not from 1 to 65535", 2)
        at = options.property
        n, m, cases = read_property(load(at, options.limit), steps)
        at = options.network
        n_outputs, network = read_onnx(load(at, options.limit), n)
        need(n_outputs == m, f"it has {n_outputs} outputs, the property {m}", 2)
        at = options.proof
        with open(at, "rb") as file:
            data = file.read(options.limit + 1)
        status = 1
        proof = Proof(data, options.limit)
        need(rational(proof.header["threshold"]) >= threshold, f"it claims less than a slack of {threshold}")
        n_contexts, n_leaves = check(proof, network, cases, steps=steps)
        about = "every float32 execution" if proof.header["semantics"] == "float32" else "the real numbers"
        about += f" on the grid k/{steps}" if steps else ""
        status, reason = 0, f"{len(cases)} cases, {n_contexts} contexts, {n_leaves} leaves, for {about}"
    except Stop as stop:
        status, reason = stop.args
    except OSError as error:
        reason = f"it cannot be read ({error.strerror})"
    except Exception as error:  # whatever damaged bytes lead to; it never accepts
        reason = f"it is damaged, or of another form ({type(error).__name__}: {error})"
    word = ("accepted", "rejected", "unreadable", "cannot check")[status]
    line = " ".join(f"{word}: {at}: {reason}".split())[:400]
    print(line.encode("ascii", "backslashreplace").decode())
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
