"""Soft search against the slow way, and what every answer promises."""

from contextlib import ExitStack
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.data.histories import Histories
from tesserec.errors import ConfigError, DataError
from tesserec.index import across, scan, search
from tesserec.index.contract import Policy
from tesserec.index.postings import EveryItem, VectorPostings
from tesserec.index.score_postings import ScorePostings
from tesserec.index.search import retrieve
from tesserec.index.user_side import ConstantSide, HistorySide
from tesserec.index.visiting import visited_cells
from tests.index.world import AllScores, chances_of, histories, policies, slow_retrieve, world

WAYS = {
    "8 bits": [],
    "8 bits in Numba": [patch.object(scan, "native_search", lambda: None)],
    "float32": [patch.object(across, "best_together", lambda *_: None)],
}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30),
    policy=policies(),
    k=st.integers(1, 80),
    ties=st.booleans(),
    exclude_seen=st.booleans(),
    way=st.sampled_from(list(WAYS)),
    many=st.sampled_from([0, 1000]),
)
def test_every_policy_in_every_precision_equals_the_slow_way(seed, policy, k, ties, exclude_seen, way, many):
    side, postings = world(seed, ties=ties)
    users = histories(seed, 6, postings.size, longest=30)
    with ExitStack() as stack:
        for change in (*WAYS[way], patch.object(across, "_MANY", many)):
            stack.enter_context(change)
        found = retrieve(side, postings, users, k, policy, exclude_seen=exclude_seen)
    for row, history in enumerate(users):
        slow = slow_retrieve(side, postings, history, k, policy, exclude_seen)
        n = len(slow)
        assert found.items[row, :n].tolist() == [item for item, *_ in slow]
        assert found.scores[row, :n].tolist() == [float(np.float32(value)) for _, value, *_ in slow]
        assert found.interests[row, :n].tolist() == [code for _, _, code, _ in slow]
        assert found.explored[row, :n].tolist() == [explored for *_, explored in slow]
        assert (found.items[row, n:] == -1).all()
        assert np.isneginf(found.scores[row, n:]).all()
        assert np.isnan(found.probability[row, n:]).all()
        chances = chances_of(side, postings, history, policy)
        np.testing.assert_array_equal(found.probability[row, :n], chances[found.interests[row, :n]])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30), policy=policies(), k=st.integers(1, 80), ties=st.booleans(), slots=st.integers(2, 7)
)
def test_slots_search_the_one_cell(seed, policy, k, ties, slots):
    side, postings = world(seed, ties=ties, slots=slots)
    users = histories(seed, 4, postings.size)
    policy = replace(policy, explore=0.0, select="posterior", known=1.0)
    found = retrieve(side, postings, users, k, policy, exclude_seen=True)
    for row, history in enumerate(users):
        slow = slow_retrieve(side, postings, history, k, policy, True)
        assert found.items[row, : len(slow)].tolist() == [item for item, *_ in slow]
        assert found.scores[row, : len(slow)].tolist() == [float(np.float32(value)) for _, value, *_ in slow]
        assert found.interests[row, : len(slow)].tolist() == [code for _, _, code, _ in slow]
        np.testing.assert_array_equal(
            found.probability[row, : len(slow)],
            side.posterior[history[-1]][found.interests[row, : len(slow)]],
        )


def test_slots_are_nothing_to_explore():
    side, postings = world(1, slots=4)
    with pytest.raises(ConfigError, match=r"explore = 0.2.*no interests that users share"):
        retrieve(side, postings, histories(2, 3, 60), 5, Policy(explore=0.2), exclude_seen=False)


def test_explored_items_lie_outside_the_history():
    side, postings = world(3, items=400, cells=20)
    users = histories(3, 40, 400)
    found = retrieve(side, postings, users, 20, Policy(explore=0.25), exclude_seen=True)
    assert (found.explored.sum(axis=1) == 5).all()
    for row, history in enumerate(users):
        known = set(postings.cell_of[history])
        explored = found.items[row][found.explored[row]]
        assert not known & set(postings.cell_of[explored])
        assert not known & set(found.interests[row][found.explored[row]])
        assert not set(history) & set(found.items[row])


def test_batches_and_budgets_do_not_matter(monkeypatch):
    side, postings = world(5, items=300, cells=12)
    users = histories(5, 50, 300)
    policy = Policy(explore=0.2, merge="quota")
    whole = retrieve(side, postings, users, 15, policy, exclude_seen=True)
    monkeypatch.setattr(search, "_BATCH", 7)
    calls = []
    small = retrieve(
        side, postings, users, 15, policy, exclude_seen=True, budget_mb=1, progress=lambda *done: calls.append(done)
    )
    for name in ("items", "scores", "interests", "probability", "explored"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(small, name))
    assert calls[0] == (7, 50)
    assert calls[-1] == (50, 50)


