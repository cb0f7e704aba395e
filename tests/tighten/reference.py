"""The triangle relaxation and exact ranges of hidden neurons, written out again over the network as it stands."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from milpverify.network.graph import Affine, Bounds, Network
from milpverify.spec.regions import Region
from tests.cases import brute_force_minimum


def layer_as_output(net: Network, k: int) -> Network:
    """The network whose output is zhat_k."""
    affine = (*net.layers, net.output)[k - 1]
    return Network(net.input_shape, (affine.size,), net.layers[: k - 1], affine)


def least_zhat(net: Network, region: Region, k: int, neuron: int, sign: float) -> float:
    """min of sign * zhat over a polyhedral region, by brute force."""
    row = np.zeros((*net.layers, net.output)[k - 1].size)
    row[neuron] = sign
    return brute_force_minimum(layer_as_output(net, k), region, row)


def triangle_minimum(net: Network, region: Region, bounds: Bounds, k: int, row: np.ndarray) -> float:
    """min of row . zhat_k over the triangle relaxation of the layers below k, by scipy's LP, nothing condensed."""
    sizes = [net.n_inputs, *net.sizes[: k - 1]]
    extra = region.linear_rows()
    n_aux, ends = extra.n_aux, np.cumsum([0, *sizes])
    n = int(ends[-1]) + n_aux
    lower, upper = np.full(n, -np.inf), np.full(n, np.inf)
    lower[: sizes[0]], upper[: sizes[0]] = region.lower, region.upper
    lower[ends[-1] :], upper[ends[-1] :] = extra.aux_lower, extra.aux_upper
    A: list[np.ndarray] = []
    right: list[float] = []

    def zhat(layer: Affine) -> tuple[np.ndarray, np.ndarray]:
        W = np.zeros((layer.size, n))
        for source, op in layer.blocks:
            W[:, ends[source] : ends[source + 1]] += op.dense()
        return W, np.asarray(layer.bias)

    for j in range(1, k):
        W, b = zhat(net.layers[j - 1])
        for i, (l, u) in enumerate(zip(bounds.lower[j - 1], bounds.upper[j - 1], strict=True)):
            column = int(ends[j]) + i
            z = np.eye(n)[column]
            lower[column], upper[column] = 0.0, max(u, 0.0)
            if u <= 0 and l < 0:
                continue
            slope, shift = (1.0, 0.0) if l >= 0 else (u / (u - l), -l * u / (u - l))
            A += [W[i] - z, z - slope * W[i]]
            right += [-b[i], slope * b[i] + shift]
    for r in range(extra.n_rows):
        dense = np.zeros(n)
        mine = extra.rows == r
        cols = extra.cols[mine]
        dense[np.where(cols < sizes[0], cols, cols - sizes[0] + ends[-1])] = extra.vals[mine]
        if np.isfinite(extra.row_upper[r]):
            A, right = [*A, dense], [*right, float(extra.row_upper[r])]
        if np.isfinite(extra.row_lower[r]):
            A, right = [*A, -dense], [*right, -float(extra.row_lower[r])]
    W, b = zhat((*net.layers, net.output)[k - 1])
    answer = linprog(
        row @ W,
        A_ub=np.array(A).reshape(-1, n),
        b_ub=np.array(right),
        bounds=np.stack([lower, upper], axis=1),
    )
    assert answer.status == 0
    return float(answer.fun + row @ b)
