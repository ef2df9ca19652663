"""Which interests of a user are read, and how many places of the list each one gets.

Exploitation reads the K likeliest interests. Exploration reads up to K of the likeliest interests that no item of the
history belongs to, each for at least one place of the share set aside for it: places that it has beside those which its
items win by themselves, so that exploring never costs a likely interest its places. The control that needs
no model reads the K most frequent cells of the history instead. Where a policy draws, the K interests of largest
drawn weight take the place of the K likeliest (:mod:`tesserec.index.exploration`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories, Ints, Items
from tesserec.errors import ConfigError
from tesserec.index.contract import Codes, Floats, Policy
from tesserec.index.kernels import ZERO, index_of, kernel, key_of, score_of, select_largest
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
    quotas: Ints

    def take(self, rows: NDArray[np.int64]) -> Choice:
        """Some of the users."""
        return Choice(self.codes[rows], self.probability[rows], self.explored[rows], self.quotas[rows])


def explore_slots(explore: float, k: int) -> int:
    """Places for exploration: the nearest whole number, at least one, and less than all unless ``explore`` is 1."""
    if explore in (0.0, 1.0):
        return int(explore) * k
    return min(max(1, math.floor(explore * k + 0.5)), k - 1)


def choose(
    posterior: Floats,
    known: NDArray[np.bool_],
    policy: Policy,
    k: int,
    weights: Floats | None = None,
    nucleus: NDArray[np.bool_] | None = None,
) -> Choice:
    """Choose the interests to read for lists of ``k``.

    Interests of probability zero are never chosen. Where fewer interests or places remain than asked for, fewer are
    chosen; places of an exploration that finds no interest go back to exploitation, and the other way round.

    Parameters
    ----------
    posterior
        ``(users, codes)``; equal probabilities count in order of code.
    known
        Cells that hold an item of the history, ``(users, codes)``; read only where ``policy.explore > 0``.
    weights
        Choose those of largest weight instead of the likeliest, ``(users, codes)``; of weight zero never.
    nucleus
        Interests that may be exploited, ``(users, codes)``; all of them where None.
    """
    users, codes = posterior.shape
    slots = explore_slots(policy.explore, k)
    wide = min(policy.interests, codes)
    choice, out = _no_choice(users, wide, min(policy.interests, codes, slots), policy)
    posterior = np.array(posterior, dtype=np.float32, order="C")
    weights = posterior if weights is None else np.array(weights, dtype=np.float32, order="C")
    nucleus = np.ones(posterior.shape, np.bool_) if nucleus is None else nucleus
    in_threads(users, partial(_choose, (posterior, weights, nucleus), known, slots, k, policy.merge == "quota", out))
    return choice


def choose_from_history(cells: Histories, codes: int, policy: Policy, k: int) -> Choice:
    """Choose the most frequent cells of each history, equally frequent ones by recency, with their frequency.

    The "hard" choice of interests that SPARC (arXiv 2508.09090) compares its posterior with, as reported; ties ours.

    Parameters
    ----------
    cells
        Cells of the items of each history, oldest first, none empty.
    codes
        Number of cells.
    """
    wide = min(policy.interests, codes)
    choice, out = _no_choice(len(cells), wide, 0, policy)
    flat = cells.compact()
    by_quota = policy.merge == "quota"
    in_threads(len(cells), partial(_most_frequent, (flat.values, flat.starts, flat.stops), codes, k, by_quota, out))
    return choice


def _no_choice(users: int, wide: int, wide_explored: int, policy: Policy) -> tuple[Choice, _Chosen]:
    """A choice without codes yet, and its arrays as the kernels fill them."""
    columns = wide + wide_explored
    choice = Choice(
        np.full((users, columns), -1, np.int32),
        np.zeros((users, columns), np.float32),
        np.broadcast_to(np.arange(columns) >= wide, (users, columns)),
        np.zeros((users, columns), np.int64),
    )
    return choice, _Chosen(choice.codes, choice.probability, choice.quotas, wide, policy.shares == "equal")


def largest_remainder(weights: NDArray[np.floating[Any]], total: int, minimum: int = 1) -> Ints:
    """Share ``total`` places in proportion to ``weights``; the shares sum to ``total`` exactly.

    Hamilton's method; who would fall under ``minimum`` is raised to it at the expense of the largest shares.

    Raises
    ------
    ConfigError
        If ``total`` is less than ``minimum`` each.
    """
    if total < minimum * len(weights):
        raise ConfigError(f"{total} places cannot give {len(weights)} interests {minimum} each; read fewer interests")
    shares: Ints = _largest_remainder(np.asarray(weights, np.float64), total, minimum)
    return shares


class _Chosen(NamedTuple):
    """The arrays of a :class:`Choice` that a kernel fills; ``wide`` columns are exploited, the rest explored."""

    codes: Codes
    probability: Floats
    quotas: Ints
    wide: int
    equal: bool


@kernel
def _largest_remainder(weights: NDArray[np.float64], total: int, minimum: int) -> Ints:
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
def _heaviest(probability: Floats, weights: Floats, usable: NDArray[np.bool_], n: int) -> Ints:
    """Keys of the at most ``n`` usable codes of largest positive weight, by falling probability."""
    keys = np.empty(len(weights), np.int64)
    count = 0
    for code in range(len(weights)):
        if usable[code] and weights[code] > 0 and probability[code] > 0:
            keys[count] = key_of(weights[code], code)
            count += 1
    if count > n > 0:
        select_largest(keys, count, n)
    chosen = keys[: min(count, n)]
    for i in range(len(chosen)):
        code = index_of(chosen[i])
        chosen[i] = key_of(probability[code], code)
    chosen.sort()
    return chosen[::-1].copy()


@kernel
def _write(out: _Chosen, row: int, first: int, keys: Ints, places: int) -> None:
    """Write chosen codes from a column on, and share the places among them."""
    chances = np.empty(len(keys), np.float64)
    for i in range(len(keys)):
        out.codes[row, first + i] = index_of(keys[i])
        out.probability[row, first + i] = score_of(keys[i])
        chances[i] = 1.0 if out.equal else score_of(keys[i])
    if places > 0:
        out.quotas[row, first : first + len(keys)] = _largest_remainder(chances, places, 1)


@kernel
def _choose(
    chances: tuple[Floats, Floats, NDArray[np.bool_]],
    known: NDArray[np.bool_],
    slots: int,
    k: int,
    by_quota: bool,
    out: _Chosen,
    begin: int,
    end: int,
) -> None:
    posterior, weights, nucleus = chances
    for row in range(begin, end):
        explored = np.empty(0, np.int64)
        if slots > 0:
            explored = _heaviest(posterior[row], weights[row], ~known[row], out.codes.shape[1] - out.wide)
        places = k - slots if len(explored) else k
        wide = min(out.wide, places) if by_quota else out.wide
        exploited = _heaviest(posterior[row], weights[row], nucleus[row], wide)
        _write(out, row, ZERO, exploited, places if by_quota else 0)
        _write(out, row, out.wide, explored, slots if len(exploited) else k)


@kernel
def _most_frequent(
    cells: tuple[Items, Ints, Ints], codes: int, k: int, by_quota: bool, out: _Chosen, begin: int, end: int
) -> None:
    values, starts, stops = cells
    for row in range(begin, end):
        count, latest = np.zeros(codes, np.int64), np.zeros(codes, np.int64)
        for place in range(starts[row], stops[row]):
            count[values[place]] += 1
            latest[values[place]] = place - starts[row]
        held = np.flatnonzero(count)
        order = held[np.argsort(-((count[held] << 32) + latest[held]))]
        order = order[: min(out.wide, k) if by_quota else out.wide]
        keys = np.empty(len(order), np.int64)
        for i in range(len(order)):
            keys[i] = key_of(np.float32(count[order[i]] / (stops[row] - starts[row])), order[i])
        _write(out, row, ZERO, keys, k if by_quota else 0)
