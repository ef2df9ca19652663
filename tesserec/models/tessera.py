"""tessera: the probability of every item, as that of its cell times that of the item within its cell."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from tesserec.data.dataset import Dataset
from tesserec.data.features import ItemFeatures
from tesserec.errors import ConfigError
from tesserec.index.contract import Policy
from tesserec.models.codebooks import WarmConfig, calibrate
from tesserec.models.network import Network, TensorBatch, last_valid
from tesserec.models.neural import NeuralRetriever
from tesserec.nn.cells import nearest_part, split_cells, start_cells, step_cells
from tesserec.nn.codebook import judge
from tesserec.nn.estimators import squared_distances
from tesserec.nn.factorised import Layout, LowRankReader, Moments, cell_softmax
from tesserec.nn.losses import full_softmax
from tesserec.nn.precision import without_autocast


class TesseraConfig(WarmConfig):
    """Settings of :class:`Tessera`; see also :class:`~tesserec.models.codebooks.WarmConfig`.

    Attributes
    ----------
    codes
        Cells of the catalogue; the cost of a step and of a request is least near the root of the number of items.
    parts
        Parts of a cell, whose moments say how likely the cell is; more cost more and see more of its items.
    balance
        Largest size of a cell as a multiple of the mean.
    normaliser
        What the likelihood of a target is normalised over: ``exact`` every item, as in the full softmax, and the
        posterior learns beside it; ``moments`` the moments of parts and the items of the target's cell, whose cost
        grows with the root of the catalogue; ``auto`` exact for up to 40,000 items, moments for more or with a reader.
    warmup_epochs
        Epochs in which the whole catalogue is one cell, which makes the loss the full softmax; then k-means divides it.
    settle_epochs
        Epochs after the warm-up at whose end items move over to the cell that they have come nearest to.
    spread
        Weight, in an epoch, of each item's squared distance from the middle of its part, where the loss of each of its
        targets weighs 1: a rare item lies where its part does, and one with many events where these draw it.
    trust
        How much of its learned correction the posterior keeps at inference, where the normaliser is exact: it is surer
        of users that it was trained on than it may be of others. 0 leaves the full softmax; the more of it, the fewer
        cells hold a user's best items, at a cost in recall.
    reader_rank
        Rank of what an interest changes about the user vector; 0 leaves one user vector for all interests.
    reader_dropout
        Share of these ranks that is dropped in training.
    """

    codes: int = Field(128, ge=2)
    parts: int = Field(8, ge=1)
    balance: float = Field(2.0, ge=1)
    settle_epochs: int = Field(20, ge=0)
    spread: float = Field(3.3, ge=0)
    normaliser: Literal["auto", "exact", "moments"] = "auto"
    trust: float = Field(0.5, ge=0, le=4)
    reader_rank: int = Field(0, ge=0)
    reader_dropout: float = Field(0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _one_vector_where_exact(self) -> Self:
        if self.normaliser == "exact" and self.reader_rank:
            raise ValueError(
                f"normaliser = 'exact' with reader_rank = {self.reader_rank}, but one softmax over all items has one "
                "user vector; use normaliser = 'moments', or reader_rank = 0"
            )
        return self


EXACT_ITEMS = 40_000
"""Items up to which a step over all of them costs about five times one with moments at most; recall is worth that."""
HEAD_POSITIONS = 512
"""About as many positions of a step, evenly among them, teach tilt and lift where nothing else learns from the
posterior: so few numbers learn little from more, and on small catalogues these would be most of the step."""


class TesseraNetwork(Network):
    """Encoder, items in parts of cells, a posterior from the moments of parts, an exact softmax within a cell.

    Before the cells are started the whole catalogue lies in part 0 of cell 0, whose probability is 1.
    """

    part_of: Tensor
    version: Tensor
    log_sizes: Tensor
    means: Tensor
    variances: Tensor
    heat: Tensor
    per_item: ClassVar[tuple[str, ...]] = (*Network.per_item, "part_of")

    def __init__(self, items: int, config: TesseraConfig, features: ItemFeatures | None) -> None:
        super().__init__(items, config, features)
        if config.codes * config.parts > items:
            raise ConfigError(
                f"codes = {config.codes} of parts = {config.parts} make {config.codes * config.parts} parts of the "
                f"catalogue, but there are only {items} items; use fewer of either"
            )
        dim = config.encoder.dim
        # Every item counts in the moments, so every row of the table moves in every step.
        self.items.table.sparse = False
        self.codes = config.codes
        few = items <= EXACT_ITEMS and not config.reader_rank
        self.exact = few if config.normaliser == "auto" else config.normaliser == "exact"
        self.tilt = nn.Linear(dim, dim, bias=False)
        self.lift = nn.Parameter(torch.zeros(config.codes))
        nn.init.zeros_(self.tilt.weight)
        self.reader = LowRankReader(dim, config.reader_rank, config.reader_dropout) if config.reader_rank else None
        self.register_buffer("part_of", torch.zeros(items, dtype=torch.int64))
        self.register_buffer("version", torch.tensor(0))
        self.register_buffer("heat", torch.tensor(1.0))
        for name, value in vars(self.moments(self.items.all())).items():
            self.register_buffer(name, value)

    @property
    def layout(self) -> Layout:
        """Items sorted by cell; made anew only when one has changed."""
        cells = self.cells()
        known: Layout | None = self.__dict__.get("_layout")
        if known is None or known.cells.device != cells.device or not torch.equal(known.cells, cells):
            known = self.__dict__["_layout"] = Layout.of(cells, self.codes)
        return known

    def moments(self, items: Tensor) -> Moments:
        """Moments of item vectors ``(items, dim)`` by part, differentiable in the vectors."""
        return Moments.of(items, self.part_of, self.codes * self.config.parts)

    def losses(self, batch: TensorBatch, progress: float) -> dict[str, Tensor]:
        """``item``, ``cell`` and ``spread``; before the cells are started ``item`` alone, the full softmax.

        With moments the sum of ``item`` and ``cell`` is ``-log p(target)`` over the whole catalogue. With the exact
        normaliser ``item`` alone is that, and ``cell`` moves nothing but the posterior's tilt and lift.
        """
        items = self.items.every()
        users = self.user(self.states(F.embedding(batch.inputs, items))[batch.valid]) / self.config.temperature
        if not self.version:
            return {"item": full_softmax(users, items, batch.wanted)}
        moments, layout = self.moments(items), self.layout
        cells = layout.cells[batch.wanted]
        if self.exact:
            item = full_softmax(users, items, batch.wanted)
            some = slice(None, None, max(1, len(users) // HEAD_POSITIONS))
            cells, logits = cells[some], self.cell_logits(users[some].detach(), moments.detach())
        else:
            item = cell_softmax(self._read(users, cells, moments), items, batch.wanted, layout)
            logits = self.cell_logits(users, moments)
        spread = self.config.spread / batch.epoch_positions * moments.spread()
        return {"cell": F.cross_entropy(logits, cells), "item": item, "spread": spread}

    def cell_logits(self, users: Tensor, moments: Moments) -> Tensor:
        """Logits of cells ``(rows, codes)``: the log-mass of each by its parts, under a learned tilt and lift."""
        with without_autocast(users.device):
            users = users.float()
            mass = moments.log_mass_of_cells(users + self.tilt(users), self.codes)
            return mass + self.lift

    def _read(self, users: Tensor, cells: Tensor, moments: Moments) -> Tensor:
        """User vectors of cells, ``(..., dim)`` and ``(...)``; shapes broadcast."""
        if self.reader is None:
            return users.expand(*cells.shape, -1)
        read: Tensor = self.reader(users, F.embedding(cells, moments.means_of_cells(self.codes).detach()))
        return read

    def encode(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Posterior over cells, at temperature ``heat``, and the user vector ``(batch, dim)``, after the last event.

        With the exact normaliser also what is subtracted in each cell, ``(batch, codes)``: the logarithm of what the
        softmax over all items gives it, by moments, and what makes ``p(item | user)`` sum to one at this temperature.
        """
        states = self.states(vectors[..., : self.config.encoder.dim])
        users = self.user(last_valid(states, lengths)) / self.config.temperature
        logits = self.cell_logits(users, self._kept_moments)
        if not self.exact:
            return torch.softmax(logits / self.heat, -1), users
        moments = self._kept_moments
        mass = moments.log_mass_of_cells(users, self.codes)
        shares = torch.log_softmax(torch.lerp(mass, logits, self.config.trust) / self.heat, -1)
        flatter = moments.log_mass_of_cells(users / self.heat, self.codes)
        total = (shares + flatter - mass / self.heat).logsumexp(-1, keepdim=True)
        return shares.exp(), users, mass + self.heat * total

    def read(self, interests: Tensor, lengths: Tensor, *state: Tensor) -> Tensor:
        """User vectors of cells ``(batch, interests, width)``; products with items are logits within the cell.

        With the exact normaliser a last coordinate subtracts the cell's mass, so that with the posterior's logarithm
        they are ``log p(item | user)``.
        """
        users = self._read(state[0][:, None], interests, self._kept_moments)
        if self.exact:
            users = torch.cat([users, -state[1].gather(1, interests)[..., None]], -1)
        return users / self.heat

    @property
    def width(self) -> int:
        """With the exact normaliser one more than the encoder's, for the mass of the cell."""
        return super().width + self.exact

    def searched(self, vectors: Tensor) -> Tensor:
        """See :meth:`Network.searched`."""
        return F.pad(vectors, (0, 1), value=1.0) if self.exact else vectors

    @property
    def _kept_moments(self) -> Moments:
        return Moments(self.log_sizes, self.means, self.variances)

    def cells(self) -> Tensor:
        """Cell of every item, ``(items,)``."""
        return self.part_of // int(self.config.parts)

    def item_codes(self) -> tuple[Tensor, int] | None:
        """The cells, once there are any."""
        return (self.cells()[:, None], self.codes) if self.version else None

    @torch.no_grad()
    def start(self, epoch: int, seed: int) -> dict[str, Any]:
        """The first cells, by k-means on items, and parts of each."""
        items, rng = self.items.all(), np.random.default_rng(seed)
        return self._settle(items, start_cells(items, self.codes, self._cap, rng), epoch, rng)

    @torch.no_grad()
    def end_epoch(self, epoch: int, seed: int) -> dict[str, Any]:
        """Let items move to the nearest cell and divide each cell anew; reports health and churn of cells."""
        items, before = self.items.all(), self.cells()
        if self.version > self.config.settle_epochs:
            self._measure(items)
            return {}
        now = step_cells(items, before, self.codes, self._cap)
        settled = self._settle(items, now, epoch, np.random.default_rng((seed, epoch)))
        return {"codebook/churn": float((now != before).float().mean())} | settled

    @property
    def _cap(self) -> int:
        return math.ceil(float(self.config.balance) * len(self.part_of) / self.codes)

    def _measure(self, items: Tensor) -> None:
        for name, value in vars(self.moments(items)).items():
            getattr(self, name).copy_(value)

    def _settle(self, items: Tensor, cells: Tensor, epoch: int, rng: np.random.Generator) -> dict[str, Any]:
        self.part_of.copy_(split_cells(items, cells, self.codes, self.config.parts, rng))
        self._measure(items)
        self.version += 1
        health = judge(cells[:, None].cpu().numpy(), self.codes, epoch)
        return health | {"codebook/version": int(self.version)}

    @torch.no_grad()
    def place(self, vectors: Tensor) -> Tensor:
        """See :meth:`Network.place`: the nearest cell that holds items."""
        moments = self._kept_moments
        # The mean of an empty cell is zero, which says nothing.
        empty = moments.empty.view(self.codes, -1).all(1)
        away = squared_distances(vectors, moments.means_of_cells(self.codes))
        return away.masked_fill(empty, torch.inf).argmin(1)

    @torch.no_grad()
    def welcome(self, new: Tensor) -> None:
        """See :meth:`Network.welcome`: into the nearest cell that holds items, and into the nearest part there."""
        items = self.items.all()
        if self.version:
            moments = self._kept_moments
            middles = moments.means.masked_fill(moments.empty[:, None], torch.inf)
            some = items[new]
            self.part_of[new] = nearest_part(some, self.place(some), middles.view(self.codes, -1, some.shape[1]))
        self._measure(items)


