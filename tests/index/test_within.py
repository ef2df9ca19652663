"""Search within cells against the slow way, against a dense sort, and its proof."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.errors import ConfigError
from tesserec.index import search, within
from tesserec.index.contract import Policy
from tesserec.index.filters import Filter
from tesserec.index.postings import VectorPostings
from tesserec.index.score_postings import ScorePostings
from tesserec.index.search import retrieve
from tesserec.index.user_side import ConstantSide
from tests.index.world import chances_of, histories, policies, searcher, slow_retrieve, world

FACTORISED = Policy(interests=1000, merge="probability", reach="cell", normalise=True)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30),
    policy=policies(reach=st.just("cell"), normalise=st.booleans()),
    k=st.integers(1, 80),
    ties=st.booleans(),
    exclude_seen=st.booleans(),
)
def test_search_within_cells_equals_the_slow_way(seed, policy, k, ties, exclude_seen):
    side, postings = world(seed, ties=ties and not policy.normalise)
    users = histories(seed, 6, postings.size, longest=30)
    found = retrieve(side, postings, users, k, policy, exclude_seen=exclude_seen)
    for row, history in enumerate(users):
        slow = slow_retrieve(side, postings, history, k, policy, exclude_seen)
        n = len(slow)
        assert found.items[row, :n].tolist() == [item for item, *_ in slow]
        np.testing.assert_allclose(found.scores[row, :n], [value for _, value, *_ in slow], rtol=1e-5, atol=1e-6)
        assert found.interests[row, :n].tolist() == [code for _, _, code, _ in slow]
        assert found.explored[row, :n].tolist() == [explored for *_, explored in slow]
        np.testing.assert_array_equal(found.interests[row, :n], postings.cell_of[found.items[row, :n]])
        codes = found.interests[row, :n]
        np.testing.assert_array_equal(found.probability[row, :n], chances_of(side, postings, history, policy)[codes])
        assert (found.items[row, n:] == -1).all()
        assert np.isnan(found.probability[row, n:]).all()


def log_probabilities(side, postings, histories):
    """``log p(item | user)`` of every item in float64, ``(users, items)``."""
    vectors = postings.vectors_of(np.arange(postings.size)).astype(np.float64)
    rows = []
    for history in histories:
        dense = np.empty(postings.size)
        for cell in range(postings.cells):
            own = postings.cell_of == cell
            logits = vectors[own] @ side.vectors[history[-1], cell].astype(np.float64)
            if own.any():
                dense[own] = np.log(np.float64(side.posterior[history[-1], cell]))
                dense[own] += logits - np.logaddexp.reduce(logits)
        rows.append(dense)
    return np.array(rows)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30), cells=st.integers(1, 120), k=st.integers(1, 50), sharp=st.sampled_from([0.3, 3, 30])
)
def test_the_factorised_softmax_is_sorted_exactly(seed, cells, k, sharp):
    side, postings = world(seed, items=150, cells=cells, dim=7)
    side.vectors *= sharp
    users = histories(seed, 5, 150)
    dense = log_probabilities(side, postings, users)
    found = retrieve(side, postings, users, k, FACTORISED, exclude_seen=True)
    for row, history in enumerate(users):
        dense[row, history] = -np.inf
        best = np.argsort(-dense[row], kind="stable")[:k]
        np.testing.assert_allclose(found.scores[row], dense[row, best], rtol=1e-5, atol=1e-4)  # float32 dots
        gap = np.diff(-dense[row, best], prepend=-np.inf, append=np.inf) > 2e-4
        alone = gap[1:] & gap[:-1]
        assert found.items[row][alone].tolist() == best[alone].tolist()
    visits = found.visits
    assert (visits.items <= 150).all()
    assert (visits.cells <= cells).all()


def test_probabilities_sum_to_one():
    side, postings = world(3, items=80, cells=12)
    postings_used = np.unique(postings.cell_of)
    users = histories(3, 4, 80)
    found = retrieve(side, postings, users, 80, FACTORISED, exclude_seen=False)
    mass = np.exp(found.scores.astype(np.float64)).sum(axis=1)
    held = [side.posterior[history[-1]][postings_used].sum() for history in users]
    np.testing.assert_allclose(mass, held, rtol=1e-5)


def test_cells_that_cannot_matter_are_not_visited_nor_read():
    side, postings = world(5, items=2000, cells=200)
    side.posterior[:] = np.float32(0.2) ** np.arange(200) + np.float32(1e-9)
    side.posterior /= side.posterior.sum(axis=1, keepdims=True)
    read = []
    whole = side.read
    side.read = lambda encoded, codes: read.append(codes.shape) or whole(encoded, codes)
    users = histories(5, 30, 2000)
    found = retrieve(side, postings, users, 10, FACTORISED, exclude_seen=True)
    assert read == [(30, within.BLOCK)]
    visits = found.visits
    assert visits.certified.all()
    assert (visits.cells < 20).all()
    assert (visits.items == [np.diff(postings.offsets)[:n].sum() for n in visits.cells]).all()
    slow = retrieve(side, postings, users, 10, replace(FACTORISED, merge="quota"), exclude_seen=True)
    assert (slow.visits.cells == 10).all()
    assert (found.items >= 0).all()
    assert (slow.items >= 0).all()


@pytest.mark.parametrize("known", [0.05, 20.0])
def test_what_is_left_out_is_proved_away_only_where_it_cannot_come_before(known):
    weighed, certified = replace(FACTORISED, known=known), 0
    for seed in range(20):
        side, postings = world(seed, items=200, cells=12)
        users = histories(seed, 20, 200)
        asked = partial(retrieve, side, postings, users, 5, exclude_seen=True)
        whole, part = (asked(policy=replace(weighed, visit=visit)) for visit in (1.0, 0.5))
        sure = part.visits.certified
        np.testing.assert_array_equal(part.items[sure], whole.items[sure])
        certified += (sure & (part.visits.mass_left > 0)).sum()
    assert (certified > 0) == (known > 1)  # what is known comes first, or last and is left out


def test_a_filtered_list_is_filled_from_interests_that_were_not_asked_for():
    asked = searcher(0, items=200, cells=12, interests=2, merge="probability", reach="cell", normalise=True)
    few, many = Filter(allow=range(0, 200, 10)), histories(1, 20, 200)
    found = asked.retrieve(many, 5, only=few)
    assert (found.items >= 0).all()
    whole = asked.retrieve(many, 5, replace(asked.policy, interests=12), only=few)
    short = (asked.retrieve(many, 200, replace(asked.policy, seed=0), only=few).items >= 0).sum(axis=1) < 5
    assert short.sum() > 5  # two interests alone hold too few
    np.testing.assert_array_equal(found.items[short], whole.items[short])


def test_few_users_read_longer_and_longer_blocks():
    side, postings = world(5, items=2000, cells=400)
    side.posterior[:] = 1 / 400  # nothing can be proved, so all are read
    read, whole = [], side.read
    side.read = lambda encoded, codes: read.append(codes.shape) or whole(encoded, codes)
    for users, widths in ((1, [32, 64, 128, 176]), (30, [32] * 12 + [16])):
        read.clear()
        retrieve(side, postings, histories(5, users, 2000), 2000, FACTORISED, exclude_seen=True)
        assert [shape for shape in read if shape[0] == users] == [(users, width) for width in widths]


def test_a_cell_as_likely_as_the_worst_answer_is_still_visited():
    """Equal values are in order of item, so the proof must not stop at a tie."""
    side, postings = world(1, items=4, cells=4)
    postings = VectorPostings.build(np.zeros((4, 4), np.float32), np.array([3, 2, 1, 0]), 4)
    side.posterior[:] = 0.25
    found = retrieve(side, postings, histories(1, 2, 4), 2, FACTORISED, exclude_seen=False)
    assert found.items.tolist() == [[0, 1], [0, 1]]


def test_blocks_batches_and_budgets_do_not_matter(monkeypatch):
    side, postings = world(5, items=300, cells=50)
    users = histories(5, 40, 300)
    for policy in (FACTORISED, replace(FACTORISED, explore=0.3), replace(FACTORISED, merge="quota", interests=9)):
        whole = retrieve(side, postings, users, 15, policy, exclude_seen=True)
        with monkeypatch.context() as patch:
            patch.setattr(search, "_BATCH", 7)
            patch.setattr(within, "BLOCK", 3)
            small = retrieve(side, postings, users, 15, policy, exclude_seen=True, budget_mb=1)
        for name in ("items", "scores", "interests", "probability", "explored"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(small, name))
        for name in vars(whole.visits):
            np.testing.assert_array_equal(getattr(whole.visits, name), getattr(small.visits, name))


def test_what_has_no_cells_cannot_be_searched_within_them():
    side, postings = world(1, slots=4)
    users = histories(1, 2, 60)
    with pytest.raises(ConfigError, match=r"reach = 'cell'.*slots.*own no cells"):
        retrieve(side, postings, users, 5, Policy(reach="cell"), exclude_seen=True)
    lists = ScorePostings.build(np.zeros(1, int), np.zeros(1, int), np.ones(1, np.float32), n_codes=1, size=60)
    with pytest.raises(ConfigError, match=r"reach = 'cell'.*lie in no cells"):
        retrieve(ConstantSide(), lists, users, 5, Policy(reach="cell"), exclude_seen=True)
    with pytest.raises(ConfigError, match=r"normalise = True.*set reach = 'cell'"):
        Policy(normalise=True)


def test_no_probability_is_above_one():
    """A cell of one item gives it all of its mass, whatever the rounding of its score."""
    rng = np.random.default_rng(2)
    side, postings = world(2, items=50, cells=50, dim=33)
    postings = VectorPostings.build(rng.normal(size=(50, 33)).astype(np.float32) * 9, rng.permutation(50), 50)
    users = histories(2, 20, 50)
    found = retrieve(side, postings, users, 50, FACTORISED, exclude_seen=False)
    assert (found.scores <= np.log(found.probability.astype(np.float64)).astype(np.float32)).all()
    np.testing.assert_allclose(found.scores, np.log(found.probability), atol=1e-4)


def test_near_ties_are_told_apart_by_exact_scores():
    """Differences far below what a fast float32 product can see decide the order."""
    rng = np.random.default_rng(6)
    side, postings = world(6, items=400, cells=3, dim=64)
    vectors = (rng.normal(size=64) * 100).astype(np.float32) * np.ones((400, 1), np.float32)
    vectors[np.arange(400), rng.integers(0, 64, 400)] *= np.float32(1 + 2e-7)
    postings = VectorPostings.build(vectors, postings.cell_of, 3)
    side.vectors = rng.normal(size=(400, 3, 64)).astype(np.float32)
    users = histories(6, 20, 400)
    for k in (1, 5, 30):
        policy = Policy(interests=3, reach="cell")
        found = retrieve(side, postings, users, k, policy, exclude_seen=True)
        for row, history in enumerate(users):
            slow = slow_retrieve(side, postings, history, k, policy, True)
            assert found.items[row].tolist() == [item for item, *_ in slow]


def test_normalisers_are_those_of_the_library():
    rng = np.random.default_rng(8)
    for spread in (0.0, 1.0, 30.0, 5000.0):
        values = (spread * rng.normal(size=1000)).astype(np.float32)
        values[::7] = -np.inf  # removed items
        found = within._log_sum_exp(values[:300], values[300:])
        np.testing.assert_allclose(found, np.logaddexp.reduce(values.astype(np.float64)), rtol=1e-13, atol=1e-13)
    assert within._log_sum_exp(values[:0], values[:0]) == 0.0
    for value in np.linspace(-690, 0, 2001, dtype=np.float32):
        assert within._sum_exp(np.array([value]), 0.0) == pytest.approx(math.exp(value), rel=1e-13)


def test_vectors_read_at_once_respect_the_budget():
    side, postings = world(7, items=100, cells=100, dim=64)
    sizes, whole = [], side.read
    side.read = lambda encoded, codes: sizes.append(codes.size * 64 * 4) or whole(encoded, codes)
    retrieve(side, postings, histories(7, 200, 100), 5, FACTORISED, exclude_seen=True, budget_mb=1)
    assert max(sizes) < 1 << 20
