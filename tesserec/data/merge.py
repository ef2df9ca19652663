"""A prepared dataset and a later log, prepared together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tesserec.data.catalogue import alike, read_items
from tesserec.data.dataset import Dataset
from tesserec.data.prepare import Progress, prepare, read_events
from tesserec.data.splits import LeaveOneOut, Split, UserHoldout
from tesserec.data.tables import read_table
from tesserec.errors import ConfigError, DataError


def prepare_more(
    dataset: Dataset,
    log: Any,
    *,
    items: Any = None,
    columns: Mapping[str, str | None] | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Prepare the events of a dataset and of a later log as one, under the dataset's split.

    Events that the dataset has already (same user, item and second) count once. New ones pass the dataset's filters of
    event types, weights and repeats; those on counts of events are not applied again. Under a user hold-out known users
    stay in their part, so that a model which goes on is never measured on users whom it was trained on; new ones are
    drawn.

    Parameters
    ----------
    log, items
        New interactions, and a table of new or changed items with the columns of the old one; see
        :func:`~tesserec.data.prepare.prepare`.
    columns
        Names of columns of the log where they are not recognised.

    Raises
    ------
    DataError
        If ids of the log are of another type, or the log has times and the dataset none, or the reverse.
    ConfigError
        If the dataset was split by time: its cuts lie in the past.
    """
    old, table = _events(dataset), read_table(log)
    kept = {} if dataset.report is None else dataset.report.kept
    new, dropped = read_events(table, columns, kept)
    known = {"user": dataset.users.values, "item": dataset.items.values}
    new = new.with_columns(alike(new[name], ids, table.name, table.text) for name, ids in known.items())
    if ("time" in old.columns) != ("time" in new.columns):
        raise DataError("either the log or the dataset has times and the other an order only; they cannot be merged")
    keys = ["user", "item", "time"]
    if "time" in old.columns:
        rows = new.height
        new = new.join(old, on=keys, how="anti", maintain_order="left")
        dropped["earlier events"] = rows - new.height
    both = pl.concat([old.select(new.columns), new])
    merged = prepare(
        both,
        items=_items(dataset, items, dict(columns or {})),
        split=_split(dataset, both["user"].unique().sort()),
        columns={name: name if name in new.columns else None for name in keys},
        roles=dataset.roles,
        repeats=kept.get("repeats", "first" if dataset.exclude_seen else "keep"),
        time_kind="seconds" if "time" in new.columns else None,
        exclude_seen=dataset.exclude_seen,
        progress=progress,
    )
    assert merged.report is not None
    merged.report.kept |= kept
    merged.report.dropped |= dropped
    merged.report.rows += sum(dropped.values())
    return merged if out is None else merged.save(out)


def _split(dataset: Dataset, users: pl.Series) -> Split:
    if dataset.split["name"] == LeaveOneOut.name:
        return LeaveOneOut()
    if dataset.split["name"] == UserHoldout.name:
        assert dataset.train_users is not None
        # The last place is that of users who are not known.
        part_of = np.full(len(dataset.users) + 1, -1)
        for part, members in enumerate((dataset.train_users, dataset.valid.users, dataset.test.users)):
            part_of[members] = part
        return UserHoldout(dataset.split["seed"], part_of[dataset.users.encode(users.to_list())])
    raise ConfigError(
        f"the dataset is split by {dataset.split['name']!r}, whose cuts lie before the new events; prepare the whole "
        "log again"
    )


def _events(dataset: Dataset) -> pl.DataFrame:
    """All events of a dataset in their order: ``user``, ``item`` and, where it has times, ``time`` in seconds."""
    if dataset.train_users is None:
        raise DataError("the dataset does not know whose its training rows are; prepare it again from its log")
    starts = np.full(len(dataset.users), np.iinfo(np.int64).max)
    stops = np.zeros(len(dataset.users), np.int64)
    parts = [(dataset.train_users, dataset.train)]
    parts += [(part.users, rows) for part in (dataset.valid, dataset.test) for rows in (part.histories, part.targets)]
    for users, rows in parts:
        np.minimum.at(starts, users, rows.starts)
        np.maximum.at(stops, users, rows.stops)
    lengths = np.maximum(stops - starts, 0)
    user = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(user)) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
    frame = pl.DataFrame(
        {
            "user": dataset.users.decode(user),
            "item": dataset.items.decode(np.asarray(dataset.train.values)[position]),
        }
    )
    return frame if dataset.train_times is None else frame.with_columns(time=np.asarray(dataset.train_times)[position])


def _items(dataset: Dataset, items: Any, given: Mapping[str, str | None]) -> pl.DataFrame:
    """The dataset's item table, with rows of the new one added or in place of the old."""
    old = dataset.item_table
    if items is None:
        return old
    added = read_items(items, given, old)
    if missing := [name for name in old.columns if name not in added.columns]:
        raise DataError(f"the new items lack the columns {missing} of those that are known; they have {added.columns}")
    return pl.concat([old.join(added, on="id", how="anti", maintain_order="left"), added.select(old.columns)])
