"""``tesserec ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tesserec.ablations import STUDIES
from tesserec.cli.shell import Interrupted, existing, parse_ks, print_json, print_table, say

if TYPE_CHECKING:
    from collections.abc import Mapping


def ablate(
    dataset: Annotated[Path, typer.Argument(help="What `tesserec prepare` wrote.")],
    study: Annotated[str, typer.Option(help=f"{', '.join(STUDIES)}.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Directory of the study's runs; finished ones are kept.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of every variant; may be repeated."),
    ] = None,
    k: Annotated[str, typer.Option("-k", help="Cut-offs, separated by commas.")] = "10,50",
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Answer one question about the codebook methods: train its variants, measure them, compare them.

    Every variant gets the same budget. The first is what the others are compared with, paired by user. The same
    command goes on after an interruption.

    [bold]Examples[/bold]

        tesserec ablate shop --study coupling --out studies

        tesserec ablate shop --study search --set training.epochs=25 -k 20 --out studies --json
    """
    from tesserec.ablations import ablate as run_study

    ks = parse_ks(k)
    existing(dataset, "a dataset that `tesserec prepare` wrote")
    try:
        result = run_study(dataset, study, out, sets=sets or (), ks=ks, seed=seed, progress=True, report=say)
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command goes on from here") from None
    if as_json:
        print_json(result)
        return
    columns, rows = table(result)
    print_table([columns[0], *(f">{name}" for name in columns[1:])], rows, result["question"])
    for row in result["rows"]:
        if row["refused"]:
            say(f"{row['label']} is left out: {row['refused']}")


def table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of a study's result: metrics, then paired differences from the first variant."""
    from tesserec.cli.measuring import estimate_text
    from tesserec.evaluation.intervals import Estimate

    names = list(result["rows"][0]["metrics"])
    paired = list(dict.fromkeys(name for row in result["rows"] for name in row["against_first"]))
    columns = ["variant", *names, *(f"{name} against the first" for name in paired)]
    rows = []
    for row in result["rows"]:
        cells = [estimate_text(Estimate(**one) if (one := row["metrics"].get(name)) else None) for name in names]
        for name in paired:
            one = row["against_first"].get(name)
            cells.append(f"{one['difference']:+.4f} (p = {one['p_holm']:.4f})" if one else "")
        rows.append([row["label"], *cells])
    return columns, rows
