"""The edges of a mesh: each once, those between groups of faces, and the outlines of groups."""

from __future__ import annotations

import numpy as np

from milpverify.polytope.mesh import Mesh


def edges(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Every edge of a mesh, once.

    Returns:
        Its two vertices, shape (E, 2), and the faces on both sides, -1 where there is none, shape (E, 2).
    """
    a, b, face = _directed(mesh)
    key = np.minimum(a, b) * len(mesh.points) + np.maximum(a, b)
    order = np.argsort(key, kind="stable")
    key, first = np.unique(key[order], return_index=True)
    count = np.diff(np.append(first, len(order)))
    other = np.where(count > 1, face[order[np.minimum(first + 1, len(order) - 1)]], -1)
    return np.stack([key // len(mesh.points), key % len(mesh.points)], axis=1), np.stack([face[order[first]], other], 1)


def boundaries(mesh: Mesh, group: np.ndarray) -> np.ndarray:
    """The edges between faces of different groups, as segments, shape (e, 2, 2)."""
    ends, faces = edges(mesh)
    between = (faces[:, 1] >= 0) & (group[faces[:, 0]] != group[faces[:, 1]])
    return np.asarray(mesh.points[ends[between]])


def outline(mesh: Mesh, chosen: np.ndarray) -> list[np.ndarray]:
    """The outline of a set of faces: its edges that no two of them share, joined to loops.

    Filled, by either rule, the loops cover the faces and nothing else. Edges between them have gone, and with them the
    seams that renderers leave between neighbours.

    Args:
        mesh: The mesh.
        chosen: Which faces, shape (F,).

    Returns:
        Loops, each of shape (k, 2): counter-clockwise, and clockwise around holes.
    """
    a, b, face = _directed(mesh)
    a, b = a[chosen[face]], b[chosen[face]]
    n = len(mesh.points)
    single = ~np.isin(a * n + b, b * n + a)
    return [mesh.points[loop] for loop in _loops(a[single].tolist(), b[single].tolist())]


def _directed(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges from vertex a to b with the face on their left. Short rows repeat their first corner: no edge."""
    a, b = mesh.corners, np.roll(mesh.corners, -1, axis=1)
    real = a != b
    return a[real], b[real], np.nonzero(real)[0]


def _loops(a: list[int], b: list[int]) -> list[list[int]]:
    """Closed walks along directed edges, every edge once; as many edges leave a vertex as enter it."""
    out: dict[int, list[int]] = {}
    for p, q in zip(a, b, strict=True):
        out.setdefault(p, []).append(q)
    loops = []
    for first in list(out):
        while out[first]:
            loop, at = [first], out[first].pop()
            while at != first:
                loop.append(at)
                at = out[at].pop()
            loops.append(loop)
    return loops
