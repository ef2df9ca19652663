"""Where the items lie: vectors sorted by cell, or lists of scored items by code, as flat mapped arrays.

Both kinds are a handful of little-endian ``.npy`` files, opened by memory mapping and checked for consistency.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tesserec.errors import ArtefactError, DataError, UserError
from tesserec.files import read_json
from tesserec.index.compact import CompactVectors, compact
from tesserec.index.topk import ItemVectors, item_vectors

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
        """Number of items."""
        return len(self.items)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.vectors.shape[1])

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(self.offsets) - 1

    @cached_property
    def empty(self) -> NDArray[np.bool_]:
        """Cells without an item, ``(cells,)``."""
        return np.asarray(np.diff(self.offsets) == 0)

    @property
    def codes(self) -> int | None:
        """Number of codes that the user side must know: one a cell; None where one cell goes with any number."""
        return self.cells if self.cells > 1 else None

    @cached_property
    def table(self) -> ItemVectors:
        """The vectors as the search takes them."""
        return item_vectors(self.vectors, self.items)

    @cached_property
    def compact(self) -> CompactVectors:
        """The vectors in one byte a component, made when first asked for."""
        return compact(self.vectors, self.table.longest)

    @cached_property
    def balls(self) -> tuple[Floats, NDArray[np.float64]]:
        """A centre ``(cells, dim)`` and a radius ``(cells,)`` for each cell, such that the ball holds its items."""
        centres, radii = np.zeros((self.cells, self.dim), np.float32), np.zeros(self.cells)
        for cell in np.flatnonzero(~self.empty):
            own = self.vectors[self.offsets[cell] : self.offsets[cell + 1]].astype(np.float64)
            centres[cell] = own.mean(axis=0)
            radii[cell] = np.linalg.norm(own - centres[cell], axis=1).max() * (1 + 1e-9)
        return centres, radii

    @property
    def place(self) -> Items:
        """Row of each item in ``vectors``, int32 ``(size,)``."""
        return self.table.place

    @cached_property
    def cell_of(self) -> Items:
        """Cell of each item, int32 ``(size,)``."""
        cell_of_row = np.repeat(np.arange(self.cells, dtype=np.int32), np.diff(self.offsets))
        return np.asarray(cell_of_row[self.place], dtype=np.int32)

    def vectors_of(self, items: NDArray[np.integer[Any]]) -> Floats:
        """Vectors of items, ``(*items.shape, dim)``."""
        return np.asarray(self.vectors[self.place[items]], dtype=np.float32)

    def save(self, directory: Path) -> None:
        """Write into an existing directory."""
        _save(directory, "vectors", vectors=self.vectors, items=self.items, offsets=self.offsets)

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
        _check_offsets(directory / "offsets.npy", offsets, len(items))
        _check_rows(directory / "vectors.npy", vectors, len(items))
        if not np.array_equal(np.sort(items), np.arange(len(items))):
            raise ArtefactError(f"{directory / 'items.npy'} does not hold each item once; publish the bundle again")
        return cls(vectors, items, offsets)


@dataclass(frozen=True, eq=False)
class ScorePostings:
    """For each code the items it brings and their scores, best first.

    An item's score for a user is the sum over the user's codes of weight times posting score.

    Attributes
    ----------
    items, scores
        int32 and float32 ``(postings,)``, code after code; inside a code by falling score, then rising item.
    offsets
        Code ``c`` is ``items[offsets[c]:offsets[c + 1]]``, int64 ``(codes + 1,)``.
    size
        Number of items of the catalogue.
    keyed_by_item
        Whether codes are items, so that a list holds an item's neighbours.
    """

    items: Items
    scores: Floats
    offsets: Ints
    size: int
    keyed_by_item: bool = False

    @classmethod
    def build(
        cls,
        codes: NDArray[np.integer[Any]],
        items: NDArray[np.integer[Any]],
        scores: Floats,
        *,
        n_codes: int,
        size: int,
        keyed_by_item: bool = False,
    ) -> Self:
        """Sort ``(code, item, score)`` triples, given in any order, each (code, item) once.

        Raises
        ------
        DataError
            If a score is not finite, or a code or an item is out of range.
        """
        for name, values, limit in (("code", codes, n_codes), ("item", items, size)):
            if len(bad := np.flatnonzero((values < 0) | (values >= limit))):
                raise DataError(f"posting {bad[0]} has {name} {values[bad[0]]}; expected 0 to {limit - 1}")
        if len(bad := np.flatnonzero(~np.isfinite(scores))):
            raise DataError(f"posting {bad[0]} has score {scores[bad[0]]}; expected a finite number")
        scores = np.asarray(scores, dtype=np.float32)
        order = np.lexsort((items, -scores, codes))
        offsets = np.append(0, np.cumsum(np.bincount(codes, minlength=n_codes))).astype(np.int64)
        return cls(np.asarray(items, np.int32)[order], scores[order], offsets, size, keyed_by_item)

    @property
    def codes(self) -> int:
        """Number of codes."""
        return len(self.offsets) - 1

    def of(self, code: int) -> tuple[Items, Floats]:
        """Items and scores of one code, best first."""
        part = slice(self.offsets[code], self.offsets[code + 1])
        return self.items[part], self.scores[part]

    def save(self, directory: Path) -> None:
        """Write into an existing directory."""
        facts = {"size": self.size, "keyed_by_item": self.keyed_by_item}
        _save(directory, "scores", facts, items=self.items, scores=self.scores, offsets=self.offsets)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Map what :meth:`save` wrote.

        Raises
        ------
        ArtefactError
            Names the file that is missing, unreadable or does not fit the others.
        """
        facts = _facts(directory)
        items = map_array(directory / "items.npy", "<i4", 1)
        scores = map_array(directory / "scores.npy", "<f4", 1)
        offsets = map_array(directory / "offsets.npy", "<i8", 1)
        _check_offsets(directory / "offsets.npy", offsets, len(items))
        size = int(facts["size"])
        _check_rows(directory / "scores.npy", scores, len(items))
        if len(items) and not 0 <= int(items.min()) <= int(items.max()) < size:
            raise ArtefactError(f"{directory / 'items.npy'} names items outside 0 to {size - 1}; publish again")
        return cls(items, scores, offsets, size, bool(facts["keyed_by_item"]))


