"""Answers on the users' own ids."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest

from tesserec.errors import ConfigError, DataError, UserError
from tesserec.index.catalogue import Catalogue
from tesserec.index.contract import Policy
from tesserec.index.names import name_interests
from tesserec.index.postings import EveryItem, VectorPostings
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import ConstantSide, HistorySide
from tests.index.world import AllScores, catalogue, searcher, world


def item_knn(size=6):
    codes, items = np.nonzero(~np.eye(size, dtype=bool) & (np.arange(size) < 3)[:, None])
    scores = (codes * 10 + items).astype(np.float32)
    lists = ScorePostings.build(codes, items, scores, n_codes=size, size=size, keyed_by_item=True)
    return Searcher(catalogue(size), HistorySide(), lists, Policy())


def popularity(size=6):
    lists = ScorePostings.build(
        np.zeros(size, int), np.arange(size), np.arange(size, 0, -1, dtype=np.float32), n_codes=1, size=size
    )
    return Searcher(catalogue(size), ConstantSide(), lists, Policy())


def test_answers_agree_with_indices():
    asked = searcher(1)
    found = asked.recommend([["i5", "i9"], ["i3"]], 7, explore=0.3)
    encoded, unknown = asked.encode([["i5", "i9"], ["i3"]])
    assert unknown == []
    raw = asked.retrieve(encoded, 7, Policy(explore=0.3))
    assert found["item"].to_list() == [f"i{i}" for i in raw.items.ravel()]
    assert found["score"].to_list() == raw.scores.ravel().tolist()
    assert found["interest"].to_list() == raw.interests.ravel().tolist()
    assert found["explored"].to_list() == raw.explored.ravel().tolist()
    assert found["user"].to_list() == [0] * 7 + [1] * 7
    assert found["rank"].to_list() == [*range(1, 8)] * 2
    columns = ["user", "rank", "item", "score", "interest", "probability", "explored", "propensity", "new"]
    assert found.columns == columns


@pytest.mark.parametrize("ids", [[10 * i for i in range(6)], [f"x{i}" for i in range(6)], [i / 2 for i in range(6)]])
def test_ids_keep_their_type(ids):
    lists = popularity().postings
    asked = Searcher(catalogue(6, ids), ConstantSide(), lists, Policy())
    found = asked.recommend([[ids[2]]], 3)
    assert found["item"].to_list() == [ids[0], ids[1], ids[3]]
    assert found["item"].dtype == pl.Series(ids).dtype


def test_models_without_interests_say_null():
    found = popularity().recommend([["i0"]], 10)
    assert found["item"].to_list() == ["i1", "i2", "i3", "i4", "i5"]
    assert found["interest"].null_count() == found["probability"].null_count() == 5
    assert found["interest"].dtype == pl.Int32
    assert popularity().recommend([["i0"]], 1, exclude_seen=False)["item"].to_list() == ["i0"]
    with pytest.raises(ConfigError, match="no interests"):
        popularity().interests([["i0"]])
    with pytest.raises(ConfigError, match="no interests"):
        popularity().recommend([["i0"]], explore=0.5)
    assert popularity().names is None
    assert popularity().cells is None


def test_unknown_ids_are_skipped_and_reported():
    asked = searcher(1)
    histories, unknown = asked.encode([["i5", "nobody", "i9"], ["i3", "nobody", "else"]])
    assert [row.tolist() for row in histories] == [[5, 9], [3]]
    assert unknown == ["nobody", "else"]
    assert asked.recommend([["i5", "nobody"]], 3).equals(asked.recommend([["i5"]], 3))


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ([[]], "history 0 is empty"),
        ([["i1"], ["a", "b"]], "history 1: none of its 2 items.*first: 'a'.*String"),
        (["i1"], "history 0 is 'i1'"),
        ([3], "history 0 is 3"),
        ([[["i1"]]], "history 0: ids must be single values"),
    ],
)
def test_histories_that_cannot_be_used_are_refused(histories, message):
    with pytest.raises(DataError, match=message):
        searcher().recommend(histories)


def test_settings_are_checked():
    asked = searcher()
    for setting in ({"explore": 1.5}, {"visit": -1}, {"interests": 0}, {"merge": "mean"}, {"k": 0}):
        with pytest.raises(ConfigError):
            asked.recommend([["i1"]], **setting)
    assert len(asked.recommend([["i1"]], k=1000)) == 59
    assert len(asked.recommend([], k=5)) == 0


def test_interests_fall_and_are_named():
    asked = searcher(4)
    found = asked.interests([["i1", "i2"]], 100)
    assert len(found) == asked.postings.cells
    assert found["probability"].is_sorted(descending=True)
    assert found["probability"].sum() == pytest.approx(1, abs=1e-6)
    known = {int(asked.postings.cell_of[i]) for i in (1, 2)}
    assert set(found.filter("known")["interest"]) == known
    names = dict(asked.names.select("interest", "name").iter_rows())
    assert found["name"].to_list() == [names[i] for i in found["interest"]]


def test_slots_are_no_interests_that_users_share():
    side, postings = world(4, slots=3)
    asked = Searcher(catalogue(60), side, postings, Policy(interests=3))
    assert (asked.has_interests, asked.names, asked.cells) == (False, None, None)
    assert set(asked.recommend([["i1"], ["i2"]], 20)["interest"]) == {0, 1, 2}
    with pytest.raises(ConfigError, match="no interests that users share"):
        asked.interests([["i1"]])


def test_scores_of_every_item_need_no_index():
    asked = Searcher(catalogue(4), AllScores(np.array([[0, 3, 3, 9]] * 4)), EveryItem(4), Policy())
    assert asked.recommend([["i3"]], 2)["item"].to_list() == ["i1", "i2"]
    assert (asked.has_interests, asked.names, asked.cells) == (False, None, None)
    with pytest.raises(UserError, match="does not compare items"):
        asked.similar_items(["i1"])
    with pytest.raises(ConfigError, match="no interests"):
        asked.interests([["i1"]])


def test_similar_items_by_cosine():
    asked = searcher(2)
    vectors = asked.postings.vectors_of(np.arange(60)).astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = asked.similar_items(["i7", "i0"], 5)
    for item in (7, 0):
        cosine = unit @ unit[item]
        cosine[item] = -9
        rows = found.filter(item=f"i{item}")
        assert rows["similar"].to_list() == [f"i{i}" for i in np.argsort(-cosine)[:5]]
        np.testing.assert_allclose(rows["score"], np.sort(cosine)[::-1][:5], rtol=1e-5)
    with pytest.raises(DataError, match="'nobody' is not in the catalogue"):
        asked.similar_items(["nobody"])
    with pytest.raises(ConfigError, match="k = 0"):
        asked.similar_items(["i0"], 0)


def test_similar_items_by_lists():
    found = item_knn().similar_items(["i1", "i5"], 2)
    assert found.rows() == [("i1", 1, "i5", 15.0), ("i1", 2, "i4", 14.0)]
    with pytest.raises(UserError, match="does not compare items"):
        popularity().similar_items(["i1"])


def test_threads_share_a_searcher():
    asked = searcher(6, items=300, cells=20)
    alone = [asked.recommend([[f"i{i}"]], 20, explore=0.2) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: asked.recommend([[f"i{i}"]], 20, explore=0.2), range(40)))
    assert all(a.equals(b) for a, b in zip(alone, together, strict=True))


def test_parts_that_do_not_fit_are_refused():
    side, postings = world()
    with pytest.raises(ConfigError, match="60 items, the catalogue 59"):
        Searcher(catalogue(59), side, postings, Policy())
    with pytest.raises(ConfigError, match="ConstantSide goes with ScorePostings, not with VectorPostings"):
        Searcher(catalogue(60), ConstantSide(), postings, Policy())


def test_names_tell_categories_and_typical_items():
    vectors = np.array([[1, 0], [0.9, 0.1], [1, 0.3], [0, 1], [0.1, 1], [9, 9]], np.float32)
    table = pl.DataFrame(
        {
            "id": [f"i{i}" for i in range(6)],
            "title": ["cod", None, "tit", "owl", "elk", "hen"],
            "kind": ["fish", "fish", "bird", "bird", None, "bird"],
            "tags": [["wet"], ["wet", "big"], [], None, ["big"], ["big"]],
            "year": [1, 1, 2, 2, 2, 2],
        }
    )
    roles = {"title": "text", "kind": "categorical", "tags": "multi", "year": "categorical"}
    shown = Catalogue(catalogue(6).items, table, roles, True, np.array([9, 8, 7, 3, 2, 1]))
    names = name_interests(shown, VectorPostings.build(vectors, np.array([0, 0, 0, 1, 1, 1]), 3))
    assert names["items"].to_list() == [3, 3, 0]
    assert names["traffic"].to_list() == [24, 6, 0]
    assert names["typical"].to_list() == [["i1", "cod"], ["elk", "owl"], []]
    assert names["categories"].to_list()[0] == ["fish", "wet"]
    assert names["categories"].to_list()[1] == ["big", "bird"]
    assert names["name"].to_list() == ["fish, wet: i1", "big, bird: elk", "(no items)"]


def test_catalogue_round_trip(tmp_path):
    shown = catalogue(4, [5, 6, 7, 8], title=["a", "b", None, "d"])
    shown.save(tmp_path)
    opened = Catalogue.open(tmp_path)
    assert opened.table.equals(shown.table)
    assert opened.items.values.equals(shown.items.values)
    assert (opened.roles, opened.exclude_seen, opened.counts.tolist()) == (shown.roles, True, [4, 3, 2, 1])
    assert opened.titles.to_list() == ["a", "b", "7", "d"]


def test_words_name_interests_and_numbers_only_where_there_are_no_words():
    vectors = np.eye(2, dtype=np.float32)[[0, 0, 0, 1, 1, 1]]
    postings = VectorPostings.build(vectors, np.array([0, 0, 0, 1, 1, 1]), 2)
    numbers = [7, 7, 7, 9, 9, 9]
    both = name_interests(catalogue(6, code=numbers, kind=["tea"] * 3 + ["rum"] * 3), postings)
    assert both["categories"].to_list() == [["tea"], ["rum"]]
    assert name_interests(catalogue(6, code=numbers), postings)["categories"].to_list() == [["code 7"], ["code 9"]]
