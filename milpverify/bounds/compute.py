"""Bounds of a whole network over a region, or over many at once."""

from __future__ import annotations

import numpy as np

from milpverify.bounds.backward import Crown
from milpverify.bounds.dual import DualBound
from milpverify.bounds.method import BoundMethod
from milpverify.bounds.problem import DualProblem, InputSet
from milpverify.bounds.semantics import REAL, Semantics
from milpverify.errors import BoundsError, OptionError, RegionError
from milpverify.network.graph import Bounds, Network


def compute_bounds(
    net: Network,
    region: InputSet,
    method: BoundMethod | None = None,
    *,
    device: str | None = None,
    semantics: Semantics = REAL,
    known: Bounds | None = None,
) -> Bounds:
    """Bound every hidden pre-activation over a region. Rounded.

    Args:
        net: The network, numpy operators.
        region: Where the bounds hold: a region, or a `BoxBatch` of B boxes, whose bounds have shape (B, n_k).
        method: Defaults to `Crown()`.
        device: A torch device ("cpu", "cuda") to run on; numpy when None.
        semantics: `Float32()` bounds every float32 execution as well.
        known: Bounds of every hidden layer, proven before in the same semantics: only what they leave unstable is
            bounded. If they are `solver_trusted`, so is the result.

    Returns:
        numpy bounds.

    Raises:
        RegionError: If the region does not have net.n_inputs coordinates.
        BoundsError: If some l > u, which only an empty region allows; or `known` is of another network or of weaker
            semantics.
        OptionError: If the device is not there.

    Source:
        Wong & Kolter 2018, algorithm 1 (layers in order, each from the bounds below it).
    """
    method = chosen("compute_bounds", method)
    if known is not None:
        _check_known("compute_bounds", net, known, semantics)
    problem = bound_layers(make_problem(net, region, device, semantics), method, known)
    trusted = method.solver_trusted or (known is not None and known.solver_trusted)
    return Bounds(problem.lower, problem.upper, method.name, trusted, semantics.name)


def chosen(who: str, method: BoundMethod | None) -> BoundMethod:
    """The method, `Crown()` by default.

    Raises:
        OptionError: If it is none.
    """
    if method is not None and not isinstance(method, BoundMethod):
        raise OptionError(f"{who}: expected a bound method such as Crown(), got {method!r}.")
    return method or Crown()


def bound_layers(problem: DualProblem, method: BoundMethod, known: Bounds | None = None) -> DualProblem:
    """The problem with every hidden layer bounded, within what is known of it.

    Raises:
        BoundsError: If some l > u, which only an empty region allows.
    """
    for k in range(1, problem.n_hidden + 1):
        if known is None:
            l, u = method.layer(problem, k)
        else:
            l, u = method.refine(problem, k, known.lower[k - 1], known.upper[k - 1])
        check_order(l, u, k, method)
        problem = problem.with_layer(l, u)
    return problem


def bound_rows(
    net: Network,
    region: InputSet,
    bounds: Bounds,
    rows: np.ndarray,
    method: BoundMethod | None = None,
    *,
    device: str | None = None,
    semantics: Semantics = REAL,
) -> DualBound:
    """Lower bounds of rows . y over the region. Rounded.

    Args:
        net, region, method, device, semantics: As in `compute_bounds`.
        bounds: Of every hidden layer over the region, in the same semantics.
        rows: Shape (m, n_outputs); over a batch (B, m, n_outputs) too.

    Raises:
        BoundsError: If rows or bounds do not fit the network, or the bounds are of weaker semantics.
        OptionError: If the method is none, or the device is not there.
    """
    method, rows = chosen("bound_rows", method), np.atleast_2d(np.asarray(rows, dtype=np.float64))
    if rows.shape[-1] != net.n_outputs or not np.isfinite(rows).all():
        raise BoundsError(
            f"bound_rows: expected finite rows of shape (m, {net.n_outputs}), got {rows.shape}"
            f"{'' if np.isfinite(rows).all() else ' with NaN or infinity'}."
        )
    problem = make_problem(net, region, device, semantics)
    _check_known("bound_rows", net, bounds, semantics)
    for l, u in zip(bounds.lower, bounds.upper, strict=True):
        problem = problem.with_layer(l, u)
    return method.rows(problem, rows)


def _check_known(who: str, net: Network, bounds: Bounds, semantics: Semantics) -> None:
    if tuple(l.shape[-1] for l in bounds.lower) != net.sizes:
        raise BoundsError(
            f"{who}: bounds of {[l.shape[-1] for l in bounds.lower]} neurons do not fit a network of "
            f"{list(net.sizes)}. Compute them for this network."
        )
    if semantics != REAL and bounds.semantics != semantics.name:
        raise BoundsError(
            f"{who}: bounds in {bounds.semantics} semantics prove nothing in {semantics.name}. Compute them with "
            f"semantics={type(semantics).__name__}()."
        )


def check_order(l: np.ndarray, u: np.ndarray, k: int, method: BoundMethod) -> None:
    """Refuse bounds that cross.

    Raises:
        BoundsError: If l > u somewhere: proof that the region is empty if the method is rigorous. Or if one is NaN.
    """
    if (l <= u).all():
        return
    where = tuple(int(i) for i in np.argwhere(~(l <= u))[0])
    place = f"layer {k}, neuron {where[-1]}" + (f", region {where[0]}" if len(where) > 1 else "")
    if np.isnan(l[where]) or np.isnan(u[where]):
        raise BoundsError(
            f"compute_bounds: {place} overflows in float64, or may overflow in the semantics asked for. Scale the "
            "network's weights or the region down."
        )
    if method.solver_trusted:
        reason = "by a solver's word: it may be empty, or the solver's tolerances were exceeded. Try a rigorous method."
    else:
        reason = "proven: no input lies in it. Check its cuts and its clip."
    raise BoundsError(f"compute_bounds: {place} has l = {l[where]:.6g} > u = {u[where]:.6g}: empty region, {reason}")


def make_problem(net: Network, region: InputSet, device: str | None, semantics: Semantics = REAL) -> DualProblem:
    """An empty problem in numpy, or in torch on a device.

    Raises:
        RegionError: If the region does not have net.n_inputs coordinates.
        OptionError: If the device is not there.
    """
    if region.dimension != net.n_inputs:
        raise RegionError(
            f"compute_bounds: the region has {region.dimension} coordinates, the network reads {net.n_inputs}."
        )
    if not isinstance(semantics, Semantics):
        raise OptionError(f"compute_bounds: expected semantics such as Float32(), got {semantics!r}.")
    if device is None:
        return DualProblem((*net.layers, net.output), region, semantics=semantics)
    try:
        import torch
    except ImportError as error:
        raise OptionError(
            f"device={device!r} needs torch, which is not installed: pip install milpverify[torch]."
        ) from error
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise OptionError(f"device={device!r}: no CUDA device is present. Leave the device out to run on numpy.")
    try:
        twin = net.to_torch(device)
    except RuntimeError as error:
        raise OptionError(f"device={device!r}: torch knows no such device. Give 'cpu', 'cuda' or 'cuda:1'.") from error
    like = torch.zeros(0, dtype=torch.float64, device=device)
    return DualProblem((*twin.layers, twin.output), region, like=like, semantics=semantics)
