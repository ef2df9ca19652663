"""Filters: which items of the catalogue may be in a list at all.

A filter is resolved once to a bitmap of the items that it denies, an eighth of a byte an item. The kernels ask it item
by item while they search, so lists are filled with what is left.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.errors import ConfigError, DataError
from tesserec.index.catalogue import Catalogue
from tesserec.index.kernels import Denied


@dataclass(frozen=True)
class Filters:
    """What an item must fulfil to be in a list; all conditions hold together.

    Attributes
    ----------
    allow
        Ids of the only items that may be in a list; None allows all.
    deny
        Ids of items that must not be.
    where
        For columns of the item table the values that are allowed. Of a column of lists one value is enough; an item
        without a value is denied.
    """

    allow: Sequence[Any] | None = None
    deny: Sequence[Any] = ()
    where: Mapping[str, Collection[Any]] = field(default_factory=dict)


def deny(filters: Filters, catalogue: Catalogue) -> Denied:
    """Resolve filters to the bitmap of the items that they deny.

    Ids that are not in the catalogue are skipped: they cannot be in a list.

    Raises
    ------
    DataError
        If ids are of another type than the catalogue's, or no id of ``allow`` is in it.
    ConfigError
        If a column does not exist, or its values are of another type.
    """
    allowed = np.ones(len(catalogue), np.bool_)
    if filters.allow is not None:
        kept = _known(filters.allow, catalogue)
        if len(kept) == 0:
            raise DataError(
                f"allow names {len(filters.allow)} items, none of which is in the catalogue (ids here are such as "
                f"{catalogue.items.values[0]!r}); give ids of the catalogue, or allow = None for all"
            )
        allowed[:] = False
        allowed[kept] = True
    for column, values in filters.where.items():
        allowed &= _matches(catalogue, column, values)
    allowed[_known(filters.deny, catalogue)] = False
    return np.packbits(~allowed, bitorder="little")


def _known(ids: Sequence[Any], catalogue: Catalogue) -> NDArray[np.int32]:
    indices = catalogue.items.encode(ids) if len(ids) else np.empty(0, np.int32)
    return indices[indices >= 0]


def _matches(catalogue: Catalogue, column: str, values: Collection[Any]) -> NDArray[np.bool_]:
    if column not in catalogue.table.columns:
        known = ", ".join(catalogue.table.columns)
        raise ConfigError(f"a filter names the column {column!r}; the item table has {known}")
    if isinstance(values, (str, bytes)):
        raise ConfigError(f"the filter of {column!r} is {values!r}; expected a list of allowed values")
    of_items = catalogue.table[column]
    try:
        if isinstance(of_items.dtype, pl.List):
            held = of_items.list.eval(pl.element().is_in(list(values))).list.any()
        else:
            held = of_items.is_in(list(values))
    except (pl.exceptions.PolarsError, TypeError):
        raise ConfigError(
            f"the filter of {column!r} is {list(values)!r}; expected values of {of_items.dtype}"
        ) from None
    return held.fill_null(False).to_numpy()
