"""What all trained retrievers share: the network's protocol, fitting by the loop, and answering from tensors."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from tesserec.data.batches import Batch, NegativeSampler, SequenceBatches
from tesserec.data.dataset import Dataset, Part
from tesserec.data.features import ItemFeatures
from tesserec.data.histories import Histories
from tesserec.errors import ArtefactError, DataError, TrainingRefused
from tesserec.evaluation.metrics import recall
from tesserec.files import open_directory, publish_directory, read_json, write_json
from tesserec.index.catalogue import Catalogue
from tesserec.index.contract import Codes, Encoded, Floats, Policy
from tesserec.index.postings import VectorPostings
from tesserec.index.searcher import Searcher
from tesserec.models.base import Retriever
from tesserec.models.popularity import Popularity
from tesserec.nn.encoders import EncoderConfig, build_encoder
from tesserec.nn.features import FeatureEncoder
from tesserec.nn.items import ItemTower
from tesserec.nn.losses import sampled_softmax
from tesserec.training.checkpoint import load_tensors, save_tensors
from tesserec.training.config import TrainingConfig
from tesserec.training.loop import Loop, device

CODEBOOK = "quantiser."
"""Where it stands in a weight's name, the weight is the codebook's; they are kept in a file of their own."""


class NeuralConfig(BaseModel):
    """Settings that every trained retriever has.

    Attributes
    ----------
    encoder, training
        The two groups of shared settings.
    normalise
        Compare user and item vectors by cosine rather than by dot product.
    temperature
        Divides the similarity; with cosines well below one.
    horizon
        Targets are drawn from the next this many items.
    features
        Add what the items table says (categories, numbers, vectors) to item embeddings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: EncoderConfig = EncoderConfig()
    training: TrainingConfig = TrainingConfig()
    normalise: bool = True
    temperature: float = Field(0.1, gt=0)
    horizon: int = Field(1, ge=1)
    features: bool = False


