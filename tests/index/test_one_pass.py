"""One pass over the visited cells against searching interest by interest and merging."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.index import compact, one_pass, search
from tesserec.index.contract import Policy
from tesserec.index.postings import VectorPostings
from tesserec.index.search import retrieve
from tests.index.test_filters import bits
from tests.index.world import histories, world


def both_ways(monkeypatch, *given, **settings):
    fast = retrieve(*given, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(search, "suits", lambda *_: False)
        slow = retrieve(*given, **settings)
    return fast, slow


def assert_same(fast, slow):
    for name in set(vars(fast)) - {"visits"}:
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name), err_msg=name)
    for name in vars(fast.visits):
        np.testing.assert_allclose(getattr(fast.visits, name), getattr(slow.visits, name), atol=1e-6, err_msg=name)


@pytest.mark.parametrize("in_c", [True, False])
@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30),
    merge=st.sampled_from(["max", "probability"]),
    visit=st.sampled_from([0.0, 0.2, 0.7, 0.95, 0.9999]),
    target=st.sampled_from([{}, {"max_items": 1}, {"max_items": 90}]),
    k=st.integers(1, 80),
    ties=st.booleans(),
    cells=st.sampled_from([2, 7, 150]),
    select=st.sampled_from(["posterior", "history"]),
    denied=st.sampled_from([set(), {1, 2, 3}, set(range(190))]),
)
def test_one_pass_equals_interest_by_interest(in_c, seed, merge, visit, target, k, ties, cells, select, denied):
    monkeypatch = pytest.MonkeyPatch()
    try:
        monkeypatch.setattr(one_pass, "_CHUNK", 37)
        if not in_c:
            monkeypatch.setattr(compact, "_compiled", lambda: None)
        side, postings = world(seed, items=200, cells=cells, dim=6, ties=ties)
        policy = Policy(interests=5, merge=merge, visit=visit, select=select, **target)
        users = histories(seed, 5, 200)
        assert one_pass.suits(policy, postings, 5)
        denied = bits(denied, 200)
        assert_same(*both_ways(monkeypatch, side, postings, users, k, policy, exclude_seen=True, denied=denied))
    finally:
        monkeypatch.undo()


def test_near_ties_grow_the_candidates_and_are_told_apart(monkeypatch):
    rng = np.random.default_rng(6)
    side, postings = world(6, items=9000, cells=3, dim=64)
    vectors = (rng.normal(size=64) * 100).astype(np.float32) * np.ones((9000, 1), np.float32)
    vectors[np.arange(9000), rng.integers(0, 64, 9000)] *= np.float32(1 + 2e-7)
    postings = VectorPostings.build(vectors, postings.cell_of, 3)
    side.vectors = rng.normal(size=(9000, 3, 64)).astype(np.float32)
    users, policy = histories(6, 8, 9000), Policy(interests=3, visit=0.8)
    assert_same(*both_ways(monkeypatch, side, postings, users, 20, policy, exclude_seen=True))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30),
    merge=st.sampled_from(["max", "probability"]),
    k=st.integers(1, 60),
    cells=st.sampled_from([2, 40, 150]),
    denied=st.sampled_from([set(), set(range(190))]),
)
def test_an_exact_search_proves_what_it_leaves_out(seed, merge, k, cells, denied):
    side, postings = world(seed, items=400, cells=cells, dim=3)
    middles = np.random.default_rng(seed).normal(size=(cells, 3)).astype(np.float32) * 5
    vectors = middles[postings.cell_of] + postings.vectors_of(np.arange(400)) * np.float32(0.2)
    postings = VectorPostings.build(vectors, postings.cell_of, cells)
    users, given = histories(seed, 5, 400), {"exclude_seen": True, "denied": bits(denied, 400)}
    proven = retrieve(side, postings, users, k, Policy(interests=5, merge=merge, exact=True), **given)
    whole = retrieve(side, postings, users, k, Policy(interests=5, merge=merge), **given)
    for name in set(vars(whole)) - {"visits"}:
        np.testing.assert_array_equal(getattr(proven, name), getattr(whole, name), err_msg=name)
    assert proven.visits.certified.all()
    assert (proven.visits.items <= 400).all()


def test_a_proof_saves_most_of_the_work_where_cells_are_tight():
    rng = np.random.default_rng(1)
    side, postings = world(1, items=5000, cells=100, dim=8)
    middles = rng.normal(size=(100, 8)).astype(np.float32) * 9
    vectors = middles[postings.cell_of] + rng.normal(size=(5000, 8)).astype(np.float32) * np.float32(0.1)
    postings = VectorPostings.build(vectors, postings.cell_of, 100)
    side.posterior[:] = 0.01  # says nothing of use
    found = retrieve(side, postings, histories(1, 20, 5000), 10, Policy(exact=True, visit=0.05), exclude_seen=True)
    assert found.visits.certified.all()
    assert found.visits.items.mean() < 1500
