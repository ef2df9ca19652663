"""What the untrained retrievers share: a table of scored items a code, fitted by counting."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from pathlib import Path

from typing_extensions import Self

from tesserec.data.dataset import Dataset
from tesserec.files import publish_directory, read_json, write_json
from tesserec.index.catalogue import Catalogue
from tesserec.index.contract import Policy
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import ConstantSide, HistorySide
from tesserec.models.base import Retriever, open_model


class TableRetriever(Retriever):
    """A retriever whose user side only names codes; a subclass counts the postings."""

    catalogue: Catalogue
    lists: ScorePostings

    @abstractmethod
    def count(self, dataset: Dataset) -> ScorePostings:
        """Scored items of each code."""

    @abstractmethod
    def side(self) -> ConstantSide | HistorySide:
        """Which codes a history stands for."""

    def fit(
        self, dataset: Dataset, *, seed: int = 0, run: Path | None = None, resume: bool = False, progress: bool = False
    ) -> Self:
        """Count ``dataset.train``; nothing is random and nothing is worth resuming."""
        self.catalogue = Catalogue.from_dataset(dataset)
        self.lists = self.count(dataset)
        self.__dict__.pop("searcher", None)
        return self

    @cached_property
    def searcher(self) -> Searcher:
        """See :attr:`Retriever.searcher`."""
        return Searcher(self.catalogue, self.side(), self.lists, Policy(interests=1))

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """See :meth:`Retriever.save`."""
        with publish_directory(path, "model", {"model": self.name}, overwrite=overwrite) as folder:
            write_json(folder / "config.json", self.config.model_dump())
            self.catalogue.save(folder)
            (folder / "postings").mkdir()
            self.lists.save(folder / "postings")

    @classmethod
    def load(cls, path: Path) -> Self:
        """See :meth:`Retriever.load`."""
        open_model(path, cls.name)
        model = cls(cls.Config.model_validate(read_json(path / "config.json")))
        model.catalogue = Catalogue.open(path)
        model.lists = ScorePostings.open(path / "postings")
        return model
