"""Which interests of a user are read, and how many places of the list each one gets.

Exploitation reads the K likeliest interests. Exploration reads, besides them, up to K of the likeliest interests that
no item of the history belongs to, each for at least one place of the share set aside for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tesserec.errors import ConfigError
from tesserec.index.contract import Codes, Floats, Policy
from tesserec.index.kernels import index_of, kernel, key_of, score_of, select_largest
from tesserec.index.topk import in_threads


@dataclass(frozen=True, eq=False)
class Choice:
    """Interests of a batch of users: exploited ones in the first columns, explored ones in the last.

    Attributes
    ----------
    codes
        int32 ``(users, columns)``; inside each part by falling probability, padded with -1.
    probability
        Their posterior, float32 ``(users, columns)``; 0 where padded.
    explored
        True in the columns of exploration, ``(users, columns)``.
    quotas
        Places of each interest, int64 ``(users, columns)``. Exploited interests have quotas under the merge
        ``"quota"`` only; the places they share are ``k - quotas[explored].sum()`` in any case.
    """

    codes: Codes
    probability: Floats
    explored: NDArray[np.bool_]
    quotas: NDArray[np.int64]


def explore_slots(explore: float, k: int) -> int:
    """Places for exploration: the nearest whole number, at least one, and less than all unless ``explore`` is 1."""
    if explore in (0.0, 1.0):
        return int(explore) * k
    return min(max(1, math.floor(explore * k + 0.5)), k - 1)


def choose(posterior: Floats, known: NDArray[np.bool_], policy: Policy, k: int) -> Choice:
    """Choose the interests to read for lists of ``k``.

    Interests of probability zero are never chosen. Where fewer interests or places remain than asked for, fewer are
    chosen; places of an exploration that finds no interest go back to exploitation, and the other way round.

    Parameters
    ----------
    posterior
        ``(users, codes)``; equal probabilities count in order of code.
    known
        Cells that hold an item of the history, ``(users, codes)``; read only where ``policy.explore > 0``.
    """
    users, codes = posterior.shape
    slots = explore_slots(policy.explore, k)
    wide = min(policy.interests, codes) if slots < k else 0
    wide_explored = min(policy.interests, codes, slots)
    columns = wide + wide_explored
    choice = Choice(
        np.full((users, columns), -1, np.int32),
        np.zeros((users, columns), np.float32),
        np.broadcast_to(np.arange(columns) >= wide, (users, columns)),
        np.zeros((users, columns), np.int64),
    )
    out = choice.codes, choice.probability, choice.quotas
    posterior = np.ascontiguousarray(posterior, dtype=np.float32)
    by_quota = policy.merge == "quota"
    in_threads(users, lambda a, b: _choose(a, b, posterior, known, wide, slots, k, by_quota, *out))
    return choice


def largest_remainder(weights: NDArray[np.floating[Any]], total: int, minimum: int = 1) -> NDArray[np.int64]:
    """Share ``total`` places in proportion to ``weights``; the shares sum to ``total`` exactly.

    Hamilton's method; who would fall under ``minimum`` is raised to it at the expense of the largest shares.

    Raises
    ------
    ConfigError
        If ``total`` is less than ``minimum`` each.
    """
    if total < minimum * len(weights):
        raise ConfigError(f"{total} places cannot give {len(weights)} interests {minimum} each; read fewer interests")
    shares: NDArray[np.int64] = _largest_remainder(np.asarray(weights, np.float64), total, minimum)
    return shares


@kernel
def _largest_remainder(weights, total, minimum):  # type: ignore[no-untyped-def]
    n = len(weights)
    shares = np.zeros(n, np.int64)
    if n == 0:
        return shares
    mass = weights.sum()
    exact = weights / mass * total if mass > 0 else np.full(n, total / n)
    for i in range(n):
        shares[i] = np.int64(np.floor(exact[i]))
    left = total - shares.sum()
    for i in np.argsort(-(exact - shares), kind="mergesort")[:left]:
        shares[i] += 1
    for i in range(n):
        while shares[i] < minimum:
            shares[np.argmax(shares)] -= 1
            shares[i] += 1
    return shares


@kernel
def _likeliest(probability, usable, n):  # type: ignore[no-untyped-def]
    """The at most ``n`` likeliest usable codes of positive probability, best first."""
    keys = np.empty(len(probability), np.int64)
    count = 0
    for code in range(len(probability)):
        if usable[code] and probability[code] > 0:
            keys[count] = key_of(probability[code], code)
            count += 1
    if count > n > 0:
        select_largest(keys, count, n)
    return np.sort(keys[: min(count, n)])[::-1]


@kernel
def _write(row, first, keys, places, quotas_too, codes, probability, quotas):  # type: ignore[no-untyped-def]
    chances = np.empty(len(keys), np.float64)
    for i in range(len(keys)):
        codes[row, first + i] = index_of(keys[i])
        probability[row, first + i] = score_of(keys[i])
        chances[i] = score_of(keys[i])
    if quotas_too:
        quotas[row, first : first + len(keys)] = _largest_remainder(chances, places, 1)


@kernel
def _choose(begin, end, posterior, known, wide, slots, k, by_quota, codes, probability, quotas):  # type: ignore[no-untyped-def]
    for row in range(begin, end):
        usable = np.ones(posterior.shape[1], np.bool_)
        explored = np.empty(0, np.int64)
        if slots > 0:
            explored = _likeliest(posterior[row], ~known[row], codes.shape[1] - wide)
            for key in explored:
                usable[index_of(key)] = False
        places = k - slots if len(explored) else k
        if wide == 0 and len(explored) == 0:
            continue
        exploited = _likeliest(posterior[row], usable, min(wide, places) if by_quota else wide)
        _write(row, 0, exploited, places, by_quota, codes, probability, quotas)
        _write(row, wide, explored, slots if len(exploited) else k, True, codes, probability, quotas)
