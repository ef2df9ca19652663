"""SparCode: user tokens are quantised, so that a network over (token, item) pairs becomes an inverted index."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from tesserec.data.dataset import Dataset
from tesserec.data.features import ItemFeatures
from tesserec.data.histories import Histories
from tesserec.errors import ConfigError
from tesserec.index.contract import Codes, Floats
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.models.all_to_all import (
    BLOCK_SCORES,
    AllToAllConfig,
    CrossNetwork,
    CrossWeights,
    HistoryVectors,
    Seen,
)
from tesserec.models.neural import FitTask, NeuralRetriever
from tesserec.nn.codebook import upkeep
from tesserec.nn.estimators import PASSES
from tesserec.nn.precision import without_autocast
from tesserec.nn.product import ProductQuantiser
from tesserec.nn.quantisers import CodebookConfig
from tesserec.nn.reads import convex_weights, nearest_tuples
from tesserec.nn.tokens import agreement, nearest_listed, tuple_words

MOST_TUPLES = 1 << 22
"""Tuples that can be named: each takes four bytes in a table that finds its list."""

SAMPLE_USERS = 20_000
"""Training users whose tokens start the codebook and show its health."""

TOKEN_USERS = 1024
"""Users whose tokens are made at a time."""


class TokenCodebookConfig(CodebookConfig):
    """Size of the codebooks of tokens and what moves them; see also :class:`~tesserec.nn.quantisers.CodebookConfig`.

    Attributes
    ----------
    shared
        One codebook for all tokens of a user, as in the paper's code, rather than one for each place of a token.
    """

    codes: int = Field(64, ge=2)
    update: Literal["gradient", "ema"] = "ema"
    shared: bool = False


class SparCodeWeights(CrossWeights):
    """Weights of the loss terms; see also :class:`~tesserec.models.all_to_all.CrossWeights`.

    Attributes
    ----------
    commitment
        Draws tokens to their codewords (beta).
    """

    commitment: float = Field(1.0, ge=0)


class SparCodeConfig(AllToAllConfig):
    """Settings of :class:`SparCode`; see also :class:`~tesserec.models.all_to_all.AllToAllConfig`.

    Attributes
    ----------
    codebook
        Parts (``levels``, M), codes a part (N) and what moves them.
    reads
        Tuples that a token reads the lists of, its nearest; 1 as in the paper.
    list_length
        Items kept of each tuple's list, its best (T).
    all_tuples
        All tuples get lists where they are at most so many, over all tokens' codebooks; otherwise those that training
        users read.
    """

    codebook: TokenCodebookConfig = TokenCodebookConfig()
    weights: SparCodeWeights = SparCodeWeights()
    reads: int = Field(4, ge=1)
    list_length: int = Field(1000, ge=1)
    all_tuples: int = Field(4096, ge=0)

    @property
    def tuples(self) -> int:
        """Tuples that tokens can take: N^M, for each place of a token that has a codebook of its own."""
        return int(self.codebook.codes**self.codebook.levels) * self.codebooks

    @property
    def codebooks(self) -> int:
        """Codebooks of M parts: one, or one a token."""
        return 1 if self.codebook.shared else self.tokens.count

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.encoder.dim % self.codebook.levels:
            raise ValueError(
                f"codebook.levels = {self.codebook.levels} parts do not divide encoder.dim = {self.encoder.dim}; "
                "choose a divisor of it"
            )
        if self.reads > self.tuples // self.codebooks:
            raise ValueError(
                f"reads = {self.reads}, but a token has {self.tuples // self.codebooks} tuples to read (codebook.codes "
                "to the power of codebook.levels); read fewer"
            )
        if self.reads > 1 and self.codebook.estimator == "gumbel":
            raise ValueError(
                f"reads = {self.reads} with codebook.estimator = 'gumbel', which mixes all codes in training; set "
                "reads = 1 or another estimator"
            )
        if self.tuples > MOST_TUPLES:
            raise ValueError(
                f"codebook.codes = {self.codebook.codes} in codebook.levels = {self.codebook.levels} parts make "
                f"{self.tuples} tuples of {self.codebooks} codebooks, more than {MOST_TUPLES} can be listed; use fewer"
            )
        return self


class SparCodeNetwork(CrossNetwork):
    """The all-to-all network with quantised tokens, and the table that says which list a tuple reads."""

    listed: Tensor
    list_of: Tensor
    cuts: Tensor

    def __init__(self, items: int, config: SparCodeConfig, features: ItemFeatures | None) -> None:
        super().__init__(items, config, features)
        parts = config.codebook.levels * config.codebooks
        of_all = config.codebook.model_copy(update={"levels": parts})
        self.quantiser = ProductQuantiser(of_all, config.encoder.dim * config.codebooks)
        self.register_buffer("listed", torch.zeros(config.tuples, dtype=torch.bool))
        self.register_buffer("list_of", torch.zeros(config.tuples, dtype=torch.int32))
        # What each list takes off the values of its items, from when lists were last made.
        self.register_buffer("cuts", torch.zeros(0), persistent=False)

    def prepare(self, tokens: Tensor) -> tuple[Seen, dict[str, Tensor]]:
        """The codewords that tokens read, each of them once, and the quantiser's terms."""
        flat, weights, terms = self.rows(tokens), self.config.weights, {}
        quantised = self.quantiser(flat)
        if weights.commitment:
            terms["commitment"] = self.quantiser.loss(flat, quantised) / self.config.codebooks  # of a token, on average
        seen = super().prepare(quantised.rebuilt.view(tokens.shape))[0] if self._mixes else self._codewords(tokens)
        if self.training:
            self.quantiser.update(quantised)
        return seen, terms

    @property
    def _mixes(self) -> bool:
        """Whether training sees mixtures of all codes, which their gradients reach by themselves."""
        return self.training and self.config.codebook.estimator == "gumbel"

    def _codewords(self, tokens: Tensor) -> Seen:
        read, shares = self.read_tuples(tokens)
        found, places = torch.unique(self.numbers(read).flatten(1), return_inverse=True)
        words = self._words(found)
        seen = Seen(words, places, (shares * self.token_weights[:, None]).flatten(1))
        if not (self.training and tokens.requires_grad):
            return seen
        rebuilt = (F.embedding(places, words.detach()).view(*shares.shape, -1) * shares[..., None]).sum(2)
        passed = PASSES[self.config.codebook.estimator](tokens.flatten(0, 1), rebuilt.flatten(0, 1))
        pulls = self.scorer.pull(passed).view(tokens.shape)
        return replace(seen, pull=torch.einsum("ukd,k->ud", pulls, self.token_weights.detach()))

    def _words(self, numbers: Tensor) -> Tensor:
        """Codewords of tuples, numbered over all codebooks and rising, ``(numbers, dim)``."""
        size = len(self.listed) // self.config.codebooks
        return torch.cat(
            [tuple_words(numbers[numbers // size == place] % size, book) for place, book in enumerate(self.books)]
        )

    def rows(self, tokens: Tensor) -> Tensor:
        """Tokens ``(users, tokens, dim)`` as the quantiser takes them: one by one, or a user's side by side."""
        return tokens.flatten(0, 1) if self.config.codebook.shared else tokens.flatten(1)

    @property
    def books(self) -> Tensor:
        """The codebooks, ``(codebooks, parts, codes, width)``."""
        flat = self.quantiser.codebooks
        return flat.view(self.config.codebooks, -1, *flat.shape[1:])

    def read_tuples(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The tuples that tokens ``(users, tokens, dim)`` read, and the share of each in its token.

        Numbers within the codebook of a token's place, int64, and shares of sum one, ``(users, tokens, reads)`` each.
        """
        with without_autocast(tokens.device):
            numbers = nearest_tuples(tokens, self.books, self.config.reads)
            books = self.books.expand(tokens.shape[1], -1, -1, -1)
            words = [tuple_words(own, book) for own, book in zip(numbers.unbind(1), books, strict=True)]
            return numbers, convex_weights(tokens, torch.stack(words, 1))

    def numbers(self, read: Tensor) -> Tensor:
        """Numbers over all codebooks of tuples that :meth:`read_tuples` gave."""
        count = len(self.listed)
        return read + torch.arange(0, count, count // self.config.codebooks, device=read.device)[:, None]

    def weigh(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Lists to read after histories of item vectors, int64, and their weights, ``(batch, tokens * reads)`` each."""
        read, shares = self.read_tuples(self.last_tokens(vectors, lengths))
        lists = self.list_of[self.numbers(read)].long()
        return lists.flatten(1), (shares * self.token_weights[:, None]).flatten(1)

    @torch.no_grad()
    def list_tuples(self, numbers: Tensor) -> None:
        """Give these tuples lists, and no others; another tuple reads the list of the nearest of them."""
        self.listed.fill_(False).index_fill_(0, numbers.flatten(), True)
        lists, begin = [], 0
        for mine, book in zip(self.listed.view(self.config.codebooks, -1), self.books, strict=True):
            listed = mine.nonzero()[:, 0]
            lists.append(begin + nearest_listed(listed, book))
            begin += len(listed)
        self.list_of.copy_(torch.cat(lists))

    @torch.no_grad()
    def postings(self, items: Tensor) -> ScorePostings:
        """The best items of every listed tuple, from item vectors ``(items, dim)``; sets ``cuts``.

        Each is worth ``ReLU(E(tuple, i) + b)`` less what the best item that is left out is worth. So a list ends at
        nothing, and an item that is missing from one of a user's lists is hardly behind the last that is on it.
        """
        words, length = self.words(), self.config.list_length
        best, scores = [], []
        for block in torch.split(words, max(1, BLOCK_SCORES // len(items))):
            top = torch.topk(self.values(self.scorer(block, items)), min(length + 1, len(items)))
            best.append(top.indices.cpu())
            scores.append(top.values)
        values = torch.cat(scores)
        self.cuts = values[:, length] if length < len(items) else torch.zeros_like(values[:, 0])
        values = (values - self.cuts[:, None]).cpu()
        code, place = (values > 0).nonzero(as_tuple=True)
        return ScorePostings.build(
            code.numpy(),
            torch.cat(best)[code, place].numpy(),
            values[code, place].numpy(),
            n_codes=len(words),
            size=len(items),
        )

    def words(self) -> Tensor:
        """The codewords of every list, ``(lists, dim)``."""
        return self._words(self.listed.nonzero()[:, 0])

    @torch.no_grad()
    def quantise(self, tokens: Tensor, epoch: int, seed: int) -> dict[str, Any]:
        """Start the codebook from tokens ``(users, tokens, dim)``, or keep it up; reports its health by part."""
        if not self.quantiser.started:
            self.quantiser.start(self.rows(tokens), seed)
        rows = self.rows(tokens)
        health = upkeep(self.quantiser, rows, epoch, seed)
        lost = (rows - self.quantiser(rows).rebuilt).view(tokens.shape)
        return health | {"tokens/agreement": float(agreement(lost))}


class TupleSide:
    """Which lists a history reads, from tensors in memory; a :class:`tesserec.index.user_side.ScoreSide`."""

    def __init__(self, network: SparCodeNetwork) -> None:
        self.network, self.inputs = network, HistoryVectors(network)

    @torch.inference_mode()
    def weigh(self, histories: Histories) -> tuple[Codes, Floats]:
        """See :class:`tesserec.index.user_side.ScoreSide`."""
        lists, weights = self.network.weigh(*self.inputs(histories))
        return lists.cpu().numpy().astype(np.int32), weights.cpu().numpy()


class SparCodeTask(FitTask):
    """The loop's view of SparCode: codes are kept up, and lists built, from the tokens of users."""

    model: SparCode

    def __init__(self, model: SparCode, dataset: Dataset, seed: int) -> None:
        super().__init__(model, dataset, seed)
        rows = np.random.default_rng(seed).permutation(len(dataset.train))[:SAMPLE_USERS]
        self.sample = dataset.train.take(np.sort(rows))
        codes = model.config.codebook.codes
        held = len(self.sample) * (model.config.tokens.count if model.config.codebook.shared else 1)
        if codes > held:
            raise ConfigError(
                f"codebook.codes = {codes}, but the {len(self.sample):,} training users have only {held:,} tokens to "
                "quantise; use fewer codes"
            )

    def end_epoch(self, epoch: int) -> dict[str, Any]:
        """See :class:`tesserec.training.loop.Task`."""
        return self.model.network.quantise(self.model.tokens(self.sample), epoch, self.seed)

    def start(self, epoch: int) -> dict[str, Any]:
        """See :class:`tesserec.training.loop.Task`."""
        return super().start(epoch) | self.end_epoch(epoch)

    def validate(self) -> dict[str, float]:
        """Recall on the validation users, by lists of their tuples alone."""
        if self.model.network.warm:
            self.model.list_tuples(self.part.histories)
        return super().validate()


class SparCode(NeuralRetriever):
    """SparCode-style retrieval (Su et al., SIGIR 2023), after the paper's figures and its authors' code.

    From the paper: a user is K tokens; a product quantiser, moved by moving averages and a commitment loss, makes them
    tuples of codes; any pair encoder scores (tuple, item); ``y = sum_k ReLU(E(t_k, i) + b)``. Since there are finitely
    many tuples, E is computed offline: each tuple has an inverted list of scored items, and a request adds up K lists.
    A served score is the training score.

    Notes
    -----
    Ours: what :class:`~tesserec.models.all_to_all.AllToAll` notes; a token reads the lists of several near tuples, in
    the shares that together rebuild it best (:mod:`tesserec.nn.reads`), in training and serving alike; codebooks of its
    own for each token, so that K divisions of users are added up, while tokens under one codebook for all, as in the
    paper's code (``codebook.shared``), are drawn to the same codes until they say no more than one; k-means on tokens
    after the warm-up; a step scores each code that it meets once, and the ranking loss reaches the tokenizer straight
    through what the codes rebuild, by the product in E alone; dead codes restart after each epoch. b is learned in
    training; for each list it is then lowered until no more than the ``list_length`` best items are above zero. So a
    served score is the training score less a constant of the user, except for items that a list has cut off. Where
    there are more tuples than ``all_tuples``, those that training users read get lists, and any other tuple reads the
    list of the nearest of these.
    """

    name = "sparcode"
    network: SparCodeNetwork
    Config = SparCodeConfig
    network_class = SparCodeNetwork

    def after_training(self, dataset: Dataset, seed: int) -> None:
        """Make the lists that serve."""
        self.list_tuples(dataset.train, every=self.config.tuples <= self.config.all_tuples)

    def task(self, dataset: Dataset, seed: int) -> SparCodeTask:
        """See :meth:`NeuralRetriever.task`."""
        return SparCodeTask(self, dataset, seed)

    @torch.inference_mode()
    def tokens(self, histories: Histories) -> Tensor:
        """Tokens of users before quantisation, ``(users, tokens, dim)``."""
        inputs = HistoryVectors(self.network.eval())
        blocks = np.array_split(np.arange(len(histories)), -(-len(histories) // TOKEN_USERS))
        return torch.cat([self.network.last_tokens(*inputs(histories.take(block))) for block in blocks])

    def list_tuples(self, histories: Histories, every: bool = False) -> None:
        """Give lists to the tuples of these users, or to every tuple; see :meth:`SparCodeNetwork.list_tuples`."""
        network = self.network
        if every:
            network.list_tuples(torch.arange(self.config.tuples, device=network.listed.device))
        else:
            blocks = torch.split(self.tokens(histories), TOKEN_USERS)
            network.list_tuples(torch.cat([network.numbers(network.read_tuples(block)[0]) for block in blocks]))
        self.__dict__.pop("searcher", None)

    @cached_property
    def searcher(self) -> Searcher:
        """Lists of tuples and which of them a history reads; in the warm-up, the two-tower's search."""
        if not self.network.warm:
            return super().searcher
        side = TupleSide(self.network.eval())
        return Searcher(self.catalogue, side, self.network.postings(side.inputs.vectors), self.policy())

    def export(self, folder: Path) -> None:
        """See :meth:`NeuralRetriever.export`."""
        from tesserec.models.export import export_lists

        assert isinstance(self.searcher.postings, ScorePostings)  # made now at the latest, and with them the cuts
        export_lists(self.network, folder)
