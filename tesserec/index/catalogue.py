"""The catalogue of a model: item ids, what is shown of an item, and how often it was seen in training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from typing_extensions import Self

from tesserec.data.dataset import Dataset
from tesserec.data.ids import IdMap
from tesserec.errors import ArtefactError
from tesserec.files import read_json, write_json
from tesserec.index.arrays import map_array
from tesserec.index.stored_ids import StoredIds, can_store, save_ids

_ITEMS = "items.parquet"
_FACTS = "catalogue.json"
_COUNT = "__count"
_COUNTS = "counts.npy"


@dataclass(frozen=True, eq=False)
class Catalogue:
    """All items that can be recommended.

    Attributes
    ----------
    items
        External ids by item index.
    source
        The table, or what reads so many rows of it (None for all) when they are first asked for: ``id`` and the feature
        and display columns, one row an item in index order.
    roles
        Role of each further column: ``categorical``, ``multi``, ``numeric``, ``text`` or ``vector``.
    exclude_seen
        Whether items of the history are left out unless asked for.
    counts
        Training events of each item, int64; items beyond its end came after training and have none.
    """

    items: IdMap
    source: pl.DataFrame | Callable[[int | None], pl.DataFrame]
    roles: dict[str, str]
    exclude_seen: bool
    counts: NDArray[np.int64]

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> Self:
        """The catalogue of the dataset that a model was trained on."""
        return cls(dataset.items, dataset.item_table, dataset.roles, dataset.exclude_seen, dataset.item_counts)

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def table(self) -> pl.DataFrame:
        """See ``source``."""
        return self.source if isinstance(self.source, pl.DataFrame) else self.source(None)

    @cached_property
    def first(self) -> pl.DataFrame:
        """The first row of the table: it tells the columns, and no other row is read."""
        return self.source[:1] if isinstance(self.source, pl.DataFrame) else self.source(1)

    @property
    def new(self) -> NDArray[np.int32]:
        """Items without a training event, rising."""
        never = np.append(self.counts == 0, np.ones(len(self) - len(self.counts), np.bool_))
        return np.flatnonzero(never).astype(np.int32)

    def events(self, items: NDArray[np.integer]) -> NDArray[np.int64]:
        """Training events of items, of the shape of ``items``."""
        held = items < len(self.counts)
        return np.where(held, self.counts[np.where(held, items, 0)], 0)

    @cached_property
    def titles(self) -> pl.Series:
        """What to call each item: its title or name where there is one, otherwise its id, ``(items,)`` strings."""
        ids = self.items.values.cast(pl.String)
        for name in ("title", "name"):
            if self.roles.get(name) == "text":
                return self.table[name].cast(pl.String).zip_with(self.table[name].is_not_null(), ids)
        return ids

    def save(self, directory: Path) -> None:
        """Write into an existing directory."""
        counts = self.events(np.arange(len(self)))
        self.table.with_columns(pl.Series(_COUNT, counts)).write_parquet(directory / _ITEMS)
        facts = {"roles": self.roles, "exclude_seen": self.exclude_seen}
        if can_store(self.items.values):
            save_ids(directory, self.items.values)
            np.save(directory / _COUNTS, counts.astype("<i8"))
            facts["ids"] = str(self.items.dtype)
        write_json(directory / _FACTS, facts)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open what :meth:`save` wrote; ids that were stored for look-up are mapped, and the table is read when needed.

        Raises
        ------
        ArtefactError
            If a file is missing or damaged.
        """
        facts = read_json(directory / _FACTS)
        try:
            shown = dict(facts["roles"]), bool(facts["exclude_seen"])
            if "ids" in facts:
                counts = map_array(directory / _COUNTS, "<i8", 1)
                dtype = getattr(pl, facts["ids"])()
                ids = StoredIds(directory, dtype, lambda: _read(directory, columns=["id"])["id"])
                return cls(ids, partial(_table, directory), *shown, counts)
            table = _read(directory)
            return cls(IdMap(table["id"]), table.drop(_COUNT), *shown, table[_COUNT].to_numpy())
        except (pl.exceptions.PolarsError, KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{directory} holds a damaged catalogue ({error}); write it again") from None


def _table(directory: Path, rows: int | None) -> pl.DataFrame:
    return _read(directory, n_rows=rows).drop(_COUNT)


def _read(directory: Path, **part: Any) -> pl.DataFrame:
    try:
        return pl.read_parquet(directory / _ITEMS, **part)
    except FileNotFoundError:
        raise ArtefactError(f"{directory / _ITEMS} is missing; write the directory again") from None
    except pl.exceptions.PolarsError as error:
        raise ArtefactError(f"{directory / _ITEMS} cannot be read ({error}); write the directory again") from None
