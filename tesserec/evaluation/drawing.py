"""How a plot of the report is drawn: inline SVG by matplotlib, in colours that the page's style sheet sets.

Every colour is a stand-in that becomes a CSS variable, so one drawing serves the light and the dark page. Text stays
text. Legends are HTML beside the drawing, where they can wrap on a phone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SERIES = 7
INK, SOFT, LINE = "#010101", "#020202", "#030303"
_COLOURS = [f"#0400{n:02x}" for n in range(SERIES)]
_VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line"} | {c: f"series-{n}" for n, c in enumerate(_COLOURS)}
DASHES = ("-", "--", ":", "-.")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tesserec",
    "text.parse_math": False,
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "ytick.left": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 5,
}


@dataclass(frozen=True)
class Plot:
    """One drawing with what a reader needs beside it.

    Attributes
    ----------
    title, caption
        Heading, and how to read it.
    svg
        An ``<svg>`` element without external references.
    legend
        Label and index of the series colour, in order; empty where the drawing names its parts itself.
    """

    title: str
    caption: str
    svg: str
    legend: list[tuple[str, int]] = field(default_factory=list)


def legend(labels: Iterable[str]) -> list[tuple[str, int]]:
    """Labels with the colours of :func:`colour`, in order."""
    return [(label, n % SERIES) for n, label in enumerate(labels)]


def colour(n: int) -> str:
    """Colour of the n-th series."""
    return _COLOURS[n % SERIES]


def dash(n: int) -> str:
    """Line style of the n-th series; colours come again after :data:`SERIES`."""
    return DASHES[n // SERIES % len(DASHES)]


def to_svg(draw: Callable[[Axes], None], label: str) -> str:
    with rc_context(_STYLE):
        figure = Figure(figsize=(5.4, 3.3), layout="constrained")
        draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _inline(out.getvalue(), label)


def _inline(svg: str, label: str) -> str:
    """Strip what a page does not need, make ids unique by ``label`` and hand the colours to the style sheet."""
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    prefix = re.sub(r"\W+", "-", label.lower())
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1", svg, count=1)
    svg = re.sub(r"(<svg[^>]*?) height=\"[^\"]*\"", rf'\1 role="img" aria-label="{escape(label)}"', svg, count=1)
    svg = re.sub(r"'[^']*', [^;\"]*sans-serif", "inherit", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
