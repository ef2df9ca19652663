"""Lists that gain and lose items: any sequence of edits answers as one rebuild with the same cuts."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from tesserec.data.features import Vocabulary
from tesserec.data.ids import IdMap
from tesserec.errors import ArtefactError, DataError
from tesserec.index.bundle import Bundle, publish
from tesserec.index.catalogue import Catalogue
from tesserec.index.contract import Policy
from tesserec.index.item_side import ItemSide
from tesserec.index.living import add_items, compact
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import OnnxScoreSide

pytest.importorskip("tests.index.onnx_model", reason="needs onnx")

from tests.faults import sweep
from tests.index import onnx_model
from tests.index.test_living import CELLS, DIM, ROLES, SETUP, SLOW, STEPS, N, answers, edit, table


def build_lists(vectors, cuts):
    """Every list has the items whose score less its cut is above zero."""
    scores = vectors @ onnx_model.to_cells(DIM, CELLS) - cuts
    item, code = np.nonzero(scores > 0)
    return ScorePostings.build(code, item, scores[item, code], n_codes=CELLS, size=len(vectors))


def publish_lists(root, features=True):
    """Lists that kept their best ten, and the vectors of the items."""
    rows = table([f"i{n}" for n in range(N)])
    vectors = np.random.default_rng(1).normal(size=(N, DIM)).astype(np.float32)
    scores = np.sort(vectors @ onnx_model.to_cells(DIM, CELLS), axis=0)
    cuts = np.maximum((scores[-10] + scores[-11]) / 2, 0)
    vocabulary = Vocabulary.of(rows, ROLES).to_json() if features else None

    def write(folder):
        folder.mkdir(exist_ok=True)
        onnx_model.write_weigher(folder, vectors, CELLS)
        onnx_model.write_items(folder, DIM, CELLS, vocabulary=vocabulary, cuts=cuts)

    write(root.parent / "workbench")
    catalogue = Catalogue(IdMap(rows["id"]), rows, ROLES, True, np.arange(N, 0, -1))
    side = OnnxScoreSide(root.parent / "workbench")
    searcher = Searcher(catalogue, side, build_lists(vectors, cuts), Policy(interests=1))
    publish(root, searcher, write, {"model": "tiny-lists"})
    return vectors, cuts


@settings(SLOW, max_examples=6)
@given(STEPS)
def test_any_sequence_of_edits_of_lists_equals_one_rebuild(tmp_path_factory, steps):
    root = tmp_path_factory.mktemp("living") / "bundles"
    vectors, cuts = publish_lists(root)
    encode = ItemSide(root.parent / "workbench").encode
    trained = {f"i{n}": vectors[n] for n in range(N)}
    live, given = edit(root, steps)
    bundle = Bundle.open(root)
    bundle.verify()
    held = bundle.searcher.side.vectors_of(bundle.searcher.catalogue.items.encode(live).astype(np.int64))
    for one, vector in zip(live, held, strict=True):
        raw = [encode(given[one])[0]] if one in given else []
        raw += [trained[one]] if one in trained else []
        assert any(np.allclose(vector, each, atol=1e-6) for each in raw), one
    old = bundle.searcher
    rows = old.catalogue.table[old.catalogue.items.encode(live).astype(np.int64)]
    catalogue = Catalogue(IdMap(rows["id"]), rows, ROLES, True, np.ones(len(live), np.int64))
    side = old.side.with_vectors(held.__getitem__, len(live))
    plain = Searcher(catalogue, side, build_lists(held, cuts), old.policy)
    compacted = [] if bundle.base == bundle.path else [Bundle.open(compact(root).parent)]
    for one in (bundle, *compacted):
        for asked in ({}, {"exclude_seen": False}):
            ours, theirs = answers(one, live, **asked), answers(plain, live, **asked)
            assert ours["item"].to_list() == theirs["item"].to_list()
            assert np.allclose(ours["score"], theirs["score"], rtol=1e-5)


def test_lists_gain_an_item_that_users_find_at_once(tmp_path):
    publish_lists(tmp_path / "bundles", features=False)
    model = int(Bundle.open(tmp_path / "bundles").searcher.postings.of(0)[0][0])
    edit = add_items(tmp_path / "bundles", pl.DataFrame({"id": ["new"], "like": [[f"i{model}"]]}))
    bundle = Bundle.open(tmp_path / "bundles")
    assert (edit.added, edit.items, edit.placed) == (1, N + 1, {})
    lists = bundle.searcher.postings
    of = [{code for code in range(CELLS) if item in lists.of(code)[0]} for item in (model, N)]
    assert of[0] == of[1] != set()
    names = [bundle.recommend([[f"i{n}"]], N)["item"].to_list() for n in range(N) if n != model]
    assert any("new" in found for found in names)
    assert all(("new" in found) == (f"i{model}" in found) for found in names)
    with pytest.raises(DataError, match="reads no item features"):
        add_items(tmp_path / "bundles", table(["x"]))


SETUP_OF_ADDING = f"""{SETUP}
import onnxruntime
from tesserec.index.living import add_items
from tesserec.index.new_items import NewItems
from tests.index.test_living import table
"""
CHECK_OF_ADDING = f"""
bundle = Bundle.open(root)
bundle.verify()
searcher, edited = bundle.searcher, "base" in bundle.facts
assert len(searcher.catalogue) == searcher.postings.size == searcher.side.size == {N} + 2 * edited
assert searcher.catalogue.new.tolist() == [{N}, {N} + 1][: 2 * edited]
few = NewItems.of(searcher.catalogue.new, searcher.postings).few
assert set(few.items.tolist()) <= {{{N}, {N} + 1}} and (len(few.items) > 0) == edited  # no list need take both
assert (searcher.catalogue.items.encode(["x", "y"]) >= 0).tolist() == [edited, edited]
rollback(root, 1)
for path in root.glob("generation-*"):
    if not path.name.endswith("1"):
        shutil.rmtree(path)
"""


@pytest.mark.parametrize("fault", ["kill", pytest.param("full", marks=pytest.mark.deep)])
def test_adding_to_lists_is_whole_or_nothing_wherever_it_is_broken(tmp_path, fault):
    publish_lists(root := tmp_path / "bundles")
    done = sweep(
        setup=SETUP_OF_ADDING,
        action='add_items(root, table(["x", "y"]))',
        check=CHECK_OF_ADDING,
        root=root,
        fault=fault,
    )
    assert done.faults > 15
    assert all("No space left" in message for message in done.messages)


@pytest.mark.parametrize("file", ["entry_items", "entry_codes", "entry_scores", "vectors", "items", "size"])
@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_damaged_changes_of_lists_are_refused_by_name(tmp_path, file, damage):
    publish_lists(root := tmp_path / "bundles")
    add_items(root, table(["x", "y"]))
    victim = root / "generation-000002" / "changes" / f"{file}.npy"
    content = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtefactError, match=f"{file}.npy"):
        Bundle.open(root)


@pytest.mark.parametrize("file", ["counts", "history"])
def test_a_damaged_base_of_changes_is_refused_by_name(tmp_path, file):
    """What says which items are new, what lists took them, and what histories are read by."""
    publish_lists(root := tmp_path / "bundles")
    add_items(root, table(["x"]))
    victim = root / "generation-000001" / f"{file}.npy"
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtefactError, match=f"{file}.npy"):
        Bundle.open(root)
