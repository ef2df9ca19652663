"""``tesserec train``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tesserec.cli.shell import Interrupted, existing, say
from tesserec.models import MODELS


def train(
    dataset: Annotated[Path, typer.Argument(help="What `tesserec prepare` wrote.")],
    model: Annotated[
        str,
        typer.Option(help=f"{', '.join(MODELS)}.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Directory of the run, to be made.", show_default=False)],
    recipe: Annotated[
        Path | None, typer.Option(help="TOML file of settings; `tesserec recipe MODEL` prints one.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished run of the same settings.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove an earlier run at --out first.")] = False,
) -> None:
    """Train a model on a prepared dataset.

    Ctrl-C stops cleanly after the step in hand and keeps a checkpoint. Exit code 3 means that training was refused
    because its result would be worthless: a collapsed codebook, a loss that is not finite, or less than popularity.

    [bold]Examples[/bold]

        tesserec train shop --model popularity --out runs/popularity

        tesserec train shop --model sparc --set training.epochs=20 --seed 1 --out runs/sparc

        tesserec train shop --model sparc --set training.epochs=20 --seed 1 --out runs/sparc --resume
    """
    from tesserec.runs import CONFIG, how_to_resume, load_run, train_run

    existing(dataset, "a dataset that `tesserec prepare` wrote")
    try:
        run = train_run(
            dataset,
            model,
            out,
            recipe=recipe,
            sets=sets or (),
            seed=seed,
            resume=resume,
            overwrite=overwrite,
            progress=True,
        )
    except KeyboardInterrupt:
        if not (out / CONFIG).is_file():
            raise Interrupted("stopped before the run began; nothing is left of it") from None
        raise Interrupted(f"stopped; {how_to_resume(load_run(out))}") from None
    say(f"{out}: {model} in {run.facts['seconds']:.1f} s; next: {shlex.join(['tesserec', 'evaluate', str(out)])}")
