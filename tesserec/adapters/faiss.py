"""Faiss: an ``IndexIVFFlat`` whose inverted lists are our cells, in a directory that appears whole.

Its coarse quantiser holds the means of the cells, so that the index also works by itself. Searches from here do not ask
it: the cells are those that the posterior chose (``search_preassigned``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tesserec.adapters.engine import KEY, Contents, Found, Held, ListRows, VectorRows
from tesserec.data.histories import Histories
from tesserec.errors import ConfigError, EngineError, needs_extra
from tesserec.files import open_directory, publish_directory
from tesserec.index.contract import Codes, Floats

KIND = "faiss index"
_FILE = "index.faiss"


class FaissEngine:
    """A directory with one Faiss index; implements :class:`tesserec.adapters.engine.Engine`.

    Parameters
    ----------
    path
        The directory; :func:`tesserec.adapters.export.export` makes it. ``index.faiss`` in it is a file of Faiss's
        own, to be read by ``faiss.read_index`` anywhere; its ids are item indices.

    Raises
    ------
    MissingExtra
        If Faiss is not installed.
    """

    def __init__(self, path: Path | str) -> None:
        with needs_extra("faiss", ("faiss",), "a Faiss index"):
            import faiss
        self._faiss: Any = faiss
        self._path = Path(path)
        self._filled: tuple[Contents, Any] | None = None
        self._opened: Any = None
        self._replaced = False

    @property
    def place(self) -> str:
        """The directory."""
        return str(self._path)

    def check(self, contents: Contents, lowest_score: float) -> None:
        """Refuse lists: Faiss has no sparse vectors."""
        if contents.kind == "lists":
            raise ConfigError(
                "Faiss holds no sparse vectors, so no lists of scored items; export this model to qdrant or milvus"
            )

    def held(self) -> Held | None:
        """What the directory says, after a check of its file."""
        if not self._path.exists():
            return None
        contents = Contents.from_json(open_directory(self._path, KIND, check="ends").get(KEY), self.place)
        return Held(contents, contents.rows)

    def create(self, contents: Contents) -> None:
        """Begin in memory; nothing is on the disk before :meth:`finish`."""
        quantiser = self._faiss.IndexFlatIP(contents.dim)
        quantiser.add(np.zeros((contents.codes, contents.dim), np.float32))
        index = self._faiss.IndexIVFFlat(quantiser, contents.dim, contents.codes, self._faiss.METRIC_INNER_PRODUCT)
        index.is_trained = True
        self._filled = contents, index

    def add(self, rows: VectorRows | ListRows) -> None:
        """Append to the lists of the rows' cells."""
        assert isinstance(rows, VectorRows)
        assert self._filled is not None
        pointers = (self._faiss.swig_ptr(part) for part in (rows.vectors, rows.items, rows.cells))
        self._filled[1].add_core(len(rows.items), *pointers)

    def finish(self) -> None:
        """Write the index; the directory appears whole."""
        assert self._filled is not None
        contents, index = self._filled
        index.quantizer.reset()
        index.quantizer.add(self._means(index))
        facts = {KEY: contents.to_json()}
        with self._errors(), publish_directory(self._path, KIND, facts, overwrite=self._replaced) as folder:
            self._faiss.write_index(index, str(folder / _FILE))
        self._filled, self._opened, self._replaced = None, index, False

    def drop(self) -> None:
        """Let :meth:`finish` replace the directory; until then it stays."""
        self._replaced, self._opened = True, None

    def search_vectors(self, queries: Floats, cells: Histories | None, limit: int) -> Found:
        """The best items of the cells, scored by Faiss in threads of its own."""
        index = self._index()
        limit = min(limit, int(index.ntotal))
        wanted = np.arange(index.nlist)[None].repeat(len(queries), axis=0) if cells is None else cells.padded(-1)
        wanted = np.ascontiguousarray(wanted, np.int64)
        scores, items = np.empty((len(queries), limit), np.float32), np.empty((len(queries), limit), np.int64)
        # The compiled form takes the number of cells with the call, so threads can share the index.
        arrays = np.ascontiguousarray(queries, np.float32), wanted, np.zeros(wanted.shape, np.float32), scores, items
        asked, assigned, distances, *found = (self._faiss.swig_ptr(array) for array in arrays)
        settings = self._faiss.IVFSearchParameters(nprobe=wanted.shape[1])
        index.search_preassigned_c(len(queries), asked, limit, assigned, distances, *found, False, settings)
        return items.astype(np.int32), np.where(items < 0, np.float32(-np.inf), scores)

    def search_lists(self, codes: Codes, weights: Floats, limit: int) -> Found:
        """Refuse; :meth:`check` lets no lists in."""
        raise ConfigError(f"{self.place} is a Faiss index, which holds no lists")

    def _index(self) -> Any:
        if self._opened is None:
            with self._errors():
                self._opened = self._faiss.read_index(str(self._path / _FILE))
        return self._opened

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What Faiss says of a file becomes one line."""
        try:
            yield
        except RuntimeError as error:
            raise EngineError(f"{self.place}: Faiss says {error}; make room on the disk, or export again") from error

    def _means(self, index: Any) -> Floats:
        """Mean vector of each list, zero where it is empty, ``(cells, dim)``."""
        means = np.zeros((index.nlist, index.d), np.float32)
        for cell in range(index.nlist):
            if size := index.invlists.list_size(cell):
                held = self._faiss.rev_swig_ptr(index.invlists.get_codes(cell), size * index.d * 4)
                means[cell] = held.view(np.float32).reshape(size, index.d).mean(axis=0, dtype=np.float64)
        return means
