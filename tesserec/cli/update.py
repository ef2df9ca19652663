"""``tesserec update``: new interactions and items into a run and its bundle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tesserec.cli.bundles import Json
from tesserec.cli.shell import existing, pairs, print_json, say


def update(
    run: Annotated[Path, typer.Argument(help="A finished run, or what an earlier update made.")],
    interactions: Annotated[
        Path, typer.Option(help="New interactions, as for `tesserec prepare`.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Directory of the new run, to be made.", show_default=False)],
    items: Annotated[
        Path | None, typer.Option(help="New or changed items, with the columns of the old table.", show_default=False)
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="WHAT=NAME", help="A column of the log; may be repeated.")
    ] = None,
    fine_tune: Annotated[
        int, typer.Option(metavar="EPOCHS", help="Train on for so many epochs; 0 only places new items.", min=0)
    ] = 0,
    bundles: Annotated[
        Path | None, typer.Option(help="Publish as the next generation of this bundle root.", show_default=False)
    ] = None,
    dataset: Annotated[Path | None, typer.Option(help="The run's dataset, if it was moved.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    as_json: Json = False,
) -> None:
    """Bring a run up to date: old and new events together, the codebook kept, new items placed in it.

    Items that were known keep their vectors and codes, unless --fine-tune moves them; the share that changed over is
    reported as churn. A service over the bundle root picks the new generation up by itself.

    [bold]Examples[/bold]

        tesserec update runs/sparc --interactions today.parquet --out runs/sparc-2 --bundles bundles

        tesserec update runs/sparc --interactions today.parquet --items new.parquet --fine-tune 2 --out runs/sparc-2
    """
    from tesserec.updates import update_run

    done = update_run(
        existing(run, "a run that `tesserec train` wrote"),
        existing(interactions, "a log of interactions"),
        out,
        items=None if items is None else existing(items, "a table of items"),
        columns=dict(pairs(columns or (), "--column", "user=NAME")),
        fine_tune=fine_tune,
        bundles=bundles,
        dataset=dataset,
        seed=seed,
        progress=True,
    )
    if as_json:
        print_json(asdict(done))
        return
    codes = "" if done.churn is None else f"; {done.moved} known items have another code ({done.churn:.1%})"
    if gone := [f"{count} by {why}" for why, count in done.dropped.items() if count]:
        say(f"dropped {', '.join(gone)}")
    say(f"{out}: {done.events} new events, {done.users} users, {done.items} items in {done.seconds:.1f} s{codes}")
    if done.generation is not None:
        say(f"published {done.generation}")
