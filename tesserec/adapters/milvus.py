"""Milvus: vectors with their cell as a scalar field, or lists as sparse vectors over codes.

A dense query is filtered by the visited cells and scored exactly (``FLAT``), for the cells stand in the place of an
index over vectors. A sparse query holds the weights of the user's codes. Primary keys are item indices; ``id`` is the
users' own.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
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
from tesserec.errors import ArtefactError, ConfigError, EngineError, needs_extra
from tesserec.index.contract import Codes, Floats

if TYPE_CHECKING:
    from pymilvus import MilvusClient

ITEM, ID, CELL, VECTOR, SPARSE = "item", "id", "cell", "vector", "codes"
MOST = 16384
"""Most items that one query of Milvus may ask for."""


class MilvusEngine:
    """A collection of Milvus; implements :class:`tesserec.adapters.engine.Engine`.

    Parameters
    ----------
    client
        A connection, made as the service in question wants it (token, TLS, time-outs).
    collection
        Its name: letters, digits and underscores.

    Raises
    ------
    MissingExtra
        If the package ``pymilvus`` is not installed.
    """

    def __init__(self, client: MilvusClient, collection: str = KEY) -> None:
        with needs_extra("milvus", ("pymilvus",), "Milvus"):
            import pymilvus
        self._client, self._collection, self._milvus = client, collection, pymilvus

    @classmethod
    def connect(cls, where: str, collection: str = KEY, key: str | None = None) -> Self:
        """Connect to a server by its URL, or open a file of Milvus Lite (``name.db``).

        Raises
        ------
        MissingExtra
            If the package ``pymilvus`` or ``milvus-lite`` is not installed.
        ConfigError
            If a file has another ending, or its directory does not exist.
        EngineError
            If it cannot be opened.
        """
        local = "://" not in where
        if local and not (where.endswith(".db") and Path(where).parent.is_dir()):
            raise ConfigError(
                f"{where} cannot be a file of Milvus Lite; expected a name ending in .db in a directory that exists"
            )
        with needs_extra("milvus", ("pymilvus",), "Milvus"):
            from pymilvus import MilvusClient
        if local:
            with needs_extra("milvus", ("milvus_lite",), f"Milvus in the file {where}"):
                import milvus_lite  # noqa: F401
        with _errors(where):
            return cls(MilvusClient(where, token=key or ""), collection)

    @property
    def place(self) -> str:
        """The collection, as messages name it."""
        return f"Milvus collection {self._collection!r}"

    def check(self, contents: Contents, lowest_score: float) -> None:
        """Refuse lists with scores that Milvus's sparse vectors cannot have."""
        if contents.kind == "lists" and lowest_score <= 0:
            raise ConfigError(
                f"the lists hold the score {lowest_score}, but sparse vectors of Milvus hold numbers above 0 only; "
                "export this model to qdrant"
            )

    def held(self) -> Held | None:
        """What the collection's properties say, and how many rows it has."""
        with _errors(self.place):
            if not self._client.has_collection(self._collection):
                return None
            properties = self._client.describe_collection(self._collection).get("properties", {})
        contents = Contents.from_json(self._facts(properties), self.place)
        with _errors(self.place):
            self._client.load_collection(self._collection)
            counted = self._client.query(
                self._collection, filter="", output_fields=["count(*)"], consistency_level="Strong"
            )
        return Held(contents, int(counted[0]["count(*)"]))

    def create(self, contents: Contents) -> None:
        """Make the collection, its index and one over the cells."""
        kinds = self._milvus.DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(ITEM, kinds.INT64, is_primary=True)
        schema.add_field(ID, kinds.VARCHAR, max_length=65535)
        indexes = self._client.prepare_index_params()
        if contents.kind == "vectors":
            schema.add_field(CELL, kinds.INT64)
            schema.add_field(VECTOR, kinds.FLOAT_VECTOR, dim=contents.dim)
            indexes.add_index(VECTOR, index_type="FLAT", metric_type="IP")
            indexes.add_index(CELL, index_type="INVERTED")
        else:
            schema.add_field(SPARSE, kinds.SPARSE_FLOAT_VECTOR)
            indexes.add_index(SPARSE, index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        facts = {KEY: json.dumps(contents.to_json(), sort_keys=True)}
        with _errors(self.place):
            self._client.create_collection(
                self._collection, schema=schema, index_params=indexes, properties=facts, consistency_level="Bounded"
            )

    def add(self, rows: VectorRows | ListRows) -> None:
        """Upsert entities."""
        entities: list[dict[str, Any]] = [
            {ITEM: item, ID: one} for item, one in zip(rows.items.tolist(), rows.ids, strict=True)
        ]
        if isinstance(rows, VectorRows):
            for entity, cell, vector in zip(entities, rows.cells.tolist(), rows.vectors, strict=True):
                entity |= {CELL: cell, VECTOR: vector}
        else:
            for entity, (codes, scores) in zip(entities, rows.sparse(), strict=True):
                entity[SPARSE] = dict(zip(codes.tolist(), scores.tolist(), strict=True))
        with _errors(self.place):
            self._client.upsert(self._collection, entities)

    def finish(self) -> None:
        """Seal what was added, so that it is on the disk and indexed."""
        with _errors(self.place):
            self._client.flush(self._collection)

    def drop(self) -> None:
        """Drop the collection."""
        with _errors(self.place):
            self._client.drop_collection(self._collection)

    def search_vectors(self, queries: Floats, cells: Histories | None, limit: int) -> Found:
        """Queries that see the same cells share a request, exact within them."""
        found = nothing_found(len(queries), limit)
        if cells is None:
            self._ask(found, np.arange(len(queries)), list(queries), VECTOR, "")
            return found
        groups: dict[bytes, list[int]] = {}
        for row in range(len(queries)):
            groups.setdefault(cells[row].tobytes(), []).append(row)
        for rows in groups.values():
            within = f"{CELL} in {cells[rows[0]].tolist()}"
            self._ask(found, np.array(rows), list(queries[rows]), VECTOR, within)
        return found

    def search_lists(self, codes: Codes, weights: Floats, limit: int) -> Found:
        """One sparse query a row; rows without a code find nothing."""
        found = nothing_found(len(codes), limit)
        rows, asked = [], []
        for row in range(len(codes)):
            distinct, sums = merged_codes(codes[row], weights[row])
            if (sums <= 0).any():
                raise ConfigError(
                    f"user {row} has the weight {sums.min()}, but sparse queries of Milvus hold numbers above 0 only; "
                    "search this model in qdrant, or in tesserec's own index"
                )
            if len(distinct):
                rows.append(row)
                asked.append(dict(zip(distinct.tolist(), sums.tolist(), strict=True)))
        if rows:
            self._ask(found, np.array(rows), asked, SPARSE, "")
        return found

    def _ask(self, found: Found, rows: Any, asked: list[Any], field: str, within: str) -> None:
        """Fill rows of the answer."""
        limit = found[0].shape[1]
        if limit > MOST:
            raise ConfigError(
                f"k and the longest history, or the largest cell, ask for {limit} items; Milvus gives at most {MOST}; "
                "ask for fewer, train with smaller cells, or use tesserec's own index"
            )
        with _errors(self.place):
            answers = self._client.search(
                self._collection, data=asked, anns_field=field, filter=within, limit=limit, output_fields=[ITEM]
            )
        for row, answer in zip(rows, answers, strict=True):
            found[0][row, : len(answer)] = [hit[ITEM] for hit in answer]
            found[1][row, : len(answer)] = [hit["distance"] for hit in answer]

    def _facts(self, properties: dict[str, str]) -> Any:
        try:
            return json.loads(properties.get(KEY, "null"))
        except json.JSONDecodeError as error:
            raise ArtefactError(f"{self.place} says of itself what cannot be read ({error})") from None


@contextlib.contextmanager
def _errors(place: str) -> Iterator[None]:
    """What the client raises becomes one line."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        raise EngineError(
            f"{place}: {error.message}; check that the server runs, that the address and the token are right, and "
            "try again"
        ) from error
