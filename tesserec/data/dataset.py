"""A prepared log: id maps, histories and one split, as an immutable directory that is opened by memory mapping."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.exceptions import PolarsError

from tesserec.data.histories import Histories, Ints
from tesserec.data.ids import IdMap
from tesserec.data.report import PrepareReport
from tesserec.errors import ArtefactError, DataError, UserError
from tesserec.files import MANIFEST, open_directory, publish_directory, read_json

HASHED_BY_DEFAULT = 256 << 20
"""Datasets up to this many bytes are hashed whenever they are opened; larger ones on demand."""


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
        Held-out parts of the same split; their histories and targets are ranges of ``train.values`` too.
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
    train_users
        Index of each training row's user, ``(rows,)``; None where it is not known.
    user_table
        One row a user in index order: ``id`` and the columns of the users table; None where it is not known.
    report
        What the preparation did, None for datasets made in another way.
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
    train_users: Ints | None = None
    user_table: pl.DataFrame | None = None
    report: PrepareReport | None = field(default=None, compare=False)

    @cached_property
    def item_counts(self) -> Ints:
        """Training events of each item, ``(items,)``."""
        return self.train.counts(len(self.items))

    def save(self, path: Path | str, *, overwrite: bool = False) -> Dataset:
        """Publish as one sealed directory and open it from there.

        Parameters
        ----------
        path
            Directory to make.
        overwrite
            Replace a dataset that is there.

        Raises
        ------
        UserError
            If something else is there, or the disk is full; nothing half-written is left.
        """
        path = Path(path)
        for part in (self.valid, self.test):
            if part.histories.values is not self.train.values or part.targets.values is not self.train.values:
                raise DataError("a part has events of its own; all parts must be ranges of train.values")
        facts: dict[str, Any] = {
            "items": len(self.items),
            "users": len(self.users),
            "events": len(self.train.values),
            "roles": self.roles,
            "split": self.split,
            "fingerprint": self.fingerprint,
            "exclude_seen": self.exclude_seen,
            "report": None if self.report is None else self.report.to_json(),
        }
        try:
            with publish_directory(path, "dataset", facts, overwrite=overwrite) as folder:
                self._write(folder)
        except (OSError, PolarsError) as error:
            raise UserError(
                f"{path} could not be written: {error}; nothing half-written is left, correct that and try again"
            ) from error
        return self.open(path, verify=False)

    def _write(self, folder: Path) -> None:
        user_table = self.users.values.to_frame() if self.user_table is None else self.user_table
        self.item_table.write_parquet(folder / "items.parquet")
        user_table.write_parquet(folder / "users.parquet")
        np.save(folder / "values.npy", self.train.values)
        if self.train_times is not None:
            np.save(folder / "times.npy", self.train_times)
        train_users = np.full(len(self.train), -1) if self.train_users is None else self.train_users
        np.save(folder / "train.npy", np.stack([train_users, self.train.starts, self.train.stops]))
        for name, part in (("valid", self.valid), ("test", self.test)):
            ranges = (part.histories.starts, part.histories.stops, part.targets.starts, part.targets.stops)
            np.save(folder / f"{name}.npy", np.stack([part.users, *ranges]))

    @classmethod
    def open(cls, path: Path | str, *, verify: bool | None = None) -> Dataset:
        """Open a prepared dataset; arrays are memory-mapped, so it takes no memory of its own.

        Parameters
        ----------
        path
            A directory written by :func:`~tesserec.data.prepare.prepare` or :meth:`save`.
        verify
            Check the hash of every file, not only its size. By default up to 256 MB in all.

        Raises
        ------
        ArtefactError
            Names the file that is missing, cut, changed or of a newer format.
        """
        path = Path(path)
        if verify is None and (path / MANIFEST).is_file():
            listed = read_json(path / MANIFEST)
            files = listed.get("files", {}) if isinstance(listed, dict) else {}
            verify = sum(int(file["bytes"]) for file in files.values()) <= HASHED_BY_DEFAULT
        manifest = open_directory(path, "dataset", check="all" if verify else "size")
        item_table, user_table = _table(path / "items.parquet"), _table(path / "users.parquet")
        values = _mapped(path / "values.npy")
        train_users, starts, stops = _mapped(path / "train.npy")
        report = manifest["report"]
        return cls(
            items=IdMap(item_table["id"]),
            users=IdMap(user_table["id"]),
            item_table=item_table,
            roles=manifest["roles"],
            train=Histories(values, starts, stops),
            valid=_part(values, _mapped(path / "valid.npy")),
            test=_part(values, _mapped(path / "test.npy")),
            train_times=_mapped(path / "times.npy") if "times.npy" in manifest["files"] else None,
            split=manifest["split"],
            fingerprint=manifest["fingerprint"],
            exclude_seen=manifest["exclude_seen"],
            path=path,
            train_users=None if (train_users < 0).any() else train_users,
            user_table=user_table,
            report=None if report is None else PrepareReport(**report),
        )


def _table(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (PolarsError, OSError) as error:
        raise ArtefactError(f"{path} cannot be read ({error}); prepare the dataset again") from error


def _mapped(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read ({error}); prepare the dataset again") from error


def _part(values: NDArray[np.int32], rows: Ints) -> Part:
    users, seen, known, first, last = rows
    return Part(users, Histories(values, seen, known), Histories(values, first, last))
