"""The sparse kind of the index benchmark: the lists of 32 codes added up, ours beside a sparse engine and plain sums.

1,024 lists over the catalogue have lengths drawn log-uniformly within a factor of 20, so that 32 codes bring the wanted
number of postings on average; their items are drawn evenly, their scores exponentially, weights from 0.5 to 1.5. Every
engine gets whole lists. No model is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.index_engines import Answer, Engine
from tesserec.data.histories import Histories
from tesserec.index.lists import sum_lists
from tesserec.index.score_postings import ScorePostings

CODES, ASKED_CODES = 1024, 32


@dataclass(frozen=True)
class ListsWorld:
    """Postings as ``(code, item, score)`` columns by rising code and item; users as pairs of codes and weights."""

    codes: Any
    items: Any
    scores: Any
    users: list[tuple[Any, Any]]
    size: int
    wanted: int

    @property
    def facts(self) -> dict[str, Any]:
        """What describes the work in a row."""
        return {"items": self.size, "codes": ASKED_CODES, "postings": self.wanted}


def make_lists(size: int, postings: int, users: int = 1000, seed: int = 0) -> ListsWorld:
    """Draw lists of which 32 have about so many postings."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.uniform(0, np.log(20), CODES))
    lengths = (lengths * postings / ASKED_CODES / lengths.mean()).astype(np.int64)
    keys = np.unique(np.repeat(np.arange(CODES), lengths) * size + rng.integers(0, size, lengths.sum()))
    asked = [(rng.choice(CODES, ASKED_CODES, replace=False), rng.uniform(0.5, 1.5, ASKED_CODES)) for _ in range(users)]
    return ListsWorld(
        (keys // size).astype(np.int32),
        (keys % size).astype(np.int32),
        rng.exponential(1.0, len(keys)).astype(np.float32),
        [(codes.astype(np.int32), weights.astype(np.float32)) for codes, weights in asked],
        size,
        postings,
    )


def exact_sums(world: ListsWorld, k: int, rows: Any) -> Any:
    """The k items with the largest sums of some users, ``(users, k)``."""
    starts = np.searchsorted(world.codes, np.arange(CODES + 1))
    found = np.empty((len(rows), k), np.int64)
    for place, row in enumerate(rows):
        sums = np.zeros(world.size)
        for code, weight in zip(*world.users[row], strict=True):
            part = slice(starts[code], starts[code + 1])
            sums[world.items[part]] += np.float64(weight) * world.scores[part]
        found[place] = np.argpartition(-sums, k - 1)[:k]
    return found


class _User:
    def __init__(self, user: tuple[Any, Any]) -> None:
        self.codes, self.weights = (part[None] for part in user)

    def weigh(self, histories: Histories) -> tuple[Any, Any]:
        return self.codes, self.weights


class _Ours:
    def __init__(self, world: ListsWorld) -> None:
        self.lists = ScorePostings.build(world.codes, world.items, world.scores, n_codes=CODES, size=world.size)
        names = ("places", "scores", "blocks", "counts", "ranges", "offsets")
        self.bytes_per_item = sum(getattr(self.lists, name).nbytes for name in names) / world.size
        self.facts: dict[str, Any] = {}

    def settings(self, k: int) -> Iterator[tuple[str, Answer]]:
        nobody = Histories.from_lists([[0]])
        yield "exact", lambda user: sum_lists(_User(user), self.lists, nobody, k, False).items[0]


class _Seismic:
    def __init__(self, world: ListsWorld) -> None:
        import seismic

        text = seismic.get_seismic_string()
        self.names = np.array([str(code) for code in range(CODES)], dtype=text)
        order = np.argsort(world.items, kind="stable")
        codes, scores = self.names[world.codes[order]], world.scores[order]
        starts = np.searchsorted(world.items[order], np.arange(world.size + 1))
        documents = seismic.SeismicDataset()
        for item, (start, stop) in enumerate(pairwise(starts)):
            if stop > start:
                documents.add_document(str(item), codes[start:stop], scores[start:stop])
        longest = int(np.bincount(world.codes).max())
        self.index = seismic.SeismicIndex.build_from_dataset(documents, n_postings=longest, num_threads=2)
        self.bytes_per_item, self.facts = None, {}

    def settings(self, k: int) -> Iterator[tuple[str, Answer]]:
        for factor in (0.7, 0.9, 1.0):

            def answer(user: Any, factor: float = factor) -> Any:
                codes, weights = user
                found = self.index.search("", self.names[codes], weights, k, len(codes), factor)
                return np.array([int(item) for _, _, item in found])

            yield f"heap_factor={factor}", answer


class _Scipy:
    def __init__(self, world: ListsWorld) -> None:
        from scipy.sparse import csr_array

        starts = np.searchsorted(world.codes, np.arange(CODES + 1))
        self.lists = csr_array((world.scores, world.items, starts), shape=(CODES, world.size))
        held = self.lists.data, self.lists.indices, self.lists.indptr
        self.bytes_per_item, self.facts = sum(part.nbytes for part in held) / world.size, {}

    def settings(self, k: int) -> Iterator[tuple[str, Answer]]:
        from scipy.sparse import csr_array

        def answer(user: Any) -> Any:
            codes, weights = user
            row = csr_array((weights, codes, [0, len(codes)]), shape=(1, CODES)) @ self.lists
            return row.indices[np.argpartition(-row.data, k - 1)[:k]]

        yield "exact", answer


class _Numpy:
    def __init__(self, world: ListsWorld) -> None:
        starts = np.searchsorted(world.codes, np.arange(CODES + 1))
        self.parts = [(world.items[start:stop], world.scores[start:stop]) for start, stop in pairwise(starts)]
        self.size = world.size
        self.bytes_per_item, self.facts = (world.items.nbytes + world.scores.nbytes) / world.size, {}

    def settings(self, k: int) -> Iterator[tuple[str, Answer]]:
        def answer(user: Any) -> Any:
            sums = np.zeros(self.size, np.float32)
            for code, weight in zip(*user, strict=True):
                items, scores = self.parts[code]
                sums[items] += weight * scores
            return np.argpartition(-sums, k - 1)[:k]

        yield "exact", answer


LIST_ENGINES: dict[str, Callable[[ListsWorld], Engine]] = {
    "tesserec": _Ours,
    "scipy": _Scipy,
    "numpy": _Numpy,
    "seismic": _Seismic,
}
