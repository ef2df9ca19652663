"""The tables of real logs at a glance: recall@50 of every model on every log, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tesserec.evaluation.intervals import Estimate

COLUMNS = 4
KINDS = {"codebook method": "#c2410c", "rival": "#475569", "with features": "#0f766e"}
"""Colours that are told apart on white and in grey."""

Row = tuple[str, str, Estimate, int]
"""A model's label, its kind, its estimate and how many seeds that is the mean of."""


def draw(logs: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Write one panel a log, models in the order of their recall; the last place holds the legend.

    Popularity is left out: it is far from all others and would press them together.
    """
    lines = -(-(len(logs) + 1) // COLUMNS)
    with rc_context({"svg.hashsalt": "tesserec", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(4.1 * COLUMNS, 4.3 * lines), layout="constrained")
        panels = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
        for axes, (log, rows) in zip(panels, logs.items(), strict=False):
            _panel(axes, log, rows)
        for axes in panels[len(logs) :]:
            axes.axis("off")
        _legend(panels[-1])
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, metadata={"Date": None}, facecolor="white")


def _panel(axes: Axes, log: str, rows: Sequence[Row]) -> None:
    ordered = sorted((row for row in rows if row[0] != "popularity"), key=lambda row: row[2].value)
    for place, (_, kind, found, seeds) in enumerate(ordered):
        spread = [[found.value - found.low], [found.high - found.value]]
        face = KINDS[kind] if seeds > 1 else "white"
        axes.errorbar(found.value, place, xerr=spread, fmt="o", color=KINDS[kind], markerfacecolor=face, markersize=4.5)
    axes.set_yticks(np.arange(len(ordered)), [label for label, *_ in ordered])
    for tick, (_, kind, *_) in zip(axes.get_yticklabels(), ordered, strict=True):
        tick.set_color(KINDS[kind])
    axes.set_title(log, fontsize=10)
    axes.set_xlabel("recall@50")
    axes.grid(axis="x", alpha=0.3)


def _legend(axes: Axes) -> None:
    marks = [Line2D([], [], marker="o", color=colour, label=kind) for kind, colour in KINDS.items()]
    marks += [Line2D([], [], marker="o", color="black", markerfacecolor=face, linestyle="", label=label)
              for face, label in (("black", "mean of two or three seeds"), ("white", "one seed"))]  # fmt: skip
    axes.legend(handles=marks, loc="center", fontsize=10, frameon=False, title="bars: 95 % intervals over users")
