"""``tesserec items``: a published catalogue gains, changes and loses items without a rebuild."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tesserec.cli.bundles import Json, Root
from tesserec.cli.shell import existing, print_json, say
from tesserec.errors import UserError

if TYPE_CHECKING:
    from tesserec.index.living import Edit

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Add, update and remove items of a published bundle; each call is one small generation.",
)

Table = Annotated[Path, typer.Argument(help="Parquet, CSV, TSV or Arrow file with an id column.", metavar="ITEMS")]
Column = Annotated[
    str | None, typer.Option("--item-column", help="The id column, where it has no usual name.", show_default=False)
]
_WROTE = "a bundle root that `tesserec index` wrote"


@app.command()
def add(bundles: Root, items: Table, item_column: Column = None, as_json: Json = False) -> None:
    """Add items; each gets its place from its features, or from a column [bold]like[/bold] of ids of similar items.

    [bold]Examples[/bold]

        tesserec items add bundles new-items.parquet

        tesserec items add bundles new-items.csv --item-column sku --json

    In a CSV file, several ids in the column [bold]like[/bold] are separated by |.
    """
    from tesserec.index.living import add_items

    _report(add_items(existing(bundles, _WROTE), items, _named(item_column)), as_json)


@app.command()
def update(bundles: Root, items: Table, item_column: Column = None, as_json: Json = False) -> None:
    """Change columns of items; columns that the file lacks keep their values.

    Items without training events are placed anew, trained ones keep the vector that they have learned.

    [bold]Example[/bold]

        tesserec items update bundles prices.csv
    """
    from tesserec.index.living import update_items

    _report(update_items(existing(bundles, _WROTE), items, _named(item_column)), as_json)


@app.command()
def remove(
    bundles: Root,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of items.", metavar="[ID]...")] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from", help="A file with one id a line, besides.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove items: no answer holds them from now on, while histories may still name them.

    [bold]Examples[/bold]

        tesserec items remove bundles i00012 i00345

        tesserec items remove bundles --from sold-out.txt
    """
    from tesserec.index.bundle import Bundle
    from tesserec.index.living import remove_items

    texts = [*(ids or [])]
    if from_file is not None:
        lines = existing(from_file, "a text file with one id a line").read_text(encoding="utf-8").splitlines()
        texts += [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UserError("no item is named; give ids, or a file of them with --from")
    known = Bundle.open(existing(bundles, _WROTE)).searcher.catalogue.items
    _report(remove_items(bundles, [known.parse(text) for text in texts]), as_json)


@app.command()
def compact(bundles: Root) -> None:
    """Make one whole generation of the last one and all changes on top of it; interests are named anew.

    [bold]Example[/bold]

        tesserec items compact bundles
    """
    from tesserec.index.living import compact as make_whole

    say(f"published {make_whole(existing(bundles, _WROTE))}")


@app.command()
def drift(bundles: Root, as_json: Json = False) -> None:
    """How far the catalogue has moved from what the codebook was trained on: when to compact, when to train again.

    [bold]Example[/bold]

        tesserec items drift bundles
    """
    from tesserec.index.bundle import Bundle
    from tesserec.index.drift import drift as measure

    gauge = measure(Bundle.open(existing(bundles, _WROTE)))
    if as_json:
        print_json(asdict(gauge))
        return
    say(
        f"{gauge.items:,} items, {gauge.later:.1%} of them later than training; {gauge.changed:.1%} of the base changed"
    )
    if gauge.misfit is not None and gauge.shift is not None:
        say(f"misfit {gauge.misfit:.2f} (1 fits as trained items do), shift between cells {gauge.shift:.3f} bits")
    for reason in gauge.reasons or ["nothing needs to be done"]:
        say(f"- {reason}")


def _named(column: str | None) -> dict[str, str | None]:
    return {} if column is None else {"item": column}


def _report(edit: Edit, as_json: bool) -> None:
    if as_json:
        print_json(asdict(edit))
        return
    done = next(f"{count:,} {what}" for what in ("added", "updated", "removed") if (count := getattr(edit, what)))
    say(f"{done}; {edit.items:,} items can be recommended; published {edit.generation}")
