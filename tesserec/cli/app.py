"""The commands of ``tesserec``, put together; each module of this package holds one group of them."""

from __future__ import annotations

from typing import Annotated

import typer

from tesserec import __version__
from tesserec.cli.ablate import ablate
from tesserec.cli.bundles import index, interests, recommend, rollback
from tesserec.cli.demo import demo
from tesserec.cli.export import export
from tesserec.cli.info import info, recipe
from tesserec.cli.items import app as items
from tesserec.cli.measuring import compare, evaluate
from tesserec.cli.prepare import prepare
from tesserec.cli.serve import serve
from tesserec.cli.shell import Commands
from tesserec.cli.training import train
from tesserec.cli.update import update

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def tesserec(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Retrieve candidates through interests that are learned jointly with the model.

    A log becomes candidates in five steps: [bold]prepare[/bold], [bold]train[/bold], [bold]evaluate[/bold],
    [bold]index[/bold], [bold]recommend[/bold]. [bold]tesserec demo[/bold] shows them all.
    """


for command in (
    prepare,
    train,
    evaluate,
    compare,
    ablate,
    index,
    recommend,
    interests,
    update,
    rollback,
    export,
    serve,
    info,
    recipe,
    demo,
):
    app.command()(command)

app.add_typer(items, name="items")
