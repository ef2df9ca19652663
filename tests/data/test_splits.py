"""Each split on small logs by hand, and leaks made on purpose."""

from dataclasses import replace
from datetime import date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.data.dataset import Dataset, Part
from tesserec.data.events import Events
from tesserec.data.histories import Histories
from tesserec.data.merge import prepare_more
from tesserec.data.prepare import prepare
from tesserec.data.splits import LeaveOneOut, Parts, TimeSplit, UserHoldout, check_leakage, make_split
from tesserec.errors import ConfigError, DataError

DAY = 86_400
START = 1_704_067_200  # 2024-01-01


def _log(rows: dict[str, list[int]]) -> pl.DataFrame:
    """Users with the days of their events; the items are ``a0, a1, ...`` in the order of the days."""
    events = [(user, f"a{n}", START + day * DAY) for user, days in rows.items() for n, day in enumerate(days)]
    return pl.DataFrame(events, schema=["user", "item", "time"], orient="row")


def _named(dataset: Dataset, rows: Histories) -> list[list[str]]:
    return [dataset.items.decode(row).to_list() for row in rows]


def _part(dataset: Dataset, part: Part) -> dict[str, tuple[list[str], list[str]]]:
    users = dataset.users.decode(part.users).to_list()
    pairs = zip(_named(dataset, part.histories), _named(dataset, part.targets), strict=True)
    return dict(zip(users, pairs, strict=True))


def _train(dataset: Dataset) -> dict[str, list[str]]:
    assert dataset.train_users is not None
    return dict(zip(dataset.users.decode(dataset.train_users).to_list(), _named(dataset, dataset.train), strict=True))


def test_leave_one_out() -> None:
    dataset = prepare(_log({"u": [1, 2, 3, 4], "v": [5, 6], "w": [1, 2, 3]}))
    assert _train(dataset) == {"u": ["a0", "a1"], "v": ["a0", "a1"], "w": ["a0"]}
    assert _part(dataset, dataset.valid) == {"u": (["a0", "a1"], ["a2"]), "w": (["a0"], ["a1"])}
    assert _part(dataset, dataset.test) == {"u": (["a0", "a1", "a2"], ["a3"]), "w": (["a0", "a1"], ["a2"])}


def test_user_holdout() -> None:
    dataset = prepare(_log({f"u{n}": list(range(7)) for n in range(20)}), split="user-holdout")
    valid, test = _part(dataset, dataset.valid), _part(dataset, dataset.test)
    assert (len(_train(dataset)), len(valid), len(test)) == (16, 2, 2)
    assert len({*_train(dataset), *valid, *test}) == 20
    assert all(len(row) == 7 for row in _train(dataset).values())
    assert all(pair == (["a0", "a1", "a2", "a3", "a4"], ["a5", "a6"]) for pair in (*valid.values(), *test.values()))


def test_user_holdout_depends_on_its_seed_only() -> None:
    log = _log({f"u{n:02d}": list(range(3)) for n in range(30)})
    splits = [prepare(frame, split=UserHoldout(seed)).test.users.tolist() for frame, seed in
              ((log, 1), (log.reverse(), 1), (log, 2))]  # fmt: skip
    assert splits[0] == splits[1] == [5, 11, 12]
    assert splits[2] != splits[0]


def test_users_stay_in_their_part_when_a_later_log_comes_on_top() -> None:
    days = {f"u{n:03d}": list(range(5)) for n in range(100)}
    old = prepare(_log(days), split=UserHoldout(3))
    later = _log({f"u{n:03d}": [9] for n in range(0, 100, 2)} | {f"t{n:03d}": list(range(5)) for n in range(200)})
    new = prepare_more(old, later)
    members = [_members(one) for one in (old, new)]
    for before, after in zip(*members, strict=True):
        assert before == {user for user in after if user.startswith("u")}
    drawn = [sum(user.startswith("t") for user in part) for part in members[1]]
    assert sum(drawn) == 200
    assert drawn[0] in range(140, 181)
    assert min(drawn[1:]) > 8
    assert _members(prepare_more(new, later.head(1))) == members[1]
    assert new.split == old.split


def _members(dataset: Dataset) -> list[set[str]]:
    parts = (dataset.train_users, dataset.valid.users, dataset.test.users)
    return [set(dataset.users.decode(users).to_list()) for users in parts]


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_cannot_be_is_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match="is a number from 0 to 4,294,967,295"):
        prepare(_log({f"u{n}": [1, 2, 3] for n in range(20)}), split=UserHoldout(seed))


