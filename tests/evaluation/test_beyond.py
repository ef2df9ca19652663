"""Coverage, Gini, popularity, tail and diversity against hand-made values and brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl
import pytest

from tesserec.data.histories import Histories
from tesserec.evaluation import beyond
from tests.evaluation.worlds import dataset, random_lists, random_world


def test_exposure_coverage_and_gini_by_hand() -> None:
    lists = np.array([[0, 1], [0, -1], [0, 3]], dtype=np.int32)
    exposed = beyond.exposure(lists, 2, 5)
    assert exposed.tolist() == [3, 1, 0, 1, 0]
    assert beyond.exposure(lists, 1, 5).tolist() == [3, 0, 0, 0, 0]
    assert beyond.coverage(exposed) == 3 / 5
    brute = sum(abs(a - b) for a in exposed for b in exposed) / (2 * len(exposed) * exposed.sum())
    assert beyond.gini(exposed) == pytest.approx(brute)


def test_gini_at_its_ends() -> None:
    assert beyond.gini(np.full(8, 3)) == pytest.approx(0.0)
    assert beyond.gini(np.array([0, 0, 0, 9])) == pytest.approx(3 / 4)
    assert np.isnan(beyond.gini(np.zeros(4, dtype=np.int64)))


def test_popularity_percentile_counts_ties_half() -> None:
    assert beyond.popularity_percentile(np.array([9, 2, 2, 0])).tolist() == [3.5 / 4, 2 / 4, 2 / 4, 0.5 / 4]
    lists = np.array([[0, 3], [3, -1], [-1, -1]], dtype=np.int32)
    found = beyond.mean_popularity(lists, np.array([9, 2, 2, 0]), [1, 2])
    np.testing.assert_allclose(found["popularity@1"], [3.5 / 4, 0.5 / 4, np.nan])
    np.testing.assert_allclose(found["popularity@2"], [2 / 4, 0.5 / 4, np.nan])


def test_tail_is_the_least_popular_four_fifths() -> None:
    counts = np.array([1, 50, 1, 1, 1, 1, 40, 1, 1, 1])
    assert np.flatnonzero(~beyond.tail_items(counts)).tolist() == [1, 6]
    targets = beyond.tail_targets(Histories.from_lists([[1, 2, 6], [6], [3, 3]]), counts)
    assert [row.tolist() for row in targets] == [[2], [], [3, 3]]


def test_category_diversity_equals_brute_force() -> None:
    world = random_world(users=1)
    lists = random_lists(40, 60, 8, 1, unfilled=0.3)
    brands, tags = world.item_table["brand"].to_list(), world.item_table["tags"].to_list()
    sets = [{("brand", b)} - {("brand", None)} | {("tag", tag) for tag in t} for b, t in zip(brands, tags, strict=True)]
    found = beyond.category_diversity(lists, world, [3, 8])
    for k in (3, 8):
        for row, value in zip(lists, found[f"diversity@{k}"], strict=True):
            shown = [sets[item] for item in row[:k] if item >= 0]
            similar = [len(a & b) / len(a | b) for a, b in combinations(shown, 2)]
            np.testing.assert_allclose(value, 1 - np.mean(similar) if similar else np.nan)


def test_items_without_a_category_resemble_nothing() -> None:
    table = pl.DataFrame({"id": ["a", "b", "c"], "kind": [None, None, "x"], "tags": [[], None, []]},
                         schema_overrides={"tags": pl.List(pl.String)})  # fmt: skip
    world = dataset([[0]], [[0]], [[1]], 3, item_table=table, roles={"kind": "categorical", "tags": "multi"})
    lists = np.array([[0, 1, 2]], dtype=np.int32)
    assert beyond.category_diversity(lists, world, [3])["diversity@3"].tolist() == [1.0]


def test_lists_of_a_fixed_size_are_lists() -> None:
    tags = pl.Series("tags", [["a", "b"], ["b", "c"], ["d", "e"]], dtype=pl.Array(pl.String, 2))
    table = pl.DataFrame({"id": ["a", "b", "c"], "tags": tags})
    world = dataset([[0]], [[0]], [[1]], 3, item_table=table, roles={"tags": "multi"})
    lists = np.array([[0, 1]], dtype=np.int32)
    assert beyond.category_diversity(lists, world, [2])["diversity@2"].tolist() == [pytest.approx(2 / 3)]


def test_same_value_in_two_columns_is_two_categories() -> None:
    table = pl.DataFrame({"id": ["a", "b"], "brand": ["x", "y"], "maker": ["y", "x"]})
    world = dataset([[0]], [[0]], [[1]], 2, item_table=table, roles={"brand": "categorical", "maker": "categorical"})
    assert beyond.category_diversity(np.array([[0, 1]], dtype=np.int32), world, [2])["diversity@2"].tolist() == [1.0]


def test_no_categories_no_diversity() -> None:
    world = dataset([[0]], [[0]], [[1]], 3, roles={"price": "numeric"})
    assert beyond.category_diversity(np.array([[0, 1]], dtype=np.int32), world, [2]) == {}


def test_vector_diversity_equals_brute_force() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    lists = random_lists(40, 60, 8, 2, unfilled=0.3)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = beyond.vector_diversity(lists, vectors, [3, 8])
    for k in (3, 8):
        for row, value in zip(lists, found[f"diversity@{k}"], strict=True):
            similar = [unit[a] @ unit[b] for a, b in combinations(row[:k][row[:k] >= 0], 2)]
            np.testing.assert_allclose(value, 1 - np.mean(similar) if similar else np.nan, rtol=1e-5)
