"""``tesserec demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tesserec.cli.shell import existing


def demo(
    out: Annotated[Path, typer.Option(help="Directory for everything the demo writes.")] = Path("tesserec-demo"),
    data: Annotated[Path | None, typer.Option(help="A log of your own instead of the synthetic world.")] = None,
    items: Annotated[Path | None, typer.Option(help="Its items table, if there is one.")] = None,
    short: Annotated[bool, typer.Option("--short", help="A smaller world and fewer epochs.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the world and of training.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo at --out.")] = False,
) -> None:
    """Run the whole line: prepare, train, evaluate, index, recommend.

    Without --data the log is synthetic, with planted interests, so that the best possible recall is known.

    [bold]Examples[/bold]

        tesserec demo

        tesserec demo --data clicks.parquet --items products.parquet --out first-look
    """
    from tesserec.cli.line import run_line

    if data is not None:
        existing(data, "a log: a parquet, CSV or Arrow file, or a folder of them")
    run_line(out, data, items, short=short, seed=seed, overwrite=overwrite)
