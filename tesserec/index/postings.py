"""Where the items lie: vectors sorted by cell as flat mapped arrays; score postings have a module of their own.

Both kinds are a handful of little-endian ``.npy`` files, opened by memory mapping. Opening checks shapes and never
reads an array through, so it takes as long at ten million items as at ten; the manifest around them vouches for what
they hold (:mod:`tesserec.files`), and ``verify`` reads everything.

A catalogue lives: :meth:`VectorPostings.with_delta` puts a small second segment and a bitmap of dead items on top of
postings that never change, and a search visits both segments of every cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tesserec.errors import ArtefactError, DataError, UserError
from tesserec.index.arrays import check_offsets, check_rows, facts_of, map_array, number_of, save_arrays
from tesserec.index.delta import Delta
from tesserec.index.filters import Bits, bitmap
from tesserec.index.order import Places, make_places
from tesserec.index.scan import Segment, frozen_tiles, segment_of
from tesserec.index.score_postings import ScorePostings
from tesserec.index.tiles import TILE, Tiles, make_tiles, tile_offsets_of
from tesserec.index.topk import ItemVectors, frozen, item_vectors

Floats = NDArray[np.float32]
Items = NDArray[np.int32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class VectorPostings:
    """Item vectors, contiguous by cell; every catalogue item lies in exactly one cell.

    Use :class:`ScorePostings` where scores do not come from a dot product.

    Attributes
    ----------
    vectors
        float32 ``(size, dim)``, cell after cell, by rising item inside a cell.
    items
        Item of each row of ``vectors``, int32 ``(size,)``.
    offsets
        Cell ``c`` is ``vectors[offsets[c]:offsets[c + 1]]``, int64 ``(cells + 1,)``; cells may be empty.
    """

    vectors: Floats
    items: Items
    offsets: Ints
    delta: Delta | None = None

    @classmethod
    def build(cls, vectors: Floats, cells: NDArray[np.integer[Any]], n_cells: int) -> Self:
        """Sort item vectors by cell.

        Parameters
        ----------
        vectors
            ``(items, dim)`` in item order.
        cells
            Cell of each item, 0 to ``n_cells - 1``, ``(items,)``.

        Raises
        ------
        DataError
            If a vector is not finite, a cell is out of range or the shapes disagree.
        """
        cells = np.asarray(cells)
        if vectors.ndim != 2 or cells.shape != vectors.shape[:1]:
            raise DataError(f"vectors {vectors.shape} and cells {cells.shape} do not fit; expected (n, dim) and (n,)")
        if len(bad := np.flatnonzero((cells < 0) | (cells >= n_cells))):
            raise DataError(f"item {bad[0]} has cell {cells[bad[0]]}; expected 0 to {n_cells - 1}")
        if len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
            raise DataError(f"the vector of item {bad[0]} is not finite; the model has diverged, train it again")
        order = np.argsort(cells, kind="stable").astype(np.int32)
        offsets = np.append(0, np.cumsum(np.bincount(cells, minlength=n_cells))).astype(np.int64)
        return cls(np.ascontiguousarray(vectors[order], dtype=np.float32), order, offsets)

    @property
    def size(self) -> int:
        """Number of item indices, those of removed items included."""
        return len(self.items) if self.delta is None else self.delta.size

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.vectors.shape[1])

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(self.offsets) - 1

    @property
    def codes(self) -> int | None:
        """Number of codes that the user side must know: one a cell; None where one cell goes with any number."""
        return self.cells if self.cells > 1 else None

    @cached_property
    def table(self) -> ItemVectors:
        """The vectors of the base segment as the search takes them."""
        return item_vectors(self.vectors, self.items)

    @property
    def place(self) -> Items:
        """Row of each item of the base segment in ``vectors``, int32 ``(items,)``."""
        return self.table.place

    @cached_property
    def tiles(self) -> Tiles:
        """The base segment in 8 bits."""
        return make_tiles(self.vectors, self.offsets)

    @cached_property
    def places(self) -> Places:
        """Where the cells of the base segment lie."""
        return make_places(self.vectors, self.offsets)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Both segments as :func:`tesserec.index.scan.best_together` takes them."""
        base = segment_of(self.table, self.items, self.offsets, self.dead, self.tiles)
        if self.delta is None or not len(self.delta.ids):
            return (base,)
        rows = self.delta.rows
        own = segment_of(rows.table, self.delta.ids[rows.items], rows.offsets, np.empty(0, np.uint8), rows.tiles)
        return (base, own) if len(self.items) else (own,)

    @cached_property
    def sizes(self) -> Ints:
        """Rows of each cell over both segments, int64 ``(cells,)``."""
        own = np.diff(self.offsets)
        return own if self.delta is None else own + self.delta.rows.sizes

    @property
    def dead(self) -> Bits:
        """Bitmap of the items whose rows in the base segment are removed or superseded; may be empty."""
        return np.empty(0, np.uint8) if self.delta is None else self.delta.dead

    def items_of(self, cell: int) -> Items:
        """Items that lie in a cell now, those of the base first."""
        items = np.asarray(self.items[self.offsets[cell] : self.offsets[cell + 1]])
        if self.delta is None:
            return items
        own = self.delta.rows.items_of(cell)
        return np.concatenate([items[~self._is_dead(items)], self.delta.ids[own]])

    @cached_property
    def live_sizes(self) -> Ints:
        """Items that lie in each cell now, int64 ``(cells,)``."""
        if self.delta is None:
            return self.sizes
        gone = np.flatnonzero(np.unpackbits(self.dead, bitorder="little"))
        return np.asarray(self.sizes - np.bincount(self._base_cells(gone), minlength=self.cells), np.int64)

    def _is_dead(self, items: Items) -> NDArray[np.bool_]:
        return np.asarray((self.dead[items >> 3] >> (items & 7)) & 1, np.bool_) if len(self.dead) else items < 0

    def _base_cells(self, items: NDArray[np.integer[Any]]) -> Ints:
        return np.asarray(np.searchsorted(self.offsets, self.place[items], side="right") - 1)

    def unit(self) -> Self:
        """The same with vectors of length one; a zero vector stays zero."""
        lengths = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        directions = np.asarray(self.vectors / np.where(lengths > 0, lengths, 1), np.float32)
        delta = None if self.delta is None else replace(self.delta, rows=self.delta.rows.unit())
        return replace(self, vectors=directions, delta=delta)

    @cached_property
    def cell_of(self) -> Items:
        """Cell of each item, int32 ``(size,)``; of a removed one any. Costs a pass over the catalogue."""
        return self.cells_of(np.arange(self.size))

    def cells_of(self, items: NDArray[np.integer[Any]]) -> Items:
        """Cells of items, int32, of the shape of ``items``."""
        base, local = self._split(items)
        cells = self._base_cells(base)
        if self.delta is not None:
            cells[local >= 0] = self.delta.rows.cells_of(local[local >= 0])
        return np.asarray(cells, dtype=np.int32)

    def vectors_of(self, items: NDArray[np.integer[Any]]) -> Floats:
        """Vectors of items, ``(*items.shape, dim)``; of a removed item any."""
        base, local = self._split(items)
        vectors = self.vectors[self.place[base]]
        if self.delta is not None:
            vectors[local >= 0] = self.delta.rows.vectors_of(local[local >= 0])
        return np.asarray(vectors, dtype=np.float32)

    def _split(self, items: NDArray[np.integer[Any]]) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
        """Items as those of the base (0 where they are not in it), and as local ones of the delta, or -1."""
        if self.delta is None:
            return items, items
        items = np.asarray(items)
        return np.where(items < len(self.items), items, 0), self.delta.local(items)

    def with_delta(
        self,
        items: NDArray[np.integer[Any]],
        vectors: Floats,
        cells: NDArray[np.integer[Any]],
        removed: NDArray[np.integer[Any]],
        size: int,
    ) -> Self:
        """The same base with all that has changed since it was built; a delta that was there is replaced.

        Parameters
        ----------
        items
            New and updated items, each once, in any order; ``(n,)``.
        vectors, cells
            Their vectors ``(n, dim)`` and cells ``(n,)``.
        removed
            Items that are gone; none of them is in ``items``.
        size
            Number of item indices from now on. Indices beyond the base that are not in ``items`` count as removed.

        Raises
        ------
        DataError
            If an item is named twice or out of range, or vectors and cells are not as :meth:`build` wants them.
        """
        items, removed = np.asarray(items, np.int64), np.asarray(removed, np.int64)
        changed = np.concatenate([items, removed])
        if len(np.unique(changed)) != len(changed):
            raise DataError("an item is named twice among the changed and removed ones; name each once")
        if size < len(self.items) or ((changed < 0) | (changed >= size)).any():
            raise DataError(
                f"the delta has size {size} and items to {changed.max(initial=-1)}; expected at least "
                f"{len(self.items)}, the base's, and items below the size"
            )
        order = np.argsort(items)
        vectors = np.asarray(vectors, np.float32).reshape(len(items), -1) if len(items) else self.vectors[:0]
        if vectors.shape[1] != self.dim:
            raise DataError(f"the new vectors are {vectors.shape[1]} wide; expected {self.dim}")
        rows = VectorPostings.build(vectors[order], np.asarray(cells)[order], self.cells)
        dead = bitmap(changed[changed < len(self.items)], len(self.items))
        on_top = replace(self, delta=Delta(rows, items[order].astype(np.int32), dead, size))
        # To read the base through once more would take as long as building it.
        vars(on_top).update({name: vars(self)[name] for name in ("table", "tiles", "places") if name in vars(self)})
        return on_top

    def only(self, items: Items) -> Self:
        """Some items alone, by the same numbers and in the same cells, on arrays of their own; for a few of many."""
        _, local = self._split(items)
        base = items[items < len(self.items)]
        alive = local >= 0
        alive[items < len(self.items)] |= ~self._is_dead(base)
        items = items[alive]
        rows = VectorPostings.build(self.vectors_of(items), self.cells_of(items), self.cells)
        delta = Delta(rows, items, np.empty(0, np.uint8), self.size)
        return replace(
            self, vectors=self.vectors[:0], items=self.items[:0], offsets=np.zeros_like(self.offsets), delta=delta
        )

    def save(self, directory: Path) -> None:
        """Write into an existing directory."""
        if self.delta is not None:
            raise UserError("postings with changes on top are compacted before they are saved; rebuild them")
        arrays: dict[str, NDArray[Any]] = {
            "vectors": self.vectors,
            "items": self.items,
            "offsets": self.offsets,
            "place": self.place,
        }
        facts: dict[str, Any] = {"longest": self.table.longest}
        if self.cells > 1:
            arrays |= {"tiles": self.tiles.tiles, "scales": self.tiles.scales}
            facts |= {"largest": self.tiles.largest, "error": self.tiles.error}
            rows, longest = self.places
            arrays |= {"cell_tiles": rows.tiles, "cell_scales": rows.scales}
            facts |= {"cell_largest": rows.largest, "cell_error": rows.error, "cell_longest": longest}
        save_arrays(directory, "vectors", facts, **arrays)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Map what :meth:`save` wrote.

        Raises
        ------
        ArtefactError
            Names the file that is missing, unreadable or does not fit the others.
        """
        vectors = map_array(directory / "vectors.npy", "<f4", 2)
        items = map_array(directory / "items.npy", "<i4", 1)
        offsets = map_array(directory / "offsets.npy", "<i8", 1)
        check_offsets(directory / "offsets.npy", offsets, len(items))
        check_rows(directory / "vectors.npy", vectors, len(items))
        place = map_array(directory / "place.npy", "<i4", 1)
        check_rows(directory / "place.npy", place, len(items))
        opened = cls(vectors, items, offsets)
        longest = number_of(directory, "longest")
        opened.__dict__["table"] = ItemVectors(frozen(vectors), frozen(items), frozen(place), longest)
        if opened.cells > 1:
            opened.__dict__["tiles"] = _open_tiles(directory, offsets, opened.dim)
            rows = _open_tiles(directory, np.array([0, opened.cells]), opened.dim + 1, "cell_")
            opened.__dict__["places"] = Places(frozen_tiles(rows), number_of(directory, "cell_longest"))
        return opened

    def verify(self) -> None:
        """Read everything and check that the arrays fit each other.

        Raises
        ------
        ArtefactError
            If the base does not hold each item once, or what was stored of the vectors is not true.
        """
        whole = item_vectors(self.vectors, self.items)
        if not np.array_equal(np.sort(self.items), np.arange(len(self.items))):
            raise ArtefactError("items.npy does not hold each item once; publish the bundle again")
        if not np.array_equal(whole.place, self.place) or whole.longest != self.table.longest:
            raise ArtefactError("place.npy or postings.json does not go with the vectors; publish the bundle again")
        if self.cells > 1:
            if not _equal(make_tiles(self.vectors, self.offsets), self.tiles):
                raise ArtefactError("tiles.npy or scales.npy does not go with the vectors; publish the bundle again")
            rows, longest = make_places(self.vectors, self.offsets)
            if not _equal(rows, self.places.rows) or longest != self.places.longest:
                raise ArtefactError("cell_tiles.npy or cell_scales.npy does not go with the vectors; publish again")


@dataclass(frozen=True)
class EveryItem:
    """In the place of postings where the user side scores every item itself; there is no index and no bundle of it.

    Attributes
    ----------
    size
        Number of items of the catalogue.
    """

    size: int

    def verify(self) -> None:
        """Nothing is stored, so nothing can be wrong."""

    def save(self, directory: Path) -> None:
        """Refuse.

        Raises
        ------
        UserError
            Always.
        """
        raise UserError("an all-to-all model has no index to publish; it is a bound for comparison, train sparcode")


Postings = VectorPostings | ScorePostings | EveryItem


def open_postings(directory: Path) -> VectorPostings | ScorePostings:
    """Map postings of either kind."""
    kind = facts_of(directory)["kind"]
    if kind not in ("vectors", "scores"):
        raise ArtefactError(f"{directory / 'postings.json'} has kind {kind!r}; expected 'vectors' or 'scores'")
    return VectorPostings.open(directory) if kind == "vectors" else ScorePostings.open(directory)


def _equal(made: Tiles, stored: Tiles) -> bool:
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(made, stored, strict=True))


def _open_tiles(directory: Path, offsets: Ints, dim: int, prefix: str = "") -> Tiles:
    starts = tile_offsets_of(offsets)
    tiles = map_array(directory / f"{prefix}tiles.npy", "|u1", 4)
    scales = map_array(directory / f"{prefix}scales.npy", "<f4", 1)
    expected = (int(starts[-1]), -(-dim // 4), TILE, 4)
    if tiles.shape != expected or len(scales) != expected[0] * TILE:
        raise ArtefactError(
            f"{directory / f'{prefix}tiles.npy'} has shape {tiles.shape} and {prefix}scales.npy {scales.shape}; "
            f"expected {expected} and one scale a row of 16; publish the bundle again"
        )
    largest, error = (number_of(directory, f"{prefix}{name}") for name in ("largest", "error"))
    return Tiles(tiles, scales, starts, largest, error)
