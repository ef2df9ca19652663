"""SparCode: user tokens are quantised, so that a network over (token, item) pairs becomes an inverted index."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from tesserec.data.dataset import Dataset
from tesserec.data.features import ItemFeatures
from tesserec.data.histories import Histories
from tesserec.index.contract import Codes, Floats
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.models.all_to_all import (
    BLOCK_SCORES,
    AllToAllConfig,
    CrossNetwork,
    CrossWeights,
    HistoryVectors,
)
from tesserec.models.neural import FitTask, NeuralRetriever
from tesserec.nn.codebook import upkeep
from tesserec.nn.product import ProductQuantiser
from tesserec.nn.quantisers import CodebookConfig
from tesserec.nn.tokens import agreement, nearest_listed, tuple_numbers, tuple_words

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
    list_length
        Items kept of each tuple's list, its best (T).
    all_tuples
        A codebook of at most this many tuples gets a list for each; a larger one for those of training users.
    """

    codebook: TokenCodebookConfig = TokenCodebookConfig()
    weights: SparCodeWeights = SparCodeWeights()
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

    def __init__(self, items: int, config: SparCodeConfig, features: ItemFeatures | None) -> None:
        super().__init__(items, config, features)
        parts = config.codebook.levels * config.codebooks
        of_all = config.codebook.model_copy(update={"levels": parts})
        self.quantiser = ProductQuantiser(of_all, config.encoder.dim * config.codebooks)
        self.register_buffer("listed", torch.zeros(config.tuples, dtype=torch.bool))
        self.register_buffer("list_of", torch.zeros(config.tuples, dtype=torch.int32))

    def prepare(self, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens at their codewords with gradients passed straight through, and the quantiser's terms."""
        flat, weights, terms = self.rows(tokens), self.config.weights, {}
        quantised = self.quantiser(flat)
        if weights.commitment:
            terms["commitment"] = self.quantiser.loss(flat, quantised) / self.config.codebooks  # of a token, on average
        if self.training:
            self.quantiser.update(quantised)
        return quantised.straight_through(flat).view(tokens.shape), terms

    def rows(self, tokens: Tensor) -> Tensor:
        """Tokens ``(users, tokens, dim)`` as the quantiser takes them: one by one, or a user's side by side."""
        return tokens.flatten(0, 1) if self.config.codebook.shared else tokens.flatten(1)

    @property
    def books(self) -> Tensor:
        """The codebooks, ``(codebooks, parts, codes, width)``."""
        flat = self.quantiser.codebooks.detach()
        return flat.view(self.config.codebooks, -1, *flat.shape[1:])

    def tuples(self, tokens: Tensor) -> Tensor:
        """Numbers of the nearest tuples of tokens ``(users, tokens, dim)``, ``(users, tokens)``."""
        codes = self.quantiser(self.rows(tokens)).codes.view(*tokens.shape[:2], -1)
        begins = torch.arange(0, len(self.listed), len(self.listed) // self.config.codebooks, device=codes.device)
        return tuple_numbers(codes, self.config.codebook.codes) + begins

    def weigh(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Lists to read after histories of item vectors, int64 ``(batch, tokens)``, and the weights of their places."""
        lists = self.list_of[self.tuples(self.last_tokens(vectors, lengths))].long()
        return lists, self.token_weights.expand_as(lists)

    @torch.no_grad()
    def list_tuples(self, numbers: Tensor) -> None:
        """Give these tuples lists, and no others; another tuple reads the list of the nearest of them."""
        self.listed.fill_(False).index_fill_(0, numbers.flatten(), True)
        lists, begin = [], 0
        for listed, book in self._listed_by_book():
            lists.append(begin + nearest_listed(listed, book))
            begin += len(listed)
        self.list_of.copy_(torch.cat(lists))

    def _listed_by_book(self) -> list[tuple[Tensor, Tensor]]:
        """The listed tuples of each codebook, numbered within it, and the codebook."""
        listed = self.listed.view(self.config.codebooks, -1)
        return [(mine.nonzero()[:, 0], book) for mine, book in zip(listed, self.books, strict=True)]

    @torch.no_grad()
    def postings(self, items: Tensor) -> ScorePostings:
        """The best items of every listed tuple by ``ReLU(E(tuple, i) + b)``, from item vectors ``(items, dim)``."""
        words = self.words()
        length = min(self.config.list_length, len(items))
        best, scores = [], []
        for block in torch.split(words, max(1, BLOCK_SCORES // len(items))):
            top = torch.topk(self.values(self.scorer(block, items)), length)
            best.append(top.indices.cpu())
            scores.append(top.values.cpu())
        values = torch.cat(scores)
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
        return torch.cat([tuple_words(listed, book) for listed, book in self._listed_by_book()])

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
    """SparCode-style retrieval (Su et al., SIGIR 2023), after the paper's figures and a third-party port.

    From the paper: a user is K tokens; a product quantiser, moved by moving averages and a commitment loss, makes them
    tuples of codes; any pair encoder scores (tuple, item); ``y = sum_k ReLU(E(t_k, i) + b)``. Since there are finitely
    many tuples, E is computed offline: each tuple has an inverted list of scored items, and a request adds up K lists.
    A served score is the training score.

    Notes
    -----
    Ours: what :class:`~tesserec.models.all_to_all.AllToAll` notes; codebooks of its own for each token, so that K
    divisions of users are added up, while tokens under one codebook for all, as in the paper's code
    (``codebook.shared``), are drawn to the same codes until they say no more than one; k-means on tokens after the
    warm-up; gradients pass the quantiser straight through, so the ranking loss reaches the tokenizer; dead codes
    restart after each epoch. b is learned in training; each list keeps its ``list_length`` best items and loses the
    rest, which is a threshold of its own for each tuple. Where there are more tuples than ``all_tuples``, those that
    training users have get lists, and any other tuple reads the list of the nearest of these.
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
        everything = torch.arange(self.config.tuples, device=self.network.listed.device)
        self.network.list_tuples(everything if every else self.network.tuples(self.tokens(histories)))
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

        lists = self.searcher.postings
        assert isinstance(lists, ScorePostings)
        full = np.diff(lists.offsets) == self.config.list_length
        thresholds = [lists.of(code)[1][-1] if full[code] else 0.0 for code in range(lists.codes)]
        export_lists(self.network, np.array(thresholds, "<f4"), folder)
