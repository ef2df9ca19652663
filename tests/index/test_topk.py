"""Exact top-k against a full sort in float64, for every blocking."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.data.histories import Histories
from tesserec.errors import ConfigError, DataError
from tesserec.index import topk
from tesserec.index.topk import cells_topk, exact_topk, item_vectors, places
from tests.index.world import scores_of


def full_sort(queries, vectors, k, exclude=None, reach=None):
    items = np.full((len(queries), k), -1, np.int32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for row, query in enumerate(queries):
        values = scores_of(query, vectors)
        banned = set() if exclude is None else set(exclude[row].tolist())
        order = [i for i in np.lexsort((np.arange(len(values)), -values)) if i not in banned]
        order = [i for i in order if reach is None or i in reach[row]][:k]
        items[row, : len(order)], scores[row, : len(order)] = order, values[order]
    return items, scores


def assert_same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def vectors_of(kind, rng, rows, dim):
    if kind == "ties":
        return rng.integers(-1, 2, (rows, dim)).astype(np.float32)
    if kind == "near ties":  # apart by less than float32 products can tell
        base = rng.normal(size=dim).astype(np.float32)
        return np.nextafter(base, np.where(rng.random((rows, dim)) < 0.5, -np.inf, np.inf).astype(np.float32))
    if kind == "wide":
        return (rng.normal(size=(rows, dim)) * 10.0 ** rng.integers(-12, 12, (rows, 1))).astype(np.float32)
    return rng.normal(size=(rows, dim)).astype(np.float32)


KINDS = st.sampled_from(["normal", "ties", "near ties", "wide"])


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30),
    kind=KINDS,
    n=st.integers(1, 400),
    dim=st.integers(1, 33),
    k=st.integers(1, 150),
    tile=st.tuples(st.integers(1, 9), st.integers(1, 500)),
    excluding=st.booleans(),
)
def test_any_blocking_equals_the_full_sort(seed, kind, n, dim, k, tile, excluding):
    rng = np.random.default_rng(seed)
    queries, vectors = rng.normal(size=(7, dim)).astype(np.float32), vectors_of(kind, rng, n, dim)
    if kind == "ties":
        queries = np.rint(queries).astype(np.float32)
    exclude = Histories.from_lists([rng.integers(0, n, rng.integers(0, n + 1)) for _ in queries]) if excluding else None
    found = topk._matrix_topk(topk._Search(queries, item_vectors(vectors), k, exclude), *tile)
    assert_same(found, full_sort(queries, vectors, k, exclude))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 30), kind=KINDS, k=st.integers(1, 120))
def test_cells_equal_the_full_sort_over_what_they_hold(seed, kind, k):
    rng = np.random.default_rng(seed)
    n, cells = 300, 7
    queries, vectors = rng.normal(size=(5, 8)).astype(np.float32), vectors_of(kind, rng, n, 8)
    order = rng.permutation(n).astype(np.int32)
    offsets = np.sort(np.append(rng.integers(0, n + 1, cells - 1), [0, n]))
    visits = [rng.permutation(cells)[: rng.integers(0, cells + 1)] for _ in queries]
    exclude = Histories.from_lists([rng.integers(0, n, 20) for _ in queries])
    table = item_vectors(vectors[order], order)
    found = cells_topk(queries, table, offsets, Histories.from_lists(visits), k, exclude=exclude)
    reach = [{int(i) for c in row for i in order[offsets[c] : offsets[c + 1]]} for row in visits]
    assert_same(found, full_sort(queries, vectors, k, exclude, reach))


@pytest.mark.parametrize("budget", [1, 3, 1000])
def test_items_in_another_order_and_any_budget_give_the_same(budget):
    rng = np.random.default_rng(1)
    queries, vectors = rng.normal(size=(70, 16)).astype(np.float32), vectors_of("ties", rng, 9000, 16)
    order = rng.permutation(len(vectors)).astype(np.int32)
    found = exact_topk(queries, item_vectors(vectors[order], order), 30, budget_mb=budget)
    assert_same(found, full_sort(queries, vectors, 30))
    np.testing.assert_array_equal(places(order)[order], np.arange(len(order)))


def test_thousands_of_equal_vectors_need_no_more_room():
    vectors = np.ones((20_000, 8), np.float32)
    items, scores = exact_topk(np.ones((2, 8), np.float32), vectors, 5)
    assert items.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert scores.tolist() == [[8.0] * 5] * 2
    backwards = item_vectors(vectors, np.arange(20_000, dtype=np.int32)[::-1])
    items, _ = exact_topk(np.ones((1, 8), np.float32), backwards, 5)
    assert items.tolist() == [[0, 1, 2, 3, 4]]


def test_minus_zero_equals_zero():
    tiny = np.float32(1e-25)  # products of two of them round to zero of either sign
    items, scores = exact_topk(np.array([[tiny]]), np.array([[-tiny], [tiny], [-tiny]]), 3)
    assert items.tolist() == [[0, 1, 2]]
    assert scores.tolist() == [[0, 0, 0]]


def test_short_answers_are_padded():
    queries, vectors = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    items, scores = exact_topk(queries, vectors, 6, exclude=Histories.from_lists([[0, 0, 3], [0, 1, 2, 3]]))
    assert items.tolist() == [[1, 2, -1, -1, -1, -1], [-1] * 6]
    assert scores[0].tolist() == [3.0, 3.0, *[-np.inf] * 4]
    assert exact_topk(queries[:0], vectors, 6)[0].shape == (0, 6)


def test_memory_stays_within_the_budget():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300_000, 16)).astype(np.float32)
    queries = rng.normal(size=(100, 16)).astype(np.float32)
    exact_topk(queries, vectors[:1000], 10)
    tracemalloc.start()
    exact_topk(queries, vectors, 100, budget_mb=4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (4 << 20) + 20 * len(vectors)  # the rest is a few numbers a vector: lengths and item indices


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_diverged_vectors_are_refused(bad):
    good = np.ones((3, 2), np.float32)
    broken = good.copy()
    broken[1, 1] = bad
    with pytest.raises(DataError, match="query vector 1" if not np.isfinite(bad) else "beyond float32"):
        exact_topk(broken, good * np.float32(1e8), 1)
    if not np.isfinite(bad):
        with pytest.raises(DataError, match="item vector 1"):
            exact_topk(good, broken, 1)


def test_impossible_requests_are_refused():
    ones = np.ones((1, 2), np.float32)
    with pytest.raises(ConfigError, match="k = 0"):
        exact_topk(ones, ones, 0)
    with pytest.raises(ConfigError, match="budget_mb = 0"):
        exact_topk(ones, ones, 1, budget_mb=0)
