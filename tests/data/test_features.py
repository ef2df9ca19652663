"""Roles and feature arrays."""

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tesserec.data.features import FILE, ItemFeatures
from tesserec.data.roles import recognise_roles
from tesserec.errors import ArtefactError, ConfigError, DataError

TABLE = pl.DataFrame(
    {
        "id": [7, 8, 9, 10],
        "title": ["A", "B", "C", "D"],
        "brand": ["x", "y", None, "x"],
        "genre_id": [3, 1, 3, None],
        "adult": [True, None, False, True],
        "genres": [["b", "a"], [], None, ["c", None]],
        "price": [1.0, 3.0, None, float("nan")],
        "year": [1990, 2000, 2010, 2020],
        "released": [date(2000, 1, 1), None, date(2000, 1, 3), date(2000, 1, 2)],
        "vector": [[1.0, 2.0], None, [3.0, 4.0], [5.0, 6.0]],
        "fixed": pl.Series([[1.0], [2.0], [3.0], [4.0]], dtype=pl.Array(pl.Float32, 1)),
    }
)


def _features(table: pl.DataFrame = TABLE, **given: str) -> ItemFeatures:
    return ItemFeatures.from_table(table, recognise_roles(table, given))


def test_roles_are_recognised() -> None:
    assert recognise_roles(TABLE, {"brand": "categorical"}) == {
        "title": "text", "brand": "categorical", "genre_id": "categorical", "adult": "categorical", "genres": "multi",
        "price": "numeric", "year": "numeric", "released": "numeric", "vector": "vector", "fixed": "vector",
    }  # fmt: skip
    many = pl.DataFrame({"id": range(10), "brand": ["x", "y"] * 5, "asin": [f"B{n}" for n in range(10)]})
    assert recognise_roles(many) == {"brand": "categorical", "asin": "text"}


def test_arrays() -> None:
    features = _features(brand="categorical")
    assert len(features) == 4
    assert features.categorical["brand"].tolist() == [1, 2, 0, 1]
    assert features.categorical["genre_id"].tolist() == [2, 1, 2, 0]
    assert features.categorical["adult"].tolist() == [2, 0, 1, 2]
    assert [row.tolist() for row in features.multi["genres"]] == [[2, 1], [], [], [3]]
    assert features.sizes == {"brand": 3, "genre_id": 3, "adult": 3, "genres": 4}
    assert features.numeric.dtype == np.float32
    price, year, released = features.numeric.T[:3]
    assert price.tolist() == [-1, 1, 0, 0]
    assert year == pytest.approx((np.arange(4) - 1.5) / np.std(np.arange(4)))
    assert released == pytest.approx(np.array([-1, 0, 1, 0]) / np.std([0, 1, 2]))
    assert features.numeric[:, 3:].tolist() == [[0, 0], [0, 1], [1, 0], [1, 0]]
    assert features.vector.tolist() == [[1, 2, 1], [0, 0, 2], [3, 4, 3], [5, 6, 4]]


def test_vocabularies_do_not_depend_on_the_order_of_rows() -> None:
    turned = _features(TABLE.reverse(), brand="categorical")
    assert turned.categorical["brand"].tolist() == [1, 0, 2, 1]


def test_save_and_open(tmp_path: Path) -> None:
    features = _features(brand="categorical")
    features.save(tmp_path)
    opened = ItemFeatures.open(tmp_path)
    assert opened.sizes == features.sizes
    assert all((opened.categorical[name] == codes).all() for name, codes in features.categorical.items())
    assert [row.tolist() for row in opened.multi["genres"]] == [row.tolist() for row in features.multi["genres"]]
    assert (opened.numeric == features.numeric).all()
    assert (opened.vector == features.vector).all()
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-5])
    with pytest.raises(ArtefactError, match=FILE):
        ItemFeatures.open(tmp_path)


def test_a_table_of_ids_alone() -> None:
    features = _features(TABLE.select("id"))
    assert (features.numeric.shape, features.vector.shape) == ((4, 0), (4, 0))


@pytest.mark.parametrize("value", [19.99, 0.1, 0.0, 1e12])
def test_numbers_that_are_all_equal_have_no_scale(value) -> None:
    features = _features(pl.DataFrame({"id": range(100), "price": [value] * 100}))
    mean, deviation, _ = features.vocabulary.numbers["price"]
    assert (mean, deviation) == (pytest.approx(value), 1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0, 2.0], [1.0]], "column 'v', item 2: vector of length 1, expected 2 as in item 1"),
        ([[1.0, 2.0], [1.0, float("nan")]], "column 'v', item 2: the vector holds NaN"),
        ([[1.0, 2.0], [1.0, None]], "column 'v', item 2: the vector holds NaN, null"),
        ([[float("inf"), 2.0], None], "column 'v', item 1: the vector holds NaN, null or an infinite"),
        ([1.0, float("inf")], "column 'v', item 2: inf; numbers must be finite"),
    ],
)
def test_bad_numbers_are_named(values, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _features(pl.DataFrame({"id": [1, 2], "v": values}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prise": "numeric"}, "roles names 'prise'; the table has the columns"),
        ({"price": "number"}, r"roles\['price'\] = 'number'; choose one of categorical, multi"),
        ({"price": "multi"}, r"roles\['price'\] = 'multi' does not fit its type Float64; choose numeric"),
    ],
)
def test_bad_roles(given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recognise_roles(TABLE, given)


def test_useless_types_are_named() -> None:
    with pytest.raises(DataError, match="column 's' of the items or users table is Struct"):
        recognise_roles(pl.DataFrame({"id": [1], "s": [{"a": 1}]}))
