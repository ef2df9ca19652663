"""Bundles: whole or not at all, checked byte for byte, and equal to the model they were made from."""

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tesserec.errors import ArtefactError, ConfigError, UserError
from tesserec.files import MANIFEST, seal
from tesserec.index.bundle import Bundle, generations, publish
from tesserec.index.calibration import Calibration
from tesserec.index.contract import Policy
from tesserec.index.postings import EveryItem, open_postings
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import ConstantSide, HistorySide, OnnxSide, open_user_side
from tests.faults import ROOT, sweep
from tests.index.world import AllScores, catalogue, world

FACTS = {"model": "tiny", "fingerprint": "abc", "seed": 3}


def popularity(size=6, first=0):
    """Its best item is ``first``, so that versions can be told apart."""
    scores = np.arange(size, 0, -1, dtype=np.float32)
    lists = ScorePostings.build(np.zeros(size, int), (np.arange(size) + first) % size, scores, n_codes=1, size=size)
    return Searcher(catalogue(size), ConstantSide(), lists, Policy())


def publish_popularity(root, first=0):
    searcher = popularity(first=first)
    return publish(root, searcher, searcher.side.save, FACTS | {"first": first})


def publish_network(root, seed=0, codes=6, side_codes=None, cells=None, calibration=None):
    onnx_model = pytest.importorskip("tests.index.onnx_model", reason="needs onnx")
    _, postings = world(seed, items=60, cells=cells or codes)
    workbench = root.parent / f"workbench-{seed}"
    workbench.mkdir(exist_ok=True)
    onnx_model.write_network(workbench, codes=codes, seed=seed)
    side = OnnxSide(workbench, postings.vectors_of)
    items, policy = catalogue(60, title=[f"T{i}" for i in range(60)]), Policy(interests=3, merge="quota")
    searcher = Searcher(items, side, postings, policy, calibration=calibration)

    def write(folder):
        onnx_model.write_network(folder, codes=side_codes or codes, seed=seed)

    return searcher, publish(root, searcher, write, FACTS)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "bundles"


def test_bundle_equals_the_model(root):
    searcher, path = publish_network(root)
    assert path.name == "generation-000001"
    bundle = Bundle.open(root)
    asked = [["i1", "i2"], ["i40"]]
    assert bundle.recommend(asked, 9, explore=0.3).equals(searcher.recommend(asked, 9, explore=0.3))
    assert bundle.interests(asked, 4).equals(searcher.interests(asked, 4))
    assert bundle.similar_items(["i7"], 4).equals(searcher.similar_items(["i7"], 4))
    assert bundle.searcher.policy == searcher.policy
    assert bundle.searcher.names.equals(searcher.names)
    assert (bundle.generation, bundle.path) == (1, path)
    assert FACTS.items() <= bundle.facts.items()


def test_slots_round_trip(root):
    searcher, _ = publish_network(root, codes=3, cells=1)
    found = Bundle.open(root).recommend([["i1", "i2"], ["i40"]], 9)
    assert found.equals(searcher.recommend([["i1", "i2"], ["i40"]], 9))
    assert found["interest"].n_unique() == 3


def publish_weigher(root, size=30, items=30, codes=6):
    onnx_model = pytest.importorskip("tests.index.onnx_model", reason="needs onnx")
    rng = np.random.default_rng(4)
    code, item = np.nonzero(rng.random((6, size)) < 0.5)
    lists = ScorePostings.build(code, item, rng.normal(size=len(code)).astype(np.float32), n_codes=6, size=size)
    workbench = root.parent / "workbench"
    workbench.mkdir(exist_ok=True)
    vectors = rng.integers(0, 9, (items, 3)).astype(np.float32)
    onnx_model.write_weigher(workbench, vectors, codes=6)
    searcher = Searcher(catalogue(size), open_user_side(workbench), lists, Policy())
    publish(root, searcher, lambda folder: onnx_model.write_weigher(folder, vectors, codes=codes), FACTS)
    return searcher


def test_networks_that_weigh_codes_round_trip(root):
    searcher = publish_weigher(root)
    asked = [["i1", "i2"], ["i20"]]
    assert Bundle.open(root).recommend(asked, 9).equals(searcher.recommend(asked, 9))
    assert not Bundle.open(root).searcher.has_interests
    with pytest.raises(ArtefactError, match=r"has size 31, the postings have 30"):
        publish_weigher(root, items=31)
    with pytest.raises(ArtefactError, match=r"has codes 5, the postings have 6"):
        publish_weigher(root, codes=5)


def test_what_has_no_index_is_not_published(root):
    searcher = Searcher(catalogue(3), AllScores(np.eye(3)), EveryItem(3), Policy())
    with pytest.raises(UserError, match=r"no index to publish.*train sparcode"):
        publish(root, searcher, ConstantSide().save, FACTS)
    assert generations(root) == []


