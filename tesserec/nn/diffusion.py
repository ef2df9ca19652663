"""Diffusion of vectors: noise by a schedule, a denoiser that reads a history, and deterministic steps back.

Vectors are taken to have about unit variance in every dimension, so that noise of variance one is as strong as they
are. Level 0 is clean, the last level is noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from tesserec.nn.encoders import Attention

Schedule = Literal["linear", "cosine"]


def alpha_bars(schedule: Schedule, levels: int) -> Tensor:
    """Share of a vector's variance that is signal at each level, ``(levels + 1,)``, falling from 1.

    Parameters
    ----------
    schedule
        ``linear``: betas grow linearly (DDPM, Ho et al. 2020), in the limit of small steps (Song et al. 2021,
        appendix C), so that fewer levels mean larger steps to the same noise. ``cosine``: Nichol and Dhariwal 2021.
    levels
        Levels above the clean one (T).
    """
    time = torch.linspace(0, 1, levels + 1, dtype=torch.float64)
    if schedule == "linear":
        return torch.exp(-0.1 * time - (20 - 0.1) * time**2 / 2).float()
    signal = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    return (signal / signal[0]).float()


def noised(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """The forward process in one step, ``q(x_t | x_0)``; all three broadcast to each other."""
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise


def ddim_step(noisy: Tensor, clean: Tensor, alpha_bar: Tensor, lower: Tensor) -> Tensor:
    """From the level of ``alpha_bar`` to that of ``lower``, given what the clean vector is thought to be.

    Deterministic (DDIM, Song et al. 2021, equation 12 with sigma 0); ``alpha_bar`` is below 1.
    """
    noise = (noisy - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()
    return noised(clean, noise, lower)


def ddim(denoise: Callable[[Tensor, int], Tensor], noisy: Tensor, signal: Tensor, path: tuple[int, ...]) -> Tensor:
    """Follow falling levels; the answer of the last step to level 0 is what the denoiser said there.

    Parameters
    ----------
    denoise
        Noisy vectors and their level to what the clean ones are thought to be.
    noisy
        Vectors at the first level of the path.
    signal
        What :func:`alpha_bars` gives.
    path
        Levels from the first, at least 1, to 0.
    """
    for level, lower in pairwise(path):
        noisy = ddim_step(noisy, denoise(noisy, level), signal[level], signal[lower])
    return noisy


def even_path(start: int, steps: int) -> tuple[int, ...]:
    """Levels from ``start`` to 0 in at most ``steps`` about equal steps."""
    return tuple(sorted({round(start * step / steps) for step in range(steps + 1)}, reverse=True))


class Denoiser(nn.Module):
    """What a noisy vector was, by cross-attention over a history.

    The vector and an embedding of its level ask the history; an MLP of question and answer says what to change about
    ``sqrt(alpha_bar) * noisy``, the best linear guess for vectors of unit variance. The last layer starts at zero, so
    a fresh denoiser keeps directions as they are.

    Parameters
    ----------
    dim, heads, expansion, dropout
        As of the encoder.
    signal
        What :func:`alpha_bars` gives.
    """

    signal: Tensor

    def __init__(self, dim: int, heads: int, expansion: int, dropout: float, signal: Tensor) -> None:
        super().__init__()
        self.register_buffer("signal", signal, persistent=False)
        self.level = nn.Embedding(len(signal), dim)
        self.norm, self.norm_history = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.dropout = nn.Dropout(dropout)
        last = nn.Linear(expansion * dim, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(2 * dim, expansion * dim), nn.GELU(), last)

    def forward(self, noisy: Tensor, level: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """What the clean vectors are thought to be.

        Parameters
        ----------
        noisy
            ``(batch, vectors, dim)``.
        level
            Level of each, ``(batch or 1, vectors or 1)``.
        states
            The history, ``(batch, length, dim)``.
        mask
            Additive, which positions each vector may read; broadcastable to ``(batch, 1, vectors, length)``.
        """
        asked = self.norm(noisy + self.level(level))
        read = self.attention(asked, self.norm_history(states), mask)
        change = self.mlp(self.dropout(torch.cat([asked, read], -1)))
        kept: Tensor = self.signal[level].sqrt()[..., None] * noisy + change
        return kept
