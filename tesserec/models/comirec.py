"""ComiRec: several interests of a user by self-attention or by dynamic routing, each searched with its own vector."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tesserec.data.features import ItemFeatures
from tesserec.models.multi_interest import MultiInterestConfig, MultiInterestNetwork, MultiInterestRetriever
from tesserec.nn.routing import SelfAttention, pool, route

NOISE = 0.2
"""How far dynamic routing's maps start from the identity: the length of noise added to a vector of length one."""


class ComiRecSAConfig(MultiInterestConfig):
    """Settings of :class:`ComiRecSA`; see also :class:`~tesserec.models.network.NeuralConfig`.

    Attributes
    ----------
    interests
        Vectors a user (K).
    hidden
        Width of the attention's hidden layer as a multiple of ``encoder.dim``.
    """

    hidden: int = Field(4, ge=1)


class ComiRecSANetwork(MultiInterestNetwork):
    """Encoder, then one attention-weighted sum of its states an interest."""

    def __init__(self, items: int, config: ComiRecSAConfig, features: ItemFeatures | None) -> None:
        super().__init__(items, config, features)
        dim = config.encoder.dim
        self.attention = SelfAttention(dim, config.hidden * dim, config.interests)

    def extract(self, states: Tensor, prefixes: Tensor) -> Tensor:
        """Sums of states by attention; see :class:`MultiInterestNetwork`."""
        return pool(self.attention(states, prefixes), states)


class ComiRecSA(MultiInterestRetriever):
    """ComiRec-SA-style retrieval (Cen et al., KDD 2020, arXiv 2005.09347), after the authors' code.

    From the paper: ``A = softmax(W_2 tanh(W_1 H))`` over the positions of the history, K interests ``A H``; the
    interest nearest to the target learns from it; each interest brings its nearest items, and the lists are merged by
    the largest score. The paper's controllable diversity of the merged list is
    :func:`tesserec.index.diversify.diverse`.

    Notes
    -----
    Ours: every position of a row is an example, so the interests of all its prefixes are drawn at once; cosine
    similarity with a temperature, and a sampled softmax with log-Q correction. What is attended to are the encoder's
    states, by default means of windows, which did better on the logs tried. With ``encoder.kind = "none"`` they are
    items and their positions, the paper's own form but for one difference, that it adds positions for the weights
    alone, and here they are in the sums too.
    """

    name = "comirec-sa"
    network: ComiRecSANetwork
    Config = ComiRecSAConfig
    network_class = ComiRecSANetwork


class ComiRecDRConfig(MultiInterestConfig):
    """Settings of :class:`ComiRecDR`; see also :class:`~tesserec.models.network.NeuralConfig`.

    Attributes
    ----------
    interests
        Vectors a user (K).
    iterations
        Of routing.
    maps
        Bilinear maps from states to votes: one for every ``interest`` at all positions, or one for every ``position``
        and interest, as in the authors' code, with ``encoder.max_length`` times as many weights.
    """

    iterations: int = Field(3, ge=1)
    maps: Literal["interest", "position"] = "interest"


class ComiRecDRNetwork(MultiInterestNetwork):
    """Encoder, then dynamic routing of its states into capsules."""

    logits: Tensor

    def __init__(self, items: int, config: ComiRecDRConfig, features: ItemFeatures | None) -> None:
        super().__init__(items, config, features)
        dim, places = config.encoder.dim, config.encoder.max_length if config.maps == "position" else 1
        noise = NOISE * dim**-0.5 * torch.randn(places, dim, config.interests * dim)
        self.maps = nn.Parameter(torch.eye(dim).repeat(1, config.interests) + noise)
        self.register_buffer("logits", torch.zeros(config.interests, 1), persistent=False)

    def extract(self, states: Tensor, prefixes: Tensor) -> Tensor:
        """Capsules, routed from even shares; see :class:`MultiInterestNetwork`."""
        if self.config.maps == "position":
            votes = (states.transpose(0, 1) @ self.maps[: states.shape[1]]).transpose(0, 1)
        else:
            votes = states @ self.maps[0]
        votes = votes.view(*states.shape[:2], self.codes, -1).transpose(1, 2)
        return route(votes, prefixes, self.logits, self.config.iterations)

    def user(self, states: Tensor) -> Tensor:
        """Capsules as they are: a long one is sure of itself, and a short one does not drown out the others."""
        return states


class ComiRecDR(MultiInterestRetriever):
    """ComiRec-DR-style retrieval (Cen et al., KDD 2020, arXiv 2005.09347), after the authors' code.

    From the paper: dynamic routing from the items of the history to K capsules, with routing logits that start at
    zero, three iterations and squashed capsules; hard read-out and merging as in :class:`ComiRecSA`.
    From the code: a bilinear map of its own for every interest and, if ``maps = "position"``, every position; gradients
    through the last iteration only. The maps alone tell the interests apart, since all start from even shares.

    Notes
    -----
    Ours: what :class:`ComiRecSA` says of training and of the encoder's states holds here too. The maps start near the
    identity, so capsules lie among the items from the first step on. Items have length one but capsules keep theirs,
    which is below one and, as in the paper, says how much of the history went into them. Positions share
    the maps by default, which retrieves better on the short histories of our trials.
    """

    name = "comirec-dr"
    network: ComiRecDRNetwork
    Config = ComiRecDRConfig
    network_class = ComiRecDRNetwork
