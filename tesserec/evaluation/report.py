"""One self-contained HTML page: tables with intervals, plots, comparison, protocol. Nothing is loaded from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tesserec import __version__
from tesserec.errors import MissingExtra, UserError
from tesserec.evaluation.grid import Cell, Grid
from tesserec.evaluation.interest_report import Interests, Section, section
from tesserec.evaluation.intervals import Estimate
from tesserec.evaluation.result import Evaluation, main_k, order, parse, same_cells
from tesserec.evaluation.significance import Comparison
from tesserec.files import write_atomic

if TYPE_CHECKING:
    from tesserec.evaluation.drawing import Plot

Rows = Sequence[Mapping[str, Any]]

HEADLINE = ("recall", "ndcg", "hit", "mrr", "coverage", "tail_recall", "diversity")
HIGHER_IS_BETTER = ("recall", "hit", "ndcg", "mrr", "coverage", "tail_recall")
MEANINGS = {
    "recall": "Share of a user's targets that are among the first k items, averaged over users.",
    "hit": "Share of users with at least one target among the first k.",
    "ndcg": "Hits discounted by rank, divided by the best possible list of min(k, targets) hits.",
    "mrr": "One divided by the rank of the first hit, 0 where there is none among the first k.",
    "coverage": "Share of the catalogue that at least one user is shown.",
    "gini": "Inequality of exposure over the catalogue: 0 is even, 1 is one item for everybody.",
    "popularity": "Mean popularity percentile of the shown items; 1 is the most popular item.",
    "tail_recall": "Recall on targets among the 80 % of items with the fewest training events.",
    "diversity": "One minus the mean similarity of all pairs of shown items.",
}

_WORDS = {"True": "yes", "False": "no", "None": "none"}


def write_report(
    path: Path,
    evaluations: Evaluation | Mapping[str, Evaluation],
    *,
    interests: Interests | None = None,
    comparison: Comparison | None = None,
    training_log: Rows | Mapping[str, Rows] | None = None,
    facts: Mapping[str, Any] | None = None,
    title: str = "Evaluation",
) -> None:
    """Write a report of one run or several.

    Parameters
    ----------
    path
        The HTML file; replaced atomically.
    evaluations
        One evaluation, or several by the name of their run; all of the same dataset and part.
    interests
        Figures on interests by the name of their run (``"run"`` where there is one); runs without are left out.
    comparison
        Paired tests between the runs.
    training_log
        Rows of ``log.jsonl`` of the run, or of several by name: ``epoch``, ``loss...``, ``valid/...`` and codebook
        figures, as far as they were written.
    facts
        Anything else worth keeping with the numbers, such as the model's settings.
    title
        Heading of the page.

    Raises
    ------
    MissingExtra
        If matplotlib or Jinja is not installed.
    UserError
        If there is no evaluation, or the runs were measured on different datasets or parts.
    """
    runs = {"run": evaluations} if isinstance(evaluations, Evaluation) else dict(evaluations)
    first = _same_protocol(runs)
    ks = [k for k in first.protocol["ks"] if all(k in run.protocol["ks"] for run in runs.values())]
    if not ks:
        raise UserError("the runs share no k; evaluate them with the same cut-offs")
    k = main_k(ks)
    logs = training_log if isinstance(training_log, Mapping) else {"": training_log or []}
    page = _environment().get_template("report.html.j2").render(
        title=title,
        version=__version__,
        first=first,
        runs=runs,
        k=k,
        tiles=_tiles(first, k) if len(runs) == 1 else [],
        summary=_summary(runs, k) if len(runs) > 1 else None,
        details={name: _details(name, run) for name, run in runs.items()},
        comparison=comparison,
        paired=_paired(comparison, k),
        results=_plots(runs, ks, k),
        interests=_interests(interests or {}, runs, k),
        training=_training(logs),
        protocol=_flat(first.protocol),
        facts=_flat(facts or {}),
        meanings=MEANINGS,
    )  # fmt: skip
    write_atomic(Path(path).absolute(), page.encode())


def _environment() -> Any:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise MissingExtra("Jinja2", "report", "an HTML report") from None
    loader = PackageLoader("tesserec.evaluation")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def _same_protocol(runs: Mapping[str, Evaluation]) -> Evaluation:
    if not runs:
        raise UserError("no evaluation was given; a report needs at least one")
    (name, first), *others = runs.items()
    for other, run in others:
        ours, theirs = ((r.fingerprint, r.protocol["part"], r.protocol["exclude_seen"]) for r in (first, run))
        if ours != theirs:
            raise UserError(f"{other!r} was measured on {theirs}, {name!r} on {ours}; report them apart")
    return first


def _tiles(run: Evaluation, k: int) -> list[tuple[str, Estimate, str]]:
    named = ((f"{metric}@{k}", MEANINGS[metric]) for metric in HEADLINE)
    return [(name, run.metrics[name], meaning) for name, meaning in named if name in run.metrics][:4]


def _summary(runs: Mapping[str, Evaluation], k: int) -> Grid:
    """Runs as rows, headline metrics at one k as columns, the best of each column marked."""
    wanted = [f"{metric}@{k}" for metric in HEADLINE] + [f"recall@{k}/{part}" for part in ("short", "cold", "novel")]
    columns = [name for name in wanted if any(name in run.metrics for run in runs.values())]
    rows: list[tuple[str, str, list[Cell | None]]] = [
        (name, "", [run.metrics.get(column) for column in columns]) for name, run in runs.items()
    ]
    best = set()
    for place, column in enumerate(columns):
        values = [e.value if (e := row[2][place]) else float("-inf") for row in rows]
        if parse(column)[0] in HIGHER_IS_BETTER and (parse(column)[2] != "novel" or same_cells(runs.values())):
            best |= {(number, place) for number, value in enumerate(values) if value == max(values)}
    return Grid(f"All runs at k = {k}; the best value of each column is bold", "run", columns, rows, best)


def _details(name: str, run: Evaluation) -> Grid:
    """Metrics as rows, cut-offs as columns."""
    ks = list(run.protocol["ks"])
    names: dict[str, tuple[str, str]] = {}
    for key in sorted(run.metrics, key=order):
        metric, _, part = parse(key)
        label = metric if part == "all" else f"{metric} · {part}"
        names[label] = (metric, part)
    rows: list[tuple[str, str, list[Cell | None]]] = [
        (label, MEANINGS.get(metric.partition("[")[0], ""), [_find(run, metric, k, part) for k in ks])
        for label, (metric, part) in names.items()
    ]
    return Grid(f"Every metric of {name}, with 95 % intervals", "metric", [f"k = {k}" for k in ks], rows)


def _find(run: Evaluation, metric: str, k: int, part: str) -> Estimate | None:
    return run.metrics.get(f"{metric}@{k}" if part == "all" else f"{metric}@{k}/{part}")


def _paired(comparison: Comparison | None, k: int) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows of the comparison at ``k``, and the others, each under a heading; empty groups left out."""
    rows = comparison.table.to_dicts() if comparison else []
    here = [row for row in rows if parse(row["metric"])[1] == k]
    rest = [row for row in rows if row not in here]
    return [group for group in ((f"k = {k}", here), ("Other cut-offs", rest)) if group[1]]


def _plots(runs: Mapping[str, Evaluation], ks: Sequence[int], k: int) -> list[Plot]:
    figures = _figures()
    plots = [
        figures.recall_by_k(runs, ks),
        figures.recall_by_slice(runs, k),
        figures.accuracy_and_coverage(runs, ks),
        figures.popularity_curves(runs, k),
    ]
    return [plot for plot in plots if plot is not None]


def _training(logs: Mapping[str, Rows]) -> list[Plot]:
    plots: list[Plot] = _figures().training_curves(logs)
    return plots


def _interests(interests: Interests, runs: Mapping[str, Evaluation], k: int) -> Section | None:
    from tesserec.evaluation import interest_figures

    return section(interests, runs, k, interest_figures)


def _figures() -> Any:
    try:
        from tesserec.evaluation import figures
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise MissingExtra("matplotlib", "report", "an HTML report") from None
    return figures


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as ``("slices · cold · users", "120")`` pairs."""
    pairs: list[tuple[str, str]] = []
    for key, value in facts.items():
        label = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{label} · ")
        elif isinstance(value, (list, tuple)):
            pairs.append((label, ", ".join(map(str, value)) or "none"))
        else:
            pairs.append((label, _WORDS.get(str(value), str(value))))
    return pairs
