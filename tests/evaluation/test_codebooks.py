"""Codebook health by hand, and the map of the cells."""

from __future__ import annotations

import numpy as np
import pytest

from tesserec.errors import DataError
from tesserec.evaluation.codebooks import cell_means, churn, code_counts, codebook_figures, layout, telling
from tesserec.index.postings import VectorPostings

CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [3, 1], [3, 1]])


def test_two_levels_by_hand() -> None:
    assert code_counts(CODES, 5).tolist() == [[2, 2, 0, 2, 0], [2, 4, 0, 0, 0]]
    found = codebook_figures(CODES, 5)
    assert found["perplexity/0"] == pytest.approx(3)
    assert found["perplexity/1"] == pytest.approx(np.exp(-(np.log(1 / 3) + 2 * np.log(2 / 3)) / 3))
    assert (found["dead/0"], found["dead/1"]) == (2, 3)
    assert (found["largest/0"], found["largest/1"]) == (2, 4)
    assert found["tuples"] == 5


def test_one_level_has_no_tuples() -> None:
    assert "tuples" not in codebook_figures(CODES[:, :1], 4)


def test_codes_out_of_range_are_refused() -> None:
    with pytest.raises(DataError, match="item 4 has code 3 at level 0; expected 0 to 2"):
        code_counts(CODES, 3)


def test_churn_is_the_plain_share() -> None:
    before = np.array([0, 1, 2, 3])
    assert churn(before, before) == 0
    assert churn(before, np.array([0, 1, 3, 2])) == 0.5
    moved = np.array([[0, 0], [0, 1], [1, 1], [0, 0], [0, 0], [0, 0]])
    assert churn(CODES, CODES + moved) == pytest.approx(2 / 6)
    with pytest.raises(DataError, match="one catalogue with itself"):
        churn(before, before[:3])


def test_only_coordinates_that_differ_tell_items_apart() -> None:
    assert telling(np.array([[1.0, 5.0, 0.0], [1.0, 4.0, 0.0]])).tolist() == [False, True, False]


def test_cell_means_skip_empty_cells() -> None:
    vectors = np.array([[1, 0], [3, 0], [0, 5]], np.float32)
    means = cell_means(VectorPostings.build(vectors, np.array([2, 2, 0]), 4))
    np.testing.assert_allclose(means, [[0, 5], [np.nan, np.nan], [2, 0], [np.nan, np.nan]])


def test_layout_keeps_the_distances_of_a_plane() -> None:
    random = np.random.default_rng(0)
    flat = random.normal(size=(9, 2)) @ np.linalg.qr(random.normal(size=(6, 6)))[0][:2]
    flat[4] = np.nan
    placed = layout(flat)
    assert np.isnan(placed[4]).all()
    kept = np.delete(np.arange(9), 4)
    before = np.linalg.norm(flat[kept, None] - flat[kept], axis=2)
    np.testing.assert_allclose(np.linalg.norm(placed[kept, None] - placed[kept], axis=2), before, atol=1e-9)
    assert placed[kept, 0].var() >= placed[kept, 1].var()


@pytest.mark.parametrize("points", [np.ones((1, 3)), np.arange(4.0)[:, None], np.zeros((3, 2))])
def test_layout_of_little_is_finite(points: np.ndarray) -> None:
    placed = layout(points)
    assert placed.shape == (len(points), 2)
    assert np.isfinite(placed).all()
