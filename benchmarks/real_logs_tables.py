"""From kept rows to ``docs/real-logs.md`` and the overview of ``docs/results.md``.

Means over seeds, intervals, and tests paired by user.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from real_logs_figure import KINDS, Row, draw

from tesserec.evaluation.intervals import Estimate, estimates
from tesserec.evaluation.significance import holm, randomisation_test
from tesserec.files import read_json, write_atomic

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
DETAILS = PAGE.with_name("real-logs.md")
FIGURE = PAGE.parent / "images" / "results-real-logs.svg"
HEAD = """# Real logs, table by table

Every figure of a log that was measured, its tests and the settings of its runs. What they mean, and how they were
measured, stands in [results.md](results.md#real-logs), which also names the command that writes this page.
"""
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
    """Write every job's tables, and for the results page the overview and the figure of all.

    The last of ``others`` is compared with the rest of them, which are compared with nobody else. Tables of quick runs
    stay beside their rows.
    """
    labels = [*rivals, *codebooks, *others]
    measured = {job: found for job in jobs if (found := entries(results, job, labels))}
    known = {job: intervals(found) for job, found in measured.items()}
    against = {job: against_rivals(found, rivals, codebooks) for job, found in measured.items()}
    text = "\n\n".join(render(job, measured[job], known[job], against[job], others) for job in measured)
    write_atomic(results / "tables.md" if quick else DETAILS, f"{HEAD}\n{text}\n".encode())
    if not quick:
        write_between("real logs", "\n".join(overview(labels, measured)))
        write_between("leaders", "\n".join(leaders(against)))
        kinds = {label: kind for kind, group in zip(KINDS, (codebooks, rivals, others), strict=True) for label in group}
        draw({job: glance(measured[job], known[job], kinds) for job in measured}, FIGURE)


def write_between(marker: str, text: str) -> None:
    """Replace what stands between a marker of the results page and the next end."""
    between = rf"(<!-- {marker} -->\n).*?(<!-- end -->)"
    page, count = re.subn(between, lambda m: f"{m[1]}{text}\n{m[2]}", PAGE.read_text(), flags=re.S)
    if count != 1:
        raise ValueError(f"{PAGE} has {count} places from <!-- {marker} --> to <!-- end -->; expected one")
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

    @property
    def at_50(self) -> float:
        """Its recall@50, by which entries are compared at a glance."""
        return float(np.mean(self.of_users("recall@50")))

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


def overview(labels: Sequence[str], measured: Mapping[str, Sequence[Entry]]) -> list[str]:
    """Recall@50 of every entry on every log."""
    columns = [_at_50(ones) for ones in measured.values()]
    lines = [_line(label, *(column.get(label, "") for column in columns)) for label in labels]
    return [*_head("model", *(job.replace("/", ", ") for job in measured)), *lines]


def _at_50(measured: Sequence[Entry]) -> dict[str, str]:
    """Recall@50 by label: the best in bold, a mean over seeds with their number after it."""
    values = {one.label: one.at_50 for one in measured}
    seeds = {one.label: f" ({len(one.rows)})" if len(one.rows) > 1 else "" for one in measured}
    bold = {label: "**" if value == max(values.values()) else "" for label, value in values.items()}
    return {label: f"{bold[label]}{value:.4f}{bold[label]}{seeds[label]}" for label, value in values.items()}


def glance(measured: Sequence[Entry], known: Intervals, kinds: Mapping[str, str]) -> list[Row]:
    """The entries of a job in the figure."""
    return [(one.label, kinds[one.label], known[one.label, "recall@50"], len(one.rows)) for one in measured]


def render(
    job: str,
    measured: Sequence[Entry],
    known: Intervals,
    against: Sequence[Difference],
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
        *paired(against),
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


def against_rivals(measured: Sequence[Entry], rivals: Sequence[str], codebooks: Sequence[str]) -> list[Difference]:
    """The best codebook method less every rival; other searches of its run are not chosen from."""
    ours = [one for one in measured if one.label in codebooks and one.label == one.rows[0]["model"]]
    theirs = [one for one in measured if one.label in rivals]
    if not ours or not theirs:
        return []
    best = max(ours, key=lambda one: one.at_50)
    return differences([(best, one) for one in theirs])


def paired(against: Sequence[Difference]) -> list[str]:
    """The best codebook method against every rival."""
    if not against:
        return []
    return [
        "",
        f"Difference of **{against[0].one.label}**, the codebook method with the largest recall@50, from each rival, "
        "paired by user over the seeds that both have; p of a randomisation test, Holm-corrected:",
        "",
        *_difference_table("rival", against, [difference.other.label for difference in against]),
    ]


def leaders(against: Mapping[str, Sequence[Difference]]) -> list[str]:
    """The best codebook method of each log beside the best rival and the two single vectors."""
    singles = ("full softmax", "two-tower")
    lines = _head("log", "best codebook method", "best rival", *(f"less the {one}" for one in ("rival", *singles)))
    for job, found in against.items():
        by_label = {one.other.label: one for one in found}
        best = max(found, key=lambda one: one.other.at_50)
        shown = [_short(one) for one in (best, *(by_label[label] for label in singles))]
        lines.append(_line(job.replace("/", ", "), found[0].one.label, best.other.label, *shown))
    return lines


def _short(difference: Difference) -> str:
    found, p = difference.of["recall@50"]
    return f"{found.value:+.4f} (p = {p:.4f}; {difference.seeds})"


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
        *_difference_table("model", differences(pairs), [several.label for several, _ in pairs]),
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
        *_difference_table("network", differences([(coded, one) for one in whole]), [one.label for one in whole]),
    ]


@dataclass(frozen=True)
class Difference:
    """What ``one`` has more than ``other`` of every paired metric, over so many shared seeds: an estimate and a p."""

    one: Entry
    other: Entry
    seeds: int
    of: dict[str, tuple[Estimate, float]]


def differences(pairs: Sequence[tuple[Entry, Entry]]) -> list[Difference]:
    """The first less the second of each pair; p corrected over all pairs and metrics."""
    table = np.stack([_difference(*pair, metric) for pair in pairs for metric in PAIRED], axis=1)
    found = iter(zip(estimates(table), holm(randomisation_test(table)), strict=True))
    return [Difference(*pair, len(_shared_seeds(*pair)), {metric: next(found) for metric in PAIRED}) for pair in pairs]


def _difference_table(head: str, found: Sequence[Difference], labels: Sequence[str]) -> list[str]:
    """A table with a row a pair."""
    lines = _head(head, "seeds", *(f"{metric}, p" for metric in PAIRED))
    for one, label in zip(found, labels, strict=True):
        lines.append(_line(label, str(one.seeds), *(f"{_signed(value)}, {p:.4f}" for value, p in one.of.values())))
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
