"""From log to dataset: filters, catalogue, fingerprint, degenerate input."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tesserec.data.dataset import Dataset
from tesserec.data.prepare import prepare
from tesserec.data.splits import TimeSplit, UserHoldout
from tesserec.data.world import World
from tesserec.errors import ConfigError, DataError

START = 1_704_067_200


def _frame(rows: list[tuple], *extra: str) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", *extra], orient="row")


BASIC = _frame([(u, i, START + 10 * t) for u in range(1, 4) for t, i in enumerate((5, 6, 7, 8)[: u + 1])])


def _all_events(dataset: Dataset) -> dict:
    """Items of every user in order, by id."""
    stops = dict(zip(dataset.train_users.tolist(), dataset.train.stops.tolist(), strict=True))
    stops |= dict(zip(dataset.test.users.tolist(), dataset.test.targets.stops.tolist(), strict=True))
    starts = dict(zip(dataset.train_users.tolist(), dataset.train.starts.tolist(), strict=True))
    ids = dataset.items.values
    rows = {u: dataset.train.values[starts[u] : stops[u]] for u in sorted(starts)}
    return {dataset.users.values[u]: ids.gather(row).to_list() for u, row in rows.items()}


def test_order_is_time_then_row() -> None:
    log = _frame([("u", "c", START + 5), ("v", "a", START), ("u", "b", START), ("u", "a", START), ("v", "b", START),
                  ("u", "d", START)])  # fmt: skip
    assert _all_events(prepare(log)) == {"u": ["b", "a", "d", "c"], "v": ["a", "b"]}
    assert _all_events(prepare(log.drop("timestamp"))) == {"u": ["c", "b", "a", "d"], "v": ["a", "b"]}
    assert _all_events(prepare(log, columns={"time": None})) == {"u": ["c", "b", "a", "d"], "v": ["a", "b"]}


def test_order_against_a_plain_sort_on_a_world() -> None:
    log = World.generate(users=50, items=40, interests=4, seed=3).log.sample(fraction=1, shuffle=True, seed=0)
    expected: dict[str, list[str]] = {}
    for user, item, _ in sorted(log.rows(), key=lambda row: (row[0], row[2])):
        expected.setdefault(user, []).append(item)
    assert _all_events(prepare(log)) == expected


def test_items_are_in_order_of_popularity_in_training() -> None:
    dataset = prepare(World.generate(users=200, items=60, interests=4, seed=1).log)
    counts = dataset.item_counts
    assert counts.sum() == dataset.train.lengths.sum()
    assert (np.diff(counts) <= 0).all()
    ids = dataset.items.values.to_list()
    assert all(a < b for a, b, tied in zip(ids, ids[1:], np.diff(counts) == 0, strict=False) if tied)


def test_times_lie_beside_the_events() -> None:
    dataset = prepare(BASIC.with_columns(pl.col("timestamp") * 1000 + 999))
    assert dataset.train_times.tolist() == [START + 10 * t for u in range(1, 4) for t in range(u + 1)]
    assert prepare(BASIC.with_columns(timestamp=pl.int_range(pl.len()))).train_times is None


def test_event_and_weight_filters() -> None:
    rows = [(u, i, START + i, "buy" if i % 2 else "view", float(i)) for u in range(3) for i in range(10)]
    log = _frame(rows, "event", "rating")
    dataset = prepare(log, events=["buy"], min_weight=3)
    assert all(items == [3, 5, 7, 9] for items in _all_events(dataset).values())
    assert dataset.report.dropped == {"event type": 15, "weight": 3}
    assert dataset.report.columns["event"] == "event"
    with pytest.raises(ConfigError, match=r"events names 'bye'; column 'event' of .* holds \['buy', 'view'\]"):
        prepare(log, events=["bye"])
    with pytest.raises(DataError, match="no row of the polars DataFrame passes the filters"):
        prepare(log, min_weight=99)
    with pytest.raises(DataError, match="no column that is known as the weight"):
        prepare(BASIC, min_weight=1)
    with pytest.raises(DataError, match=r"column 'rating', row 2: nan \(3 rows like it\): expected"):
        prepare(log.with_columns(rating=pl.when(pl.col("item_id") == 1).then(float("nan")).otherwise(1)), min_weight=1)


def test_rows_without_an_event_type_are_dropped_by_the_event_filter() -> None:
    rows = [(u, i, START + i, "buy" if i else None) for u in range(2) for i in range(4)]
    dataset = prepare(_frame(rows, "event"), events=["buy"])
    assert dataset.report.dropped == {"event type": 2}
    assert len(dataset.train.values) == 6


def test_what_a_filter_drops_is_not_looked_at() -> None:
    rows = [(u, i, START + i, "rate", 4.0) for u in range(2) for i in range(4)]
    rows[3:3] = [(0, None, None, "search", None), (1, 2, START + 9, "view", None)]
    log = _frame(rows, "event", "rating")
    dataset = prepare(log, events=["rate"], min_weight=3)
    assert dataset.report.dropped == {"event type": 2, "weight": 0}
    with pytest.raises(DataError, match="column 'rating', row 4: None: expected a number"):
        prepare(log.drop_nulls("item_id"), events=["rate", "view"], min_weight=3)
    bad = log.with_columns(item_id=pl.when(pl.col("rating") == 4).then(pl.col("item_id")).otherwise(None))
    with pytest.raises(DataError, match=r"column 'item_id', row 5: None: every row needs a item"):
        prepare(bad, events=["rate", "view"])


def test_repeats_and_seen_items() -> None:
    log = _frame([(u, i, START + t) for u in (1, 2) for t, i in enumerate("abacbd")])
    kept = prepare(log)
    assert (kept.exclude_seen, kept.report.repeats) == (False, 4)
    first, last = prepare(log, repeats="first"), prepare(log, repeats="last")
    assert _all_events(first)[1] == list("abcd")
    assert _all_events(last)[1] == list("acbd")
    assert (first.exclude_seen, first.report.repeats, first.report.dropped) == (True, 0, {"repeats": 4})
    assert not prepare(log, repeats="first", exclude_seen=False).exclude_seen
    with pytest.raises(ConfigError, match="exclude_seen is on, but 4 events repeat an item"):
        prepare(log, exclude_seen=True)
    with pytest.raises(ConfigError, match="repeats = 'drop'; choose 'keep', 'distinct', 'first' or 'last'"):
        prepare(log, repeats="drop")


def test_an_event_recorded_twice_is_warned_of_and_counted_once_on_demand() -> None:
    log = _frame([(u, i, START + t) for u in (1, 2) for t, i in enumerate("abac")])
    twice = pl.concat([log, log])
    warned = prepare(twice)
    assert any("8 events have the user, item and time of another one" in line for line in warned.report.lines())
    assert _all_events(warned)[1] == list("aabbaacc")
    once = prepare(twice, repeats="distinct")
    assert _all_events(once)[1] == list("abac")
    assert (once.exclude_seen, once.report.dropped, once.report.warnings) == (False, {"duplicates": 8}, [])
    assert any(line == "seen items       kept in answers; --repeats first or last leaves them out"
               for line in once.report.lines())  # fmt: skip
    assert prepare(log).report.warnings == []
    with pytest.raises(ConfigError, match="'distinct' needs times"):
        prepare(log.drop(log.columns[2]), repeats="distinct")


def test_minimum_counts_hold_for_both_sides() -> None:
    log = World.generate(users=80, items=60, interests=4, seed=0, mean_length=12).log
    dataset = prepare(log, min_user_events=8, min_item_events=9)
    events = _all_events(dataset)
    counts = Counter(item for row in events.values() for item in row)
    assert min(map(len, events.values())) >= 8
    assert min(counts.values()) >= 9
    assert set(counts) == set(dataset.items.values)
    assert (len(events), len(counts)) < (80, 60)
    assert dataset.report.dropped == {"minimum counts": len(log) - len(dataset.train.values)}
    with pytest.raises(DataError, match="no event is left after min_user_events = 99 and min_item_events = 0, 9"):
        prepare(BASIC, min_user_events=99)
    with pytest.raises(ConfigError, match="min_user_events = -1; expected 0 or more"):
        prepare(log, min_user_events=-1)


def test_items_table() -> None:
    items = pl.DataFrame({"item_id": [9, 8, 7, 6], "title": ["i", "h", "g", "f"], "genres": [["x"], ["y"], [], None]})
    dataset = prepare(BASIC, items=items)
    assert dataset.items.values.to_list()[-1] == 9  # cold, kept
    assert sorted(dataset.items.values.to_list()) == [5, 6, 7, 8, 9]
    assert dict(dataset.item_table.select("id", "title").rows()) == {5: None, 6: "f", 7: "g", 8: "h", 9: "i"}
    assert dataset.item_table["id"].to_list() == dataset.items.values.to_list()
    assert dataset.roles == {"title": "text", "genres": "multi"}
    assert dataset.report.warnings == ["1 items of the log are not in the polars DataFrame; their features are missing"]
    assert 9 not in prepare(BASIC, items=items, min_item_events=1).items.values


def test_held_out_items_stay_in_the_catalogue() -> None:
    dataset = prepare(BASIC)
    assert sorted(dataset.items.values.to_list()) == [5, 6, 7, 8]
    assert dataset.item_counts[dataset.items.encode([8])[0]] == 0
    assert dataset.report.cold_items == 2


def test_users_table() -> None:
    users = pl.DataFrame({"user_id": [3, 1, 99], "age": [30, 10, 99]})
    dataset = prepare(BASIC, users=users)
    assert dataset.user_table.rows() == [(1, 10), (2, None), (3, 30)]


def test_tables_in_text_files(tmp_path: Path) -> None:
    log, items = tmp_path / "log.csv", tmp_path / "items.tsv"
    BASIC.write_csv(log)
    items.write_text("movieId\ttitle\tgenres\tyear\tscore\n5\tA\tx|y\t1990\t1.5\n6\tB\tx\t1991\tnan\n")
    dataset = prepare(log, items=items, roles={"genres": "multi", "title": "text"})
    assert dataset.item_table.schema["id"] == pl.Int64
    row = dataset.item_table.row(by_predicate=pl.col("id") == 5, named=True)
    assert row == {"id": 5, "title": "A", "genres": ["x", "y"], "year": 1990, "score": 1.5}
    assert dataset.roles == {"title": "text", "genres": "multi", "year": "numeric", "score": "numeric"}


def test_text_that_looks_like_numbers_keeps_its_form(tmp_path: Path) -> None:
    log, items = tmp_path / "log.csv", tmp_path / "items.csv"
    BASIC.with_columns(item_id="x" + pl.col("item_id").cast(pl.String)).write_csv(log)
    items.write_text("item,zip,edition,price\n1931103628,00501,1.10,1.10\nx5,10001,2.0,2.5\n")
    dataset = prepare(log, items=items, roles={"edition": "categorical"})
    assert dataset.item_table.schema["id"] == pl.String
    row = dataset.item_table.row(by_predicate=pl.col("id") == "1931103628", named=True)
    assert row == {"id": "1931103628", "zip": "00501", "edition": "1.10", "price": 1.1}
    items.write_text("item,price\n1931103628,1.10\n")
    assert "1931103628" in prepare(log, items=items).items.values


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"item_id": [5, 6, 5], "a": [1, 2, 3]}, r"column 'item_id': id 5 is in rows \[1, 3\]; ids must be unique"),
        ({"item_id": [5, None]}, "column 'item_id', row 2: None: every row needs a item"),
        ({"item_id": ["5", "6"]}, "has ids of type String such as '5', expected Int64 such as 5; give both one type"),
        ({"thing": [5, 6]}, r"no column that is known as the item; it has \['thing'\]"),
        ({"item_id": [5, 6], "id": [5, 6]}, "the columns 'item_id' and 'id'; rename or drop one"),
        ({"item_id": [5, 6], "v": [[1.0], [1.0, 2.0]]}, "column 'v', item 6: vector of length 2, expected 1"),
    ],
)
def test_bad_items_tables(items: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare(BASIC, items=pl.DataFrame(items))


def test_ids_of_another_width_fit() -> None:
    items = pl.DataFrame({"item_id": pl.Series([5, 6], dtype=pl.Int16), "title": ["a", "b"]})
    dataset = prepare(BASIC, items=items)
    assert dataset.items.values.dtype == pl.Int64
    assert dataset.item_table.drop_nulls().height == 2
    with pytest.raises(DataError, match="id 300 does not fit the log's ids, UInt8"):
        prepare(BASIC.with_columns(pl.col("item_id").cast(pl.UInt8)), items=pl.DataFrame({"item_id": [300]}))


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (_frame([(1, i, i) for i in range(5)]), "one user after the filters; at least two"),
        (_frame([(u, 1, t) for u in range(3) for t in range(5)]), "one item after the filters; at least two"),
        (_frame([(u, u, u) for u in range(9)]), "the valid part of split 'leave-one-out' would be empty: 9 users"),
        (BASIC.drop("item_id"), "no column that is known as the item"),
        (BASIC.with_columns(user_id=None), "row 1: None .9 rows like it.: every row needs a user"),
    ],
)
def test_degenerate_logs(log: pl.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare(log)


def test_too_few_users_for_a_holdout() -> None:
    with pytest.raises(DataError, match=r"part of split 'user-holdout' would be empty: 3 users .* at least ten users"):
        prepare(BASIC, split="user-holdout")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"itm": "x"}}, "columns names 'itm'; expected one of user, item, time"),
        ({"roles": {"x": "text"}}, "without an items table"),
        ({"columns": {"time": None}, "time_kind": "seconds"}, "time_kind = 'seconds', but .* has no time column"),
        ({"split": "all"}, "split = 'all'"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(BASIC, **options)


def test_two_users_and_two_items_are_enough() -> None:
    dataset = prepare(_frame([(u, i, t) for u in (1, 2) for t, i in enumerate("aba")]))
    assert len(dataset.test.users) == 2


def test_fingerprint_depends_on_content_not_on_format(tmp_path: Path) -> None:
    log = BASIC.with_columns(pl.col("timestamp").cast(pl.Int64))
    items = pl.DataFrame({"item_id": [5, 6, 7, 8, 9], "price": [1, 2, 3, 4, 5]})
    prints = {prepare(log, items=items).fingerprint, prepare(log, items=items, out=tmp_path / "out").fingerprint}
    for suffix in (".parquet", ".csv", ".arrow"):
        paths = [tmp_path / f"{name}{suffix}" for name in ("log", "items")]
        for frame, path in zip((log, items), paths, strict=True):
            getattr(frame, {".csv": "write_csv", ".arrow": "write_ipc", ".parquet": "write_parquet"}[suffix])(path)
        prints.add(prepare(paths[0], items=paths[1]).fingerprint)
    prints.add(prepare(log.to_pandas(), items=items.to_arrow()).fingerprint)
    prints.add(prepare(log.sort("timestamp", maintain_order=True), items=items.reverse()).fingerprint)
    assert len(prints) == 1


def test_fingerprint_is_the_same_on_every_machine() -> None:
    items = pl.DataFrame({"item_id": [5, 6], "t": ["a", None], "g": [["x"], []], "v": [[1.0], None], "y": [1, 2]})
    expected = "913fb79fe653cb52bf043da3c23417c758f8ebe5fc94f3d0256212dbdb1d77d5"
    assert prepare(BASIC, items=items).fingerprint == expected


def test_fingerprint_changes_with_everything() -> None:
    log = World.generate(users=60, items=30, interests=3, seed=0).log
    items = pl.DataFrame({"item_id": log["item_id"].unique().sort(), "price": range(log["item_id"].n_unique())})
    users = pl.DataFrame({"user_id": log["user_id"].unique().sort(), "age": 3})
    first = log.row(0)
    changed_time = log.with_columns(
        timestamp=pl.when(pl.int_range(pl.len()) == 0).then(first[2] - 1).otherwise("timestamp")
    )
    renamed = log.with_columns(pl.col("item_id").replace(first[1], "zzz"))
    variants = [
        prepare(log),
        prepare(log[1:]),
        prepare(changed_time),
        prepare(renamed),
        prepare(log.with_columns(pl.col("user_id").replace(first[0], "zzz"))),
        prepare(log, repeats="first"),
        prepare(log, repeats="first", exclude_seen=False),
        prepare(log, split="user-holdout"),
        prepare(log, split=UserHoldout(1)),
        prepare(log, split="time"),
        prepare(log, split=TimeSplit((0.7, 0.9))),
        prepare(log, items=items),
        prepare(log, items=items, roles={"price": "categorical"}),
        prepare(log, items=items.with_columns(price=pl.col("price") + 1)),
        prepare(log, items=items.rename({"price": "cost"})),
        prepare(log, users=users),
    ]
    assert len({dataset.fingerprint for dataset in variants}) == len(variants)


def test_progress_and_report_lines() -> None:
    said: list[str] = []
    dataset = prepare(BASIC.drop("timestamp"), progress=said.append)
    assert said == ["checking the log", "grouping events by user", "splitting", "checking for leakage and hashing"]
    text = "\n".join(dataset.report.lines())
    for part in ("user = user_id", "rows read        9", "users            3", "warning          no time column"):
        assert part in text


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param(lambda n: n, id="dense"),
        pytest.param(lambda n: n - 10, id="negative"),
        pytest.param(lambda n: n * 1_000_003, id="sparse"),
        pytest.param(lambda n: n.cast(pl.UInt64) + 2**63, id="huge"),
        pytest.param(lambda n: n.cast(pl.String).str.zfill(9), id="text"),
    ],
)
def test_rows_keep_their_order_through_many_chunks(ids) -> None:
    rows = 300_000
    users = np.random.default_rng(0).integers(0, 50, rows)
    log = pl.DataFrame({"user": users, "item": range(rows)}).with_columns(ids(pl.col("user", "item")))
    dataset = prepare(log)
    expected = log.group_by("user", maintain_order=True).agg("item").sort("user")
    assert dataset.users.values.to_list() == expected["user"].to_list()
    ends = dataset.test.targets.stops
    for start, stop, items in zip(dataset.test.histories.starts, ends, expected["item"], strict=True):
        assert dataset.items.decode(dataset.train.values[start:stop]).equals(items)


REAL = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real logs beside the repository")
@pytest.mark.parametrize(
    ("name", "users", "items", "events", "repeats", "kind"),
    [
        ("ml-100k", 943, 1682, 100_000, 0, "seconds"),
        ("amazon-beauty", 22_363, 12_101, 198_502, 0, "order"),
        ("ciao", 7375, 105_114, 284_086, 1436, "seconds"),
        ("globo-news", 322_897, 46_033, 2_988_181, 37_471, "seconds"),
    ],
)
def test_real_logs(name: str, users: int, items: int, events: int, repeats: int, kind: str) -> None:
    folder = REAL / name
    report = prepare(folder / "interactions.parquet", items=folder / "items.parquet").report
    assert (report.users, report.items, report.events, report.repeats) == (users, items, events, repeats)
    assert report.time_kind == kind
