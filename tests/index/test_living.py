"""A catalogue that lives: any sequence of edits answers as one rebuild, and no edit is ever half done."""

import shutil
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tesserec.data.features import Vocabulary
from tesserec.data.ids import IdMap
from tesserec.errors import ArtefactError, DataError, UserError
from tesserec.index.bundle import Bundle, generations, publish, rollback
from tesserec.index.catalogue import Catalogue
from tesserec.index.contract import Policy
from tesserec.index.living import add_items, compact, remove_items, update_items
from tesserec.index.postings import VectorPostings
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import HistorySide, OnnxSide
from tests.faults import sweep
from tests.index.test_bundle import publish_popularity
from tests.index.world import catalogue as small_catalogue

onnx_model = pytest.importorskip("tests.index.onnx_model", reason="needs onnx")

N, DIM, CELLS = 40, 4, 6
ROLES = {"kind": "categorical", "price": "numeric", "title": "text"}
KINDS = ["a", "b", "c"]
SLOW = settings(
    derandomize=True, max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def table(ids, seed=0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "id": ids,
            "kind": [KINDS[n] for n in rng.integers(0, 3, len(ids))],
            "price": rng.normal(size=len(ids)),
            "title": [f"T{one}" for one in ids],
        }
    )


def write_sides(folder, rows, features=True):
    onnx_model.write_network(folder, codes=CELLS, dim=DIM)
    vocabulary = Vocabulary.of(rows, ROLES).to_json() if features else None
    onnx_model.write_items(folder, dim=DIM, cells=CELLS, vocabulary=vocabulary)


def publish_vectors(root, features=True, policy=None):
    rows = table([f"i{n}" for n in range(N)])
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(N, DIM)).astype(np.float32)
    postings = VectorPostings.build(vectors, rng.integers(0, CELLS, N), CELLS)
    workbench = root.parent / "workbench"
    workbench.mkdir(exist_ok=True)
    write_sides(workbench, rows, features)
    catalogue = Catalogue(IdMap(rows["id"]), rows, ROLES, True, np.arange(N, 0, -1))
    side = OnnxSide(workbench, postings.vectors_of)
    searcher = Searcher(catalogue, side, postings, policy or Policy(interests=3))
    publish(root, searcher, lambda folder: write_sides(folder, rows, features), {"model": "tiny"})
    return searcher


@pytest.fixture
def root(tmp_path):
    publish_vectors(tmp_path / "bundles")
    return tmp_path / "bundles"


def rebuilt(bundle, live):
    """The same catalogue, made at once: vectors and cells by id, in the order in which the ids came."""
    old = bundle.searcher
    places = old.catalogue.items.encode(live)
    rows = old.catalogue.table[places.astype(np.int64)]
    postings = VectorPostings.build(
        np.stack([old.postings.vectors_of(np.array([p]))[0] for p in places]), old.postings.cells_of(places), CELLS
    )
    catalogue = Catalogue(IdMap(rows["id"]), rows, ROLES, True, old.catalogue.events(places))
    return Searcher(catalogue, old.side.with_vectors(postings.vectors_of), postings, old.policy)


def answers(bundle, live, **asked):
    histories = [[live[n % len(live)] for n in (3 * m, 5 * m + 1, 7 * m + 2)] for m in range(6)]
    return bundle.recommend(histories, 7, **asked)


ASKED = [
    {},
    {"merge": "quota"},
    {"explore": 0.4},
    {"visit": 0.5},
    {"select": "history"},
    {"temperature": 2.0},
    {"exclude_seen": False, "merge": "probability"},
]
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "update", "again", "compact"]), st.integers(0, 99)), max_size=8
)


def edit(root, steps):
    """Ids that are left, and the last row that was given for each."""
    live, gone, made, given = [f"i{n}" for n in range(N)], [], 0, {}

    def rows(ids, seed):
        new = table(ids, seed)
        given.update(zip(ids, new.iter_slices(1), strict=True))
        return new

    for what, number in steps:
        one = live[number % len(live)]
        if what == "add":
            new = [f"n{made + n}" for n in range(1 + number % 3)]
            made += len(new)
            add_items(root, rows(new, number))
            live += new
        elif what == "again" and gone:
            add_items(root, rows([gone[-1]], number))
            live.append(gone.pop())
        elif what == "remove":
            remove_items(root, [one])
            live.remove(one)
            gone.append(one)
        elif what == "update":
            update_items(root, rows([one], number + 1))
        elif what == "compact" and Bundle.open(root).base != Bundle.open(root).path:
            compact(root)
            gone = []
    return live, given


