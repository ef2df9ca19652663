"""The greedy choice against the definition, and how it meets the search."""

from functools import partial

import numpy as np
import pytest

from tesserec.errors import ConfigError
from tesserec.index.contract import Candidates, Policy, Visits
from tesserec.index.diversify import diverse, diversify, item_categories
from tesserec.index.searcher import Searcher
from tests.index.world import catalogue, histories, searcher, world

CATEGORIES = np.random.default_rng(5).integers(-1, 4, 60)


NAMES = ("items", "scores", "interests", "probability", "explored")


def lists(seed=0, users=40, n=30, ties=False):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, (users, n)) + 0.0 if ties else rng.normal(size=(users, n))
    items = np.stack([rng.permutation(60)[:n] for _ in range(users)]).astype(np.int32)
    found = Candidates(
        items,
        -np.sort(-scores, axis=1).astype(np.float32),
        rng.integers(0, 4, (users, n)).astype(np.int32),
        rng.random((users, n)).astype(np.float32),
        rng.random((users, n)) < 0.2,
        Visits.none(users),
        np.ones((users, n), np.float32),
    )
    found.items[::7, n // 3 :] = -1
    found.scores[::7, n // 3 :] = -np.inf
    return found


def by_definition(scores, categories, k, strength):
    """Each place to the candidate with the largest gain of score and of pairs that differ; the first of equals."""
    chosen, left = [], list(range(len(scores)))
    while left and len(chosen) < k:
        gains = [float(scores[i]) + strength * sum(categories[j] != categories[i] for j in chosen) for i in left]
        chosen.append(left.pop(int(np.argmax(gains))))
    return chosen


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0, 50.0])
@pytest.mark.parametrize("by", ["items", "interests"])
@pytest.mark.parametrize("ties", [False, True])
def test_the_choice_is_the_greedy_one(strength, by, ties):
    given = lists(ties=ties)
    found = diversify(given, 8, strength, CATEGORIES if by == "items" else None)
    for user in range(40):
        filled = (given.items[user] >= 0).sum()
        groups = CATEGORIES[given.items[user]] if by == "items" else given.interests[user]
        places = by_definition(given.scores[user, :filled], groups[:filled], 8, strength)
        for name in NAMES:
            assert (getattr(found, name)[user, : len(places)] == getattr(given, name)[user, places]).all()


def test_strength_zero_is_the_list_as_it_was():
    given = lists()
    found = diversify(given, 30, 0.0, CATEGORIES)
    for name in NAMES:
        assert (getattr(found, name)[given.items >= 0] == getattr(given, name)[given.items >= 0]).all()
    assert (found.items[given.items < 0] == -1).all()


def test_more_strength_gives_more_pairs_that_differ_and_less_score():
    given = lists(n=30)
    given = Candidates(*(getattr(given, name)[1:7] for name in (*NAMES, "visits", "propensity")))
    differ, total = [], []
    for strength in (0.0, 0.5, 100.0):
        found = diversify(given, 8, strength, CATEGORIES)
        groups = CATEGORIES[found.items]
        differ.append((groups[:, :, None] != groups[:, None]).sum())
        total.append(found.scores.sum())
    assert differ == sorted(set(differ))
    assert total == sorted(set(total), reverse=True)


def test_unfilled_places_stay_at_the_end():
    found = diversify(lists(), 20, 0.5, CATEGORIES)
    assert (found.items[0] >= 0).tolist() == [True] * 10 + [False] * 10
    assert (found.scores[0, 10:] == -np.inf).all()
    assert np.isnan(found.probability[0, 10:]).all()


def test_a_diverse_search_chooses_from_the_longer_list():
    ours, asked = searcher(), histories(1, 20, 60)
    retrieve = partial(diverse, ours.retrieve, strength=0.7, categories=CATEGORIES, pool=4)
    whole = diversify(ours.retrieve(asked, 20), 5, 0.7, CATEGORIES)
    assert (retrieve(asked, 5).items == whole.items).all()
    assert not (retrieve(asked, 5).items == ours.retrieve(asked, 5).items).all()


def test_recommend_diversifies_by_interest_and_by_category():
    side, postings = world(slots=4)
    genre = [None if c < 0 else "abcd"[c] for c in CATEGORIES]
    ours = Searcher(catalogue(60, genre=genre), side, postings, Policy(interests=4))
    plain = ours.recommend([["i1", "i2"]], k=8)
    assert ours.recommend([["i1", "i2"]], k=8, diversity=0.0).equals(plain)
    mixed = ours.recommend([["i1", "i2"]], k=8, diversity=100.0)
    assert mixed["interest"].n_unique() >= plain["interest"].n_unique()
    assert mixed["interest"].head(4).n_unique() == 4
    by_genre = ours.recommend([["i1", "i2"]], k=5, diversity=100.0, diversify_by="genre")
    assert {genre[int(item[1:])] for item in by_genre["item"]} == {None, "a", "b", "c", "d"}


def test_categories_are_numbers_of_values_and_none_is_minus_one():
    ours = catalogue(4, genre=["b", None, "a", "b"], title=["w", "x", "y", "z"])
    assert item_categories(ours, "genre").tolist() == [1, -1, 0, 1]
    with pytest.raises(ConfigError, match=r"'title' is no categorical column.*choose one of genre"):
        item_categories(ours, "title")


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"strength = -1"):
        diversify(lists(), 5, -1.0)
    with pytest.raises(ConfigError, match="pool = 0"):
        diverse(searcher().retrieve, histories(1, 2, 60), 5, strength=1.0, pool=0)
    with pytest.raises(ConfigError, match=r"diversify_by = 'genre'.*diversity"):
        searcher().recommend([["i1"]], diversify_by="genre")
