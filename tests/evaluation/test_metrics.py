"""Metrics against an independent implementation, hand-made tables and what must hold for any list."""

from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.data.histories import Histories
from tesserec.errors import ConfigError, UserError
from tesserec.evaluation.metrics import COMPAT, ranking_metrics
from tests.evaluation.worlds import random_lists

KS = (1, 3, 10)


def log2(x: float) -> float:
    return math.log(x) / math.log(2)


def random_targets(users: int, items: int, seed: int, repeats: bool = True) -> Histories:
    random = np.random.default_rng(seed)
    return Histories.from_lists(
        [random.choice(items, size=random.integers(1, 15), replace=repeats) for _ in range(users)]
    )


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_trec_eval(seed: int) -> None:
    lists = random_lists(200, 40, 10, seed, unfilled=0.2)
    targets = random_targets(200, 40, seed)
    qrels = [ir_measures.Qrel(str(u), str(i), 1) for u, row in enumerate(targets) for i in set(row.tolist())]
    run = [
        ir_measures.ScoredDoc(str(u), str(i), 100.0 - place)
        for u, row in enumerate(lists.tolist())
        for place, i in enumerate(row)
        if i >= 0
    ]
    pairs = {
        f"{ours}@{k}": theirs @ k
        for ours, theirs in (("recall", ir_measures.R), ("ndcg", ir_measures.nDCG), ("hit", ir_measures.Success))
        for k in KS
    } | {f"mrr@{k}": ir_measures.RR @ k for k in KS}

    found = ranking_metrics(lists, targets, KS)

    assert set(found) == set(pairs)
    theirs = {name: np.zeros(200) for name in pairs}
    for value in ir_measures.iter_calc(list(pairs.values()), qrels, run):
        name = next(name for name, measure in pairs.items() if measure == value.measure)
        theirs[name][int(value.query_id)] = value.value
    for name in pairs:
        np.testing.assert_allclose(found[name], theirs[name], atol=1e-9, err_msg=name)


HAND = [
    # list, targets, expected at k = 3
    ([5, 7, 9], [5], {"recall": 1, "hit": 1, "mrr": 1, "ndcg": 1}),
    ([7, 9, 5], [5], {"recall": 1, "hit": 1, "mrr": 1 / 3, "ndcg": 1 / 2}),
    ([7, 9, 4], [5], {"recall": 0, "hit": 0, "mrr": 0, "ndcg": 0}),
    ([7, 9, 4], [9, 9, 9], {"recall": 1, "hit": 1, "mrr": 1 / 2, "ndcg": 1 / log2(3)}),
    ([5, -1, -1], [5, 6], {"recall": 1 / 2, "hit": 1, "mrr": 1, "ndcg": 1 / (1 + 1 / log2(3))}),
    ([1, 2, 3], [1, 2, 3, 4, 5], {"recall": 3 / 5, "hit": 1, "mrr": 1, "ndcg": 1}),
    ([-1, -1, -1], [0], {"recall": 0, "hit": 0, "mrr": 0, "ndcg": 0}),
]


@pytest.mark.parametrize(("ranked", "targets", "expected"), HAND)
def test_metrics_by_hand(ranked: list[int], targets: list[int], expected: dict[str, float]) -> None:
    found = ranking_metrics(np.array([ranked], dtype=np.int32), Histories.from_lists([targets]), [3])
    assert {name: pytest.approx(value[0]) for name, value in found.items()} == {
        f"{name}@3": value for name, value in expected.items()
    }


VARIANTS = [
    # One hit at rank 3, two targets missed: the ideal of one hit, discounted by rank.
    ("comirec-master", [7, 8, 5], [5, 1, 2], 1 / 2),
    # The same list: the hit is the first target, so its rank in the list plays no part.
    ("comirec-paper", [7, 8, 5], [5, 1, 2], 1.0),
    ("comirec-paper", [7, 8, 5], [1, 2, 5], 1 / 2),
    ("comirec-paper", [7, 8, 5], [1, 7, 5], (1 / log2(3) + 1 / 2) / (1 + 1 / log2(3))),
    # A set of {8, 9, 6} is walked in table order 8, 9, 6 (modulo 8): item 5 comes last whatever its rank.
    ("remi", [5, 7, 8], [5], 1 / 2),
    ("remi", [8, 7, 5], [5], 1 / 2),
    ("comirec-master", [7, 8, 6], [5], 0.0),
    ("comirec-paper", [7, 8, 6], [5], 0.0),
]