@SLOW
@given(STEPS)
def test_any_sequence_of_edits_equals_one_rebuild(tmp_path_factory, steps):
    root = tmp_path_factory.mktemp("living") / "bundles"
    publish_vectors(root)
    live, _ = edit(root, steps)
    bundle = Bundle.open(root)
    bundle.verify()
    # Ties aside, of which continuous vectors have none, the order of indices does not matter.
    plain = rebuilt(bundle, live)
    for asked in ASKED:
        ours, theirs = answers(bundle, live, **asked), answers(plain, live, **asked)
        assert ours["item"].to_list() == theirs["item"].to_list(), asked
        assert ours.drop("score").equals(theirs.drop("score")), asked
        assert np.allclose(ours["score"], theirs["score"], atol=1e-5)
    similar = bundle.similar_items(live[:3], 5), plain.similar_items(live[:3], 5)
    assert similar[0]["similar"].to_list() == similar[1]["similar"].to_list()
    assert (
        bundle.searcher.catalogue.table.filter(pl.col("id").is_in(live))
        .sort("id")
        .equals(plain.catalogue.table.sort("id"))
    )
    if bundle.base != bundle.path:
        compact(root)
        compacted = Bundle.open(root)
        assert sorted(compacted.searcher.catalogue.items.values.to_list()) == sorted(live)
        assert answers(compacted, live)["item"].to_list() == answers(plain, live)["item"].to_list()
        with pytest.raises(UserError, match="nothing to compact"):
            compact(root)


def test_a_new_item_lies_where_its_features_say_and_is_found_at_once(root):
    edit = add_items(root, pl.DataFrame({"id": ["new"], "kind": ["b"], "price": [0.1]}))
    bundle = Bundle.open(root)
    assert (edit.added, edit.items) == (1, N + 1)
    assert edit.placed == {"new": int(bundle.searcher.postings.cells_of(np.array([N]))[0])}
    twin = add_items(root, pl.DataFrame({"id": ["twin"], "kind": ["b"], "price": [0.1], "title": ["Twin"]}))
    bundle = Bundle.open(root)
    assert twin.placed["twin"] == edit.placed["new"]
    assert bundle.similar_items(["new"], 1)["similar"].to_list() == ["twin"]
    assert "new" in bundle.recommend([["twin"]], N, visit=1.0)["item"].to_list()
    assert bundle.recommend([["new", "twin"]], 5).height == 5
    assert bundle.searcher.catalogue.titles[N + 1] == "Twin"
    assert bundle.searcher.catalogue.titles[N] == "new"


def test_an_item_is_like_others(root):
    add_items(root, pl.DataFrame({"id": ["x"], "like": [["i3"]]}))
    bundle = Bundle.open(root)
    same = bundle.searcher.postings.vectors_of(np.array([3, N]))
    assert np.array_equal(same[0], same[1])
    with pytest.raises(DataError, match=r"'y' is like 'i99', which is not"):
        add_items(root, pl.DataFrame({"id": ["y"], "like": [["i3", "i99"]]}))
    with pytest.raises(DataError, match="'y' is like nothing"):
        add_items(root, pl.DataFrame({"id": ["y"], "like": [[]]}, schema_overrides={"like": pl.List(pl.String)}))
    assert Bundle.open(root).generation == bundle.generation


def test_a_model_without_features_needs_likeness(tmp_path):
    publish_vectors(tmp_path / "bundles", features=False)
    with pytest.raises(DataError, match="reads no item features"):
        add_items(tmp_path / "bundles", table(["x"]))
    edit = add_items(tmp_path / "bundles", table(["x"]).with_columns(like=pl.lit(["i1", "i2"])))
    assert edit.added == 1
    assert update_items(tmp_path / "bundles", pl.DataFrame({"id": ["x"], "title": ["X"]})).updated == 1
    assert Bundle.open(tmp_path / "bundles").searcher.catalogue.titles[N] == "X"


def test_a_trained_item_keeps_its_vector_and_an_untrained_one_does_not(root):
    add_items(root, table(["x"]))
    before = Bundle.open(root).searcher.postings.vectors_of(np.array([5, N]))
    update_items(root, pl.DataFrame({"id": ["i5", "x"], "price": [9.0, 9.0]}))
    bundle = Bundle.open(root)
    after = bundle.searcher.postings.vectors_of(np.array([5, N]))
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])
    assert bundle.searcher.catalogue.table["price"][5] == 9.0
    assert bundle.searcher.catalogue.table["title"][5] == "Ti5"


def test_a_removed_item_is_never_a_candidate_but_may_be_in_a_history(root):
    whole = Bundle.open(root)
    first = whole.recommend([["i1"]], 1)["item"][0]
    remove_items(root, [first])
    bundle = Bundle.open(root)
    assert first not in bundle.recommend([["i1"]], N, visit=1.0)["item"].to_list()
    assert first not in bundle.similar_items(["i1"], N)["similar"].to_list()
    assert bundle.recommend([[first]], 3).height == 3
    assert rollback(root).name == whole.path.name
    assert Bundle.open(root).recommend([["i1"]], 1)["item"][0] == first


