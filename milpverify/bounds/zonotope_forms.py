r"""Forms: what zonotopes know of the vectors of a network, through affine maps and relu, rounding included.

What is known of a vector v (the input, a layer's zhat or z) over a box is its *form*: for every x in the box there are
symbols e in [-1, 1]^G, the same for all layers, with

    | v - c - sum_g e_g G_g |  <=  rho        entry by entry; centre c, generators G_g, noise rho.

Input. x = c + sum_i e_i r_i, with r rounded up; rho = 0.

Affine map. c' = b + sum_s W_s c_s and G'_g = sum_s W_s G_{s,g}, symbol by symbol. Each is off by at most gamma_N times
the same sum of sizes, N roundings on the longest path, and together by gamma_N (|b| + sum_s |W_s| M_s) with
M = |c| + sum_g |G_g|. So

    rho' = sum_s |W_s| (rho_s + 2 N 2^-53 M_s) + 2 N 2^-53 |b| + (what the bias was rounded by) + (slack of zhat),

and a factor 1 + 4 N 2^-53 for the roundings of this sum itself. Underflow is absolute and is added per generator.

ReLU. Let l <= v <= u be the *stored* bounds of a neuron, proven by whatever method, p = max(u, 0), q = max(-l, 0).
For every s in [0, 1], relu(v) - s v is (1 - s) v in [0, (1 - s) p] where v >= 0, and -s v in [0, s q] where v <= 0. So
with any h >= max((1 - s) p, s q) / 2

    relu(v) = s v + h + h e        for some e in [-1, 1]: one new symbol.

It holds for every float s in [0, 1], so only h is rounded up. s = p / (p + q) is Fast-Lin's slope u / (u - l) where the
neuron is unstable, exactly 1 where it is active and exactly 0 where it is inactive; there h = 0 and no symbol is made.
The products s c + h and s G_g are off by at most two units of |s c| + 2 h + s sum_g |G_g|, which serves as M too.

Bounds. l, u = c -+ R with R = (sum_g |G_g| + rho) (1 + (G + 10) 2^-52) + 2^-52 |c|: the factor covers the sum of G
sizes in any order, the last term the subtraction from c. Where something overflows nothing is claimed.

Source: Singh et al. 2018, "Fast and effective robustness certification" (DeepZ), theorem 3.1; Girard 2005 (zonotopes);
Higham 2002, section 3.1 (gamma_n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milpverify.bounds.generators import Generators, Newest, mapped, merged
from milpverify.bounds.problem import LEAST_NORMAL, DualProblem
from milpverify.bounds.pruned import submatrix
from milpverify.errors import OptionError
from milpverify.network.arrays import array_namespace, device, to_host
from milpverify.network.graph import UNIT
from milpverify.network.operators import Array

ARRAYS = 4  # generator arrays alive at once
SMALLEST = 2.0**-1074  # of the positive floats


@dataclass(frozen=True, eq=False)
class Form:
    """A form of zhat_k over b boxes, in the problem's namespace. Boxes have their own symbols, as many as they need.

    Attributes:
        columns: The q neurons it is known for.
        centre, noise, reach: c, rho and sum_g |G_g|, shape (b, q).
        generators: Of q entries.
    """

    columns: np.ndarray
    centre: Array
    noise: Array
    reach: Array
    generators: Generators


@dataclass(frozen=True, eq=False)
class Values:
    """A form of the input or of z_j over b boxes; its newest symbols have one entry each and are kept apart.

    Attributes:
        columns: The p entries that are not zero in all boxes.
        centre, noise, size: c, rho and M, shape (b, p).
        generators: Of p entries, without the newest.
        newest: Their places are places in `columns`; their origin is j, or 0 for the input.
    """

    columns: np.ndarray
    centre: Array
    noise: Array
    size: Array
    generators: Generators
    newest: Newest


def batch_axes(problem: DualProblem) -> tuple[int, ...]:
    """Batch axes of the bounds or of the region, whichever has them."""
    return max((problem.batch, *(l.shape[:-1] for l in problem.lower)), key=len)


def some_boxes(problem: DualProblem, values: np.ndarray, chunk: slice) -> np.ndarray:
    """Some boxes of an array of shape (*batch, n), or (n,) for all of them; shape (b, n) or (1, n)."""
    if values.ndim == 1:
        return values[None]
    if values.shape[:-1] != (batch := batch_axes(problem)):
        values = np.broadcast_to(values, (*batch, values.shape[-1]))
    return values.reshape(-1, values.shape[-1])[chunk]


def input_values(problem: DualProblem, chunk: slice) -> Values:
    """The form of the input: one symbol per coordinate that has a width."""
    centre, radius = input_box(problem, chunk)
    xp, convert = array_namespace(problem.like), problem.convert
    size = convert(np.abs(centre) + radius)
    none = xp.zeros((0, problem.n_inputs), dtype=size.dtype, device=device(size))
    owner, place = np.nonzero(radius)
    older, newest = Generators(none, owner[:0], ()), Newest(0, radius[owner, place], place, owner)
    return Values(np.arange(problem.n_inputs), convert(centre), 0.0 * size, size, older, newest)


def input_lam(problem: DualProblem, form: Form, chunk: slice) -> np.ndarray:
    """The input generators per unit of each coordinate, shape (b, q, n); 0 where it has no width. Floating."""
    _, radius = input_box(problem, chunk)
    box, coordinate = np.nonzero(radius)
    lam = np.zeros((len(radius), problem.n_inputs, len(form.columns)))
    symbols = form.generators.symbols
    if symbols and symbols[0][0] == 0:
        lam[box, coordinate] = to_host(form.generators.matrix[: len(box)]) / radius[box, coordinate][:, None]
    return lam.swapaxes(1, 2)


def input_box(problem: DualProblem, chunk: slice) -> tuple[np.ndarray, np.ndarray]:
    """Centre and radius of the input boxes, shape (b, n); the radius is rounded up, and 0 where the width is.

    The input symbols are e = (x - centre) / radius, exactly, where there is a radius.
    """
    low, high = (some_boxes(problem, side, chunk) for side in (problem.region.lower, problem.region.upper))
    centre = low / 2 + high / 2
    gap = np.maximum(high - centre, centre - low)
    radius = np.where(gap > 0, np.nextafter(gap, np.inf), 0.0)
    count = chunk.stop - chunk.start
    if len(centre) == count:
        return centre, radius
    return np.repeat(centre, count, axis=0), np.repeat(radius, count, axis=0)  # many nodes over one region


def activated(problem: DualProblem, j: int, form: Form, live: np.ndarray, chunk: slice) -> Values:
    """relu of the form of layer j within that layer's stored bounds. Overwrites the form's generators.

    Args:
        live: The neurons that are not inactive in all boxes.
    """
    b = form.centre.shape[0]
    sides = (some_boxes(problem, side[j - 1], chunk)[:, live] for side in (problem.lower, problem.upper))
    l, u = (side if len(side) == b else np.repeat(side, b, axis=0) for side in sides)
    s, h = relaxed(l, u)
    owner, place = np.nonzero((l < 0) & (u > 0))
    xp, convert, older = array_namespace(problem.like), problem.convert, form.generators
    centre, noise, reach, matrix = form.centre, form.noise, form.reach, older.matrix
    if len(live) < len(form.columns):
        kept = convert(np.searchsorted(form.columns, live))
        centre, noise, reach, matrix = (xp.take(a, kept, axis=-1) for a in (centre, noise, reach, matrix))
    slope, shift = convert(s), convert(h)
    matrix *= xp.take(slope, convert(older.owner), axis=0)
    centre = slope * centre
    size = xp.abs(centre) + 2.0 * shift + slope * reach
    scaled = Generators(matrix, older.owner, older.symbols)
    return Values(live, centre + shift, slope * noise, size, scaled, Newest(j, h[owner, place], place, owner))


def relaxed(l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s and h of relu(v) = s v + h + h e for l <= v <= u, |e| <= 1. Rounded."""
    p, q = np.maximum(u, 0.0), np.maximum(-l, 0.0)
    s = np.minimum(p / np.maximum(p + q, SMALLEST), 1.0)
    return s, np.maximum((1.0 - s) * p, s * q) * (0.5 + 2.0**-50)


