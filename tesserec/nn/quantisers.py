"""Residual quantiser: level by level, the nearest code of what the levels before left over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from tesserec.errors import ConfigError

KMEANS_POINTS_PER_CODE = 256
"""More vectors than this a code do not move k-means centres noticeably, but cost time."""


class CodebookConfig(BaseModel):
    """Size of a residual codebook.

    Attributes
    ----------
    levels
        Residual levels (M).
    codes
        Codes a level (N).
    commitment
        Weight of the codebook terms beside the reconstruction error (beta).
    restart_below
        A code that fewer than this many items use is dead and is restarted at the end of an epoch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    levels: int = Field(2, ge=1)
    codes: int = Field(128, ge=2)
    commitment: float = Field(0.25, ge=0)
    restart_below: int = Field(1, ge=0)


@dataclass(frozen=True)
class Quantised:
    """What a residual quantiser makes of vectors.

    Attributes
    ----------
    codes
        ``(rows, levels)``, int64.
    codewords
        Chosen entries, differentiable in the codebook, ``(rows, levels, dim)``.
    residuals
        What each level had to explain, detached from the codebook, ``(rows, levels, dim)``.
    """

    codes: Tensor
    codewords: Tensor
    residuals: Tensor

    @property
    def sum(self) -> Tensor:
        """Reconstruction, the sum of the codewords, ``(rows, dim)``; gradients reach the codebook."""
        return self.codewords.sum(1)

    def straight_through(self, z: Tensor) -> Tensor:
        """The reconstruction's value with gradients to ``z`` as well as to the codebook, ``(rows, dim)``."""
        return self.sum + z - z.detach()


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest row of ``codebook`` in squared distance, smallest index on ties, ``(rows,)``."""
    return torch.argmin((codebook * codebook).sum(-1) - 2 * vectors @ codebook.T, dim=-1)


class ResidualQuantiser(nn.Module):
    """``r_0 = z;  c_m = nearest(r_m, E_m);  r_{m+1} = r_m - E_m[c_m]``, always in float32.

    Parameters
    ----------
    config
        Levels, codes and loss weight.
    dim
        Width of the vectors.

    Notes
    -----
    The recursion is SPARC's (Shi et al. 2025, as reported). The k-means start, the restart rule and updates by
    gradient are ours: moving averages would cut the ranking gradient, which is the point of joint training.
    """

    started: Tensor

    def __init__(self, config: CodebookConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.codebooks = nn.Parameter(torch.randn(config.levels, config.codes, dim) * dim**-0.5)
        # A buffer, so that loading a trained codebook can never trigger a second start.
        self.register_buffer("started", torch.tensor(False))

    def forward(self, z: Tensor) -> Quantised:
        """Quantise ``(rows, dim)`` vectors."""
        with torch.autocast(z.device.type, enabled=False):
            return self._quantise(z)

    def _quantise(self, z: Tensor) -> Quantised:
        residual = z.float().detach()
        codes, words, residuals = [], [], []
        for level in range(self.config.levels):
            codebook = self.codebooks[level]
            code = nearest(residual, codebook.detach())
            word = F.embedding(code, codebook)
            codes.append(code)
            words.append(word)
            residuals.append(residual)
            residual = residual - word.detach()
        return Quantised(torch.stack(codes, 1), torch.stack(words, 1), torch.stack(residuals, 1))

    def loss(self, z: Tensor, quantised: Quantised) -> Tensor:
        """Reconstruction error plus ``commitment`` times the distance of codewords from residuals (SPARC, 3.4).

        Squared distances are summed over dimensions, so that the weight does not depend on the width.
        """
        reconstruction = (z - quantised.sum).square().sum(-1).mean()
        codebook = (quantised.residuals - quantised.codewords).square().sum(-1).mean(0).sum()
        return reconstruction + self.config.commitment * codebook

    @torch.no_grad()
    def start(self, vectors: Tensor, seed: int) -> None:
        """Set every level by k-means on the residuals of ``vectors`` ``(rows, dim)``.

        Raises
        ------
        ConfigError
            If there are fewer distinct vectors than codes.
        """
        from scipy.cluster.vq import kmeans2

        residual = vectors.detach().float().cpu().numpy()
        distinct = len(np.unique(residual.round(6), axis=0))
        if distinct < self.config.codes:
            raise ConfigError(
                f"codebook.codes = {self.config.codes}, but the catalogue has only {distinct} distinct item vectors; "
                "use fewer codes"
            )
        rng = np.random.default_rng(seed)
        for level in range(self.config.levels):
            size = min(len(residual), KMEANS_POINTS_PER_CODE * self.config.codes)
            sample = residual[rng.choice(len(residual), size, replace=False)]
            centres, _ = kmeans2(sample, self.config.codes, iter=20, minit="++", rng=rng, missing="warn")
            self.codebooks[level] = torch.from_numpy(centres).to(self.codebooks)
            code = nearest(torch.from_numpy(residual), torch.from_numpy(centres.astype(np.float32))).numpy()
            residual = residual - centres.astype(np.float32)[code]
        self.started.fill_(True)

    @torch.no_grad()
    def restart_dead(self, z: Tensor, generator: torch.Generator) -> list[int]:
        """Move codes that too few items use onto random residuals of ``z``; returns how many at each level.

        A code in use is never moved, and no more codes are moved than there are items in crowded cells.
        """
        moved = []
        for level in range(self.config.levels):
            quantised = self(z)
            usage = torch.bincount(quantised.codes[:, level], minlength=self.config.codes)
            dead = torch.nonzero(usage < self.config.restart_below)[:, 0]
            crowded = torch.nonzero(usage[quantised.codes[:, level]] > 1)[:, 0]
            dead = dead[: len(crowded)]
            chosen = crowded[torch.randperm(len(crowded), generator=generator)[: len(dead)].to(crowded.device)]
            self.codebooks[level, dead] = quantised.residuals[chosen, level].to(self.codebooks.dtype)
            moved.append(len(dead))
        return moved


@dataclass(frozen=True)
class LevelHealth:
    """How evenly one level's codes are used by the catalogue."""

    perplexity: float
    dead: int


def codebook_health(codes: NDArray[np.integer], size: int) -> list[LevelHealth]:
    """Perplexity (effective number of codes) and dead codes of each level for codes ``(items, levels)``."""
    levels = []
    for column in codes.T:
        share = np.bincount(column, minlength=size) / len(column)
        used = share[share > 0]
        levels.append(LevelHealth(float(np.exp(-(used * np.log(used)).sum())), int(size - len(used))))
    return levels
