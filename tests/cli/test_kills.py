"""Training killed at every write, or with a full disk: an old run, none, or one that the same command ends."""

import pytest

from tests.cli.conftest import run_cli
from tests.faults import sweep

SETUP = """
import shutil
from tesserec.data.dataset import Dataset
from tesserec.models.popularity import Popularity
from tesserec.runs import load_run, train_run
def train(**options):
    return train_run(root / 'shop', 'popularity', root / 'run', **options)
"""
WHOLE_OR_UNFINISHED = """
there = (root / 'run' / 'config.json').exists() and load_run(root / 'run').finished
assert (load_run(root / 'run') if there else train(resume=True)).model.searcher
"""


@pytest.fixture
def place(log, tmp_path):
    run_cli("prepare", log[0], "--split", "leave-one-out", "--out", tmp_path / "shop")
    return tmp_path


@pytest.mark.parametrize("fault", ["kill", "full"])
def test_a_run_is_whole_or_can_go_on(place, fault):
    check = WHOLE_OR_UNFINISHED + "shutil.rmtree(root / 'run')"
    seen = sweep(setup=SETUP, action="train()", check=check, root=place, fault=fault)
    assert seen.faults > 5
    assert all("No space left" in message for message in seen.messages)


def test_overwriting_leaves_the_old_run_or_a_new_one(place):
    run_cli("train", place / "shop", "--model", "popularity", "--out", place / "run")
    seen = sweep(setup=SETUP, action="train(overwrite=True)", check=WHOLE_OR_UNFINISHED, root=place)
    assert seen.faults > 5