def test_visiting_everything_equals_visiting_no_cell_apart():
    """With one cell the same vectors give what all visited cells give."""
    side, postings = world(8, items=200, cells=9)
    users = histories(8, 30, 200)
    exact = retrieve(side, postings, users, 25, Policy(), exclude_seen=True)
    nearly = retrieve(side, postings, users, 25, Policy(visit=1 - 1e-12), exclude_seen=True)
    np.testing.assert_array_equal(exact.items, nearly.items)
    np.testing.assert_array_equal(exact.scores, nearly.scores)


def test_visited_cells_reach_the_mass():
    posterior = np.array([[0.5, 0.0, 0.3, 0.2]], np.float32)
    assert visited_cells(posterior, 0.0).tolist() == [[True, False, False, False]]
    assert visited_cells(posterior, 0.5).tolist() == [[True, False, False, False]]
    assert visited_cells(posterior, 0.6).tolist() == [[True, False, True, False]]
    assert visited_cells(posterior, 1.0).all()


def test_one_cell_is_no_interest():
    side, postings = world(2, cells=1)
    found = retrieve(side, postings, histories(2, 3, 60), 5, Policy(), exclude_seen=False)
    assert (found.interests == -1).all()
    assert np.isnan(found.probability).all()
    with pytest.raises(ConfigError, match=r"explore = 0.1.*no interests"):
        retrieve(side, postings, histories(2, 3, 60), 5, Policy(explore=0.1), exclude_seen=False)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 30), k=st.integers(1, 40), n=st.integers(1, 6), decay=st.sampled_from([1.0, 0.5]))
