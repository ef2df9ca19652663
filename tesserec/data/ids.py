"""The users' own ids and the integers that stand for them inside."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import cached_property
from typing import Any

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
        self.values = values.alias("id")

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def _index(self) -> dict[Hashable, int]:
        return {value: index for index, value in enumerate(self.values.to_list())}

    def encode(self, ids: Iterable[Any]) -> Items:
        """Index of each id, -1 where it is unknown, ``(ids,)``."""
        index = self._index
        return np.fromiter((index.get(i, UNKNOWN) for i in ids), dtype=np.int32)

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
        if not self.values.dtype.is_numeric():
            return text
        try:
            return int(text) if self.values.dtype.is_integer() else float(text)
        except ValueError:
            raise DataError(f"id {text!r} is not a number, but ids here are {self.values.dtype}") from None
