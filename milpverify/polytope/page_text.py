"""The text of a page: a template, its style and script, the colours of both papers, and the data, in one file."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

from milpverify.polytope.plot_style import DARK, LIGHT, OTHER, PENS, Pen, Theme

# Of what the reader points at, of controls, and of few and many active neurons.
COLOURS = {"light": ("#d9480f", "#2b5c8a", "#e9eef4", "#2b5c8a"), "dark": ("#ffa94d", "#79a9dc", "#1d2530", "#6f9fd2")}


def page_text(title: str, subtitle: str, data: dict[str, Any]) -> str:
    """The file.

    Args:
        title, subtitle: Plain text.
        data: As `page` describes it, JSON-ready.

    Raises:
        ValueError: If a number of the data is not finite.
    """
    folder = files("milpverify") / "data" / "explore"

    def read(*names: str) -> str:
        return "".join((folder / name).read_text(encoding="utf-8") for name in names)

    written = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    filled = {
        "TITLE": html.escape(title),
        "SUBTITLE": html.escape(subtitle),
        "THEME": _theme([line["name"] for line in data["methods"]]),
        "STYLE": read("page.css"),
        "SCRIPT": read("plane.js", "page.js"),
        "DATA": written.replace("<", "\\u003c"),  # no text of the data ends the element that holds it
    }
    # In one pass, so that nothing filled in is taken for a mark.
    return re.sub("@([A-Z]+)@", lambda mark: filled[mark[1]], read("page.html"))


def _theme(names: list[str]) -> str:
    """Both papers' colours as CSS variables; what is printed is light."""
    light, dark = _variables(LIGHT, names, lambda pen: pen.light), _variables(DARK, names, lambda pen: pen.dark)
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


def _variables(theme: Theme, names: list[str], colour: Callable[[Pen], str]) -> str:
    def pairs() -> Iterator[tuple[str, str]]:
        yield from (("paper", theme.paper), ("ink", theme.ink), ("faint", theme.faint), ("grid", theme.grid))
        yield "edge", f"{theme.paper}b0"
        yield "left-out", theme.grid
        yield from zip(("focus", "accent", "ramp-low", "ramp-high"), COLOURS[theme.name], strict=True)
        yield from ((f"m-{name}", colour(PENS.get(name, OTHER))) for name in names)
        yield from ((f"class-{i}", fill) for i, fill in enumerate(theme.classes))

    return " ".join(f"--{name}: {value};" for name, value in pairs())
