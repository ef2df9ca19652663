"""The bootstrap: known errors of known distributions, sharing of draws, undefined values."""

from __future__ import annotations

import numpy as np
import pytest

from tesserec.evaluation import intervals
from tesserec.evaluation.intervals import Estimate, estimates


def test_width_is_that_of_the_normal_interval() -> None:
    values = np.random.default_rng(0).random((2000, 1)) < 0.3
    found = estimates(values.astype(float), resamples=2000, seed=1)[0]
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found.value == values.mean()
    assert found.low == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.1 * half)


def test_interval_covers_a_known_rate() -> None:
    random = np.random.default_rng(2)
    covered = 0
    for seed in range(200):
        found = estimates((random.random((150, 1)) < 0.4).astype(float), resamples=300, seed=seed)[0]
        covered += found.low <= 0.4 <= found.high  # type: ignore[operator]
    assert 0.88 <= covered / 200 <= 0.99


def test_columns_share_their_draws_and_the_seed_decides() -> None:
    values = np.random.default_rng(3).random((50, 1))
    both = estimates(np.hstack([values, values + 1]), seed=4)
    assert both[1].low == pytest.approx(both[0].low + 1)
    assert estimates(values, seed=4) == estimates(values, seed=4)
    assert estimates(values, seed=4) != estimates(values, seed=5)


def test_block_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(6).random((40, 3))
    whole = intervals.bootstrap_means(values, resamples=50, seed=7)
    monkeypatch.setattr(intervals, "_BLOCK_BYTES", 8 * 40 * 7)
    np.testing.assert_allclose(intervals.bootstrap_means(values, resamples=50, seed=7), whole, rtol=1e-14)


def test_undefined_values_are_left_out() -> None:
    values = np.array([[1.0], [np.nan], [3.0]])
    found = estimates(values, resamples=500)[0]
    assert (found.value, found.low, found.high) == (2.0, 1.0, 3.0)


def test_no_resamples_no_interval() -> None:
    assert estimates(np.array([[1.0], [2.0]]), resamples=0) == [Estimate(1.5, None, None)]