@pytest.mark.parametrize("cut", [float("nan"), float("inf")])
def test_a_cut_that_is_no_time_is_refused(cut: float) -> None:
    with pytest.raises(ConfigError, match="is no time"):
        prepare(_log({"u": [1, 3, 5, 9], "v": [1, 3, 5, 9]}), split=TimeSplit((cut, 10.0)))


def test_user_holdout_drops_and_counts_users_with_one_event() -> None:
    dataset = prepare(_log({f"u{n:02d}": [0, 1] if n % 2 else [0] for n in range(60)}), split="user-holdout")
    assert dataset.report is not None
    dropped = dataset.report.dropped_users
    assert (dataset.valid.histories.lengths == 1).all()
    assert len(dataset.valid.users) + dropped["valid"] == len(dataset.test.users) + dropped["test"] == 6
    assert dropped["valid"] > 0


CUTS = [
    ("2024-01-05", "2024-01-10"),
    (date(2024, 1, 5), datetime(2024, 1, 10)),
    ("2024-01-05T00:00:00Z", "2024-01-10T02:00:00+02:00"),
    (START + 4 * DAY, START + 9 * DAY),
]


@pytest.mark.parametrize("cuts", CUTS)
def test_time_split(cuts) -> None:
    days = {"u": [1, 3, 5, 9, 10], "late": [5, 12], "early": [1, 2], "new": [10, 11], "edge": [3, 4, 9]}
    dataset = prepare(_log(days), split=TimeSplit(cuts))
    assert _train(dataset) == {"edge": ["a0"], "early": ["a0", "a1"], "u": ["a0", "a1"]}
    assert _part(dataset, dataset.valid) == {"edge": (["a0"], ["a1"]), "u": (["a0", "a1"], ["a2"])}
    assert _part(dataset, dataset.test) == {
        "edge": (["a0", "a1"], ["a2"]),
        "late": (["a0"], ["a1"]),
        "u": (["a0", "a1", "a2"], ["a3", "a4"]),
    }
    assert dataset.report is not None
    assert dataset.report.dropped_users == {"valid": 1, "test": 1}


def test_time_split_by_shares_of_the_events() -> None:
    dataset = prepare(_log({"u": [*range(0, 100, 2)], "v": [*range(1, 101, 2)]}), split=TimeSplit((0.5, 0.75)))
    assert dataset.split["at"] == [START + 50 * DAY, START + 75 * DAY]
    assert dataset.train.lengths.tolist() == [25, 25]


def test_time_split_below_a_second() -> None:
    log = _log({"u": [1, 2, 3, 4], "v": [1, 2, 3, 4]}).with_columns(pl.col("time") * 1000 + 700)
    dataset = prepare(log, split=TimeSplit((START + 3 * DAY + 0.7, "2024-01-05T00:00:00.500")))
    assert dataset.train.lengths.tolist() == [2, 2]
    assert dataset.valid.targets.lengths.tolist() == [1, 1]


def test_time_split_needs_times() -> None:
    log = _log({"u": [1, 2, 3], "v": [1, 2, 3]})
    for frame in (log.drop("time"), log.with_columns(time=pl.int_range(pl.len()))):
        with pytest.raises(ConfigError, match="needs times, but the log has only an order"):
            prepare(frame, split="time")


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        (("2024-01-10", "2024-01-05"), "the first must lie before the second"),
        (("5 Jan", "2024-01-05"), "cut '5 Jan' is not ISO 8601"),
        ((0.8, 1.5), "holds one share; give two shares between 0 and 1, or two times"),
        (("1999-01-01", "1999-01-02"), "the train part of split 'time' would be empty"),
        (("2034-01-01", "2034-01-02"), "the valid part of split 'time' would be empty"),
    ],
)
def test_bad_cuts(cuts, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        prepare(_log({"u": [1, 7, 14], "v": [2, 8, 20]}), split=TimeSplit(cuts))


def test_split_names() -> None:
    assert make_split("leave-one-out") == LeaveOneOut()
    assert make_split("time") == TimeSplit((0.8, 0.9))
    with pytest.raises(ConfigError, match="split = 'random'; choose 'leave-one-out', 'user-holdout' or 'time'"):
        make_split("random")


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8), min_size=10, max_size=20), st.data())
def test_no_split_leaks_or_loses_events(days: list[list[int]], data) -> None:
    split = data.draw(st.sampled_from(["leave-one-out", "user-holdout", TimeSplit((0.4, 0.7))]))
    log = _log({f"u{n}": row for n, row in enumerate(days)}).with_columns(item=pl.int_range(pl.len()))
    try:
        dataset = prepare(log, split=split)
    except (ConfigError, DataError):
        return
    times = dict(zip(log["item"].to_list(), log["time"].to_list(), strict=True))
    for part in (dataset.valid, dataset.test):
        for user, history, target in zip(part.users, part.histories, part.targets, strict=True):
            seen, found = (dataset.items.decode(row).to_list() for row in (history, target))
            known = times[seen[-1]], *(times[item] for item in found)
            assert list(known) == sorted(known)
            assert {log["user"][item] for item in seen + found} == {dataset.users.values[int(user)]}
            assert not {*found} & {item for row in dataset.train for item in dataset.items.decode(row).to_list()}


