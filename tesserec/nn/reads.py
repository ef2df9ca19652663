"""What a token reads: its nearest tuples of codes, and how much each of them counts.

A codebook that is small enough to tabulate is coarse: most tokens lie between codes. The convex combination of a few
near codewords that comes nearest to a token tells it better than the nearest alone, and asks for no further list to be
made. This is locality-constrained linear coding (Wang et al., CVPR 2010) with weights that are not negative, since a
list that counts negatively could not be cut off.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tesserec.nn.estimators import squared_distances

TINY = 1e-12


@torch.no_grad()
def nearest_tuples(tokens: Tensor, books: Tensor, count: int) -> Tensor:
    """The nearest tuples of each token by squared distance, nearest first.

    Parameters
    ----------
    tokens
        ``(users, tokens, dim)``.
    books
        A codebook for each place of a token, or one for all: ``(tokens or 1, parts, codes, dim / parts)``.
    count
        Tuples a token, at most ``codes ** parts``.

    Returns
    -------
    Tensor
        Numbers within a codebook, as :func:`tesserec.nn.tokens.tuple_words` counts; int64 ``(users, tokens, count)``.
    """
    size = books.shape[2]
    kept = tokens.new_zeros(*tokens.shape[:2], 1)
    numbers = torch.zeros_like(kept, dtype=torch.int64)
    for part, vectors in enumerate(tokens.view(*tokens.shape[:2], books.shape[1], -1).unbind(2)):
        near = squared_distances(vectors.transpose(0, 1), books[:, part]).transpose(0, 1)
        # No tuple beyond the nearest of the parts so far can be among the nearest of all parts.
        every = (kept[..., None] + near[..., None, :]).flatten(-2)
        kept, best = torch.topk(every, min(count, every.shape[-1]), largest=False)
        numbers = numbers.gather(-1, best // size) * size + best % size
    return numbers


@torch.no_grad()
def convex_weights(targets: Tensor, words: Tensor) -> Tensor:
    """Weights of sum one, none negative, with which words come near to a target.

    Frank and Wolfe's steps from the first word, each as long as it pays (Jaggi, ICML 2013, algorithm 1 with line
    search), as many as there are words: exact for two, close enough for a few.

    Parameters
    ----------
    targets, words
        ``(..., dim)`` and ``(..., count, dim)``.

    Returns
    -------
    Tensor
        ``(..., count)``.
    """
    off = words - targets[..., None, :]
    gram = off @ off.transpose(-1, -2)
    squares = gram.diagonal(dim1=-2, dim2=-1)
    corners = torch.eye(words.shape[-2], dtype=words.dtype, device=words.device)
    weights = corners[0].expand_as(squares)
    for _ in range(words.shape[-2]):
        slope = (gram @ weights[..., None])[..., 0]
        corner = corners[slope.argmin(-1)]
        here, across, there = ((a * b).sum(-1) for a, b in ((weights, slope), (corner, slope), (corner, squares)))
        step = ((here - across) / (here - 2 * across + there).clamp_min(TINY)).clamp(0, 1)
        weights = weights + step[..., None] * (corner - weights)
    return weights
