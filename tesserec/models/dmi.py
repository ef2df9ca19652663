"""DMI: interests are noised, and a denoiser that reads the history puts them together again, dimension by dimension."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from tesserec.data.features import ItemFeatures
from tesserec.models.multi_interest import (
    MultiInterestConfig,
    MultiInterestNetwork,
    MultiInterestRetriever,
    PlainEncoderConfig,
    nearest_interest,
)
from tesserec.models.network import TensorBatch
from tesserec.nn.diffusion import Denoiser, Schedule, alpha_bars, ddim, even_path, noised
from tesserec.nn.routing import SelfAttention, pool


class DmiWeights(BaseModel):
    """Weights of the loss terms.

    Attributes
    ----------
    softmax
        Sampled softmax of the refined interest nearest to the target.
    coarse
        The same of the interests before refinement (ours).
    reconstruction
        Mean squared error between refined and extracted interests.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    softmax: float = Field(1.0, gt=0)
    coarse: float = Field(1.0, ge=0)
    reconstruction: float = Field(1.0, ge=0)


class DmiConfig(MultiInterestConfig):
    """Settings of :class:`Dmi`; see also :class:`~tesserec.models.multi_interest.MultiInterestConfig`.

    Attributes
    ----------
    encoder, temperature
        As everywhere; the defaults are the best of our trials.
    hidden
        Width of the extraction's hidden layer as a multiple of ``encoder.dim``.
    weights
        Of the losses.
    schedule, levels
        How noise grows over how many levels; see :func:`~tesserec.nn.diffusion.alpha_bars`.
    start
        The strongest level that is trained, and from which serving starts.
    steps
        Deterministic steps from ``start`` to the refined interest at serving.
    prune
        An interest's denoiser reads the items whose attention weight is at least this share of the interest's largest;
        0 reads the whole history.
    """

    encoder: PlainEncoderConfig = PlainEncoderConfig()
    temperature: float = Field(0.1, gt=0)
    hidden: int = Field(4, ge=1)
    weights: DmiWeights = DmiWeights()
    schedule: Schedule = "cosine"
    levels: int = Field(16, ge=1)
    start: int = Field(8, ge=1)
    steps: int = Field(2, ge=1)
    prune: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _start_within_levels(self) -> Self:
        if not self.steps <= self.start <= self.levels:
            raise ValueError(
                f"steps = {self.steps}, start = {self.start}, levels = {self.levels}: refinement takes one step a "
                "level at most and starts at one of them; choose steps <= start <= levels"
            )
        return self


class DmiNetwork(MultiInterestNetwork):
    """Self-attentive extraction, and a denoiser of its interests."""

    def __init__(self, items: int, config: DmiConfig, features: ItemFeatures | None) -> None:
        super().__init__(items, config, features)
        shape = config.encoder
        self.attention = SelfAttention(shape.dim, config.hidden * shape.dim, config.interests)
        signal = alpha_bars(config.schedule, config.levels)
        self.denoiser = Denoiser(shape.dim, shape.heads, shape.expansion, shape.dropout, signal)

    def coarse(self, states: Tensor, prefixes: Tensor) -> tuple[Tensor, Tensor]:
        """Extracted interests ``(batch, prefixes, K, dim)`` and their weights ``(batch, prefixes, K, length)``."""
        weights = self.attention(states, prefixes)
        return pool(weights, states), weights

    def denoise(self, noisy: Tensor, level: Tensor, states: Tensor, weights: Tensor) -> Tensor:
        """What noisy interests ``(batch, prefixes, K, dim)`` were, each from the part of the history that it reads."""
        kept = (weights > 0) & (weights >= self.config.prune * weights.amax(-1, keepdim=True))
        mask = torch.zeros_like(weights).masked_fill(~kept, -torch.inf)
        clean: Tensor = self.denoiser(noisy.flatten(1, 2), level.flatten(1), states, mask.flatten(1, 2)[:, None])
        return clean.view(noisy.shape)

    def extract(self, states: Tensor, prefixes: Tensor) -> Tensor:
        """Refined interests, without chance; see :class:`MultiInterestNetwork`."""
        coarse, weights = self.coarse(states, prefixes)
        path, signal = even_path(self.config.start, self.config.steps), self.denoiser.signal

        def denoise(noisy: Tensor, level: int) -> Tensor:
            return self.denoise(noisy, torch.full((1, 1, 1), level, device=noisy.device), states, weights)

        return ddim(denoise, signal[path[0]].sqrt() * standardised(coarse), signal, path)

    def losses(self, batch: TensorBatch, progress: float) -> dict[str, Tensor]:
        """Ranking by refined and by extracted interests, and reconstruction from noise."""
        inputs, positives, negatives = self.items.lookup(batch.inputs, batch.wanted, batch.negatives)
        states = self.states(inputs)
        causal = torch.ones(states.shape[1], states.shape[1], dtype=torch.bool, device=states.device).tril()
        coarse, weights = self.coarse(states, causal[None])
        clean = standardised(coarse)
        level = torch.randint(1, self.config.start + 1, clean.shape[:-1], device=clean.device)
        noisy = noised(clean, torch.randn_like(clean), self.denoiser.signal[level][..., None])
        restored = self.denoise(noisy, level, states, weights)

        def softmax(interests: Tensor) -> Tensor:
            users = nearest_interest(self.user(interests[batch.valid]), positives)
            return batch.softmax(users, positives, negatives, self.config.temperature)

        terms = {
            "softmax": softmax(restored),
            "coarse": softmax(coarse),
            "reconstruction": F.mse_loss(restored[batch.valid].float(), clean[batch.valid].detach().float()),
        }
        return {name: weight * terms[name] for name, weight in self.config.weights if weight}


def standardised(vectors: Tensor) -> Tensor:
    """Vectors at length ``sqrt(dim)``: a variance of one in every dimension, like the noise's."""
    scaled: Tensor = F.normalize(vectors, dim=-1) * vectors.shape[-1] ** 0.5
    return scaled


class Dmi(MultiInterestRetriever):
    """DMI-style retrieval (Le et al. 2025, arXiv 2502.05561), after its abstract.

    From the paper, as it says: interests extracted by attention mix items at the level of whole vectors and carry what
    is irrelevant; controllable noise is put on them dimension by dimension, and an iterative reconstruction, by
    cross-attention over the history and with a pruning of items, gives the refined interests that are searched.

    Notes
    -----
    Ours, since the abstract leaves it open: interests come from ComiRec's self-attention over the encoder's states;
    they are scaled to unit variance, only their direction is diffused, and a fresh denoiser keeps it, so training
    starts at ComiRec-SA; the denoiser predicts the clean interest (x0), which for the reconstruction is the extracted
    one without its gradient, while the ranking of refined interests says what is irrelevant in it; extracted
    interests are ranked beside them. Ranking reads interests restored from noise in one step, which did no worse in
    our trials than ranking what serving makes of them; every level up to ``start`` is as likely. Pruning compares
    attention weights within an interest. Serving knows no chance: it starts from what the forward process makes of
    the extracted interest on average, ``sqrt(alpha_bar) * x0`` at ``start``, and takes ``steps`` deterministic steps
    (DDIM).
    """

    name = "dmi"
    network: DmiNetwork
    Config = DmiConfig
    network_class = DmiNetwork
