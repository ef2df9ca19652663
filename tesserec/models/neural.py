"""What all trained retrievers share: fitting a network by the loop, keeping it, and answering from its tensors."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from tesserec.data.batches import Batch, NegativeSampler, SequenceBatches
from tesserec.data.dataset import Dataset, Part
from tesserec.data.features import ItemFeatures
from tesserec.data.histories import Histories
from tesserec.errors import ArtefactError, ConfigError, DataError, TrainingRefused
from tesserec.evaluation.metrics import recall
from tesserec.files import publish_directory, read_json, write_json
from tesserec.index.catalogue import Catalogue
from tesserec.index.contract import Codes, Encoded, Floats, Policy
from tesserec.index.postings import VectorPostings
from tesserec.index.searcher import Searcher
from tesserec.models.base import Retriever, open_model
from tesserec.models.network import Network, TensorBatch
from tesserec.models.popularity import Popularity
from tesserec.training.checkpoint import load_tensors, save_tensors
from tesserec.training.config import TrainingConfig
from tesserec.training.loop import Loop, device
from tesserec.training.recipe import by_key

CODEBOOK = "quantiser."
"""Where it stands in a weight's name, the weight is the codebook's; they are kept in a file of their own."""


class TorchSide:
    """User side of a network in memory."""

    def __init__(self, network: Network) -> None:
        self.network = network.eval()
        self.vectors = network.item_vectors()

    @torch.inference_mode()
    def encode(self, histories: Histories) -> Encoded:
        """See :class:`tesserec.index.contract.UserSide`."""
        recent = histories.last(self.network.config.encoder.max_length)
        where = self.vectors.device
        lengths = torch.from_numpy(np.ascontiguousarray(recent.lengths)).to(where)
        posterior, *state = self.network.encode(self.vectors[torch.from_numpy(recent.padded(0)).to(where)], lengths)
        return Encoded(posterior.cpu().numpy(), (lengths, *state))

    @torch.inference_mode()
    def read(self, encoded: Encoded, interests: Codes) -> Floats:
        """See :class:`tesserec.index.contract.UserSide`."""
        lengths, *state = encoded.state
        codes = torch.from_numpy(interests.astype(np.int64)).to(lengths.device)
        vectors = self.network.read(codes.clamp(min=0), lengths, *state)
        read: Floats = (vectors * (codes >= 0)[..., None]).float().cpu().numpy()
        return read


class NeuralRetriever(Retriever):
    """A retriever whose user side is a trained network."""

    network_class: ClassVar[type[Network]]
    network: Network
    catalogue: Catalogue

    def fit(
        self, dataset: Dataset, *, seed: int = 0, run: Path | None = None, resume: bool = False, progress: bool = False
    ) -> Self:
        """Train on ``dataset.train``, choosing the epoch by recall on ``dataset.valid``.

        Raises
        ------
        ConfigError
            If a setting does not fit the dataset, such as features where the items have none.
        TrainingRefused
            If a loss is not finite, a codebook collapses, or the best epoch is not above popularity.
        """
        self.catalogue = Catalogue.from_dataset(dataset)
        features = ItemFeatures.from_dataset(dataset) if self.config.features else None
        if features is not None and not (features.sizes or features.numbers.shape[1]):
            raise ConfigError(
                "features = true, but the items have no categorical, multi, numeric or vector column; prepare the "
                "dataset with an items table that has some, or leave features off"
            )
        torch.manual_seed(seed)
        self.network = self.network_class(len(dataset.items), self.config, features).to(device())
        task = self.task(dataset, seed)
        loop = Loop(task, self.config.training, seed=seed, run=run, progress=progress)
        loop.train(resume)
        self._finish(task, loop, dataset, seed)
        return self

    def fine_tune(
        self, dataset: Dataset, epochs: int, *, seed: int = 0, run: Path | None = None, progress: bool = False
    ) -> Self:
        """Train on from the weights at hand for some epochs more, at the end of the learning rate's fall.

        The codebook is not started again: its codes go on from where they are, so they keep their identity. The result
        is no worse on ``dataset.valid`` than the start.

        Raises
        ------
        DataError
            If the dataset's items are not the model's.
        TrainingRefused
            See :meth:`fit`.
        """
        if not dataset.items.values.equals(self.catalogue.items.values):
            raise DataError(
                f"the dataset's {len(dataset.items):,} items are not the {len(self.catalogue):,} of the model, or in "
                "another order; tesserec.models.warm.warm_start moves a model onto another dataset"
            )
        begun = self.config.training.epochs
        training = self.config.training.model_copy(update={"epochs": begun + epochs})
        self.config = self.config.model_copy(update={"training": training})
        task = self.task(dataset, seed)
        loop = Loop(task, training, seed=seed, run=run, progress=progress)
        loop.go_on_after(begun)
        loop.train()
        self._finish(task, loop, dataset, seed)
        return self

    def _finish(self, task: FitTask, loop: Loop, dataset: Dataset, seed: int) -> None:
        task.refuse_if_below_popularity(loop.position.best)
        self.__dict__.pop("searcher", None)
        self.after_training(dataset, seed)

    def after_training(self, dataset: Dataset, seed: int) -> None:
        """What is measured or built once, from the trained network."""

    def task(self, dataset: Dataset, seed: int) -> FitTask:
        """What the training loop is given."""
        return FitTask(self, dataset, seed)

    def policy(self) -> Policy:
        """How the posterior becomes candidates unless the caller says otherwise."""
        return Policy(interests=1)

    @cached_property
    def searcher(self) -> Searcher:
        """Catalogue, user side, postings and policy of the fitted network."""
        side = TorchSide(self.network)
        cells = self.network.cells().cpu().numpy().astype(np.int32)
        postings = VectorPostings.build(side.vectors.cpu().numpy(), cells, self.network.n_cells)
        return Searcher(self.catalogue, side, postings, self.policy())

    def item_codes(self) -> tuple[NDArray[np.integer[Any]], int] | None:
        """See :meth:`Retriever.item_codes`."""
        found = self.network.item_codes()
        return None if found is None else (found[0].cpu().numpy(), found[1])

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """Publish weights, settings and catalogue; see :meth:`Retriever.save`."""
        facts = {"model": self.name}
        with publish_directory(path, "model", facts, overwrite=overwrite) as folder:
            write_json(folder / "config.json", self.config.model_dump())
            self.catalogue.save(folder)
            if (features := self.network.items.features) is not None:
                features.source.save(folder)
            self.save_weights(folder)

    def save_weights(self, folder: Path) -> None:
        """Write ``model.safetensors`` and, for a model with a codebook, ``codebook.safetensors``."""
        weights = self.network.state_dict()
        codebook = {name: tensor for name, tensor in weights.items() if CODEBOOK in name}
        rest = {name: tensor for name, tensor in weights.items() if name not in codebook}
        save_tensors(folder / "model.safetensors", rest, {})
        if codebook:
            save_tensors(folder / "codebook.safetensors", codebook, {})

    def export(self, folder: Path) -> None:
        """Write the user side as files that need no PyTorch."""
        from tesserec.models.export import export_items, export_network

        export_network(self.network, folder)
        export_items(self.network, folder)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Open what :meth:`save` wrote; see :meth:`Retriever.load`."""
        open_model(path, cls.name)
        model = cls(cls.Config.model_validate(read_json(path / "config.json")))
        model.catalogue = Catalogue.open(path)
        features = ItemFeatures.open(path) if model.config.features else None
        model.network = cls.network_class(len(model.catalogue.items), model.config, features).to(device())
        weights, _ = load_tensors(path / "model.safetensors")
        if (path / "codebook.safetensors").exists():
            weights |= load_tensors(path / "codebook.safetensors")[0]
        try:
            model.network.load_state_dict(weights)
        except RuntimeError as error:
            fault = _other_codebook(model.network, weights) or error
            raise ArtefactError(f"{path} holds weights of another shape than its config.json says: {fault}") from None
        model.network.eval()
        return model


