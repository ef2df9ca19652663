"""The 8-bit scan against a full sort: bit for bit, in C and in Numba, over both segments, under any filter."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.data.histories import Histories
from tesserec.errors import ConfigError, DataError
from tesserec.index import scan as scanning
from tesserec.index.contract import Policy
from tesserec.index.filters import NOTHING, Blocked, Filter
from tesserec.index.postings import VectorPostings
from tesserec.index.scan import best_together, native_search
from tesserec.index.score_postings import ScorePostings
from tesserec.index.search import retrieve
from tesserec.index.topk import frozen
from tesserec.index.user_side import HistorySide
from tesserec.index.visiting import cells_in_order, visited_cells
from tests.index.world import catalogue, histories, world

KERNELS = ["numba", pytest.param("c", marks=pytest.mark.skipif(native_search() is None, reason="no C kernel here"))]


def choose(monkeypatch, kernel):
    if kernel == "numba":
        monkeypatch.setattr(scanning, "native_search", lambda: None)


def in_fours(query, vectors):
    """Scores in the order of additions that the kernels keep to."""
    products, sums = vectors.astype(np.float64) * query.astype(np.float64), np.zeros((len(vectors), 4))
    whole = products.shape[1] // 4 * 4
    for start in range(0, whole, 4):
        sums += products[:, start : start + 4]
    for rest in range(whole, products.shape[1]):
        sums[:, 0] += products[:, rest]
    return ((sums[:, 0] + sums[:, 1]) + (sums[:, 2] + sums[:, 3])).astype(np.float32)


def slow_best(vectors, allowed, queries, added, k):
    values = np.max(
        [in_fours(query, vectors).astype(np.float64) + a for query, a in zip(queries, added, strict=True)], axis=0
    )
    order = sorted(allowed, key=lambda item: (-values[item], item))[:k]
    return order, values[order].tolist()


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30),
    k=st.integers(1, 200),
    dim=st.integers(1, 9) | st.integers(1, 70),
    kind=st.sampled_from(["ties", 1e-18, 1.0, 1e12]),
    changed=st.integers(0, 12),
)
def test_the_scan_equals_a_full_sort(kernel, seed, k, dim, kind, changed):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.integers(-2, 3, shape) if kind == "ties" else rng.normal(size=shape) * kind

    vectors, cells, n_cells = draw(150, dim).astype(np.float32), rng.integers(0, 9, 150), 9
    postings = VectorPostings.build(vectors, cells, n_cells)
    size = 150
    allowed = set(range(150))
    if changed:
        size += changed
        items = np.concatenate([rng.choice(150, changed, replace=False), np.arange(150, size)])
        removed = np.setdiff1d(rng.choice(150, 20), items)
        vectors = np.vstack([vectors, draw(changed, dim).astype(np.float32)])
        cells = np.concatenate([cells, rng.integers(0, 9, changed)])
        vectors[items], cells[items] = draw(len(items), dim), rng.integers(0, 9, len(items))
        postings = postings.with_delta(items, vectors[items], cells[items], removed, size)
        allowed = set(range(size)) - set(removed.tolist())
    queries, added = draw(int(rng.integers(1, 10)), dim).astype(np.float32), rng.normal(size=9)
    added = added[: len(queries)]
    visited = rng.permutation(n_cells)[: int(rng.integers(1, 10))]
    unwanted = np.unique(rng.integers(0, size, 7)).astype(np.int32)
    listed = np.unique(rng.integers(0, size, 3)).astype(np.int32)
    mask = rng.random(size) < 0.2
    blocked = Blocked(listed, np.packbits(mask, bitorder="little"))
    allowed -= {*unwanted.tolist(), *listed.tolist(), *np.flatnonzero(mask).tolist()}
    allowed = {item for item in allowed if cells[item] in visited}
    with pytest.MonkeyPatch.context() as patch:
        choose(patch, kernel)
        best = best_together(postings.segments, visited.astype(np.int64), queries, added, unwanted, blocked, k)
    assert best is not None
    order, values = slow_best(vectors, allowed, queries, added, k)
    assert best[0].tolist() == order
    assert best[1].tolist() == values
    for item, value, column in zip(*best[:3], strict=True):
        assert np.float64(in_fours(queries[column], vectors[item : item + 1])[0]) + added[column] == value


@pytest.mark.parametrize("kernel", KERNELS)
def test_too_many_near_ties_are_left_to_the_exact_search(kernel, monkeypatch):
    choose(monkeypatch, kernel)
    monkeypatch.setattr(scanning, "_ROOM", 32)
    side, _ = world(3, items=2000, cells=4)
    postings = VectorPostings.build(np.ones((2000, 4), np.float32), np.arange(2000) % 4, 4)
    query = np.ones((1, 4), np.float32)
    assert best_together(postings.segments, np.arange(4), query, np.zeros(1), NOTHING.listed, NOTHING, 1) is None
    found = retrieve(side, postings, histories(3, 3, 2000), 5, Policy(), exclude_seen=False)
    assert found.items.tolist() == [[0, 1, 2, 3, 4]] * 3


@pytest.mark.parametrize("kernel", KERNELS)
def test_where_there_is_no_room_for_near_ties_there_is_a_larger_one(kernel, monkeypatch):
    choose(monkeypatch, kernel)
    monkeypatch.setattr(scanning, "_ROOM", 32)
    postings = VectorPostings.build(np.ones((500, 4), np.float32), np.arange(500) % 4, 4)
    best = best_together(postings.segments, np.arange(4), np.ones((1, 4)), np.zeros(1), NOTHING.listed, NOTHING, 1)
    assert best is not None
    assert best.items.tolist() == [0]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dim", range(1, 12))
def test_exact_products_are_added_in_one_order(kernel, dim, monkeypatch):
    """Sums that cancel beyond float64 tell in which order they were made."""
    choose(monkeypatch, kernel)
    rng, values = np.random.default_rng(dim), np.array([-(2.0**40), 2.0**40, 1, 3, -2])
    vectors, query = rng.choice(values, (300, dim)).astype(np.float32), rng.choice(values, (1, dim)).astype(np.float32)
    postings = VectorPostings.build(vectors, np.arange(300) % 4, 4)
    best = best_together(postings.segments, np.arange(4), query, np.zeros(1), NOTHING.listed, NOTHING, 300)
    assert best is not None
    assert best[1].tolist() == in_fours(query[0], vectors)[best[0]].tolist()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
def test_a_query_that_float32_cannot_score_is_refused(kernel, bad, monkeypatch):
    choose(monkeypatch, kernel)
    postings = VectorPostings.build(np.ones((50, 4), np.float32), np.arange(50) % 4, 4)
    queries = np.array([[bad, 1, 0, 0], [1, 1, 1, 1]], np.float32)
    with pytest.raises(DataError, match=r"query vector 0 holds NaN|beyond float32"):
        best_together(postings.segments, np.arange(4), queries, np.zeros(2), NOTHING.listed, NOTHING, 3)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30),
    visit=st.sampled_from([0.0, 0.4, 0.9, 0.999999, 1.0]),
    peaked=st.sampled_from([0.0, 1.0, 30.0]),
    cap=st.none() | st.integers(1, 200),
)
def test_cells_come_in_falling_probability_to_the_mass(seed, visit, peaked, cap):
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 5, 40) * np.exp(-peaked * rng.random(40))
    weights[3] += 1e-9
    posterior, sizes = (weights / weights.sum()).astype(np.float32), rng.integers(0, 20, 40)
    order = np.argsort(-posterior, kind="stable")
    before = np.append(0, np.cumsum(posterior[order], dtype=np.float64))[:-1]
    wanted = order if visit == 1.0 else order[(before < visit) | (np.arange(40) == 0)]
    assert cells_in_order(frozen(posterior), visit).tolist() == wanted.tolist()
    if cap is not None:
        wanted = wanted[(np.cumsum(sizes[wanted]) <= cap) | (np.arange(len(wanted)) == 0)]
    assert np.flatnonzero(visited_cells(posterior[None], visit, sizes, cap)[0]).tolist() == sorted(wanted.tolist())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30),
    k=st.integers(1, 40),
    policy=st.sampled_from(
        [
            Policy(),
            Policy(merge="quota"),
            Policy(merge="probability", explore=0.3),
            Policy(interests=6, reach="cell", normalise=True, merge="probability"),
        ]
    ),
    changed=st.integers(0, 10),
)
def test_a_delta_equals_a_rebuild(seed, k, policy, changed):
    """Removed items are denied to the rebuild, whose normaliser must not know them: they lie in a cell of their own."""
    rng = np.random.default_rng(seed)
    side, postings = world(seed, items=60, cells=6)
    items = rng.choice(60, changed, replace=False)
    vectors, cells = postings.vectors_of(np.arange(60)), postings.cell_of.copy()
    vectors[items], cells[items] = rng.normal(size=(changed, 4)), rng.integers(0, 6, changed)
    living = postings.with_delta(items, vectors[items], cells[items], np.empty(0, int), 60)
    rebuilt = VectorPostings.build(vectors, cells, 6)
    users = histories(seed, 5, 60)
    one = retrieve(side, living, users, k, policy, exclude_seen=True)
    other = retrieve(side, rebuilt, users, k, policy, exclude_seen=True)
    np.testing.assert_array_equal(one.items, other.items)
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-6)
    np.testing.assert_array_equal(living.cell_of, cells)


def test_removed_items_are_gone_from_answers_and_normalisers():
    side, postings = world(2, items=40, cells=3)
    gone = np.flatnonzero(postings.cell_of == 1)[1:]
    living = postings.with_delta(np.empty(0, int), np.empty((0, 4)), np.empty(0, int), gone, 40)
    policy = Policy(interests=3, merge="probability", reach="cell", normalise=True)
    found = retrieve(side, living, histories(2, 9, 40), 40, policy, exclude_seen=False)
    assert not np.isin(found.items, gone).any()
    mass = np.exp(found.scores.astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(mass, 1, rtol=1e-5)


def test_lists_with_a_delta_equal_a_rebuild():
    rng = np.random.default_rng(1)
    code, item = np.nonzero(rng.random((10, 30)) < 0.5)
    scores = rng.normal(size=len(code)).astype(np.float32)
    lists = ScorePostings.build(code, item, scores, n_codes=10, size=30)
    changed, kept = np.isin(item, [3, 8]), ~np.isin(item, [3, 8, 12])
    delta = ScorePostings.build(code[changed], item[changed], scores[changed] + 1, n_codes=10, size=31)
    living = lists.with_delta(delta, np.array([12]))
    use = changed | kept
    rebuilt = ScorePostings.build(code[use], item[use], (scores + changed)[use], n_codes=10, size=31)
    users = Histories.from_lists([[1, 2, 9], [4]])
    one, other = (retrieve(HistorySide(), part, users, 12, Policy(), exclude_seen=False) for part in (living, rebuilt))
    np.testing.assert_array_equal(one.items, other.items)
    np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize("policy", [Policy(), Policy(merge="quota"), Policy(visit=0.1), Policy(reach="cell")])
def test_filters_fill_k_from_what_they_leave(policy):
    side, postings = world(4, items=80, cells=5)
    table = catalogue(80, kind=["a", "b"] * 40).table
    only = Filter(deny=[0, 2], where={"kind": ["a"]})
    found = retrieve(side, postings, histories(4, 9, 80), 12, policy, exclude_seen=False, blocked=only.resolve(table))
    assert (found.items % 2 <= 0).all()
    assert not np.isin(found.items, [0, 2]).any()
    if policy.reach == "catalogue":
        assert (found.items >= 0).all()
    few = Filter(allow={7, 8, 9}).resolve(table)
    found = retrieve(side, postings, histories(4, 9, 80), 12, Policy(), exclude_seen=False, blocked=few)
    assert [sorted(row[row >= 0]) for row in found.items] == [[7, 8, 9]] * 9


def test_bad_filters_are_refused():
    table = catalogue(5, kind=list("abcab")).table.with_columns(tags=pl.Series([["x"], [], ["x", "y"], None, ["z"]]))
    assert np.unpackbits(Filter(where={"tags": "x"}).resolve(table).bits, count=5, bitorder="little").tolist() == [
        *(0, 1, 0, 1, 1)
    ]
    with pytest.raises(DataError, match="deny names item 5; the catalogue has 0 to 4"):
        Filter(deny=[5]).resolve(table)
    with pytest.raises(DataError, match="allow holds"):
        Filter(allow=[0.5]).resolve(table)
    with pytest.raises(ConfigError, match="where names 'colour'"):
        Filter(where={"colour": "red"}).resolve(table)
    with pytest.raises(ConfigError, match="cannot be compared"):
        Filter(where={"kind": 3}).resolve(table)


def test_a_cap_on_items_holds_and_says_what_it_left_out():
    side, postings = world(6, items=300, cells=30)
    found = retrieve(side, postings, histories(6, 20, 300), 5, Policy(max_items=50), exclude_seen=False)
    assert (found.visits.items <= 50).all()
    assert not found.visits.certified.any()
    assert ((found.visits.mass_left > 0) & (found.visits.mass_left < 1)).all()
    everything = retrieve(side, postings, histories(6, 20, 300), 5, Policy(), exclude_seen=False)
    assert everything.visits.certified.all()
    assert (everything.visits.items == 300).all()


def test_threads_share_postings():
    side, postings = world(7, items=900, cells=20)
    users = histories(7, 40, 900)
    alone = retrieve(side, postings, users, 20, Policy(), exclude_seen=True)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(retrieve, side, postings, users, 20, Policy(), exclude_seen=True) for _ in range(12)]
    for answer in asked:
        np.testing.assert_array_equal(answer.result().items, alone.items)


def test_without_a_compiler_or_when_switched_off_numba_answers(monkeypatch, tmp_path):
    from tesserec.index import native

    asked = ("scan", "tesserec_best", "p")
    monkeypatch.setenv("TESSEREC_NATIVE", "0")
    assert native.native.__wrapped__(*asked) is None  # although it could be had
    monkeypatch.delenv("TESSEREC_NATIVE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    assert native.native.__wrapped__(*asked) is None
