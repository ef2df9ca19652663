"""The users' own ids and the integers that stand for them inside.

Ids may be integers, strings, bytes, booleans, dates, datetimes or whole floats, and come back as what they were. UUIDs
and categories are kept as strings.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from datetime import date, datetime
from functools import cached_property
from typing import Any
from uuid import UUID

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.errors import DataError

Items = NDArray[np.int32]
UNKNOWN = -1


class IdMap:
    """A bijection between external ids of any one type and ``0 .. n-1``.

    Parameters
    ----------
    values
        The ids in index order, without nulls or repeats.

    Raises
    ------
    DataError
        If an id is null or occurs twice.
    """

    def __init__(self, values: pl.Series) -> None:
        if values.null_count():
            raise DataError(f"ids hold {values.null_count()} nulls; every id must be present")
        if values.n_unique() != len(values):
            repeated = values.filter(values.is_duplicated())[0]
            raise DataError(f"id {repeated!r} occurs more than once; ids must be unique")
        self._values = values.alias("id")

    @property
    def values(self) -> pl.Series:
        """The ids in index order."""
        return self._values

    @property
    def dtype(self) -> pl.DataType:
        """Type of the ids."""
        return self.values.dtype

    @property
    def example(self) -> Any:
        """One of the ids, for messages."""
        return self.values[0]

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def _index(self) -> dict[Hashable, int]:
        return {value: index for index, value in enumerate(self.values.to_list())}

    def encode(self, ids: Iterable[Any]) -> Items:
        """Index of each id, -1 where it is unknown, ``(ids,)``.

        Raises
        ------
        DataError
            If an id cannot be one, such as a list.
        """
        index = self._index
        try:
            return np.fromiter((index.get(str(i) if isinstance(i, UUID) else i, UNKNOWN) for i in ids), dtype=np.int32)
        except TypeError as error:
            raise DataError(f"ids must be single values such as {self.example!r}: {error}") from None

    @cached_property
    def _ids(self) -> list[Hashable]:
        return list(self._index)

    def take(self, indices: NDArray[np.integer]) -> list[Any]:
        """External ids of known indices as Python values; for a few at a time, far quicker than :meth:`decode`."""
        ids = self._ids
        return [ids[index] for index in indices.tolist()]

    def decode(self, indices: NDArray[np.integer]) -> pl.Series:
        """External ids of indices, null where the index is -1; keeps the type of the ids."""
        chosen = pl.Series(indices.astype(np.int64))
        return self.values.gather(chosen.set(chosen < 0, None))

    def parse(self, text: str) -> Any:
        """One id as typed on a command line, in the type of this map.

        Raises
        ------
        DataError
            If the text cannot be an id of this type.
        """
        dtype = self.dtype
        read = _READERS.get(type(dtype)) or (int if dtype.is_integer() else float if dtype.is_float() else str)
        try:
            return read(text)
        except ValueError:
            raise DataError(f"id {text!r} cannot be {dtype}, as ids here are, such as {self.example!r}") from None


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_READERS: dict[Any, Callable[[str], Any]] = {
    pl.Boolean: _boolean,
    pl.Date: date.fromisoformat,
    pl.Datetime: datetime.fromisoformat,
    pl.Binary: str.encode,
}
