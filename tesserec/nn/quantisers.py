"""Quantisers: vectors in, the nearest entries of learned codebooks out, behind one interface.

==============================  ==========================================================================
``quantiser(z)``                a :class:`Quantised`: codes, codewords, residuals; ``z`` is ``(rows, dim)``
``quantised.rebuilt``           what stands for ``z``; ``.sum`` over levels or ``.concat`` of them by name
``quantised.straight_through``  the same value with gradients to ``z``, by ``codebook.estimator``
``quantised.detach()``          the same with the codebook out of reach of any gradient
``quantiser.loss(z, q)``        reconstruction and codebook terms
``quantiser.update(q)``         moving averages; call it in every training step, it does nothing under gradients
``quantiser.start(z, seed)``    k-means; ``started`` and ``frozen`` are buffers and survive a reload
``quantiser.assign(z)``         codes of a whole catalogue, in blocks, without gradients
``quantiser.restart_dead``      moves unused codes; :func:`tesserec.nn.codebook.upkeep` calls it once an epoch
``quantiser.freeze()``          nothing moves the codes from then on
==============================  ==========================================================================

A caller whose codebook must not pull on what is quantised (GemiRec) hands in a detached ``z``.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from tesserec.errors import ConfigError
from tesserec.nn.estimators import PASSES, Estimator, gumbel, nearest, squared_distances
from tesserec.nn.precision import without_autocast

KMEANS_POINTS_PER_CODE = 256
"""More vectors than this a code do not move k-means centres noticeably, but cost time."""

BLOCK = 65_536
"""Vectors that are compared with a codebook at a time where no gradient is kept."""

SMOOTHING = 1e-5
"""Laplace smoothing of the counts behind moving averages (van den Oord et al. 2017, appendix A.1)."""


class CodebookConfig(BaseModel):
    """Size of a codebook and what moves it.

    Attributes
    ----------
    levels
        Residual levels, or parts of a product quantiser (M).
    codes
        Codes a level (N).
    commitment
        Weight of the codebook terms beside the reconstruction error (beta).
    restart_below
        A code that fewer than this many vectors use is dead and is restarted at the end of an epoch.
    update
        What moves the codes: ``gradient``, or ``ema``, moving averages of the vectors in their cells, which no loss
        reaches.
    decay
        Of the moving averages, a step.
    estimator
        How gradients pass a quantised vector to what was quantised: ``straight-through``; ``rotation`` (Fifty et al.
        2024); or ``gumbel``, where training mixes codewords by a soft sample (Jang et al. 2017) and evaluation takes
        the nearest.
    gumbel_temperature
        Of the soft sample, in units of squared distance.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    levels: int = Field(2, ge=1)
    codes: int = Field(128, ge=2)
    commitment: float = Field(0.25, ge=0)
    restart_below: int = Field(1, ge=0)
    update: Literal["gradient", "ema"] = "gradient"
    decay: float = Field(0.99, ge=0, lt=1)
    estimator: Estimator = "straight-through"
    gumbel_temperature: float = Field(0.1, gt=0)


@dataclass(frozen=True)
class Quantised:
    """What a quantiser makes of vectors.

    Attributes
    ----------
    codes
        ``(rows, levels)``, int64.
    codewords
        Chosen entries, differentiable in the codebook unless it is frozen, ``(rows, levels, width)``.
    residuals
        What each level had to explain, without gradients, ``(rows, levels, width)``.
    estimator
        How :meth:`straight_through` reaches what was quantised.
    """

    codes: Tensor
    codewords: Tensor
    residuals: Tensor
    estimator: Estimator = "straight-through"

    @property
    def sum(self) -> Tensor:
        """Sum of the codewords over levels, ``(rows, width)``; gradients reach the codebook."""
        return self.codewords.sum(1)

    @property
    def concat(self) -> Tensor:
        """The codewords of all levels side by side, ``(rows, levels * width)``."""
        return self.codewords.flatten(1)

    @property
    def rebuilt(self) -> Tensor:
        """The reconstruction of what was quantised, ``(rows, dim)``."""
        return self.sum

    def straight_through(self, z: Tensor) -> Tensor:
        """The reconstruction's value with gradients to ``z`` as well as to the codebook, ``(rows, dim)``."""
        if self.estimator == "gumbel":
            return self.rebuilt
        return PASSES[self.estimator](z.float(), self.rebuilt)

    def detach(self) -> Self:
        """The same, with codewords that no gradient passes."""
        return replace(self, codewords=self.codewords.detach())


