"""From kept rows to the tables of ``docs/results.md``: means over seeds, intervals and tests paired by user."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from real_logs_figure import KINDS, Row, draw

from tesserec.evaluation.intervals import Estimate, estimates
from tesserec.evaluation.significance import holm, randomisation_test
from tesserec.files import read_json, write_atomic

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
FIGURE = PAGE.parent / "images" / "results-real-logs.svg"
PAIRED = ("recall@10", "recall@50")
COLUMNS = ("recall@10", "ndcg@10", "recall@50", "recall@50/novel")
MEANS = ("tail_recall@50", "coverage@50")

Intervals = dict[tuple[str, str], Estimate]
"""Estimates by an entry's label and a metric."""


def slug(label: str) -> str:
    """A label or a job's name as part of a file name."""
    return label.replace(", K = ", "-k").replace(", ", "-").replace(" ", "-").replace("/", "-")


def write_tables(
    results: Path,
    jobs: Sequence[str],
    rivals: Sequence[str],
    codebooks: Sequence[str],
    others: Sequence[str],
    *,
    quick: bool,
) -> None:
    """Write every job's tables between the markers of the results page, and the figure of all.

    The last of ``others`` is compared with the rest of them, which are compared with nobody else.
    """
    labels = [*rivals, *codebooks, *others]
    measured = {job: found for job in jobs if (found := entries(results, job, labels))}
    known = {job: intervals(found) for job, found in measured.items()}
    text = "\n\n".join(render(job, measured[job], known[job], rivals, codebooks, others) for job in measured)
    write_between("quick real logs" if quick else "real logs", text)
    if not quick:
        kinds = {label: kind for kind, group in zip(KINDS, (codebooks, rivals, others), strict=True) for label in group}
        draw({job: glance(measured[job], known[job], kinds) for job in measured}, FIGURE)


def write_between(marker: str, text: str) -> None:
    """Replace what stands between a marker of the results page and the next end."""
    page = PAGE.read_text()
    page = re.sub(rf"(<!-- {marker} -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{text}\n{m[2]}", page, flags=re.S)
    write_atomic(PAGE, page.encode())


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as Markdown."""
    return [*_head(*columns), *(_line(*row) for row in rows)]


class Entry:
    """All kept rows of one entry of a job: one a seed, each with its users' metrics."""

    def __init__(self, label: str, files: list[Path]) -> None:
        self.label = label
        self.rows = [read_json(file) for file in files]
        tables = [pl.read_parquet(file.with_suffix(".parquet")) for file in files]
        self.users = {row["seed"]: users for row, users in zip(self.rows, tables, strict=True)}

    def of_users(self, metric: str, seeds: Iterable[int] | None = None) -> Any:
        """A metric of each user, averaged over all seeds or the given ones."""
        chosen = self.users if seeds is None else seeds
        return np.mean([self.users[seed][metric].to_numpy() for seed in chosen], axis=0, dtype=np.float64)

    def has(self, metric: str) -> bool:
        """Whether every row has the metric of each user."""
        return all(metric in users.columns for users in self.users.values())

    @property
    def device(self) -> str:
        """What trained it; several where its seeds differ in that."""
        return ", ".join(sorted({row["device"].removeprefix("NVIDIA ") for row in self.rows}))

    def mean(self, *path: str) -> float | None:
        """A figure of the rows, averaged over seeds; None where a row lacks it."""
        values = [_dig(row, path) for row in self.rows]
        return None if any(value is None for value in values) else float(np.mean(values))


