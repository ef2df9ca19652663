"""Retrieval and contrastive losses as pure functions of vectors.

All of them average over rows. Logits are dot products divided by a temperature; pass temperature 1 for plain ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tesserec.nn.precision import without_autocast

CHUNK_LOGITS = 4_000_000
"""Logits that are alive at a time in the full softmax, so that they stay near the processor ..."""

LEAST_ROWS = 128
"""... unless that leaves fewer rows than this: thin products over a large catalogue cost more than the cache saves."""

NEVER = -1e4
"""Log-mass of nothing: its exponential is 0, and being finite it has gradients."""


def sampled_softmax(
    users: Tensor,
    positives: Tensor,
    negatives: Tensor,
    log_q: Tensor,
    same: Tensor,
    temperature: float,
    hardness: float = 0.0,
) -> Tensor:
    """Softmax over the positive and a shared pool of negatives, with the log-Q correction.

    The pool estimates the rest of the full softmax's denominator: a negative drawn with probability q stands for
    ``1 / (pool * q)`` items, so ``log(pool * q)`` is subtracted from its logit. The positive is there for certain and
    is not corrected.

    Parameters
    ----------
    users, positives
        ``(rows, dim)`` each.
    negatives
        ``(pool, dim)``.
    log_q
        Log-probability with which each negative was drawn, ``(pool,)``.
    same
        True where a negative is the row's positive, ``(rows, pool)``; it is left out.
    temperature
        Divides all dot products.
    hardness
        Weighs each negative by ``exp(hardness * logit)`` over the catalogue's mean of such weights, as the pool
        estimates it (REMI's interest-aware hard negatives, Xie et al. 2023; with a uniform pool the paper's form).
    """
    positive = (users * positives).sum(-1, dtype=torch.float32) / temperature
    return softmax_of_scores(positive, (users @ negatives.T).float() / temperature, log_q, same, hardness)


def softmax_of_scores(positive: Tensor, negative: Tensor, log_q: Tensor, same: Tensor, hardness: float = 0.0) -> Tensor:
    """:func:`sampled_softmax` of scores at hand: ``(rows,)`` of the positives, ``(rows, pool)`` of the negatives."""
    # Not minus infinity: where all negatives are the row's own item there would be no gradient but NaN.
    share = (-(log_q + math.log(len(log_q)))).expand_as(negative).masked_fill(same, NEVER)
    rest = (negative + share).logsumexp(-1)
    if hardness:
        mean_weight = (hardness * negative + share).logsumexp(-1) - share.logsumexp(-1)
        rest = ((1 + hardness) * negative + share).logsumexp(-1) - mean_weight
    return (torch.logaddexp(positive, rest) - positive).mean()


TINY = torch.finfo(torch.float32).tiny


class _FullSoftmax(torch.autograd.Function):
    """Cross-entropy over the whole catalogue; loss and gradients in one pass over chunks of rows."""

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, targets: Tensor, temperature: float) -> Tensor:
        chunk, wide = max(LEAST_ROWS, CHUNK_LOGITS // len(items)), torch.promote_types(users.dtype, torch.float32)
        # Written over by every chunk: to get memory of this size anew costs more than the softmax.
        products = users.new_empty(chunk, len(items))
        shares = products if products.dtype == wide else torch.empty_like(products, dtype=wide)
        d_users, d_items = torch.empty_like(users), torch.zeros_like(items, dtype=wide)
        total = users.new_zeros((), dtype=wide)
        for begin in range(0, len(users), chunk):
            rows, wanted = users[begin : begin + chunk], targets[begin : begin + chunk, None]
            slope = products[: len(rows)]
            # Where both are one tensor, the copies below do nothing.
            share = slope if shares is products else shares[: len(rows)]
            share.copy_(torch.mm(rows / temperature, items.T, out=slope))
            torch.softmax(share, -1, out=share)
            total -= share.gather(1, wanted).clamp_min(TINY).log().sum()
            slope.copy_(share.scatter_add_(1, wanted, share.new_full(wanted.shape, -1.0)))
            torch.mm(slope, items, out=d_users[begin : begin + chunk])
            if shares is products:
                d_items.addmm_(slope.T, rows)
            else:
                d_items += slope.T @ rows
        scale = 1 / (temperature * len(users))
        d_users *= scale
        d_items *= scale
        ctx.save_for_backward(d_users, d_items.to(items.dtype))
        return total / len(users)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_users, d_items = ctx.saved_tensors
        return d_users * grads[0], d_items * grads[0], None, None


def full_softmax(users: Tensor, items: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy over the whole catalogue, without ever holding rows x items.

    Parameters
    ----------
    users
        ``(rows, dim)``.
    items
        Every item's vector, ``(items, dim)``.
    targets
        Item index of each row, ``(rows,)``.
    temperature
        Divides all dot products.
    """
    if torch.is_autocast_enabled(users.device.type):
        dtype = torch.get_autocast_dtype(users.device.type)
        users, items = users.to(dtype), items.to(dtype)
    with without_autocast(users.device):
        return _FullSoftmax.apply(users, items, targets, temperature)  # type: ignore[no-any-return,no-untyped-call]


def info_nce(left: Tensor, right: Tensor, same: Tensor, temperature: float) -> Tensor:
    """InfoNCE with in-batch negatives: row i of ``left`` against every row of ``right``, its own on the diagonal.

    Parameters
    ----------
    left, right
        ``(rows, dim)`` each.
    same
        ``(rows, rows)``, True where two rows stand for the same item: no negatives of each other.
    temperature
        Divides all dot products.
    """
    logits = (left @ right.T).float() / temperature
    own = torch.eye(len(left), dtype=torch.bool, device=left.device)
    logits = logits.masked_fill(same & ~own, -math.inf)
    return F.cross_entropy(logits, torch.arange(len(left), device=left.device))


def bpr(better: Tensor, worse: Tensor) -> Tensor:
    """Bayesian personalised ranking, ``-log sigmoid(better - worse)``, for scores of shape ``(rows,)``."""
    return -F.logsigmoid(better - worse).mean()
