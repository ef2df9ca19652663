"""Cells by posterior and place: the same in C and in Numba, near the truth, and the search stops where it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.data.histories import Histories
from tesserec.errors import DataError
from tesserec.index import scan as scanning
from tesserec.index.contract import Policy
from tesserec.index.filters import NOTHING
from tesserec.index.order import Order, cells_in_falling_order, heights, orders
from tesserec.index.postings import VectorPostings
from tesserec.index.scan import best_together, native_search
from tesserec.index.search import retrieve
from tesserec.index.topk import frozen
from tesserec.index.visiting import in_order
from tests.index.world import histories, world

NATIVE = native_search() is not None


def in_numba(monkeypatch):
    monkeypatch.setattr(scanning, "native", lambda *_: None)


def drawn(seed, items, dim, cells):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(cells, dim))
    of_item = rng.integers(0, cells, items)
    vectors = (centres[of_item] + 0.5 * rng.normal(size=(items, dim))).astype(np.float32)
    queries = rng.normal(size=(int(rng.integers(1, 10)), dim)).astype(np.float32)
    return VectorPostings.build(vectors, of_item, cells), queries, rng.normal(size=len(queries))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 30), dim=st.integers(1, 70), cells=st.integers(2, 60))
def test_heights_are_those_of_centres_and_spreads(seed, dim, cells):
    postings, queries, added = drawn(seed, 90, dim, cells)
    wanted = np.zeros(cells)
    for cell in range(cells):
        own = postings.vectors[postings.offsets[cell] : postings.offsets[cell + 1]].astype(np.float64)
        centre = own.mean(axis=0) if len(own) else np.zeros(dim)
        spread = np.sqrt(((own - centre) ** 2).mean()) if len(own) else 0.0
        reach = 4 * np.linalg.norm(queries.astype(np.float64), axis=1) * spread
        wanted[cell] = (queries.astype(np.float64) @ centre + reach + added).max()
    found = heights(postings.places, cells, queries, added)
    with pytest.MonkeyPatch.context() as patch:
        in_numba(patch)
        assert found.tolist() == heights(postings.places, cells, queries, added).tolist()
    longest = np.linalg.norm(queries, axis=1).max() * np.sqrt(17)
    assert (found >= wanted - 1e-4).all()
    assert (found <= wanted + 0.05 * longest * postings.places.longest + 1e-4).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 30), equal=st.booleans(), cap=st.none() | st.integers(1, 60))
def test_cells_come_in_falling_order_to_a_step(seed, equal, cap):
    rng = np.random.default_rng(seed)
    order = np.full(40, 2.5, np.float32) if equal else rng.normal(size=40).astype(np.float32)
    sizes = frozen(rng.integers(0, 20, 40))
    cells, stops = cells_in_falling_order(order, sizes, 0.25, -1 if cap is None else cap)
    assert (sizes[cells] > 0).all()
    step = np.ptp(order[sizes > 0]) / 4096 + 1e-5 if sizes.any() else 0
    assert (np.diff(order[cells]) <= step).all()
    assert (np.abs(stops - 0.25 - order[cells]) <= step).all()
    if cap is None:
        assert sorted(cells.tolist()) == np.flatnonzero(sizes).tolist()
    else:
        assert sizes[cells].sum() <= cap or len(cells) == 1
        whole, _ = cells_in_falling_order(order, sizes, 0.25, -1)
        assert cells.tolist() == whole[: len(cells)].tolist()
        assert len(cells) == len(whole) or sizes[whole[: len(cells) + 1]].sum() > cap


def test_the_posterior_weighs_by_its_logarithm():
    posterior = frozen(np.array([0.0, 1e-20, 1e-6, 0.1, 0.25, 0.5, 1.0], np.float32))
    found = orders(np.ones(7, np.float32), posterior, 0.5)
    assert np.abs(found - 1 - 0.5 * np.log(np.maximum(posterior, 1e-12))).max() <= 0.5 * 0.061
    assert orders(np.ones(7, np.float32), posterior, 0.0).tolist() == [1.0] * 7


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30),
    k=st.integers(1, 60),
    slack=st.sampled_from([-2.0, -0.5, 0.0, 1.0, 20.0]),
    changed=st.booleans(),
)
def test_the_search_stops_where_no_cell_reaches_the_answer(seed, k, slack, changed):
    postings, queries, added = drawn(seed, 2000, 6, 50)
    if changed:
        rng = np.random.default_rng(seed)
        new = np.concatenate([np.arange(0, 40), np.arange(2000, 2030)])
        vectors = rng.normal(size=(70, 6)).astype(np.float32)
        postings = postings.with_delta(new, vectors, rng.integers(0, 50, 70), np.arange(50, 60), 2030)
    near = heights(postings.places, 50, queries, added)
    cells, stops = cells_in_falling_order(near, frozen(postings.sizes), slack, -1)

    def ask(cells, stops):
        return best_together(postings.segments, cells, queries, added, NOTHING.listed, NOTHING, k, stops)

    best = ask(cells, stops)
    whole = best_together(postings.segments, cells[: best.visited], queries, added, NOTHING.listed, NOTHING, k)
    for one, other in zip(best[:3], whole[:3], strict=True):
        assert one.tolist() == other.tolist()
    assert best.visited >= 1
    # What is left out lies below the stop, and whatever reaches the final answer was visited.
    if best.visited < len(cells):
        assert len(best.values) == k
        assert stops[best.visited] < best.values[-1]
    if not changed and len(best.values) == k:
        assert (stops[best.visited :] < best.values[-1]).all()
    if NATIVE:
        with pytest.MonkeyPatch.context() as patch:
            in_numba(patch)
            patch.setattr(scanning, "native_search", lambda: None)
            again = ask(cells, stops)
        assert again.visited == best.visited
        assert again.items.tolist() == best.items.tolist()
        assert again.values.tolist() == best.values.tolist()


def test_an_endless_slack_is_exact_and_certified_and_a_small_one_honest():
    side, postings = world(4, items=400, cells=30, dim=5)
    asked = histories(5, 40, 400)
    exact = retrieve(side, postings, asked, 10, Policy(), exclude_seen=True)
    for slack in (np.inf, -1.0):
        found = retrieve(side, postings, asked, 10, Policy(), exclude_seen=True, order=Order(0.1, slack))
        posterior = side.encode(asked).posterior
        assert found.visits.by_place.all()
        assert not exact.visits.by_place.any()
        if slack > 0:
            assert found.items.tolist() == exact.items.tolist()
            assert found.visits.certified.all()
        else:
            assert (found.visits.cells < 30).any()
            assert (found.visits.certified == (found.visits.items == 400)).all()
            least = np.sort(posterior, axis=1)
            for user in range(40):
                left = 30 - found.visits.cells[user]
                assert least[user, :left].sum() - 1e-6 <= found.visits.mass_left[user]
                assert found.visits.mass_left[user] <= least[user, 30 - left :].sum() + 1e-6


def test_new_items_of_a_cell_that_had_none_are_found():
    rng = np.random.default_rng(0)
    queries = np.eye(4, dtype=np.float32)[:1]
    vectors = rng.normal(size=(100, 4)).astype(np.float32) + 10 * queries[0]
    postings = VectorPostings.build(vectors, rng.integers(0, 9, 100), 10)
    postings = postings.with_delta(np.array([100]), 20 * queries, np.array([9]), np.empty(0, np.int64), 101)
    posterior = np.full(10, 0.1, np.float32)
    cells, stops = in_order(postings, queries, np.zeros(1), posterior, Order(0.0, 0.0), None)
    best = best_together(postings.segments, cells, queries, np.zeros(1), NOTHING.listed, NOTHING, 1, stops)
    assert best.items.tolist() == [100]


def test_a_query_that_is_no_number_is_refused():
    postings, queries, added = drawn(1, 90, 4, 5)
    queries[0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        heights(postings.places, 5, queries, added)


def test_users_answered_together_get_what_each_gets_alone():
    side, postings = world(6, items=300, cells=20, dim=4)
    asked = histories(7, 30, 300)
    order = Order(0.05, -0.5)
    together = retrieve(side, postings, asked, 10, Policy(), exclude_seen=False, order=order)
    for user in range(30):
        alone = asked.take(np.array([user])).compact()
        found = retrieve(
            side,
            postings,
            Histories(alone.values, alone.starts, alone.stops),
            10,
            Policy(),
            exclude_seen=False,
            order=order,
        )
        assert found.items[0].tolist() == together.items[user].tolist()
        assert found.visits.items[0] == together.visits.items[user]
