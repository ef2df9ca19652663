"""Datasets on disk: what is opened is what was saved, or the damaged file is named; no crash leaves half of one."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from polars.testing import assert_frame_equal

from tesserec.data.dataset import Dataset
from tesserec.data.histories import Histories
from tesserec.data.prepare import prepare
from tesserec.data.world import World
from tesserec.errors import ArtefactError, DataError, UserError
from tests.faults import sweep

FILES = ("items.parquet", "users.parquet", "values.npy", "times.npy", "train.npy", "valid.npy", "test.npy")


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(users=60, items=40, interests=4, seed=0)


@pytest.fixture(scope="module")
def saved(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "dataset"
    prepare(world.log, items=world.items, out=path)
    return path


@pytest.mark.parametrize("split", ["leave-one-out", "user-holdout", "time"])
def test_open_gives_what_was_prepared(split: str, world: World, tmp_path: Path) -> None:
    made = prepare(world.log, items=world.items, split=split)
    opened = made.save(tmp_path / "dataset")
    for name in ("roles", "split", "fingerprint", "exclude_seen", "report"):
        assert getattr(opened, name) == getattr(made, name), name
    assert_frame_equal(opened.item_table, made.item_table)
    assert_frame_equal(opened.user_table, made.user_table)
    assert opened.items.values.equals(made.items.values)
    assert (opened.train_times == made.train_times).all()
    assert (opened.train_users == made.train_users).all()
    for one, other in ((opened.valid, made.valid), (opened.test, made.test)):
        assert (one.users == other.users).all()
        assert [row.tolist() for row in one.targets] == [row.tolist() for row in other.targets]
        assert [row.tolist() for row in one.histories] == [row.tolist() for row in other.histories]
    assert [row.tolist() for row in opened.train] == [row.tolist() for row in made.train]
    assert opened.path == tmp_path / "dataset"


def test_arrays_are_mapped_and_cannot_be_changed(saved: Path) -> None:
    dataset = Dataset.open(saved)
    base = dataset.train.values
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        dataset.train.values[0] = 1
    assert dataset.valid.targets.values is dataset.train.values


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_damage_is_named(name: str, damage: str, saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    file = copy / name
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content[:-1] if damage == "cut" else content)
    with pytest.raises(ArtefactError, match=name):
        Dataset.open(copy)


def test_large_datasets_are_hashed_on_demand(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    file = copy / "values.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr("tesserec.data.dataset.HASHED_BY_DEFAULT", 10)
    Dataset.open(copy)
    with pytest.raises(ArtefactError, match=r"values\.npy"):
        Dataset.open(copy, verify=True)


def test_not_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="none is not a directory; expected a tesserec dataset"):
        Dataset.open(tmp_path / "none")
    with pytest.raises(ArtefactError, match=r"manifest\.json is missing"):
        Dataset.open(tmp_path)


def test_an_existing_dataset_is_replaced_only_on_demand(world: World, saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    said: list[str] = []
    with pytest.raises(UserError, match="copy exists already"):
        prepare(world.log, out=copy, progress=said.append)
    assert not said, "refused before any work"
    with pytest.raises(UserError, match="copy exists already"):
        Dataset.open(saved).save(copy)
    assert prepare(world.log, out=copy, overwrite=True).fingerprint != Dataset.open(saved).fingerprint
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not a tesserec dataset; it is left alone"):
        prepare(world.log, out=tmp_path / "mine", overwrite=True)


def test_parts_must_share_one_array(saved: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(saved)
    rows = dataset.test.targets
    foreign = replace(dataset.test, targets=Histories(rows.values.copy(), rows.starts, rows.stops))
    with pytest.raises(DataError, match="all parts must be ranges of train"):
        replace(dataset, test=foreign).save(tmp_path / "out")


SETUP = """
import numpy, polars
from tesserec.data.dataset import Dataset
from tesserec.data.events import Events
from tesserec.data.prepare import prepare

# Kernels load once here instead of in every fork.
rows = numpy.zeros(3, numpy.int32), numpy.zeros(3, numpy.int32), numpy.arange(3)
for column in rows:
    column.flags.writeable = False
events = Events.group(*rows, 1).without_repeats("first", 1)
events.repeats(1)
events.relabel(numpy.zeros(1, numpy.int32))
"""
ACTION = "prepare(root / 'log.parquet', out=root / 'dataset', overwrite=True, repeats='first')"
OLD_OR_NEW = """
import os
found = Dataset.open(root / 'dataset', verify=True) if (root / 'dataset').exists() else None
assert found is None or found.fingerprint in (root / 'allowed.txt').read_text().split()
"""
OLD_OR_NEW_WITHOUT_LEFTOVERS = (
    """
names = {path.name for path in root.iterdir()}
assert names == {'log.parquet', 'allowed.txt', 'dataset'}, names
"""
    + OLD_OR_NEW
)


@pytest.fixture
def workplace(world: World, tmp_path: Path) -> Path:
    """A log and an old dataset, with the fingerprints of the old and the new one."""
    world.log.write_parquet(tmp_path / "log.parquet")
    old = prepare(tmp_path / "log.parquet", out=tmp_path / "dataset").fingerprint
    new = prepare(tmp_path / "log.parquet", repeats="first").fingerprint
    (tmp_path / "allowed.txt").write_text(f"{old} {new}")
    return tmp_path


def test_a_kill_at_any_write_leaves_the_old_dataset_or_none(workplace: Path) -> None:
    seen = sweep(setup=SETUP, action=ACTION, check=OLD_OR_NEW, root=workplace)
    assert seen.faults >= 20


def test_what_an_interrupted_replacement_left_is_named(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / ".mine.17.old")
    with pytest.raises(
        ArtefactError, match=r"mine is not a directory; .* what it was is .*/\.mine\.17\.old, to be renamed"
    ):
        Dataset.open(tmp_path / "mine")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file exists and is not a tesserec dataset; it is left alone"):
        Dataset.open(saved).save(tmp_path / "file", overwrite=True)


def test_a_full_disk_is_said_and_leaves_nothing_half_written(workplace: Path) -> None:
    seen = sweep(setup=SETUP, action=ACTION, check=OLD_OR_NEW_WITHOUT_LEFTOVERS, root=workplace, fault="full")
    assert seen.faults >= 20
    assert all("UserError" in m and "dataset could not be written" in m for m in seen.messages)


def test_a_rename_that_fails_puts_the_old_dataset_back(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, calls = os.rename, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(UserError, match=r"dataset could not be written: .* Input/output error"):
        prepare(workplace / "log.parquet", out=workplace / "dataset", overwrite=True, repeats="first")
    assert Dataset.open(workplace / "dataset").report.dropped == {}
    assert {path.name for path in workplace.iterdir()} == {"log.parquet", "allowed.txt", "dataset"}