def test_popularity_ranks_new_items_last_and_counts_again_what_comes_back(tmp_path):
    publish_popularity(tmp_path)
    remove_items(tmp_path, ["i0", "i2"])
    add_items(tmp_path, pl.DataFrame({"id": ["x", "y"]}))
    assert Bundle.open(tmp_path).recommend([["i5"]], 9)["item"].to_list() == ["i1", "i3", "i4", "x", "y"]
    add_items(tmp_path, pl.DataFrame({"id": ["i0"]}))
    remove_items(tmp_path, ["x"])
    with pytest.raises(DataError, match="compares no items; leave the column 'like' out"):
        add_items(tmp_path, pl.DataFrame({"id": ["z"], "like": ["i1"]}))
    with pytest.raises(DataError, match="compares no items"):
        update_items(tmp_path, pl.DataFrame({"id": ["i1"], "like": ["i3"]}))
    changed = Bundle.open(tmp_path)
    assert changed.recommend([["y"]], 2, new_share=0.5, exclude_seen=False)["item"].to_list() == ["i0", "y"]
    compact(tmp_path)
    for bundle in (changed, Bundle.open(tmp_path)):
        assert bundle.recommend([["i5"]], 9)["item"].to_list() == ["i0", "i1", "i3", "i4", "y"]
        bundle.verify()


def test_neighbours_lose_items_and_gain_none(tmp_path):
    codes = np.repeat(np.arange(4), 3)
    neighbours = np.array([1, 2, 3, 0, 2, 3, 0, 1, 3, 0, 1, 2])
    lists = ScorePostings.build(codes, neighbours, 1 / (1 + neighbours), n_codes=4, size=4, keyed_by_item=True)
    searcher = Searcher(small_catalogue(4), HistorySide(), lists, Policy(interests=1))
    publish(tmp_path, searcher, searcher.side.save, {"model": "item-knn"})
    remove_items(tmp_path, ["i0"])
    assert Bundle.open(tmp_path).recommend([["i3"]], 3)["item"].to_list() == ["i1", "i2"]
    for source in ({"id": ["x"]}, {"id": ["x"], "like": ["i1"]}):
        with pytest.raises(UserError, match=r"item-knn compares items by who took both.*`tesserec update`"):
            add_items(tmp_path, pl.DataFrame(source))
    compact(tmp_path)
    assert Bundle.open(tmp_path).recommend([["i3"]], 3)["item"].to_list() == ["i1", "i2"]


BAD = [
    (add_items, pl.DataFrame({"id": ["i1"]}), "'i1' is in the catalogue already"),
    (add_items, pl.DataFrame({"id": ["x", "x"]}), "ids must be unique"),
    (add_items, pl.DataFrame({"id": [1]}), "give both one type"),
    (add_items, pl.DataFrame({"id": ["x"], "colour": ["red"]}), "has the column 'colour'"),
    (add_items, pl.DataFrame({"id": ["x"], "price": ["dear"]}), "column 'price': String does not become Float64"),
    (add_items, pl.DataFrame({"id": ["x"], "price": [float("inf")]}), "numbers must be finite"),
    (add_items, pl.DataFrame({"id": []}, schema={"id": pl.String}), "no rows"),
    (update_items, pl.DataFrame({"id": ["x"], "price": [1.0]}), "'x' is not in the catalogue"),
    (remove_items, ["x"], "'x' is not in the catalogue"),
    (remove_items, ["i1", "i1"], "'i1' is named twice"),
    (remove_items, [1.5], "are not String"),
    (remove_items, [], "no item is named"),
]


@pytest.mark.parametrize(("edit", "given", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_edits_change_nothing(root, edit, given, message):
    with pytest.raises(DataError, match=message):
        edit(root, given)
    assert generations(root) == [1]


def test_a_removed_twice_or_a_later_item_is_unknown_afterwards(root):
    add_items(root, table(["x"]))
    remove_items(root, ["x"])
    with pytest.raises(DataError, match="'x' is not in the catalogue"):
        remove_items(root, ["x"])
    bundle = Bundle.open(root)
    assert bundle.searcher.catalogue.items.encode(["x"]).tolist() == [-1]
    add_items(root, table(["x"], seed=9))
    assert Bundle.open(root).searcher.catalogue.items.encode(["x"]).tolist() == [N]


def test_an_edit_where_there_is_no_bundle_leaves_nothing(tmp_path):
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ArtefactError, match="holds no published generation"):
            remove_items(place, ["i1"])
    assert not list(tmp_path.iterdir())


def test_changes_on_another_base_are_refused(root, tmp_path):
    add_items(root, table(["x"]))
    other = tmp_path / "other"
    publish_vectors(other, policy=Policy(interests=2))
    shutil.rmtree(root / "generation-000001")
    with pytest.raises(ArtefactError, match="is missing, and changes lie on it"):
        Bundle.open(root)
    shutil.copytree(other / "generation-000001", root / "generation-000001")
    with pytest.raises(ArtefactError, match="not the generation that the changes were made for"):
        Bundle.open(root)


@pytest.mark.parametrize("file", ["vectors.npy", "items.npy", "rows.parquet", "removed.npy", "size.npy"])
def test_damaged_changes_are_refused_by_name(root, file):
    add_items(root, table(["x", "y"]))
    victim = root / "generation-000002" / "changes" / file
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=file):
        Bundle.open(root)


