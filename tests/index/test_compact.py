"""Rounded scores: within their bound, and the same from C and from Numba."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.index import compact


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30),
    n=st.integers(1, 90),
    dim=st.integers(1, 70),
    interests=st.integers(1, 9),
    spread=st.sampled_from([1e-6, 1.0, 1e4]),
)
def test_rounded_scores_keep_their_bound(seed, n, dim, interests, spread):
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(n, dim)) * rng.choice([0, 1, spread], (n, 1))).astype(np.float32)
    queries = rng.normal(size=(interests, dim)).astype(np.float32) * np.float32(spread)
    added = rng.normal(size=interests).astype(np.float32)
    longest = float(np.linalg.norm(vectors.astype(np.float64), axis=1).max())
    table = compact.compact(vectors, longest)
    rounded = compact.round_queries(queries, table)
    edges = np.sort(rng.integers(0, n + 1, 6))
    starts, stops = edges[::2].copy(), edges[1::2].copy()
    rows = np.concatenate([np.arange(*cell) for cell in zip(starts, stops, strict=True)]).astype(int)
    true = (vectors.astype(np.float64) @ queries.T.astype(np.float64) + added)[rows].max(axis=1)
    for in_c in (False, True):
        found = np.full(len(rows), np.nan, np.float32)
        compact.best_scores(table, rounded, added, starts, stops, found, in_c=in_c)
        assert (np.abs(found - true) <= rounded.error * (1 + 1e-5) + 1e-6 * (1 + np.abs(true))).all()


def test_c_and_numba_agree():
    if compact._compiled() is None:
        pytest.skip("no C compiler here")
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(1000, 30)).astype(np.float32)
    table = compact.compact(vectors, 20.0)
    rounded = compact.round_queries(rng.normal(size=(7, 30)).astype(np.float32), table)
    found = np.empty((2, 700), np.float32)
    for row, in_c in zip(found, (False, True), strict=True):
        compact.best_scores(
            table, rounded, np.zeros(7, np.float32), np.array([3, 500]), np.array([303, 900]), row, in_c=in_c
        )
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5)


def test_without_a_compiler_numba_serves(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compact._compiled.cache_clear()
    try:
        assert compact._compiled() is None
    finally:
        compact._compiled.cache_clear()