def _other_codebook(network: Network, weights: dict[str, Tensor]) -> str:
    """What to say where a saved codebook has other sizes than the network's; empty where it has the same."""
    name = f"{CODEBOOK}codebooks"
    found, expected = weights.get(name), network.state_dict().get(name)
    if found is None or expected is None or found.shape == expected.shape:
        return ""
    sizes = (f"{tuple(x.shape[:2])}" for x in (found, expected))
    return "(codebook.levels, codebook.codes) is {} in codebook.safetensors, {} in config.json".format(*sizes)


class FitTask:
    """The loop's view of a retriever that is being fitted."""

    def __init__(self, model: NeuralRetriever, dataset: Dataset, seed: int) -> None:
        config: TrainingConfig = model.config.training
        self.model, self.network, self.seed, self.fingerprint = model, model.network, seed, dataset.fingerprint
        sampler = NegativeSampler(dataset.item_counts, config.popular_share)
        self.log_q = torch.from_numpy(sampler.log_q).to(device())
        self.batches = SequenceBatches(
            dataset.train,
            model.config.encoder.max_length,
            config.batch_positions,
            horizon=model.config.horizon,
            sampler=sampler,
            negatives=config.negatives,
            seed=seed,
        )
        if not len(dataset.valid.users):
            raise DataError("the split holds no validation user, so no epoch can be chosen; prepare with another split")
        self.part = some_users(dataset.valid, config.validate_users, seed)
        self.k = min(config.validate_k, len(dataset.items))
        self.popularity = self._recall(Popularity().fit(dataset).searcher)

    @property
    def identity(self) -> dict[str, Any]:
        """See :class:`tesserec.training.loop.Task`."""
        return {"model": self.model.name, "fingerprint": self.fingerprint, **by_key(self.model.config)}

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """See :class:`tesserec.training.loop.Task`."""
        return self.network.losses(TensorBatch(batch, self.log_q), progress)

    @property
    def warmup_epochs(self) -> int:
        """See :class:`tesserec.training.loop.Task`."""
        return self.network.warmup_epochs

    def start(self, epoch: int) -> dict[str, Any]:
        """See :class:`tesserec.training.loop.Task`."""
        return self.network.start(epoch, self.seed)

    def end_epoch(self, epoch: int) -> dict[str, Any]:
        """See :class:`tesserec.training.loop.Task`."""
        return self.network.end_epoch(epoch, self.seed)

    def validate(self) -> dict[str, float]:
        """Recall on the validation users, by the search that serves."""
        self.model.__dict__.pop("searcher", None)
        return {f"valid/recall@{self.k}": self._recall(self.model.searcher)}

    def refuse_if_below_popularity(self, best: float) -> None:
        """Raise if the best epoch's recall is not above the popularity baseline's on the same users."""
        if best <= self.popularity:
            raise TrainingRefused(
                f"{self.model.name} reached recall@{self.k} {best:.4f} on validation users, popularity alone "
                f"{self.popularity:.4f}; train longer (training.epochs), raise training.learning_rate, or check that "
                "the log's order is meaningful"
            )

    def _recall(self, searcher: Searcher) -> float:
        candidates = searcher.retrieve(self.part.histories, self.k)
        return float(recall(candidates.items, self.part.targets, self.k).mean())


def some_users(part: Part, size: int, seed: int) -> Part:
    """At most ``size`` users of a part, a seeded choice in their order."""
    rows = np.arange(len(part.users))
    if len(rows) > size:
        rows = np.sort(np.random.default_rng(seed).choice(rows, size, replace=False))
    return Part(part.users[rows], part.histories.take(rows), part.targets.take(rows))
