"""Ids in mapped files give what ids in memory give."""

import uuid
from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.data.ids import IdMap
from tesserec.errors import ArtefactError, DataError
from tesserec.index.catalogue import Catalogue
from tesserec.index.stored_ids import LaterIds, StoredIds, save_ids

TEXTS = st.lists(st.text(max_size=4), unique=True, min_size=1, max_size=20)
NUMBERS = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, min_size=1, max_size=20)
STRANGE = [None, 1, True, 2.0, 2.5, float("nan"), float("inf"), 10**30, "1", b"1", date(2024, 1, 1), uuid.UUID(int=1)]


def stored(ids, folder):
    save_ids(folder, ids)
    return StoredIds(folder, ids.dtype, lambda: ids)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.one_of(TEXTS, NUMBERS), st.lists(st.one_of(st.text(max_size=4), st.integers()), max_size=8))
def test_stored_ids_equal_ids_in_memory(tmp_path_factory, known, asked):
    series = pl.Series("id", known)
    ids, plain = stored(series, tmp_path_factory.mktemp("ids")), IdMap(series)
    asked = [*known, *asked, *STRANGE]
    assert ids.encode(asked).tolist() == plain.encode(asked).tolist()
    places = np.array([*range(len(known)), -1, 0])
    assert ids.decode(places).to_list() == plain.decode(places).to_list()
    assert ids.take(places[:-2]) == plain.take(places[:-2])
    assert (len(ids), ids.dtype, ids.example) == (len(plain), plain.dtype, plain.example)
    assert ids.encode([]).tolist() == []


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt8, pl.Int16, pl.UInt32, pl.Int64, pl.UInt64])
def test_integers_of_every_width(tmp_path, dtype):
    series = pl.Series("id", [3, 1, 120], dtype=dtype)
    ids = stored(series, tmp_path)
    assert ids.encode([120, 1, 3, 2, -1, 2**64]).tolist() == [2, 1, 0, -1, -1, -1]
    assert ids.decode(np.array([2, -1])).equals(pl.Series("id", [120, None], dtype=dtype))


def test_many_are_decoded_at_once(tmp_path):
    series = pl.Series("id", [f"i{n}" for n in range(50)])
    places = np.tile(np.arange(50), 400)
    assert stored(series, tmp_path).decode(places).equals(series.gather(places))


def test_a_list_is_no_id(tmp_path):
    with pytest.raises(DataError, match="single values such as 'a'"):
        stored(pl.Series("id", ["a"]), tmp_path).encode([["a"]])


def test_files_that_do_not_go_together_are_refused(tmp_path):
    save_ids(tmp_path, pl.Series("id", ["a", "b"]))
    np.save(tmp_path / "id_order.npy", np.zeros(3, "<i4"))
    with pytest.raises(ArtefactError, match="does not go with"):
        StoredIds(tmp_path, pl.String(), lambda: pl.Series())


@pytest.mark.parametrize("base", [["a", "b"], [1, 5]])
def test_later_ids_follow_the_base(tmp_path, base):
    more = [str(n) for n in base] if isinstance(base[0], int) else ["c", "d", "e"]
    series = pl.Series("id", base)
    later = pl.Series("id", [7, 8, 9] if isinstance(base[0], int) else more)
    ids = LaterIds(stored(series, tmp_path), later, gone={3})
    everything = [*base, *later.to_list()]
    assert ids.encode(everything).tolist() == [0, 1, 2, -1, 4]
    assert ids.decode(np.array([4, 0, -1, 3])).to_list() == [everything[4], everything[0], None, everything[3]]
    assert ids.values.to_list() == everything
    assert ids.take(np.array([4, 0])) == [everything[4], everything[0]]
    assert ids.take(np.array([1, 0])) == [everything[1], everything[0]]
    assert (len(ids), ids.dtype) == (5, series.dtype)


@pytest.mark.parametrize("ids", [pl.Series("id", [date(2024, 1, n) for n in (1, 2)]), pl.Series("id", [1.0, 2.0])])
def test_other_types_are_read_from_the_table(tmp_path, ids):
    whole = Catalogue(IdMap(ids), pl.DataFrame({"id": ids}), {}, True, np.array([3, 4]))
    whole.save(tmp_path)
    opened = Catalogue.open(tmp_path)
    assert opened.items.encode(ids.to_list()).tolist() == [0, 1]
    assert opened.counts.tolist() == [3, 4]
    assert opened.table.equals(whole.table)
