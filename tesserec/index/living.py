"""A published catalogue that lives: items are added, updated and removed without a rebuild.

Each edit is one small generation that holds everything that has changed since the last whole one (its base), so it is
atomic, can be rolled back, and reaches readers as any generation does. ``compact`` makes a whole generation of both.
The codebook and the user side never change: any sequence of edits answers as one rebuild with the same codebook would.

A removed item is never a candidate; histories may still name it until the catalogue is compacted.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.data.catalogue import read_items
from tesserec.data.ids import IdMap
from tesserec.errors import DataError, UserError
from tesserec.index.bundle import Bundle, current_name, locked, publish_locked, publish_whole
from tesserec.index.catalogue import Catalogue
from tesserec.index.changes import Changes, Entries
from tesserec.index.item_side import FILE as ITEM_SIDE
from tesserec.index.item_side import ItemSide
from tesserec.index.postings import VectorPostings
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import ConstantSide, OnnxScoreSide

LIKE = "like"
_KEPT = ("*.onnx", "user_side.json", ITEM_SIDE, "codebook.safetensors")
_OWN = ("kind", "format", "tesserec", "files", "checksum", "base", "base_checksum", "edit")
Floats = NDArray[np.float32]
Items = NDArray[np.int32]


@dataclass(frozen=True)
class Edit:
    """What an edit did.

    Attributes
    ----------
    generation, number
        Directory and number of the generation that it published.
    added, updated, removed
        Items.
    placed
        Cell of each added or re-encoded item by its id as text; empty for models without cells.
    items
        Items that can be recommended now.
    """

    generation: str
    number: int
    added: int
    updated: int
    removed: int
    placed: dict[str, int]
    items: int


def add_items(root: Path, source: Any, columns: Mapping[str, str | None] | None = None) -> Edit:
    """Add items to the current generation; they are retrievable as soon as this returns.

    Where an item lies follows from its features, through the model's own item encoder; or, in a column ``like``, from
    items of the catalogue that it is like, whose mean it then starts from. Lists take it where its score reaches what
    they kept in training. Popularity ranks it behind whatever somebody took; ``new_share`` shows it nevertheless.

    Parameters
    ----------
    root
        Bundle root.
    source
        Table with an id column and any of the catalogue's columns; see :func:`tesserec.data.tables.read_table`.
    columns
        ``{"item": NAME}`` where the id column has no usual name.

    Raises
    ------
    DataError
        If the table does not fit, an item is there already, or nothing says where it lies. Nothing is added then.
    UserError
        If the model counts who took what together (item-kNN), or was published without what places items.
    """

    def change(bundle: Bundle, changes: Changes, rows: pl.DataFrame) -> tuple[Changes, Items]:
        _check_item_side(bundle, "added")
        found = changes.find(bundle.base_searcher.catalogue, rows["id"])
        there = (found >= 0) & ~np.isin(found, changes.removed)
        if there.any():
            raise DataError(
                f"item {rows['id'][int(np.argmax(there))]!r} is in the catalogue already; update it instead"
            )
        found[found < 0] = changes.size + np.arange((found < 0).sum(), dtype=np.int32)
        full = rows.drop(LIKE, strict=False)
        schema = bundle.base_searcher.catalogue.first.schema
        missing = [pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in full.columns]
        full = full.with_columns(missing).select(schema.names())
        return _placed(bundle, changes, found, rows, full).with_rows(found, full), found

    return _edit_items(root, source, columns, change, "added")


def update_items(root: Path, source: Any, columns: Mapping[str, str | None] | None = None) -> Edit:
    """Change columns of items; others keep their values.

    An item without training events is encoded again from its features, and so is one with a column ``like``. A trained
    item keeps the vector that it has learned.

    Raises
    ------
    DataError
        If the table does not fit or an item is not in the catalogue. Nothing is changed then.
    """

    def change(bundle: Bundle, changes: Changes, rows: pl.DataFrame) -> tuple[Changes, Items]:
        catalogue, found = bundle.searcher.catalogue, _present(bundle, changes, rows["id"])
        old = catalogue.table[found.astype(np.int64)]
        new = rows.drop(LIKE, strict=False)
        full = old.with_columns(new.get_columns()).select(old.columns)
        anew = _liked(rows)
        if _reads_features(bundle):
            anew |= catalogue.events(found) == 0
        changed, moved = changes.with_rows(found, full), np.flatnonzero(anew)
        if len(moved):
            _check_item_side(bundle, "placed anew")
            changed = _placed(bundle, changed, found[moved], rows[moved], full[moved])
        return changed, found[moved]

    return _edit_items(root, source, columns, change, "updated")


def remove_items(root: Path, ids: Sequence[Any]) -> Edit:
    """Remove items from the current generation.

    Raises
    ------
    DataError
        If an item is named twice or is not in the catalogue. Nothing is removed then.
    """
    if not len(ids):
        raise DataError("no item is named; give at least one")

    def change(bundle: Bundle, changes: Changes) -> tuple[Changes, Items, int]:
        dtype = bundle.searcher.catalogue.items.dtype
        try:
            named = pl.Series("id", list(ids), dtype)
        except (TypeError, OverflowError, pl.exceptions.PolarsError):
            raise DataError(f"ids {list(ids)[:3]!r} are not {dtype}, as ids here are") from None
        if (twice := named.is_duplicated()).any():
            raise DataError(f"item {named.filter(twice)[0]!r} is named twice; name each once")
        return changes.without(_present(bundle, changes, named)), np.empty(0, np.int32), len(named)

    return _edit(root, change, "removed")


def compact(root: Path) -> Path:
    """Publish the current generation and its changes as one whole generation; returns its directory.

    Removed items are gone for good, and interests are named anew.

    Raises
    ------
    UserError
        If the current generation has no changes.
    """
    root = Path(root).absolute()
    with locked(root):  # from reading on, or an edit in between would be lost
        return _compact(root, Bundle.open(root))


def _compact(root: Path, bundle: Bundle) -> Path:
    if bundle.base == bundle.path:
        raise UserError(f"{bundle.path} is whole already; there is nothing to compact")
    changes = Changes.open(bundle.path)
    live = np.setdiff1d(np.arange(changes.size), changes.removed)
    old = bundle.searcher.catalogue
    ids = old.items.values.gather(live)
    catalogue = Catalogue(IdMap(ids), old.table[live], old.roles, old.exclude_seen, old.events(live))
    postings = bundle.searcher.postings
    if isinstance(postings, VectorPostings):
        rebuilt: Any = VectorPostings.build(postings.vectors_of(live), postings.cells_of(live), postings.cells)
    else:
        assert isinstance(postings, ScorePostings)
        rebuilt = _lists_of(postings, live)

    def write_user_side(folder: Path) -> None:
        for pattern in _KEPT:
            for file in bundle.base.glob(pattern):
                shutil.copyfile(file, folder / file.name)
        if isinstance(side := bundle.searcher.side, OnnxScoreSide):
            np.save(folder / "history.npy", side.vectors_of(live))

    searcher = bundle.searcher
    whole = Searcher(catalogue, searcher.side, rebuilt, searcher.policy, calibration=searcher.calibration)
    facts = {key: value for key, value in bundle.facts.items() if key not in _OWN}
    return publish_whole(root, whole, write_user_side, facts | {"compacted_from": bundle.path.name})


def _lists_of(postings: ScorePostings, live: NDArray[np.int64]) -> ScorePostings:
    """The lists of the live items, numbered anew."""
    number = np.full(postings.size, -1, np.int64)
    number[live] = np.arange(len(live))
    codes = live if postings.keyed_by_item else np.arange(postings.codes)
    lists = [postings.of(int(code)) for code in codes]
    lengths = [len(items) for items, _ in lists]
    items = number[np.concatenate([items for items, _ in lists])]
    return ScorePostings.build(
        np.repeat(np.arange(len(lists)), lengths)[items >= 0],
        items[items >= 0],
        np.concatenate([scores for _, scores in lists])[items >= 0],
        n_codes=len(lists),
        size=len(live),
        keyed_by_item=postings.keyed_by_item,
    )


def _edit_items(
    root: Path,
    source: Any,
    columns: Mapping[str, str | None] | None,
    change: Callable[[Bundle, Changes, pl.DataFrame], tuple[Changes, Items]],
    done: str,
) -> Edit:
    def read_and_change(bundle: Bundle, changes: Changes) -> tuple[Changes, Items, int]:
        rows = read_items(source, dict(columns or {}), bundle.base_searcher.catalogue.first, LIKE)
        changed, placed = change(bundle, changes, rows)
        return changed, placed, rows.height

    return _edit(root, read_and_change, done)


def _edit(root: Path, change: Callable[[Bundle, Changes], tuple[Changes, Items, int]], done: str) -> Edit:
    """Read, change and publish while no other publisher can."""
    root = Path(root).absolute()
    current_name(root)  # before a lock is left where there is no bundle
    with locked(root):
        bundle = Bundle.open(root)
        base = bundle.base_searcher
        before = Changes.none(base) if bundle.base == bundle.path else Changes.open(bundle.path)
        changed, placed, count = change(bundle, before)
        facts = {key: value for key, value in bundle.facts.items() if key not in _OWN}
        facts |= {"base": bundle.base.name, "base_checksum": bundle.base_checksum, "edit": {done: count}}
        opened: list[Searcher] = []
        target = publish_locked(
            root, facts, write=changed.save, check=lambda folder: opened.append(Changes.open(folder).on(base, facts))
        )
    counts = {"added": 0, "updated": 0, "removed": 0} | {done: count}
    number = int(target.name.removeprefix("generation-"))
    return Edit(
        str(target), number, **counts, placed=_cells_of(opened[0], placed), items=changed.size - len(changed.removed)
    )


def _cells_of(searcher: Searcher, items: Items) -> dict[str, int]:
    if not searcher.has_interests or not len(items):
        return {}
    assert isinstance(searcher.postings, VectorPostings)
    ids = searcher.catalogue.items.decode(items).cast(pl.String).to_list()
    return dict(zip(ids, searcher.postings.cells_of(items).tolist(), strict=True))


def _present(bundle: Bundle, changes: Changes, ids: pl.Series) -> Items:
    """Indices of items that are all in the catalogue."""
    found = changes.find(bundle.base_searcher.catalogue, ids)
    missing = (found < 0) | np.isin(found, changes.removed)
    if missing.any():
        raise DataError(f"item {ids[int(np.argmax(missing))]!r} is not in the catalogue; add it, or leave it out")
    return found


def _check_item_side(bundle: Bundle, what: str) -> None:
    if (bundle.base / ITEM_SIDE).exists() or isinstance(bundle.base_searcher.side, ConstantSide):
        return
    searcher = bundle.base_searcher
    if isinstance(searcher.postings, VectorPostings) or isinstance(searcher.side, OnnxScoreSide):
        raise UserError(
            f"{bundle.base} was published without an item side; publish the run again with `tesserec index`"
        )
    raise UserError(
        f"items cannot be {what} here: {bundle.facts.get('model')} compares items by who took both, and nobody has "
        "taken a new one yet; bring its events with `tesserec update`, or use a model that reads features"
    )


def _reads_features(bundle: Bundle) -> bool:
    return (bundle.base / "item_encoder.onnx").exists()


def _placed(bundle: Bundle, changes: Changes, items: Items, rows: pl.DataFrame, full: pl.DataFrame) -> Changes:
    """The changes with what places these items; ``rows`` are as given, ``full`` have every column."""
    liked = _liked(rows)
    if isinstance(bundle.base_searcher.side, ConstantSide):
        if liked.any():
            raise DataError(f"{bundle.facts.get('model')} compares no items; leave the column {LIKE!r} out")
        return _uncounted(changes, items, len(bundle.base_searcher.catalogue))
    side = ItemSide(bundle.base)
    raw = np.zeros((len(items), side.dim), np.float32)
    for row in np.flatnonzero(liked):
        raw[row] = _mean_of(bundle, changes, rows["id"][int(row)], rows[LIKE][int(row)])[: side.dim]
    if (~liked).any():
        raw[~liked] = side.encode(full.filter(pl.Series(~liked)))
    if isinstance(bundle.base_searcher.postings, VectorPostings):
        return changes.with_items(items, *side.place(raw))
    vectors, rows_of, codes, scores = side.listed(raw)
    entries = Entries(items[rows_of], codes.astype(np.int32), scores)
    return changes.with_items(items, vectors, np.zeros(len(items), np.int32), entries)


def _uncounted(changes: Changes, items: Items, base: int) -> Changes:
    """The changes with items that nobody has taken; those of the base, when they come back, have their counts."""
    later = items[items >= base]
    nothing = np.zeros(len(later), np.int32)
    back = replace(changes, removed=np.setdiff1d(changes.removed, items).astype(np.int32))
    entries = Entries(later, nothing, nothing.astype(np.float32))
    return back.with_items(later, np.empty((len(later), 0), np.float32), nothing, entries)


def _liked(rows: pl.DataFrame) -> NDArray[np.bool_]:
    """Which items say what they are like, on an array of its own."""
    if LIKE not in rows.columns:
        return np.zeros(rows.height, np.bool_)
    return np.array(rows[LIKE].is_not_null(), np.bool_)


def _mean_of(bundle: Bundle, changes: Changes, item: Any, like: pl.Series) -> Floats:
    """Mean vector of the items that one is like."""
    found = changes.find(bundle.base_searcher.catalogue, like)
    bad = (found < 0) | np.isin(found, changes.removed)
    if bad.any() or not len(found):
        what = f"{like[int(np.argmax(bad))]!r}, which is not in the catalogue" if len(found) else "nothing"
        raise DataError(f"item {item!r} is like {what}; name items that are there")
    searcher = bundle.searcher
    held = searcher.side if isinstance(searcher.side, OnnxScoreSide) else searcher.postings
    assert isinstance(held, OnnxScoreSide | VectorPostings)
    mean: Floats = held.vectors_of(found.astype(np.int64)).mean(axis=0)
    return mean
