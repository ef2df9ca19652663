"""Sequence encoders: item vectors in, one causal state a position out.

Rows are right-padded, so the causal mask alone keeps padding out of every valid position. Attention is written out:
on CPUs the fused kernel's backward pass in bfloat16 costs more than all the rest of a training step.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from tesserec.errors import ConfigError


class EncoderConfig(BaseModel):
    """Shape of a sequence encoder.

    Attributes
    ----------
    kind
        ``windows`` (means of the newest 1, 2, 4, ... events and what an MLP adds to them), ``transformer`` (causal,
        pre-norm), ``mean`` (running mean of the history and one linear map), or ``none`` (items and their positions,
        for methods that read the history themselves).
    dim
        Width of items, states and codes.
    layers, heads, expansion
        Of a transformer: blocks, attention heads, and the feed-forward layer's width as a multiple of ``dim``; the MLP
        of windows has the same width, and a method's own attention blocks the same heads.
    max_length
        Newest events that are read.
    dropout
        Share of activations that are dropped in training, on the input and on what each sublayer adds; masks over
        attention weights and feed-forward activations would cost a sixth of a step on a CPU.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["windows", "transformer", "mean", "none"] = "windows"
    dim: int = Field(64, ge=2)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    expansion: int = Field(2, ge=1)
    max_length: int = Field(50, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)


def causal_mask(length: int, device: torch.device) -> Tensor:
    """Additive mask ``(length, length)``: 0 where column <= row, -inf elsewhere."""
    return torch.full((length, length), -math.inf, device=device).triu(1)


class Attention(nn.Module):
    """Multi-head scaled dot-product attention of queries over keys (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"encoder.dim = {dim} is not a multiple of encoder.heads = {heads}")
        self.heads = heads
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Queries ``(batch, q, dim)``, keys ``(batch, k, dim)``, additive mask ``(..., q, k)``."""
        q = self._split(self.query(queries))
        k, v = (self._split(x) for x in self.key_value(keys).chunk(2, dim=-1))
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask.to(q.dtype), dim=-1)
        read = weights.to(v.dtype) @ v
        merged: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return merged


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, dim: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, heads)
        self.norm_in, self.norm_mid = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.feed = nn.Sequential(nn.Linear(dim, expansion * dim), nn.GELU(), nn.Linear(expansion * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """States ``(batch, length, dim)`` to states of the same shape."""
        normed = self.norm_in(x)
        x = x + self.dropout(self.attention(normed, normed, mask))
        out: Tensor = x + self.dropout(self.feed(self.norm_mid(x)))
        return out


class TransformerEncoder(nn.Module):
    """Causal transformer over a history (SASRec, Kang and McAuley 2018; pre-norm and GELU are ours)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(config.max_length, config.dim) * 0.02)
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.expansion, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, items: Tensor) -> Tensor:
        """Item vectors ``(batch, length, dim)`` to causal states of the same shape."""
        x = self.dropout(items + self.position[: items.shape[1]])
        mask = causal_mask(items.shape[1], items.device)
        for block in self.blocks:
            x = block(x, mask)
        out: Tensor = self.norm(x)
        return out


class MeanEncoder(nn.Module):
    """Running mean of the history and one linear layer (YouTube DNN, Covington et al. 2016, in its simplest form)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(config.dim, config.dim)

    def forward(self, items: Tensor) -> Tensor:
        """Item vectors ``(batch, length, dim)`` to causal states of the same shape."""
        seen = torch.arange(1, items.shape[1] + 1, device=items.device, dtype=items.dtype)
        out: Tensor = self.linear(self.dropout(items.cumsum(1) / seen[:, None]))
        return out


class WindowEncoder(nn.Module):
    """Means of the newest 1, 2, 4, ... events, weighed against each other, and what an MLP adds to them; ours.

    It starts as a mean that favours new events, so that users start where their items are: on sparse logs that is most
    of what a history says, and a transformer has to learn it. Windows of growing size are MRIF's (arXiv 2007.07084).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.sizes = [2**scale for scale in range((config.max_length - 1).bit_length())] + [config.max_length]
        self.weights = nn.Parameter(torch.zeros(len(self.sizes)))
        self.norm = nn.LayerNorm(len(self.sizes) * config.dim)
        last = nn.Linear(config.expansion * config.dim, config.dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        first = nn.Linear(len(self.sizes) * config.dim, config.expansion * config.dim)
        self.mlp = nn.Sequential(first, nn.GELU(), last)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, items: Tensor) -> Tensor:
        """Item vectors ``(batch, length, dim)`` to causal states of the same shape."""
        sums = self.dropout(items).float().cumsum(1)
        seen = torch.arange(1, items.shape[1] + 1, device=items.device, dtype=sums.dtype)[:, None]
        means = [(sums - delayed(sums, size)) / seen.clamp(max=size) for size in self.sizes]
        mean = (torch.stack(means, -1) * self.weights.softmax(-1)).sum(-1)
        out: Tensor = mean + self.dropout(self.mlp(self.norm(torch.cat(means, -1))))
        return out


def delayed(values: Tensor, steps: int) -> Tensor:
    """Values ``(batch, length, dim)`` moved ``steps`` positions later, zeros in front."""
    return nn.functional.pad(values, (0, 0, steps, 0))[:, : values.shape[1]]


class PositionEncoder(nn.Module):
    """Each item's vector plus that of its position, and nothing else: what ComiRec's attention reads."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(config.max_length, config.dim) * 0.02)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, items: Tensor) -> Tensor:
        """Item vectors ``(batch, length, dim)`` to states of the same shape."""
        out: Tensor = self.dropout(items + self.position[: items.shape[1]])
        return out


ENCODERS = {"windows": WindowEncoder, "transformer": TransformerEncoder, "mean": MeanEncoder, "none": PositionEncoder}


def build_encoder(config: EncoderConfig) -> nn.Module:
    """The encoder that ``config.kind`` names."""
    return ENCODERS[config.kind](config)