@dataclass(frozen=True)
class EveryItem:
    """In the place of postings where the user side scores every item itself; there is no index and no bundle of it.

    Attributes
    ----------
    size
        Number of items of the catalogue.
    """

    size: int

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
    kind = _facts(directory)["kind"]
    if kind not in ("vectors", "scores"):
        raise ArtefactError(f"{directory / 'postings.json'} has kind {kind!r}; expected 'vectors' or 'scores'")
    return VectorPostings.open(directory) if kind == "vectors" else ScorePostings.open(directory)


def _facts(directory: Path) -> dict[str, Any]:
    facts = read_json(directory / "postings.json")
    if not isinstance(facts, dict) or "kind" not in facts:
        raise ArtefactError(f"{directory / 'postings.json'} does not describe postings; publish again")
    return facts


def _save(directory: Path, kind: str, facts: dict[str, Any] | None = None, **arrays: NDArray[Any]) -> None:
    (directory / "postings.json").write_text(json.dumps({"kind": kind, **(facts or {})}, indent=2) + "\n")
    for name, array in arrays.items():
        np.save(directory / f"{name}.npy", np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")))


def map_array(path: Path, dtype: str, dims: int) -> NDArray[Any]:
    """Map an array from a ``.npy`` file of a bundle; refuses one that is missing, damaged or of another type."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing; publish the bundle again") from None
    except (ValueError, EOFError, OSError) as error:
        raise ArtefactError(f"{path} cannot be read ({error}); publish the bundle again") from None
    if array.dtype != np.dtype(dtype) or array.ndim != dims:
        raise ArtefactError(f"{path} holds {array.dtype} of {array.ndim} dimensions; expected {dtype} of {dims}")
    return array


def _check_rows(path: Path, array: NDArray[Any], rows: int) -> None:
    if len(array) != rows:
        raise ArtefactError(f"{path} has {len(array)} rows, items.npy has {rows}; publish the bundle again")


def _check_offsets(path: Path, offsets: Ints, end: int) -> None:
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets) < 0).any():
        raise ArtefactError(f"{path} does not divide {end} rows into lists; publish the bundle again")
