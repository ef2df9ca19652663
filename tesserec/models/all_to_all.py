"""All-to-all: every user token meets every item in one network; accurate, and as slow as the catalogue is large."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from tesserec.data.features import ItemFeatures
from tesserec.data.histories import Histories
from tesserec.index.contract import Floats
from tesserec.index.postings import EveryItem
from tesserec.index.searcher import Searcher
from tesserec.models.codebooks import LossWeights, WarmConfig
from tesserec.models.network import Network, TensorBatch, last_valid
from tesserec.models.neural import NeuralRetriever
from tesserec.nn.cross import CrossScorer
from tesserec.nn.losses import softmax_of_scores
from tesserec.nn.tokens import TokensConfig, build_tokenizer

BLOCK_SCORES = 16_777_216
"""Scores of tokens with items that are alive at a time outside training, 64 MiB."""


class CrossWeights(LossWeights):
    """Weights of the loss terms; each at 0 switches its term off.

    Attributes
    ----------
    cross
        Sampled softmax of the cross scores.
    single
        Sampled softmax of the encoder's state against item vectors, a two-tower (ours): item vectors and states learn
        from the whole pool of negatives, of which the cross scorer sees ``pairs``.
    """

    cross: float = Field(1.0, ge=0)
    single: float = Field(1.0, ge=0)


class AllToAllConfig(WarmConfig):
    """Settings of :class:`AllToAll`; see also :class:`~tesserec.models.codebooks.WarmConfig`.

    Attributes
    ----------
    tokens, weights
        The tokenizer, and the weights of the losses.
    hidden
        Hidden units of the scorer.
    pairs
        Negatives of the pool that are scored with every token of a step.
    warmup_epochs
        Epochs at most as a plain two-tower, before tokens and the scorer are trained.
    """

    tokens: TokensConfig = TokensConfig()
    weights: CrossWeights = CrossWeights()
    hidden: int = Field(64, ge=1)
    pairs: int = Field(256, ge=1)


@dataclass(frozen=True)
class Seen:
    """What a scorer sees of users: each is a weighted sum of words.

    Attributes
    ----------
    words
        Tokens, or codewords that stand for them, ``(words, dim)``; each is scored once, however many users have it.
    places, weights
        A user's words, int64, and what each counts, ``(users, seen)``.
    pull
        Nothing in value, ``(users, dim)``: takes to tokens, by its product with items, the gradient that words keep.
    """

    words: Tensor
    places: Tensor
    weights: Tensor
    pull: Tensor | None = None


class CrossNetwork(Network):
    """Encoder, tokenizer and cross scorer: ``y = sum_k w_k ReLU(E(t_k, i) + b)``."""

    warm: Tensor

    def __init__(self, items: int, config: Any, features: ItemFeatures | None) -> None:
        super().__init__(items, config, features)
        self.tokenizer = build_tokenizer(config.tokens, config.encoder)
        scale, count = 1 / config.temperature, config.tokens.count
        self.scorer = CrossScorer(config.encoder.dim, config.hidden, scale)
        # The smallest b at which no cosine is cut off: the scorer starts as a two-tower and learns where to cut.
        self.bias = torch.nn.Parameter(torch.tensor(scale))
        worth = [1.0] + [0.1] * (count - 1) if config.tokens.kind == "items" else [1 / count] * count
        self.shares = torch.nn.Parameter(torch.tensor(worth).expm1().log())
        self.register_buffer("warm", torch.tensor(False))

    def tokens(self, vectors: Tensor, states: Tensor) -> Tensor:
        """Tokens after every event, ``(batch, length, tokens, dim)``."""
        tokens: Tensor = self.tokenizer(vectors, states).float()
        return self.user(tokens)

    def last_tokens(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Tokens ``(batch, tokens, dim)`` of histories of item vectors ``(batch, length, dim)``."""
        tokens = self.tokens(vectors, self.states(vectors))
        return last_valid(tokens.flatten(2), lengths).view(tokens.shape[0], *tokens.shape[2:])

    @property
    def token_weights(self) -> Tensor:
        """What the place of a token is worth, positive, ``(tokens,)``."""
        return F.softplus(self.shares)

    def values(self, scores: Tensor) -> Tensor:
        """What a token and an item are worth to each other, ReLU(s + b)."""
        return F.relu(scores + self.bias)

    def score(self, seen: Seen, items: Tensor) -> Tensor:
        """``y`` of users with items ``(items, dim)``, ``(users, items)``."""
        values = self.values(self.scorer(seen.words, items))
        scores = F.embedding_bag(seen.places, values, per_sample_weights=seen.weights, mode="sum")
        return scores if seen.pull is None else scores + (seen.pull @ items.detach().T).float()

    def own(self, seen: Seen, items: Tensor) -> Tensor:
        """``y`` of each user with its own item ``(users, dim)``, ``(users,)``."""
        values = self.values(self.scorer.own(seen.words[seen.places], items[:, None]))
        scores = (values * seen.weights).sum(-1)
        return scores if seen.pull is None else scores + (seen.pull * items.detach()).sum(-1, dtype=torch.float32)

    def losses(self, batch: TensorBatch, progress: float) -> dict[str, Tensor]:
        """``cross`` and ``single``, see :class:`CrossWeights`; in the warm-up the latter alone."""
        inputs, positives, negatives = self.items.lookup(batch.inputs, batch.wanted, batch.negatives)
        states, weights = self.states(inputs), self.config.weights
        terms = {}
        if weights.single or not self.warm:
            users = self.user(states[batch.valid])
            terms["single"] = batch.softmax(users, positives, negatives, self.config.temperature)
        if not self.warm:
            return terms
        seen, of_tokens = self.prepare(self.tokens(inputs, states)[batch.valid])
        terms |= of_tokens
        if weights.cross:
            terms["cross"] = self._cross(seen, positives, negatives[: self.config.pairs], batch)
        return {name: getattr(weights, name) * term for name, term in terms.items()}

    def prepare(self, tokens: Tensor) -> tuple[Seen, dict[str, Tensor]]:
        """What the scorer sees of tokens ``(users, tokens, dim)``, and unweighted loss terms of its making."""
        users, count = tokens.shape[:2]
        places = torch.arange(users * count, device=tokens.device).view(users, count)
        return Seen(tokens.flatten(0, 1), places, self.token_weights.expand(users, count)), {}

    def _cross(self, seen: Seen, positives: Tensor, negatives: Tensor, batch: TensorBatch) -> Tensor:
        same = batch.wanted[:, None] == batch.negatives[: len(negatives)]
        scores = self.score(seen, negatives)
        return softmax_of_scores(self.own(seen, positives), scores, batch.log_q[: len(negatives)], same)

    def start(self, epoch: int, seed: int) -> dict[str, Any]:
        """From now on the scorer ranks."""
        self.warm.fill_(True)
        return {}


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
        found = [self.network.score(self.network.prepare(some)[0], items) for some in torch.split(tokens, users)]
        scores: Floats = torch.cat(found).cpu().numpy()
        return scores


