"""The report's section on interests: tables of the figures side by side, each with its meaning, and the plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tesserec.evaluation import beyond
from tesserec.evaluation.grid import Cell, Grid
from tesserec.evaluation.interest_result import Figure, InterestEvaluation
from tesserec.evaluation.interests import sample_rows
from tesserec.evaluation.result import Evaluation

if TYPE_CHECKING:
    from tesserec.evaluation.drawing import Plot

Interests = Mapping[str, InterestEvaluation]

GROUPS = {
    "concentration": "Concentration: where the model's own best items lie, cells being visited by falling probability",
    "collapse": "Collapse: whether a user's interests differ",
    "calibration": "Calibration: whether the probabilities of interests mean what they say",
    "codebook": "Codebook: how the catalogue's items use the codes",
}
MEANINGS = {
    "cells": "Cells visited until they hold 99 % of the model's own exact best items.",
    "cell_share": "The same as a share of all cells.",
    "items": "Items that lie in the visited cells.",
    "item_share": "The same as a share of the catalogue.",
    "fewest_cells": "Cells that would do if one knew beforehand which.",
    "cosine": "Mean cosine of all pairs of a user's interest vectors; 1 is a complete collapse.",
    "jaccard": "Mean overlap of the lists that two interests of a user would give alone.",
    "interests_in_list": "Effective number of interests that share the final list (exponential of the entropy).",
    "largest_share": "Share of the final list that one interest brought.",
    "interests_in_posterior": "Effective number of interests among which the posterior is spread.",
    "ece": "Mean gap between promised and true over all pairs of a target and a cell.",
    "misplaced": "Probability mass that the bins show in the wrong place: half the gap, summed over the cells.",
    "ece_top": "Mean gap between promised and true for the likeliest cell.",
    "confidence_top": "Mean probability of the likeliest cell.",
    "accuracy_top": "Share of targets in the likeliest cell.",
    "nll": "Mean of minus the logarithm of the probability of the target's cell; lower is better.",
    "nll_popularity": "The same for a posterior that knows each cell's share of the training events alone.",
    "ruled_out": "Share of targets whose cell the posterior gives no probability at all; each adds 27.6 to nll.",
    "brier": "Mean squared error of the posterior over all cells; lower is better.",
    "perplexity": "Codes in effective use at this level.",
    "dead": "Codes at this level that no item has.",
    "largest": "Items of the most used code at this level.",
    "tuples": "Distinct tuples of codes.",
}


@dataclass(frozen=True)
class Section:
    """What the page shows of the interests."""

    tables: list[Grid]
    ranks: list[Grid]
    plots: list[Plot]
    left_out: list[tuple[str, str]]
    sample: str


def section(interests: Interests, runs: Mapping[str, Evaluation], k: int, figures: Any) -> Section | None:
    """The section, or None where no run has figures on interests.

    Parameters
    ----------
    interests, runs
        By the name of their run.
    k
        Cut-off of the lists that runs without interests are placed by.
    figures
        The module :mod:`tesserec.evaluation.interest_figures`, which needs matplotlib.
    """
    measured = {name: one for name, one in interests.items() if one.figures}
    if not measured:
        return None
    (first, *_) = measured.values()
    left_out = [
        (what if name == "run" else f"{name}: {what}", reason)
        for name, one in interests.items()
        for what, reason in one.omitted.items()
    ]
    left_out += [
        (f"{name}: accuracy and coverage by policy", f"its lists are of {one.protocol['k']}, the page's of {k}")
        for name, one in measured.items()
        if one.protocol["k"] != k
    ]
    facts = first.protocol
    sample = f"Measured on {facts['users']:,} of {facts['of_users']:,} users (seed {facts['seed']})."
    ranks = [_ranks(name, one) for name, one in measured.items()]
    return Section(_tables(measured), ranks, _plots(measured, runs, k, figures), left_out, sample)


def _tables(interests: Interests) -> list[Grid]:
    tables = []
    for group, caption in GROUPS.items():
        names = sorted(
            {key for one in interests.values() for key in one.figures if key.startswith(f"{group}/")}, key=_order
        )
        if names:
            alone = next(iter(interests.values())) if len(interests) == 1 else None
            columns = list(interests) if alone is None else ["value"]
            spread = alone is not None and any(alone.figures[name].median is not None for name in names)
            rows = [(_label(name), MEANINGS[_kind(name)], _cells(name, interests, spread)) for name in names]
            tables.append(Grid(caption, "figure", columns + ["median", "90th percentile"] * spread, rows))
    return tables


def _cells(name: str, interests: Interests, spread: bool) -> list[Cell | None]:
    found = [one.figures.get(name) for one in interests.values()]
    cells: list[Cell | None] = list(found)
    if spread:
        beside = (found[0].median, found[0].p90) if found[0] else (None, None)
        cells += [None if value is None else Figure(value) for value in beside]
    return cells


def _label(name: str) -> str:
    """``perplexity · level 1`` for ``codebook/perplexity/1``."""
    label, _, level = name.partition("/")[2].partition("/")
    return f"{label.replace('_', ' ')} · level {level}" if level else label.replace("_", " ")


def _order(name: str) -> tuple[int, int, str]:
    """By kind, then by cut-off, then by level."""
    kind, _, k = name.partition("@")
    return list(MEANINGS).index(_kind(kind)), int(k or 0), name


def _kind(name: str) -> str:
    """``cells`` of ``concentration/cells@10``."""
    return name.partition("/")[2].partition("/")[0].partition("@")[0]


def _ranks(name: str, one: InterestEvaluation) -> Grid:
    """Interests by their place in the posterior: what they bring."""
    rows: list[tuple[str, str, list[Cell | None]]] = []
    for row in one.curves["ranks"]:
        label = "later or explored" if row["rank"] is None else f"interest {row['rank']}"
        shares: list[Cell | None] = [Figure(row[key]) if key in row else None for key in ("places", "hits")]
        alone = Figure(row["recall"], row["low"], row["high"]) if "recall" in row else None
        rows.append((label, "", [*shares, alone]))
    order = "likeliest first" if one.protocol["kind"] == "cells" else "by the score of their best item"
    whose = "" if name == "run" else f" of {name}"
    k = one.protocol["k"]
    columns = ["share of places", "share of hits", f"recall@{k} of its list alone"]
    return Grid(f"Who brings the hits: interests{whose}, {order}, in lists of {k}", "interest", columns, rows)


def _plots(interests: Interests, runs: Mapping[str, Evaluation], k: int, figures: Any) -> list[Plot]:
    curves = {name: one.curves for name, one in interests.items()}
    plots = [
        figures.cell_map(name, number, one["map"])
        for number, (name, one) in enumerate(curves.items(), start=1)
        if "map" in one
    ]
    if usage := {name: one["usage"] for name, one in curves.items() if "usage" in one}:
        plots.append(figures.usage_curves(usage))
    if reliability := {name: one["reliability"] for name, one in curves.items() if "reliability" in one}:
        plots += [figures.reliability_of_top(reliability), figures.reliability_of_pairs(reliability)]
    ours = {name: one["frontier"] for name, one in curves.items() if interests[name].protocol["k"] == k}
    paths = ours | {name: [_point(run, interests, k)] for name, run in runs.items() if name not in curves}
    for measure in ("coverage", "diversity", "cells"):
        if any(measure in point for path in ours.values() for point in path):
            plots.append(figures.frontier(paths, k, measure))
    return plots


def _point(run: Evaluation, interests: Interests, k: int) -> dict[str, Any]:
    """A run without interests, over the users that the others were sampled from."""
    facts = next(iter(interests.values())).protocol
    rows = sample_rows(len(run.lists), facts["users"], facts["seed"])
    shown = beyond.exposure(run.lists[rows], k, len(run.item_counts))
    point = {"varied": None, "recall": float(run.per_user[f"recall@{k}"][rows].mean())}
    return point | {"coverage": beyond.coverage(shown)}
