"""Controllable diversity: give up a stated amount of score for every pair of listed items of different categories.

ComiRec's aggregation module (Cen et al., KDD 2020) maximises ``sum_i score_i + strength * sum_{i<j} [c_i != c_j]`` over
the list greedily: each place goes to the item that adds most. At strength 0 that is the list by score; a large strength
takes one item of each category in turn. Strength is in units of score, of which a second item of a category loses one
strength, a third two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.data.histories import Histories, Ints
from tesserec.errors import ConfigError
from tesserec.index.catalogue import Catalogue
from tesserec.index.contract import Candidates
from tesserec.index.kernels import kernel
from tesserec.index.topk import in_threads

POOL = 5
"""Candidates that compete for a place, unless said otherwise."""


def diverse(
    retrieve: Callable[[Histories, int], Candidates],
    histories: Histories,
    k: int,
    *,
    strength: float,
    categories: NDArray[np.integer[Any]] | None = None,
    pool: int = POOL,
) -> Candidates:
    """Diversify a longer list to ``k``; ``partial(diverse, searcher.retrieve, strength=0.1)`` retrieves.

    Parameters
    ----------
    retrieve
        ``(histories, k)`` to candidates by falling score.
    strength, categories
        As in :func:`diversify`.
    pool
        The list to choose from is this many times ``k`` long.

    Raises
    ------
    ConfigError
        If the pool is below one, or as in :func:`diversify`.
    """
    if pool < 1:
        raise ConfigError(f"pool = {pool}; a list of k is chosen from at least k candidates")
    return diversify(retrieve(histories, k * pool), k, strength, categories)


def diversify(
    candidates: Candidates, k: int, strength: float, categories: NDArray[np.integer[Any]] | None = None
) -> Candidates:
    """The greedy choice of ``k`` candidates, in the order of choice; scores stay what they were.

    Parameters
    ----------
    candidates
        By falling score, any number a user; of equal gains the first wins.
    strength
        Score that a pair of different categories is worth, at least 0.
    categories
        Category of every item, ``(items,)``, none negative but for one of items without any (-1), which is a category
        too; None goes by the interest that brought the candidate.

    Raises
    ------
    ConfigError
        If the strength is negative or not finite.
    """
    if not 0 <= strength < np.inf:
        raise ConfigError(f"strength = {strength}; expected a finite number of at least 0")
    of_item = candidates.interests if categories is None else np.asarray(categories)[candidates.items]
    groups, kinds = of_item.astype(np.int64) + 1, int(of_item.max(initial=-1)) + 2
    users = len(candidates.items)
    chosen = np.full((users, k), -1, np.int64)
    in_threads(users, partial(_choose, candidates.items, candidates.scores, groups, kinds, float(strength), chosen))
    return _take(candidates, chosen)


@lru_cache(maxsize=4)
def item_categories(catalogue: Catalogue, column: str) -> Ints:
    """Number of every item's value in a categorical column of the item table, ``(items,)``; -1 where it has none.

    Raises
    ------
    ConfigError
        If there is no such column, or it is not categorical.
    """
    if catalogue.roles.get(column) != "categorical":
        known = [name for name, role in catalogue.roles.items() if role == "categorical"]
        raise ConfigError(
            f"{column!r} is no categorical column of the item table; "
            f"choose one of {', '.join(known) or 'none (there are none)'}, or go by interests"
        )
    numbers: Ints = catalogue.table[column].rank("dense").cast(pl.Int64).fill_null(0).to_numpy() - 1
    numbers.flags.writeable = False  # every caller gets the same array
    return numbers


def _take(candidates: Candidates, places: Ints) -> Candidates:
    """The candidates at places ``(users, k)``; -1 is an unfilled place."""
    empty = places < 0

    def pick(name: str, unfilled: Any) -> Any:
        return np.where(empty, unfilled, np.take_along_axis(getattr(candidates, name), np.maximum(places, 0), axis=1))

    return Candidates(
        pick("items", np.int32(-1)),
        pick("scores", np.float32(-np.inf)),
        pick("interests", np.int32(-1)),
        pick("probability", np.float32(np.nan)),
        pick("explored", False),
        candidates.visits,
        pick("propensity", np.float32(np.nan)),
    )


@kernel
def _choose(
    items: Any, scores: Any, groups: Any, kinds: int, strength: float, chosen: Any, begin: int, end: int
) -> None:
    """Write the places of the greedy choice; a later candidate cannot win once a gain reaches its bare score."""
    listed = np.zeros(kinds, np.int64)
    for user in range(begin, end):
        taken = np.zeros(items.shape[1], np.bool_)
        listed[:] = 0
        for place in range(chosen.shape[1]):
            best, best_gain = -1, -np.inf
            for i in range(items.shape[1]):
                if items[user, i] < 0 or scores[user, i] <= best_gain:
                    break
                gain = scores[user, i] - strength * listed[groups[user, i]]
                if not taken[i] and gain > best_gain:
                    best, best_gain = i, gain
            if best < 0:
                break
            chosen[user, place], taken[best] = best, True
            listed[groups[user, best]] += 1
