"""Do a user's interests differ, or are they one interest under several names?

Everything is a number of one user, NaN where it is not defined (one interest has no pairs). Source: the measures that
the multi-interest papers name (GemiRec's interest collapse; ComiRec's diversity), definitions ours.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Items
from tesserec.evaluation.metrics import Floats


def effective_number(weights: NDArray[Any]) -> Floats:
    """Exponential of the entropy of each row's shares, ``(rows,)``: how many equal shares would be as uneven.

    Parameters
    ----------
    weights
        Not negative, ``(rows, n)``; a row of zeros has no shares and gives NaN.
    """
    weights = np.asarray(weights, np.float64)
    total = weights.sum(axis=1, keepdims=True)
    shares = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.where(total[:, 0] > 0, np.exp(-(shares * logs).sum(axis=1)), np.nan)


def mean_cosine(vectors: NDArray[np.floating[Any]], read: NDArray[np.bool_]) -> Floats:
    """Mean cosine of all pairs of a user's interest vectors, ``(users,)``; 1 is a complete collapse.

    Parameters
    ----------
    vectors
        ``(users, interests, dim)``.
    read
        False where a column holds no interest, ``(users, interests)``.
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=2)
    used = read & (lengths > 0)
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=used)
    unit = vectors * scale[..., None]
    n = used.sum(axis=1)
    # |sum of unit vectors|^2 counts every pair twice and every vector with itself once.
    return _ratio((unit.sum(axis=1) ** 2).sum(axis=1) - n, n * (n - 1))


def mean_jaccard(lists: Items) -> Floats:
    """Mean Jaccard overlap of all pairs of a user's lists, one an interest, ``(users,)``.

    Parameters
    ----------
    lists
        Distinct items, ``(users, interests, n)``, -1 where unfilled; an interest without items has no pairs.
    """
    sizes = (lists >= 0).sum(axis=2)
    total, pairs = np.zeros(len(lists)), np.zeros(len(lists))
    for a, b in combinations(range(lists.shape[1]), 2):
        both = ((lists[:, a, :, None] == lists[:, b, None, :]) & (lists[:, a, :, None] >= 0)).sum(axis=(1, 2))
        counted = (sizes[:, a] > 0) & (sizes[:, b] > 0)
        total += np.where(counted, both / np.maximum(sizes[:, a] + sizes[:, b] - both, 1), 0.0)
        pairs += counted
    return _ratio(total, pairs)


def list_shares(interests: NDArray[np.integer[Any]], filled: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """How a list is shared among the interests that brought its items.

    Parameters
    ----------
    interests
        Interest of each place, ``(users, k)``.
    filled
        False where a place is unfilled, ``(users, k)``.

    Returns
    -------
    tuple of array
        Effective number of interests and share of the largest, ``(users,)`` each; NaN for an empty list.
    """
    same = (interests[:, :, None] == interests[:, None, :]) & filled[:, None, :]
    places = filled.sum(axis=1)
    share = same.sum(axis=2) / np.maximum(places, 1)[:, None]  # of the interest that each place belongs to
    entropy = -(np.log(np.where(filled, share, 1.0)) * filled).sum(axis=1) / np.maximum(places, 1)
    largest = np.where(filled, share, 0.0).max(axis=1)
    return np.where(places > 0, np.exp(entropy), np.nan), np.where(places > 0, largest, np.nan)


def _ratio(total: NDArray[Any], count: NDArray[Any]) -> Floats:
    return np.asarray(np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0))
