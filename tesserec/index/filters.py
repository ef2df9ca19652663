"""Which items an answer may hold: lists that are allowed or denied, and attributes of the item table.

A filter is resolved once against a catalogue, to a short list or a bitmap, and applied inside the search, so that a
list is still filled to k. Items that a user has seen are another matter: they differ by user, see ``exclude_seen``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.data.histories import Items
from tesserec.errors import ConfigError, DataError
from tesserec.index.kernels import contains, kernel

Bits = NDArray[np.uint8]
_LISTED = 1024
"""Up to so many denied items stay a list; a bitmap takes a time that grows with the catalogue."""


class Blocked(NamedTuple):
    """Items that no answer may hold.

    Attributes
    ----------
    listed
        Rising items, int32.
    bits
        Bit ``i & 7`` of byte ``i >> 3`` is set where item ``i`` is blocked; empty blocks none.
    """

    listed: Items
    bits: Bits


NOTHING = Blocked(np.empty(0, np.int32), np.empty(0, np.uint8))


@kernel
def is_blocked(blocked: Any, item: int) -> bool:
    """Whether a :class:`Blocked` holds an item."""
    if len(blocked.bits) > 0 and (blocked.bits[item >> 3] >> (item & 7)) & 1:
        return True
    return len(blocked.listed) > 0 and contains(blocked.listed, 0, len(blocked.listed), item)


def bitmap(items: NDArray[np.integer[Any]], size: int) -> Bits:
    """Bits of ``size`` items, those of ``items`` set, uint8 ``(ceil(size / 8),)``."""
    bits = np.zeros(-(-size // 8), np.uint8)  # pages that no item lies on are never touched
    np.bitwise_or.at(bits, items >> 3, np.uint8(1) << (items & 7).astype(np.uint8))
    return bits


def union(blocked: Blocked, bits: Bits) -> Blocked:
    """Block the items of a bitmap besides; the shorter bitmap ends in zeros."""
    if not len(bits):
        return blocked
    if not len(blocked.bits):
        return Blocked(blocked.listed, bits)
    n = min(len(bits), len(blocked.bits))
    longer = (bits if len(bits) > n else blocked.bits).copy()
    longer[:n] = bits[:n] | blocked.bits[:n]
    return Blocked(blocked.listed, longer)


@dataclass(frozen=True, eq=False)
class Filter:
    """What an answer may hold; an item has to meet every part that is given.

    Parameters
    ----------
    allow, deny
        Item indices.
    where
        Column of the item table → a value, or a list, set or tuple of values, one of which the item must have. Of a
        column of lists, one element must be among them.

    Examples
    --------
    >>> Filter(deny=[3], where={"category": ["books", "music"], "in_stock": True})  # doctest: +SKIP
    """

    allow: Collection[int] | NDArray[np.integer[Any]] | None = None
    deny: Collection[int] | NDArray[np.integer[Any]] | None = None
    where: Mapping[str, Any] | None = None

    def resolve(self, table: pl.DataFrame) -> Blocked:
        """Items that this filter blocks in a catalogue with this item table.

        Raises
        ------
        DataError
            If an item is not in the catalogue.
        ConfigError
            If the table has no such column, or its type has no such value.
        """
        denied = _indices("deny", () if self.deny is None else self.deny, len(table))
        if self.allow is None and not self.where:
            return Blocked(denied, NOTHING.bits) if len(denied) <= _LISTED else _as_bits(denied, len(table))
        passes = np.ones(len(table), np.bool_)
        if self.allow is not None:
            passes[:] = False
            passes[_indices("allow", self.allow, len(table))] = True
        for column, value in (self.where or {}).items():
            passes &= _matches(table, column, value)
        passes[denied] = False
        return Blocked(NOTHING.listed, np.packbits(~passes, bitorder="little"))


def _as_bits(items: Items, size: int) -> Blocked:
    return Blocked(NOTHING.listed, bitmap(items, size))


def _indices(name: str, given: Collection[int] | NDArray[np.integer[Any]], size: int) -> Items:
    items = np.asarray(list(given) if isinstance(given, (set, frozenset)) else given)
    if items.size == 0:
        return np.empty(0, np.int32)
    if items.ndim != 1 or not np.issubdtype(items.dtype, np.integer):
        raise DataError(f"{name} holds {items.dtype} of {items.ndim} dimensions; expected item indices")
    if len(bad := items[(items < 0) | (items >= size)]):
        raise DataError(f"{name} names item {bad[0]}; the catalogue has 0 to {size - 1}")
    return np.unique(items).astype(np.int32)


def _matches(table: pl.DataFrame, column: str, value: Any) -> NDArray[np.bool_]:
    if column not in table.columns:
        raise ConfigError(f"where names {column!r}, but the item table has {table.columns}")
    values = list(value) if isinstance(value, (list, set, frozenset, tuple)) else [value]
    held = pl.col(column)
    try:
        if isinstance(table.schema[column], pl.List):
            match = held.list.eval(pl.element().is_in(values)).list.any()
        else:
            match = held.is_in(values)
        found: NDArray[np.bool_] = table.select(match.fill_null(False))[column].to_numpy()
    except (pl.exceptions.PolarsError, TypeError) as error:
        kind = table.schema[column]
        raise ConfigError(f"where: {column!r} is {kind} and cannot be compared with {value!r} ({error})") from None
    return found
