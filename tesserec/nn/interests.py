"""The two networks around a codebook: which interests a user has, and what the user wants within one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tesserec.nn.encoders import Attention, Block, EncoderConfig, causal_mask
from tesserec.nn.precision import without_autocast


class Posterior(nn.Module):
    """Logits over all codes of level 0 after every position of a history: the interest probability tower of SPARC.

    A self-attention block of its own over the encoder's states, then a linear layer.
    """

    def __init__(self, config: EncoderConfig, codes: int) -> None:
        super().__init__()
        self.block = Block(config.dim, config.heads, config.expansion, config.dropout)
        self.norm = nn.LayerNorm(config.dim)
        self.codes = nn.Linear(config.dim, codes)

    def forward(self, states: Tensor) -> Tensor:
        """States ``(batch, length, dim)`` to logits ``(batch, length, codes)``."""
        hidden = self.block(states, causal_mask(states.shape[1], states.device))
        logits: Tensor = self.codes(self.norm(hidden))
        return logits


class Reader(nn.Module):
    """User vector of an interest: the interest's code vector attends over the history.

    The query's reading of the history, the query itself and the user's state pass through an MLP whose result is
    added to the state. The last layer starts at zero, so a fresh reader answers with the single-vector model's user
    vector and learns what each interest changes about it. Target attention by the code vector is SPARC's; the state
    as a third input and the residual form are ours.

    Parameters
    ----------
    config
        Width, heads and expansion.
    dropout
        Share of the MLP's result that is dropped in training.
    """

    def __init__(self, config: EncoderConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.attention = Attention(config.dim, config.heads)
        self.norm = nn.LayerNorm(config.dim)
        self.mlp = nn.Sequential(
            nn.Linear(3 * config.dim, config.expansion * config.dim),
            nn.GELU(),
            nn.Linear(config.expansion * config.dim, config.dim),
        )
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, states: Tensor, summary: Tensor, queries: Tensor, mask: Tensor) -> Tensor:
        """User vectors of interests.

        Parameters
        ----------
        states
            Encoded history, ``(batch, length, dim)``.
        summary
            The state each query starts from, ``(batch, queries, dim)`` or broadcastable to it.
        queries
            Code vectors, ``(batch, queries, dim)``.
        mask
            Additive, which positions each query may read; broadcastable to ``(batch, 1, queries, length)``.
        """
        query = self.norm(queries)
        read = self.attention(query, states, mask)
        summary = summary.expand_as(query)
        out: Tensor = summary + self.dropout(self.mlp(torch.cat([read, query, summary], dim=-1)))
        return out

    def along(self, states: Tensor, queries: Tensor, valid: Tensor) -> Tensor:
        """Vectors ``(positions, dim)``: each valid position ``(batch, length)`` reads its past with its own query.

        Queries ``(positions, dim)`` are in order of row and position.
        """
        placed = torch.zeros_like(states, dtype=queries.dtype)
        placed = placed.masked_scatter(valid[..., None].expand_as(placed), queries)
        read: Tensor = self(states, states, placed, causal_mask(states.shape[1], states.device))
        return read[valid]

    def after(self, states: Tensor, summary: Tensor, queries: Tensor, lengths: Tensor) -> Tensor:
        """Vectors ``(batch, queries, dim)`` of whole histories with these lengths; summary ``(batch, dim)``."""
        padding = torch.arange(states.shape[1], device=states.device) >= lengths[:, None]
        mask = torch.zeros_like(padding, dtype=states.dtype).masked_fill(padding, -torch.inf)[:, None, None]
        read: Tensor = self(states, summary[:, None], queries, mask)
        return read


def cell_logits(users: Tensor, centres: Tensor, log_sizes: Tensor) -> Tensor:
    """Log-mass that scaled user vectors ``(..., dim)`` give to each cell, ``(..., cells)``, in float32.

    Every item counts as if it lay at its cell's centre ``(cells, dim)``, so the sum runs over cells, not over items.
    A softmax of it is the single-vector model's belief in each cell, its log-sum-exp an estimate of the softmax's
    log-denominator, which makes the scores of different user vectors comparable.
    """
    with without_autocast(users.device):
        logits: Tensor = users.float() @ centres.float().T + log_sizes
    return logits
