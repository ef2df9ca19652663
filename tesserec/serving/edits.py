"""Edits of the catalogue through the service; each publishes one small generation, which every worker takes up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from tesserec.errors import DataError
from tesserec.index.living import LIKE, Edit, add_items, remove_items, update_items
from tesserec.serving.answers import to_ids
from tesserec.serving.limits import busy
from tesserec.serving.schemas import Edited, ItemIds, ItemRows
from tesserec.serving.swap import Served


def add(served: Served, asked: ItemRows) -> Edited:
    """See :func:`tesserec.index.living.add_items`."""
    return _edited(served, add_items, _table(served, asked))


def update(served: Served, asked: ItemRows) -> Edited:
    """See :func:`tesserec.index.living.update_items`."""
    return _edited(served, update_items, _table(served, asked))


def remove(served: Served, asked: ItemIds) -> Edited:
    """See :func:`tesserec.index.living.remove_items`."""
    return _edited(served, remove_items, to_ids(served, asked.items))


def _edited(served: Served, edit: Callable[[Any, Any], Edit], given: Any) -> Edited:
    try:
        done = edit(served.bundle.path.parent, given)
    except OSError as error:
        raise busy(f"the bundle cannot be written ({error.strerror}); edit it where it can", 503) from error
    return Edited(done.number, done.added, done.updated, done.removed, done.items)


def _table(served: Served, asked: ItemRows) -> pl.DataFrame:
    columns = list(asked.items[0])
    for number, row in enumerate(asked.items):
        if row.keys() != set(columns):
            raise DataError(f"item {number} names {sorted(row)}, item 0 {sorted(columns)}; send like items together")
    rows: list[dict[str, Any]] = [dict(row) for row in asked.items]
    for row in rows:
        if "id" in row:
            (row["id"],) = to_ids(served, [row["id"]])
        like = row.get(LIKE)
        if isinstance(like, list):
            row[LIKE] = to_ids(served, like)
    try:
        return pl.DataFrame(rows, infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
        raise DataError(f"the items make no table ({error}); give each column one type") from None
