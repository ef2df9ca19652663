"""tessera: the probability of every item, as that of its cell times that of the item within its cell."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tesserec.data.dataset import Dataset
from tesserec.data.features import ItemFeatures
from tesserec.errors import ConfigError
from tesserec.index.contract import Policy
from tesserec.models.codebooks import WarmConfig
from tesserec.models.neural import (
    Network,
    NeuralRetriever,
    TensorBatch,
    TorchSide,
    last_valid,
    some_users,
)
from tesserec.nn.cells import start_cells, step_cells
from tesserec.nn.codebook import judge
from tesserec.nn.factorised import Layout, LowRankReader, Moments, best_heat, cell_softmax
from tesserec.nn.losses import full_softmax
from tesserec.training.config import DotProductTraining


class TesseraConfig(WarmConfig):
    """Settings of :class:`Tessera`; see also :class:`~tesserec.models.codebooks.WarmConfig`.

    Attributes
    ----------
    codes
        Cells of the catalogue; the cost of a step and of a request is least near the root of the number of items.
    balance
        Largest size of a cell as a multiple of the mean.
    warmup_epochs
        Epochs in which the whole catalogue is one cell, which makes the loss the full softmax; then k-means divides it.
    settle_epochs
        Epochs after the warm-up at whose end items move over to the cell that they have come nearest to.
    spread
        Weight of the mean squared distance of items from the middle of their cell. Per item its pull is
        ``spread * targets / items`` beside the item's own targets; about 65 of that suited our trials (6 with 11
        targets an item), so less is needed where items have more events.
    reader_rank
        Rank of what an interest changes about the user vector; 0 leaves one user vector for all interests.
    reader_dropout
        Share of these ranks that is dropped in training.
    """

    training: DotProductTraining = DotProductTraining()
    normalise: bool = False
    temperature: float = Field(1.0, gt=0)
    codes: int = Field(128, ge=2)
    balance: float = Field(2.0, ge=1)
    settle_epochs: int = Field(20, ge=0)
    spread: float = Field(6.0, ge=0)
    reader_rank: int = Field(0, ge=0)
    reader_dropout: float = Field(0.2, ge=0, lt=1)


class TesseraNetwork(Network):
    """Encoder, items in cells, a posterior from the moments of cells, and an exact softmax within a cell.

    Before the cells are started the whole catalogue lies in cell 0, whose probability is 1.
    """

    assignment: Tensor
    version: Tensor
    log_sizes: Tensor
    means: Tensor
    variances: Tensor
    heat: Tensor
    per_item: ClassVar[tuple[str, ...]] = (*Network.per_item, "assignment")

    def __init__(self, items: int, config: TesseraConfig, features: ItemFeatures | None) -> None:
        super().__init__(items, config, features)
        if config.codes > items:
            raise ConfigError(f"codes = {config.codes}, but there are only {items} items; use fewer codes")
        dim = config.encoder.dim
        # Every item counts in the moments, so every row of the table moves in every step.
        self.items.table.sparse = False
        self.codes = config.codes
        self.tilt = nn.Linear(dim, dim, bias=False)
        self.lift = nn.Parameter(torch.zeros(config.codes))
        nn.init.zeros_(self.tilt.weight)
        self.reader = LowRankReader(dim, config.reader_rank, config.reader_dropout) if config.reader_rank else None
        self.register_buffer("assignment", torch.zeros(items, dtype=torch.int64))
        self.register_buffer("version", torch.tensor(0))
        self.register_buffer("heat", torch.tensor(1.0))
        for name, value in vars(Moments.of(self.items.all(), self.layout)).items():
            self.register_buffer(name, value)

    @property
    def layout(self) -> Layout:
        """Items sorted by cell; made anew only when a cell has changed."""
        known: Layout | None = self.__dict__.get("_layout")
        if known is None or not torch.equal(known.cells, self.assignment):
            known = self.__dict__["_layout"] = Layout.of(self.assignment.clone(), self.codes)
        return known

    def losses(self, batch: TensorBatch, progress: float) -> dict[str, Tensor]:
        """``cell`` and ``item``, whose sum is ``-log p(target)`` over the whole catalogue, and ``spread``.

        Before the cells are started ``item`` alone, the full softmax.
        """
        items, layout = self.items.every(), self.layout
        users = self.user(self.states(F.embedding(batch.inputs, items))[batch.valid]) / self.config.temperature
        if not self.version:
            return {"item": full_softmax(users, items, batch.wanted)}
        moments, cells = Moments.of(items, layout), layout.cells[batch.wanted]
        read = self._read(users, F.embedding(cells, moments.means.detach()))
        return {
            "cell": F.cross_entropy(self.cell_logits(users, moments), cells),
            "item": cell_softmax(read, items, batch.wanted, layout),
            "spread": self.config.spread * moments.spread(),
        }

    def cell_logits(self, users: Tensor, moments: Moments) -> Tensor:
        """Logits of cells ``(rows, codes)``: the log-mass of each by its moments, under a learned tilt and lift.

        Divided by ``heat``, which is 1 in training.
        """
        with torch.autocast(users.device.type, enabled=False):
            users = users.float()
            return (moments.logits(users + self.tilt(users)) + self.lift) / self.heat

    def _read(self, users: Tensor, means: Tensor) -> Tensor:
        """User vectors of interests whose cells have these means; shapes broadcast."""
        return users.expand_as(means) if self.reader is None else self.reader(users, means)

    def encode(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Posterior over cells and the user vector ``(batch, dim)`` after the last event."""
        users = self.user(last_valid(self.states(vectors), lengths)) / self.config.temperature
        moments = Moments(self.log_sizes, self.means, self.variances)
        return torch.softmax(self.cell_logits(users, moments), -1), users

    def read(self, interests: Tensor, lengths: Tensor, *state: Tensor) -> Tensor:
        """User vectors of cells ``(batch, interests, dim)``; products with items are logits within the cell."""
        return self._read(state[0][:, None], F.embedding(interests, self.means)) / self.heat

    def cells(self) -> Tensor:
        """Cell of every item, ``(items,)``."""
        return self.assignment

    def item_codes(self) -> tuple[Tensor, int] | None:
        """The cells, once there are any."""
        return (self.assignment[:, None], self.codes) if self.version else None

    def complete(self, epoch: int) -> bool:
        """True from the first epoch that trained with cells."""
        return epoch >= int(self.config.warmup_epochs)

    @torch.no_grad()
    def end_epoch(self, epoch: int, seed: int) -> dict[str, Any]:
        """Start the cells after the warm-up, then let items move; reports health and the share that moved (churn)."""
        items = self.items.all()
        settled = self.config.warmup_epochs + self.config.settle_epochs
        figures: dict[str, Any] = {}
        if self.config.warmup_epochs <= epoch + 1 <= settled:
            cap = math.ceil(self.config.balance * len(items) / self.codes)
            if not self.version:
                cells = start_cells(items, self.codes, cap, np.random.default_rng(seed))
            else:
                cells = step_cells(items, self.assignment, self.means, cap)
                figures["codebook/churn"] = (cells != self.assignment).float().mean().item()
            self.assignment.copy_(cells)
            self.version += 1
        self._measure_cells(items)
        if self.version:
            figures |= judge(self.assignment[:, None].cpu().numpy(), self.codes, epoch)
            figures["codebook/version"] = int(self.version)
        return figures

    def _measure_cells(self, items: Tensor) -> None:
        for name, value in vars(Moments.of(items, self.layout)).items():
            getattr(self, name).copy_(value)

    @torch.no_grad()
    def welcome(self, new: Tensor) -> None:
        """See :meth:`Network.welcome`: into the cell whose mean is nearest."""
        items = self.items.all()
        if self.version:
            self.assignment[new] = torch.cdist(items[new], self.means).argmin(1)
        self._measure_cells(items)


