"""The network behind a trained retriever: settings, the protocol that training and serving rely on, and batches."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from tesserec.data.batches import Batch
from tesserec.data.features import ItemFeatures
from tesserec.nn.encoders import EncoderConfig, build_encoder
from tesserec.nn.features import FeatureEncoder
from tesserec.nn.items import ItemTower
from tesserec.nn.losses import sampled_softmax
from tesserec.training.config import TrainingConfig


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
        """Give codes to items ``(new,)`` that came, or changed, after training; the codebook and other codes stay."""


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
    distinct
        Targets and negatives, each item once, ``(items,)``.
    epoch_positions
        Positions to predict in the whole epoch.
    """

    def __init__(self, batch: Batch, log_q: Tensor) -> None:
        where = log_q.device
        self.inputs = torch.from_numpy(batch.inputs).to(where)
        self.targets = torch.from_numpy(batch.targets).to(where)
        self.negatives = torch.from_numpy(batch.negatives).to(where)
        self.log_q = log_q[self.negatives]
        self.valid = self.targets >= 0
        self.wanted = self.targets[self.valid]
        self.epoch_positions = batch.epoch_positions

    @property
    def distinct(self) -> Tensor:
        distinct: Tensor = torch.unique(torch.cat([self.wanted, self.negatives]))
        return distinct

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