def _shifted(rows: Histories, starts: int = 0, stops: int = 0) -> Histories:
    return Histories(rows.values, rows.starts + starts, rows.stops + stops)


def _moved(split: dict, seconds: int) -> dict:
    return {**split, "at": [cut + seconds for cut in split["at"]]}


def _broken(dataset: Dataset, how: str) -> Dataset:
    """The dataset with one violation."""
    train, valid, test = dataset.train, dataset.valid, dataset.test
    other = Histories(dataset.train.values.copy(), valid.targets.starts, valid.targets.stops)
    return {
        "train reaches the targets": lambda: replace(dataset, train=_shifted(train, stops=1)),
        "foreign array": lambda: replace(dataset, valid=replace(valid, targets=other)),
        "empty history": lambda: replace(
            dataset, valid=replace(valid, histories=Histories(train.values, valid.targets.starts, valid.targets.starts))
        ),
        "no target": lambda: replace(dataset, test=replace(test, targets=test.targets.last(0))),
        "gap": lambda: replace(dataset, test=replace(test, histories=_shifted(test.histories, stops=-1))),
        "order": lambda: replace(dataset, valid=test),
        "history in train": lambda: replace(
            dataset,
            train=Histories(
                train.values,
                np.append(train.starts, valid.histories.starts[0]),
                np.append(train.stops, valid.histories.stops[0]),
            ),
        ),
        "cuts moved": lambda: replace(dataset, split=_moved(dataset.split, 3 * DAY)),
        "cuts moved back": lambda: replace(dataset, split=_moved(dataset.split, -3 * DAY)),
        "times lost": lambda: replace(dataset, train_times=None),
    }[how]()


@pytest.mark.parametrize(
    ("split", "how", "message"),
    [
        ("leave-one-out", "foreign array", "the valid part has events of its own"),
        ("leave-one-out", "empty history", "valid part leaks: user 'u00': the history is empty"),
        ("user-holdout", "no target", "test part leaks: user 'u.*': there are no targets"),
        ("time", "gap", "the targets do not follow the history"),
        ("leave-one-out", "train reaches the targets", "valid part leaks: user 'u00': targets are in the training"),
        ("time", "train reaches the targets", "targets are in the training part"),
        ("leave-one-out", "order", "the target is not before the test target"),
        ("user-holdout", "order", "the user is in the test part too"),
        ("user-holdout", "history in train", "events are in the training part"),
        ("time", "cuts moved", "a target lies before the cut"),
        ("time", "cuts moved back", "the training part leaks: row 0 has events after the first cut"),
        ("time", "times lost", "a time split has no times"),
    ],
)
def test_leaks_are_found(split: str, how: str, message: str) -> None:
    log = _log({f"u{n:02d}": list(range(n % 3, 20, 2)) for n in range(20)})
    dataset = prepare(log, split=split)
    check_leakage(dataset)
    with pytest.raises(DataError, match=message):
        check_leakage(_broken(dataset, how))


def test_prepare_refuses_a_split_that_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = LeaveOneOut.apply

    def leaky(split: LeaveOneOut, events: Events) -> Parts:
        parts = apply(split, events)
        return replace(parts, train=_shifted(parts.train, stops=1))

    monkeypatch.setattr(LeaveOneOut, "apply", leaky)
    with pytest.raises(DataError, match="valid part leaks: user 'u': targets are in the training part"):
        prepare(_log({"u": [1, 2, 3], "v": [1, 2, 3]}))