class Tessera(NeuralRetriever):
    """The factorised softmax, ours: ``p(item | user) = p(cell | user) * p(item | cell, user)``.

    Every item lies in one cell. Both factors are trained by the likelihood of the next item over the whole catalogue,
    without negative samples; on large catalogues at the cost of as many dot products as there are cells and items in
    one cell. The same two factors serve: each candidate comes with its probability, lists of different interests merge
    without a rule, and a search that visits cells by falling probability knows what mass it left out.

    Notes
    -----
    All of it is ours. *Posterior*: what the single-vector softmax would give a cell, ``log sum exp(u . z_i)`` over its
    items: the sum over the parts of the cell of their masses, each to second order from its items' mean and variance,
    plus a small learned correction that starts at zero (a linear map of the user vector and a number a cell). A part
    holds a dozen items, so that the one which a user is sure to like is not lost in an average. *Likelihood*: on
    catalogues that allow it the full softmax trains user and item vectors, and the posterior's correction learns the
    target's cell beside it. On larger ones the posterior and an exact softmax within the target's cell, one small
    matrix product for each cell that the batch needs, train them together, and serve. *Serving* beside the full
    softmax: an item's probability within its cell is over the cell's mass as the posterior sees it, so what moments
    miss of it cancels, and an item has its score of the full softmax plus ``trust`` of what the posterior corrects
    about its cell; all probabilities sum to one as far as moments know. *Cells*: after a warm-up as a full softmax (one
    cell), k-means on items makes cells; then a Lloyd step after each epoch from their present means, so that a cell
    keeps its identity; none grows beyond a cap. k-means inside each makes its parts, anew after each epoch. ``spread``
    draws items towards the middle of their part. *Calibration*: after training, one temperature for both factors, the
    one under which the posterior gives the cells of held-out items of validation users the largest likelihood.
    """

    name = "tessera"
    network: TesseraNetwork
    Config = TesseraConfig
    network_class = TesseraNetwork

    def after_training(self, dataset: Dataset, seed: int) -> None:
        """Calibrate on validation users."""
        calibrate(self, dataset, seed)

    def policy(self) -> Policy:
        """Every interest, each with the items of its own cell, ranked by ``log p(item | user)``."""
        normalise = not self.network.exact
        return Policy(interests=self.config.codes, merge="probability", reach="cell", normalise=normalise)
