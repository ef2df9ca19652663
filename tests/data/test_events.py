"""Grouping, repeats and minimum counts against a few lines of plain Python."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.data.events import Events

USERS, ITEMS = 4, 5
LOGS = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1), st.integers(0, 6)), max_size=60)
Rows = list[list[tuple[int, int]]]
FAST = settings(derandomize=True, max_examples=150, deadline=None)


def _events(log: list[tuple[int, int, int]]) -> Events:
    columns = np.array(log, dtype=np.int64).reshape(-1, 3).T
    return Events.group(columns[0].astype(np.int32), columns[1].astype(np.int32), columns[2].copy(), USERS)


def _rows(events: Events) -> Rows:
    pairs = list(zip(events.values.tolist(), events.keys.tolist(), strict=True))
    return [pairs[a:b] for a, b in zip(events.offsets[:-1], events.offsets[1:], strict=True)]


def _expected(log: list[tuple[int, int, int]]) -> Rows:
    """Python's sort is stable: ties keep the order of the rows."""
    return [sorted(((i, t) for u, i, t in log if u == user), key=lambda pair: pair[1]) for user in range(USERS)]


@FAST
@given(LOGS)
def test_group_is_a_stable_sort(log) -> None:
    assert _rows(_events(log)) == _expected(log)


def test_long_rows_are_sorted_too() -> None:
    rng = np.random.default_rng(0)
    log = [(0, int(i), int(t)) for i, t in zip(rng.integers(0, ITEMS, 3000), rng.integers(0, 500, 3000), strict=True)]
    assert _rows(_events(log)) == _expected(log)


def test_without_times_the_rows_count() -> None:
    users, items = np.array([1, 0, 1, 0], np.int32), np.array([3, 2, 1, 0], np.int32)
    events = Events.group(users, items, None, 2)
    assert events.values.tolist() == [2, 0, 3, 1]
    assert events.keys is None


@FAST
@given(LOGS)
def test_repeats(log) -> None:
    rows = _expected(log)
    first = [list({i: (i, t) for i, t in reversed(row)}.values())[::-1] for row in rows]
    first = [sorted(kept, key=row.index) for kept, row in zip(first, rows, strict=True)]
    events = _events(log)
    assert _rows(events.without_repeats("first", ITEMS)) == first
    last = [[pair for n, pair in enumerate(row) if pair[0] not in [i for i, _ in row[n + 1 :]]] for row in rows]
    assert _rows(events.without_repeats("last", ITEMS)) == last
    assert events.repeats(ITEMS) == sum(map(len, rows)) - sum(map(len, first))
    assert _rows(events.where(events.distinct(ITEMS))) == [list(dict.fromkeys(row)) for row in rows]


@FAST
@given(LOGS, st.integers(0, 4), st.integers(0, 4))
def test_core(log, min_user: int, min_item: int) -> None:
    left = list(log)
    while True:
        users, items = Counter(u for u, _, _ in left), Counter(i for _, i, _ in left)
        fewer = [row for row in left if users[row[0]] >= min_user and items[row[1]] >= min_item]
        if len(fewer) == len(left):
            break
        left = fewer
    assert _rows(_events(log).core(ITEMS, min_user, min_item)) == _expected(left)


@FAST
@given(LOGS, st.integers(0, 7))
def test_before(log, key: int) -> None:
    events = _events(log)
    expected = [sum(t < key for _, t in row) for row in _rows(events)]
    assert (events.before(key) - events.offsets[:-1]).tolist() == expected


@FAST
@given(LOGS)
def test_without_empty(log) -> None:
    events, users = _events(log).without_empty()
    rows = _expected(log)
    assert users.tolist() == [user for user, row in enumerate(rows) if row]
    assert _rows(events) == [row for row in rows if row]
