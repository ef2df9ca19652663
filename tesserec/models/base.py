"""The whole contract of a retriever, on one screen.

Users' own ids go in and come out. A history is enough: nobody needs to have been in training. A model brings two
things, a *user side* (history to interests to vectors, or to weighted codes) and *postings* (where the items lie);
:class:`~tesserec.index.searcher.Searcher` turns them into answers, in memory here and from a bundle in production.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel
from typing_extensions import Self

from tesserec.data.dataset import Dataset
from tesserec.errors import ArtefactError, UserError
from tesserec.files import open_directory
from tesserec.index.searcher import Searcher


def open_model(path: Path, name: str) -> None:
    """Check the directory of a saved model.

    Raises
    ------
    ArtefactError
        If it is damaged, or holds another model than ``name``.
    """
    seen = open_directory(path, "model").get("model")
    if seen != name:
        raise ArtefactError(
            f"{path} holds a model of kind {seen!r}, not {name!r}; tesserec.models.load_model opens any"
        )


class Retriever(ABC):
    """A candidate retriever.

    Parameters
    ----------
    config
        Settings of this model, an instance of its ``Config``; every setting has a default.

    Examples
    --------
    >>> model = Sparc().fit(dataset)                                    # doctest: +SKIP
    >>> model.recommend([["B0007", "B0042"]], k=20)                     # doctest: +SKIP
    """

    name: ClassVar[str]
    Config: ClassVar[type[BaseModel]]
    config: Any

    def __init__(self, config: BaseModel | None = None) -> None:
        self.config = self.Config() if config is None else config

    @abstractmethod
    def fit(
        self, dataset: Dataset, *, seed: int = 0, run: Path | None = None, resume: bool = False, progress: bool = False
    ) -> Self:
        """Learn from ``dataset.train``; with ``run``, log and checkpoint there, or ``resume`` from there."""

    @property
    @abstractmethod
    def searcher(self) -> Searcher:
        """Catalogue, user side, postings and policy of the fitted model; what is evaluated and what is served."""

    @abstractmethod
    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """Publish the fitted model as one sealed directory (safetensors, JSON and parquet; no pickles)."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path) -> Self:
        """Open what :meth:`save` wrote; refuses damaged or foreign files by name."""

    def item_codes(self) -> tuple[NDArray[np.integer[Any]], int] | None:
        """Codes of every item by level, ``(items, levels)``, and the codes of a level; None where items have none."""
        return None

    @property
    def _ready(self) -> Searcher:
        if not hasattr(self, "catalogue"):
            raise UserError(f"this {type(self).__name__} has learned nothing; call fit(dataset), or load a saved one")
        return self.searcher

    def recommend(self, histories: Sequence[Sequence[Any]], k: int = 20, **policy: Any) -> pl.DataFrame:
        """Candidates for histories of the users' own item ids; see :meth:`Searcher.recommend`."""
        return self._ready.recommend(histories, k, **policy)

    def interests(self, histories: Sequence[Sequence[Any]], k: int = 10) -> pl.DataFrame:
        """The likeliest interests of each history with their probabilities; see :meth:`Searcher.interests`."""
        return self._ready.interests(histories, k)

    def similar_items(self, items: Sequence[Any], k: int = 10) -> pl.DataFrame:
        """Nearest items of each given item; see :meth:`Searcher.similar_items`."""
        return self._ready.similar_items(items, k)
