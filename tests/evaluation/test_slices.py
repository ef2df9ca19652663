"""Which users and which of their targets each slice holds."""

from __future__ import annotations

import numpy as np
import pytest

from tesserec.errors import UserError
from tesserec.evaluation.slices import SliceRules, cells_hash, slices
from tests.evaluation.worlds import dataset, random_world


def rows(one: object) -> list[list[int]]:
    return [row.tolist() for row in one.targets]  # type: ignore[attr-defined]


def test_slices_by_hand() -> None:
    # Items 0 and 1 have five training events, item 2 has four, items 3 and 4 none. Cells: {0, 3}, {1, 4}, {2}.
    world = dataset(
        train=[[0] * 5, [1] * 5, [2] * 4],
        histories=[[0] * 5, [0] * 6, [0, 1, 2, 0, 1, 2, 0]],
        targets=[[1, 2, 3], [3, 0], [4, 4]],
        items=5,
    )
    cells = np.array([0, 1, 2, 0, 1])
    found = slices(world, world.test, cells)

    assert found["short"].rows.tolist() == [0]
    assert rows(found["short"]) == [[1, 2, 3]]
    assert found["cold"].rows.tolist() == [0, 1, 2]
    assert rows(found["cold"]) == [[2, 3], [3], [4, 4]]
    assert found["novel"].rows.tolist() == [0]
    assert rows(found["novel"]) == [[1, 2]]

    other = slices(world, world.test, rules=SliceRules(short=6, cold=1))
    assert set(other) == {"short", "cold"}
    assert other["short"].rows.tolist() == [0, 1]
    assert rows(other["cold"]) == [[3], [3], [4, 4]]
    assert "at most 6 events" in other["short"].rule


def test_novel_equals_brute_force() -> None:
    world = random_world(users=120)
    cells = np.random.default_rng(1).integers(0, 9, size=60).astype(np.int32)
    found = slices(world, world.test, cells)["novel"]
    expected = {}
    for row, (history, targets) in enumerate(zip(world.test.histories, world.test.targets, strict=True)):
        kept = [t for t in targets.tolist() if cells[t] not in {cells[h] for h in history}]
        if kept:
            expected[row] = kept
    assert dict(zip(found.rows.tolist(), rows(found), strict=True)) == expected


def test_cells_must_cover_the_catalogue() -> None:
    world = random_world(users=3)
    with pytest.raises(UserError, match=r"cells has shape \(59,\), expected one cell for each of 60 items"):
        slices(world, world.test, np.zeros(59, dtype=np.int32))


def test_hash_follows_the_cells_not_their_type() -> None:
    cells = np.array([0, 1, 2, 1])
    assert cells_hash(cells) == cells_hash(cells.astype(np.int32)[::-1][::-1])
    assert cells_hash(cells) != cells_hash(cells[::-1])
