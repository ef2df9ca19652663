"""Plots of the report on interests: the map of the cells, use of codes, reliability, accuracy against coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from tesserec.evaluation.drawing import INK, SOFT, Plot, colour, dash, legend, to_svg

Curves = Mapping[str, Mapping[str, Any]]

_SHOWN = 28
_NAMES = 8
_DECADES = [1e-4, 1e-3, 1e-2, 0.1, 1.0]
_POINTS = 200


def cell_map(name: str, number: int, cells: Mapping[str, Any]) -> Plot:
    """Where the cells of one run lie, how large and how busy they are, and what the largest are called."""
    x, y = np.array(cells["x"]), np.array(cells["y"])
    items, traffic = np.array(cells["items"]), np.array(cells["traffic"])

    def draw(axes: Axes) -> None:
        busy = np.sqrt(traffic / max(traffic.max(initial=0), 1))
        axes.scatter(x, y, s=6 + 320 * items / items.max(), color=colour(0), alpha=0.12 + 0.8 * busy, linewidths=0)
        axes.margins(0.12)
        largest = sorted((int(place) for place in cells["names"]), key=lambda at: (-items[at], at))
        for at in _apart(x, y, largest):
            left = x[at] > (x.max() + x.min()) / 2
            axes.annotate(
                _short(cells["names"][str(at)]),
                (x[at], y[at]),
                xytext=(0, 7),
                textcoords="offset points",
                color=INK,
                fontsize=7.5,
                ha="right" if left else "left",
            )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)

    caption = (
        "Each dot is a cell, placed by the mean vector of its items (two principal components). Size tells its items, "
        "depth of colour its training events; the largest are named."
    )
    title = f"Map of the interests of {name}" if name != "run" else "Map of the interests"
    return Plot(title, caption, to_svg(draw, f"Map of the cells of run {number}"))


def usage_curves(usage: Mapping[str, Sequence[Sequence[int]]]) -> Plot:
    """Items of each code from the most to the least used, by run and level."""
    series = {
        f"{name} · level {level}" if name != "run" else f"level {level}": np.array(counts)
        for name, levels in usage.items()
        for level, counts in enumerate(levels)
    }

    def draw(axes: Axes) -> None:
        axes.axhline(1, color=SOFT, linestyle=(0, (4, 2)), linewidth=1)
        for n, counts in enumerate(series.values()):
            steps = np.unique(np.linspace(0, len(counts) - 1, _POINTS).astype(int))
            axes.plot((steps + 0.5) / len(counts), counts[steps] / counts.mean(), dash(n), color=colour(n))
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.set_xlabel("share of codes, most used first")
        axes.set_ylabel("items, relative to an even share")

    caption = "How evenly codes are used. The dashed line is an even share; codes at zero are dead."
    return Plot("Use of the codes", caption, to_svg(draw, "Sorted use of codes by level"), legend(series))


def reliability_of_top(curves: Curves) -> Plot:
    """Promised against true, for the likeliest interest of every user."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=SOFT, linestyle=(0, (4, 2)), linewidth=1)
        _reliability(axes, {name: one["top"] for name, one in curves.items()})
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.set_xlabel("probability of the likeliest interest")
        axes.set_ylabel("how often the target was in it")

    caption = (
        "On the dashed line a probability means what it says; below it the model is too sure of itself. Dots grow "
        "with the number of targets."
    )
    svg = to_svg(draw, "Reliability of the likeliest interest")
    return Plot("Reliability of the likeliest interest", caption, svg, legend(curves))


def reliability_of_pairs(curves: Curves) -> Plot:
    """Promised against true, for every interest of every user, on logarithmic axes."""

    def draw(axes: Axes) -> None:
        axes.plot(_DECADES, _DECADES, color=SOFT, linestyle=(0, (4, 2)), linewidth=1)
        for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
            scale("log")
            axis.set_major_locator(FixedLocator(_DECADES))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
            axis.set_minor_locator(NullLocator())
        # A bin that promised only a handful of targets tells nothing yet.
        _reliability(axes, {name: _settled(one["pairs"]) for name, one in curves.items()})
        axes.set_xlabel("probability of an interest")
        axes.set_ylabel("how often a target was in it")

    caption = "The same for all interests of a user, unlikely ones too; probabilities gathered on a logarithmic scale."
    svg = to_svg(draw, "Reliability of every probability")
    return Plot("Reliability of every probability", caption, svg, legend(curves))


