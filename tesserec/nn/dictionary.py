"""A dictionary of interests that is maintained beside a retriever and never pulls on it.

Items are encoded, quantised level by level and decoded again. Items are constants to the dictionary's loss, and
codewords are constants to everybody else. Which item belongs to which interest is a table, not a by-product of the last
step: it is rewritten at stated times, and every rewriting is a new version.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tesserec.nn.codebook import upkeep
from tesserec.nn.precision import without_autocast
from tesserec.nn.quantisers import CodebookConfig, Quantised, ResidualQuantiser


class DictionaryConfig(CodebookConfig):
    """Shape of the dictionary and what moves it; see :class:`~tesserec.nn.quantisers.CodebookConfig`.

    Attributes
    ----------
    codes
        Entries of each of the ``levels`` sub-dictionaries.
    update
        Moving averages by default: no other loss is to move an entry.
    commitment
        Weight of the term that draws what is coded to its entries.
    """

    codes: int = Field(64, ge=2)
    update: Literal["gradient", "ema"] = "ema"


class _Residual(nn.Module):
    """``x + mlp(x)``; starts as the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        last = nn.Linear(2 * dim, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), last)

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = x + self.mlp(x)
        return moved


class InterestDictionary(nn.Module):
    """RQ-VAE over item vectors with a versioned assignment of items to tuples (GemiRec's IDMM).

    ``r_1 = enc(sg[v]);  m_c = nearest(r_c, E_c);  r_{c+1} = r_c - sg[e_c]``; an interest is embedded as the
    concatenation of its entries.

    Parameters
    ----------
    items
        Catalogue size.
    config
        Shape, and what moves the entries.
    dim
        Width of item vectors.

    Notes
    -----
    Recursion, both stop-gradients and the concatenation are the paper's, as reported. Ours: encoder and decoder are
    residual MLPs that start as the identity, so that k-means on items starts the dictionary; the loss
    ``|sg[v] - dec(STE(sum e_c))|^2 + sum_c (|sg[r_c] - e_c|^2 + commitment * |r_c - sg[e_c]|^2)``, without its second
    term where moving averages take its place; dead entries restart with a re-assignment, and at no other time, since
    the stored tuples must go on meaning what they meant.
    """

    codes: Tensor
    version: Tensor

    def __init__(self, items: int, config: DictionaryConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = _Residual(dim), _Residual(dim)
        self.quantiser = ResidualQuantiser(config, dim)
        self.register_buffer("codes", torch.zeros(items, config.levels, dtype=torch.int64))
        self.register_buffer("version", torch.tensor(0))

    @property
    def started(self) -> bool:
        """Whether items have been assigned; the first version is 1."""
        return bool(self.version)

    def forward(self, vectors: Tensor) -> Quantised:
        """Quantise item vectors ``(rows, dim)``, which no gradient reaches, by the entries as they are."""
        quantised: Quantised = self.quantiser(self._encoded(vectors))
        return quantised

    def _encoded(self, vectors: Tensor) -> Tensor:
        with without_autocast(vectors.device):
            encoded: Tensor = self.encoder(vectors.detach().float())
        return encoded

    def loss(self, vectors: Tensor) -> Tensor:
        """Loss of a batch of item vectors ``(rows, dim)``; in training it also moves the averages."""
        encoded = self._encoded(vectors)
        quantised = self.quantiser(encoded)
        with without_autocast(vectors.device):
            rebuilt = self.decoder(quantised.straight_through(encoded))
            reconstruction = (vectors.detach().float() - rebuilt).square().sum(-1).mean()
            passed = quantised.codewords.detach().cumsum(1)
            commitment = (encoded[:, None] - passed).square().sum(-1).mean(0).sum()
            codebook = (quantised.residuals - quantised.codewords).square().sum(-1).mean(0).sum()
        if self.training:
            self.quantiser.update(quantised)
        total: Tensor = reconstruction + self.config.commitment * commitment
        return total + codebook if self.quantiser.codebooks.requires_grad else total

    def embed(self, tuples: Tensor) -> Tensor:
        """Interest embeddings of tuples ``(..., depth)``, level 0 first: ``(..., depth * dim)``, without gradients."""
        books = self.quantiser.codebooks.detach()
        words = [nn.functional.embedding(tuples[..., level], books[level]) for level in range(tuples.shape[-1])]
        return torch.cat(words, -1)

    @torch.no_grad()
    def start(self, vectors: Tensor, seed: int) -> None:
        """k-means on the catalogue's item vectors ``(items, dim)``, and the first version of the assignment."""
        self.quantiser.start(self._encoded(vectors), seed)
        self._assign(vectors)

    @torch.no_grad()
    def maintain(self, vectors: Tensor, epoch: int, seed: int) -> dict[str, Any]:
        """Restart dead entries and re-assign the catalogue: the next version.

        Returns
        -------
        dict
            Health by level (see :func:`tesserec.nn.codebook.upkeep`), ``dictionary/version``, ``dictionary/churn``
            (share of items whose tuple changed) and ``dictionary/tuples`` (tuples in use).
        """
        health = upkeep(self.quantiser, self._encoded(vectors), epoch, seed)
        churn = self._assign(vectors)
        used = len(torch.unique(self.codes, dim=0))
        return health | {
            "dictionary/version": int(self.version),
            "dictionary/churn": churn,
            "dictionary/tuples": used,
        }

    def _assign(self, vectors: Tensor) -> float:
        codes = self.quantiser.assign(self._encoded(vectors))
        churn = float((codes != self.codes).any(-1).float().mean())
        self.codes.copy_(codes)
        self.version += 1
        return churn
