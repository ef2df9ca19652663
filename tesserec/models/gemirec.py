"""GemiRec: a dictionary of interests maintained beside the retriever, and a generative model of a user's next ones."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from tesserec.data.features import ItemFeatures
from tesserec.index.contract import Merge, Policy
from tesserec.models.codebooks import InterestNetwork, LossWeights, WarmConfig, check_codes
from tesserec.models.network import TensorBatch, last_valid
from tesserec.models.neural import NeuralRetriever
from tesserec.nn.dictionary import DictionaryConfig, InterestDictionary
from tesserec.nn.encoders import Block, causal_mask
from tesserec.nn.generative import AutoregressivePosterior, number_of, tuple_of
from tesserec.nn.interests import Reader, cell_logits
from tesserec.nn.losses import NEVER


class GemiRecWeights(LossWeights):
    """Weights of the loss terms; each at 0 switches its term off.

    Attributes
    ----------
    retrieval
        Sampled softmax of the user vector of the target's interest (MIRM).
    single
        The same softmax for the state before any interest is read (ours): encoder and items go on learning as the
        warm-up's single-vector model does, and the reader learns only what an interest changes.
    posterior
        Negative log-probability of the target's interest (MIPDM).
    dictionary
        Reconstruction, codebook and commitment terms (IDMM).
    shuffle
        The right interest must beat a wrong one for the same item (BPR; ours), so that a reader cannot ignore its
        query.
    """

    retrieval: float = Field(1.0, ge=0)
    single: float = Field(1.0, ge=0)
    posterior: float = Field(1.0, ge=0)
    dictionary: float = Field(1.0, ge=0)
    shuffle: float = Field(0.0, ge=0)


class GemiRecConfig(WarmConfig):
    """Settings of :class:`GemiRec`; see also :class:`~tesserec.models.codebooks.WarmConfig`.

    Attributes
    ----------
    codebook, weights
        Shape of the dictionary and weights of the losses.
    depth
        Levels that name an interest, at most ``codebook.levels``: 2 is the tuple, 1 its first code alone.
    warmup_epochs
        Epochs as a plain single-vector model before k-means starts the dictionary.
    reassign_every
        Epochs between two versions of the assignment of items to interests.
    swap
        Share of training queries that use an interest drawn from the posterior among those with the target's first
        code, instead of the target's own: what is served is predicted, not told. With a ``depth`` of 1 there is none
        but the target's own.
    shared
        Let the posterior and the interest softmax train encoder and items too; without it only ``single`` does.
    reader_dropout
        Share of what an interest changes about a user vector that is dropped in training.
    trust
        How far an interest moves the user vector at inference: 1 as far as in training, where the interest is the
        target's own and the history is known by heart, 0 not at all, which is the single-vector model. The further,
        the less a user's interests collapse, and the more recall it costs.
    posterior_temperature
        Softens what the single-vector model believes of the cells at inference: above 1 where it is surer of users it
        was trained on than it may be of others.
    decode
        ``exact`` gives every interest its probability; ``beam`` keeps the ``per_parent`` likeliest of each first code,
        which share that code's probability, so that the interests of a user differ.
    per_parent
        Interests with the same first code, at most; of ``beam``.
    within_cell
        Search an interest among its own items alone; lists are short unless interests are many or coarse.
    interests, merge
        Interests read per user at inference and how their lists become one; see
        :class:`~tesserec.index.contract.Policy`.
    """

    codebook: DictionaryConfig = DictionaryConfig()
    weights: GemiRecWeights = GemiRecWeights()
    depth: int = Field(2, ge=1)
    warmup_epochs: int = Field(20, ge=1)
    reassign_every: int = Field(1, ge=1)
    swap: float = Field(0.6, ge=0, le=1)
    shared: bool = False
    reader_dropout: float = Field(0.0, ge=0, lt=1)
    trust: float = Field(0.5, ge=0, le=2)
    posterior_temperature: float = Field(1.0, gt=0)
    decode: Literal["exact", "beam"] = "beam"
    per_parent: int = Field(2, ge=1)
    within_cell: bool = False
    interests: int = Field(8, ge=1)
    merge: Merge = "probability"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.depth > self.codebook.levels:
            raise ValueError(
                f"depth = {self.depth} with codebook.levels = {self.codebook.levels}; an interest has at most as many "
                "codes as there are levels"
            )
        return self


class GemiRecNetwork(InterestNetwork):
    """Shared encoder, dictionary of items (IDMM), posterior over next interests (MIPDM) and reader (MIRM)."""

    centres: Tensor
    log_sizes: Tensor
    per_item: ClassVar[tuple[str, ...]] = (*InterestNetwork.per_item, "dictionary.codes")

    def __init__(self, items: int, config: GemiRecConfig, features: ItemFeatures | None) -> None:
        super().__init__(items, config, features)
        shape, dim = config.codebook, config.encoder.dim
        check_codes(shape.codes, items)
        self.dictionary = InterestDictionary(items, shape, dim)
        # What a position of the posterior's transformer holds: the state at an item, and the interest of that item.
        self.pair, self.query = nn.Linear(config.depth * dim, dim), nn.Linear(config.depth * dim, dim)
        self.block = Block(dim, config.encoder.heads, config.encoder.expansion, config.encoder.dropout)
        self.posterior = AutoregressivePosterior(dim, config.depth, shape.codes)
        self.reader = Reader(config.encoder, config.reader_dropout)
        self.codes = self.posterior.tuples
        self.register_buffer("centres", torch.zeros(self.codes, dim))
        self.register_buffer("log_sizes", torch.zeros(self.codes))

    def losses(self, batch: TensorBatch, progress: float) -> dict[str, Tensor]:
        """The terms of the three modules and a single-vector softmax; the latter alone until there is a dictionary."""
        inputs, z, negatives = self.items.lookup(batch.inputs, batch.wanted, batch.negatives)
        states, temperature = self.states(inputs), self.config.temperature
        single = self.user(states[batch.valid])
        terms = {"single": batch.softmax(single, z, negatives, temperature)}
        if not self.dictionary.started:
            return terms
        if not self.config.shared:
            inputs, states, z_seen, negatives_seen = (x.detach() for x in (inputs, states, z, negatives))
        else:
            z_seen, negatives_seen = z, negatives
        wanted = self.dictionary.codes[batch.wanted][:, : self.config.depth]
        hidden, base = self._believed(states, inputs)[batch.valid], self._mass(single.detach())
        terms["posterior"] = -self.posterior.log_prob(hidden, wanted, base).mean()
        users = self._read_at(states, self._queried(wanted, hidden, base), batch.valid)
        terms["retrieval"] = batch.softmax(users, z_seen, negatives_seen, temperature)
        terms["dictionary"] = self.dictionary.loss(negatives)
        if self.config.weights.shuffle:
            terms["shuffle"] = self._shuffled(states, users, wanted, z_seen, batch.valid)
        weights = {name: getattr(self.config.weights, name) for name in terms}
        return {name: weights[name] * term for name, term in terms.items() if weights[name]}

    def _believed(self, states: Tensor, inputs: Tensor) -> Tensor:
        """States ``(batch, length, dim)`` of the posterior's transformer over pairs of items and their interests."""
        codes = self.dictionary(inputs.flatten(0, 1)).codes[:, : self.config.depth]
        embedded = self.dictionary.embed(codes).view(*inputs.shape[:2], -1)
        pairs = states + self.pair(embedded)
        hidden: Tensor = self.block(pairs, causal_mask(pairs.shape[1], pairs.device))
        return hidden

    def _mass(self, users: Tensor) -> Tensor:
        return cell_logits(users / self.config.temperature, self.centres, self.log_sizes)

    @torch.no_grad()
    def _queried(self, wanted: Tensor, hidden: Tensor, base: Tensor) -> Tensor:
        """The interest that reads each position: the target's, or a likely one with the same first code."""
        likely = self.posterior.sample(hidden, 1, base, prefix=wanted[:, :1])[:, 0]
        swapped = torch.rand(len(wanted), 1, device=wanted.device) < self.config.swap
        return torch.where(swapped, likely, wanted)

    def _read_at(self, states: Tensor, tuples: Tensor, valid: Tensor) -> Tensor:
        """User vectors ``(positions, dim)``, each valid position reading its past for its own interest."""
        return self.user(self.reader.along(states, self.query(self.dictionary.embed(tuples)), valid))

    def _shuffled(self, states: Tensor, users: Tensor, wanted: Tensor, z: Tensor, valid: Tensor) -> Tensor:
        other = wanted[torch.randperm(len(wanted), device=wanted.device)]
        mistaken = self._read_at(states, other, valid)
        differ = (other != wanted).any(-1).float()
        scores = ((vectors * z).sum(-1).float() / self.config.temperature for vectors in (users, mistaken))
        better, worse = scores
        return (-F.logsigmoid(better - worse) * differ).sum() / differ.sum().clamp_min(1)

    def encode(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Posterior over interests ``(batch, codes)`` after the last event, and all states."""
        vectors = vectors[..., :-1]
        states = self.states(vectors)
        hidden = last_valid(self._believed(states, vectors), lengths)
        base = self._mass(self.user(last_valid(states, lengths)) / self.config.posterior_temperature)
        return self._decoded(hidden, base), states

    def _decoded(self, hidden: Tensor, base: Tensor) -> Tensor:
        if self.config.decode == "exact" or self.config.depth == 1:
            return self.posterior.joint(hidden, base).exp()
        codes, per_parent = self.config.codebook.codes, self.config.per_parent
        tuples, scores = self.posterior.beam(hidden, codes * per_parent, per_parent, base)
        kept = torch.full_like(base, NEVER).scatter(1, number_of(tuples, codes), scores)
        first = self.posterior.next_level(hidden, tuples[:, :1, :0], base)[:, 0]
        within = kept.view(kept.shape[0], codes, -1).log_softmax(-1)
        return (first[..., None] + within).flatten(1).exp()

    def read(self, interests: Tensor, lengths: Tensor, *state: Tensor) -> Tensor:
        """User vectors of interests ``(batch, interests)``; products with items are ``log p(item | interest, u)``."""
        states, tuples = state[0], tuple_of(interests, self.config.codebook.codes, self.config.depth)
        queries, own = self.query(self.dictionary.embed(tuples)), last_valid(states, lengths)
        read = self.reader.after(states, own, queries, lengths)
        users = self.user(torch.lerp(own[:, None], read, self.config.trust))
        denominators = self._mass(users).logsumexp(-1, keepdim=True)
        return torch.cat([users / self.config.temperature, -denominators], dim=-1)

    @torch.no_grad()
    def cells(self) -> Tensor:
        """Interest of every item by the assignment's present version, ``(items,)``."""
        return self._interest_of(self.dictionary.codes)

    def _interest_of(self, codes: Tensor) -> Tensor:
        return number_of(codes[:, : self.config.depth], self.config.codebook.codes)

    @torch.no_grad()
    def place(self, vectors: Tensor) -> Tensor:
        """See :meth:`Network.place`: by the entries as they are."""
        return self._interest_of(self.dictionary(vectors).codes)

    def item_codes(self) -> tuple[Tensor, int] | None:
        """Codes of every item at every level, by the present version; None until there is a dictionary."""
        return (self.dictionary.codes, self.config.codebook.codes) if self.dictionary.started else None

    @torch.no_grad()
    def start(self, epoch: int, seed: int) -> dict[str, Any]:
        """The dictionary's first version, by k-means."""
        z = self.items.all()
        self.dictionary.start(z, seed)
        self._measure_cells(z)
        return {}

    @torch.no_grad()
    def end_epoch(self, epoch: int, seed: int) -> dict[str, Any]:
        """Maintain the dictionary; reports health, version and churn."""
        z, due = self.items.all(), (epoch + 1) % self.config.reassign_every == 0
        figures = self.dictionary.maintain(z, epoch, seed) if due else {}
        self._measure_cells(z)
        return figures

    def _measure_cells(self, z: Tensor) -> None:
        """Mean item vector and log-size of every cell; an empty one can never be believed in."""
        cells = self.cells()
        sizes = torch.bincount(cells, minlength=self.codes)
        sums = torch.zeros_like(self.centres).index_add_(0, cells, z)
        self.centres.copy_(sums / sizes.clamp_min(1)[:, None])
        self.log_sizes.copy_(sizes.log().clamp_min(NEVER))

    @torch.no_grad()
    def welcome(self, new: Tensor) -> None:
        """See :meth:`Network.welcome`: by the entries as they are."""
        z = self.items.all()
        if self.dictionary.started:
            self.dictionary.codes[new] = self.dictionary(z[new]).codes
        self._measure_cells(z)


class GemiRec(NeuralRetriever):
    """GemiRec-style retrieval (Wu et al. 2025, arXiv 2510.14626), after third-party readings of the paper.

    From the paper, as reported: a dictionary of interests learned by an RQ-VAE on item embeddings that its loss does
    not move, an interest being the concatenation of its entries (IDMM); a generative model of the next interests
    (MIPDM); retrieval with one user vector an interest, in a dual tower (MIRM).

    Notes
    -----
    Ours, where the paper is silent or unknown to us:

    - IDMM: see :class:`~tesserec.nn.dictionary.InterestDictionary`; it learns from the shared pool of negatives, half
      of it popular and half uniform. Items are re-assigned every ``reassign_every`` epochs; labels, queries and cells
      go by that version. A single-vector warm-up comes first, since k-means on untrained items would mean nothing.
    - MIPDM: one causal encoder under all heads, then a transformer block over pairs of its states and the interests of
      the items read. The items' interests are found by the present dictionary, so that a served user side needs item
      vectors alone; with ``reassign_every`` = 1 that is the stored version at every validation. The label is the
      interest of the item to predict, a sample of the next ``horizon`` items. The posterior starts as the
      single-vector softmax's own mass in every cell, and its heads learn what is to be changed about it. Interests
      without items have no probability.
    - MIRM: target attention by a linear map of the interest embedding, in residual form, with a sampled softmax over
      the whole catalogue. Of the queries, the share ``swap`` uses an interest drawn from the posterior among those with
      the target's first code: the gap between telling the interest and predicting it. ``trust`` shortens the step from
      the user's own vector to the interest's at inference; the step is too long on users who were not trained on. By
      default neither this softmax nor the posterior moves items and encoder (``shared``): a softmax of the user's own
      vector does, and the interests add to it what they can.
    - Serving: every interest searches the whole catalogue, merged by ``log p(m | u) + log p(i | m, u)``, whose
      denominator is estimated from the cells' centres and sizes; ``within_cell`` searches an interest's own cell. At
      most ``per_parent`` interests share their first code, and what the others would have is shared by these, so the
      probability of every first code stays the model's own.
    """

    name = "gemirec"
    network: GemiRecNetwork
    Config = GemiRecConfig
    network_class = GemiRecNetwork

    def policy(self) -> Policy:
        """The configured number of interests, merged as configured; one interest before the dictionary exists."""
        if not self.network.dictionary.started:
            return Policy(interests=1)
        if self.config.within_cell:
            return Policy(interests=self.config.interests, merge=self.config.merge, reach="cell", normalise=True)
        return Policy(interests=self.config.interests, merge=self.config.merge)