def frontier(paths: Mapping[str, Sequence[Mapping[str, Any]]], k: int, measure: str = "coverage") -> Plot:
    """Recall against ``coverage``, ``diversity`` or ``cells`` of every run under several policies.

    A run of one point has no interests to vary.
    """
    paths = {name: [point for point in points if measure in point] for name, points in paths.items()}

    def draw(axes: Axes) -> None:
        for n, points in enumerate(paths.values()):
            own = [point for point in points if point["varied"] is None]
            for varied, style in (("explore", "-"), ("interests", ":")):
                line = sorted((p for p in points if p["varied"] in (None, varied)), key=lambda p: p.get(varied, 0))
                if len(line) > 1:
                    axes.plot(*_along(line, measure), style, color=colour(n), marker="o", markersize=3.5, linewidth=1.4)
                    _ends(axes, line, varied, measure)
            axes.scatter(*_along(own, measure), s=44, color=colour(n), zorder=3)
        if measure == "coverage":
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.margins(0.1)
        axes.set_xlabel(_AXES[measure])
        axes.set_ylabel(f"recall@{k}")

    caption = (
        f"Lists of {k} for the sampled users. The large dot is the run's own policy; along the solid path more is "
        "spent on exploration, along the dotted one more interests are read."
    )
    svg = to_svg(draw, f"Recall against {measure} over policies")
    return Plot(f"Accuracy and {_TITLES[measure]} by policy", caption, svg, legend(paths))


_AXES = {
    "coverage": "share of the catalogue shown to somebody",
    "diversity": "one minus the mean similarity of the items of a list",
    "cells": "distinct interests that the items of a list belong to",
}
_TITLES = {"coverage": "coverage", "diversity": "variety", "cells": "breadth"}


def _along(points: Sequence[Mapping[str, Any]], measure: str) -> tuple[list[float], list[float]]:
    return [point[measure] for point in points], [point["recall"] for point in points]


def _ends(axes: Axes, line: Sequence[Mapping[str, Any]], varied: str, measure: str) -> None:
    """Name the ends of a path that are not the run's own policy, which they all share."""
    for point in (end for end in (line[0], line[-1]) if end["varied"] is not None):
        text = f"explore {point[varied]:g}" if varied == "explore" else f"{point[varied]} read"
        axes.annotate(
            text,
            (point[measure], point["recall"]),
            xytext=(4, 5 if varied == "explore" else -9),
            textcoords="offset points",
            color=SOFT,
            fontsize=7.5,
        )


def _reliability(axes: Axes, curves: Curves) -> None:
    for n, bins in enumerate(curves.values()):
        x, y, count = (np.array(bins[key]) for key in ("probability", "true", "count"))
        axes.plot(x, y, dash(n), color=colour(n), linewidth=1.3)
        axes.scatter(x, y, s=8 + 50 * np.sqrt(count / max(count.max(initial=0), 1)), color=colour(n), linewidths=0)


def _settled(bins: Mapping[str, Sequence[float]], least: float = 5.0) -> dict[str, Any]:
    """Bins in which so many targets were promised, and some came true, for a logarithm has no zero."""
    values = {key: np.array(one) for key, one in bins.items()}
    kept = (values["probability"] * values["count"] >= least) & (values["true"] > 0)
    return {key: one[kept] for key, one in values.items()}


def _apart(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], wanted: Sequence[int]) -> list[int]:
    """Those of the wanted points, in their order, whose names do not lie on each other."""
    wide, high = max(float(np.ptp(x)), 1e-9), max(float(np.ptp(y)), 1e-9)
    kept: list[int] = []
    for at in wanted:
        if all(abs(x[at] - x[o]) > 0.5 * wide or abs(y[at] - y[o]) > 0.09 * high for o in kept):
            kept.append(at)
    return kept[:_NAMES]


def _short(name: str) -> str:
    """What comes before the colon: the categories of a cell where it has them."""
    name = name.partition(": ")[0]
    return name if len(name) <= _SHOWN else name[: _SHOWN - 1].rstrip(" ,:") + "…"