def _dig(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def entries(results: Path, job: str, labels: Sequence[str]) -> list[Entry]:
    """The entries of a job that have rows."""
    folder = results / slug(job)
    found = ((label, sorted(folder.glob(f"{slug(label)}-s*.json"))) for label in labels)
    return [Entry(label, files) for label, files in found if files]


def intervals(measured: Sequence[Entry]) -> Intervals:
    """The accuracy of every entry, all at once, since they share the draws, which cost the most."""
    having = [(one, name) for one in measured for name in COLUMNS if one.has(name)]
    found = estimates(np.stack([one.of_users(name) for one, name in having], axis=1))
    return {(one.label, name): value for (one, name), value in zip(having, found, strict=True)}


def glance(measured: Sequence[Entry], known: Intervals, kinds: Mapping[str, str]) -> list[Row]:
    """The entries of a job in the figure."""
    return [(one.label, kinds[one.label], known[one.label, "recall@50"], len(one.rows)) for one in measured]


def render(
    job: str,
    measured: Sequence[Entry],
    known: Intervals,
    rivals: Sequence[str],
    codebooks: Sequence[str],
    others: Sequence[str],
) -> str:
    """One job as Markdown."""
    protocol, first = measured[0].rows[0]["protocol"], measured[0].rows[0]
    lines = [
        f"### {job}",
        "",
        f"{protocol['users']:,} test users, {protocol['items']:,} items, full catalogue, seen items "
        f"{'excluded' if protocol['exclude_seen'] else 'kept'}, ties by item order, fingerprint "
        f"`{first['fingerprint'][:12]}`. Means over seeds with 95 % bootstrap intervals over users.",
        "",
        *quality(measured, known),
        *interests(measured),
        *paired(measured, rivals, codebooks),
        *several_against_one(measured),
        *coded_against_whole(measured, others),
        "",
        "<details><summary>Settings</summary>",
        "",
        *(f"- {one.label}: `{' '.join(one.rows[0]['settings']) or 'defaults'}`" for one in measured),
        "",
        "</details>",
    ]
    return "\n".join(lines)


def quality(measured: Sequence[Entry], known: Intervals) -> list[str]:
    """Accuracy, and what it cost."""
    lines = _head("model", *COLUMNS, *MEANS, "seeds", "device", "epochs", "training steps")
    for one in measured:
        cells = [_interval(known[one.label, name]) if one.has(name) else "" for name in COLUMNS]
        cells += [_number(one.mean("metrics", name, "value")) for name in MEANS]
        epochs = one.mean("epochs")
        cells += [str(len(one.rows)), one.device, "" if epochs is None else f"{epochs:.0f}"]
        cells.append(f"{one.mean('seconds'):.0f} s")
        lines.append(_line(one.label, *cells))
    return lines


FIGURES = {
    "cosine": "collapse/cosine",
    "overlap@50": "collapse/jaccard@50",
    "interests in the list": "collapse/interests_in_list@20",
    "cells for the top 100": "concentration/cells@100",
    "their share": "concentration/cell_share@100",
    "share of items": "concentration/item_share@100",
    "ECE": "calibration/ece",
    "top-label ECE": "calibration/ece_top",
}


def interests(measured: Sequence[Entry]) -> list[str]:
    """Collapse, concentration, calibration and health of the models that have interests."""
    having = [one for one in measured if one.mean("interests", "collapse/cosine") is not None]
    if not having:
        return []
    lines = [
        "",
        "What their interests are like, on 2,000 of these users (all, where there are fewer): mean cosine of a user's "
        "vectors, Jaccard overlap of their lists of 50, effective number of interests in the list of 20; cells and "
        "items to visit in falling posterior for 99 % of the model's own exact top 100; expected calibration error of "
        "the posterior; perplexity and dead codes of each level.",
        "",
        *_head("model", *FIGURES, "perplexity of codes", "dead"),
    ]
    for one in having:
        cells = [_number(one.mean("interests", name)) for name in FIGURES.values()]
        lines.append(_line(one.label, *cells, *_health(one)))
    return lines


def _health(one: Entry) -> tuple[str, str]:
    """Perplexity of each level out of its codes, and dead codes."""
    size = one.mean("interests", "codebook/codes")
    perplexity, dead = [], []
    level = 0
    while (value := one.mean("interests", f"codebook/perplexity/{level}")) is not None:
        perplexity.append(f"{value:.0f}")
        dead.append(f"{one.mean('interests', f'codebook/dead/{level}'):.0f}")
        level += 1
    of = "" if size is None else f" of {size:.0f}"
    return (" / ".join(perplexity) + of if perplexity else "", " / ".join(dead))


def paired(measured: Sequence[Entry], rivals: Sequence[str], codebooks: Sequence[str]) -> list[str]:
    """The best codebook method against every rival, paired by user; other searches of its run are not chosen from."""
    ours = [one for one in measured if one.label in codebooks and one.label == one.rows[0]["model"]]
    theirs = [one for one in measured if one.label in rivals]
    if not ours or not theirs:
        return []
    best = max(ours, key=lambda one: float(np.mean(one.of_users("recall@50"))))
    return [
        "",
        f"Difference of **{best.label}**, the codebook method with the largest recall@50, from each rival, paired by "
        "user over the seeds that both have; p of a randomisation test, Holm-corrected:",
        "",
        *_differences("rival", [(best, one) for one in theirs], [one.label for one in theirs]),
    ]


def several_against_one(measured: Sequence[Entry]) -> list[str]:
    """Each model with several interests against itself with one, where both were measured."""
    by_label = {one.label: one for one in measured}
    pairs = [(one, by_label[f"{one.label}, K = 1"]) for one in measured if f"{one.label}, K = 1" in by_label]
    if not pairs:
        return []
    return [
        "",
        "Difference of several interests from the same model with one (trained so, or for SPARC and GemiRec the same "
        "network searched so), by the same test:",
        "",
        *_differences("model", pairs, [several.label for several, _ in pairs]),
    ]


def coded_against_whole(measured: Sequence[Entry], others: Sequence[str]) -> list[str]:
    """The last of the networks with features, which reads codes of users, against those that read users."""
    found = [one for one in measured if one.label in others]
    if len(found) < 2 or found[-1].label != others[-1]:
        return []
    *whole, coded = found
    return [
        "",
        f"Difference of **{coded.label}** from the networks with features that quantise nothing, by the same test:",
        "",
        *_differences("network", [(coded, one) for one in whole], [one.label for one in whole]),
    ]


def _differences(head: str, pairs: Sequence[tuple[Entry, Entry]], labels: Sequence[str]) -> list[str]:
    """A table with a row a pair: the first less the second in every paired metric, with intervals and corrected p."""
    table = np.stack([_difference(*pair, metric) for pair in pairs for metric in PAIRED], axis=1)
    found, p = estimates(table), holm(randomisation_test(table))
    lines = _head(head, "seeds", *(f"{metric}, p" for metric in PAIRED))
    for place, (pair, label) in enumerate(zip(pairs, labels, strict=True)):
        at = range(place * len(PAIRED), (place + 1) * len(PAIRED))
        lines.append(_line(label, str(len(_shared_seeds(*pair))), *(f"{_signed(found[i])}, {p[i]:.4f}" for i in at)))
    return lines


def _shared_seeds(one: Entry, other: Entry) -> list[int]:
    """Seeds that both were trained with."""
    return sorted(one.users.keys() & other.users.keys())


def _difference(one: Entry, other: Entry, metric: str) -> Any:
    """One less the other for each user, averaged over the seeds that both have, so that neither is smoothed more."""
    seeds = _shared_seeds(one, other)
    return one.of_users(metric, seeds) - other.of_users(metric, seeds)


def _head(*names: str) -> list[str]:
    return ["| " + " | ".join(names) + " |", "| --- " * len(names) + "|"]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _interval(one: Estimate) -> str:
    return f"{one.value:.4f} ({one.low:.4f} to {one.high:.4f})"


def _signed(one: Estimate) -> str:
    return f"{one.value:+.4f} ({one.low:+.4f} to {one.high:+.4f})"
