"""The gauge moves for the reason that it names."""

import numpy as np
import pytest

from tesserec.errors import UserError
from tesserec.index.drift import _divergence, drift

pytest.importorskip("tests.index.onnx_model", reason="needs onnx")

from tesserec.index.bundle import Bundle
from tesserec.index.changes import Changes
from tests.index.test_bundle import publish_popularity
from tests.index.test_living import CELLS, N, publish_vectors, table


@pytest.fixture
def bundle(tmp_path):
    publish_vectors(tmp_path / "bundles")
    return Bundle.open(tmp_path / "bundles")


def later(bundle, vectors, cells):
    """The bundle with items of these vectors on top."""
    base, items = bundle.base_searcher, np.arange(N, N + len(vectors), dtype=np.int32)
    changes = Changes.none(base).with_items(items, vectors.astype(np.float32), np.asarray(cells, np.int32))
    changes = changes.with_rows(items, table([f"n{n}" for n in items]))
    return type(bundle)(bundle.path, 2, bundle.facts, changes.on(base, {}), bundle.base, base)


def middles(bundle):
    postings = bundle.searcher.postings
    return np.stack([postings.vectors_of(postings.items_of(cell)).mean(axis=0) for cell in range(CELLS)])


def test_twins_of_trained_items_are_no_drift(bundle):
    postings = bundle.searcher.postings
    everything = np.arange(N)
    gauge = drift(later(bundle, postings.vectors_of(everything), postings.cells_of(everything)))
    assert gauge.misfit == pytest.approx(1)
    assert gauge.shift == pytest.approx(0)
    assert not gauge.retrain
    assert gauge.compact


def test_items_far_from_every_cell_ask_for_training(bundle):
    gauge = drift(later(bundle, middles(bundle)[[0]] + 10, [0]))
    assert gauge.misfit > 5
    assert (gauge.retrain, gauge.compact) == (True, False)
    assert "train again" in gauge.reasons[0]


def test_a_flood_into_one_cell_asks_for_training(bundle):
    gauge = drift(later(bundle, np.repeat(middles(bundle)[[2]], 400, axis=0), [2] * 400))
    assert gauge.misfit == pytest.approx(0, abs=1e-5)
    assert gauge.shift > 0.1
    assert gauge.retrain


def test_divergence_lies_between_zero_and_one_bit():
    assert _divergence(np.array([3, 1]), np.array([6, 2])) == pytest.approx(0)
    assert _divergence(np.array([1, 0]), np.array([0, 5])) == pytest.approx(1)


def test_lists_have_no_codebook(tmp_path):
    publish_popularity(tmp_path)
    with pytest.raises(UserError, match="no codebook to drift from"):
        drift(Bundle.open(tmp_path))
