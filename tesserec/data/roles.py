"""What each column of an items or users table is: categorical, multi, numeric, text or vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import polars as pl

from tesserec.errors import ConfigError, DataError

Role = Literal["categorical", "multi", "numeric", "text", "vector"]
TEXT_NAMES = ("title", "name", "text", "description", "headline", "abstract", "url")
CODE_NAMES = ("id", "code", "category", "brand", "genre", "type", "group", "class")
SHARE_OF_TEXT = 0.5
"""A string column with more distinct values than this share of its rows is text: no category repeats in it."""


def recognise_roles(table: pl.DataFrame, given: Mapping[str, str] | None = None) -> dict[str, Role]:
    """Role of every column of ``table`` except ``id``.

    Strings are ``text`` if their name says so or they hardly repeat, otherwise ``categorical``; so are booleans, and
    integers whose name ends like ``_id`` or ``category``. Other numbers, dates and times are ``numeric``, lists of
    strings or integers ``multi``, lists and arrays of floats ``vector``.

    Parameters
    ----------
    table
        The table; ``id`` is left out.
    given
        Roles that the caller has decided.

    Raises
    ------
    ConfigError
        If a given role is unknown, names no column or does not fit the column's type.
    DataError
        If a column's type has no role.
    """
    given = dict(given or {})
    for name, role in given.items():
        if name not in table.columns or name == "id":
            raise ConfigError(f"roles names {name!r}; the table has the columns {table.columns}")
        if role not in get_args(Role):
            raise ConfigError(f"roles[{name!r}] = {role!r}; choose one of {', '.join(get_args(Role))}")
    roles: dict[str, Role] = {}
    for column in table.drop("id").iter_columns():
        possible = _possible(column)
        role = given.get(column.name, possible[0])
        if role not in possible:
            raise ConfigError(
                f"roles[{column.name!r}] = {role!r} does not fit its type {column.dtype}; "
                f"choose {' or '.join(possible)}"
            )
        roles[column.name] = role
    return roles


def _possible(column: pl.Series) -> tuple[Role, ...]:
    """Roles that fit a column's type, the recognised one first."""
    dtype = column.dtype
    if isinstance(dtype, (pl.List, pl.Array)):
        inner = dtype.inner
        if inner.is_float():
            return ("vector",)
        if inner.is_integer() or inner in (pl.String, pl.Categorical, pl.Enum):
            return ("multi", "vector") if inner.is_integer() else ("multi",)
    elif dtype in (pl.String, pl.Categorical, pl.Enum):
        return ("text", "categorical") if _is_text(column) else ("categorical", "text")
    elif dtype == pl.Boolean:
        return ("categorical", "numeric")
    elif dtype.is_integer():
        coded = column.name.lower().endswith(CODE_NAMES)
        return ("categorical", "numeric") if coded else ("numeric", "categorical")
    elif dtype.is_numeric() or dtype in (pl.Date, pl.Datetime):
        return ("numeric",)
    elif dtype == pl.Null:
        return ("categorical", "text", "numeric")
    raise DataError(
        f"column {column.name!r} of the items or users table is {dtype}, which has no use as a feature; "
        "drop it or turn it into numbers, strings or lists of them"
    )


def _is_text(column: pl.Series) -> bool:
    present = column.drop_nulls()
    if column.name.lower().endswith(TEXT_NAMES):
        return True
    return len(present) > 1 and present.n_unique() > SHARE_OF_TEXT * len(present)


def vectors(column: pl.Series, ids: pl.Series) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """A vector column as a float32 matrix ``(rows, dim)``; missing rows are zero.

    Raises
    ------
    DataError
        If lengths differ or a value is null, NaN or infinite; names the first such row by its id.
    """
    lists = column.cast(pl.List(pl.Float32), strict=False) if isinstance(column.dtype, pl.Array) else column
    lists = lists.cast(pl.List(pl.Float32))
    present = lists.is_not_null()
    filled = lists.filter(present)
    lengths = filled.list.len()
    width = int(lengths[0]) if len(filled) else 0
    if (ragged := lengths != width).any():
        row = int(ragged.arg_max() or 0)
        raise DataError(
            f"column {column.name!r}, item {ids.filter(present)[row]!r}: vector of length {lengths[row]}, expected "
            f"{width} as in item {ids.filter(present)[0]!r}; give every vector one length"
        )
    flat = filled.explode().to_numpy() if width else np.empty(0, np.float32)
    matrix = np.zeros((len(column), width), np.float32)
    matrix[present.to_numpy()] = flat.reshape(-1, width) if width else 0
    if len(bad := np.flatnonzero(~np.isfinite(matrix).all(axis=1))):
        row = int(bad[0])
        raise DataError(f"column {column.name!r}, item {ids[row]!r}: the vector holds NaN, null or an infinite value")
    return matrix