def test_a_reader_shares_the_base_with_the_generation_before(root):
    first = Bundle.open(root)
    add_items(root, table(["x"]))
    second = Bundle.open(root, beside=first)
    assert second.base_searcher is first.searcher
    assert second.searcher.postings.vectors is first.searcher.postings.vectors
    for made in ("table", "tiles"):  # what would be made anew by reading the whole base
        assert getattr(second.searcher.postings, made) is getattr(first.searcher.postings, made)
    assert first.searcher.catalogue.first["id"].to_list() == ["i0"]
    assert "table" not in vars(first.searcher.catalogue)  # no other row was read
    assert second.searcher.catalogue.counts is first.searcher.catalogue.counts
    assert second.searcher.catalogue.events(np.array([[0, N - 1], [N, 1]])).tolist() == [[N, 1], [0, N - 1]]
    assert second.searcher.catalogue.new.tolist() == [N]
    alone = Bundle.open(root)
    assert second.recommend([["i1", "x"]], 9).equals(alone.recommend([["i1", "x"]], 9))
    compact(root)
    assert Bundle.open(root, beside=second).base_searcher is not first.searcher


def test_an_edit_during_compaction_is_not_lost(root, monkeypatch):
    import threading

    from tesserec.index.changes import Changes

    add_items(root, table(["x"]))
    edit, opened = threading.Thread(target=remove_items, args=(root, ["i7"])), Changes.open

    def open_while_another_edits(folder):
        if edit.ident is None:
            edit.start()
            edit.join(timeout=0.5)  # waits for the lock, or has edited what is about to be replaced
        return opened(folder)

    monkeypatch.setattr(Changes, "open", open_while_another_edits)
    compact(root)
    edit.join()
    found = Bundle.open(root).recommend([["i1"]], N + 1, visit=1.0)["item"].to_list()
    assert "i7" not in found
    assert "x" in found


SETUP = """
import shutil
import numpy as np
from tesserec.index.bundle import Bundle, rollback
from tesserec.index.living import remove_items
from tesserec.index.stored_ids import StoredIds
import pathlib, polars as pl, tempfile
folder = pathlib.Path(tempfile.mkdtemp())
np.save(folder / "id_order.npy", np.zeros(1, "<i4"))
np.save(folder / "id_ends.npy", np.array([0, 1], "<i8"))
np.save(folder / "ids.npy", np.array([65], np.uint8))
assert StoredIds(folder, pl.String(), list).encode(["A"]) == [0]  # numba loads itself, once for all children
"""
CHECK = f"""
bundle = Bundle.open(root)
bundle.verify()
postings = bundle.searcher.postings
live = [int(item) for cell in range(postings.cells) for item in postings.items_of(cell)]
edited = "base" in bundle.facts
assert len(live) == {N} - edited and (7 in live) != edited
rollback(root, 1)
for path in root.glob("generation-*"):
    if not path.name.endswith("1"):
        shutil.rmtree(path)
"""


@pytest.mark.parametrize("fault", ["kill", "full"])
def test_an_edit_is_whole_or_nothing_wherever_it_is_broken(root, fault):
    done = sweep(setup=SETUP, action='remove_items(root, ["i7"])', check=CHECK, root=root, fault=fault)
    assert done.faults > 10


def test_readers_never_see_a_mixture(root):
    """While one edits, others open and ask: every answer is of one generation."""
    import threading

    stop, seen = threading.Event(), SimpleNamespace(problems=[], looks=0)

    def read():
        while not stop.is_set():
            bundle = Bundle.open(root)
            found = set(bundle.recommend([["i1"]], 100, visit=1.0)["item"].to_list())
            new = {one for one in found if one.startswith("n")}
            # Items come in pairs, so half a pair would be a mixture.
            if len(new) % 2 or len(found) != N - 1 + len(new):
                seen.problems.append((bundle.generation, sorted(new)))
            seen.looks += 1

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for n in range(12):
            add_items(root, table([f"n{n}a", f"n{n}b"], seed=n))
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not seen.problems
    assert seen.looks > 2
