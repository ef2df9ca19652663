"""A scorer that sees token and item together, cheap enough to score a whole catalogue.

The hidden layer of an MLP over (t, i) is ``relu(W_t t + W_i i)``: each side is multiplied once, and a sum, a ReLU
and a weighted sum are left for each pair. They are done in chunks that stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK_UNITS = 262_144
"""Hidden units that are alive at a time, 1 MiB: half or less of a core's second-level cache."""

CHUNK_UNITS_CUDA = 67_108_864
"""The same on a GPU, 256 MiB: a launch costs more there than the cache saves."""


class _Hidden(torch.autograd.Function):
    """``out[r, p] = sum_h weight[h] * relu(left[r, h] + right[p, h])``, the hidden units computed again going back."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(left, right, weight)
        out = left.new_empty(len(left), len(right))
        for rows, columns, units in _chunks(left, right):
            out[rows, columns] = units.relu_() @ weight
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left, right, weight = ctx.saved_tensors
        of_left, of_right = torch.zeros_like(left), torch.zeros_like(right)
        for rows, columns, units in _chunks(left, right):
            slope = torch.gt(units, 0, out=units).mul_(grads[0][rows, columns, None])
            of_left[rows] += slope.sum(1)
            of_right[columns] += slope.sum(0)
        return of_left * weight, of_right * weight, (left * of_left).sum(0) + (right * of_right).sum(0)


def _chunks(left: Tensor, right: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Sums of both sides ``(rows, columns, hidden)``, chunk by chunk."""
    chunk = CHUNK_UNITS_CUDA if left.is_cuda else CHUNK_UNITS
    width = min(len(right), max(1, chunk // (8 * left.shape[1])))
    height = max(1, chunk // (width * left.shape[1]))
    for top in range(0, len(left), height):
        rows = slice(top, min(top + height, len(left)))
        for begin in range(0, len(right), width):
            columns = slice(begin, min(begin + width, len(right)))
            yield rows, columns, left[rows, None] + right[columns]


def hidden_scores(left: Tensor, right: Tensor, weight: Tensor) -> Tensor:
    """``weight . relu(left_r + right_p)`` for every pair of rows, without holding pairs x hidden.

    Parameters
    ----------
    left, right
        ``(rows, hidden)`` and ``(columns, hidden)``.
    weight
        ``(hidden,)``.

    Returns
    -------
    Tensor
        ``(rows, columns)``, in the precision that is given.
    """
    scores: Tensor = _Hidden.apply(left, right, weight)  # type: ignore[no-untyped-call]
    return scores


class CrossScorer(nn.Module):
    """``E(t, i) = scale * Q t / |Q t| . i + w . relu(W_t t + W_i i + c)``, the pair encoder of SparCode (section 3.1).

    Parameters
    ----------
    dim
        Width of tokens and items.
    hidden
        Units of the MLP.
    scale
        What the product of ``Q t``, at length one, and an item is multiplied by.

    Notes
    -----
    The paper allows any pair encoder. Ours: a single hidden layer, because it separates; the dot product beside it,
    because an MLP learns one badly (Rendle et al., RecSys 2020), at length one so that its temperature stays as set;
    and an MLP that starts at zero, so that a fresh scorer ranks as a two-tower does.
    """

    def __init__(self, dim: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.query = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.query.weight)
        self.token, self.item = nn.Linear(dim, hidden), nn.Linear(dim, hidden, bias=False)
        self.weight = nn.Parameter(torch.zeros(hidden))

    def forward(self, tokens: Tensor, items: Tensor) -> Tensor:
        """Scores of every token ``(tokens, dim)`` with every item ``(items, dim)``, float32 ``(tokens, items)``."""
        query, left = self._left(tokens)
        return (query @ items.T).float() + hidden_scores(left, self.item(items).float(), self.weight)

    def own(self, tokens: Tensor, items: Tensor) -> Tensor:
        """Scores of each token with its own item; ``(..., dim)`` each, broadcast against each other, to ``(...)``."""
        query, left = self._left(tokens)
        hidden = F.relu(left + self.item(items).float()) @ self.weight
        return (query * items).sum(-1, dtype=torch.float32) + hidden

    def pull(self, tokens: Tensor) -> Tensor:
        """``scale * Q t / |Q t|`` less itself, ``(..., dim)``: nothing, with its gradient to tokens and no other."""
        query = F.normalize(F.linear(tokens, self.query.weight.detach()), dim=-1) * self.scale
        return query - query.detach()

    def _left(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.query(tokens), dim=-1) * self.scale, self.token(tokens).float()
