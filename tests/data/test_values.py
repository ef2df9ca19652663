"""Columns by name and values by kind: what is accepted, and what is named when it is refused."""

from datetime import date, datetime, timezone
from pathlib import Path

import polars as pl
import pytest

from tesserec.data.columns import NAMES, find_column
from tesserec.data.tables import read_table
from tesserec.data.values import id_values, number_values, time_values
from tesserec.errors import ConfigError, DataError

EARLY = datetime(2024, 5, 31, 8, 0, 1, tzinfo=timezone.utc)
SECONDS = int(EARLY.timestamp())


def _table(values, dtype=None):
    return read_table(pl.DataFrame({"c": pl.Series(values, dtype=dtype)}))


def _csv(tmp_path: Path, values: list[str]):
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["c,d", *(f"{value},x" for value in values)]) + "\n")
    return read_table(path)


@pytest.mark.parametrize(
    ("what", "columns", "found"),
    [
        ("user", ["userId", "movieId", "rating", "timestamp"], "userId"),
        ("item", ["userId", "movieId", "rating", "timestamp"], "movieId"),
        ("user", ["user_id:token", "item_id:token", "timestamp:float"], "user_id:token"),
        ("time", ["user_id:token", "item_id:token", "timestamp:float"], "timestamp:float"),
        ("user", ["session_id", "user_id"], "user_id"),
        ("user", ["session_id", "x"], "session_id"),
        ("user", ["visitorid", "event", "itemid"], "visitorid"),
        ("event", ["visitorid", "event", "itemid"], "event"),
        ("item", ["reviewerID", "asin", "unixReviewTime"], "asin"),
        ("time", ["reviewerID", "asin", "unixReviewTime"], "unixReviewTime"),
        ("item", ["item_id", "asin", "title"], "item_id"),
        ("item", ["t_dat", "customer_id", "article_id"], "article_id"),
        ("time", ["t_dat", "customer_id", "article_id"], "t_dat"),
    ],
)
def test_recognised_names(what: str, columns: list[str], found: str) -> None:
    assert find_column(what, columns, "log", {}, required=True) == found


def test_given_names_win_and_errors_name_the_option() -> None:
    columns = ["user_id", "userid", "thing"]
    assert find_column("user", columns, "log", {"user": "thing"}, required=True) == "thing"
    assert find_column("time", ["time"], "log", {"time": None}, required=False) is None
    with pytest.raises(DataError, match=r"each of \['user_id', 'userid'\] could be the user; pass columns=\{'user'"):
        find_column("user", columns, "log", {}, required=True)
    with pytest.raises(DataError, match=r"no column that is known as the item; it has \['user_id', 'userid'"):
        find_column("item", columns, "log", {}, required=True)
    with pytest.raises(DataError, match="log has no column 'itm' for the item"):
        find_column("item", columns, "log", {"item": "itm"}, required=True)
    assert find_column("weight", columns, "log", {}, required=False) is None


def test_a_name_means_one_thing() -> None:
    names = [name for ranks in NAMES.values() for rank in ranks for name in rank]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ([1, None, 2, None], None, r"column 'c', row 2: None \(2 rows like it\): every row needs a user"),
        ([1.0, float("nan")], None, "column 'c', row 2: nan: every row needs a user"),
        ([1.0, 2.5], None, "column 'c', row 2: 2.5: a user id cannot be a fraction"),
        ([1.0, float("inf")], None, "column 'c', row 2: inf"),
        ([[1], [2]], None, r"column 'c' is List\(Int64\); ids must be"),
        ([None, None], pl.Null, "row 1: None"),
    ],
)
def test_bad_ids(values, dtype, message: str) -> None:
    with pytest.raises(DataError, match=message):
        id_values(_table(values, dtype), "c", "user")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "20", "-3"], [1, 20, -3]),
        (["1", "007"], ["1", "007"]),
        (["1", "a"], ["1", "a"]),
        (["1", "1.0"], ["1", "1.0"]),
        (["9999999999999999999", "1"], ["9999999999999999999", "1"]),
    ],
)
def test_ids_in_text_files_become_integers_only_if_nothing_is_lost(values, expected, tmp_path: Path) -> None:
    table = _csv(tmp_path, values)
    assert table.collect(id_values(table, "c", "user"))["c"].to_list() == expected


def test_a_missing_id_in_a_file_is_named_by_file_and_row(tmp_path: Path) -> None:
    for n, rows in enumerate(("a\nb\n", "c\nnan\n")):
        (tmp_path / f"{n}.csv").write_text(f"c\n{rows}")
    with pytest.raises(DataError, match=r"1\.csv, column 'c', row 2: None"):
        id_values(read_table(tmp_path), "c", "item")


