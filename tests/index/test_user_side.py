"""User sides without torch."""

import json

import numpy as np
import pytest

from tesserec.data.histories import Histories
from tesserec.errors import ArtefactError, ConfigError, DataError
from tesserec.index.user_side import ConstantSide, HistorySide, OnnxSide, ScoreSide, open_user_side
from tests.index.world import histories


def test_history_is_weighted_newest_first():
    codes, weights = HistorySide(3, 0.5).weigh(Histories.from_lists([[7, 8, 9, 8], [4]]))
    assert codes.tolist() == [[8, 9, 8], [4, -1, -1]]
    assert weights.tolist() == [[1, 0.5, 0.25], [1, 0, 0]]
    assert codes.dtype == np.int32
    assert weights.dtype == np.float32


@pytest.mark.parametrize("side", [ConstantSide(), HistorySide(7, 0.9)])
def test_tables_round_trip(side, tmp_path):
    side.save(tmp_path)
    assert open_user_side(tmp_path) == side
    assert isinstance(side, ScoreSide)


@pytest.mark.parametrize(("n", "decay"), [(0, 1.0), (1, 0.0), (1, 1.5), (1, float("nan"))])
def test_impossible_settings_are_refused(n, decay):
    with pytest.raises(ConfigError):
        HistorySide(n, decay)


def test_network_equals_numpy(tmp_path):
    onnx_model = pytest.importorskip("tests.index.onnx_model", reason="needs onnx")
    weights = onnx_model.write_network(tmp_path)
    table = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    side = open_user_side(tmp_path, table.__getitem__)
    assert isinstance(side, OnnxSide)
    assert not isinstance(side, ScoreSide)
    users = histories(2, 9, 30, longest=12)
    encoded = side.encode(users)
    state = np.stack([table[row[-5:]].sum(axis=0) for row in users])
    logits = state @ weights["to_codes"]
    posterior = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(encoded.posterior, posterior, rtol=1e-4)
    interests = np.tile(np.array([[3, -1, 0]], np.int32), (9, 1))
    vectors = side.read(encoded, interests)
    np.testing.assert_allclose(vectors[:, 0], state + weights["of_codes"][3], rtol=1e-4, atol=1e-5)
    assert (vectors[:, 1] == 0).all()
    assert vectors.dtype == np.float32


def whole_vectors(items=30, dim=3):
    return np.random.default_rng(3).integers(0, 9, (items, dim)).astype(np.float32)


def test_network_that_weighs_codes_equals_numpy(tmp_path):
    onnx_model = pytest.importorskip("tests.index.onnx_model", reason="needs onnx")
    items = whole_vectors()
    onnx_model.write_weigher(tmp_path, items, codes=7, max_length=4)
    side = open_user_side(tmp_path)
    assert isinstance(side, ScoreSide)
    assert (side.max_length, side.codes, side.dim, side.size) == (4, 7, 3, 30)
    users = histories(2, 9, 30, longest=12)
    codes, weights = side.weigh(users)
    sums = np.array([items[row[-4:], 0].sum() for row in users])
    assert codes.tolist() == [[total % 7] * 2 for total in sums]
    assert weights.tolist() == [[total] * 2 for total in sums]
    assert (codes.dtype, weights.dtype) == (np.int32, np.float32)


def test_damaged_networks_that_weigh_codes_are_named(tmp_path):
    onnx_model = pytest.importorskip("tests.index.onnx_model", reason="needs onnx")
    onnx_model.write_weigher(tmp_path, whole_vectors())
    np.save(tmp_path / "history.npy", np.zeros((30, 2), np.float32))
    with pytest.raises(ArtefactError, match=r"history\.npy has width 2, user_side\.json says 3"):
        open_user_side(tmp_path)
    np.save(tmp_path / "history.npy", np.zeros((30, 3), np.float64))
    with pytest.raises(ArtefactError, match=r"history\.npy holds float64"):
        open_user_side(tmp_path)
    np.save(tmp_path / "history.npy", np.full((30, 3), np.nan, np.float32))
    with pytest.raises(DataError, match="weights of codes hold NaN"):
        open_user_side(tmp_path).weigh(Histories.from_lists([[1]]))
    facts = (tmp_path / "user_side.json").read_text()
    onnx_model.write_network(tmp_path, dim=3)
    (tmp_path / "user_side.json").write_text(facts)
    (tmp_path / "encoder.onnx").rename(tmp_path / "tokens.onnx")
    with pytest.raises(ArtefactError, match=r"tokens\.onnx maps.*to codes and weights"):
        open_user_side(tmp_path)


def test_damaged_networks_are_named(tmp_path):
    onnx_model = pytest.importorskip("tests.index.onnx_model", reason="needs onnx")
    onnx_model.write_network(tmp_path)
    with pytest.raises(ArtefactError, match="postings hold no vectors"):
        open_user_side(tmp_path)
    table = np.zeros((3, 4), np.float32).__getitem__
    whole = (tmp_path / "encoder.onnx").read_bytes()
    (tmp_path / "encoder.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtefactError, match=r"encoder\.onnx cannot be run"):
        open_user_side(tmp_path, table)
    (tmp_path / "encoder.onnx").write_bytes((tmp_path / "reader.onnx").read_bytes())
    with pytest.raises(ArtefactError, match=r"encoder\.onnx maps"):
        open_user_side(tmp_path, table)
    (tmp_path / "encoder.onnx").write_bytes(whole)
    (tmp_path / "reader.onnx").write_bytes(whole)
    with pytest.raises(ArtefactError, match=r"reader\.onnx gives"):
        open_user_side(tmp_path, table)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        [],
        {"kind": "guess"},
        {"kind": "history", "n": 3},
        {"kind": "history", "n": -3, "decay": 1},
        {"kind": "history", "n": "3", "decay": 1},
        {"kind": "onnx", "max_length": 5},
        {"kind": "onnx-codes", "max_length": 5, "codes": 3, "dim": 0},
    ],
)
def test_damaged_descriptions_are_named(tmp_path, facts):
    (tmp_path / "user_side.json").write_text(json.dumps(facts))
    with pytest.raises(ArtefactError, match=r"user_side\.json"):
        open_user_side(tmp_path, np.zeros((3, 4), np.float32).__getitem__)
