"""Which interests are read, and how places are shared."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.errors import ConfigError
from tesserec.index.contract import Policy
from tesserec.index.interests import choose, explore_slots, largest_remainder
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
    assert choice.codes.tolist() == [[1, 3, 2, 0]]  # the likeliest unknown ones are set apart
    assert choice.explored.tolist() == [[False, False, True, True]]
    assert choice.quotas.tolist() == [[4, 3, 2, 1]]
    np.testing.assert_allclose(choice.probability, [[0.3, 0.2, 0.3, 0.1]], rtol=1e-6)


def test_nothing_to_explore_gives_the_places_back():
    posterior = np.array([[0.5, 0.5, 0.0]], np.float32)
    choice = choose(posterior, np.array([[True, True, False]]), Policy(interests=2, explore=0.4, merge="quota"), 10)
    assert choice.codes[0].tolist() == [0, 1, -1, -1]
    assert choice.quotas[0].tolist() == [5, 5, 0, 0]
    everything_new = choose(posterior, np.zeros((1, 3), bool), Policy(interests=2, explore=0.4, merge="quota"), 10)
    assert everything_new.codes[0].tolist() == [-1, -1, 0, 1]
    assert everything_new.quotas[0].tolist() == [0, 0, 5, 5]


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
        assert len(set(chosen.tolist())) == len(chosen) > 0
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
