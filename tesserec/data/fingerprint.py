"""The fingerprint of a dataset: one hash over its ids, tables, events, ranges and parameters.

It depends on content alone: not on file formats, paths, machines or the order of dictionary keys.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.data.dataset import Dataset

ROWS_AT_ONCE = 1 << 20


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 (hex) of everything that a number measured on the dataset can depend on."""
    digest = hashlib.sha256()
    parameters = {"split": dataset.split, "roles": dataset.roles, "exclude_seen": dataset.exclude_seen}
    _text(digest, json.dumps(parameters, sort_keys=True, default=str))
    user_table = dataset.users.values.to_frame() if dataset.user_table is None else dataset.user_table
    for table in (dataset.item_table, user_table):
        for column in table.iter_columns():
            _text(digest, column.name)
            _column(digest, column)
    _array(digest, dataset.train.values)
    _array(digest, dataset.train_times)
    _array(digest, dataset.train_users)
    valid, test = dataset.valid, dataset.test
    for rows in (dataset.train, valid.histories, valid.targets, test.histories, test.targets):
        _array(digest, rows.starts)
        _array(digest, rows.stops)
    _array(digest, valid.users)
    _array(digest, test.users)
    return digest.hexdigest()


def _text(digest: Any, text: str) -> None:
    content = text.encode()
    digest.update(len(content).to_bytes(8, "little") + content)


def _array(digest: Any, array: NDArray[Any] | None) -> None:
    """Type, length and little-endian bytes of an array."""
    if array is None:
        _text(digest, "none")
        return
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    _text(digest, f"{plain.dtype.name} {plain.size}")
    digest.update(plain.data)


def _column(digest: Any, column: pl.Series) -> None:
    """Type, nulls and values of a column; lists by their lengths and elements."""
    _text(digest, str(column.dtype))
    _array(digest, column.is_null().to_numpy())
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if isinstance(column.dtype, pl.List):
        lengths = column.list.len().fill_null(0)
        _array(digest, lengths.cast(pl.Int64).to_numpy())
        _column(digest, column.filter(lengths > 0).explode())
    elif column.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Binary):
        if column.dtype != pl.Binary:
            column = column.cast(pl.String)
        for part in column.drop_nulls().to_frame().iter_slices(ROWS_AT_ONCE):
            values = [v if isinstance(v, bytes) else v.encode() for v in part.to_series().to_list()]
            _array(digest, np.array([len(value) for value in values], np.int64))
            digest.update(b"".join(values))
    elif column.dtype != pl.Null:
        physical = column.drop_nulls().to_physical()
        _array(digest, physical.to_numpy())