def test_a_policy_round_trips_and_an_older_one_has_defaults(root):
    searcher = popularity()
    searcher.policy = Policy(9, "probability", 0.0, 0.5, "cell", True, "history", "equal")
    path = publish(root, searcher, searcher.side.save, FACTS)
    assert Bundle.open(root).searcher.policy == searcher.policy
    old = {"interests": 3, "merge": "quota", "explore": 0.25, "visit": 0.75}
    (path / "config.json").write_text(json.dumps({"policy": old}))
    (path / MANIFEST).unlink()
    seal(path, "generation", FACTS)
    assert Bundle.open(root).searcher.policy == Policy(**old)


def test_tables_are_bundles_too(root):
    size = 5
    codes, items = np.nonzero(~np.eye(size, dtype=bool))
    lists = ScorePostings.build(codes, items, np.ones(20, np.float32), n_codes=size, size=size, keyed_by_item=True)
    searcher = Searcher(catalogue(size), HistorySide(4, 0.5), lists, Policy())
    publish(root, searcher, searcher.side.save, FACTS)
    bundle = Bundle.open(root)
    assert bundle.recommend([["i1", "i3"]]).equals(searcher.recommend([["i1", "i3"]]))
    assert bundle.similar_items(["i1"]).equals(searcher.similar_items(["i1"]))


def test_generations_count_up_and_stay(root, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    searcher = popularity()
    publish(root, searcher, searcher.side.save, FACTS, [tmp_path / "model.safetensors"])
    first = Bundle.open(root)
    publish_popularity(root, first=2)
    assert generations(root) == [1, 2]
    assert (root / "CURRENT").read_text() == "generation-000002\n"
    assert Bundle.open(root).recommend([["i5"]], 1)["item"].to_list() == ["i2"]
    assert Bundle.open(root, 1).recommend([["i5"]], 1)["item"].to_list() == ["i0"]
    assert first.recommend([["i5"]], 1)["item"].to_list() == ["i0"]
    assert (first.path / "model.safetensors").read_bytes() == b"weights"
    with pytest.raises(ArtefactError, match=r"generation-000007 is missing.*\[1, 2\]"):
        Bundle.open(root, 7)


def test_a_root_without_a_generation_is_refused(root):
    with pytest.raises(ArtefactError, match="no published generation"):
        Bundle.open(root)
    publish_popularity(root)
    for content in (b"", b"../elsewhere", b"generation-1\n", b"\xff\xfe"):
        (root / "CURRENT").write_bytes(content)
        with pytest.raises(ArtefactError, match="CURRENT holds"):
            Bundle.open(root)


def test_parts_of_different_models_are_never_published(root):
    with pytest.raises(ArtefactError, match=r"user_side\.json has codes 7, the postings have 6"):
        publish_network(root, side_codes=7)
    with pytest.raises(ArtefactError, match="network, but the postings hold no vectors"):
        publish(root, popularity(), lambda folder: (folder / "user_side.json").write_text('{"kind": "onnx"}'), FACTS)
    with pytest.raises(ConfigError, match="'files'"):
        publish(root, popularity(), ConstantSide().save, {"files": 1})
    assert generations(root) == []
    assert [path.name for path in root.iterdir()] == [".lock"]


def damage(file, kind):
    whole = file.read_bytes()
    if kind == "flip":
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif kind == "missing":
        file.unlink()
    elif kind == "link":
        file.unlink()
        file.symlink_to("/etc/hostname")
    else:
        size = {"empty": 0, "first byte": 1, "half": len(whole) // 2, "last byte": len(whole) - 1}[kind]
        file.write_bytes(whole[:size])
    return lambda: (file.unlink(missing_ok=True), file.write_bytes(whole))


def test_every_damaged_file_is_refused_by_name(root):
    _, path = publish_network(root)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    assert len(files) >= 11
    for file in files:
        for kind in ("empty", "first byte", "half", "last byte", "flip", "missing", "link"):
            if file.name == MANIFEST and kind == "last byte":  # nothing but the end of the line
                continue
            repair = damage(file, kind)
            with pytest.raises(ArtefactError, match=file.name.replace(".", r"\.")):
                Bundle.open(root)
            repair()
    Bundle.open(root)


def test_no_fact_of_the_manifest_changes_unnoticed(root):
    path = publish_popularity(root)
    manifest = (path / MANIFEST).read_text()
    for before, after in (('"fingerprint": "abc"', '"fingerprint": "abd"'), ('"seed": 3', '"seed": 4')):
        assert before in manifest
        (path / MANIFEST).write_text(manifest.replace(before, after))
        with pytest.raises(ArtefactError, match=MANIFEST):
            Bundle.open(root)


def test_files_of_another_generation_are_refused(root):
    _, first = publish_network(root, seed=1)
    _, second = publish_network(root, seed=2)
    for file in sorted(file for file in first.rglob("*") if file.is_file()):
        other = second / file.relative_to(first)
        mine, theirs = file.read_bytes(), other.read_bytes()
        if mine == theirs:
            continue
        other.write_bytes(mine)
        with pytest.raises(ArtefactError):
            Bundle.open(root)
        other.write_bytes(theirs)
    Bundle.open(root)


SETUP = """
import numpy as np
from tests.index.test_bundle import publish_popularity
from tesserec.index.bundle import Bundle
bundles = root / "bundles"
"""


def test_killed_at_every_write_leaves_old_or_new(root):
    publish_popularity(root, first=0)
    check = """
bundle = Bundle.open(bundles)
assert bundle.searcher.postings.of(0)[0][0] == bundle.facts["first"]
assert bundle.facts["first"] == (0 if bundle.generation == 1 else 2)
"""
    swept = sweep(setup=SETUP, action="publish_popularity(bundles, first=2)", check=check, root=root.parent)
    assert swept.faults > 10
    publish_popularity(root)
    assert not list(root.glob(".generation*"))


def test_a_full_disk_leaves_the_old_and_no_rest(root):
    publish_popularity(root, first=0)
    check = """
bundle = Bundle.open(bundles)
assert bundle.facts["first"] in (0, 2)
assert not list(bundles.glob(".generation*"))
"""
    action = "publish_popularity(bundles, first=2)"
    swept = sweep(setup=SETUP, action=action, check=check, root=root.parent, fault="full")
    assert swept.faults > 10


def test_readers_during_thirty_publishes(root):
    publish_popularity(root, first=0)
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            bundle = Bundle.open(root)
            assert bundle.recommend([["i5"]], 1)["item"][0] == f"i{bundle.facts['first']}"
            seen.add(bundle.generation)

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for turn in range(30):
            publish_popularity(root, first=turn % 5)
        done.set()
        for reader in readers:
            reader.result()
    assert generations(root) == list(range(1, 32))
    assert len(seen) > 1


def test_racing_publishers_get_numbers_of_their_own(root):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda turn: publish_popularity(root, turn % 5), range(8)))
    assert len(set(paths)) == 8
    assert generations(root) == list(range(1, 9))
    assert (root / "CURRENT").read_text() == "generation-000008\n"


