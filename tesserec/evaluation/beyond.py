"""Beyond accuracy: how much of the catalogue is shown, how unevenly, how popular it is and how varied the lists are.

Coverage and Gini belong to all lists together; popularity, tail recall and diversity are numbers of one user, NaN
where a user has none (a list of one item has no pairs; a user without tail targets has no tail recall).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.data.dataset import Dataset
from tesserec.data.histories import Histories, Ints, Items
from tesserec.evaluation.metrics import Floats, PerUser
from tesserec.evaluation.slices import keep_targets
from tesserec.index.kernels import kernel

TAIL = 0.8
_BLOCK = 4096


def exposure(ranked: Items, k: int, items: int) -> Ints:
    """How many users have each item in their first ``k``, ``(items,)``."""
    shown = ranked[:, :k]
    return np.bincount(shown[shown >= 0], minlength=items).astype(np.int64)


def coverage(exposed: Ints) -> float:
    """Share of the catalogue that at least one user is shown."""
    return float(np.count_nonzero(exposed) / len(exposed))


def gini(exposed: Ints) -> float:
    """Gini index of exposure over the whole catalogue: 0 when all items are shown alike, near 1 for one item."""
    total, n = int(exposed.sum()), len(exposed)
    if total == 0:
        return float("nan")
    ordered = np.sort(exposed).astype(np.float64)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))


def popularity_percentile(counts: Ints) -> Floats:
    """Share of items with fewer training events, ties counted half, ``(items,)``; the most popular is near 1."""
    ordered = np.sort(counts)
    below, upto = np.searchsorted(ordered, counts, "left"), np.searchsorted(ordered, counts, "right")
    return np.asarray((below + upto) / (2.0 * len(counts)))


def tail_items(counts: Ints, share: float = TAIL) -> NDArray[np.bool_]:
    """The ``share`` of the catalogue with the fewest training events, ties by item order, ``(items,)``."""
    tail = np.ones(len(counts), dtype=bool)
    tail[np.argsort(-counts, kind="stable")[: round(len(counts) * (1 - share))]] = False
    return tail


def tail_targets(targets: Histories, counts: Ints) -> Histories:
    """Each user's targets among :func:`tail_items`; rows may become empty."""
    return keep_targets(targets, tail_items(counts)[targets.compact().values])


def mean_popularity(ranked: Items, counts: Ints, ks: Sequence[int]) -> PerUser:
    """``popularity@k``: mean :func:`popularity_percentile` of the first k items of each user."""
    percentile = np.append(popularity_percentile(counts), 0.0)  # the last entry is read by unfilled places
    total = np.cumsum(percentile[ranked], axis=1)
    filled = np.cumsum(ranked >= 0, axis=1, dtype=np.int64)
    return {f"popularity@{k}": _mean(total[:, k - 1], filled[:, k - 1]) for k in ks}


def category_diversity(ranked: Items, dataset: Dataset, ks: Sequence[int]) -> PerUser:
    """``diversity@k``: 1 - mean Jaccard similarity of the category sets of all pairs among the first k items.

    Categories are the values of the ``categorical`` and ``multi`` columns of the item table. Items without any
    category resemble nothing. Returns an empty dict where the table has no such column.
    """
    columns = [name for name, role in dataset.roles.items() if role in ("categorical", "multi")]
    if not columns:
        return {}
    offsets, tokens = _categories(dataset.item_table, columns)
    sums: Floats = _jaccard_sums(np.ascontiguousarray(ranked), offsets, tokens)
    return _diversity(ranked, sums, ks)


def vector_diversity(ranked: Items, vectors: NDArray[np.floating], ks: Sequence[int]) -> PerUser:
    """``diversity@k``: 1 - mean cosine of all pairs among the first k items; vectors are ``(items, dim)``."""
    return _diversity(ranked, _cosine_sums(ranked, vectors), ks)


def _diversity(ranked: Items, sums: Floats, ks: Sequence[int]) -> PerUser:
    filled = np.cumsum(ranked >= 0, axis=1, dtype=np.int64)
    pairs = filled * (filled - 1) // 2
    return {f"diversity@{k}": np.subtract(1.0, _mean(sums[:, k - 1], pairs[:, k - 1])) for k in ks}


def _mean(total: Floats, count: Ints) -> Floats:
    return np.asarray(np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0))


def _categories(table: pl.DataFrame, columns: Sequence[str]) -> tuple[Ints, NDArray[np.int32]]:
    """Sorted category numbers of each item as ``(offsets, tokens)``."""
    pairs = []
    for name in columns:
        column = pl.DataFrame({"item": np.arange(table.height), "value": table[name]})
        if isinstance(column.schema["value"], pl.List | pl.Array):
            column = column.explode("value")
        column = column.drop_nulls("value")
        pairs.append(column.select("item", token=pl.lit(f"{name}=") + pl.col("value").cast(pl.String)))
    tokens = pl.concat(pairs).unique().with_columns(pl.col("token").rank("dense").cast(pl.Int32)).sort("item", "token")
    counts = np.bincount(tokens["item"].to_numpy(), minlength=table.height)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), tokens["token"].to_numpy()


@kernel
def _jaccard_sums(ranked: Items, offsets: Ints, tokens: NDArray[np.int32]) -> Floats:
    """Sum of the pairwise similarities among the first j + 1 items, ``(users, places)``."""
    users, places = ranked.shape
    sums = np.zeros((users, places))
    for user in range(users):
        total = 0.0
        for j in range(places):
            for i in range(j):
                if ranked[user, i] >= 0 and ranked[user, j] >= 0:
                    total += _jaccard(ranked[user, i], ranked[user, j], offsets, tokens)
            sums[user, j] = total
    return sums


@kernel
def _jaccard(a: int, b: int, offsets: Ints, tokens: NDArray[np.int32]) -> float:
    i, j, both = offsets[a], offsets[b], 0
    while i < offsets[a + 1] and j < offsets[b + 1]:
        if tokens[i] == tokens[j]:
            both += 1
            i += 1
            j += 1
        elif tokens[i] < tokens[j]:
            i += 1
        else:
            j += 1
    either = offsets[a + 1] - offsets[a] + offsets[b + 1] - offsets[b] - both
    return both / either if either else 0.0


def _cosine_sums(ranked: Items, vectors: NDArray[np.floating]) -> Floats:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    sums = np.zeros(ranked.shape)
    for start in range(0, len(ranked), _BLOCK):
        rows = ranked[start : start + _BLOCK]
        running, squares = np.zeros((len(rows), vectors.shape[1])), np.zeros(len(rows))
        for place in range(ranked.shape[1]):
            item = rows[:, place]
            scale = np.where((item >= 0) & (norms[item] > 0), 1.0 / np.where(norms[item] > 0, norms[item], 1.0), 0.0)
            unit = vectors[item] * scale[:, None]
            running += unit
            squares += (unit**2).sum(axis=1)
            # |sum of unit vectors|^2 counts every pair twice and every vector with itself once.
            sums[start : start + _BLOCK, place] = ((running**2).sum(axis=1) - squares) / 2
    return sums
