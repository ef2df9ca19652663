"""How many cells hold a user's best items: by hand, against visiting cell after cell, and under relabelling."""

from __future__ import annotations

import numpy as np
import pytest

from tesserec.evaluation.concentration import cells_needed

CELL_OF = np.array([0, 0, 1, 1, 2, 2, 3, 3, 3])
POSTERIOR = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])


def random_case(seed: int = 0, users: int = 40, items: int = 50, cells: int = 9) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    posterior = random.dirichlet(np.ones(cells), users).astype(np.float32)
    best = np.argsort(random.random((users, items)), axis=1)[:, :12]
    best[:, 12 - seed :] = -1
    return posterior, random.integers(0, cells, items), best


def test_three_users_by_hand() -> None:
    best = np.array([[0, 2], [6, 0], [4, -1]])
    found = cells_needed(POSTERIOR, CELL_OF, best)
    assert found.cells.tolist() == [2, 4, 3]
    assert found.items.tolist() == [4, 9, 6]
    assert found.fewest.tolist() == [2, 2, 1]


def test_a_share_may_leave_the_hardest_item_out() -> None:
    best = np.array([[0, 1, 2, 7]])
    assert cells_needed(POSTERIOR[:1], CELL_OF, best).cells.tolist() == [4]
    assert cells_needed(POSTERIOR[:1], CELL_OF, best, share=0.75).cells.tolist() == [2]
    assert cells_needed(POSTERIOR[:1], CELL_OF, best, share=0.5).cells.tolist() == [1]


def test_a_hundred_items_need_ninety_nine() -> None:
    cell_of = np.concatenate([np.zeros(98), np.ones(1), np.full(1, 2)]).astype(int)
    found = cells_needed(np.array([[0.5, 0.3, 0.2]]), cell_of, np.arange(100)[None])
    assert found.cells.tolist() == [2]
    assert found.items.tolist() == [99]


def test_rounding_asks_for_no_item_more() -> None:
    cell_of = np.repeat([0, 1], [7, 93])
    assert 0.07 * 100 > 7
    assert cells_needed(np.array([[0.6, 0.4]]), cell_of, np.arange(100)[None], share=0.07).cells.tolist() == [1]


def test_a_user_without_a_list_has_no_figure() -> None:
    found = cells_needed(POSTERIOR[:1], CELL_OF, np.array([[-1, -1]]))
    assert np.isnan([found.cells, found.items, found.fewest]).all()


@pytest.mark.parametrize("share", [0.3, 0.99, 1.0])
def test_agrees_with_visiting_cell_after_cell(share: float) -> None:
    posterior, cell_of, best = random_case(seed=3)
    found = cells_needed(posterior, cell_of, best, share)
    for user, row in enumerate(best):
        wanted = int(np.ceil(round(share * (row >= 0).sum(), 9)))
        visited: list[int] = []
        for cell in sorted(range(9), key=lambda c: (-posterior[user, c], c)):
            visited.append(cell)
            if np.isin(cell_of[row[row >= 0]], visited).sum() >= wanted:
                break
        assert found.cells[user] == len(visited)
        assert found.items[user] == np.isin(cell_of, visited).sum()
        assert found.fewest[user] <= found.cells[user]


def test_relabelling_cells_changes_nothing() -> None:
    posterior, cell_of, best = random_case(seed=2)
    renamed = np.random.default_rng(7).permutation(9)
    moved = np.empty_like(posterior)
    moved[:, renamed] = posterior
    before, after = cells_needed(posterior, cell_of, best), cells_needed(moved, renamed[cell_of], best)
    for name in ("cells", "items", "fewest"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
