"""What retrievers with several free vectors share: extraction from every prefix, hard read-out, equal interests.

Their interests are slots of the network, not cells of the catalogue: slot 2 of one user has nothing to do with slot 2
of another, no slot has a probability, and every slot is searched.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tesserec.data.features import ItemFeatures
from tesserec.index.contract import Policy
from tesserec.models.network import Network, NeuralConfig, TensorBatch
from tesserec.models.neural import NeuralRetriever
from tesserec.nn.encoders import EncoderConfig


class MultiInterestConfig(NeuralConfig):
    """Settings of models with several free vectors; see :class:`~tesserec.models.network.NeuralConfig`.

    Attributes
    ----------
    interests
        Vectors a user (K); 1 is the ablation to a single vector.
    """

    interests: int = Field(4, ge=1)


class PlainEncoderConfig(EncoderConfig):
    """An encoder that leaves the history to the model unless told otherwise.

    Attributes
    ----------
    kind
        See :class:`~tesserec.nn.encoders.EncoderConfig`.
    """

    kind: Literal["windows", "transformer", "mean", "none"] = "none"


class MultiInterestNetwork(Network):
    """Encoder, then K vectors of each prefix of a history; a model says how they are extracted.

    Training predicts at every position, so the vectors of all prefixes of a row are extracted at once. The interest
    nearest to the target learns from it (hard read-out, ComiRec section 3.3), by sampled softmax over the shared pool.
    """

    def __init__(self, items: int, config: Any, features: ItemFeatures | None) -> None:
        super().__init__(items, config, features)
        self.codes = config.interests

    @abstractmethod
    def extract(self, states: Tensor, prefixes: Tensor) -> Tensor:
        """Interest vectors of prefixes.

        Parameters
        ----------
        states
            What the encoder makes of a history, ``(batch, length, dim)``.
        prefixes
            True where a prefix holds a position, ``(batch or 1, prefixes, length)``; each holds at least one, and they
            are consecutive from position 0.

        Returns
        -------
        Tensor
            ``(batch, prefixes, interests, dim)``.
        """

    def softmax(self, users: Tensor, positives: Tensor, negatives: Tensor, batch: TensorBatch) -> Tensor:
        """Loss of user vectors ``(positions, interests, dim)``; by default that of the one nearest to the target."""
        return batch.softmax(nearest_interest(users, positives), positives, negatives, self.config.temperature)

    def regularise(self, states: Tensor, prefixes: Tensor, batch: TensorBatch) -> dict[str, Tensor]:
        """Weighted loss terms beside the softmax, of what :meth:`extract` gets; none by default."""
        return {}

    def losses(self, batch: TensorBatch, progress: float) -> dict[str, Tensor]:
        """``softmax`` of all prefixes' interests, and what the model adds."""
        inputs, positives, negatives = self.items.lookup(batch.inputs, batch.wanted, batch.negatives)
        states = self.states(inputs)
        prefixes = torch.ones(1, *states.shape[1:2] * 2, dtype=torch.bool, device=states.device).tril()
        users = self.user(self.extract(states, prefixes)[batch.valid])
        return {
            "softmax": self.softmax(users, positives, negatives, batch),
            **self.regularise(states, prefixes, batch),
        }

    def encode(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Equal shares over the interests, and their vectors ``(batch, interests * dim)`` after the last event."""
        states = self.states(vectors)
        held = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
        interests = self.user(self.extract(states, held[:, None])[:, 0]) / self.config.temperature
        share = torch.full_like(interests[..., 0], 1 / self.codes)
        return share, interests.flatten(1)

    def read(self, interests: Tensor, lengths: Tensor, *state: Tensor) -> Tensor:
        """The chosen slots' vectors, ``(batch, interests, dim)``."""
        slots = state[0].view(state[0].shape[0], self.codes, -1)
        return slots.gather(1, interests[..., None].expand(-1, -1, slots.shape[-1]))

    @property
    def n_cells(self) -> int:
        """Slots own no items, so there is one cell."""
        return 1


def nearest_interest(users: Tensor, positives: Tensor) -> Tensor:
    """The interest of each row with the largest dot product with its target: ``(rows, K, dim)`` to ``(rows, dim)``."""
    nearest = torch.einsum("nkd,nd->nk", users.detach().float(), positives.detach().float()).argmax(-1)
    return users.gather(1, nearest[:, None, None].expand(-1, 1, users.shape[-1]))[:, 0]


class MultiInterestRetriever(NeuralRetriever):
    """A retriever that searches with all of its interests and ranks an item by the best of them."""

    network: MultiInterestNetwork

    def policy(self) -> Policy:
        """Every interest, merged by the largest score."""
        return Policy(interests=self.config.interests, merge="max")
