"""Training batches against the histories they come from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesserec.data.batches import NegativeSampler, SequenceBatches
from tesserec.data.histories import Histories
from tesserec.errors import DataError

histories = st.lists(st.integers(0, 40), min_size=1, max_size=12).map(
    lambda lengths: Histories.from_lists([np.arange(n) + 100 * row for row, n in enumerate(lengths)])
)


@given(histories, st.integers(1, 9), st.integers(1, 30), st.integers(1, 4), st.integers(0, 3))
def test_every_event_but_the_first_is_predicted_once_from_what_came_before(rows, longest, size, horizon, epoch):
    if (rows.lengths < 2).all():
        with pytest.raises(DataError, match="no next item"):
            SequenceBatches(rows, longest, size)
        return
    batches = SequenceBatches(rows, longest, size, horizon=horizon, seed=3)
    seen = []
    for batch in batches.epoch(epoch):
        valid = batch.targets >= 0
        assert (valid.sum(1) == batch.lengths).all()
        assert batch.inputs.shape[1] <= longest
        offset = (batch.targets - batch.inputs)[valid]
        assert ((offset >= 1) & (offset <= horizon)).all()
        assert (batch.targets[valid] // 100 == batch.inputs[valid] // 100).all()
        seen.append(batch.inputs[valid])
    expected = np.concatenate([row[:-1] for row in rows if len(row) >= 2])
    assert sorted(np.concatenate(seen)) == sorted(expected)
    assert len(seen) == batches.steps(epoch)


def test_rows_of_a_batch_have_like_lengths():
    rng = np.random.default_rng(0)
    rows = Histories.from_lists([rng.integers(0, 50, n) for n in rng.geometric(0.1, 3000) + 1])
    batches = list(SequenceBatches(rows, 50, 512, seed=0).epoch(0))
    filled = sum((batch.targets >= 0).sum() for batch in batches)
    assert filled / sum(batch.targets.size for batch in batches) > 0.9


def test_an_epoch_goes_on_from_any_step_and_differs_from_the_next_epoch():
    rows = Histories.from_lists([np.arange(n) for n in range(2, 60)])
    sampler = NegativeSampler(np.arange(100), 0.5)
    batches = SequenceBatches(rows, 10, 64, horizon=3, sampler=sampler, negatives=5, seed=1)
    whole, rest = list(batches.epoch(4)), list(batches.epoch(4, first=3))
    for a, b in zip(whole[3:], rest, strict=True):
        assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))
    assert not np.array_equal(whole[0].negatives, next(batches.epoch(5)).negatives)


def test_negatives_follow_the_stated_probabilities():
    counts = np.array([90, 9, 1, 0])
    sampler = NegativeSampler(counts, popular_share=0.6)
    expected = 0.6 * counts / 100 + 0.4 / 4
    assert np.allclose(np.exp(sampler.log_q), expected, atol=1e-6)
    drawn = np.bincount(sampler.draw(200_000, np.random.default_rng(0)), minlength=4) / 200_000
    assert np.allclose(drawn, expected, atol=0.005)
