"""Drawn interests, and the propensity of what they bring.

The posterior is tempered and cut to its likeliest interests; a policy with a seed then draws interests without
replacement, each next one in proportion to its tempered probability (the Plackett-Luce model), as an exponential race:
the codes with the largest ``p / E``, ``E ~ Exp(1)``, which is Gumbel-top-k (Kool et al., arXiv 1903.06059, section 2).
Exploited and explored interests run the same race. Everything after the draw is deterministic.

The propensity of a candidate is the probability over draws that it is in this user's list, whichever interest brings
it. Lists of different interests compete for places, so it has no closed form; it is estimated by repetition: of R
further independent draws, answered like the first, ``h`` hold the item, and ``(1 + h) / (1 + R)`` is stated, where the
1 is the list at hand. It is never 0. Given that the item was recommended it lies above the truth ``p`` by
``(1 - p) / (1 + R)`` on average, with a standard error of at most ``1 / (2 sqrt(R))``. Inverse propensities, which
off-policy estimators rest on, are short by the factor ``1 - (1 - p)^(1 + R)`` in expectation: hardly, unless ``p`` is
about ``1 / R`` or less.

A draw follows from the seed and the history alone, whoever else is in the batch. To draw anew for the same history,
give another seed, such as one a request.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories
from tesserec.index.contract import Floats, Policy


def reshaped(posterior: Floats, known: NDArray[np.bool_], policy: Policy) -> Floats:
    """``p^(1/temperature)``, with known interests weighed by ``policy.known``, in rows that sum to one.

    Zeros stay zero, and with equal weights the likeliest stays the likeliest.

    Where the posterior is right, no list brings more clicks for its share of clicks on new interests: a click on an
    interest that is new to the user then counts ``1 / known`` times as much, and the likeliest items are those of
    largest expected worth (ours).

    Parameters
    ----------
    posterior
        ``(users, codes)``.
    known
        Interests that the history touches, ``(users, codes)``.
    """
    if policy.temperature == policy.known == 1.0:
        return posterior
    # By logarithms, less the largest before anything is divided: no setting, however extreme, leaves nothing likely.
    with np.errstate(divide="ignore", over="ignore"):
        logits = np.log(posterior, dtype=np.float64)
        logits = (logits - logits.max(axis=1, keepdims=True)) / policy.temperature
    logits += np.where(known, np.log(policy.known), 0)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def race_weights(posterior: Floats, histories: Histories, seed: int, draws: int) -> Floats:
    """Weights ``(users, draws, codes)`` whose K largest, for any K, are K codes drawn without replacement.

    Each row of a user is an independent draw; the first ones do not depend on how many there are.
    """
    weights = np.empty((len(histories), draws, posterior.shape[1]))
    for user in range(len(histories)):
        times = _generator(seed, histories[user]).standard_exponential(weights.shape[1:])
        weights[user] = posterior[user] / np.maximum(times, np.finfo(np.float32).tiny)
    return np.minimum(weights, np.finfo(np.float32).max).astype(np.float32)


def _generator(seed: int, history: NDArray[np.int32]) -> np.random.Generator:
    digest = blake2b(np.ascontiguousarray(history, "<i4").tobytes(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "little")])


def draws_of(policy: Policy) -> int:
    """Lists searched for a user: the one that is given and, where its propensity is asked for, the repeated ones."""
    return 1 if policy.seed is None else 1 + policy.repeats


def propensity_of(items: NDArray[np.int32], lists: NDArray[np.int32]) -> Floats:
    """Share of all lists, the given one among them, that hold each item of the given list.

    Parameters
    ----------
    items
        The given list, ``(k,)``; -1 where unfilled.
    lists
        The repeated lists, ``(repeats, k)``, each without an item twice.
    """
    shares = (1.0 + (lists[:, :, None] == items).any(axis=1).sum(axis=0)) / (1 + len(lists))
    return np.where(items >= 0, shares, np.nan).astype(np.float32)
