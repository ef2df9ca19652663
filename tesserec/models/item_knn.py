"""Item-kNN: items that the same users took, by cosine similarity of their user sets."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tesserec.data.dataset import Dataset
from tesserec.index.score_postings import ScorePostings
from tesserec.index.user_side import HistorySide
from tesserec.models.tables import TableRetriever

BLOCK = 1_000
"""Items whose neighbours are computed together; bounds the memory of the dense part."""


class ItemKNNConfig(BaseModel):
    """Settings of :class:`ItemKNN`.

    Attributes
    ----------
    neighbours
        Items kept in each item's list.
    shrink
        Added to the denominator of the cosine, so that rare coincidences count little.
    recent, decay
        How many of a user's newest events count, and the weight of each relative to the next newer one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    neighbours: int = Field(200, ge=1)
    shrink: float = Field(10.0, ge=0)
    recent: int = Field(50, ge=1)
    decay: float = Field(0.8, gt=0, le=1)


class ItemKNN(TableRetriever):
    """Item-based collaborative filtering (Sarwar et al., WWW 2001) with shrunken cosine similarity.

    A user's candidates are the items most similar to the newest events of the history; older events weigh less
    (the decay is ours). No training, hard to beat on short histories.
    """

    name = "item-knn"
    Config = ItemKNNConfig

    def side(self) -> HistorySide:
        """The newest events are the codes."""
        return HistorySide(self.config.recent, self.config.decay)

    def count(self, dataset: Dataset) -> ScorePostings:
        """Each item's nearest items."""
        from scipy.sparse import csr_array

        flat, items = dataset.train.compact(), len(dataset.items)
        rows = np.repeat(np.arange(len(flat)), flat.lengths)
        taken = csr_array((np.ones(len(rows), np.float32), (rows, flat.values)), shape=(len(flat), items))
        taken.data[:] = 1.0
        by_item = taken.T.tocsr()
        norm = np.sqrt(np.diff(by_item.indptr)).astype(np.float32)
        codes, neighbours, scores = [], [], []
        for begin in range(0, items, BLOCK):
            common = (by_item[begin : begin + BLOCK] @ taken).tocoo()
            code, item = common.coords[0] + begin, common.coords[1]
            score = common.data / (norm[code] * norm[item] + self.config.shrink)
            keep = _best(code, item, score, self.config.neighbours)
            codes.append(code[keep])
            neighbours.append(item[keep])
            scores.append(score[keep])
        return ScorePostings.build(
            np.concatenate(codes),
            np.concatenate(neighbours),
            np.concatenate(scores),
            n_codes=items,
            size=items,
            keyed_by_item=True,
        )


def _best(
    code: np.ndarray[tuple[int], np.dtype[np.int64]],
    item: np.ndarray[tuple[int], np.dtype[np.int64]],
    score: np.ndarray[tuple[int], np.dtype[np.float32]],
    size: int,
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Positions of the ``size`` best other items of each code, ties by item order."""
    order = np.lexsort((item, -score, code))
    order = order[code[order] != item[order]]
    first = np.searchsorted(code[order], code[order])
    best: np.ndarray[tuple[int], np.dtype[np.int64]] = order[np.arange(len(order)) - first < size]
    return best
