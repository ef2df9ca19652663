"""``tesserec evaluate`` and ``tesserec compare``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tesserec.cli.shell import existing, parse_ks, print_json, print_table, say

if TYPE_CHECKING:
    from tesserec.evaluation.interest_result import Figure, InterestEvaluation
    from tesserec.evaluation.intervals import Estimate
    from tesserec.evaluation.result import Evaluation


def evaluate(
    run: Annotated[Path, typer.Argument(help="What `tesserec train` wrote.")],
    k: Annotated[str, typer.Option("-k", help="Cut-offs, separated by commas.")] = "10,20,50",
    part: Annotated[str, typer.Option(help="test or valid.")] = "test",
    compat: Annotated[
        list[str] | None, typer.Option(help="Add a published NDCG variant, such as comirec-paper; may be repeated.")
    ] = None,
    cells: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Another run whose interests define which targets are novel.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option(help="Where the dataset is now, if it has moved.")] = None,
    interest_users: Annotated[
        int, typer.Option(min=0, help="Users, at most, for the figures on interests; 0 leaves these out.")
    ] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a run over the full catalogue, with 95 % intervals.

    The result is kept in RUN/evaluation and RUN/interests.json, a page to read in RUN/report.html; those of the
    validation part beside them, as evaluation-valid and so on.

    [bold]Examples[/bold]

        tesserec evaluate runs/sparc

        tesserec evaluate runs/sparc -k 20,50 --json

        tesserec evaluate runs/popularity --cells runs/sparc
    """
    from tesserec.evaluations import evaluate_run, load_interests, report_path, write_run_report

    ks = parse_ks(k)
    existing(run, "a run that `tesserec train` wrote")
    evaluation = evaluate_run(
        run,
        ks=ks,
        part=part,
        compat=compat or (),
        cells_of=cells,
        dataset_path=dataset,
        interest_users=interest_users,
    )
    interests = load_interests(run, part)
    if as_json:
        print_json(evaluation.to_dict() | {"interests": None if interests is None else interests.to_dict()})
    else:
        _print_evaluation(evaluation)
        if interests is not None:
            _print_interests(interests)
    if all(importlib.util.find_spec(name) for name in ("jinja2", "matplotlib")):
        say(f"report: {write_run_report([run], report_path(run, part), part)}")
    else:
        say("no report.html; run: pip install 'tesserec[report]'")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Evaluated runs of one dataset; the first is the baseline.")],
    metric: Annotated[
        list[str] | None, typer.Option(help="Such as recall@20; may be repeated. By default recall and NDCG.")
    ] = None,
    part: Annotated[str, typer.Option(help="test or valid.")] = "test",
    report: Annotated[Path | None, typer.Option(help="Also write a page with all the runs here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare runs user by user: differences with intervals and corrected p-values.

    Runs on different datasets or protocols are refused.

    [bold]Examples[/bold]

        tesserec compare runs/popularity runs/sparc

        tesserec compare runs/two-tower runs/sparc --metric recall@20 --report comparison.html
    """
    from tesserec.evaluations import compare_runs, write_run_report

    for run in runs:
        existing(run, "a run that `tesserec train` wrote")
    comparison = compare_runs(runs, metric, part)
    if as_json:
        print_json(comparison.to_dict())
    else:
        rows = [
            [row["run"], row["metric"], f"{row['baseline']:.4f}", f"{row['value']:.4f}", f"{row['difference']:+.4f}",
             f"{row['low']:+.4f} to {row['high']:+.4f}", f"{row['p_holm']:.4f}"]
            for row in comparison.table.to_dicts()
        ]  # fmt: skip
        columns = ["run", "metric", f">{comparison.baseline}", ">value", ">difference", ">95 % interval", ">p (Holm)"]
        print_table(columns, rows)
    if report is not None:
        say(f"report: {write_run_report(runs, report, part)}")


def estimate_text(estimate: Estimate | Figure | None) -> str:
    """A value and its interval in a table's cell."""
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def _print_evaluation(evaluation: Evaluation) -> None:
    protocol, ks = evaluation.protocol, evaluation.protocol["ks"]
    rows = []
    for metric, part in dict.fromkeys(evaluation.table().select("metric", "slice").iter_rows()):
        names = [f"{metric}@{k}" + ("" if part == "all" else f"/{part}") for k in ks]
        rows.append([metric, part, *(estimate_text(evaluation.metrics.get(name)) for name in names)])
    title = (
        f"{protocol['part']} part, {protocol['users']:,} users, {protocol['items']:,} items, full catalogue, "
        f"95 % intervals, dataset {evaluation.fingerprint[:12]}"
    )
    print_table(["metric", "slice", *(f">k = {k}" for k in ks)], rows, title)
    for name, reason in protocol["omitted"].items():
        say(f"{name} left out: {reason}")


def _print_interests(interests: InterestEvaluation) -> None:
    protocol = interests.protocol
    rows = [
        [name, estimate_text(one), *("" if value is None else f"{value:.4f}" for value in (one.median, one.p90))]
        for name, one in interests.figures.items()
    ]
    if rows:
        title = f"interests ({protocol['kind']}), {protocol['users']:,} of {protocol['of_users']:,} users"
        print_table(["figure", ">value", ">median", ">90th percentile"], rows, title)
    for name, reason in interests.omitted.items():
        say(f"{name} left out: {reason}")
