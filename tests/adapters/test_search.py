"""Answers through every engine are those of the bundle's own index."""

import numpy as np
import pytest

from tesserec.adapters.export import export
from tesserec.adapters.search import ExternalSearcher
from tesserec.data.histories import Histories
from tesserec.errors import ConfigError
from tesserec.index.contract import Policy
from tesserec.index.filters import Filter
from tests.adapters.conftest import CELLS, DENSE, ITEMS, SPARSE, publish_lists, publish_slots, publish_vectors
from tests.index.world import histories

POLICIES = [
    {},
    {"visit": 0.3, "merge": "probability"},
    {"visit": 0.3, "merge": "quota", "interests": 6},
    {"max_items": 100, "explore": 0.3},
    {"visit": 0.5, "select": "history", "shares": "equal", "merge": "quota"},
    {"visit": 0.5, "temperature": 2.0, "top_p": 0.8, "seed": 7, "repeats": 2},
]


@pytest.fixture(scope="module", params=DENSE)
def dense(request, engine, vectors):
    filled = engine(request.param)
    export(vectors, filled)
    return ExternalSearcher(vectors, filled)


@pytest.fixture(scope="module", params=SPARSE)
def sparse(request, engine, lists):
    filled = engine(request.param)
    export(lists, filled)
    return ExternalSearcher(lists, filled)


def assert_same(found, expected):
    """Equal, but that scores are float32 sums in another order, and near ties may change places."""
    for name in ("certified", "cells", "items", "mass_left"):
        np.testing.assert_array_equal(getattr(found.visits, name), getattr(expected.visits, name))
    np.testing.assert_array_equal(found.items >= 0, expected.items >= 0)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5)
    for user in range(len(found.items)):
        ours = {item: place for place, item in enumerate(expected.items[user])}
        for place, item in enumerate(found.items[user][found.items[user] >= 0]):
            there = ours[item]
            gap = 0.0 if there == place else abs(expected.scores[user, there] - expected.scores[user, place])
            assert gap <= 1e-5, f"user {user}: item {item} is {place}, expected {there}"
            for name in ("interests", "probability", "explored", "propensity"):
                np.testing.assert_equal(getattr(found, name)[user, place], getattr(expected, name)[user, there])


@pytest.mark.parametrize("settings", POLICIES, ids=str)
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_vectors(dense, vectors, settings, exclude_seen):
    asked = histories(1, 6, ITEMS)
    policy = Policy(**{"interests": 4, **settings})
    found = dense.retrieve(asked, 20, policy, exclude_seen)
    assert_same(found, vectors.searcher.retrieve(asked, 20, policy, exclude_seen))


WITHIN = [
    {"normalise": True, "merge": "probability", "interests": CELLS},
    {"normalise": True, "merge": "probability", "interests": CELLS, "visit": 0.5, "known": 0.3},
    {"normalise": True, "merge": "quota", "interests": 5},
    {"normalise": True, "explore": 0.3},
    {"merge": "max", "interests": 8},
    {"normalise": True, "merge": "probability", "temperature": 2.0, "seed": 7, "repeats": 2},
]


@pytest.mark.parametrize("settings", WITHIN, ids=str)
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_interests_that_bring_items_of_their_own_cell(dense, vectors, settings, exclude_seen):
    asked = histories(7, 6, ITEMS)
    policy = Policy(**{"interests": 4, "reach": "cell", **settings})
    for k in (3, 20):
        found = dense.retrieve(asked, k, policy, exclude_seen)
        assert_same(found, vectors.searcher.retrieve(asked, k, policy, exclude_seen))


@pytest.mark.parametrize("name", DENSE)
def test_a_model_that_normalises_over_cells(name, engine, tmp_path):
    settings = {"reach": "cell", "normalise": True, "merge": "probability"}
    bundle, filled = publish_vectors(tmp_path / "bundles", items=60, cells=6, **settings), engine(name)
    export(bundle, filled)
    found, expected = (one.recommend([["i1", "i7"]], 9) for one in (ExternalSearcher(bundle, filled), bundle))
    assert found["item"].to_list() == expected["item"].to_list()


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_lists(sparse, lists, exclude_seen):
    asked = histories(2, 6, ITEMS)
    found = sparse.retrieve(asked, 30, None, exclude_seen)
    assert_same(found, lists.searcher.retrieve(asked, 30, None, exclude_seen))
    assert (found.items < 0).any()  # short lists end in unfilled places


def test_a_table_of_the_users_own_ids(dense, vectors):
    asked = [["i3", "i77", "nobody"], ["i520"]]
    found, expected = dense.recommend(asked, 15, visit=0.5), vectors.recommend(asked, 15, visit=0.5)
    assert found["item"].to_list() == expected["item"].to_list()
    assert found.schema == expected.schema


def test_what_was_seen_is_left_out_and_lists_are_filled(dense, vectors):
    everything = vectors.searcher.retrieve(histories(3, 1, ITEMS), 300, exclude_seen=False).items[0]
    asked = Histories.from_lists([np.sort(everything[:300])])
    found = dense.retrieve(asked, 50)
    assert (found.items >= 0).all()
    assert not np.isin(found.items, everything[:300]).any()
    assert_same(found, vectors.searcher.retrieve(asked, 50))


def test_more_than_there_is(dense, vectors):
    asked = histories(4, 2, ITEMS)
    policy = Policy(interests=2, max_items=60)
    found = dense.retrieve(asked, 200, policy)
    assert (found.items < 0).any(axis=1).all()
    assert_same(found, vectors.searcher.retrieve(asked, 200, policy))


@pytest.mark.parametrize("name", DENSE)
def test_a_model_of_one_cell(name, engine, tmp_path):
    bundle = publish_slots(tmp_path / "bundles")
    filled = engine(name)
    export(bundle, filled)
    asked = histories(5, 4, 60)
    assert_same(ExternalSearcher(bundle, filled).retrieve(asked, 9), bundle.searcher.retrieve(asked, 9))


def test_what_an_engine_cannot_do_is_refused(dense):
    with pytest.raises(ConfigError, match="filters are not passed on"):
        dense.recommend([["i1"]], 5, only=Filter(deny=[3]))
    with pytest.raises(ConfigError, match="k = 0"):
        dense.recommend([["i1"]], 0)
    with pytest.raises(ConfigError, match="never calibrated"):
        dense.recommend([["i1"]], 5, recall=0.9)


def test_milvus_has_a_largest_answer(engine, vectors):
    filled = engine("milvus")
    export(vectors, filled)
    with pytest.raises(ConfigError, match="Milvus gives at most 16384"):
        ExternalSearcher(vectors, filled).recommend([["i1"]], 16384)


def test_lists_for_faiss_and_scores_of_zero_for_milvus_are_refused(engine, lists, tmp_path):
    with pytest.raises(ConfigError, match="no sparse vectors"):
        export(lists, engine("faiss"))
    below = publish_lists(tmp_path / "bundles", items=40, lowest=-0.5)
    with pytest.raises(ConfigError, match="numbers above 0 only"):
        export(below, engine("milvus"))
    filled = engine("qdrant")
    export(below, filled)
    asked = histories(7, 5, 40)
    assert_same(ExternalSearcher(below, filled).retrieve(asked, 20), below.searcher.retrieve(asked, 20))
