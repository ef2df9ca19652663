"""A prepared log: id maps, histories and one split, as an immutable directory that is opened by memory mapping."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.data.histories import Histories, Ints
from tesserec.data.ids import IdMap


@dataclass(frozen=True)
class Part:
    """Held-out users: what was known of each, and what came next.

    Attributes
    ----------
    users
        Indices into the dataset's user map, ``(rows,)``.
    histories
        What a model may see, one row a user.
    targets
        What it should find, one row a user, never empty.
    """

    users: Ints
    histories: Histories
    targets: Histories


@dataclass(frozen=True)
class Dataset:
    """Everything a retriever learns from and is measured on.

    Attributes
    ----------
    items, users
        Id maps; all other arrays hold their indices. Items are in order of falling training count (ties by id
        order), so item order is popularity order.
    item_table
        One row an item in index order: ``id`` and the feature and display columns.
    roles
        Role of each further column of ``item_table``: ``categorical``, ``multi``, ``numeric``, ``text`` or ``vector``.
    train
        Training histories, one row a training user.
    valid, test
        Held-out parts of the same split.
    train_times
        Seconds of every event of ``train.values``'s array (same positions), or None where the log has no times.
    split
        Name and parameters of the split.
    fingerprint
        Hash of the content and of all parameters; every number measured on this dataset carries it.
    exclude_seen
        True where the log holds no repeats, so that items of the history cannot be targets and are not recommended.
    path
        Where it was opened, None while only in memory.
    """

    items: IdMap
    users: IdMap
    item_table: pl.DataFrame
    roles: dict[str, str]
    train: Histories
    valid: Part
    test: Part
    train_times: Ints | None
    split: dict[str, Any]
    fingerprint: str
    exclude_seen: bool
    path: Path | None = field(default=None, compare=False)

    @cached_property
    def item_counts(self) -> Ints:
        """Training events of each item, ``(items,)``."""
        return self.train.counts(len(self.items))
