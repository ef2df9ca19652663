"""Tokenizers: what a user is summed up in, K tokens after every event of a history; and how code tuples are numbered.

A tokenizer reads item vectors and the causal states that an encoder made of them, both ``(batch, length, dim)``, and
gives ``(batch, length, tokens, dim)``; what stands at a position depends on the events up to it alone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from tesserec.nn.encoders import Attention, EncoderConfig, causal_mask, delayed
from tesserec.nn.estimators import nearest

BLOCK = 1024
"""Tuples whose nearest listed tuple is looked for at a time."""


class TokensConfig(BaseModel):
    """How a user becomes tokens.

    Attributes
    ----------
    kind
        ``dnn``: the mean of the history's items through an MLP; ``attention``: learned queries that each read the
        encoder's states; ``sasrec``: linear maps of the encoder's state; ``items``: one map of the state, and the
        newest ``count - 1`` items as they are.
    count
        Tokens a user (K_u).
    hidden, layers
        Width and number of the hidden layers of ``dnn``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["dnn", "attention", "sasrec", "items"] = "sasrec"
    count: int = Field(4, ge=1)
    hidden: int = Field(256, ge=1)
    layers: int = Field(3, ge=1)


class TokenMaps(nn.Linear):
    """One linear map a token, which starts near the identity.

    Fresh tokens are then nearly what they were made of. Random maps are harder to quantise: they spread what an encoder
    has made compact.
    """

    def __init__(self, width: int, dim: int, count: int) -> None:
        super().__init__(width, count * dim)
        self.count = count
        nn.init.zeros_(self.bias)
        if width == dim:
            with torch.no_grad():
                self.weight.mul_(0.1).add_(torch.eye(dim).repeat(count, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., width)`` to tokens ``(..., count, dim)``."""
        tokens: Tensor = super().forward(x)
        return tokens.view(*x.shape[:-1], self.count, -1)


class PooledTokens(nn.Module):
    """Mean of the items so far, an MLP, and a linear map a token: the "DNN" tokenizer of SparCode's code."""

    def __init__(self, tokens: TokensConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        widths = [encoder.dim, *[tokens.hidden] * tokens.layers]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(encoder.dropout)]
        self.mlp = nn.Sequential(*layers)
        self.maps = TokenMaps(tokens.hidden, encoder.dim, tokens.count)

    def forward(self, items: Tensor, states: Tensor) -> Tensor:
        """Tokens from item vectors alone; see the module."""
        seen = torch.arange(1, items.shape[1] + 1, device=items.device, dtype=items.dtype)
        pooled = items.cumsum(1) / seen[:, None] * items.shape[-1] ** 0.5
        tokens: Tensor = self.maps(self.mlp(pooled))
        return tokens


class AttentionTokens(nn.Module):
    """Each token asks the history its own question: attention by the state plus a learned query a token (ours)."""

    def __init__(self, tokens: TokensConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(tokens.count, encoder.dim))
        self.attention = Attention(encoder.dim, encoder.heads)

    def forward(self, items: Tensor, states: Tensor) -> Tensor:
        """Tokens from causal states; see the module."""
        asked = states[:, :, None] + self.queries
        mask = causal_mask(states.shape[1], states.device).repeat_interleave(len(self.queries), 0)
        read: Tensor = self.attention(asked.flatten(1, 2), states, mask)
        return states[:, :, None] + read.view(asked.shape)


class StateTokens(nn.Module):
    """Linear maps of a sequential encoder's state: the GRU4Rec and SASRec tokenizers of SparCode's tables."""

    def __init__(self, tokens: TokensConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        self.maps = TokenMaps(encoder.dim, encoder.dim, tokens.count)

    def forward(self, items: Tensor, states: Tensor) -> Tensor:
        """Tokens from causal states; see the module."""
        tokens: Tensor = self.maps(states)
        return tokens


class ItemTokens(nn.Module):
    """A map of the encoder's state, then the newest items themselves, a learned vector where there are none; ours.

    Items are few beside states, so a codebook holds them with little loss.
    """

    def __init__(self, tokens: TokensConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        self.maps = TokenMaps(encoder.dim, encoder.dim, 1)
        self.none = nn.Parameter(torch.randn(tokens.count - 1, encoder.dim))

    def forward(self, items: Tensor, states: Tensor) -> Tensor:
        """Tokens from items and causal states; see the module."""
        items = items * items.shape[-1] ** 0.5
        place = torch.arange(items.shape[1], device=items.device)[:, None]
        newest = [
            torch.where(place >= age, delayed(items, age), none.to(items.dtype)) for age, none in enumerate(self.none)
        ]
        return torch.cat([self.maps(states), torch.stack(newest, 2)], 2) if newest else self.maps(states)


TOKENIZERS = {"dnn": PooledTokens, "attention": AttentionTokens, "sasrec": StateTokens, "items": ItemTokens}


def build_tokenizer(tokens: TokensConfig, encoder: EncoderConfig) -> nn.Module:
    """The tokenizer that ``tokens.kind`` names."""
    return TOKENIZERS[tokens.kind](tokens, encoder)


def agreement(lost: Tensor) -> Tensor:
    """How much the tokens of a user lose the same by being quantised, mean cosine of pairs; at 1 several say no more.

    Parameters
    ----------
    lost
        Tokens less their codewords, ``(users, tokens, dim)``.
    """
    count = lost.shape[1]
    pairs = F.normalize(lost, dim=-1).sum(1).square().sum(-1) - count
    return pairs.mean() / max(count * (count - 1), 1)


def tuple_words(numbers: Tensor, codebooks: Tensor) -> Tensor:
    """The codewords of numbered tuples side by side, ``(..., parts * width)``, from ``(parts, codes, width)``.

    The numbers ``(...)`` count tuples ``(0, ..., 0, 0)``, ``(0, ..., 0, 1)`` and so on, the first part most.
    """
    parts, size, _ = codebooks.shape
    codes = [numbers // size ** (parts - 1 - part) % size for part in range(parts)]
    return torch.cat([codebooks[part][code] for part, code in enumerate(codes)], -1)


def nearest_listed(listed: Tensor, codebooks: Tensor) -> Tensor:
    """For every tuple the place in ``listed`` of the nearest listed tuple: itself where it is listed.

    Parameters
    ----------
    listed
        Numbers of distinct tuples, rising, ``(listed,)``.
    codebooks
        ``(parts, codes, width)``.

    Returns
    -------
    Tensor
        int64 ``(codes ** parts,)``; nearest by squared distance of codewords.
    """
    parts, size, _ = codebooks.shape
    every = torch.arange(size**parts, device=listed.device)
    if len(listed) == len(every):
        return every
    words = tuple_words(listed, codebooks)
    place = torch.cat([nearest(tuple_words(block, codebooks), words) for block in torch.split(every, BLOCK)])
    place[listed] = torch.arange(len(listed), device=listed.device)
    return place
