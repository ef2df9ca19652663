"""Small datasets built in memory, with random or given held-out users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from tesserec.data.dataset import Dataset, Part
from tesserec.data.histories import Histories
from tesserec.data.ids import IdMap
from tesserec.index.contract import Candidates, Visits


def candidates(items: np.ndarray) -> Candidates:
    """Candidates of which only the items matter."""
    items = np.asarray(items, dtype=np.int32)
    empty = np.zeros(items.shape, dtype=np.float32)
    return Candidates(items, empty, items * 0 - 1, empty * np.nan, items < -1, Visits.none(len(items)), empty)


def answering(lists: np.ndarray) -> Callable[[Histories, int], Candidates]:
    """A retriever that gives out the rows of ``lists`` in the order in which users come."""
    rows = iter(lists)
    return lambda histories, k: candidates(np.stack([next(rows)[:k] for _ in range(len(histories))]))


def dataset(
    train: Sequence[Sequence[int]],
    histories: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    items: int,
    **changes: Any,
) -> Dataset:
    """A dataset whose test and validation parts hold the given users."""
    users = np.arange(len(histories), dtype=np.int64)
    part = Part(users, Histories.from_lists(histories), Histories.from_lists(targets))
    fields: dict[str, Any] = {
        "items": IdMap(pl.Series([f"i{n}" for n in range(items)])),
        "users": IdMap(pl.Series([f"u{n}" for n in users])),
        "item_table": pl.DataFrame({"id": [f"i{n}" for n in range(items)]}),
        "roles": {},
        "train": Histories.from_lists(train),
        "valid": part,
        "test": part,
        "train_times": None,
        "split": {"name": "user-holdout", "seed": 0},
        "fingerprint": "f00d",
        "exclude_seen": False,
    }
    return Dataset(**(fields | changes))


def random_world(users: int = 300, items: int = 60, seed: int = 0, **changes: Any) -> Dataset:
    """Random users, popular items first, and categories of both kinds."""
    random = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, items + 1)

    def draw(low: int, high: int) -> list[np.ndarray]:
        sizes = random.integers(low, high, size=users)
        return [random.choice(items, size=size, p=weights / weights.sum()) for size in sizes]

    table = pl.DataFrame(
        {
            "id": [f"i{n}" for n in range(items)],
            "brand": [None if n % 7 == 0 else f"b{n % 5}" for n in range(items)],
            "tags": [[f"t{n % 3}", f"t{n % 4}"] for n in range(items)],
        }
    )
    fields = {"item_table": table, "roles": {"brand": "categorical", "tags": "multi"}} | changes
    return dataset(draw(3, 9), draw(2, 12), draw(1, 6), items, **fields)


def random_lists(users: int, items: int, k: int, seed: int = 0, unfilled: float = 0.0) -> np.ndarray:
    """Distinct items a row; a share of rows ends in unfilled places."""
    random = np.random.default_rng(seed)
    lists = np.argsort(random.random((users, items)), axis=1)[:, :k].astype(np.int32)
    cut = np.where(random.random(users) < unfilled, random.integers(0, k + 1, size=users), k)
    return np.where(np.arange(k) < cut[:, None], lists, -1).astype(np.int32)