class Network(nn.Module):
    """Item tower and sequence encoder; a model adds its losses and, where it has them, interests.

    A network that has interests overrides ``codes``, :meth:`encode`, :meth:`read`, and :meth:`cells` or ``n_cells``.

    Parameters
    ----------
    items
        Catalogue size.
    config
        The model's settings.
    features
        Item features, or None.
    """

    codes: int = 1
    #: Names in the state of the network that hold a row an item.
    per_item: ClassVar[tuple[str, ...]] = ("items.table.weight",)

    def __init__(self, items: int, config: Any, features: ItemFeatures | None) -> None:
        super().__init__()
        self.config = config
        dim = config.encoder.dim
        encoder = FeatureEncoder(features, dim) if features is not None else None
        self.items = ItemTower(items, dim, normalise=config.normalise, features=encoder)
        self.encoder = build_encoder(config.encoder)

    def states(self, vectors: Tensor) -> Tensor:
        """Causal states of item vectors ``(batch, length, dim)``."""
        states: Tensor = self.encoder(vectors * vectors.shape[-1] ** 0.5)
        return states

    def user(self, states: Tensor) -> Tensor:
        """States to user vectors in the space of items."""
        return F.normalize(states, dim=-1) if self.config.normalise else states

    @abstractmethod
    def losses(self, batch: TensorBatch, progress: float) -> dict[str, Tensor]:
        """Weighted loss terms."""

    def encode(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Posterior ``(batch, codes)`` and state tensors of histories of item vectors ``(batch, length, dim)``."""
        states = last_valid(self.states(vectors), lengths)
        return torch.ones_like(states[:, :1]), states

    def read(self, interests: Tensor, lengths: Tensor, *state: Tensor) -> Tensor:
        """User vectors ``(batch, interests, dim)``, scaled so that dot products with items are logits."""
        user: Tensor = self.user(state[0]) / self.config.temperature
        return user[:, None].expand(-1, interests.shape[1], -1)

    @property
    def width(self) -> int:
        """Width of the item vectors that are searched."""
        return int(self.config.encoder.dim)

    def item_vectors(self) -> Tensor:
        """What user vectors are compared with and histories are encoded from, ``(items, width)``."""
        return self.searched(self.items.all())

    def searched(self, vectors: Tensor) -> Tensor:
        """What the index holds of item vectors ``(items, dim)``, ``(items, width)``."""
        return vectors

    def place(self, vectors: Tensor) -> Tensor:
        """Cell, by the codebook as it is, of items that are not in the catalogue, ``(items, dim)`` to ``(items,)``.

        Asked only where :meth:`item_codes` gives codes; all else lies in one cell.
        """
        return torch.zeros_like(vectors[:, 0], dtype=torch.int64)

    @property
    def n_cells(self) -> int:
        """Cells that items lie in: one a code, or one in all where codes are slots that own no items."""
        return self.codes

    @torch.no_grad()
    def cells(self) -> Tensor:
        """Cell of every item, ``(items,)``."""
        return torch.zeros(self.items.table.num_embeddings, dtype=torch.int64)

    def item_codes(self) -> tuple[Tensor, int] | None:
        """Codes of every item by level, ``(items, levels)``, and the codes of a level; None where items have none."""
        return None

    @property
    def warmup_epochs(self) -> int:
        """Epochs at most before :meth:`start`; 0 for a network that is trained as a whole."""
        return int(getattr(self.config, "warmup_epochs", 0))

    def start(self, epoch: int, seed: int) -> dict[str, Any]:
        """Start what the method adds to its warm-up, such as a codebook; returns figures for the log."""
        return {}

    def end_epoch(self, epoch: int, seed: int) -> dict[str, Any]:
        """Upkeep after every epoch but those of a warm-up, and its figures for the log."""
        return {}

    def welcome(self, new: Tensor) -> None:
        """Give codes to items ``(new,)`` that came after training; the codebook and the codes of others stay."""


class TensorBatch:
    """A batch on the network's device, with its valid positions picked out.

    Attributes
    ----------
    inputs, targets
        ``(rows, length)``; targets are -1 at padding.
    valid
        True at positions to predict, ``(rows, length)``.
    wanted
        The targets at valid positions, ``(positions,)``.
    negatives, log_q
        The shared pool and the log-probability with which each was drawn, ``(pool,)``.
    """

    def __init__(self, batch: Batch, log_q: Tensor) -> None:
        where = log_q.device
        self.inputs = torch.from_numpy(batch.inputs).to(where)
        self.targets = torch.from_numpy(batch.targets).to(where)
        self.negatives = torch.from_numpy(batch.negatives).to(where)
        self.log_q = log_q[self.negatives]
        self.valid = self.targets >= 0
        self.wanted = self.targets[self.valid]

    def softmax(
        self, users: Tensor, positives: Tensor, negatives: Tensor, temperature: float, hardness: float = 0.0
    ) -> Tensor:
        """Sampled softmax of users ``(positions, dim)`` against their targets and the pool."""
        same = self.wanted[:, None] == self.negatives
        return sampled_softmax(users, positives, negatives, self.log_q, same, temperature, hardness)


def last_valid(states: Tensor, lengths: Tensor) -> Tensor:
    """The state at each row's last valid position, ``(batch, dim)``."""
    place = (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[-1])
    return states.gather(1, place)[:, 0]


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
        TrainingRefused
            If a loss is not finite, a codebook collapses, or the best epoch is not above popularity.
        """
        self.catalogue = Catalogue.from_dataset(dataset)
        features = ItemFeatures.from_dataset(dataset) if self.config.features else None
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
        TrainingRefused
            See :meth:`fit`.
        """
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
        export_items(self.network, self.catalogue, folder)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Open what :meth:`save` wrote; see :meth:`Retriever.load`."""
        open_directory(path, "model")
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
        self.model, self.network, self.seed = model, model.network, seed
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
