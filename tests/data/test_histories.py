"""Ranges of one array against plain lists."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.data import histories
from tesserec.data.histories import Histories

ROWS = st.lists(st.lists(st.integers(0, 6), max_size=6), max_size=8)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(ROWS, st.integers(1, 4), st.integers(1, 9))
def test_against_lists(rows: list[list[int]], n: int, at_once: int) -> None:
    made = Histories.from_lists(rows)
    assert [row.tolist() for row in made] == rows
    assert made.lengths.tolist() == [len(row) for row in rows]
    assert [row.tolist() for row in made.last(n)] == [row[-n:] for row in rows]
    assert [row.tolist() for row in made.take(slice(None, None, -1)).compact()] == rows[::-1]
    for row in range(len(rows)):
        assert made.take(slice(row, row + 1)).compact().values.tolist() == rows[row]
    expected = np.bincount(np.array([item for row in rows for item in row], dtype=int), minlength=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histories, "COUNTED_AT_ONCE", at_once)
        assert made.counts(7).tolist() == expected.tolist()
        assert made.take(np.arange(len(rows))[::-1]).counts(7).tolist() == expected.tolist()


def test_padded() -> None:
    assert Histories.from_lists([[1, 2, 3], [], [4]]).padded(9).tolist() == [[1, 2, 3], [9, 9, 9], [4, 9, 9]]
    assert Histories.from_lists([[], []]).padded(0).shape == (2, 1)
