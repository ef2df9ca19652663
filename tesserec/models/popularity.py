"""Popularity: everybody gets what most people took, ever or lately."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tesserec.data.dataset import Dataset
from tesserec.errors import DataError
from tesserec.index.score_postings import ScorePostings
from tesserec.index.user_side import ConstantSide
from tesserec.models.tables import TableRetriever

SECONDS_PER_DAY = 86_400


class PopularityConfig(BaseModel):
    """Nothing to set."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RecentConfig(BaseModel):
    """Settings of :class:`PopularityRecent`.

    Attributes
    ----------
    days
        Length of the window before the newest training event.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    days: float = Field(7.0, gt=0)


class Popularity(TableRetriever):
    """Items by their count in training; the baseline that every other model must beat."""

    name = "popularity"
    Config: ClassVar[type[BaseModel]] = PopularityConfig

    def side(self) -> ConstantSide:
        """One code for everybody."""
        return ConstantSide()

    def count(self, dataset: Dataset) -> ScorePostings:
        """One list, all items by training count."""
        return _one_list(dataset.item_counts)


class PopularityRecent(Popularity):
    """Items by their count in the last days of training; hard to beat under a global time split."""

    name = "popularity-recent"
    Config = RecentConfig

    def count(self, dataset: Dataset) -> ScorePostings:
        """One list, items by count in the window.

        Raises
        ------
        DataError
            If the log has no times.
        """
        if dataset.train_times is None:
            raise DataError("popularity-recent needs times, but the prepared log has none; use popularity")
        train = dataset.train
        chosen = np.zeros(len(train.values) + 1, np.int64)
        np.add.at(chosen, train.starts, 1)
        np.add.at(chosen, train.stops, -1)
        in_train = np.cumsum(chosen)[:-1] > 0
        times = np.asarray(dataset.train_times)
        recent = in_train & (times > times[in_train].max() - self.config.days * SECONDS_PER_DAY)
        return _one_list(np.bincount(train.values[recent], minlength=len(dataset.items)))


def _one_list(counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> ScorePostings:
    zeros, items = np.zeros(len(counts), np.int32), np.arange(len(counts), dtype=np.int32)
    return ScorePostings.build(zeros, items, counts.astype(np.float32), n_codes=1, size=len(counts))
