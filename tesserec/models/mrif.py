"""MRIF: what a user wants after the last event, the last few and the last many, each summed up in a vector."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from tesserec.data.features import ItemFeatures
from tesserec.models.multi_interest import (
    MultiInterestConfig,
    MultiInterestNetwork,
    MultiInterestRetriever,
    PlainEncoderConfig,
)
from tesserec.nn.routing import pool


class MrifConfig(MultiInterestConfig):
    """Settings of :class:`Mrif`; see also :class:`~tesserec.models.network.NeuralConfig`.

    Attributes
    ----------
    encoder, temperature
        As everywhere; the defaults are the best of our trials.
    interests
        Resolutions (K); the first is the last event alone.
    growth
        Every resolution's window holds this many times the events of the one before: 1, 2, 4, 8, ... by default.
    aggregator
        How the events of a window become one vector: their ``mean``, their ``max`` in every dimension, or
        ``attention`` from the newest of them.
    fusion
        ``slots`` searches with every resolution; ``attention`` fuses them into one vector by attention from the newest
        event.
    """

    encoder: PlainEncoderConfig = PlainEncoderConfig()
    temperature: float = Field(0.1, gt=0)
    growth: int = Field(2, ge=2)
    aggregator: Literal["mean", "max", "attention"] = "mean"
    fusion: Literal["slots", "attention"] = "slots"

    @model_validator(mode="after")
    def _windows_differ(self) -> Self:
        if self.interests > 1 and self.growth ** (self.interests - 2) >= self.encoder.max_length:
            raise ValueError(
                f"interests = {self.interests} windows growing by growth = {self.growth} are longer than "
                f"encoder.max_length = {self.encoder.max_length} more than once; use fewer interests"
            )
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """Events of each window."""
        return tuple(min(self.growth**scale, self.encoder.max_length) for scale in range(self.interests))


class MrifNetwork(MultiInterestNetwork):
    """Encoder, windows of growing size over its states, and one vector of each or of all of them."""

    def __init__(self, items: int, config: MrifConfig, features: ItemFeatures | None) -> None:
        super().__init__(items, config, features)
        self.codes = config.interests if config.fusion == "slots" else 1
        dim = config.encoder.dim
        if config.aggregator == "attention":
            self.aggregate_query = nn.Linear(dim, dim)
        if config.fusion == "attention":
            self.fusion_query = nn.Linear(dim, dim)

    def extract(self, states: Tensor, prefixes: Tensor) -> Tensor:
        """The interest at every resolution, or their fusion; see :class:`MultiInterestNetwork`."""
        last = newest(states, prefixes)
        if self.config.aggregator == "max":
            maxima = window_maxima(states, self.config.sizes)
            interests = torch.stack([newest(values, prefixes) for values in maxima], 2)
        else:
            interests = self._average(states, last, windows(prefixes, self.config.sizes))
        if self.config.fusion == "slots":
            return interests
        affinity = torch.einsum("bpd,bpkd->bpk", self.fusion_query(last), interests) / states.shape[-1] ** 0.5
        return torch.einsum("bpk,bpkd->bpd", affinity.float().softmax(-1).to(interests.dtype), interests)[:, :, None]

    def _average(self, states: Tensor, last: Tensor, within: Tensor) -> Tensor:
        """Weighted means of the states in windows ``(batch, prefixes, windows, length)``."""
        affinity = states.new_zeros(1, 1, 1, 1)
        if self.config.aggregator == "attention":
            affinity = (self.aggregate_query(last) @ states.transpose(1, 2) / states.shape[-1] ** 0.5)[:, :, None]
        weights = affinity.float().masked_fill(~within, -torch.inf).softmax(-1)
        return pool(weights, states)


def windows(prefixes: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Which positions are among the newest ``sizes`` of each prefix, as far as it has so many.

    Prefixes are ``(batch or 1, prefixes, length)``, the answer ``(batch or 1, prefixes, windows, length)``.
    """
    last = prefixes.sum(-1, keepdim=True) - 1
    age = last - torch.arange(prefixes.shape[-1], device=prefixes.device)
    return torch.stack([prefixes & (age < size) for size in sizes], 2)


def newest(values: Tensor, prefixes: Tensor) -> Tensor:
    """Of values ``(batch, length, dim)``, those at the last position of each prefix, ``(batch, prefixes, dim)``."""
    last = (prefixes.sum(-1) - 1).expand(values.shape[0], -1)
    return values.gather(1, last[..., None].expand(-1, -1, values.shape[-1]))


def window_maxima(values: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """Largest value in each dimension among the newest events at every position; one ``(batch, length, dim)`` a size.

    Sizes rise from 1. A window is the union of two smaller ones, the older shifted into its place.
    """
    found, width = [], 1
    for size in sizes:
        while width < size:
            step = min(width, size - width)
            older = F.pad(values, (0, 0, step, 0), value=-torch.inf)[:, : values.shape[1]]
            values, width = torch.maximum(values, older), width + step
        found.append(values)
    return found


class Mrif(MultiInterestRetriever):
    """MRIF-style retrieval (Li, Yang, Zhang 2020, arXiv 2007.07084), after its abstract and introduction.

    From the paper, as they say: interests change over time and have several temporal ranges; an interest extraction
    layer makes the events of a history into states, an interest aggregation layer sums them up at several
    resolutions by a mean, max or attentional aggregator, and an attentional fusion structure combines the resolutions.

    Notes
    -----
    Ours: the shared causal encoder is the extraction layer, by default none but positions, which did as well as a
    transformer in our trials and costs less; windows end at the newest event and grow by a factor; the
    attentional aggregator asks with the newest state, by a scaled dot product. The paper ranks given candidates and
    fuses by attention; a retriever has no candidate to attend with. Searching with every resolution and ranking an
    item by the best of them (``fusion="slots"``) is what attention from the candidate comes to where it is sharp, and
    training reads out the resolution nearest to the target; ``fusion="attention"`` attends from the newest state
    instead and searches once.
    """

    name = "mrif"
    network: MrifNetwork
    Config = MrifConfig
    network_class = MrifNetwork
