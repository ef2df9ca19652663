"""Filling a collection with the postings of a bundle, so that it can be broken off and gone on with.

Rows are sent in one order that follows from the bundle, in batches that an engine may be given twice. So the number of
rows that a collection holds says where to go on, and that it holds all of them says that it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tesserec.adapters.engine import Contents, Engine, Kind, ListRows, VectorRows
from tesserec.errors import ArtefactError, ConfigError, UserError
from tesserec.files import MANIFEST, read_json
from tesserec.index.bundle import Bundle
from tesserec.index.postings import VectorPostings
from tesserec.index.score_postings import ScorePostings

BATCH = 500
"""Rows of one request: some 10 MB as JSON at a width of 1,024, where Qdrant takes 32 MB."""

Progress = Callable[[int, int], None]


def export(bundle: Bundle, engine: Engine, *, overwrite: bool = False, progress: Progress | None = None) -> Contents:
    """Put the postings of a bundle into a collection, or what is missing of them.

    A collection that already holds this generation is left as it is; one that holds a part of it is completed.

    Parameters
    ----------
    overwrite
        Remove what another bundle, or another generation, left in the collection.
    progress
        Called with the rows that are there and all rows, after each batch.

    Raises
    ------
    ConfigError
        If the engine cannot hold these postings, or could not be searched as the model wants it.
    UserError
        If the collection holds another bundle and must not be overwritten.
    ArtefactError
        If what is there was not written by tesserec; it is left alone even with ``overwrite``.
    EngineError
        If the engine cannot be reached, refuses, or does not keep what it is given.
    """
    contents, source = _source(bundle)
    engine.check(contents, source.lowest_score)
    start = _prepare(engine, contents, overwrite)
    if start is None:
        return contents
    for rows in source.batches(start):
        engine.add(rows)
        start += len(rows.items)
        if progress:
            progress(start, contents.rows)
    engine.finish()
    check_whole(engine, contents)
    return contents


def contents_of(bundle: Bundle) -> Contents:
    """What a collection of this bundle holds.

    Raises
    ------
    ConfigError
        If the bundle cannot be searched through an engine.
    """
    return _source(bundle)[0]


def check_whole(engine: Engine, contents: Contents) -> None:
    """Refuse a collection that does not hold all rows of these contents.

    Raises
    ------
    ArtefactError
        Names what is there, and how to get it right.
    EngineError
        If the engine cannot be reached.
    """
    held = engine.held()
    if held is None:
        raise ArtefactError(f"{engine.place} does not exist; fill it with `tesserec export`")
    if held.contents.bundle != contents.bundle:
        raise ArtefactError(
            f"{engine.place} holds {_named(held.contents)}, expected {_named(contents)}; export the bundle to a "
            "collection of its own, or open the generation that was exported"
        )
    if held.rows < contents.rows:
        raise ArtefactError(
            f"{engine.place} holds {held.rows} of {contents.rows} items; run the same `tesserec export` again to go on"
        )
    if held.rows > contents.rows:
        raise ArtefactError(
            f"{engine.place} holds {held.rows} items, expected {contents.rows}; something else was added, "
            "export to another name"
        )


def _prepare(engine: Engine, contents: Contents, overwrite: bool) -> int | None:
    """Make the collection ready to go on; the rows that it has already, in whole batches, or None if it is whole."""
    held = engine.held()
    if held is not None and held.contents.bundle != contents.bundle:
        if not overwrite:
            raise UserError(
                f"{engine.place} exists already and holds {_named(held.contents)}; choose another name or allow it "
                "to be overwritten"
            )
        engine.drop()
        held = None
    if held is None:
        engine.create(contents)
        return 0
    if held.rows < contents.rows:
        return held.rows // BATCH * BATCH
    check_whole(engine, contents)
    return None


def _named(contents: Contents) -> str:
    model = contents.model or "a model"
    return f"generation {contents.generation} of {model} ({contents.bundle[:12]}, {contents.rows} {contents.kind})"


def _source(bundle: Bundle) -> tuple[Contents, _Vectors | _Lists]:
    postings = bundle.searcher.postings
    assert isinstance(postings, VectorPostings | ScorePostings)
    if postings.delta is not None:
        compact = f"tesserec items compact {bundle.path.parent}"
        raise ConfigError(f"{bundle.path} has changes on top of its postings; export it after: {compact}")
    source: _Vectors | _Lists
    if isinstance(postings, VectorPostings):
        source, codes, dim = _Vectors(bundle, postings), postings.cells, postings.dim
    else:
        source, codes, dim = _Lists(bundle, postings), postings.codes, 0
    checksum = str(read_json(bundle.path / MANIFEST)["checksum"])
    model = bundle.facts.get("model")
    return Contents(checksum, bundle.generation, model, source.kind, source.rows, codes, dim), source


class _Vectors:
    """Rows of vector postings, cell after cell."""

    kind: Kind = "vectors"
    lowest_score = 0.0

    def __init__(self, bundle: Bundle, postings: VectorPostings) -> None:
        self._ids, self._postings, self.rows = bundle.searcher.catalogue.items, postings, postings.size

    def batches(self, start: int) -> Iterator[VectorRows]:
        postings = self._postings
        for first in range(start, self.rows, BATCH):
            part = slice(first, min(first + BATCH, self.rows))
            items = np.asarray(postings.items[part], np.int64)
            cells = np.searchsorted(postings.offsets, np.arange(part.start, part.stop), side="right") - 1
            ids = [str(one) for one in self._ids.decode(items.astype(np.int32))]
            yield VectorRows(items, ids, cells.astype(np.int64), np.ascontiguousarray(postings.vectors[part]))


class _Lists:
    """Rows of score postings turned about: item after item, the codes that name it."""

    kind: Kind = "lists"

    def __init__(self, bundle: Bundle, postings: ScorePostings) -> None:
        self._ids = bundle.searcher.catalogue.items
        items = np.asarray(postings.items)
        order = np.argsort(items, kind="stable")  # codes rise within an item, as postings lie code after code
        self._items, starts = np.unique(items[order], return_index=True)
        self._starts = np.append(starts, len(items)).astype(np.int64)
        self._codes = np.repeat(np.arange(postings.codes), np.diff(postings.offsets))[order].astype(np.int64)
        self._scores = np.asarray(postings.scores)[order]
        self.rows = len(self._items)
        self.lowest_score = float(self._scores.min(initial=np.inf))

    def batches(self, start: int) -> Iterator[ListRows]:
        for first in range(start, self.rows, BATCH):
            part = slice(first, min(first + BATCH, self.rows))
            begin, end = self._starts[part.start], self._starts[part.stop]
            items, starts = self._items[part], self._starts[part.start : part.stop + 1] - begin
            ids = [str(one) for one in self._ids.decode(items.astype(np.int32))]
            yield ListRows(items.astype(np.int64), ids, starts, self._codes[begin:end], self._scores[begin:end])
