"""A share of the list for new items: against lists put together by hand, in every way of searching."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.errors import ConfigError
from tesserec.index.catalogue import Catalogue
from tesserec.index.contract import Policy
from tesserec.index.filters import Blocked, Filter, bitmap
from tesserec.index.interests import explore_slots
from tesserec.index.new_items import NewItems
from tesserec.index.postings import EveryItem
from tesserec.index.score_postings import ScorePostings
from tesserec.index.search import retrieve
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import ConstantSide
from tests.index.world import AllScores, catalogue, histories, policies, world

N = 60


def rows_of(found, user):
    """A user's list as ``(item, score, interest, probability, explored)``."""
    held = found.items[user] >= 0
    names = ("items", "scores", "interests", "probability", "explored")
    return [tuple(row) for row in zip(*(getattr(found, name)[user, held].tolist() for name in names), strict=True)]


def put_together(plain, new, is_new, k, places):
    """The list by its definition."""
    kept = list(plain)
    fresh = [row for row in new if row[0] not in {item for item, *_ in plain}]
    fresh = fresh[: max(0, places - sum(is_new[item] for item, *_ in plain))]
    while len(kept) + len(fresh) > k:
        old = [row for row in kept if not is_new[row[0]]]
        exploited = [row for row in old if not row[4]]
        kept.remove((exploited or old)[-1])
    return sorted([*kept, *fresh], key=lambda row: -row[1])


def check(side, postings, policy, share, k, new, seed=0, exclude_seen=True):
    users = histories(seed, 5, N)
    is_new = np.isin(np.arange(N), new)
    trained = bitmap(np.flatnonzero(~is_new), N)
    given = {"exclude_seen": exclude_seen}
    few = NewItems.of(np.sort(new).astype(np.int32), postings)
    found = retrieve(side, postings, users, k, replace(policy, new_share=share), new=few, **given)
    many = replace(few, few=None)
    same = retrieve(side, postings, users, k, replace(policy, new_share=share), new=many, **given)
    for name in ("items", "scores", "interests", "probability", "explored"):
        assert np.array_equal(getattr(found, name), getattr(same, name), equal_nan=name != "items"), name
    assert (found.visits.certified | ~same.visits.certified).all()
    plain = retrieve(side, postings, users, k, policy, **given)
    alone = retrieve(side, postings, users, k, policy, blocked=Blocked(np.empty(0, np.int32), trained), **given)
    for user in range(5):
        places = explore_slots(share, k)
        wanted = put_together(rows_of(plain, user), rows_of(alone, user), is_new, k, places)
        ours = rows_of(found, user)
        assert repr(ours) == repr(wanted)  # NaN is a probability, too
        assert (np.diff([score for _, score, *_ in ours]) <= 0).all()
        assert sum(is_new[item] for item, *_ in ours) >= min(places, len(rows_of(alone, user)))
        assert (found.items[user, len(ours) :] == -1).all()
        assert (found.propensity[user, : len(ours)] == 1).all()
    return found


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30),
    policy=policies(reach=st.sampled_from(["catalogue", "cell"])),
    k=st.integers(1, 40),
    share=st.sampled_from([0.0, 0.1, 0.3, 1.0]),
    many=st.integers(0, 30),
    exclude_seen=st.booleans(),
    normalise=st.booleans(),
    edited=st.booleans(),
)
def test_every_way_of_searching_vectors_keeps_the_share(seed, policy, k, share, many, exclude_seen, normalise, edited):
    rng = np.random.default_rng(seed)
    new = rng.choice(N, many, replace=False)
    side, postings = world(seed, N)
    if edited:
        changed, removed = np.split(rng.permutation(N)[:20], [12])
        vectors = rng.normal(size=(12, postings.dim)).astype(np.float32)
        postings = postings.with_delta(changed, vectors, rng.integers(0, postings.cells, 12), removed, N)
    policy = replace(policy, normalise=normalise and policy.reach == "cell")
    check(side, postings, policy, share, k, new, seed, exclude_seen)


def test_lists_and_scores_of_every_item_keep_the_share():
    rng = np.random.default_rng(0)
    scores = rng.random(N).astype(np.float32)
    lists = ScorePostings.build(np.zeros(N, int), np.arange(N), scores, n_codes=1, size=N)
    later = ScorePostings.build(np.zeros(5, int), np.arange(5) * 7, rng.random(5), n_codes=1, size=N)
    check(
        ConstantSide(), lists.with_delta(later, np.array([1, 2, 3])), Policy(interests=1), 0.3, 20, np.arange(0, N, 4)
    )
    for new in (rng.choice(N, 9, replace=False), np.argsort(scores)[:4]):
        check(ConstantSide(), lists, Policy(interests=1), 0.2, 20, new)
        check(AllScores(rng.random((N, N)).astype(np.float32)), EveryItem(N), Policy(interests=1), 0.2, 20, new)


def test_a_drawn_list_keeps_its_share_and_its_propensities_are_those_of_such_lists():
    side, postings = world(3, N)
    new = np.arange(50, 60)
    few = NewItems.of(new.astype(np.int32), postings)
    users = histories(1, 4, N)
    policy = Policy(interests=2, seed=5, temperature=2.0, repeats=60, new_share=0.3)
    found = retrieve(side, postings, users, 10, policy, exclude_seen=False, new=few)
    assert (np.isin(found.items, new).sum(axis=1) >= 3).all()
    drawn = [
        retrieve(side, postings, users, 10, replace(policy, seed=seed, repeats=0), exclude_seen=False, new=few)
        for seed in range(400)
    ]
    for user in range(4):
        truth = np.mean([np.isin(found.items[user], one.items[user]) for one in drawn], axis=0)
        assert np.abs(found.propensity[user] - truth).max() < 0.25
        assert np.abs(found.propensity[user] - truth).mean() < 0.08


def searcher(counts):
    side, postings = world(0, N)
    plain = catalogue(N)
    return Searcher(Catalogue(plain.items, plain.table, plain.roles, True, counts), side, postings, Policy())


def test_an_item_is_new_until_training_has_an_event_of_it():
    counts = np.arange(N) // 6
    answer = searcher(counts).recommend([["i7"], ["i40"]], 10, new_share=0.2)
    assert answer.filter("new")["item"].to_list() != []
    assert answer.group_by("user").agg(pl.col("new").sum())["new"].min() >= 2
    assert set(answer.filter("new")["item"]) <= {f"i{n}" for n in range(6)}
    allowed = searcher(counts).recommend([["i7"]], 10, new_share=1.0, only=Filter(deny=[0, 1, 2]))
    assert set(allowed["item"]) >= {"i3", "i4", "i5"}
    assert not set(allowed["item"]) & {"i0", "i1", "i2"}
    nothing_new = searcher(counts + 1)
    assert nothing_new.recommend([["i7"]], 10, new_share=0.5).equals(nothing_new.recommend([["i7"]], 10))


def test_what_cannot_keep_the_share_says_so():
    one = searcher(np.zeros(N, np.int64))
    with pytest.raises(ConfigError, match=r"diversity = 0.5 .* new_share = 0.1"):
        one.recommend([["i7"]], 5, new_share=0.1, diversity=0.5)
    with pytest.raises(ConfigError, match=r"new_share = 1.5; expected a share"):
        Policy(new_share=1.5)
    engine = searcher(np.zeros(N, np.int64))
    engine.elsewhere = object()
    with pytest.raises(ConfigError, match=r"new_share = 0.1, but an engine searches"):
        engine.recommend([["i7"]], 5, new_share=0.1)
    assert Policy.from_dict({"new_share": 0.25}).to_dict()["new_share"] == 0.25
