"""Merging the ranked lists of a user's interests into one list of candidates."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from tesserec.data.histories import Ints, Items
from tesserec.index.contract import Candidates, Policy, Visits
from tesserec.index.interests import Choice
from tesserec.index.kernels import ZERO, kernel
from tesserec.index.tiles import Doubles
from tesserec.index.topk import in_threads


def no_candidates(users: int, k: int) -> Candidates:
    """Lists without a candidate yet, for other functions to fill."""
    return Candidates(
        np.full((users, k), -1, np.int32),
        np.full((users, k), -np.inf, np.float32),
        np.full((users, k), -1, np.int32),
        np.full((users, k), np.nan, np.float32),
        np.zeros((users, k), np.bool_),
        Visits.none(users),
        np.full((users, k), np.nan, np.float32),
    )


def log_chances(choice: Choice, policy: Policy) -> Doubles:
    """What an interest adds to its scores, ``(users, columns)``: its log-probability, if lists are merged by it."""
    added = np.zeros(choice.codes.shape)
    if policy.merge == "probability":
        np.log(choice.probability, out=added, where=choice.codes >= 0, dtype=np.float64)
    return added


def merge_interests(choice: Choice, items: Items, values: Doubles, k: int, by_quota: bool) -> Candidates:
    """Merge ranked lists; an item keeps the interest whose value put it into the list.

    Exploited interests fill their places by value, ``by_quota`` each its own first; explored ones by quota in order of
    probability, each with its best items that are not in the list yet. What falls short on one side is filled from the
    other. The union is in order of falling value, then rising item.

    Parameters
    ----------
    items, values
        The best items of each interest ``(users, columns, n)`` with n at least k where there are as many, by falling
        value, then rising item; -1 where there are none. The value of an item is its score plus what its interest adds,
        see :func:`log_chances`.
    """
    first_explored = int((~choice.explored).any(axis=0).sum())
    # Values beyond float32 steps decide the order under "probability", so they are kept in float64 until the end.
    quotas = np.ascontiguousarray(choice.quotas)  # at times columns first, a layout of its own to numba
    lists = _Lists(items, values, quotas, k - (quotas * choice.explored).sum(axis=1))
    answer = no_candidates(len(items), k)
    merged = _Merged(answer.items, np.full((len(items), k), -np.inf), np.full((len(items), k), -1, np.int32))
    in_threads(len(items), partial(_merge, lists, first_explored, by_quota, merged))
    users, ranks = np.nonzero(merged.columns >= 0)
    columns = merged.columns[users, ranks]
    answer.scores[...] = merged.values
    answer.interests[users, ranks] = choice.codes[users, columns]
    answer.probability[users, ranks] = choice.probability[users, columns]
    answer.explored[users, ranks] = choice.explored[users, columns]
    return answer


class _Lists(NamedTuple):
    """Lists ``(users, columns, n)``, the quota of each interest, and the exploited places."""

    items: Items
    values: Doubles
    quotas: Ints
    places: Ints


class _Merged(NamedTuple):
    """The merged list: items, their values and the columns that brought them, ``(users, k)``."""

    items: Items
    values: Doubles
    columns: Items


@kernel
def _merge(lists: _Lists, explored: int, by_quota: bool, out: _Merged, begin: int, end: int) -> None:
    columns, k = lists.items.shape[1], out.items.shape[1]
    for user in range(begin, end):
        n, places = ZERO, lists.places[user]
        if by_quota:
            for column in range(explored):
                n = _take_quota(lists, user, column, n, out)
        n = _take_best(lists, user, ZERO, explored, n, places, out)
        for column in range(explored, columns):
            n = _take_quota(lists, user, column, n, out)
        n = _take_best(lists, user, ZERO, explored, n, k, out)
        n = _take_best(lists, user, explored, columns, n, k, out)
        _order(out, user, n)


@kernel
def _add(out: _Merged, user: int, n: int, item: int, value: float, column: int) -> int:
    """Append an item unless it is in the list already; the new length."""
    for i in range(n):
        if out.items[user, i] == item:
            return n
    out.items[user, n], out.values[user, n], out.columns[user, n] = item, value, column
    return n + 1


@kernel
def _take_quota(lists: _Lists, user: int, column: int, n: int, out: _Merged) -> int:
    """Add an interest's quota of its best items that are not in the list yet."""
    stop = min(n + lists.quotas[user, column], out.items.shape[1])
    for rank in range(lists.items.shape[2]):
        item = lists.items[user, column, rank]
        if n == stop or item < 0:
            break
        n = _add(out, user, n, item, lists.values[user, column, rank], column)
    return n


@kernel
def _take_best(lists: _Lists, user: int, first: int, last: int, n: int, stop: int, out: _Merged) -> int:
    """Fill the list to ``stop`` with the best items over the columns ``first`` to ``last - 1``."""
    heads = np.zeros(last, np.int64)
    while n < stop:
        best, best_value, best_item = -1, -np.inf, -1
        for column in range(first, last):
            head = heads[column]
            if head == lists.items.shape[2] or lists.items[user, column, head] < 0:
                continue
            value = lists.values[user, column, head]
            item = lists.items[user, column, head]
            if best < 0 or value > best_value or (value == best_value and item < best_item):
                best, best_value, best_item = column, value, item
        if best < 0:
            break
        heads[best] += 1
        n = _add(out, user, n, best_item, best_value, best)
    return n


@kernel
def _order(out: _Merged, user: int, n: int) -> None:
    """Sort by falling value, then rising item; insertion suits a list of a few sorted runs."""
    items, values, columns = out.items[user], out.values[user], out.columns[user]
    for i in range(1, n):
        item, value, column = items[i], values[i], columns[i]
        j = i
        while j > 0 and (values[j - 1] < value or (values[j - 1] == value and items[j - 1] > item)):
            items[j], values[j], columns[j] = items[j - 1], values[j - 1], columns[j - 1]
            j -= 1
        items[j], values[j], columns[j] = item, value, column
