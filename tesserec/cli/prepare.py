"""``tesserec prepare``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tesserec.cli.shell import existing, pairs, print_json, say
from tesserec.errors import UserError

if TYPE_CHECKING:
    from tesserec.data.dataset import Dataset
    from tesserec.data.splits import Split

Column = Annotated[str | None, typer.Option(metavar="NAME", help="Where it is not recognised.", show_default=False)]


def prepare(
    log: Annotated[list[Path], typer.Argument(help="Parquet, CSV, TSV or Arrow: a file, several, or a folder.")],
    split: Annotated[str, typer.Option(help="leave-one-out, user-holdout or time.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Directory of the dataset, to be made.", show_default=False)],
    items: Annotated[Path | None, typer.Option(help="Table of items with unique ids.", show_default=False)] = None,
    users: Annotated[Path | None, typer.Option(help="Table of users with unique ids.", show_default=False)] = None,
    user_column: Column = None,
    item_column: Column = None,
    time_column: Column = None,
    rating_column: Annotated[
        str | None, typer.Option("--rating-column", "--weight-column", metavar="NAME", help="Likewise.")
    ] = None,
    event_column: Column = None,
    event: Annotated[list[str] | None, typer.Option(help="Keep events of this type; may be repeated.")] = None,
    min_rating: Annotated[float | None, typer.Option(help="Keep rows with at least this rating or weight.")] = None,
    k_core: Annotated[int, typer.Option(min=0, help="Drop users and items with fewer events, until none is left.")] = 0,
    min_user_events: Annotated[int, typer.Option(min=0, help="The same for users alone.")] = 0,
    min_item_events: Annotated[int, typer.Option(min=0, help="The same for items alone.")] = 0,
    repeats: Annotated[
        str, typer.Option(help="Of a user and item: keep (all), distinct (by time), first or last.")
    ] = "keep",
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=KIND", help="categorical, multi, numeric, text or vector; may be repeated."),
    ] = None,
    time_kind: Annotated[
        str | None, typer.Option(help="Unit of numeric times, such as milliseconds, or order.", show_default=False)
    ] = None,
    cuts: Annotated[
        str | None, typer.Option(metavar="TIME,TIME", help="Of the time split; times, or shares such as 0.8,0.9.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Shuffles the users of user-holdout.")] = 0,
    exclude_seen: Annotated[
        bool | None,
        typer.Option(
            "--exclude-seen/--allow-seen",
            help="Whether items of the history are left out of answers; by default, if the log holds no repeats.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a dataset at --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Turn a log of interactions into a dataset with one split, checked for leakage.

    Columns are recognised by their usual names (user_id, itemId, timestamp, rating, ...). Events with the same time
    keep the order of the rows.

    [bold]Examples[/bold]

        tesserec prepare clicks.parquet --items products.parquet --split leave-one-out --out shop

        tesserec prepare ratings.csv --split user-holdout --min-rating 4 --k-core 5 --out films

        tesserec prepare logs/ --split time --cuts 2024-06-01,2024-07-01 --event purchase --out orders
    """
    from tesserec.data.prepare import prepare as prepare_log

    for path in [*log, *(table for table in (items, users) if table is not None)]:
        existing(path, "a parquet, CSV, TSV or Arrow file, or a folder of them")
    named = {
        "user": user_column,
        "item": item_column,
        "time": time_column,
        "weight": rating_column,
        "event": event_column,
    }
    dataset = prepare_log(
        log[0] if len(log) == 1 else log,
        out=out,
        items=items,
        users=users,
        split=_split(split, seed, cuts),
        columns={what: name for what, name in named.items() if name is not None},
        roles=pairs(role or (), "--role", "column=kind, such as genres=multi"),
        events=event or None,
        min_weight=min_rating,
        repeats=repeats,  # type: ignore[arg-type]  # checked there
        min_user_events=max(min_user_events, k_core),
        min_item_events=max(min_item_events, k_core),
        time_kind=time_kind,
        exclude_seen=exclude_seen,
        overwrite=overwrite,
    )
    if as_json:
        report = {} if dataset.report is None else dataset.report.to_json()
        print_json({"dataset": str(out), "fingerprint": dataset.fingerprint, "split": dataset.split, **report})
    else:
        print_prepared(dataset)
        following = ["tesserec", "train", str(out), "--model", "popularity", "--out", "runs/popularity"]
        say(f"{out} is ready; next: {shlex.join(following)}")


def print_prepared(dataset: Dataset) -> None:
    """What a preparation did, on stdout."""
    for line in dataset.report.lines() if dataset.report is not None else ():
        print(line)
    print(f"fingerprint      {dataset.fingerprint}")


def _split(name: str, seed: int, cuts: str | None) -> str | Split:
    from tesserec.data.splits import TimeSplit, UserHoldout

    if cuts is not None and name != TimeSplit.name:
        raise UserError(f"--cuts goes with --split time, not with --split {name}")
    if name == UserHoldout.name:
        return UserHoldout(seed)
    if name == TimeSplit.name and cuts is not None:
        first, comma, second = cuts.partition(",")
        if not comma:
            raise UserError(f"--cuts {cuts!r} is not two times, such as 2024-06-01,2024-07-01 or 0.8,0.9")
        return TimeSplit((_moment(first), _moment(second)))
    return name


def _moment(text: str) -> Any:
    """A share or number where the text is one, otherwise the text of a date."""
    text = text.strip()
    if len(text) == 8 and text.isdigit():
        raise UserError(f"--cuts holds {text}, seconds since 1970 as numbers go; write a date like 2024-06-01")
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
