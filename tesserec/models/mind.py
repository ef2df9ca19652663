"""MIND: interests as capsules that a history is routed into, from random starts, by one map that they share."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tesserec.data.features import ItemFeatures
from tesserec.models.multi_interest import MultiInterestConfig, MultiInterestNetwork, MultiInterestRetriever
from tesserec.models.network import TensorBatch
from tesserec.nn.routing import route


class MindConfig(MultiInterestConfig):
    """Settings of :class:`Mind`; see also :class:`~tesserec.models.network.NeuralConfig`.

    Attributes
    ----------
    interests
        Vectors a user (K), at most, if ``adaptive``.
    iterations
        Of routing.
    logit_std
        Standard deviation of the logits that routing starts from.
    relu
        A layer with ReLU after the capsules, as in the paper; off, since it takes capsules out of the space of items.
    readout
        What learns from a target: the interest nearest to it (``hard``), or all by label-aware ``attention``.
    power
        Sharpness of label-aware attention: 0 weighs interests alike, a large one is the hard read-out.
    adaptive
        Use ``max(1, min(K, log2(n)))`` interests, rounded down, for a history of n events.
    """

    iterations: int = Field(3, ge=1)
    logit_std: float = Field(1.0, gt=0)
    relu: bool = False
    readout: Literal["hard", "attention"] = "hard"
    power: float = Field(1.0, ge=0)
    adaptive: bool = True


class MindNetwork(MultiInterestNetwork):
    """Encoder, then dynamic routing of its states into capsules that differ by where they start."""

    logits: Tensor

    def __init__(self, items: int, config: MindConfig, features: ItemFeatures | None) -> None:
        super().__init__(items, config, features)
        dim = config.encoder.dim
        self.map = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.map.weight)
        self.register_buffer("logits", torch.randn(config.interests, config.encoder.max_length) * config.logit_std)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU()) if config.relu else nn.Identity()

    def extract(self, states: Tensor, prefixes: Tensor) -> Tensor:
        """Capsules; those that a short prefix does not use repeat the first; see :class:`MultiInterestNetwork`."""
        used = interests_used(prefixes.sum(-1), self.codes) if self.config.adaptive else None
        logits = self.logits[:, : states.shape[1]]
        interests: Tensor = self.head(route(self.map(states)[:, None], prefixes, logits, self.config.iterations, used))
        return interests if used is None else torch.where(used[..., None], interests, interests[:, :, :1])

    def softmax(self, users: Tensor, positives: Tensor, negatives: Tensor, batch: TensorBatch) -> Tensor:
        """Softmax of the nearest interest or of the label-aware mixture; see :class:`MultiInterestNetwork`."""
        if self.config.readout == "hard":
            return super().softmax(users, positives, negatives, batch)
        temperature = self.config.temperature
        mixed = self.user(label_aware(users, positives, self.config.power / temperature))
        return batch.softmax(mixed, positives, negatives, temperature)

    def encode(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Equal shares over the interests in use, and all of their vectors; see :class:`MultiInterestNetwork`."""
        share, interests = super().encode(vectors, lengths)
        if not self.config.adaptive:
            return share, interests
        used = interests_used(lengths, self.codes).to(share.dtype)
        return used / used.sum(-1, keepdim=True), interests


def interests_used(events: Tensor, most: int) -> Tensor:
    """Which of at most ``most`` interests a history of so many events has, ``(..., most)``: the first ``log2(n)``."""
    needed = 2 ** torch.arange(1, most + 1, device=events.device)
    return (events[..., None] >= needed) | (needed == 2)


def label_aware(users: Tensor, positives: Tensor, power: float) -> Tensor:
    """Interests ``(rows, K, dim)`` mixed by ``softmax(power * u_k . z)``, each distinct one once, ``(rows, dim)``."""
    affinity = power * torch.einsum("nkd,nd->nk", users, positives).float()
    repeated = (users == users[:, :1]).all(-1)
    repeated[:, 0] = False
    weights = torch.softmax(affinity.masked_fill(repeated, -torch.inf), -1)
    return torch.einsum("nk,nkd->nd", weights.to(users.dtype), users)


class Mind(MultiInterestRetriever):
    """MIND-style retrieval (Li et al., CIKM 2019, arXiv 1904.08030), after the paper and ComiRec's code of it.

    From the paper: behaviour-to-interest dynamic routing with one bilinear map for all pairs, random normal routing
    logits, three iterations and squashed capsules, a ReLU layer after them, the number of interests by the length of
    the history, and label-aware attention in training (``readout = "attention"``). From ComiRec's code:
    hard read-out in its place, and gradients through the last iteration only.

    Notes
    -----
    Ours: the random logits are drawn once for each interest and position and kept with the weights, so a history has
    the same interests whenever it is asked about; they alone tell the interests apart. The map starts at the identity,
    and there is no layer after the capsules unless asked for (``relu``). Label-aware attention multiplies similarities
    by ``power`` where the paper raises them to it, since cosines may be negative and lie close together. The profile
    features that the paper joins to capsules are left out. What :class:`~tesserec.models.comirec.ComiRecSA` says of
    training and of the encoder's states holds here too.
    """

    name = "mind"
    network: MindNetwork
    Config = MindConfig
    network_class = MindNetwork
