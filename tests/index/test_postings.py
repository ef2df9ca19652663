"""Postings: layout, round trip, and files that do not fit."""

import numpy as np
import pytest

from tesserec.errors import ArtefactError, DataError
from tesserec.index.postings import VectorPostings, open_postings
from tesserec.index.score_postings import ScorePostings


@pytest.fixture
def vectors():
    return np.arange(10, dtype=np.float32).reshape(5, 2)


def test_vectors_lie_by_cell(vectors):
    postings = VectorPostings.build(vectors, np.array([2, 0, 2, 0, 3]), 5)
    assert postings.items.tolist() == [1, 3, 0, 2, 4]
    assert postings.offsets.tolist() == [0, 2, 2, 4, 5, 5]
    assert postings.cell_of.tolist() == [2, 0, 2, 0, 3]
    assert (postings.size, postings.dim, postings.cells) == (5, 2, 5)
    np.testing.assert_array_equal(postings.vectors_of(np.array([[4, 0], [1, 2]])), vectors[[[4, 0], [1, 2]]])


def test_lists_fall_by_score_then_rise_by_item():
    postings = ScorePostings.build(
        np.array([1, 0, 1, 1]), np.array([2, 1, 0, 1]), np.array([5, 1, 5, 9], np.float32), n_codes=3, size=3
    )
    assert [postings.of(code)[0].tolist() for code in range(3)] == [[1], [1, 0, 2], []]
    assert postings.of(1)[1].tolist() == [9, 5, 5]


def test_round_trip_is_mapped_and_little_endian(vectors, tmp_path):
    for name, postings in {
        "vectors": VectorPostings.build(vectors, np.zeros(5, int), 1),
        "scores": ScorePostings.build(
            np.zeros(2, int), np.array([0, 4]), np.ones(2, np.float32), n_codes=1, size=5, keyed_by_item=True
        ),
    }.items():
        (tmp_path / name).mkdir()
        postings.save(tmp_path / name)
        opened = open_postings(tmp_path / name)
        assert type(opened) is type(postings)
        for key in ("vectors", "items", "offsets", "place", "scores", "size", "keyed_by_item"):
            if hasattr(postings, key):
                np.testing.assert_array_equal(getattr(opened, key), getattr(postings, key))
        mapped = opened.items if name == "vectors" else opened.places
        assert isinstance(mapped, np.memmap)
        assert mapped.dtype.str == ("<i4" if name == "vectors" else "<u2")


@pytest.mark.parametrize(
    ("cells", "value", "message"),
    [
        ([0, 0, 7, 0, 0], 1.0, "item 2 has cell 7"),
        ([0] * 5, np.nan, "item 3 is not finite"),
        ([0] * 4, 1.0, "do not fit"),
    ],
)
def test_bad_vectors_are_refused(vectors, cells, value, message):
    vectors[3, 1] = value
    with pytest.raises(DataError, match=message):
        VectorPostings.build(vectors, np.array(cells), 3)


def test_bad_lists_are_refused():
    one, score = np.array([1]), np.array([1], np.float32)
    with pytest.raises(DataError, match="posting 0 has code 1"):
        ScorePostings.build(one, one, score, n_codes=1, size=5)
    with pytest.raises(DataError, match="posting 0 has item 1"):
        ScorePostings.build(one, one, score, n_codes=5, size=1)
    with pytest.raises(DataError, match="posting 0 has score inf"):
        ScorePostings.build(one, one, score * np.inf, n_codes=5, size=5)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("vectors", np.zeros((4, 2), np.float32)),
        ("vectors", np.zeros((5, 2))),
        ("items", np.array([0, 1, 2, 3, 3], np.int32)),
        ("items", np.arange(5)),
        ("offsets", np.array([0, 4])),
        ("offsets", np.array([0, 6, 5])),
        ("offsets", np.array([5])),
    ],
)
def test_files_that_do_not_fit_are_named(vectors, tmp_path, file, content):
    VectorPostings.build(vectors, np.zeros(5, int), 1).save(tmp_path)
    np.save(tmp_path / f"{file}.npy", content)
    with pytest.raises(ArtefactError, match=f"{file}.npy"):
        open_postings(tmp_path).verify()


def test_missing_torn_and_foreign_files_are_named(vectors, tmp_path):
    VectorPostings.build(vectors, np.zeros(5, int), 1).save(tmp_path)
    whole = (tmp_path / "offsets.npy").read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        (tmp_path / "offsets.npy").write_bytes(whole[:cut])
        with pytest.raises(ArtefactError, match=r"offsets\.npy"):
            open_postings(tmp_path)
    (tmp_path / "offsets.npy").unlink()
    with pytest.raises(ArtefactError, match=r"offsets\.npy is missing"):
        open_postings(tmp_path)
    (tmp_path / "postings.json").write_text('{"kind": "graph"}')
    with pytest.raises(ArtefactError, match="kind 'graph'"):
        open_postings(tmp_path)
