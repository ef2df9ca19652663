"""From a log to a :class:`Dataset`: read, check, filter, group, split, prove, publish.

Events of a user are in order of time; events with the same time keep the order of the rows in the log. Filters come in
this order: event type, weight, repeats, minimum counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import polars as pl

from tesserec.data.catalogue import Catalogue, read_catalogue, read_users
from tesserec.data.columns import check_given, find_column
from tesserec.data.dataset import Dataset
from tesserec.data.events import Events
from tesserec.data.fingerprint import fingerprint
from tesserec.data.histories import Histories, Items
from tesserec.data.ids import IdMap
from tesserec.data.report import PrepareReport
from tesserec.data.splits import Parts, Split, check_leakage, describe, make_split
from tesserec.data.tables import Table, collect, read_table
from tesserec.data.values import Times, id_values, number_values, time_values
from tesserec.errors import ConfigError, DataError, UserError

Repeats = Literal["keep", "distinct", "first", "last"]
Progress = Callable[[str], None]
DENSE = 8
"""Integer ids with at most this many numbers an id are turned into codes by a table."""


@dataclass(frozen=True)
class Filters:
    """Which rows of the log count; see :func:`prepare`."""

    events: Sequence[str] | None
    min_weight: float | None
    repeats: Repeats
    min_user_events: int
    min_item_events: int

    def __post_init__(self) -> None:
        if isinstance(self.events, str):
            raise ConfigError(f"events = {self.events!r}; expected event types in a list, such as [{self.events!r}]")
        if self.repeats not in get_args(Repeats):
            raise ConfigError(f"repeats = {self.repeats!r}; choose 'keep', 'distinct', 'first' or 'last'")
        for name in ("min_user_events", "min_item_events"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected 0 or more")


def prepare(
    log: Any,
    *,
    out: Path | str | None = None,
    items: Any = None,
    users: Any = None,
    split: str | Split = "leave-one-out",
    columns: Mapping[str, str | None] | None = None,
    roles: Mapping[str, str] | None = None,
    events: Sequence[str] | None = None,
    min_weight: float | None = None,
    repeats: Repeats = "keep",
    min_user_events: int = 0,
    min_item_events: int = 0,
    time_kind: str | None = None,
    exclude_seen: bool | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Turn a log of interactions into a dataset with one split, checked for leakage.

    Parameters
    ----------
    log, items, users
        Tables: a path (parquet, CSV, TSV, Arrow; a file, folder or pattern), a list of paths, or a polars, pandas or
        Arrow object. ``items`` and ``users`` are optional and have unique ids.
    out
        Directory to write; without it the dataset stays in memory.
    split
        ``"leave-one-out"``, ``"user-holdout"``, ``"time"``, or an object of :mod:`tesserec.data.splits`.
    columns
        Names of the columns ``user``, ``item``, ``time``, ``weight`` and ``event`` where they are not recognised;
        ``{"time": None}`` takes the order of the rows.
    roles
        Roles of columns of the items table where they are not recognised, such as ``{"genres": "multi"}``; text with
        that role is cut at ``|``.
    events
        Keep only rows with one of these event types.
    min_weight
        Keep only rows with at least this weight (rating).
    repeats
        Keep all events of the same user and item, each of these with a time of its own (``"distinct"``), or only the
        first or the last.
    min_user_events, min_item_events
        Drop users and items with fewer events, until both hold; 5 and 5 is the 5-core. With ``min_item_events`` of 0,
        items of the items table that never occur stay in the catalogue; from 1 on they leave it.
    time_kind
        Unit of numeric times (``"seconds"``, ``"milliseconds"``, ...) or ``"order"``; recognised by default.
    exclude_seen
        Whether items of the history are never recommended. By default, where the log holds no repeats.
    overwrite
        Replace a dataset at ``out``.
    progress
        Called with a line of text before each step.

    Raises
    ------
    DataError
        If the log or a table cannot be used; names file, column, row and value.
    ConfigError
        If parameters are unknown or do not fit the log.
    UserError
        If ``out`` exists and may not be replaced, or cannot be written.

    Examples
    --------
    >>> log = [("u1", "a"), ("u1", "b"), ("u1", "c"), ("u2", "b"), ("u2", "a"), ("u2", "c")]
    >>> frame = pl.DataFrame(log, schema=["user", "item"], orient="row")
    >>> dataset = prepare(frame)
    >>> len(dataset.items), len(dataset.train), dataset.exclude_seen
    (3, 2, True)
    """
    say = progress or (lambda line: None)
    filters = Filters(events, min_weight, repeats, min_user_events, min_item_events)
    chosen, given, report = make_split(split), dict(columns or {}), PrepareReport()
    check_given(given)
    if out is not None and Path(out).exists() and not overwrite:
        raise UserError(f"{out} exists already; choose another name or allow it to be overwritten")
    say("checking the log")
    table, times = _checked(read_table(log), given, filters, time_kind, report)
    catalogue = read_catalogue(items, report.columns, roles)
    say("grouping events by user")
    user_ids, item_ids = _ids(table, "user"), catalogue.all_ids(_ids(table, "item"))
    grouped = _grouped(table, user_ids, item_ids, times)
    kept, user_codes = _filtered(grouped, filters, len(item_ids), report).without_empty()
    say("splitting")
    parts = chosen.apply(kept)
    _check_parts(kept, parts, chosen)
    order = _catalogue_order(kept, parts.train, catalogue, item_ids, filters)
    item_table = catalogue.table(item_ids.gather(order), report)
    user_table = read_users(users, report.columns, user_ids.gather(user_codes))
    report.exclude_seen = _exclude_seen(exclude_seen, report)
    dataset = Dataset(
        items=IdMap(item_table["id"]),
        users=IdMap(user_table["id"]),
        item_table=item_table,
        roles=catalogue.roles,
        train=parts.train,
        valid=parts.valid,
        test=parts.test,
        train_times=_seconds(kept),
        split=describe(chosen, parts.facts),
        fingerprint="",
        exclude_seen=report.exclude_seen,
        train_users=parts.users,
        user_table=user_table,
        report=report,
    )
    say("checking for leakage and hashing")
    check_leakage(dataset)
    _count(report, dataset, kept, parts)
    dataset = replace(dataset, fingerprint=fingerprint(dataset))
    if out is None:
        return dataset
    say(f"writing {out}")
    return dataset.save(out, overwrite=overwrite)


