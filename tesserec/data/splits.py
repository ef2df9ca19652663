"""Splits: which ranges of the events are for training, what a model may see of a held-out user, and what it must find.

Every part is made of ranges of the one array of events, so a split costs no copy, and leakage is a question about
ranges that :func:`check_leakage` answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from datetime import date, datetime, timezone
from typing import Any, ClassVar

import numpy as np

from tesserec.data.dataset import Dataset, Part
from tesserec.data.events import Events
from tesserec.data.histories import Histories, Ints
from tesserec.errors import ConfigError, DataError

Moment = str | int | float | date | datetime


@dataclass(frozen=True)
class Parts:
    """A split as ranges.

    Attributes
    ----------
    users
        User of each training row.
    train, valid, test
        See :class:`~tesserec.data.dataset.Dataset`.
    dropped
        Held-out users that were left out because nothing could be seen, or nothing was left to find, by part.
    facts
        What is known only after splitting, such as the cut times.
    """

    users: Ints
    train: Histories
    valid: Part
    test: Part
    dropped: dict[str, int]
    facts: dict[str, Any]


@dataclass(frozen=True)
class LeaveOneOut:
    """The last event of a user is for testing, the one before it for validation, the rest for training.

    The history for the test is everything before its target, the validation event included. Users with fewer than
    three events are for training only.
    """

    name: ClassVar[str] = "leave-one-out"

    def apply(self, events: Events) -> Parts:
        """Ranges of this split."""
        starts, stops = events.offsets[:-1], events.offsets[1:]
        held = np.flatnonzero(events.lengths >= 3)
        cut = stops.copy()
        cut[held] -= 2
        first, last = starts[held], stops[held]
        valid = _part(events, held, first, last - 2, last - 2, last - 1)
        test = _part(events, held, first, last - 1, last - 1, last)
        return Parts(np.arange(len(starts)), Histories(events.values, starts, cut), valid, test, {}, {})


@dataclass(frozen=True)
class UserHoldout:
    """Whole users are held out: 80 % train, 10 % are for validation, 10 % for testing.

    Of a held-out user, the first ``int(0.8 n)`` of ``n`` events are seen and the others must be found. Held-out users
    with too few events for both are dropped. Source: the protocol of ComiRec (Cen et al., 2020).

    Attributes
    ----------
    seed
        Shuffles the users; at most 4,294,967,295.
    known
        Parts of users who have one already, by user: 0 train, 1 validation, 2 test, -1 for those to be drawn. None
        draws all.
    """

    name: ClassVar[str] = "user-holdout"
    seed: int = 0
    known: Ints | None = field(default=None, repr=False, compare=False)

    def apply(self, events: Events) -> Parts:
        """Ranges of this split."""
        train, *held = (np.flatnonzero(self._part_of(len(events.lengths)) == part) for part in range(3))
        histories = Histories(events.values, events.offsets[:-1][train], events.offsets[1:][train])
        (valid, without_valid), (test, without_test) = (self._held_out(events, users) for users in held)
        return Parts(train, histories, valid, test, {"valid": without_valid, "test": without_test}, {})

    def _part_of(self, users: int) -> Ints:
        """The part of each user, 0 to 2."""
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed = {self.seed}; the seed of 'user-holdout' is a number from 0 to {2**32 - 1:,}")
        # RandomState promises one stream for all NumPy versions; the newer Generator does not.
        if self.known is None:
            place = np.empty(users, np.int64)
            place[np.random.RandomState(self.seed).permutation(users)] = np.arange(users)
            return np.searchsorted([int(users * 0.8), int(users * 0.9)], place, side="right")
        # New users come a few at a time, so each is drawn by itself; by how many are known, so not all draws are alike.
        random = np.random.RandomState([self.seed, int((self.known >= 0).sum())])
        drawn = np.searchsorted([0.8, 0.9], random.random_sample(users), side="right")
        return np.where(self.known >= 0, self.known, drawn)

    def _held_out(self, events: Events, users: Ints) -> tuple[Part, int]:
        seen = (events.lengths[users] * 0.8).astype(np.int64)
        enough = (seen > 0) & (seen < events.lengths[users])
        users, seen = users[enough], seen[enough]
        start, stop = events.offsets[users], events.offsets[users + 1]
        return _part(events, users, start, start + seen, start + seen, stop), int((~enough).sum())


@dataclass(frozen=True)
class TimeSplit:
    """Two cut times: before the first is for training, from there to the second for validation, the rest for testing.

    A held-out user has everything before the cut as history and all events of the period as targets; users without
    any event before the cut are dropped.

    Attributes
    ----------
    cuts
        Both times (ISO 8601 text, dates, or Unix seconds; without a zone, UTC), or two shares of the events, floats
        between 0 and 1, whose times become the cuts.
    """

    name: ClassVar[str] = "time"
    cuts: tuple[Moment, Moment] = (0.8, 0.9)

    def apply(self, events: Events) -> Parts:
        """Ranges of this split.

        Raises
        ------
        ConfigError
            If the log has an order but no times, one cut is a share and the other a time, or they are not in order.
        """
        if events.keys is None or not events.per_second:
            raise ConfigError(
                "split = 'time' needs times, but the log has only an order (no time column, or small numbers); "
                "choose 'leave-one-out' or 'user-holdout', or pass time_kind if the numbers are times"
            )
        first, second = self._keys(events.keys, events.per_second)
        starts, stops = events.offsets[:-1], events.offsets[1:]
        middle, late = events.before(first), events.before(second)
        train = np.flatnonzero(middle > starts)
        valid, new = _period(events, starts, middle, late)
        test, newer = _period(events, starts, late, stops)
        facts = {"at": [first, second], "per_second": events.per_second}
        histories = Histories(events.values, starts[train], middle[train])
        return Parts(train, histories, valid, test, {"valid": new, "test": newer}, facts)

    def _keys(self, keys: Ints, per_second: int) -> tuple[int, int]:
        shares = [isinstance(cut, float) and 0 < cut < 1 for cut in self.cuts]
        if any(shares) and not all(shares):
            raise ConfigError(f"cuts = {self.cuts} holds one share; give two shares between 0 and 1, or two times")
        if all(shares):
            ranks = [int(float(cut) * len(keys)) for cut in self.cuts]  # type: ignore[arg-type]
            first, second = (int(key) for key in np.partition(keys, ranks)[ranks])
        else:
            first, second = (_key(cut, per_second) for cut in self.cuts)
        if not first < second:
            raise ConfigError(
                f"cuts = {self.cuts} are the times {_iso(first, per_second)} and {_iso(second, per_second)}; "
                "the first must lie before the second"
            )
        return first, second


Split = LeaveOneOut | UserHoldout | TimeSplit


def make_split(split: str | Split) -> Split:
    """A split from its name with default parameters; a split object is returned as it is.

    Raises
    ------
    ConfigError
        If there is no such split.
    """
    if not isinstance(split, str):
        return split
    for kind in (LeaveOneOut, UserHoldout, TimeSplit):
        if split == kind.name:
            return kind()
    raise ConfigError(f"split = {split!r}; choose 'leave-one-out', 'user-holdout' or 'time'")


def describe(split: Split, facts: dict[str, Any]) -> dict[str, Any]:
    """Name and parameters of a split, as a dataset keeps them."""
    given = {one.name: getattr(split, one.name) for one in fields(split) if one.repr}
    parameters = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return {"name": split.name, **parameters, **facts}


def check_leakage(dataset: Dataset) -> None:
    """Prove that no target is in the training part, and that no history reaches past its targets.

    Raises
    ------
    DataError
        Names the part and the user of the first violation.
    """
    for name, part in (("valid", dataset.valid), ("test", dataset.test)):
        _check_part(dataset, name, part)
        _check_disjoint(dataset, name, part.users, part.targets, "targets")
    if dataset.split["name"] == LeaveOneOut.name:
        users, i, j = np.intersect1d(dataset.valid.users, dataset.test.users, return_indices=True)
        if (late := dataset.valid.targets.stops[i] > dataset.test.targets.starts[j]).any():
            raise _leak(dataset, "valid", int(users[late.argmax()]), "the target is not before the test target")
    if dataset.split["name"] == UserHoldout.name:
        for name, part in (("valid", dataset.valid), ("test", dataset.test)):
            _check_disjoint(dataset, name, part.users, part.histories, "events")
        if len(both := np.intersect1d(dataset.valid.users, dataset.test.users)):
            raise _leak(dataset, "valid", int(both[0]), "the user is in the test part too")
    if dataset.split["name"] == TimeSplit.name:
        _check_cuts(dataset)


def _check_part(dataset: Dataset, name: str, part: Part) -> None:
    histories, targets = part.histories, part.targets
    if histories.values is not dataset.train.values or targets.values is not dataset.train.values:
        raise DataError(f"the {name} part has events of its own; all parts must be ranges of train.values")
    for bad, what in (
        (histories.lengths < 1, "the history is empty"),
        (targets.lengths < 1, "there are no targets"),
        (histories.stops != targets.starts, "the targets do not follow the history"),
    ):
        if bad.any():
            raise _leak(dataset, name, int(part.users[bad.argmax()]), what)


def _check_disjoint(dataset: Dataset, name: str, users: Ints, rows: Histories, what: str) -> None:
    """No range of ``rows`` may overlap a training range."""
    order = np.argsort(dataset.train.starts, kind="stable")
    starts, stops = dataset.train.starts[order], dataset.train.stops[order]
    before = np.searchsorted(starts, rows.stops) - 1
    overlap = (before >= 0) & (np.maximum.accumulate(stops)[np.maximum(before, 0)] > rows.starts)
    if overlap.any():
        raise _leak(dataset, name, int(users[overlap.argmax()]), f"{what} are in the training part")


def _check_cuts(dataset: Dataset) -> None:
    """Times of training lie before both cuts, those of targets in their period."""
    times, per_second = dataset.train_times, dataset.split["per_second"]
    if times is None:
        raise DataError("a dataset with a time split has no times")
    first, second = dataset.split["at"]
    last = times[dataset.train.stops - 1] >= -(-first // per_second)
    if last.any():
        raise DataError(f"the training part leaks: row {int(last.argmax())} has events after the first cut")
    for name, part, cut in (("valid", dataset.valid, first), ("test", dataset.test, second)):
        # Times are whole seconds, cuts may lie between two of them.
        late = times[part.histories.stops - 1] >= -(-cut // per_second)
        early = times[part.targets.starts] < cut // per_second
        if late.any():
            raise _leak(dataset, name, int(part.users[late.argmax()]), "the history reaches past the cut")
        if early.any():
            raise _leak(dataset, name, int(part.users[early.argmax()]), "a target lies before the cut")


def _leak(dataset: Dataset, part: str, user: int, what: str) -> DataError:
    return DataError(f"the {part} part leaks: user {dataset.users.values[user]!r}: {what}")


def _part(events: Events, users: Ints, start: Ints, stop: Ints, first: Ints, last: Ints) -> Part:
    return Part(users, Histories(events.values, start, stop), Histories(events.values, first, last))


def _period(events: Events, starts: Ints, begin: Ints, end: Ints) -> tuple[Part, int]:
    """Users with targets from ``begin`` to ``end`` and something before; and how many had nothing before."""
    active, known = end > begin, begin > starts
    users = np.flatnonzero(active & known)
    part = _part(events, users, starts[users], begin[users], begin[users], end[users])
    return part, int((active & ~known).sum())


def _key(cut: Moment, per_second: int) -> int:
    """A cut time at the resolution of the log; times without a zone are UTC."""
    if isinstance(cut, (int, float)):
        if not math.isfinite(cut):
            raise ConfigError(f"cut {cut!r} is no time; write it like 2024-05-31, or as Unix seconds")
        return round(cut * per_second)
    try:
        moment = datetime.fromisoformat(cut.replace("Z", "+00:00")) if isinstance(cut, str) else cut
    except ValueError:
        raise ConfigError(f"cut {cut!r} is not ISO 8601; write it like 2024-05-31 or 2024-05-31T08:00:00") from None
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * per_second)


def _iso(key: int, per_second: int) -> str:
    return datetime.fromtimestamp(key / per_second, timezone.utc).isoformat()
