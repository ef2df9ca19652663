"""SPARC: a residual codebook of items trained with the retriever, a probability for every interest, soft search."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from tesserec.data.dataset import Dataset
from tesserec.data.features import ItemFeatures
from tesserec.index.contract import Merge, Policy
from tesserec.models.codebooks import InterestNetwork, LossWeights, WarmConfig, calibrate, check_codes
from tesserec.models.network import TensorBatch, last_valid
from tesserec.models.neural import NeuralRetriever
from tesserec.nn.codebook import upkeep
from tesserec.nn.interests import Posterior, Reader, cell_logits
from tesserec.nn.losses import bpr, info_nce
from tesserec.nn.quantisers import CodebookConfig, Quantised, ResidualQuantiser
from tesserec.training.config import TrainingConfig


class SparcWeights(LossWeights):
    """Weights of the loss terms; each at 0 switches its term off, though a codebook's moving averages go on.

    The paper, as reported, weighs its six terms 1 except the shuffled one, 10. The defaults are ours: beside a softmax
    at every position the paper's weights learned more slowly in our trials.

    Attributes
    ----------
    softmax
        Sampled softmax of the interest-conditioned user vector (ours).
    single
        The same softmax for the state before any interest is read (ours): encoder and items go on learning as the
        warm-up's single-vector model does, and the reader learns only what an interest changes.
    bce
        Binary cross-entropy of matching and mismatched (user, item) rows.
    rq
        Reconstruction and codebook terms of the quantiser.
    shuffle
        The right interest must beat a wrong one for the same item (BPR). It rises from a tenth over the first half of
        all epochs, the warm-up included, so that only a short warm-up leaves some of the rise.
    user_item, item_item
        InfoNCE of user vectors, and of item vectors, with quantised items.
    interest
        Cross-entropy of the posterior.
    """

    softmax: float = Field(1.0, ge=0)
    single: float = Field(1.0, ge=0)
    bce: float = Field(0.1, ge=0)
    rq: float = Field(1.0, ge=0)
    shuffle: float = Field(0.1, ge=0)
    user_item: float = Field(0.1, ge=0)
    item_item: float = Field(0.1, ge=0)
    interest: float = Field(1.0, ge=0)


class SparcTraining(TrainingConfig):
    """Budget and optimiser; the learning rate falls, since the joint epochs start from what the warm-up has learned."""

    final_rate: float = Field(0.1, gt=0, le=1)


class SparcConfig(WarmConfig):
    """Settings of :class:`Sparc`; see also :class:`~tesserec.models.codebooks.WarmConfig`.

    Attributes
    ----------
    codebook, weights
        Size of the codebook and weights of the losses.
    warmup_epochs
        Epochs as a plain single-vector model before k-means sets the codebook; best more than half of all.
    query_sum_share
        Share, of the training queries that are not drawn, of those that use the whole reconstruction of the target
        instead of its level-0 codeword.
    query_drawn_share
        Share of training queries whose code is drawn from the posterior, as at inference, instead of the target's.
    contrast_rows
        Rows of a batch that the two contrastive terms compare; their cost is its square.
    coupling
        What moves the codewords beside their own loss: ``joint``, all ranking terms; ``stop-gradient``, nothing;
        ``frozen``, not even their own loss moves them after k-means. Codewords that are moving averages
        (``codebook.update``) are reached by no loss, so ``joint`` is refused with them.
    posterior
        ``free``, a tower of its own; ``tied``, the tower adds to what the single-vector model believes of each cell.
    reader_dropout
        Share of what an interest changes about a user vector that is dropped in training.
    interests, merge
        Interests read per user at inference and how their lists become one; see
        :class:`~tesserec.index.contract.Policy`.
    """

    training: SparcTraining = SparcTraining()
    codebook: CodebookConfig = CodebookConfig()
    weights: SparcWeights = SparcWeights()
    warmup_epochs: int = Field(18, ge=1)
    query_drawn_share: float = Field(0.7, ge=0, le=1)
    query_sum_share: float = Field(0.0, ge=0, le=1)
    contrast_rows: int = Field(512, ge=2)
    coupling: Literal["joint", "stop-gradient", "frozen"] = "joint"
    posterior: Literal["free", "tied"] = "tied"
    reader_dropout: float = Field(0.5, ge=0, lt=1)
    interests: int = Field(8, ge=1)
    merge: Merge = "probability"

    @model_validator(mode="after")
    def _joint_by_gradients(self) -> Self:
        if self.coupling == "joint" and self.codebook.update == "ema":
            raise ValueError(
                "coupling = 'joint', but no loss reaches codewords that are moving averages (codebook.update = 'ema'); "
                "set coupling = 'stop-gradient', or codebook.update = 'gradient'"
            )
        return self


class SparcNetwork(InterestNetwork):
    """Shared encoder, residual quantiser over items, posterior tower and interest-conditioned reader."""

    log_sizes: Tensor
    heat: Tensor

    def __init__(self, items: int, config: SparcConfig, features: ItemFeatures | None) -> None:
        super().__init__(items, config, features)
        check_codes(config.codebook.codes, items)
        self.codes = config.codebook.codes
        self.quantiser = ResidualQuantiser(config.codebook, config.encoder.dim)
        self.posterior = Posterior(config.encoder, config.codebook.codes)
        self.reader = Reader(config.encoder, config.reader_dropout)
        if config.posterior == "tied":
            nn.init.zeros_(self.posterior.codes.weight)
            nn.init.zeros_(self.posterior.codes.bias)
        self.register_buffer("log_sizes", torch.zeros(config.codebook.codes))
        self.register_buffer("heat", torch.tensor(1.0))

    def losses(self, batch: TensorBatch, progress: float) -> dict[str, Tensor]:
        """The six terms of the paper and two sampled softmaxes; one softmax alone until the codebook is started."""
        once = (batch.distinct,) if self.quantiser.started else ()
        inputs, z, negatives, *distinct = self.items.lookup(batch.inputs, batch.wanted, batch.negatives, *once)
        states = self.states(inputs)
        if not self.quantiser.started:
            return {"softmax": batch.softmax(self.user(states[batch.valid]), z, negatives, self.config.temperature)}
        step = _Step(self, batch, states, z, negatives, *distinct)
        self.quantiser.update(step.divided)
        weights = {name: self._weight(name, progress) for name in SparcWeights.model_fields if self._weight(name, 1)}
        return {name: weight * getattr(step, name)() for name, weight in weights.items()}

    def _weight(self, name: str, progress: float) -> float:
        weight = float(getattr(self.config.weights, name))
        # At full strength from the start, the ranking of interests would swamp the ranking of items.
        return weight * min(1.0, 0.1 + 1.8 * progress) if name == "shuffle" else weight

    def interest_vectors(self, states: Tensor, queries: Tensor, valid: Tensor) -> Tensor:
        """User vectors ``(positions, dim)``, each valid position reading its past with its own query."""
        return self.user(self.reader.along(states, queries, valid))

    def posterior_logits(self, states: Tensor) -> Tensor:
        """Logits over level-0 codes after every position, ``(batch, length, codes)``."""
        logits: Tensor = self.posterior(states).float()
        if self.config.posterior == "tied":
            logits = logits + self._mass(self.user(states))
        return logits

    def _mass(self, users: Tensor) -> Tensor:
        """Log-mass that a user vector gives to each cell if every item lies at its codeword, ``(..., codes)``."""
        return cell_logits(users / self.config.temperature, self.quantiser.codebooks[0].detach(), self.log_sizes)

    def encode(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Posterior over level-0 codes after the last event, at the temperature ``heat``, and all states."""
        states = self.states(vectors[..., :-1])
        return torch.softmax(last_valid(self.posterior_logits(states), lengths) / self.heat, -1), states

    def read(self, interests: Tensor, lengths: Tensor, *state: Tensor) -> Tensor:
        """User vectors of level-0 codes ``(batch, interests)``; products with items are ``log p(item | code, u)``."""
        states, queries = state[0], F.embedding(interests, self.quantiser.codebooks[0])
        users = self.user(self.reader.after(states, last_valid(states, lengths), queries, lengths))
        denominators = self._mass(users).logsumexp(-1, keepdim=True)
        return torch.cat([users / self.config.temperature, -denominators], dim=-1)

    @torch.no_grad()
    def cells(self) -> Tensor:
        """Level-0 code of every item, ``(items,)``."""
        found = self.item_codes()
        return super().cells() if found is None else found[0][:, 0]

    @torch.no_grad()
    def place(self, vectors: Tensor) -> Tensor:
        """See :meth:`Network.place`: the nearest codeword."""
        return self.quantiser.assign(vectors)[:, 0]

    @torch.no_grad()
    def item_codes(self) -> tuple[Tensor, int] | None:
        """Codes of every item at every level; None until the codebook is started."""
        return (self.quantiser.assign(self.items.all()), self.codes) if self.quantiser.started else None

    @torch.no_grad()
    def end_epoch(self, epoch: int, seed: int) -> dict[str, Any]:
        """Restart dead codes; reports health by level."""
        figures = upkeep(self.quantiser, self.items.all(), epoch, seed)
        self._measure_cells()
        return figures

    def _measure_cells(self) -> None:
        # A cell that is empty today may have an item, and be a label, tomorrow.
        self.log_sizes.copy_(torch.bincount(self.cells(), minlength=self.codes).clamp_min(0.5).log())

    @torch.no_grad()
    def welcome(self, new: Tensor) -> None:
        """See :meth:`Network.welcome`: codes follow from the vectors; the sizes of cells are counted again."""
        if self.quantiser.started:
            self._measure_cells()

    @torch.no_grad()
    def start(self, epoch: int, seed: int) -> dict[str, Any]:
        """k-means on items; a free posterior starts from the share of items in each cell."""
        z = self.items.all()
        self.quantiser.start(z, seed)
        if self.config.coupling == "frozen":
            self.quantiser.freeze()
        if self.config.posterior == "free":
            share = torch.bincount(self.quantiser.assign(z)[:, 0], minlength=self.codes) / len(z)
            self.posterior.codes.bias.copy_(torch.log(share + 1e-6))
        return self.end_epoch(epoch, seed)


