"""Items and users tables: unique ids of the log's type, columns with roles, rows in the order of the id maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.data.columns import find_column
from tesserec.data.report import PrepareReport
from tesserec.data.roles import recognise_roles, vectors
from tesserec.data.tables import Table, read_table
from tesserec.data.values import INTEGER, PADDED, id_values
from tesserec.errors import ConfigError, DataError


@dataclass(frozen=True)
class Catalogue:
    """The items table as given.

    Attributes
    ----------
    rows
        ``id`` and the feature columns, one row an item; None where there is no items table.
    roles
        Role of each feature column.
    name
        What errors call the table.
    text
        Whether it was read from text, where ids have no type of their own.
    """

    rows: pl.DataFrame | None
    roles: dict[str, str]
    name: str = "the items table"
    text: bool = False

    def all_ids(self, logged: pl.Series) -> pl.Series:
        """Ids of the log and of the table together, in their order.

        Raises
        ------
        DataError
            If the table's ids are of another type than the log's.
        """
        if self.rows is None:
            return logged
        return pl.concat([logged, self._ids(logged)]).unique().sort()

    def holds(self, ids: pl.Series) -> NDArray[np.bool_]:
        """Whether each id is in the table."""
        if self.rows is None:
            return np.zeros(len(ids), bool)
        return ids.is_in(self._ids(ids).implode()).to_numpy()

    def table(self, ids: pl.Series, report: PrepareReport) -> pl.DataFrame:
        """One row an id, in this order; features are null for items that the table does not have."""
        if self.rows is None:
            return ids.alias("id").to_frame()
        if missing := int((~self.holds(ids)).sum()):
            report.warnings.append(f"{missing:,} items of the log are not in {self.name}; their features are missing")
        return _in_order(self.rows, self._ids(ids), ids)

    def _ids(self, logged: pl.Series) -> pl.Series:
        assert self.rows is not None
        return alike(self.rows["id"], logged, self.name, self.text)


def read_catalogue(source: Any, given: Mapping[str, str | None], roles: Mapping[str, str] | None) -> Catalogue:
    """Read and check an items table; None gives an empty catalogue.

    Raises
    ------
    DataError
        If an id is missing or occurs twice, or a vector column is ragged or not finite.
    """
    if source is None:
        if roles:
            raise ConfigError(f"roles = {dict(roles)} without an items table; pass items")
        return Catalogue(None, {})
    table = read_table(source)
    rows = _split_lists(_typed_rows(table, "item", given, roles or {}), roles or {})
    found = recognise_roles(rows, roles)
    for name, role in found.items():
        if role == "vector":
            vectors(rows[name], rows["id"])
    return Catalogue(rows, dict(found), table.name, table.text)


def read_items(
    source: Any, given: Mapping[str, str | None], like: pl.DataFrame, extra: str | None = None
) -> pl.DataFrame:
    """Read rows for a catalogue that is there already, in its types; columns that are not given are left out.

    Parameters
    ----------
    source
        See :func:`tesserec.data.tables.read_table`.
    given
        ``{"item": NAME}`` where the id column has no usual name.
    like
        The catalogue's table.
    extra
        A further column of ids that may be there, alone or in lists.

    Raises
    ------
    DataError
        If there is no row, an id is missing, repeated or of another type, or a column is unknown or of another type.
    """
    table = read_table(source)
    rows = _unique_rows(table, "item", given)
    if not rows.height:
        raise DataError(f"{table.name} has no rows; give at least one item")
    if unknown := [name for name in rows.columns if name not in (*like.columns, extra)]:
        raise DataError(f"{table.name} has the column {unknown[0]!r}, the catalogue {like.columns}; rename or drop it")
    cast = [alike(rows["id"], like["id"], table.name, table.text)]
    for column in rows.drop("id").iter_columns():
        wanted = pl.List(like.schema["id"]) if column.name == extra else like.schema[column.name]
        if isinstance(wanted, pl.List) and column.dtype == pl.String:
            column = column.str.split("|")
        elif wanted.is_numeric() and table.text:
            column = _number(column)
        try:
            cast.append(column.cast(wanted))
        except pl.exceptions.PolarsError:
            raise DataError(
                f"{table.name}, column {column.name!r}: {column.dtype} does not become {wanted}, as in the catalogue; "
                f"the first value is {column[0]!r}"
            ) from None
    return pl.DataFrame(cast)


def read_users(source: Any, given: Mapping[str, str | None], ids: pl.Series) -> pl.DataFrame:
    """The users table in the order of ``ids``; without one, the ids alone."""
    if source is None:
        return ids.alias("id").to_frame()
    table = read_table(source)
    rows = _typed_rows(table, "user", given, {})
    return _in_order(rows, alike(rows["id"], ids, table.name, table.text), ids)


def _unique_rows(table: Table, what: str, given: Mapping[str, str | None]) -> pl.DataFrame:
    """All columns, the id first and named ``id``."""
    names = table.schema.names()
    hint = {key: name for key, name in given.items() if key == what and name in names}
    column = find_column(what, names, table.name, hint, required=True)
    assert column is not None
    others = [name for name in names if name != column]
    if "id" in others:
        raise DataError(f"{table.name} has the columns {column!r} and 'id'; rename or drop one of them")
    rows = table.collect(id_values(table, column, what).alias("id"), *others)
    if (repeated := rows["id"].is_duplicated()).any():
        value = rows["id"].filter(repeated)[0]
        lines = [row + 1 for row in (rows["id"] == value).arg_true().to_list()[:5]]
        raise DataError(f"{table.name}, column {column!r}: id {value!r} is in rows {lines}; ids must be unique")
    return rows


def _split_lists(rows: pl.DataFrame, roles: Mapping[str, str]) -> pl.DataFrame:
    """Text columns that are given the role ``multi`` become lists, cut at ``|``."""
    listed = [name for name, role in roles.items() if role == "multi" and rows.schema.get(name) == pl.String]
    return rows.with_columns(pl.col(listed).str.split("|"))


def _typed_rows(table: Table, what: str, given: Mapping[str, str | None], roles: Mapping[str, str]) -> pl.DataFrame:
    """Feature columns of a text file become numbers where all values are some, unless they are to be read as text."""
    rows = _unique_rows(table, what, given)
    if not table.text:
        return rows
    kept = [name for name, role in roles.items() if role in ("categorical", "multi", "text")]
    columns = rows.drop("id").iter_columns()
    return rows.select("id").with_columns([one if one.name in kept else _number(one) for one in columns])


def _number(column: pl.Series) -> pl.Series:
    """Text as integers, else as floats, where every value is one; values such as ``007`` name something."""
    present, number = column.drop_nulls(), column.cast(pl.Float64, strict=False)
    if len(present) and present.str.contains(INTEGER).all():
        return column.cast(pl.Int64)
    if number.null_count() == column.null_count() and len(present) and not present.str.contains(PADDED).any():
        return number
    return column


def alike(ids: pl.Series, logged: pl.Series, name: str, text: bool) -> pl.Series:
    """Ids of a table cast to the log's type, where both are of one kind, or the table's were only read as numbers.

    Raises
    ------
    DataError
        Says the type and the first id of both sides.
    """
    if ids.dtype == logged.dtype:
        return ids
    if text and logged.dtype == pl.String:
        return ids.cast(pl.String)
    if ids.dtype.is_integer() and logged.dtype.is_integer():
        cast = ids.cast(logged.dtype, strict=False)
        if not cast.null_count():
            return cast
        raise DataError(f"{name}: id {ids.filter(cast.is_null())[0]} does not fit the log's ids, {logged.dtype}")
    raise DataError(
        f"{name} has ids of type {ids.dtype} such as {ids[0]!r}, expected {logged.dtype} such as {logged[0]!r}; "
        "give both one type, in a format that has types, such as parquet"
    )


def _in_order(rows: pl.DataFrame, own: pl.Series, ids: pl.Series) -> pl.DataFrame:
    """The rows, whose ids are ``own``, in the order of ``ids``."""
    rows = rows.with_columns(own.alias("id"))
    return ids.alias("id").to_frame().join(rows, on="id", how="left", maintain_order="left")
