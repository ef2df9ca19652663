"""Ids of every type come back as they were."""

import uuid
from datetime import date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.data.ids import IdMap
from tesserec.data.prepare import prepare
from tesserec.errors import DataError

IDS = [
    *(pl.Series([3, 1, 2], dtype=t) for t in (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt32, pl.UInt64)),
    pl.Series([2**63 - 1, -(2**63), 0]),
    pl.Series(["b", "007", "ä \U0001f600"]),
    pl.Series([b"\x00\xff", b"a", b""]),
    pl.Series([1.0, 2.0, 3e9]),
    pl.Series([date(2024, 1, 2), date(1969, 1, 1), date(2000, 2, 29)]),
    pl.Series([datetime(2024, 1, 2, 3, 4, 5, 6), datetime(1969, 1, 1), datetime(2000, 2, 29)]),
    pl.Series([True, False]),
]


@pytest.mark.parametrize("ids", IDS, ids=lambda ids: str(ids.dtype))
@pytest.mark.parametrize("column", ["user", "item"])
def test_every_type_survives_prepare_and_open(ids: pl.Series, column: str, tmp_path) -> None:
    other = "item" if column == "user" else "user"
    rows = [(value, n) for value in ids for n in range(5)] if column == "user" else None
    rows = rows or [(value, n) for n in range(5) for value in [*ids, *ids]]
    log = pl.DataFrame(
        {column: pl.Series([value for value, _ in rows], dtype=ids.dtype), other: [f"x{n}" for _, n in rows]}
    )
    dataset = prepare(log, out=tmp_path / "dataset")
    ids_map = dataset.users if column == "user" else dataset.items
    assert ids_map.values.dtype == ids.dtype
    assert set(ids_map.values.to_list()) == set(ids.to_list())
    assert ids_map.decode(ids_map.encode(ids.to_list())).to_list() == ids.to_list()


def test_categories_and_uuids_are_strings() -> None:
    import pandas as pd

    ids = [uuid.UUID(int=n) for n in range(3)]
    frame = pd.DataFrame({"user": ids * 3, "item": pd.Categorical(list("aaabbbccc"))})
    dataset = prepare(frame)
    assert dataset.users.values.to_list() == [str(i) for i in ids]
    assert dataset.users.encode(ids).tolist() == [0, 1, 2]
    assert dataset.items.values.dtype == pl.String


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=5), unique=True), st.lists(st.text(max_size=5)))
def test_encode_and_decode_are_inverse(known: list[str], asked: list[str]) -> None:
    ids = IdMap(pl.Series(known, dtype=pl.String))
    codes = ids.encode(asked)
    assert codes.dtype == np.int32
    assert ids.decode(codes).to_list() == [value if value in known else None for value in asked]
    assert ids.take(codes[codes >= 0]) == [value for value in asked if value in known]


@pytest.mark.parametrize(
    ("values", "message"), [([1, None], "1 nulls"), (["a", "b", "a"], "id 'a' occurs more than once")]
)
def test_bad_ids_are_refused(values: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        IdMap(pl.Series(values))


def test_a_list_is_no_id() -> None:
    with pytest.raises(DataError, match="single values such as 'a'"):
        IdMap(pl.Series(["a"])).encode([["a"]])


@pytest.mark.parametrize(
    ("ids", "text", "value"),
    [
        (["a"], "a", "a"),
        ([1], "12", 12),
        ([1.0], "12", 12.0),
        ([True], "False", False),
        ([date(2024, 1, 1)], "2024-02-03", date(2024, 2, 3)),
        ([datetime(2024, 1, 1)], "2024-02-03T04:05:06", datetime(2024, 2, 3, 4, 5, 6)),
        ([b"a"], "b", b"b"),
    ],
)
def test_parse_gives_the_type_of_the_ids(ids: list, text: str, value: object) -> None:
    parsed = IdMap(pl.Series(ids)).parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("ids", [[1], [1.0], [True], [date(2024, 1, 1)]])
def test_parse_names_what_was_typed(ids: list) -> None:
    with pytest.raises(DataError, match="'abc'"):
        IdMap(pl.Series(ids)).parse("abc")
