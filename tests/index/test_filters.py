"""Filters against brute force: what they deny is in no list, and lists are those of the catalogue without it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.errors import ConfigError, DataError
from tesserec.index.contract import Policy
from tesserec.index.filters import Filters, deny
from tesserec.index.postings import EveryItem, ScorePostings
from tesserec.index.search import retrieve
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import ConstantSide
from tests.index.world import AllScores, catalogue, histories, policies, slow_retrieve, world


def bits(denied, n=60):
    mask = np.zeros(n, bool)
    mask[list(denied)] = True
    return np.packbits(mask, bitorder="little")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30),
    policy=policies(reach=st.sampled_from(["catalogue", "cell"])),
    k=st.integers(1, 80),
    denied=st.one_of(st.sets(st.integers(0, 59)), st.sets(st.integers(0, 59), min_size=50)),
    exclude_seen=st.booleans(),
)
def test_filtered_search_equals_the_slow_way(seed, policy, k, denied, exclude_seen):
    side, postings = world(seed)
    users = histories(seed, 4, 60)
    found = retrieve(side, postings, users, k, policy, exclude_seen=exclude_seen, denied=bits(denied))
    for row, history in enumerate(users):
        slow = slow_retrieve(side, postings, history, k, policy, exclude_seen, denied)
        assert found.items[row, : len(slow)].tolist() == [item for item, *_ in slow]
        assert (found.items[row, len(slow) :] == -1).all()


@pytest.mark.parametrize("codes", [1, 3])
def test_lists_and_dense_scores_are_filtered_too(codes):
    rng = np.random.default_rng(codes)
    denied = set(rng.permutation(60)[:40].tolist())
    users = histories(1, 5, 60)
    scores = rng.normal(size=(60, 60)).astype(np.float32)
    dense = retrieve(
        AllScores(scores), EveryItem(60), users, 10, Policy(), exclude_seen=False, denied=bits(denied)
    ).items
    for row, history in enumerate(users):
        assert dense[row].tolist() == [i for i in np.argsort(-scores[history[-1]]) if i not in denied][:10]
    postings = ScorePostings.build(np.zeros(60, int), np.arange(60), scores[0], n_codes=1, size=60)
    top = retrieve(ConstantSide(), postings, users, 10, Policy(), exclude_seen=False, denied=bits(denied)).items
    assert (top == [i for i in np.argsort(-scores[0]) if i not in denied][:10]).all()


def shop():
    side, postings = world(3)
    colour = ["red" if i % 3 else None for i in range(60)]
    tags = [["new", "hot"] if i % 2 else (None if i % 4 else ["old"]) for i in range(60)]
    return Searcher(catalogue(60, colour=colour, tags=tags), side, postings, Policy())


def test_conditions_hold_together():
    filters = Filters(
        allow=[f"i{i}" for i in range(40)] + ["gone"], deny=["i1", "gone"], where={"colour": ["red"], "tags": ["hot"]}
    )
    answer = shop().recommend([["i2"], ["i50"]], 60, filters=filters, exclude_seen=False)
    expected = {f"i{i}" for i in range(2, 40) if i % 3 and i % 2}
    for _, rows in answer.group_by("user"):
        assert set(rows["item"]) == expected
    assert len(shop().recommend([["i2"]], 60, filters=Filters(where={"tags": ["none"]}))) == 0


@pytest.mark.parametrize(
    ("filters", "error", "match"),
    [
        (Filters(allow=["x", "y"]), DataError, "allow names 2 items, none of which is in the catalogue"),
        (Filters(where={"size": [1]}), ConfigError, "the column 'size'; the item table has id, colour, tags"),
        (Filters(where={"colour": "red"}), ConfigError, "'red'; expected a list of allowed values"),
        (Filters(where={"colour": [1]}), ConfigError, "expected values of String"),
        (Filters(where={"tags": [1]}), ConfigError, r"expected values of List\(String\)"),
    ],
)
def test_bad_filters_are_refused(filters, error, match):
    with pytest.raises(error, match=match):
        deny(filters, shop().catalogue)