def test_answers_need_no_torch(root):
    publish_network(root)
    code = f"""
import sys
from tesserec import Bundle
print(Bundle.open({str(root)!r}).recommend([["i1"]], 3)["item"].to_list())
assert "torch" not in sys.modules and "onnx" not in sys.modules
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=120)


def test_a_copied_root_still_opens(root, tmp_path):
    publish_popularity(root)
    shutil.copytree(root, tmp_path / "copy")
    assert Bundle.open(tmp_path / "copy").generation == 1


def test_long_files_are_told_by_their_ends_and_verified_whole(root, tmp_path):
    (tmp_path / "weights").write_bytes(bytes(1 << 18))
    searcher = popularity()
    path = publish(root, searcher, searcher.side.save, FACTS, [tmp_path / "weights"])
    bundle = Bundle.open(root)
    bundle.verify()
    for place, seen_at_open in ((0, True), (1 << 17, False), ((1 << 18) - 1, True)):
        content = bytearray(1 << 18)
        content[place] = 1
        (path / "weights").write_bytes(content)
        with pytest.raises(ArtefactError, match="weights does not hold what was written"):
            bundle.verify()
        if seen_at_open:
            with pytest.raises(ArtefactError, match="weights does not hold what was written"):
                Bundle.open(root)
        else:
            assert Bundle.open(root).generation == 1


@pytest.mark.parametrize("name", ["tiles", "cell_tiles"])
def test_8_bit_rows_of_items_and_cells_round_trip(root, name):
    _searcher, path = publish_network(root)
    file = path / "postings" / f"{name}.npy"
    opened = Bundle.open(root).searcher.postings
    rows = opened.tiles if name == "tiles" else opened.places.rows
    assert isinstance(opened.tiles.tiles, np.memmap)
    opened.verify()
    tiles = np.array(rows.tiles)
    np.save(file, tiles ^ 1)
    with pytest.raises(ArtefactError, match=rf"^{name}\.npy"):
        open_postings(path / "postings").verify()
    np.save(file, tiles[:-1])
    with pytest.raises(ArtefactError, match=rf"/{name}\.npy has shape"):
        open_postings(path / "postings")


def test_a_calibration_round_trips(root):
    calibration = Calibration((0.5, 0.9), (0.1, 0.4), 20, 100, 0.25, (-1.5, 0.125))
    publish_network(root, calibration=calibration)
    assert Bundle.open(root).searcher.calibration == calibration
