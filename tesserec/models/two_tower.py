"""Two-tower: one user vector, trained by a normalised softmax over shared negatives."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from tesserec.models.network import Network, NeuralConfig, TensorBatch
from tesserec.models.neural import NeuralRetriever


class TwoTowerConfig(NeuralConfig):
    """Settings of :class:`TwoTower`; see :class:`~tesserec.models.network.NeuralConfig`."""

    horizon: int = Field(5, ge=1)


class TwoTowerNetwork(Network):
    """State after each position against its target, with sampled softmax."""

    def losses(self, batch: TensorBatch, progress: float) -> dict[str, Tensor]:
        """One term, ``softmax``."""
        inputs, positives, negatives = self.items.lookup(batch.inputs, batch.wanted, batch.negatives)
        users = self.user(self.states(inputs)[batch.valid])
        return {"softmax": batch.softmax(users, positives, negatives, self.config.temperature)}


class TwoTower(NeuralRetriever):
    """The strong single-vector recipe: cosine similarity, temperature, log-Q correction, next-n targets.

    Source: "Uni-InfoNCE u2i" with next-n labels of the TR user-item candidate-generation paper, which beats the
    published multi-interest models on Amazon Books. Ours: every position of a history is a training example, the
    encoder may be any, and negatives come from one seeded pool drawn from a mixture of popularity and
    uniform rather than from the batch.
    """

    name = "two-tower"
    Config = TwoTowerConfig
    network_class = TwoTowerNetwork