def propagated(
    problem: DualProblem, k: int, chunk: slice, live: np.ndarray, sources: Sequence[Values], budget: int
) -> Form:
    """The form of layer k, for the neurons `live`, from those of its sources.

    Raises:
        OptionError: If the generators of one box do not fit the budget.
    """
    affine, convert, xp = problem.affine(k), problem.convert, array_namespace(problem.like)
    b, known = chunk.stop - chunk.start, [(values.generators, values.newest) for values in sources]
    symbols, owner = merged(known)
    needed = 8 * ARRAYS * len(owner) * max((affine.size, *(len(v.columns) for v in sources)))
    if b == 1 and needed > budget:
        raise OptionError(
            f"Zonotope: budget_bytes={budget} does not hold the {len(owner)} generators of one box in layer {k}; give "
            f"at least {needed}, or use Crown()."
        )
    N = sum(op.roundings + 2 for _, op in affine.blocks) + 16
    unit, tiny = 2.0 * (N + 2) * UNIT, _underflow(problem)
    centre = convert(some_boxes(problem, affine.bias, chunk)[:, live] + np.zeros((b, 1)))
    noise, operators = convert(_noise_of(problem, k, chunk, live, unit)), []
    for values, (_, op) in zip(sources, affine.blocks, strict=True):
        part, sizes = (submatrix(problem, o, live, values.columns, dense=False) for o in (op, op.absolute))
        lost = xp.take(op.underflow_gain(values.size), convert(live), axis=0)
        centre = centre + part.apply(values.centre)
        noise = noise + sizes.apply(values.noise + (unit * values.size + tiny)) + tiny * lost
        operators.append(part)
    matrix = xp.empty((len(owner), len(live)), dtype=centre.dtype, device=device(centre))
    mapped(problem, known, operators, matrix, symbols)
    generators = Generators(matrix, owner, symbols)
    return Form(live, centre, noise * (1.0 + 2.0 * unit), generators.reach(b), generators)


