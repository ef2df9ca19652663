"""The ids of a bundle, looked up in mapped files: opening reads none of them, however many there are.

Strings lie end to end with their ends beside them, integers as an array; ``id_order.npy`` lists indices by rising id,
so an id is found by binary search. Ids of other types are few, and are read from the item table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.data.ids import UNKNOWN, IdMap, Items
from tesserec.errors import ArtefactError, DataError
from tesserec.index.arrays import map_array
from tesserec.index.kernels import kernel
from tesserec.index.topk import frozen

Bytes = NDArray[np.uint8]

_FEW = 10_000
"""Up to this many ids are decoded one by one; for more it pays to read them all."""


def can_store(ids: pl.Series) -> bool:
    """Whether ids are of a type that is stored for look-up."""
    return ids.dtype == pl.String or ids.dtype.is_integer()


def save_ids(folder: Path, ids: pl.Series) -> None:
    """Write ids for :class:`StoredIds`."""
    np.save(folder / "id_order.npy", ids.arg_sort().to_numpy().astype("<i4"))
    if ids.dtype != pl.String:
        np.save(folder / "ids.npy", ids.to_numpy().astype(f"<{ids.to_numpy().dtype.str[1:]}"))
        return
    ends = np.append(0, np.cumsum(ids.str.len_bytes().to_numpy(), dtype=np.int64))
    np.save(folder / "id_ends.npy", ends.astype("<i8"))
    np.save(folder / "ids.npy", np.frombuffer("".join(ids.to_list()).encode(), np.uint8))


class StoredIds(IdMap):
    """Ids that :func:`save_ids` wrote.

    Parameters
    ----------
    folder
        Where they are.
    dtype
        Their type.
    read
        Reads all of them; called when more than a few are wanted.

    Raises
    ------
    ArtefactError
        If a file is missing, damaged or does not fit the others.
    """

    def __init__(self, folder: Path, dtype: pl.DataType, read: Callable[[], pl.Series]) -> None:
        self._dtype, self._read = dtype, read
        self._order = frozen(map_array(folder / "id_order.npy", "<i4", 1))
        self._ends: NDArray[np.int64] | None = None
        if dtype == pl.String:
            self._held = frozen(map_array(folder / "ids.npy", "|u1", 1))
            self._ends = frozen(map_array(folder / "id_ends.npy", "<i8", 1))
            fits = len(self._ends) == len(self._order) + 1 and int(self._ends[-1]) == len(self._held)
        else:
            width = pl.Series([0], dtype=dtype).to_numpy().dtype.str[1:]
            self._held = frozen(map_array(folder / "ids.npy", f"|{width}" if width[1:] == "1" else f"<{width}", 1))
            fits = len(self._held) == len(self._order)
        if not fits:
            raise ArtefactError(f"{folder / 'ids.npy'} does not go with id_order.npy; publish again")

    def __len__(self) -> int:
        return len(self._order)

    @property
    def dtype(self) -> pl.DataType:
        """Type of the ids."""
        return self._dtype

    @property
    def example(self) -> Any:
        """One of the ids, for messages."""
        return self._one(0) if len(self) else None

    @cached_property
    def values(self) -> pl.Series:
        """The ids in index order, read when first asked for."""
        return self._read().alias("id")

    def encode(self, ids: Iterable[Any]) -> Items:
        """See :meth:`tesserec.data.ids.IdMap.encode`."""
        asked = [str(i) if isinstance(i, UUID) else i for i in ids]
        try:
            {hash(i) for i in asked}
        except TypeError as error:
            raise DataError(f"ids must be single values such as {self.example!r}: {error}") from None
        found = np.full(len(asked), UNKNOWN, np.int32)
        rows, places = self._texts(asked, self._ends) if self._ends is not None else self._numbers(asked)
        found[np.array(rows, np.int64)] = places
        return found

    def _numbers(self, asked: list[Any]) -> tuple[list[int], Items]:
        """Which of the asked ids can be one of these, and where they are."""
        limits = np.iinfo(self._held.dtype)
        whole = {row: number for row, i in enumerate(asked) if (number := _whole(i)) is not None}
        rows = [row for row, number in whole.items() if limits.min <= number <= limits.max]
        numbers = frozen(np.array([whole[row] for row in rows], self._held.dtype))
        return rows, _find_numbers(self._held, self._order, numbers)

    def _texts(self, asked: list[Any], ends: NDArray[np.int64]) -> tuple[list[int], Items]:
        rows = [row for row, i in enumerate(asked) if isinstance(i, str)]
        texts = [asked[row].encode("utf-8", "surrogatepass") for row in rows]
        wanted, wanted_ends = np.frombuffer(b"".join(texts), np.uint8), np.cumsum([0, *map(len, texts)], dtype=np.int64)
        return rows, _find_texts(self._held, ends, self._order, frozen(wanted), frozen(wanted_ends))

    def take(self, indices: NDArray[np.integer]) -> list[Any]:
        """See :meth:`tesserec.data.ids.IdMap.take`."""
        return [self._one(index) for index in indices.tolist()]

    def decode(self, indices: NDArray[np.integer]) -> pl.Series:
        """See :meth:`tesserec.data.ids.IdMap.decode`."""
        if len(indices) > _FEW or "values" in self.__dict__:
            return super().decode(indices)
        return pl.Series("id", [None if i < 0 else self._one(i) for i in indices.tolist()], dtype=self._dtype)

    def _one(self, index: int) -> Any:
        if self._ends is None:
            return self._held[index].item()
        return self._held[self._ends[index] : self._ends[index + 1]].tobytes().decode()


class LaterIds(IdMap):
    """The ids of a base, followed by those of items that came later.

    Parameters
    ----------
    base
        The ids that a generation was published with.
    added
        Ids that came later, in index order.
    gone
        Indices of those among them that were removed again; they are not found.
    """

    def __init__(self, base: IdMap, added: pl.Series, gone: set[int]) -> None:
        self._base, self._added, first = base, added.cast(base.dtype), len(base)
        named = enumerate(self._added.to_list(), first)
        self._later = {value: index for index, value in named if index not in gone}

    def __len__(self) -> int:
        return len(self._base) + len(self._added)

    @property
    def dtype(self) -> pl.DataType:
        """Type of the ids."""
        return self._base.dtype

    @property
    def example(self) -> Any:
        """One of the ids, for messages."""
        return self._base.example

    @cached_property
    def values(self) -> pl.Series:
        """The ids in index order."""
        return pl.concat([self._base.values, self._added.alias("id")], rechunk=False)

    def encode(self, ids: Iterable[Any]) -> Items:
        """See :meth:`tesserec.data.ids.IdMap.encode`."""
        asked = list(ids)
        found = self._base.encode(asked)
        for row in np.flatnonzero(found < 0):
            value = asked[row]
            found[row] = self._later.get(str(value) if isinstance(value, UUID) else value, UNKNOWN)
        return found

    def take(self, indices: NDArray[np.integer]) -> list[Any]:
        """See :meth:`tesserec.data.ids.IdMap.take`."""
        if not (indices >= len(self._base)).any():
            return self._base.take(indices)
        return self.decode(indices).to_list()

    def decode(self, indices: NDArray[np.integer]) -> pl.Series:
        """See :meth:`tesserec.data.ids.IdMap.decode`."""
        later = indices >= len(self._base)
        if not later.any():
            return self._base.decode(indices)
        old = self._base.decode(np.where(later, UNKNOWN, indices))
        places = pl.Series(np.where(later, indices - len(self._base), UNKNOWN).astype(np.int64))
        return old.zip_with(pl.Series(~later), self._added.gather(places.set(places < 0, None))).alias("id")


def _whole(value: Any) -> int | None:
    """A number as the integer that it equals, as dictionaries compare them; None where it equals none."""
    if isinstance(value, (int, np.integer)):
        return int(value)
    return int(value) if isinstance(value, (float, np.floating)) and float(value).is_integer() else None


@kernel
def _find_numbers(ids: NDArray[Any], order: Items, wanted: NDArray[Any]) -> Items:
    """Index of each wanted number, -1 where there is none."""
    found = np.full(len(wanted), -1, np.int32)
    for row in range(len(wanted)):
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            if ids[order[middle]] < wanted[row]:
                low = middle + 1
            else:
                high = middle
        if low < len(order) and ids[order[low]] == wanted[row]:
            found[row] = order[low]
    return found


@kernel
def _compare(a: Bytes, a_from: int, a_to: int, b: Bytes, b_from: int, b_to: int) -> Any:
    """Negative, zero or positive as text ``a`` comes before, equals or follows text ``b``, byte by byte."""
    for step in range(min(a_to - a_from, b_to - b_from)):
        difference = np.int32(a[a_from + step]) - np.int32(b[b_from + step])
        if difference != 0:
            return difference
    return np.int32((a_to - a_from) - (b_to - b_from))


@kernel
def _find_texts(
    texts: Bytes, ends: NDArray[np.int64], order: Items, wanted: Bytes, wanted_ends: NDArray[np.int64]
) -> Items:
    """Index of each wanted text, -1 where there is none."""
    found = np.full(len(wanted_ends) - 1, -1, np.int32)
    for row in range(len(found)):
        begin, end = wanted_ends[row], wanted_ends[row + 1]
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            item = order[middle]
            if _compare(texts, ends[item], ends[item + 1], wanted, begin, end) < 0:
                low = middle + 1
            else:
                high = middle
        if low < len(order):
            item = order[low]
            if _compare(texts, ends[item], ends[item + 1], wanted, begin, end) == 0:
                found[row] = item
    return found
