"""Plots of the report on lists and on training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tesserec.evaluation import beyond
from tesserec.evaluation.drawing import INK, LINE, SOFT, Plot, colour, dash, legend, to_svg
from tesserec.evaluation.intervals import Estimate
from tesserec.evaluation.result import Evaluation, same_cells

Rows = Sequence[Mapping[str, Any]]
Runs = Mapping[str, Evaluation]

_SLICES = {"all": "all users", "short": "short histories", "cold": "cold items", "novel": "novel interests"}


def recall_by_k(runs: Runs, ks: Sequence[int]) -> Plot:
    """Recall at every k that all runs share, with intervals."""

    def draw(axes: Axes) -> None:
        for n, run in enumerate(runs.values()):
            found = [run.metrics[f"recall@{k}"] for k in ks]
            axes.plot(ks, [e.value for e in found], dash(n), marker="o", color=colour(n))
            low, high = _edges(found)
            axes.fill_between(ks, low, high, color=colour(n), alpha=0.16, linewidth=0)
        axes.set_xticks(ks)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("k")

    caption = "Share of a user's targets among the first k items. Bands are 95 % intervals over users."
    return Plot("Recall by list length", caption, to_svg(draw, "Recall by list length for each run"), legend(runs))


def recall_by_slice(runs: Runs, k: int) -> Plot | None:
    """Recall of all users beside the slices that at least one run has; novel targets only where they are the same."""
    parts = [part for part in _SLICES if any(_name("recall", k, part) in run.metrics for run in runs.values())]
    parts = [part for part in parts if part != "novel" or same_cells(runs.values())]
    if len(parts) < 2:
        return None

    def draw(axes: Axes) -> None:
        width = 0.8 / len(runs)
        for n, run in enumerate(runs.values()):
            places = [at for at, part in enumerate(parts) if _name("recall", k, part) in run.metrics]
            found = [run.metrics[_name("recall", k, parts[at])] for at in places]
            x = np.array(places) + (n - (len(runs) - 1) / 2) * width
            axes.bar(x, [e.value for e in found], width * 0.88, color=colour(n))
            axes.vlines(x, *_edges(found), color=INK, linewidth=1)
        axes.set_xticks(range(len(parts)), [_SLICES[part] for part in parts])
        axes.grid(axis="x", visible=False)

    caption = (
        "Short: users with few events. Cold: only targets with few training events. Novel: only targets whose cell "
        "the history never touched. Whiskers are 95 % intervals."
    )
    return Plot(f"Recall@{k} where it is hard", caption, to_svg(draw, f"Recall at {k} by slice and run"), legend(runs))


def accuracy_and_coverage(runs: Runs, ks: Sequence[int]) -> Plot:
    """Recall against catalogue coverage, one path a run with a point a k."""

    def draw(axes: Axes) -> None:
        for n, run in enumerate(runs.values()):
            x = [run.metrics[f"coverage@{k}"].value for k in ks]
            y = [run.metrics[f"recall@{k}"].value for k in ks]
            axes.plot(x, y, dash(n), color=colour(n), linewidth=1.2, alpha=0.6)
            axes.scatter(x, y, s=np.linspace(22, 70, len(ks)), color=colour(n), zorder=3)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.set_xlim(0, 1.08 * max(run.metrics[f"coverage@{k}"].value for run in runs.values() for k in ks) or 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("share of the catalogue shown to somebody")
        axes.set_ylabel("recall")

    caption = f"Up is more accurate, right shows more of the catalogue. Dots grow with k ({', '.join(map(str, ks))})."
    return Plot("Accuracy and coverage", caption, to_svg(draw, "Recall against coverage for each run"), legend(runs))


def popularity_curves(runs: Runs, k: int) -> Plot:
    """Cumulative share of recommendations over items from most to least popular, beside that of training events."""
    counts = next(iter(runs.values())).item_counts
    order = np.argsort(-counts, kind="stable")
    steps = np.unique(np.linspace(0, len(order), 201).astype(int))

    def curve(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        total = np.concatenate([[0], np.cumsum(values[order])])
        return np.asarray(total[steps] / max(total[-1], 1))

    def draw(axes: Axes) -> None:
        x = steps / len(order)
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
        axes.plot(x, curve(counts), color=SOFT, linestyle=(0, (4, 2)), linewidth=1.6)
        for n, run in enumerate(runs.values()):
            axes.plot(x, curve(beyond.exposure(run.lists, k, len(counts))), dash(n), color=colour(n))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.set_xlabel("share of items, most popular first")

    caption = (
        f"Share of the first {k} recommended places that go to the most popular items. The dashed grey line is the "
        "training log; the diagonal would treat all items alike."
    )
    svg = to_svg(draw, "Cumulative share of recommendations by item popularity")
    return Plot("Where the recommendations go", caption, svg, legend(runs))


def training_curves(logs: Mapping[str, Rows]) -> list[Plot]:
    """Losses, validation metrics and codebook health by epoch, as far as the logs have them."""
    plots = []
    for title, caption, pattern in (
        (
            "Training loss",
            "Mean over the targets of an epoch; a run with several terms shows their sum.",
            r"loss(/.*)?",
        ),
        ("Validation", "Measured after each epoch; the best epoch is kept.", r"valid/(.*)"),
        (
            "Codebook: perplexity",
            "Codes in effective use, by level. A fall towards 1 is a collapse.",
            r".*perplexity/?(.*)",
        ),
        ("Codebook: dead codes", "Codes that no item uses, by level, before they are restarted.", r".*dead\w*/?(.*)"),
        ("Codebook: churn", "Share of items whose code changed in an epoch, by level.", r".*churn/?(.*)"),
    ):
        series = _series(logs, pattern, total=title == "Training loss")
        if series:
            plots.append(_by_epoch(title, caption, series))
    return plots


def _by_epoch(title: str, caption: str, series: Mapping[str, list[tuple[float, float]]]) -> Plot:
    def draw(axes: Axes) -> None:
        for n, points in enumerate(series.values()):
            x, y = zip(*points, strict=True)
            marker = "o" if len(points) < 30 else ""
            axes.plot(x, y, dash(n), color=colour(n), marker=marker)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")

    return Plot(title, caption, to_svg(draw, f"{title} by epoch"), legend(series))


def _series(logs: Mapping[str, Rows], pattern: str, total: bool) -> dict[str, list[tuple[float, float]]]:
    """Points ``(epoch, value)`` of every log column that matches, or of their sum."""
    found: dict[str, list[tuple[float, float]]] = {}
    for run, rows in logs.items():
        for number, row in enumerate(rows, start=1):
            matches = {m[1] or "": float(row[key]) for key in row if (m := re.fullmatch(pattern, key))}
            if total and matches:
                matches = {"": sum(matches.values())}
            for suffix, value in matches.items():
                label = " · ".join(p for p in (run, _level(suffix)) if p)
                found.setdefault(label, []).append((float(row.get("epoch", number)), value))
    return found


def _level(suffix: str) -> str:
    return f"level {suffix}" if suffix.isdigit() else suffix


def _name(metric: str, k: int, part: str) -> str:
    return f"{metric}@{k}" if part == "all" else f"{metric}@{k}/{part}"


def _edges(found: Sequence[Estimate]) -> tuple[list[float], list[float]]:
    """Lower and upper ends; the value itself where there is no interval."""
    low = [e.value if e.low is None else e.low for e in found]
    high = [e.value if e.high is None else e.high for e in found]
    return low, high
