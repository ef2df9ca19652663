"""What an engine outside tesserec has to do: hold rows of items, and answer dense or sparse queries over them.

A *collection* is one named place of an engine: a directory of Faiss, a collection of Qdrant or Milvus. It holds one
generation of one bundle, says so itself, and is whole once it has all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tesserec.data.histories import Histories, Ints, Items
from tesserec.errors import ArtefactError
from tesserec.index.contract import Codes, Floats

FORMAT = 1
KEY = "tesserec"
"""Name under which a collection keeps its :class:`Contents`."""

Kind = Literal["vectors", "lists"]
Found = tuple[Items, Floats]


@dataclass(frozen=True)
class Contents:
    """What a collection holds, as it says itself.

    Attributes
    ----------
    bundle
        Checksum of the generation's manifest: equal if and only if every file is.
    generation, model
        Number of the generation and name of the model, for people.
    kind
        ``"vectors"`` by cell, or scored ``"lists"`` by code.
    rows
        Items to be held. Of lists, those that some list names.
    codes
        Cells of vectors, or codes of lists.
    dim
        Width of a vector; 0 for lists.
    """

    bundle: str
    generation: int
    model: str | None
    kind: Kind
    rows: int
    codes: int
    dim: int = 0
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Any, place: str) -> Self:
        """What :meth:`to_json` gave.

        Raises
        ------
        ArtefactError
            If it is something else, or of another format.
        """
        if not isinstance(facts, dict) or "format" not in facts:
            raise ArtefactError(
                f"{place} exists and was not written by tesserec; it is left alone, choose another name"
            )
        if facts["format"] != FORMAT:
            raise ArtefactError(
                f"{place} has format {facts['format']!r}, this version reads {FORMAT}; export to another name"
            )
        try:
            return cls(**facts)
        except TypeError as error:
            raise ArtefactError(
                f"{place} says of itself what cannot be read ({error}); export to another name"
            ) from None


class Held(NamedTuple):
    """A collection that exists: what it is to hold, and how many rows it has so far."""

    contents: Contents
    rows: int


class VectorRows(NamedTuple):
    """Some items with their own ids, cells and vectors ``(n, dim)``."""

    items: Ints
    ids: list[str]
    cells: Ints
    vectors: Floats


class ListRows(NamedTuple):
    """Some items with their own ids and the codes that name them; item ``i`` has ``codes[starts[i]:starts[i + 1]]``."""

    items: Ints
    ids: list[str]
    starts: Ints
    codes: Ints
    scores: Floats

    def sparse(self) -> Iterator[tuple[Ints, Floats]]:
        """Codes and scores of each item."""
        for first, last in zip(self.starts[:-1], self.starts[1:], strict=True):
            yield self.codes[first:last], self.scores[first:last]


class Engine(Protocol):
    """One collection of an engine; methods may be called by several threads once it is whole.

    Every method raises :class:`tesserec.errors.EngineError` if the engine cannot be reached or refuses.
    """

    @property
    def place(self) -> str:
        """What messages call the collection."""
        ...

    def check(self, contents: Contents, lowest_score: float) -> None:
        """Refuse, with a :class:`tesserec.errors.ConfigError`, what this kind of engine cannot hold."""
        ...

    def held(self) -> Held | None:
        """What is there; None where nothing is.

        Raises
        ------
        ArtefactError
            If something else is there.
        """
        ...

    def create(self, contents: Contents) -> None:
        """Make the collection, without rows, where there is none."""
        ...

    def add(self, rows: VectorRows | ListRows) -> None:
        """Add rows after those that are there; to add the same again changes nothing."""
        ...

    def finish(self) -> None:
        """Make all rows that were added durable and searchable."""
        ...

    def drop(self) -> None:
        """Remove the collection."""
        ...

    def search_vectors(self, queries: Floats, cells: Histories | None, limit: int) -> Found:
        """The ``limit`` largest dot products of each query ``(rows, dim)`` over the items of its cells.

        ``cells`` None is every cell. Items ``(rows, limit)`` are -1 and scores -inf where there are fewer.
        """
        ...

    def search_lists(self, codes: Codes, weights: Floats, limit: int) -> Found:
        """The ``limit`` largest sums of weight times score over the lists of ``codes`` ``(rows, m)``; -1 is no code.

        A code may be named twice in a row, and counts twice. Only items that one of the lists names are found.
        """
        ...


def nothing_found(rows: int, limit: int) -> Found:
    """An answer for an engine to fill."""
    return np.full((rows, limit), -1, np.int32), np.full((rows, limit), -np.inf, np.float32)


def merged_codes(codes: Codes, weights: Floats) -> tuple[Ints, NDArray[np.float32]]:
    """The sparse vector of one row of weighted codes: rising codes, each once, and the sums of their weights."""
    named = codes >= 0
    distinct, place = np.unique(codes[named], return_inverse=True)
    sums = np.bincount(place, weights=weights[named], minlength=len(distinct))
    return distinct.astype(np.int64), sums.astype(np.float32)
