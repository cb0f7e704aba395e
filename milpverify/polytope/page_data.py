"""What a page draws, as one JSON object.

    labels, scenes      one per eps, rising; see below
    methods             name, label, dash and width of each line: the exact set, then the relaxations
    start, off, colour  scene shown first; what is switched off then, and what colours the regions
    inputs, outputs     names of the two axes of either plane
    centre, image       the clean input and its outputs, in the planes
    classes, palette    names of the classes; number of fills, used in turn
    relus               number of neurons
    neurons             [layer, number] of those that are not the same in all pieces
    pieces              map (a, b, c of both outputs: a s + b t + c), number of active ReLUs, bits over `neurons`, hex
    home                bits of the clean input
    scenes[i]           regions, shown_share, area: how many there are, share of the area that is shown, area of all
                        polygon: of the inputs, flat
                        vertices: s, t, first output, second output of each, flat
                        faces: [piece, class or -1, area, vertices ...]; parts: [face, class, s, t, y, y', s, ...]
                        outlines: by method, a list of flat lines; table: `Numbers`
                        gaps: heading, text and the ranked neurons, or null

Coordinates that are only drawn are rounded to 10^-6 of the plane's extent, areas of faces to 6 significant digits, and
maps to 8; numbers of the table and of the attribution are those of the objects they come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from milpverify.network.graph import Network
from milpverify.polytope.page_faces import PageFaces, Pieces, compact, joined, rounded
from milpverify.polytope.page_scene import Scene
from milpverify.polytope.plot_style import LIGHT, OTHER, PENS, SOLID

# The page opens at the largest eps at which the best relaxation has at most so many times the exact area; relaxations
# that have more than so many times it there are switched off, for they would hide the others.
OPENING, FAR_OUT = 5.0, 30.0
TABLE_NOTE = (
    "Area: of the set in this plane. Gap: how much farther than the exact set the outline reaches, over even "
    "directions. Seconds: all directions, hidden bounds included. "
)
HONESTY = (
    "Linear regions are exact up to rounding in float64. Each outline is the polygon of what the method proves in the "
    "directions it was asked for. Drawn coordinates are rounded to a millionth of the plane. Made by milpverify; this "
    "file loads nothing."
)


@dataclass(frozen=True)
class Planes:
    """What spans the two planes: two inputs and two outputs, from 0."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]


def page_data(
    net: Network, x: np.ndarray, scenes: tuple[Scene, ...], planes: Planes, max_regions: int
) -> dict[str, Any]:
    """The JSON object.

    Args:
        net: The network.
        x: The clean input, shape (n_inputs,).
        scenes: By rising eps, at least one.
        planes: What is drawn.
        max_regions: How many linear regions are kept of each scene.
    """
    vary, outputs = planes.inputs, planes.outputs
    pieces, drawn = Pieces(), []
    for scene in reversed(scenes):  # the widest has almost every piece, and is the one to round
        drawn.append(_scene_data(scene, PageFaces.largest(scene.regions, max_regions, outputs), pieces))
    drawn.reverse()
    hidden, y = net.activations(x)
    home = np.concatenate([np.zeros(0, dtype=bool), *(zhat > 0 for zhat in hidden)])
    labels = {face[1] for scene in drawn for face in scene["faces"]}
    start = max((i for i, scene in enumerate(scenes) if _best_ratio(scene) <= OPENING), default=0)
    return {
        "labels": _labels([scene.eps for scene in scenes]),
        "methods": [_line(name) for name in ("exact", *scenes[0].outlines)],
        "start": start,
        "off": [row.method for row in scenes[start].numbers if row.ratio is not None and row.ratio > FAR_OUT],
        "colour": "class" if len(labels) > 1 or -1 in labels else "active",
        "inputs": [indexed("x", i) for i in vary],
        "outputs": [indexed("y", i) for i in outputs],
        "centre": x[list(vary)].tolist(),
        "image": y[list(outputs)].tolist(),
        "classes": [str(label) for label in range(net.n_outputs)],
        "palette": len(LIGHT.classes),
        "relus": net.n_neurons,
        **pieces.to_dict(net, home),
        "table_note": TABLE_NOTE + _hidden_note(scenes),
        "honesty": HONESTY,
        "scenes": drawn,
    }


def _hidden_note(scenes: tuple[Scene, ...]) -> str:
    """Whose bounds of hidden neurons each relaxation stands on, and whether a solver is trusted."""
    others = [(drawn.name, drawn.hidden) for drawn in scenes[0].relaxations if drawn.hidden is not None]
    over = "".join(f"; {LIGHT.label(name)} takes those of {LIGHT.label(hidden.name)}" for name, hidden in others)
    trusted = sorted({name for scene in scenes for name, found in scene.outlines.items() if found.solver_trusted})
    word = f" On a solver\u2019s word: {', '.join(map(LIGHT.label, trusted))}." if trusted else ""
    return f"Each method bounds the hidden neurons by itself{over}.{word}"


def _best_ratio(scene: Scene) -> float:
    return min((row.ratio for row in scene.numbers[1:] if row.ratio is not None), default=1.0)


def _scene_data(scene: Scene, faces: PageFaces, pieces: Pieces) -> dict[str, Any]:
    polygon = scene.regions.input_slice.polygon
    exact = scene.image.boundary if len(scene.image.boundary) else scene.image.segments
    exact = rounded(exact.reshape(-1, 2), exact.reshape(-1, 2)).reshape(-1, 2, 2)
    rings = {"exact": joined(exact), **{name: [_closed(found.outer)] for name, found in scene.outlines.items()}}
    return {
        **faces.to_dict(pieces),
        "polygon": compact(polygon),
        "outlines": {
            name: [compact(rounded(ring, np.concatenate(some))) for ring in some] for name, some in rings.items()
        },
        "table": [row.to_dict() for row in scene.numbers],
        "gaps": _gaps(scene),
    }


def _told(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def indexed(symbol: str, index: int) -> str:
    """A symbol with its index below the line."""
    return symbol + str(index).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _closed(ring: np.ndarray) -> np.ndarray:
    return np.concatenate([ring, ring[:1]])


def _gaps(scene: Scene) -> dict[str, Any] | None:
    found = scene.attribution
    if found is None:
        return None
    first, second = int(scene.row.argmax()), int(scene.row.argmin())
    difference = f"{indexed('y', first)} − {indexed('y', second)}"
    ranked = [neuron for neuron in found.neurons if neuron.gain is not None]
    return {
        "heading": "What makes the LP loose",
        "text": f"Least {difference}: {_told(scene.least)}; the LP proves {_told(found.lower)}. Bars: its gain when "
        "this ReLU alone is exact. Point at one to see where it folds.",
        "least": scene.least,
        "lower": found.lower,
        "neurons": [
            {
                "neuron": [neuron.layer, neuron.index],
                "gap": neuron.gain,
                "slack": neuron.slack,
                "share": neuron.share,
            }
            for neuron in ranked
        ],
    }


def _line(name: str) -> dict[str, Any]:
    pen = PENS.get(name, OTHER)
    dash = [] if pen.dash == SOLID else [round(pen.width * part, 3) for part in pen.dash[1]]
    return {"name": name, "label": LIGHT.label(name), "dash": dash, "width": pen.width}


def _labels(radii: list[float]) -> list[str]:
    """The radii with six digits, or with as many more as tell them apart."""
    for digits in range(6, 18):
        labels = [f"{radius:.{digits}g}" for radius in radii]
        if len(set(labels)) == len(labels):
            break
    return labels
