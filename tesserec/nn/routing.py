"""Several vectors of a history, by self-attentive pooling or dynamic routing, and of all its prefixes at once.

A prefix is a row of a mask, ``(batch or 1, prefixes, length)``, True where it holds a position. What depends on a
position alone (a hidden layer, a vote) is computed once, whatever the number of prefixes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

TINY = 1e-9


class SelfAttention(nn.Module):
    """Weights of positions for each interest, ``softmax(W_2 tanh(W_1 h))`` over a prefix (Lin et al. 2017, section 2).

    Parameters
    ----------
    dim, hidden, interests
        Width of states, of the hidden layer, and number of interests.
    """

    def __init__(self, dim: int, hidden: int, interests: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden, bias=False)
        self.out = nn.Linear(hidden, interests, bias=False)

    def forward(self, states: Tensor, prefixes: Tensor) -> Tensor:
        """States ``(batch, length, dim)`` to float32 weights ``(batch, prefixes, interests, length)``."""
        logits = self.out(torch.tanh(self.hidden(states))).transpose(1, 2)[:, None]
        return masked_softmax(logits, prefixes)


def masked_softmax(logits: Tensor, prefixes: Tensor) -> Tensor:
    """Softmax over the positions that a prefix holds; logits ``(batch, prefixes or 1, interests, length)``."""
    return torch.softmax(logits.float().masked_fill(~prefixes[:, :, None], -torch.inf), dim=-1)


def pool(weights: Tensor, states: Tensor) -> Tensor:
    """Sums of states ``(batch, length, dim)`` by weights ``(batch, prefixes, interests, length)``."""
    return torch.einsum("bpkl,bld->bpkd", weights.to(states.dtype), states)


def attention_spread(weights: Tensor, prefixes: Tensor) -> Tensor:
    """How far attention is from even: squared variances over a prefix's positions, summed over interests.

    The squared norm of the diagonal of the covariance of attention rows, REMI's regulariser of routing (Xie et al.
    2023). Weights ``(batch, prefixes, interests, length)`` to ``(batch, prefixes)``; 0 where every
    interest reads all positions alike, ``interests * ((n - 1) / n**2)**2`` where each reads one of ``n``.
    """
    events = prefixes.sum(-1).float()[:, :, None]
    variance = weights.float().square().sum(-1) / events - events.pow(-2)
    return variance.square().sum(-1)


def squash(vectors: Tensor) -> Tensor:
    """Keep the direction and bring the length below one: ``|v|^2 / (1 + |v|^2)`` (Sabour et al. 2017, eq. 1)."""
    square = vectors.float().square().sum(-1, keepdim=True)
    return vectors * ((square + TINY).sqrt() / (1 + square))


def route(votes: Tensor, prefixes: Tensor, logits: Tensor, iterations: int, used: Tensor | None = None) -> Tensor:
    """Dynamic routing from positions to interest capsules (Li et al. 2019).

    Each position shares itself out among the interests by the softmax of its logits, and a logit grows by the dot
    product of the position's vote with the capsule it went into. Gradients pass through the last iteration only.

    Parameters
    ----------
    votes
        What each position says each interest is, ``(batch, interests or 1, length, dim)``.
    prefixes
        Positions of each prefix, ``(batch or 1, prefixes, length)``.
    logits
        Where routing starts, ``(interests, length)``.
    iterations
        At least one.
    used
        Interests that take part, ``(batch or 1, prefixes, interests)``; all if None. What the others get is arbitrary.

    Returns
    -------
    Tensor
        Capsules, shorter than one, ``(batch, prefixes, interests, dim)``.
    """
    fixed, held = votes.detach(), prefixes[:, None]
    logits = logits.detach().float()[None, :, None]
    if used is not None:
        logits = logits.masked_fill(~used.transpose(1, 2)[..., None], -torch.inf)
    for _ in range(iterations - 1):
        capsules = squash(_share(logits, held, fixed) @ fixed)
        logits = logits + (capsules.to(fixed.dtype) @ fixed.transpose(-1, -2)).float()
    return squash(_share(logits, held, votes) @ votes).transpose(1, 2)


def _share(logits: Tensor, held: Tensor, like: Tensor) -> Tensor:
    """Each held position's share in every interest, ``(batch or 1, interests, prefixes, length)``."""
    return (torch.softmax(logits, 1) * held).to(like.dtype)