class AllToAll(NeuralRetriever):
    """SparCode's network without its codes, the upper bound that its paper compares with (Su et al., SIGIR 2023).

    From the paper: K tokens a user, any pair encoder, ``y = sum_k ReLU(E(t_k, i) + b)``. Every request scores every
    item, so it is measured and not served: a bundle of it is refused.

    Notes
    -----
    Ours: training at every position of a history; a warm-up as a two-tower, whose softmax stays beside the scorer's;
    the scorer of :class:`~tesserec.nn.cross.CrossScorer`; one learned b, at first so large that no pair is cut off; a
    learned weight for the place of a token, positive, which is the same for all users and so serves as a weight of the
    list that is read.
    """

    name = "all-to-all"
    network: CrossNetwork
    Config = AllToAllConfig
    network_class = CrossNetwork

    @cached_property
    def searcher(self) -> Searcher:
        """Every item is scored for every user; in the warm-up, the two-tower's search."""
        if not self.network.warm:
            return super().searcher
        return Searcher(self.catalogue, CrossSide(self.network.eval()), EveryItem(len(self.catalogue)), self.policy())

    def export(self, folder: Path) -> None:
        """Refuse, as :meth:`tesserec.index.postings.EveryItem.save` does."""
        EveryItem(len(self.catalogue)).save(folder)