class Quantiser(nn.Module):
    """Codebooks ``(levels, codes, dim)`` and all that moves them; a subclass says how they are applied to vectors.

    Parameters
    ----------
    config
        Size, loss weight and what moves the codes.
    dim
        Width of a code.

    Notes
    -----
    Distances and averages are computed in float32, also under autocast. The moving averages are van den Oord et al.'s
    (2017, appendix A.1). Ours: the k-means start; the restart of a dead code on a random residual of a crowded cell,
    with the weight of one vector in the moving averages, and with ``restarted`` set for the training loop, which takes
    the optimiser's old momentum off the code.
    """

    started: Tensor
    frozen: Tensor
    counts: Tensor
    sums: Tensor
    restarted: Tensor

    def __init__(self, config: CodebookConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        shape = (config.levels, config.codes)
        self.codebooks = nn.Parameter(torch.randn(*shape, dim) * dim**-0.5)
        # Buffers, so that loading a trained codebook can never trigger a second start or thaw a frozen one.
        self.register_buffer("started", torch.tensor(False))
        self.register_buffer("frozen", torch.tensor(False))
        self.register_buffer("restarted", torch.zeros(shape, dtype=torch.bool), persistent=False)
        if config.update == "ema":
            self.register_buffer("counts", torch.ones(shape))
            self.register_buffer("sums", self.codebooks.detach().clone())
        self._settle()

    def forward(self, z: Tensor) -> Quantised:
        """Quantise ``(rows, dim)`` vectors."""
        return self._quantised(z, soft=self.training and self.config.estimator == "gumbel")

    def _quantised(self, z: Tensor, soft: bool = False) -> Quantised:
        with without_autocast(z.device):
            return self._apply_codes(z.float(), soft)

    @abstractmethod
    def _apply_codes(self, z: Tensor, soft: bool) -> Quantised:
        """Quantise float32 vectors; ``soft`` asks for Gumbel samples in place of the nearest codewords."""

    def _choose(self, vectors: Tensor, level: int, soft: bool) -> tuple[Tensor, Tensor]:
        """Nearest codes ``(rows,)`` of one level and the codewords ``(rows, width)`` that training sees."""
        codebook = self.codebooks[level]
        code = nearest(vectors.detach(), codebook.detach())
        if soft:
            return code, gumbel(squared_distances(vectors, codebook), self.config.gumbel_temperature) @ codebook
        return code, F.embedding(code, codebook)

    def loss(self, z: Tensor, quantised: Quantised) -> Tensor:
        """Reconstruction error plus ``commitment`` times the distance of codewords from residuals (SPARC, 3.4).

        Squared distances are summed over dimensions, so that the weight does not depend on the width. Where no
        gradient moves the codes, the reconstruction error alone is left: it draws ``z`` to its codewords.
        """
        with without_autocast(z.device):
            reconstruction = (z.float() - quantised.rebuilt).square().sum(-1).mean()
            if not self.codebooks.requires_grad:
                return reconstruction
            codebook = (quantised.residuals - quantised.codewords).square().sum(-1).mean(0).sum()
            return reconstruction + self.config.commitment * codebook

    @torch.no_grad()
    def update(self, quantised: Quantised) -> None:
        """Move each code towards the mean of the residuals in its cell, by moving averages, where so configured."""
        if self.config.update != "ema" or self.frozen:
            return
        share = 1 - self.config.decay
        for level in range(self.config.levels):
            code = quantised.codes[:, level]
            counts = torch.bincount(code, minlength=self.config.codes).to(self.counts)
            sums = torch.zeros_like(self.sums[level]).index_add_(0, code, quantised.residuals[:, level])
            self.counts[level].lerp_(counts, share)
            self.sums[level].lerp_(sums, share)
        total = self.counts.sum(-1, keepdim=True)
        smooth = (self.counts + SMOOTHING) / (total + self.config.codes * SMOOTHING) * total
        # A fresh tensor: the backward pass of the step in hand still needs the old codes.
        self.codebooks.data = self.sums / smooth[..., None]

    @torch.no_grad()
    def assign(self, z: Tensor) -> Tensor:
        """Codes ``(rows, levels)`` of many vectors ``(rows, dim)``."""
        return torch.cat([self._quantised(block).codes for block in torch.split(z, BLOCK)])

    @torch.no_grad()
    def start(self, vectors: Tensor, seed: int) -> None:
        """Set every level by k-means on what the levels before leave of ``vectors`` ``(rows, dim)``.

        Raises
        ------
        ConfigError
            If there are fewer distinct vectors than codes, or fewer distinct residuals at a deeper level.
        """
        rng = np.random.default_rng(seed)
        for level in range(self.config.levels):
            size = min(len(vectors), KMEANS_POINTS_PER_CODE * self.config.codes)
            rows = torch.from_numpy(rng.choice(len(vectors), size, replace=False)).to(vectors.device)
            residual = self._quantised(vectors[rows]).residuals[:, level].cpu().numpy()
            self._refuse_too_few(residual, level)
            centres = torch.from_numpy(kmeans(residual, self.config.codes, rng)).to(self.codebooks)
            self._place(level, torch.arange(self.config.codes, device=centres.device), centres)
            if self.config.update == "ema":
                code = self._quantised(vectors[rows]).codes[:, level]
                self.counts[level] = torch.bincount(code, minlength=self.config.codes).clamp_min(1).to(self.counts)
                self.sums[level] = self.codebooks[level] * self.counts[level, :, None]
        self.started.fill_(True)

    def _refuse_too_few(self, residual: NDArray[np.float32], level: int) -> None:
        distinct = len(np.unique(residual.round(6), axis=0))
        if distinct < self.config.codes:
            raise ConfigError(self._too_few(distinct, level))

    def _too_few(self, distinct: int, level: int) -> str:
        codes = self.config.codes
        if level == 0:
            return (
                f"codebook.codes = {codes}, but there are only {distinct} distinct vectors to quantise; use fewer codes"
            )
        return (
            f"codebook.levels = {self.config.levels}, but the levels before leave only {distinct} distinct residuals "
            f"for the {codes} codes of level {level}; use fewer levels or a smaller codebook.codes"
        )

    @torch.no_grad()
    def restart_dead(self, z: Tensor, generator: torch.Generator) -> list[int]:
        """Move codes that too few vectors use onto random residuals of ``z``; returns how many at each level.

        A code that enough vectors use is never moved, no more codes are moved than there are vectors in crowded cells,
        and none if the codebook is frozen. ``restarted`` then marks what was moved, ``(levels, codes)``.
        """
        self.restarted.zero_()
        if self.frozen:
            return [0] * self.config.levels
        for level in range(self.config.levels):
            codes = self.assign(z)[:, level]
            usage = torch.bincount(codes, minlength=self.config.codes)
            dead = torch.nonzero(usage < self.config.restart_below)[:, 0]
            crowded = torch.nonzero(usage[codes] > 1)[:, 0]
            dead = dead[: len(crowded)]
            chosen = crowded[torch.randperm(len(crowded), generator=generator)[: len(dead)].to(crowded.device)]
            self._place(level, dead, self._quantised(z[chosen]).residuals[:, level])
            self.restarted[level, dead] = True
        moved: list[int] = self.restarted.sum(-1).tolist()
        return moved

    def _place(self, level: int, codes: Tensor, where: Tensor) -> None:
        """Put codes at new places; in the moving averages each weighs one vector, so that it stays there."""
        self.codebooks[level, codes] = where.to(self.codebooks.dtype)
        if self.config.update == "ema":
            self.counts[level, codes] = 1.0
            self.sums[level, codes] = where.to(self.sums.dtype)

    def freeze(self) -> None:
        """From now on no gradient, no moving average and no restart moves a code."""
        self.frozen.fill_(True)
        self._settle()

    def _settle(self) -> None:
        """Let gradients reach the codebooks if they are what moves them."""
        self.codebooks.requires_grad_(self.config.update == "gradient" and not bool(self.frozen))
        self.codebooks.grad = None

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._settle()


class ResidualQuantiser(Quantiser):
    """``r_0 = z;  c_m = nearest(r_m, E_m);  r_{m+1} = r_m - E_m[c_m]``, rebuilt by the sum of the codewords.

    The recursion is SPARC's (Shi et al. 2025, as reported) and GemiRec's. ``codebooks`` is ``(levels, codes, dim)``.
    """

    def _apply_codes(self, z: Tensor, soft: bool) -> Quantised:
        residual = z if soft else z.detach()
        codes, words, residuals = [], [], []
        for level in range(self.config.levels):
            code, word = self._choose(residual, level, soft)
            codes.append(code)
            words.append(word)
            residuals.append(residual.detach())
            residual = residual - word.detach()
        stacked = (torch.stack(codes, 1), torch.stack(words, 1), torch.stack(residuals, 1))
        return Quantised(*stacked, self.config.estimator)


def kmeans(vectors: NDArray[np.float32], codes: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Centres ``(codes, dim)`` of vectors ``(rows, dim)``: k-means++, then 20 Lloyd steps."""
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        # An empty cell keeps its centre; it is restarted like any dead code.
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        centres, _ = kmeans2(vectors, _spread_out(vectors, codes, rng), iter=20, minit="matrix", missing="warn")
    found: NDArray[np.float32] = centres.astype(np.float32)
    return found


def _spread_out(vectors: NDArray[np.float32], codes: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007, section 5): of a few draws, the one that explains most.

    Takes time linear in the codes; SciPy's own compares all chosen centres again for each new one.
    """
    squares, tries = np.square(vectors).sum(1), 2 + int(np.log(codes))
    chosen = [int(rng.integers(len(vectors)))]
    distances = _distances(vectors, squares, chosen)[0]
    while len(chosen) < codes:
        reach = np.cumsum(distances, dtype=np.float64)
        # Where all vectors are taken already, the last one will do.
        drawn = np.searchsorted(reach, rng.random(tries) * reach[-1], side="right").clip(max=len(vectors) - 1)
        left = np.minimum(distances, _distances(vectors, squares, drawn))
        best = int(left.sum(1, dtype=np.float64).argmin())
        chosen.append(int(drawn[best]))
        distances = left[best]
    return vectors[chosen]


def _distances(vectors: NDArray[np.float32], squares: NDArray[np.float32], to: Any) -> NDArray[np.float32]:
    """Squared distances of all vectors to some of them, ``(some, rows)``."""
    distances: NDArray[np.float32] = squares[to][:, None] - 2 * (vectors[to] @ vectors.T) + squares
    return np.maximum(distances, 0)