class _Step:
    """What the loss terms of a step share, each part computed when the first term asks for it."""

    def __init__(
        self, network: SparcNetwork, batch: TensorBatch, states: Tensor, z: Tensor, negatives: Tensor, distinct: Tensor
    ) -> None:
        self.network, self.batch, self.states = network, batch, states
        self.z, self.negatives, self.distinct = z, negatives, distinct
        self.temperature = network.config.temperature
        self.quantised = network.quantiser(z)
        self.code = self.quantised.codes[:, 0]
        # What ranking sees: only joint coupling lets it move the codewords.
        self.seen = self.quantised if network.config.coupling == "joint" else self.quantised.detach()
        self.codeword = self.seen.codewords[:, 0]
        table = network.quantiser.codebooks[0]
        self.codebook = table if network.config.coupling == "joint" else table.detach()
        config, chance = network.config, torch.rand(len(z), device=z.device)
        self.drawn = chance < config.query_drawn_share
        self.whole = ~self.drawn & (chance > 1 - (1 - config.query_drawn_share) * config.query_sum_share)
        self.other = torch.randperm(len(z), device=z.device)

    @cached_property
    def divided(self) -> Quantised:
        """What the codebook makes of each item once: it is to divide the catalogue, not the traffic."""
        quantised: Quantised = self.network.quantiser(self.distinct)
        return quantised

    @cached_property
    def users(self) -> Tensor:
        """Every position read with its target's codeword, its target's whole reconstruction, or a drawn codeword."""
        queries = torch.where(self.whole[:, None], self.seen.sum, self.codeword)
        if self.drawn.any():
            codes = torch.multinomial(self.logits[self.drawn].detach().softmax(-1), 1)[:, 0]
            queries = queries.index_put((self.drawn,), F.embedding(codes, self.codebook))
        return self.network.interest_vectors(self.states, queries, self.batch.valid)

    @cached_property
    def mistaken(self) -> Tensor:
        """Every position read with the codeword of another one's target."""
        return self.network.interest_vectors(self.states, self.codeword[self.other], self.batch.valid)

    @cached_property
    def logits(self) -> Tensor:
        logits: Tensor = self.network.posterior_logits(self.states)[self.batch.valid]
        return logits

    @cached_property
    def match(self) -> Tensor:
        scores: Tensor = (self.users * self.z).sum(-1) / self.temperature
        return scores

    @cached_property
    def rows(self) -> Tensor:
        """The positions that the contrastive terms compare."""
        return torch.randperm(len(self.z), device=self.z.device)[: self.network.config.contrast_rows]

    def softmax(self) -> Tensor:
        return self.batch.softmax(self.users, self.z, self.negatives, self.temperature)

    def single(self) -> Tensor:
        users = self.network.user(self.states[self.batch.valid])
        return self.batch.softmax(users, self.z, self.negatives, self.temperature)

    def bce(self) -> Tensor:
        mismatch = (self.mistaken * self.z[self.other]).sum(-1) / self.temperature
        return F.softplus(-self.match).mean() + F.softplus(mismatch).mean()

    def rq(self) -> Tensor:
        return self.network.quantiser.loss(self.distinct, self.divided)

    def shuffle(self) -> Tensor:
        swapped = (self.mistaken * self.z).sum(-1) / self.temperature
        comparable = ~self.whole & ~self.drawn & (self.code != self.code[self.other])
        return bpr(self.match[comparable], swapped[comparable]) if comparable.any() else self.match.sum() * 0

    def user_item(self) -> Tensor:
        return self._contrast(self.users[self.rows])

    def item_item(self) -> Tensor:
        return self._contrast(self.z[self.rows])

    def _contrast(self, left: Tensor) -> Tensor:
        rebuilt = self.seen.straight_through(self.z)[self.rows]
        if self.network.config.normalise:
            rebuilt = F.normalize(rebuilt, dim=-1)
        same = self.batch.wanted[self.rows, None] == self.batch.wanted[self.rows]
        return info_nce(left, rebuilt, same, self.temperature)

    def interest(self) -> Tensor:
        return F.cross_entropy(self.logits, self.code)


