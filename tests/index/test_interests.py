"""Which interests are read, and how places are shared."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.data.histories import Histories
from tesserec.errors import ConfigError
from tesserec.index.contract import Policy
from tesserec.index.interests import choose, choose_from_history, explore_slots, largest_remainder
from tests.index.world import slow_quotas


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    weights=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12),
    extra=st.integers(0, 100),
    minimum=st.integers(0, 3),
)
def test_quotas_sum_to_the_total(weights, extra, minimum):
    total = minimum * len(weights) + extra
    shares = largest_remainder(np.array(weights), total, minimum)
    assert shares.sum() == total
    assert (shares >= minimum).all()
    order = np.argsort(-np.array(weights), kind="stable")
    assert (np.diff(shares[order]) <= 1).all()  # more weight, at most one place less by rounding
    exact = np.array(weights) / (sum(weights) or 1) * total
    if sum(weights) and (np.floor(exact) >= minimum).all():
        assert (np.abs(shares - exact) < 1 + 1e-9).all()


def test_quotas_by_hand():
    assert largest_remainder(np.array([0.5, 0.3, 0.2]), 10).tolist() == [5, 3, 2]
    assert largest_remainder(np.array([0.98, 0.01, 0.01]), 10).tolist() == [8, 1, 1]
    assert largest_remainder(np.array([1.0, 1.0, 1.0]), 5).tolist() == [2, 2, 1]
    assert largest_remainder(np.array([0.0, 0.0]), 3).tolist() == [2, 1]
    with pytest.raises(ConfigError, match="2 places cannot give 3 interests"):
        largest_remainder(np.ones(3), 2)


@pytest.mark.parametrize(
    ("explore", "k", "slots"),
    [(0, 20, 0), (0.2, 20, 4), (0.01, 20, 1), (0.99, 20, 19), (1, 20, 20), (0.5, 5, 3), (0.5, 1, 0), (1, 1, 1)],
)
def test_exploration_share(explore, k, slots):
    assert explore_slots(explore, k) == slots


def test_interests_by_hand():
    posterior = np.array([[0.1, 0.3, 0.3, 0.2, 0.1, 0.0]], np.float32)
    known = np.array([[False, True, False, True, False, False]])
    choice = choose(posterior, known, Policy(interests=2), 10)
    assert choice.codes.tolist() == [[1, 2]]
    choice = choose(posterior, known, Policy(interests=2, explore=0.3, merge="quota"), 10)
    assert choice.codes.tolist() == [[1, 2, 2, 0]]  # what the likeliest unknown ones win themselves stays theirs
    assert choice.explored.tolist() == [[False, False, True, True]]
    assert choice.quotas.tolist() == [[4, 3, 2, 1]]
    np.testing.assert_allclose(choice.probability, [[0.3, 0.3, 0.3, 0.1]], rtol=1e-6)


def test_nothing_to_explore_gives_the_places_back():
    posterior = np.array([[0.5, 0.5, 0.0]], np.float32)
    choice = choose(posterior, np.array([[True, True, False]]), Policy(interests=2, explore=0.4, merge="quota"), 10)
    assert choice.codes[0].tolist() == [0, 1, -1, -1]
    assert choice.quotas[0].tolist() == [5, 5, 0, 0]
    everything_new = choose(posterior, np.zeros((1, 3), bool), Policy(interests=2, explore=0.4, merge="quota"), 10)
    assert everything_new.codes[0].tolist() == [0, 1, 0, 1]
    assert everything_new.quotas[0].tolist() == [3, 3, 2, 2]


def test_frequent_cells_by_hand():
    cells = Histories.from_lists([[3, 1, 1, 3, 2, 0], [4, 4, 4]])
    choice = choose_from_history(cells, 5, Policy(interests=3, select="history"), 10)
    assert choice.codes.tolist() == [[3, 1, 0], [4, -1, -1]]  # as frequent as 1, but later; 0 is later than 2
    np.testing.assert_allclose(choice.probability, [[1 / 3, 1 / 3, 1 / 6], [1, 0, 0]], rtol=1e-6)
    shared = Policy(interests=3, select="history", merge="quota")
    assert choose_from_history(cells, 5, shared, 10).quotas.tolist() == [[4, 4, 2], [10, 0, 0]]
    assert choose_from_history(cells, 5, shared, 2).codes.tolist() == [[3, 1, -1], [4, -1, -1]]


def test_equal_shares_differ_by_one_place_at_most():
    posterior = np.array([[0.9, 0.06, 0.03, 0.01]], np.float32)
    policy = Policy(interests=3, merge="quota", shares="equal")
    assert choose(posterior, np.zeros((1, 4), bool), policy, 11).quotas.tolist() == [[4, 4, 3]]
    both = replace(policy, interests=2, explore=0.5)
    assert choose(posterior, np.array([[True, True, False, False]]), both, 10).quotas.tolist() == [[3, 2, 3, 2]]


def test_choices_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match=r"select = 'history' with explore = 0.2"):
        Policy(select="history", explore=0.2)
    with pytest.raises(ConfigError, match=r"shares = 'even'; choose 'posterior' or 'equal'"):
        Policy(shares="even")
    with pytest.raises(ConfigError, match=r"merge = 'mean'; choose 'max', 'probability' or 'quota'"):
        Policy(merge="mean")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30),
    codes=st.integers(1, 12),
    interests=st.integers(1, 15),
    k=st.integers(1, 25),
    explore=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    merge=st.sampled_from(["max", "quota"]),
)
def test_choice_keeps_its_promises(seed, codes, interests, k, explore, merge):
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 3, (20, codes)) + 0.0
    weights[:, 0] += weights.sum(axis=1) == 0
    posterior = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    known = rng.random((20, codes)) < 0.5
    choice = choose(posterior, known, Policy(interests=interests, explore=explore, merge=merge), k)
    for row in range(20):
        used = choice.codes[row] >= 0
        chosen, explored = choice.codes[row][used], choice.explored[row][used]
        assert len(chosen) > 0
        for part in (explored, ~explored):
            assert len(set(chosen[part].tolist())) == part.sum()
        assert (posterior[row][chosen] > 0).all()
        assert not known[row][chosen[explored]].any()
        assert explored.sum() <= interests >= (~explored).sum()
        np.testing.assert_array_equal(choice.probability[row][used], posterior[row][chosen])
        quotas = choice.quotas[row][used]
        assert choice.quotas[row][~used].sum() == 0
        assert (quotas[explored] >= 1).all()
        if merge == "quota":
            assert quotas.sum() == k
            for part in (explored, ~explored):
                chances = posterior[row][chosen[part]]
                assert quotas[part].tolist() == slow_quotas(chances, int(quotas[part].sum()))