class Tessera(NeuralRetriever):
    """The factorised softmax, ours: ``p(item | user) = p(cell | user) * p(item | cell, user)``.

    Every item lies in one cell. Both factors are trained by the likelihood of the next item over the whole catalogue,
    without negative samples, at the cost of as many dot products as there are cells and items in one cell. The same
    two factors serve: each candidate comes with its probability, lists of different interests merge without a rule,
    and a search that visits cells by falling probability knows what it left out.

    Notes
    -----
    All of it is ours. *Posterior*: what the single-vector softmax would give a cell, ``log sum exp(u . z_i)`` over its
    items, to second order from their mean and variance, plus a small learned correction that starts at zero (a linear
    map of the user vector and a number a cell). It has no weights of its own to fit a label with, and its gradients
    reach the items. *Within a cell*: an exact softmax, one small matrix product for each cell that the batch needs.
    *Cells*: k-means after a warm-up as a full softmax (one cell), then a Lloyd step after each epoch from the present
    means, so that a cell keeps its identity; none grows beyond a cap. ``spread`` draws items towards the middle of
    their cell, which is what makes the posterior sharp, keeps a user's best items in few cells, and in our trials ranks
    better: an item with few events learns from its cell. *Calibration*: after training, one temperature for both
    factors, the one under which the posterior gives the cells of held-out items of validation users the largest
    likelihood.
    """

    name = "tessera"
    network: TesseraNetwork
    Config = TesseraConfig
    network_class = TesseraNetwork

    def after_training(self, dataset: Dataset, seed: int) -> None:
        """Calibrate on validation users."""
        part = some_users(dataset.valid, self.config.training.validate_users, seed)
        side = TorchSide(self.network)
        blocks = np.array_split(np.arange(len(part.users)), -(-len(part.users) // 256))
        posterior = torch.cat([torch.from_numpy(side.encode(part.histories.take(b)).posterior) for b in blocks])
        owner = torch.from_numpy(np.repeat(np.arange(len(part.targets)), part.targets.lengths))
        wanted = self.network.cells().cpu()[torch.from_numpy(part.targets.compact().values).long()]
        self.network.heat.fill_(best_heat(posterior[owner], wanted))
        self.__dict__.pop("searcher", None)

    def policy(self) -> Policy:
        """Every interest, each with the items of its own cell, ranked by ``log p(item | user)``."""
        return Policy(interests=self.config.codes, merge="probability", reach="cell", normalise=True)