@pytest.mark.parametrize(("variant", "ranked", "targets", "expected"), VARIANTS)
def test_published_variants(variant: str, ranked: list[int], targets: list[int], expected: float) -> None:
    lists = np.array([ranked], dtype=np.int32)
    found = ranking_metrics(lists, Histories.from_lists([targets]), [3], [variant])
    assert found[f"ndcg[{variant}]@3"][0] == pytest.approx(expected)


def test_published_variants_are_off_by_default() -> None:
    found = ranking_metrics(np.array([[0]], dtype=np.int32), Histories.from_lists([[0]]), [1])
    assert not [name for name in found if "[" in name]


@pytest.mark.parametrize("variant", [*COMPAT, None])
def test_many_users_equal_one_by_one(variant: str | None) -> None:
    lists, targets = random_lists(9000, 30, 5, 3, unfilled=0.1), random_targets(9000, 30, 4)
    compat = [variant] if variant else []
    together = ranking_metrics(lists, targets, [2, 5], compat)
    for row in (0, 8191, 8192, 8999):
        alone = ranking_metrics(lists[row : row + 1], targets.take(slice(row, row + 1)), [2, 5], compat)
        assert {name: value[0] for name, value in alone.items()} == {
            name: value[row] for name, value in together.items()
        }


def test_relabelled_items_change_nothing() -> None:
    lists, targets = random_lists(100, 40, 10, 5), random_targets(100, 40, 6)
    labels = np.random.default_rng(7).permutation(100_000)[:40].astype(np.int32)
    renamed = Histories(labels[targets.values], targets.starts, targets.stops)
    compat = ["comirec-master", "comirec-paper"]
    before, after = (ranking_metrics(a, b, KS, compat) for a, b in ((lists, targets), (labels[lists], renamed)))
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_targets_may_be_ranges_of_a_shared_array() -> None:
    shared = np.arange(20, dtype=np.int32)
    targets = Histories(shared, np.array([15, 2]), np.array([17, 3]))
    lists = np.array([[16, 0], [2, 15]], dtype=np.int32)
    assert ranking_metrics(lists, targets, [2])["recall@2"].tolist() == [0.5, 1.0]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    st.lists(st.integers(0, 30), unique=True, min_size=1, max_size=12),
    st.lists(st.integers(0, 30), min_size=1, max_size=20),
)
def test_bounded_and_monotone(ranked: list[int], targets: list[int]) -> None:
    lists = np.array([ranked], dtype=np.int32)
    ks = range(1, len(ranked) + 1)
    found = ranking_metrics(lists, Histories.from_lists([targets]), ks, list(COMPAT))
    assert all(0 <= value[0] <= 1 + 1e-12 for value in found.values())
    for metric in ("recall", "hit", "mrr"):
        values = [found[f"{metric}@{k}"][0] for k in ks]
        assert values == sorted(values)
    everything = np.array([sorted(set(targets))], dtype=np.int32)
    perfect = ranking_metrics(everything, Histories.from_lists([targets]), [everything.shape[1]])
    assert all(value[0] == pytest.approx(1.0) for value in perfect.values())


def test_refuses_what_has_no_answer() -> None:
    lists, targets = np.zeros((2, 3), dtype=np.int32), Histories.from_lists([[1], []])
    with pytest.raises(UserError, match="user row 1 has no targets"):
        ranking_metrics(lists, targets, [3])
    with pytest.raises(UserError, match="2 lists but 1 rows"):
        ranking_metrics(lists, targets.take(slice(0, 1)), [3])
    full = Histories.from_lists([[1], [2]])
    for ks in ([4], [0], []):
        with pytest.raises(ConfigError, match="every k must lie between 1 and the list length 3"):
            ranking_metrics(lists, full, ks)
    with pytest.raises(ConfigError, match="'trec' is unknown; choose from comirec-paper"):
        ranking_metrics(lists, full, [3], ["trec"])
