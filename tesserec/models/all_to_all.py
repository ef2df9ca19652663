"""All-to-all: every user token meets every item in one network; accurate, and as slow as the catalogue is large."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from tesserec.data.features import ItemFeatures
from tesserec.data.histories import Histories
from tesserec.index.catalogue import Catalogue
from tesserec.index.contract import Floats, Policy
from tesserec.index.postings import EveryItem
from tesserec.index.searcher import Searcher
from tesserec.models.neural import Network, NeuralConfig, NeuralRetriever, TensorBatch, last_valid
from tesserec.nn.cross import CrossScorer
from tesserec.nn.losses import softmax_of_scores
from tesserec.nn.tokens import TokensConfig, build_tokenizer

BLOCK_SCORES = 16_777_216
"""Scores of tokens with items that are alive at a time outside training, 64 MiB."""


class CrossWeights(BaseModel):
    """Weights of the loss terms; each at 0 switches its term off.

    Attributes
    ----------
    cross
        Sampled softmax of the cross scores.
    single
        Sampled softmax of the encoder's state against item vectors, a two-tower (ours): item vectors and states learn
        from the whole pool of negatives, of which the cross scorer sees ``pairs``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cross: float = Field(1.0, ge=0)
    single: float = Field(1.0, ge=0)


class AllToAllConfig(NeuralConfig):
    """Settings of :class:`AllToAll`; see also :class:`~tesserec.models.neural.NeuralConfig`.

    Attributes
    ----------
    tokens, weights
        The tokenizer, and the weights of the losses.
    hidden
        Hidden units of the scorer.
    pairs
        Negatives of the pool that are scored with every token of a step.
    relu_from
        Share of the epochs after which ``ReLU(s + b)`` takes the place of ``softplus(s + b)``; only epochs with the
        ReLU, which is what serves, can be the best.
    """

    tokens: TokensConfig = TokensConfig()
    weights: CrossWeights = CrossWeights()
    hidden: int = Field(64, ge=1)
    pairs: int = Field(256, ge=1)
    relu_from: float = Field(0.5, ge=0, lt=1)

    @property
    def soft_epochs(self) -> int:
        """Epochs that train with softplus."""
        return int(self.relu_from * self.training.epochs)


