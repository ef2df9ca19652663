"""SASRec: a causal transformer whose states score items by dot product, with full or sampled softmax."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from tesserec.models.network import Network, NeuralConfig, TensorBatch
from tesserec.models.neural import NeuralRetriever
from tesserec.nn.encoders import EncoderConfig
from tesserec.nn.losses import full_softmax
from tesserec.training.config import DotProductTraining


class TransformerConfig(EncoderConfig):
    """A causal transformer, which is what SASRec is, unless told otherwise.

    Attributes
    ----------
    kind
        See :class:`~tesserec.nn.encoders.EncoderConfig`.
    """

    kind: Literal["windows", "transformer", "mean", "none"] = "transformer"


class SASRecConfig(NeuralConfig):
    """Settings of :class:`SASRec`; see :class:`~tesserec.models.network.NeuralConfig`.

    Attributes
    ----------
    encoder
        A transformer, unless set otherwise.
    loss
        ``full``: cross-entropy over the whole catalogue. ``sampled``: over the shared pool of negatives, for
        catalogues where the full one costs too much (beyond about 50,000 items on a CPU).
    """

    encoder: TransformerConfig = TransformerConfig()
    training: DotProductTraining = DotProductTraining()
    normalise: bool = False
    temperature: float = Field(1.0, gt=0)
    loss: Literal["full", "sampled"] = "full"


class SASRecNetwork(Network):
    """State after each position against its next item."""

    def losses(self, batch: TensorBatch, progress: float) -> dict[str, Tensor]:
        """One term, ``softmax``."""
        if self.config.loss == "full":
            catalogue = self.items.every()
            states = self.states(F.embedding(batch.inputs, catalogue))[batch.valid]
            return {"softmax": full_softmax(self.user(states), catalogue, batch.wanted, self.config.temperature)}
        inputs, positives, negatives = self.items.lookup(batch.inputs, batch.wanted, batch.negatives)
        users = self.user(self.states(inputs)[batch.valid])
        return {"softmax": batch.softmax(users, positives, negatives, self.config.temperature)}


class SASRec(NeuralRetriever):
    """Self-attentive sequential recommendation (Kang and McAuley, ICDM 2018) with a softmax loss.

    The softmax in place of the paper's binary cross-entropy with one negative follows Klenitskiy and Vasilev (2023),
    who show it level with BERT4Rec. Ours: pre-norm blocks, GELU, right-padded rows of like length.
    """

    name = "sasrec"
    Config = SASRecConfig
    network_class = SASRecNetwork