def _noise_of(problem: DualProblem, k: int, chunk: slice, live: np.ndarray, unit: float) -> np.ndarray:
    """What the bias and the semantics add to rho, shape (1 or b, q)."""
    affine = problem.affine(k)
    noise = unit * np.abs(affine.bias) + affine.bias_error + LEAST_NORMAL
    slack = some_boxes(problem, problem.error(k), chunk) * (1.0 + 2.0**-40)
    return (some_boxes(problem, noise, chunk) + slack)[:, live]


def _underflow(problem: DualProblem) -> float:
    """What an affine map's products that underflow can add to one entry of c and of all generators of a box."""
    return 4.0 * (_terms(problem) + 4.0) * LEAST_NORMAL


def _terms(problem: DualProblem) -> int:
    """More symbols than any box has."""
    return problem.n_inputs + sum(layer.size for layer in problem.layers)


def form_range(problem: DualProblem, form: Form) -> tuple[np.ndarray, np.ndarray]:
    """l and u of a form's neurons, shape (b, q); infinite where something has overflown. Rounded."""
    radius = noisy_radius(problem, form.reach + form.noise, form.centre)
    low, high = to_host(form.centre - radius), to_host(form.centre + radius)
    if not np.isfinite(low.sum() + high.sum()):
        sure = np.isfinite(low) & np.isfinite(high)
        return np.where(sure, low, -np.inf), np.where(sure, high, np.inf)
    return low, high


def noisy_radius(problem: DualProblem, size: Array, centre: Array) -> Array:
    """A computed sum of sizes, as far as the exact one and the subtraction from the centre may need it to be."""
    return size * (1.0 + (_terms(problem) + 10) * 2.0**-52) + 2.0**-52 * array_namespace(centre).abs(centre)


def turned(problem: DualProblem, form: Form, C: np.ndarray) -> Form:
    """The form of C y from that of y; C of shape (m, n) or (b, m, n). One more affine map, without a bias."""
    xp, turn = array_namespace(problem.like), problem.convert(np.ascontiguousarray(np.swapaxes(C, -1, -2)))
    n, old = C.shape[-1], form.generators
    unit, tiny = 2.0 * (n + 8) * UNIT, _underflow(problem)

    def times(x: Array, matrix: Array) -> Array:
        return x @ matrix if matrix.ndim == 2 else (x[:, None, :] @ matrix)[:, 0, :]

    each = turn if C.ndim == 2 else xp.take(turn, problem.convert(old.owner), axis=0)
    noise = times(form.noise + unit * (xp.abs(form.centre) + form.reach) + tiny, xp.abs(turn))
    noise = noise * (1.0 + 2.0 * unit) + 2.0 * n * tiny
    generators = Generators(times(old.matrix, each), old.owner, old.symbols)
    reach = generators.reach(form.centre.shape[0])
    return Form(np.arange(C.shape[-2]), times(form.centre, turn), noise, reach, generators)