def read_events(
    log: Table, columns: Mapping[str, str | None] | None = None, kept: Mapping[str, Any] | None = None
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The checked events of a log, and how many rows each filter dropped.

    Events are ``user``, ``item`` and, where the log has times, ``time`` in seconds.

    Parameters
    ----------
    log, columns
        See :func:`prepare`.
    kept
        What the event type and the weight of a row have to be, as :class:`PrepareReport` keeps it.

    Raises
    ------
    DataError, ConfigError
        See :func:`prepare`.
    """
    given = dict(columns or {})
    check_given(given)
    kept = kept or {}
    filters = Filters(kept.get("event"), kept.get("weight"), "keep", 0, 0)
    report = PrepareReport()
    table, times = _checked(log, given, filters, None, report, strict=False)
    chosen: list[pl.Expr | str] = ["user", "item"]
    if times is not None:
        if not times.per_second:
            raise DataError(f"the times of {table.name} are an order ({times.kind}); expected times")
        chosen.append((pl.col("key").cast(pl.Int64) // times.per_second).alias("time"))
    return table.collect(*chosen), report.dropped


def _checked(
    source: Table,
    given: Mapping[str, str | None],
    filters: Filters,
    time_kind: str | None,
    report: PrepareReport,
    strict: bool = True,
) -> tuple[Table, Times | None]:
    """The columns ``user``, ``item`` and ``key`` of the rows that pass the row filters; ``strict`` by known names."""
    names = source.schema.names()
    user = cast(str, find_column("user", names, source.name, given, required=True))
    item = cast(str, find_column("item", names, source.name, given, required=True))
    time = find_column("time", names, source.name, given, required=False)
    report.columns = {"user": user, "item": item, "time": time}
    report.rows = int(source.collect(pl.len()).item())
    source = _row_filters(source, given, filters, report, strict)
    chosen = [id_values(source, user, "user").alias("user"), id_values(source, item, "item").alias("item")]
    times = None
    if time is not None:
        times = time_values(source, time, time_kind)
        chosen.append(times.key.alias("key"))
        report.time_kind = times.kind
    elif time_kind is not None:
        raise ConfigError(f"time_kind = {time_kind!r}, but {source.name} has no time column; it has {names}")
    else:
        report.warnings.append("no time column: the order of the rows is taken as the order of the events")
    return source.map(lambda frame: frame.select(chosen)), times


def _row_filters(
    source: Table, given: Mapping[str, str | None], filters: Filters, report: PrepareReport, strict: bool
) -> Table:
    """The rows that pass; what is dropped is not looked at again. ``strict`` refuses event types that do not occur."""
    names = source.schema.names()
    if filters.events is not None:
        column = cast(str, find_column("event", names, source.name, given, required=True))
        value = pl.col(column).cast(pl.String)
        seen = sorted(source.collect(value.unique().alias("event"))["event"].drop_nulls().to_list())
        for event in filters.events:
            if strict and str(event) not in seen:
                raise ConfigError(f"events names {event!r}; column {column!r} of {source.name} holds {seen[:20]}")
        names_kept = [str(event) for event in filters.events]
        report.columns["event"], report.kept["event"] = column, names_kept
        wanted = value.is_in(names_kept).fill_null(False)
        report.dropped["event type"] = int(source.collect((~wanted).sum().alias("dropped")).item())
        source = source.only(wanted)
    if filters.min_weight is not None:
        column = cast(str, find_column("weight", names, source.name, given, required=True))
        report.columns["weight"], report.kept["weight"] = column, filters.min_weight
        light = number_values(source, column) < filters.min_weight
        report.dropped["weight"] = int(source.collect(light.sum().alias("dropped")).item())
        source = source.only(~light)
    return source


def _ids(table: Table, column: str) -> pl.Series:
    """Distinct ids in their order."""
    ids = table.collect(pl.col(column).unique()).to_series().sort()
    if not len(ids):
        raise DataError(f"no row of {table.name} passes the filters; loosen events or min_weight")
    return ids


def _grouped(table: Table, user_ids: pl.Series, item_ids: pl.Series, times: Times | None) -> Events:
    """Codes of all rows, grouped by user."""
    frame = _coded(_coded(table.frame, "user", user_ids), "item", item_ids)
    coded = collect(frame, table)
    keys = coded["key"].to_numpy() if times is not None else None
    users, items = coded["user"].to_numpy(), coded["item"].to_numpy()
    del coded
    return Events.group(users, items, keys, len(user_ids), 0 if times is None else times.per_second)


def _coded(frame: pl.LazyFrame, column: str, ids: pl.Series) -> pl.LazyFrame:
    """Ids replaced by their codes, the rows in their order."""
    codes = np.arange(len(ids), dtype=np.int32)
    if ids.dtype.is_integer() and int(ids[-1]) - int(ids[0]) < DENSE * len(ids) and int(ids[-1]) < 2**63:
        # Integers without wide gaps index a table, several times faster than a join.
        low, numbers = int(ids[0]), ids.cast(pl.Int64).to_numpy()
        lookup = np.zeros(int(ids[-1]) - low + 1, np.int32)
        lookup[numbers - low] = codes
        code = pl.col(column).cast(pl.Int64).map_batches(
            lambda part: pl.Series(lookup[part.to_numpy() - low]), return_dtype=pl.Int32, is_elementwise=True
        )  # fmt: skip
        return frame.with_columns(code)
    pairs = pl.LazyFrame({column: ids, "code": codes})
    return frame.join(pairs, on=column, how="left", maintain_order="left").drop(column).rename({"code": column})


def _filtered(events: Events, filters: Filters, items: int, report: PrepareReport) -> Events:
    """Repeats and minimum counts."""
    rows = len(events)
    if filters.repeats != "keep":
        report.kept["repeats"] = filters.repeats
    if filters.repeats == "first" or filters.repeats == "last":
        events = events.without_repeats(filters.repeats, items)
        report.dropped["repeats"] = rows - len(events)
    elif events.per_second:
        events = _distinct(events, filters.repeats == "distinct", items, report)
    elif filters.repeats == "distinct":
        raise ConfigError("repeats = 'distinct' needs times, but the log has only an order; choose another or 'keep'")
    rows = len(events)
    events = events.core(items, filters.min_user_events, filters.min_item_events)
    if rows != len(events):
        report.dropped["minimum counts"] = rows - len(events)
    report.repeats = 0 if filters.repeats in ("first", "last") else events.repeats(items)
    if not len(events):
        raise DataError(
            f"no event is left after min_user_events = {filters.min_user_events} and min_item_events = "
            f"{filters.min_item_events}, {rows:,} before; lower them"
        )
    return events


def _distinct(events: Events, drop: bool, items: int, report: PrepareReport) -> Events:
    """Drop events that are there twice, or warn of them: the second may be a target whose history holds the first."""
    keep = events.distinct(items)
    twice = int((~keep).sum())
    if drop:
        report.dropped["duplicates"] = twice
        return events.where(keep)
    if twice:
        report.warnings.append(
            f"{twice:,} events have the user, item and time of another one; if they are the same event recorded twice, "
            "targets stand in their own histories: repeats = 'distinct' (--repeats distinct) counts them once"
        )
    return events


def _check_parts(events: Events, parts: Parts, split: Split) -> None:
    """Refuse what nothing can be learned from or measured on."""
    users = len(events.lengths)
    if users < 2:
        raise DataError("the log holds one user after the filters; at least two are needed")
    sizes = {"train": len(parts.train), "valid": len(parts.valid.users), "test": len(parts.test.users)}
    for name, rows in sizes.items():
        if not rows:
            raise DataError(
                f"the {name} part of split {split.name!r} would be empty: {users:,} users with up to "
                f"{events.lengths.max()} events; {_ADVICE[split.name]}"
            )


_ADVICE = {
    "leave-one-out": "it needs users with at least three events",
    "user-holdout": "it needs at least ten users, and held-out users with at least two events",
    "time": "choose cuts with events before, between and after them, of users who also have earlier events",
}


def _catalogue_order(
    events: Events, train: Histories, catalogue: Catalogue, item_ids: pl.Series, filters: Filters
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Items that stay, by falling training count and then by id; ``events`` is relabelled to match."""
    occurs = Histories(events.values, events.offsets[:-1], events.offsets[1:]).counts(len(item_ids)) > 0
    stays = occurs if filters.min_item_events else occurs | catalogue.holds(item_ids)
    order = np.argsort(-train.counts(len(item_ids)), kind="stable")
    order = order[stays[order]]
    if len(order) < 2:
        raise DataError("the catalogue holds one item after the filters; at least two are needed to rank")
    new: Items = np.full(len(item_ids), -1, np.int32)
    new[order] = np.arange(len(order), dtype=np.int32)
    events.relabel(new)
    return order


def _seconds(events: Events) -> Any:
    """Times in whole seconds, None where the log has only an order."""
    if events.keys is None or not events.per_second:
        return None
    return events.keys if events.per_second == 1 else events.keys // events.per_second


def _exclude_seen(wanted: bool | None, report: PrepareReport) -> bool:
    if wanted and report.repeats:
        raise ConfigError(
            f"exclude_seen is on, but {report.repeats:,} events repeat an item of the same user, so that targets could "
            "never be found; pass repeats='first' or 'last', or leave exclude_seen off"
        )
    return report.repeats == 0 if wanted is None else wanted


def _count(report: PrepareReport, dataset: Dataset, events: Events, parts: Parts) -> None:
    report.users, report.items, report.events = len(dataset.users), len(dataset.items), len(events)
    report.cold_items = int((dataset.item_counts == 0).sum())
    report.mean_length, report.median_length = float(events.lengths.mean()), float(np.median(events.lengths))
    report.train_users, report.dropped_users = len(parts.train), parts.dropped
    report.valid_users, report.test_users = len(parts.valid.users), len(parts.test.users)