class CrossNetwork(Network):
    """Encoder, tokenizer and cross scorer: ``y = sum_k ReLU(E(t_k, i) + b)``."""

    sharp: Tensor

    def __init__(self, items: int, config: Any, features: ItemFeatures | None) -> None:
        super().__init__(items, config, features)
        self.tokenizer = build_tokenizer(config.tokens, config.encoder)
        scale = 1 / config.tokens.count
        self.scorer = CrossScorer(config.encoder.dim, config.hidden, scale / config.temperature)
        self.bias = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("sharp", torch.tensor(config.soft_epochs == 0))

    def tokens(self, vectors: Tensor, states: Tensor) -> Tensor:
        """Tokens after every event, ``(batch, length, tokens, dim)``."""
        tokens: Tensor = self.tokenizer(vectors, states).float()
        return self.user(tokens)

    def last_tokens(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Tokens ``(batch, tokens, dim)`` of histories of item vectors ``(batch, length, dim)``."""
        tokens = self.tokens(vectors, self.states(vectors))
        return last_valid(tokens.flatten(2), lengths).unflatten(-1, (self.config.tokens.count, -1))

    def values(self, scores: Tensor) -> Tensor:
        """What a token and an item are worth to each other: ReLU(s + b), or softplus until mid-training."""
        scores = scores + self.bias
        return F.relu(scores) if self.sharp or not self.training else F.softplus(scores)

    def score(self, tokens: Tensor, items: Tensor) -> Tensor:
        """``y`` of users' tokens ``(users, tokens, dim)`` with items ``(items, dim)``, ``(users, items)``."""
        values = self.values(self.scorer(tokens.flatten(0, 1), items))
        return values.unflatten(0, tokens.shape[:2]).sum(1)

    def losses(self, batch: TensorBatch, progress: float) -> dict[str, Tensor]:
        """``cross`` and ``single``; see :class:`CrossWeights`."""
        inputs, positives, negatives = self.items.lookup(batch.inputs, batch.wanted, batch.negatives)
        states = self.states(inputs)
        tokens, terms = self.prepare(self.tokens(inputs, states)[batch.valid])
        if self.config.weights.single:
            users = self.user(states[batch.valid])
            terms["single"] = batch.softmax(users, positives, negatives, self.config.temperature)
        if self.config.weights.cross:
            terms["cross"] = self._cross(tokens, positives, negatives[: self.config.pairs], batch)
        return {name: getattr(self.config.weights, name) * term for name, term in terms.items()}

    def prepare(self, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens ``(users, tokens, dim)`` as the scorer sees them, and unweighted loss terms of their making."""
        return tokens, {}

    def _cross(self, tokens: Tensor, positives: Tensor, negatives: Tensor, batch: TensorBatch) -> Tensor:
        positive = self.values(self.scorer.own(tokens, positives[:, None])).sum(1)
        same = batch.wanted[:, None] == batch.negatives[: len(negatives)]
        return softmax_of_scores(positive, self.score(tokens, negatives), batch.log_q[: len(negatives)], same)

    def end_epoch(self, epoch: int, seed: int) -> dict[str, Any]:
        """Replace softplus by ReLU when its time has come."""
        self.sharp.fill_(epoch + 1 >= self.config.soft_epochs)
        return {}

    def complete(self, epoch: int) -> bool:
        """True from the first epoch that trained with ReLU."""
        return epoch >= int(self.config.soft_epochs)


class HistoryVectors:
    """Item vectors of histories, as a network reads them."""

    def __init__(self, network: Network) -> None:
        self.vectors = network.item_vectors()
        self.max_length: int = network.config.encoder.max_length

    def __call__(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """Vectors ``(users, length, dim)``, right-padded, and lengths ``(users,)``."""
        recent, where = histories.last(self.max_length), self.vectors.device
        lengths = torch.from_numpy(np.ascontiguousarray(recent.lengths)).to(where)
        return self.vectors[torch.from_numpy(recent.padded(0)).to(where)], lengths


class CrossSide:
    """Scores of every item, from tensors in memory; a :class:`tesserec.index.user_side.DenseSide`."""

    def __init__(self, network: CrossNetwork) -> None:
        self.network, self.inputs = network, HistoryVectors(network)

    @torch.inference_mode()
    def score(self, histories: Histories) -> Floats:
        """Scores ``(users, items)``."""
        tokens, items = self.network.last_tokens(*self.inputs(histories)), self.inputs.vectors
        users = max(1, BLOCK_SCORES // (len(items) * tokens.shape[1]))
        scores: Floats = (
            torch.cat([self.network.score(some, items) for some in torch.split(tokens, users)]).cpu().numpy()
        )
        return scores


def all_items_searcher(catalogue: Catalogue, network: CrossNetwork) -> Searcher:
    """A searcher that scores the whole catalogue for every user."""
    side = CrossSide(network.eval())
    return Searcher(catalogue, side, EveryItem(len(catalogue)), Policy(interests=1))


class AllToAll(NeuralRetriever):
    """SparCode's network without its codes, the upper bound that its paper compares with (Su et al., SIGIR 2023).

    From the paper: K tokens a user, any pair encoder, ``y = sum_k ReLU(E(t_k, i) + b)``. Every request scores every
    item, so it is measured and not served: a bundle of it is refused.

    Notes
    -----
    Ours: training at every position of a history, the scorer of :class:`~tesserec.nn.cross.CrossScorer`, a two-tower's
    softmax beside the cross scorer's, one learned b, softplus in the first half of the training.
    """

    name = "all-to-all"
    network: CrossNetwork
    Config = AllToAllConfig
    network_class = CrossNetwork

    @cached_property
    def searcher(self) -> Searcher:
        """See :attr:`Retriever.searcher`."""
        return all_items_searcher(self.catalogue, self.network)

    def export(self, folder: Path) -> None:
        """Refuse, as :meth:`tesserec.index.postings.EveryItem.save` does."""
        EveryItem(len(self.catalogue)).save(folder)
