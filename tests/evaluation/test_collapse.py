"""Collapse of interests against hand-made values and loops over pairs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tesserec.evaluation.collapse import effective_number, list_shares, mean_cosine, mean_jaccard


def test_effective_number_counts_equal_shares_and_nothing_else() -> None:
    found = effective_number(np.array([[1, 1, 1, 1], [7, 0, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]]))
    np.testing.assert_allclose(found[:3], [4, 1, 2])
    assert np.isnan(found[3])
    uneven = effective_number(np.array([[3.0, 1.0]]))[0]
    assert uneven == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))


def test_mean_cosine_by_hand() -> None:
    vectors = np.array([[[1, 0], [5, 0], [0, 2]], [[1, 0], [-1, 0], [9, 9]], [[1, 0], [0, 0], [0, 1]]], np.float32)
    read = np.array([[True, True, True], [True, True, False], [True, True, False]])
    np.testing.assert_allclose(mean_cosine(vectors, read), [1 / 3, -1, np.nan])


def test_mean_cosine_agrees_with_pairs() -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 5, 7)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    brute = [np.mean([a @ b for a, b in combinations(user, 2)]) for user in unit]
    np.testing.assert_allclose(mean_cosine(vectors, np.ones((20, 5), bool)), brute, atol=1e-6)


def test_mean_jaccard_agrees_with_sets() -> None:
    random = np.random.default_rng(1)
    lists = np.argsort(random.random((30, 4, 20)), axis=2)[:, :, :6]
    lists[:10, 3] = -1
    lists[:20, 2, 4:] = -1
    found = mean_jaccard(lists)
    for user, rows in enumerate(lists):
        sets = [set(row[row >= 0]) for row in rows if (row >= 0).any()]
        assert found[user] == pytest.approx(np.mean([len(a & b) / len(a | b) for a, b in combinations(sets, 2)]))


def test_one_list_has_no_overlap() -> None:
    assert np.isnan(mean_jaccard(np.array([[[1, 2], [-1, -1]]]))).all()


def test_list_shares_by_hand() -> None:
    interests = np.array([[5, 5, 9, 2], [3, 3, 3, 3], [1, 4, 8, 8], [0, 0, 0, 0]])
    filled = np.array([[True] * 4, [True] * 4, [True, True, False, False], [False] * 4])
    spread, largest = list_shares(interests, filled)
    np.testing.assert_allclose(spread, [*effective_number(np.array([[2, 1, 1], [1, 0, 0], [1, 1, 0]])), np.nan])
    np.testing.assert_allclose(largest, [0.5, 1.0, 0.5, np.nan])