def test_numbers(tmp_path: Path) -> None:
    table = _csv(tmp_path, ["1", "2.5"])
    assert table.collect(number_values(table, "c"))["c"].to_list() == [1.0, 2.5]
    with pytest.raises(DataError, match=r"log\.csv, column 'c', row 2: 'good': expected a number"):
        number_values(_csv(tmp_path, ["1", "good"]), "c")
    with pytest.raises(DataError, match="row 2: nan: expected a number"):
        number_values(_table([1.0, float("nan")]), "c")
    with pytest.raises(DataError, match="is Date; expected numbers"):
        number_values(_table([date(2024, 1, 1)]), "c")


@pytest.mark.parametrize(
    ("values", "kind", "seconds"),
    [
        ([SECONDS, SECONDS + 1], "seconds", SECONDS),
        ([SECONDS * 1000 + 5], "milliseconds", SECONDS),
        ([SECONDS * 10**6 + 5], "microseconds", SECONDS),
        ([SECONDS * 10**9 + 5], "nanoseconds", SECONDS),
        ([SECONDS + 0.25], "seconds", SECONDS),
        ([SECONDS * 1000.0], "milliseconds", SECONDS),
        ([EARLY.replace(tzinfo=None)], "datetime", SECONDS),
        ([EARLY], "datetime", SECONDS),
        ([date(2024, 5, 31)], "datetime", SECONDS - 8 * 3600 - 1),
        (["2024-05-31T08:00:01Z", "2024-05-31"], "datetime", SECONDS),
        (["2024-05-31 08:00:01"], "datetime", SECONDS),
        (["2024-05-31T10:00:01.5+02:00"], "datetime", SECONDS),
        (["2024-05-31T08:00"], "datetime", SECONDS - 1),
        ([str(SECONDS)], "seconds", SECONDS),
        ([f"{SECONDS}.5"], "seconds", SECONDS),
    ],
)
def test_times_and_their_units(values, kind: str, seconds: int) -> None:
    table = _table(values)
    times = time_values(table, "c")
    assert times.kind == kind
    assert table.collect(times.key.alias("k"))["k"][0] // times.per_second == seconds


def test_fractions_of_seconds_keep_their_order() -> None:
    table = _table([SECONDS + 0.75, SECONDS + 0.25])
    keys = table.collect(time_values(table, "c").key.alias("k"))["k"]
    assert keys[0] - keys[1] == 500_000


@pytest.mark.parametrize("values", [[0, 1, 2, 1], [5.0, 2.5], ["0", "1"]])
def test_small_numbers_are_an_order(values) -> None:
    times = time_values(_table(values), "c")
    assert (times.kind, times.per_second) == ("order", 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([SECONDS, -1], "row 2: -1: times cannot be negative"),
        ([SECONDS, SECONDS, 12], "row 3: 12: most times here are seconds, this one cannot be"),
        ([SECONDS, SECONDS, SECONDS * 1000], f"row 3: {SECONDS * 1000}: most times here are seconds"),
        ([3, 4, SECONDS], r"most times here are small numbers \(an order\)"),
        ([SECONDS, None], "row 2: None: every row needs a time"),
        ([1.0, float("nan")], "row 2: nan: every row needs a time"),
        (["2024-05-31", "31/05/2024"], "row 2: '31/05/2024': expected a number or an ISO 8601 time"),
        (["12", "13", "soon"], "row 3: 'soon': expected a number or an ISO 8601 time"),
        ([date(2024, 1, 1), date(1950, 1, 1)], r"row 2: datetime\.date\(1950, 1, 1\): times before 1970"),
        (["2024-01-01", "3024-01-01"], "row 2: '3024-01-01': times before 1970 or after 2102"),
        ([True, False], "is Boolean; expected numbers, dates"),
    ],
)
def test_bad_times(values, message: str) -> None:
    with pytest.raises(DataError, match=message):
        time_values(_table(values), "c")


def test_the_unit_can_be_given() -> None:
    assert time_values(_table([12, SECONDS]), "c", "seconds").per_second == 1
    assert time_values(_table([SECONDS]), "c", "order").per_second == 0
    with pytest.raises(DataError, match="beyond the year 2102 in seconds"):
        time_values(_table([SECONDS * 1000]), "c", "seconds")
    with pytest.raises(ConfigError, match="time_kind = 'weeks'; choose one of seconds"):
        time_values(_table([1]), "c", "weeks")