def test_lists_are_added_up(seed, k, n, decay):
    rng = np.random.default_rng(seed)
    size = 30
    pairs = rng.permutation(size * size)[:200]
    scores = rng.integers(-2, 9, 200).astype(np.float32)
    postings = ScorePostings.build(pairs // size, pairs % size, scores, n_codes=size, size=size)
    users = histories(seed, 6, size)
    found = retrieve(HistorySide(n, decay), postings, users, k, Policy(), exclude_seen=True)
    table = {(int(p) // size, int(p) % size): float(s) for p, s in zip(pairs, scores, strict=True)}
    for row, history in enumerate(users):
        sums = {}
        for age, code in enumerate(history[::-1][:n]):
            for item in range(size):
                if (int(code), item) in table:
                    sums[item] = sums.get(item, 0.0) + decay**age * table[int(code), item]
        best = sorted((i for i in sums if i not in history), key=lambda i: (-sums[i], i))[:k]
        assert found.items[row, : len(best)].tolist() == best
        assert found.scores[row, : len(best)].tolist() == [sums[i] for i in best]
        assert (found.items[row, len(best) :] == -1).all()
    assert (found.interests == -1).all()
    assert not found.explored.any()


def test_a_code_that_a_user_repeats_counts_each_time():
    class Twice:
        def weigh(self, histories):
            return np.array([[0, 1, 0]], np.int32), np.array([[1, 1, 0.5]], np.float32)

    postings = ScorePostings.build(
        np.array([0, 1, 1]), np.array([2, 2, 3]), np.array([4, 1, 6], np.float32), n_codes=2, size=5
    )
    found = retrieve(Twice(), postings, Histories.from_lists([[1]]), 3, Policy(), exclude_seen=True)
    assert found.items.tolist() == [[2, 3, -1]]
    assert found.scores[0, :2].tolist() == [4 + 1 + 2, 6]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 30), k=st.integers(1, 40), exclude_seen=st.booleans())
def test_scores_of_every_item_are_sorted(seed, k, exclude_seen):
    scores = np.random.default_rng(seed).integers(-3, 4, (30, 30)).astype(np.float32)
    users = histories(seed, 6, 30, longest=25)
    found = retrieve(AllScores(scores), EveryItem(30), users, k, Policy(), exclude_seen=exclude_seen)
    for row, history in enumerate(users):
        of_user = scores[history[-1]]
        left = [item for item in range(30) if not exclude_seen or item not in history]
        best = sorted(left, key=lambda item: (-of_user[item], item))[:k]
        assert found.items[row, : len(best)].tolist() == best
        assert found.scores[row, : len(best)].tolist() == of_user[best].tolist()
        assert (found.items[row, len(best) :] == -1).all()
    assert (found.interests == -1).all()


def test_scores_of_every_item_respect_the_budget(monkeypatch):
    users, asked = histories(1, 40, 60_000), []

    class Zeros:
        def score(self, histories):
            asked.append(len(histories))
            return np.zeros((len(histories), 60_000), np.float32)

    found = retrieve(Zeros(), EveryItem(60_000), users, 2, Policy(), exclude_seen=False, budget_mb=4)
    assert max(asked) * 60_000 * 4 <= 4 << 20
    assert found.items.tolist() == [[0, 1]] * 40


def test_scores_that_cannot_be_are_refused():
    one = Histories.from_lists([[1]])
    with pytest.raises(ConfigError, match=r"shape \(1, 3\); expected \(1, 4\)"):
        retrieve(AllScores(np.zeros((4, 3))), EveryItem(4), one, 1, Policy(), exclude_seen=True)
    with pytest.raises(DataError, match="diverged"):
        retrieve(AllScores(np.full((4, 4), np.nan)), EveryItem(4), one, 1, Policy(), exclude_seen=True)
    lists = ScorePostings.build(np.zeros(1, int), np.zeros(1, int), np.ones(1, np.float32), n_codes=1, size=4)
    with pytest.raises(ConfigError, match="AllScores goes with EveryItem, not with ScorePostings"):
        retrieve(AllScores(np.zeros((4, 4))), lists, one, 1, Policy(), exclude_seen=True)


def test_popularity_is_the_head_of_its_list():
    scores = np.array([3, 9, 9, 1, 7], np.float32)
    postings = ScorePostings.build(np.zeros(5, int), np.arange(5), scores, n_codes=1, size=5)
    found = retrieve(ConstantSide(), postings, Histories.from_lists([[1], [3, 4]]), 3, Policy(), exclude_seen=True)
    assert found.items.tolist() == [[2, 4, 0], [1, 2, 0]]
    assert found.scores.tolist() == [[9, 7, 3], [9, 9, 3]]


def test_bad_requests_name_what_is_wrong():
    side, postings = world(0)
    with pytest.raises(ConfigError, match="k = 0"):
        retrieve(side, postings, Histories.from_lists([[1]]), 0, Policy(), exclude_seen=True)
    with pytest.raises(DataError, match="history 1 is empty"):
        retrieve(side, postings, Histories.from_lists([[1], []]), 1, Policy(), exclude_seen=True)
    with pytest.raises(DataError, match="history 1 holds item 60"):
        retrieve(side, postings, Histories.from_lists([[1], [2, 60]]), 1, Policy(), exclude_seen=True)
    with pytest.raises(ConfigError, match="budget_mb"):
        retrieve(side, postings, Histories.from_lists([[1]]), 1, Policy(), exclude_seen=True, budget_mb=0)
    side.posterior[2] = np.nan
    with pytest.raises(DataError, match="diverged"):
        retrieve(side, postings, Histories.from_lists([[2]]), 1, Policy(), exclude_seen=True)


@pytest.mark.parametrize("values", [[0.5, 0.2, 0.0, 0.0, 0.0, 0.0], [1.5, -0.5, 0.0, 0.0, 0.0, 0.0], [0.0] * 6])
def test_a_posterior_that_is_none_is_refused(values):
    side, postings = world(0)
    side.posterior[2] = values
    with pytest.raises(DataError, match="expected probabilities that sum to 1"):
        retrieve(side, postings, Histories.from_lists([[1], [2]]), 1, Policy(), exclude_seen=True)


@pytest.mark.parametrize(
    "policy", [Policy(), Policy(merge="quota"), Policy(explore=0.5), Policy(reach="cell", merge="probability")]
)
def test_a_user_vector_that_is_not_finite_is_refused(policy):
    side, postings = world(0)
    side.vectors[2] = np.nan
    with pytest.raises(DataError, match="diverged"):
        retrieve(side, postings, Histories.from_lists([[1], [2]]), 1, policy, exclude_seen=True)


def test_parts_of_different_models_are_refused():
    side, postings = world(0, cells=6)
    other = VectorPostings.build(postings.vectors, np.zeros(60, int), 7)
    one = Histories.from_lists([[1]])
    with pytest.raises(ConfigError, match="knows 6 codes, the postings 7"):
        retrieve(side, other, one, 1, Policy(), exclude_seen=True)
    with pytest.raises(ConfigError, match="do not fit"):
        retrieve(ConstantSide(), postings, one, 1, Policy(), exclude_seen=True)
    lists = ScorePostings.build(np.zeros(1, int), np.zeros(1, int), np.ones(1, np.float32), n_codes=1, size=60)
    with pytest.raises(ConfigError, match="do not fit"):
        retrieve(side, lists, one, 1, Policy(), exclude_seen=True)
    with pytest.raises(ConfigError, match="names code 1"):
        retrieve(HistorySide(), lists, one, 1, Policy(), exclude_seen=True)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Policy(merge="quota"), r"merge = 'quota', but this model adds up scored lists"),
        (Policy(merge="probability"), r"merge = 'probability'.*leave merge at 'max'"),
        (Policy(max_items=10), r"max_items = 10, but this model always adds up whole lists"),
        (Policy(reach="cell"), r"reach = 'cell', but the items of this model lie in no cells"),
    ],
)
def test_lists_refuse_what_they_cannot_do_and_do_more_than_visit_asks(policy, message):
    lists = ScorePostings.build(np.zeros(4, int), np.arange(4), np.ones(4, np.float32), n_codes=1, size=4)
    one = Histories.from_lists([[1]])
    for side, postings in ((ConstantSide(), lists), (AllScores(np.eye(4, dtype=np.float32)), EveryItem(4))):
        with pytest.raises(ConfigError, match=message):
            retrieve(side, postings, one, 3, policy, exclude_seen=False)
        found = retrieve(side, postings, one, 4, Policy(visit=0.1), exclude_seen=False)
        assert found.visits.certified.all()
        assert (found.items >= 0).all()
