"""What has changed in a catalogue since postings were built for it: the content of a delta generation.

A :class:`Changes` is cumulative and small beside the base that it names, so a reader opens the base and one of these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from typing_extensions import Self

from tesserec.data.ids import IdMap
from tesserec.errors import ArtefactError, DataError
from tesserec.index.arrays import map_array
from tesserec.index.catalogue import Catalogue
from tesserec.index.postings import VectorPostings
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.index.stored_ids import LaterIds
from tesserec.index.user_side import OnnxScoreSide, OnnxSide

FOLDER = "changes"
_ITEM = "__item"
Floats = NDArray[np.float32]
Items = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Entries:
    """Where items lie in lists: item int32, code int32 and score float32 of each posting, ``(m,)``."""

    items: Items
    codes: Items
    scores: Floats

    @classmethod
    def none(cls) -> Self:
        """No posting."""
        return cls(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))

    def without(self, items: Items) -> Self:
        """The same, without those of some items."""
        kept = ~np.isin(self.items, items)
        return replace(self, **{name: array[kept] for name, array in vars(self).items()})

    def plus(self, other: Entries) -> Self:
        """Both."""
        return replace(self, **{name: np.append(array, getattr(other, name)) for name, array in vars(self).items()})

    def save(self, place: Path) -> None:
        """Write into a folder; nothing where there is nothing."""
        for name, array in vars(self).items() if len(self.items) else ():
            np.save(place / f"entry_{name}.npy", array)

    @classmethod
    def open(cls, place: Path) -> Self:
        """Read what :meth:`save` wrote; the manifest knows whether a file is missing."""
        if not any(place.glob("entry_*.npy")):
            return cls.none()
        kinds = {"items": "<i4", "codes": "<i4", "scores": "<f4"}
        arrays = [np.array(map_array(place / f"entry_{name}.npy", kind, 1)) for name, kind in kinds.items()]
        if len({len(array) for array in arrays}) > 1:
            raise ArtefactError(f"{place} holds {[len(array) for array in arrays]} parts of postings; roll back")
        return cls(*arrays)


@dataclass(frozen=True, eq=False)
class Changes:
    """All that has changed on top of a base.

    Attributes
    ----------
    items
        Items whose vectors are not the base's: those that came later, and re-encoded ones; rising, int32 ``(n,)``.
    vectors, cells
        Theirs, float32 ``(n, width)`` and int32 ``(n,)``; of models with lists, as histories are read, and 0.
    entries
        Where they lie in lists, for models that have them.
    removed
        Items that are gone, rising, int32.
    rows
        Rows of the item table that differ from the base's or follow it: the item's index as ``__item``, then the
        table's columns.
    size
        Number of item indices, those of removed items included.
    """

    items: Items
    vectors: Floats
    cells: Items
    entries: Entries
    removed: Items
    rows: pl.DataFrame
    size: int

    @classmethod
    def none(cls, base: Searcher) -> Self:
        """Nothing on top of a base yet."""
        width = 0
        if isinstance(base.postings, VectorPostings):
            width = base.postings.dim
        elif isinstance(base.side, OnnxScoreSide):
            width = base.side.dim
        rows = base.catalogue.first.clear().select(pl.lit(0, pl.Int32).alias(_ITEM), pl.all())
        nothing = np.empty(0, np.int32)
        empty = np.empty((0, width), np.float32)
        return cls(nothing, empty, nothing, Entries.none(), nothing, rows, len(base.catalogue))

    def with_items(self, items: Items, vectors: Floats, cells: Items, entries: Entries | None = None) -> Self:
        """The same, with vectors and cells, or postings, of some items, which are removed no longer."""
        kept = ~np.isin(self.items, items)
        all_items = np.concatenate([self.items[kept], items]).astype(np.int32)
        order = np.argsort(all_items)
        return replace(
            self,
            items=all_items[order],
            vectors=np.concatenate([self.vectors[kept], vectors])[order],
            cells=np.concatenate([self.cells[kept], cells]).astype(np.int32)[order],
            entries=self.entries.without(items).plus(entries or Entries.none()),
            removed=np.setdiff1d(self.removed, items).astype(np.int32),
            size=max(self.size, int(items.max(initial=-1)) + 1),
        )

    def with_rows(self, items: Items, table: pl.DataFrame) -> Self:
        """The same, with rows of the item table, in the order of ``items``."""
        new = table.select(pl.Series(_ITEM, items.astype(np.int32)), pl.all())
        kept = self.rows.filter(~pl.col(_ITEM).is_in(items.tolist()))
        rows = pl.concat([kept, new.select(kept.columns)]).sort(_ITEM)
        return replace(self, rows=rows, size=max(self.size, int(items.max(initial=-1)) + 1))

    def without(self, items: Items) -> Self:
        """The same, with some items gone."""
        kept = ~np.isin(self.items, items)
        return replace(
            self,
            items=self.items[kept],
            vectors=self.vectors[kept],
            cells=self.cells[kept],
            entries=self.entries.without(items),
            removed=np.union1d(self.removed, items).astype(np.int32),
        )

    def save(self, folder: Path) -> None:
        """Write into a folder of its own inside an existing directory."""
        (place := folder / FOLDER).mkdir()
        for name, dtype in (("items", "<i4"), ("vectors", "<f4"), ("cells", "<i4"), ("removed", "<i4")):
            np.save(place / f"{name}.npy", np.ascontiguousarray(getattr(self, name), dtype))
        self.entries.save(place)
        np.save(place / "size.npy", np.array([self.size], "<i8"))
        self.rows.write_parquet(place / "rows.parquet")

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ArtefactError
            If a file is missing, damaged or does not fit the others.
        """
        place = folder / FOLDER
        names = ("items", "cells", "removed")
        items, cells, removed = (np.array(map_array(place / f"{name}.npy", "<i4", 1)) for name in names)
        vectors = np.array(map_array(place / "vectors.npy", "<f4", 2))
        try:
            rows = pl.read_parquet(place / "rows.parquet")
        except (FileNotFoundError, pl.exceptions.PolarsError) as error:
            raise ArtefactError(
                f"{place / 'rows.parquet'} cannot be read ({error}); go back to an earlier one"
            ) from None
        if not len(items) == len(vectors) == len(cells):
            raise ArtefactError(
                f"{place} holds {len(items)} items, {len(vectors)} vectors and {len(cells)} cells; roll back"
            )
        size = int(map_array(place / "size.npy", "<i8", 1)[0])
        return cls(items, vectors, cells, Entries.open(place), removed, rows, size)

    def on(self, base: Searcher, facts: dict[str, Any]) -> Searcher:
        """A base with these changes on top; interests keep the names that they have in the base.

        Raises
        ------
        ArtefactError
            If they do not go with that base.
        """
        try:
            postings = self._postings(base)
        except DataError as error:
            raise ArtefactError(f"the changes do not go with their base ({error}); publish again") from None
        side = base.side
        if isinstance(side, OnnxSide) and isinstance(postings, VectorPostings):
            side = side.with_vectors(postings.vectors_of)
        elif isinstance(side, OnnxScoreSide):
            side = side.with_vectors(partial(self._vectors_of, side), self.size)
        catalogue = self.catalogue(base.catalogue)
        return Searcher(catalogue, side, postings, base.policy, base.names, facts, base.calibration)

    def _postings(self, base: Searcher) -> VectorPostings | ScorePostings:
        if isinstance(base.postings, VectorPostings):
            return base.postings.with_delta(self.items, self.vectors, self.cells, self.removed, self.size)
        assert isinstance(base.postings, ScorePostings)
        entries, lists = self.entries, base.postings
        changed = ScorePostings.build(
            entries.codes, entries.items, entries.scores, n_codes=lists.codes, size=max(self.size, lists.size)
        )
        # An item that no list takes any more has postings in the base alone.
        return lists.with_delta(changed, np.setdiff1d(np.union1d(self.removed, self.items), entries.items))

    def _vectors_of(self, side: OnnxScoreSide, items: NDArray[np.int64]) -> Floats:
        """Vectors of item indices, the base's and the later ones."""
        vectors = np.array(side.vectors_of(np.minimum(items, side.size - 1)))
        if len(self.items):
            at = np.minimum(np.searchsorted(self.items, items), len(self.items) - 1)
            changed = self.items[at] == items
            vectors[changed] = self.vectors[at[changed]]
        return vectors

    def catalogue(self, base: Catalogue) -> Catalogue:
        """The catalogue of a base with these changes on top."""
        first = len(base)
        later = self.rows.filter(pl.col(_ITEM) >= first)
        items: IdMap = base.items
        if later.height:
            items = LaterIds(base.items, later["id"], set(self.removed.tolist()))
        return Catalogue(items, lambda rows: self._table(base.table)[:rows], base.roles, base.exclude_seen, base.counts)

    def _table(self, table: pl.DataFrame) -> pl.DataFrame:
        later = self.rows.filter(pl.col(_ITEM) >= table.height).drop(_ITEM)
        changed = self.rows.filter(pl.col(_ITEM) < table.height)
        if changed.height:
            places = changed[_ITEM].to_numpy().astype(np.int64)
            chosen = np.arange(table.height)
            chosen[places] = table.height + np.arange(changed.height)
            table = pl.concat([table, changed.drop(_ITEM)])[chosen]
        return pl.concat([table, later]) if later.height else table

    def find(self, base: Catalogue, ids: pl.Series) -> Items:
        """Index of each id, of removed ones too; -1 where it was never there."""
        found = base.items.encode(ids.to_list())
        later = self.rows.filter(pl.col(_ITEM) >= len(base))
        index = dict(zip(later["id"].to_list(), later[_ITEM].to_list(), strict=True))
        return np.array(
            [index.get(one, -1) if at < 0 else at for at, one in zip(found, ids.to_list(), strict=True)], np.int32
        )
