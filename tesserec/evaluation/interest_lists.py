"""A model asked about blocks of users: its posterior, the interests it reads, and what each would recommend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tesserec.data.dataset import Part
from tesserec.data.histories import Histories, Items
from tesserec.evaluation.codebooks import telling
from tesserec.index.contract import Candidates, Codes, Floats, UserSide
from tesserec.index.interests import choose
from tesserec.index.postings import VectorPostings
from tesserec.index.searcher import Searcher
from tesserec.index.topk import cells_topk, exact_topk
from tesserec.index.visiting import known_cells

MOST_READ = 8
"""Interests looked at where each searches its own cell alone and so a request reads as many as there are cells."""


@dataclass(frozen=True)
class Answers:
    """A block of users and what the model says to them.

    Attributes
    ----------
    histories, targets
        One row a user.
    posterior
        ``(users, codes)``.
    codes
        Interests read, the likeliest first, ``(users, interests)``, -1 where there are fewer. Equally likely ones
        (slots have no probability of their own) are in order of their best item's score.
    vectors
        Their user vectors in the coordinates that rank items, ``(users, interests, width)``.
    lists
        What each interest alone would recommend, ``(users, interests, n)``.
    final
        The model's answer under its own policy.
    exact
        Its best items with every cell visited and nothing explored, ``(users, m)``.
    """

    histories: Histories
    targets: Histories
    posterior: Floats
    codes: Codes
    vectors: Floats
    lists: Items
    final: Candidates
    exact: Items


@dataclass(frozen=True)
class Asker:
    """How a model is asked.

    Attributes
    ----------
    searcher, side, postings
        The model; the latter two are the searcher's, known to read vectors.
    k
        Length of the final list.
    n
        Length of the lists of single interests.
    best
        How many of the exact best items are wanted.
    """

    searcher: Searcher
    side: UserSide
    postings: VectorPostings
    k: int
    n: int
    best: int

    @property
    def own_cell(self) -> bool:
        """Whether an interest searches no cell but its own."""
        return self.searcher.policy.reach == "cell"

    @property
    def read(self) -> int:
        """Interests of a user that are looked at."""
        wanted = self.searcher.policy.interests
        return min(wanted, MOST_READ) if self.own_cell else wanted

    def blocks(self, part: Part, batch_users: int) -> Iterator[Answers]:
        """Ask for all users of a part."""
        coordinates = telling(self.postings.vectors)
        for start in range(0, len(part.users), batch_users):
            rows = slice(start, start + batch_users)
            yield self._ask(part.histories.take(rows), part.targets.take(rows), coordinates)

    def _ask(self, histories: Histories, targets: Histories, coordinates: NDArray[np.bool_]) -> Answers:
        policy = self.searcher.policy
        encoded = self.side.encode(histories)
        known = known_cells(self.postings, histories)
        chosen = choose(
            encoded.posterior, known, replace(policy, interests=self.read, explore=0.0, merge="max"), self.k
        )
        vectors = np.asarray(self.side.read(encoded, chosen.codes), np.float32)
        lists, scores = self._lists(vectors, chosen.codes, histories)
        order = np.lexsort((-scores[:, :, 0], -chosen.probability), axis=1)
        rows = np.arange(len(histories))[:, None]
        everywhere = replace(policy, visit=1.0, recall=None, max_items=None, explore=0.0, new_share=0.0, seed=None)
        return Answers(
            histories=histories,
            targets=targets,
            posterior=encoded.posterior,
            codes=chosen.codes[rows, order],
            vectors=vectors[rows, order][..., coordinates],
            lists=lists[rows, order],
            final=self.searcher.retrieve(histories, self.k),
            exact=self.searcher.retrieve(histories, self.best, everywhere).items,
        )

    def _lists(self, vectors: Floats, codes: Codes, histories: Histories) -> tuple[Items, Floats]:
        """The best items of each interest, ``(users, interests, n)``, and their scores."""
        users, columns = np.nonzero(codes >= 0)
        unwanted = histories.take(users) if self.searcher.catalogue.exclude_seen else None
        queries, table = vectors[users, columns], self.postings.table
        if self.own_cell:
            cells = Histories.from_offsets(codes[users, columns], np.arange(len(users) + 1))
            found = cells_topk(queries, table, self.postings.offsets, cells, self.n, exclude=unwanted)
        else:
            found = exact_topk(queries, table, self.n, exclude=unwanted)
        items = np.full((*codes.shape, self.n), -1, np.int32)
        scores = np.full((*codes.shape, self.n), -np.inf, np.float32)
        items[users, columns], scores[users, columns] = found
        return items, scores