class Sparc(NeuralRetriever):
    """SPARC-style retrieval (Shi, Dou, Qi 2025, arXiv 2508.09090), after third-party readings of the paper.

    From the paper, as reported: residual quantisation of items by summed codewords; the target's level-0 codeword or
    its whole reconstruction as the query that reads the history; an interest probability tower over all level-0 codes;
    the losses BCE, quantisation, shuffled-interest BPR, user-item and item-item contrast, and interest cross-entropy,
    all trained jointly with undetached codewords; at inference the K likeliest codes, one vector each, merged by a
    share of the list ("soft search").

    Notes
    -----
    Ours, where the paper is silent or unknown to us: one causal encoder under all heads, trained at every position; a
    sampled softmax with log-Q correction beside BCE, since public logs have no impressions, and BCE's negatives are
    other rows of the batch under their own interest; cosine similarity; the reader's residual form; a single-vector
    warm-up, then k-means, and that model's own softmax beside the other terms from then on, at a falling learning rate;
    the quantiser's own terms see each item of a step once, negatives too, since codes that learn where the traffic is
    leave most items to few of them; dead codes restart on random residuals after each epoch; the weights, and the ramp
    of the BPR weight; contrastive rows of the same item are masked.

    Against the paper, since it ranked better: most training queries take a code drawn from the posterior, because a
    reader that only ever sees the target's code trusts it too much when it has to be guessed; the whole reconstruction,
    which all but names the target, is not used unless ``query_sum_share`` says so (the paper: half, none drawn); the
    tower adds to what the single-vector model believes of each cell, so that SPARC starts as that model; BPR weighs 0.1
    (the paper: 10). Two levels of 128 codes and eight interests (the paper, as reported: three levels of 256 or 64,
    four or five): neither a third level nor more interests added anything on Beauty. ``coupling`` gives the two
    controls for joint training.

    Scores are comparable across interests: the codebook estimates each interest's softmax denominator, which is
    subtracted, so that ``u_c . z_i`` is ``log p(i | c, u)`` up to the estimate's error. Lists are merged by
    ``log p(c | u) + u_c . z_i`` unless ``merge`` says otherwise ("quota" is the paper's sharing of slots, by largest
    remainder). After training the posterior is given one temperature, under which it gives the cells of held-out items
    of validation users the largest likelihood: the tower is too sure of what it has seen.
    """

    name = "sparc"
    network: SparcNetwork
    Config = SparcConfig
    network_class = SparcNetwork

    def after_training(self, dataset: Dataset, seed: int) -> None:
        """Calibrate on validation users."""
        calibrate(self, dataset, seed)

    def policy(self) -> Policy:
        """The configured number of interests, merged as configured; one interest before the codebook exists."""
        if not self.network.quantiser.started:
            return Policy(interests=1)
        return Policy(interests=self.config.interests, merge=self.config.merge)
