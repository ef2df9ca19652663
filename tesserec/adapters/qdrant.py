"""Qdrant: vectors with their cell as payload, or lists as sparse vectors over codes.

A dense query is filtered by the visited cells and scored exactly; no graph is built, for the cells stand in its place.
A sparse query holds the weights of the user's codes. Point ids are item indices; each payload has the users' own id.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import Self

from tesserec.adapters.engine import (
    KEY,
    Contents,
    Found,
    Held,
    ListRows,
    VectorRows,
    merged_codes,
    nothing_found,
)
from tesserec.data.histories import Histories
from tesserec.errors import EngineError, needs_extra
from tesserec.index.contract import Codes, Floats

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

CELL, ITEM, SPARSE = "cell", "item", "codes"
_REQUEST = 256


class QdrantEngine:
    """A collection of Qdrant; implements :class:`tesserec.adapters.engine.Engine`.

    Parameters
    ----------
    client
        A connection, made as the service in question wants it (key, TLS, time-outs).
    collection
        Its name.

    Raises
    ------
    MissingExtra
        If the package ``qdrant-client`` is not installed.
    """

    def __init__(self, client: QdrantClient, collection: str = KEY) -> None:
        with needs_extra("qdrant", ("qdrant_client",), "Qdrant"):
            from qdrant_client import models
        self._client, self._collection, self._models = client, collection, models
        self._local = client.init_options.get("location") == ":memory:" or bool(client.init_options.get("path"))

    @classmethod
    def connect(cls, where: str, collection: str = KEY, key: str | None = None) -> Self:
        """Connect to a server by its URL, or open the local mode (a directory, or ``":memory:"``) for a try.

        Raises
        ------
        MissingExtra
            If the package ``qdrant-client`` is not installed.
        EngineError
            If it cannot be opened.
        """
        with needs_extra("qdrant", ("qdrant_client",), "Qdrant"):
            from qdrant_client import QdrantClient
        with _errors(where):
            if "://" in where:
                return cls(QdrantClient(url=where, api_key=key, timeout=60, check_compatibility=False), collection)
            if where == ":memory:":
                return cls(QdrantClient(where), collection)
            return cls(QdrantClient(path=where), collection)

    @property
    def place(self) -> str:
        """The collection, as messages name it."""
        return f"Qdrant collection {self._collection!r}"

    def check(self, contents: Contents, lowest_score: float) -> None:
        """Qdrant holds both kinds."""

    def held(self) -> Held | None:
        """What the collection's metadata say, and how many points it has."""
        with _errors(self.place):
            if not self._client.collection_exists(self._collection):
                return None
            metadata = self._client.get_collection(self._collection).config.metadata or {}
            rows = self._client.count(self._collection, exact=True).count
        return Held(Contents.from_json(metadata.get(KEY), self.place), rows)

    def create(self, contents: Contents) -> None:
        """Make the collection, with an index over the cells."""
        m = self._models
        kind: dict[str, Any] = {"sparse_vectors_config": {SPARSE: m.SparseVectorParams()}, "vectors_config": {}}
        if contents.kind == "vectors":
            vectors = m.VectorParams(size=contents.dim, distance=m.Distance.DOT, hnsw_config=m.HnswConfigDiff(m=0))
            kind = {"vectors_config": vectors}
        with _errors(self.place):
            self._client.create_collection(self._collection, metadata={KEY: contents.to_json()}, **kind)
            if not self._client.get_collection(self._collection).config.metadata:
                self._client.delete_collection(self._collection)
                raise EngineError(f"{self.place}: the server keeps no metadata; use Qdrant 1.16 or newer")
            if contents.kind == "vectors" and not self._local:  # the local mode scans, and warns of indexes
                self._client.create_payload_index(self._collection, CELL, m.PayloadSchemaType.INTEGER, wait=True)

    def add(self, rows: VectorRows | ListRows) -> None:
        """Upsert points, and wait until they are there."""
        payloads: list[dict[str, Any]] = [{ITEM: one} for one in rows.ids]
        vectors: Any
        if isinstance(rows, VectorRows):
            vectors = rows.vectors.tolist()
            payloads = [{**one, CELL: cell} for one, cell in zip(payloads, rows.cells.tolist(), strict=True)]
        else:
            vectors = {SPARSE: [self._sparse(*row) for row in rows.sparse()]}
        points = self._models.Batch(ids=rows.items.tolist(), vectors=vectors, payloads=payloads)
        with _errors(self.place):
            self._client.upsert(self._collection, points, wait=True)

    def finish(self) -> None:
        """Nothing is left to do: points are searchable when they are added."""

    def drop(self) -> None:
        """Delete the collection."""
        with _errors(self.place):
            self._client.delete_collection(self._collection)

    def search_vectors(self, queries: Floats, cells: Histories | None, limit: int) -> Found:
        """One query a row, exact within its cells, many in a request."""
        asked = []
        for row, vector in enumerate(queries):
            within = None if cells is None else self._within(cells[row].tolist())
            asked.append({"query": vector.tolist(), "filter": within})
        return self._answers(asked, limit, None if self._local else self._models.SearchParams(exact=True))

    def search_lists(self, codes: Codes, weights: Floats, limit: int) -> Found:
        """One sparse query a row; sparse search is always exact."""
        rows = map(merged_codes, codes, weights)
        return self._answers([{"query": self._sparse(*row), "using": SPARSE} for row in rows], limit, None)

    def _sparse(self, codes: Any, scores: Any) -> Any:
        return self._models.SparseVector(indices=codes.tolist(), values=scores.tolist())

    def _within(self, cells: list[int]) -> Any:
        m = self._models
        return m.Filter(must=[m.FieldCondition(key=CELL, match=m.MatchAny(any=cells))])

    def _answers(self, asked: list[dict[str, Any]], limit: int, params: Any) -> Found:
        items, scores = nothing_found(len(asked), limit)
        for first in range(0, len(asked), _REQUEST):
            requests = [
                self._models.QueryRequest(**one, limit=limit, params=params, with_payload=False)
                for one in asked[first : first + _REQUEST]
            ]
            with _errors(self.place):
                answers = self._client.query_batch_points(self._collection, requests)
            for row, answer in enumerate(answers, first):
                n = len(answer.points)
                items[row, :n] = np.array([point.id for point in answer.points], np.int32)
                scores[row, :n] = [point.score for point in answer.points]
        return items, scores


@contextlib.contextmanager
def _errors(place: str) -> Iterator[None]:
    """What the client raises becomes one line."""
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except (ApiException, OSError, RuntimeError, ValueError) as error:
        raise EngineError(
            f"{place}: {error}; check that the server runs, that the address and the key are right, and try again"
        ) from error
