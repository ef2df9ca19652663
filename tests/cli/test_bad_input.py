"""Every mistake of the user: exit code 2, one clear message that names the thing, nothing half-written."""

import shutil
from pathlib import Path

import polars as pl
import pytest

import tesserec
from tesserec.errors import ArtefactError, TrainingRefused
from tests.cli.conftest import QUICK, run_cli, sets

GOOD = {
    "user_id": ["a", "a", "a", "b", "b", "b"],
    "item_id": ["x", "y", "z", "x", "y", "z"],
    "timestamp": [1, 2, 3, 1, 2, 3],
}
NAN = float("nan")


def refused(tmp_path: Path, *args: object) -> str:
    """The message of a command that must fail and leave nothing behind."""
    before = sorted(tmp_path.rglob("*"))
    message = run_cli(*args, code=2)
    assert sorted(tmp_path.rglob("*")) == before
    assert message.startswith("error: ")
    assert "Traceback" not in message
    return message


def prepare(tmp_path: Path, columns: dict, *args: object, items: dict | None = None) -> str:
    pl.DataFrame(columns, strict=False).write_parquet(tmp_path / "log.parquet")
    if items is not None:
        pl.DataFrame(items).write_parquet(tmp_path / "items.parquet")
        args = ("--items", tmp_path / "items.parquet", *args)
    args = ("--split", "leave-one-out", *args) if "--split" not in args else args
    return refused(tmp_path, "prepare", tmp_path / "log.parquet", *args, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"user_id": None}, ["log.parquet", "user"]),
        ({"item_id": ["x", "y", None, "x", "y", "z"]}, ["log.parquet", "item_id", "row 3"]),
        ({"user_id": [None, "a", "a", "b", "b", "b"]}, ["log.parquet", "user_id", "row 1"]),
        ({"timestamp": [1.0, 2.0, NAN, 1.0, 2.0, 3.0]}, ["log.parquet", "timestamp", "row 3"]),
        ({"timestamp": [1, 2, -3, 1, 2, 3]}, ["log.parquet", "timestamp", "-3"]),
        ({"timestamp": [1, 2, 10**18 * 9, 1, 2, 3]}, ["log.parquet", "timestamp"]),
        ({"timestamp": ["1", "2", "soon", "1", "2", "3"]}, ["log.parquet", "timestamp", "soon"]),
        ({"user_id": ["a"] * 6}, ["one user"]),
        ({"item_id": ["x"] * 6}, ["one item"]),
    ],
)
def test_bad_logs(tmp_path, change, named):
    columns = {name: column for name, column in {**GOOD, **change}.items() if column is not None}
    message = prepare(tmp_path, columns)
    for one in named:
        assert one in message, message


def test_empty_log(tmp_path):
    (tmp_path / "log.csv").write_text("")
    message = refused(tmp_path, "prepare", tmp_path / "log.csv", "--split", "leave-one-out", "--out", tmp_path / "out")
    assert "log.csv" in message


def test_log_without_rows(tmp_path):
    message = prepare(tmp_path, {name: [] for name in GOOD})
    assert "log.parquet" in message


def test_missing_log(tmp_path):
    message = refused(
        tmp_path, "prepare", tmp_path / "no.parquet", "--split", "leave-one-out", "--out", tmp_path / "out"
    )
    assert "no.parquet" in message


def test_truncated_parquet(tmp_path):
    pl.DataFrame(GOOD).write_parquet(tmp_path / "log.parquet")
    content = (tmp_path / "log.parquet").read_bytes()
    (tmp_path / "log.parquet").write_bytes(content[: len(content) // 2])
    message = refused(
        tmp_path, "prepare", tmp_path / "log.parquet", "--split", "leave-one-out", "--out", tmp_path / "out"
    )
    assert "log.parquet" in message


def test_unknown_column_name(tmp_path):
    message = prepare(tmp_path, GOOD, "--user-column", "customer")
    assert "customer" in message
    assert "user_id" in message


def test_unknown_split(tmp_path):
    assert "random" in prepare(tmp_path, GOOD, "--split", "random")


@pytest.mark.parametrize("option", ["--k-core", "--min-user-events", "--min-item-events"])
def test_negative_counts(tmp_path, option):
    args = ("--split", "leave-one-out", option, "-1", "--out", tmp_path / "out")
    assert option in run_cli("prepare", _good(tmp_path), *args, code=2)


def test_mixed_types_in_a_csv_column(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\na,x,1\na,y,2\nb,x,late\nb,y,4\n")
    message = refused(tmp_path, "prepare", tmp_path / "log.csv", "--split", "leave-one-out", "--out", tmp_path / "out")
    assert "timestamp" in message
    assert "late" in message


def test_duplicate_items(tmp_path):
    message = prepare(tmp_path, GOOD, items={"item_id": ["x", "y", "z", "x"]})
    assert "items.parquet" in message
    assert "'x'" in message or "x" in message.split("items.parquet")[1]


def test_items_missing_in_their_table_are_told(tmp_path):
    """They are recommended all the same, so this is a warning, which names the table."""
    pl.DataFrame({"item_id": ["x", "y"]}).write_parquet(tmp_path / "items.parquet")
    args = ("--items", tmp_path / "items.parquet", "--split", "leave-one-out", "--out", tmp_path / "out")
    said = run_cli("prepare", _good(tmp_path), *args)
    assert "1 items of the log are not in" in said
    assert "items.parquet" in said


def test_dataset_exists_already(tmp_path, shop):
    message = run_cli("prepare", _good(tmp_path), "--split", "leave-one-out", "--out", shop, code=2)
    assert str(shop) in message


def _good(tmp_path: Path) -> Path:
    pl.DataFrame(GOOD).write_parquet(tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--model", "popularty"], "popularity"),
        (["--model", "item-knn", "--set", "neigbours=5"], "neighbours"),
        (["--model", "item-knn", "--set", "neighbours=many"], "many"),
        (["--model", "item-knn", "--set", "neighbours"], "key=value"),
        (["--model", "item-knn", "--recipe", "no.toml"], "no.toml"),
    ],
)
def test_bad_settings(tmp_path, shop, args, named):
    assert named in refused(tmp_path, "train", shop, *args, "--out", tmp_path / "run")


def test_train_on_something_else(tmp_path, run):
    assert str(run) in refused(tmp_path, "train", run, "--model", "popularity", "--out", tmp_path / "run")
    assert "nowhere" in refused(tmp_path, "train", "nowhere", "--model", "popularity", "--out", tmp_path / "run")


def test_what_cannot_be_trained_leaves_no_run_in_the_way(tmp_path, shop):
    pytest.importorskip("torch")
    train = ["train", shop, "--model", "sparc", "--out", tmp_path / "run", "--set"]
    assert "codebook.codes = 5000" in refused(tmp_path, *train, "codebook.codes=5000")
    assert not (tmp_path / "run").exists()


def test_a_refused_training_says_so_afterwards_and_is_in_nobodys_way(tmp_path, shop, monkeypatch):
    pytest.importorskip("torch")

    def refuse(task, best):
        raise TrainingRefused(f"two-tower reached recall@20 {best}, popularity alone 2.0; train longer")

    monkeypatch.setattr("tesserec.models.neural.FitTask.refuse_if_below_popularity", refuse)
    train = ["train", shop, "--model", "two-tower", "--out", tmp_path / "run", *sets(QUICK), "--set"]
    message = run_cli(*train, "training.epochs=1", code=3)
    assert "popularity alone 2.0" in message
    assert "was refused: two-tower reached" in run_cli("evaluate", tmp_path / "run", code=2)
    assert "was refused: two-tower reached" in run_cli("info", tmp_path / "run")
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert "popularity alone 2.0" in run_cli(*train, "training.epochs=1", "--resume", code=3)
    assert (tmp_path / "run" / "log.jsonl").read_text() == log  # nothing was trained
    monkeypatch.undo()
    run_cli(*train, "training.epochs=2", "--resume")
    run_cli("evaluate", tmp_path / "run")


def test_a_negative_seed_is_refused(tmp_path, shop):
    train = ["train", shop, "--model", "popularity", "--out", tmp_path / "run"]
    assert "seed" in run_cli(*train, "--seed", "-1", code=2)
    assert not (tmp_path / "run").exists()


def test_tables_that_are_saved_in_another_way_say_how(tmp_path):
    for content, advice in (
        (b"user;item;time\nu;a;1\n", "';' seems to divide"),
        (b"user,item,time\nu,a,1\nu,caf\xe9,2\n", "save it as UTF-8"),
        (b"user,item\nu,a\nu,Hello, world\n", "put quotes around"),
    ):
        (tmp_path / "log.csv").write_bytes(content)
        args = (tmp_path / "log.csv", "--split", "leave-one-out", "--out", tmp_path / "out")
        assert advice in run_cli("prepare", *args, code=2)


def test_a_cut_that_is_a_date_without_marks_is_refused(tmp_path):
    args = ("--split", "time", "--cuts", "20240601,20240701", "--out", tmp_path / "out")
    assert "write a date like 2024-06-01" in run_cli("prepare", _good(tmp_path), *args, code=2)


def test_run_is_not_overwritten_unasked(shop, run):
    assert "--overwrite" in run_cli("train", shop, "--model", "popularity", "--out", run, code=2)


def test_foreign_directory_is_never_overwritten(tmp_path, shop):
    (tmp_path / "precious.txt").write_text("mine")
    refused(tmp_path, "train", shop, "--model", "popularity", "--out", tmp_path, "--overwrite")


def test_resume_asks_for_the_same_values_wherever_they_come_from(shop, tmp_path):
    pytest.importorskip("scipy")
    train = ["train", shop, "--model", "item-knn", "--out", tmp_path / "run"]
    run_cli(*train, "--set", "neighbours=20")
    message = run_cli(*train, "--set", "neighbours=30", "--resume", code=2)
    assert "its neighbours is 20, this command says 30" in " ".join(message.split())
    run_cli(*train, "--set", "neighbours=20", "--set", "shrink=10.0", "--resume")


def test_resume_of_another_run_is_refused(shop, run):
    message = run_cli("train", shop, "--model", "item-knn", "--out", run, "--resume", code=2)
    assert "popularity" in message
    assert "item-knn" in message


@pytest.mark.parametrize(("k", "named"), [("10,x", "10,x"), ("0", "0"), ("100000", "120")])
def test_bad_cut_offs(run, k, named):
    assert named in run_cli("evaluate", run, "-k", k, code=2)


def test_evaluate_what_is_no_run(tmp_path, shop):
    assert str(shop) in run_cli("evaluate", shop, code=2)
    assert "gone" in run_cli("evaluate", tmp_path / "gone", code=2)


def test_comparison_across_datasets_is_refused(tmp_path, log, run):
    run_cli(
        "prepare",
        log[0],
        "--split",
        "leave-one-out",
        "--k-core",
        "3",
        "--min-user-events",
        "8",
        "--out",
        tmp_path / "b",
    )
    run_cli("train", tmp_path / "b", "--model", "popularity", "--out", tmp_path / "run")
    run_cli("evaluate", tmp_path / "run")
    assert "dataset" in run_cli("compare", run, tmp_path / "run", code=2)
    assert "twice" in run_cli("compare", run, run, code=2)
    assert "choose 'test' or 'valid'" in run_cli("compare", run, tmp_path / "run", "--part", "train", code=2)


def test_unevaluated_run_cannot_be_compared(tmp_path, shop, run):
    run_cli("train", shop, "--model", "popularity", "--out", tmp_path / "new")
    assert "tesserec evaluate" in run_cli("compare", run, tmp_path / "new", code=2)
    (tmp_path / "new").rename(tmp_path / "my new")
    assert f"tesserec evaluate '{tmp_path}/my new' --part" in run_cli("compare", run, tmp_path / "my new", code=2)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--history", ""], "empty"),
        (["--history", "nobody,nothing"], "catalogue"),
        (["--history", "i00003", "-k", "0"], "k"),
        (["--history", "i00003", "-k", "1000"], "120"),
    ],
)
def test_bad_questions(bundles, args, named):
    assert named in run_cli("recommend", bundles, *args, code=2)


def test_popularity_has_no_interests_to_show(bundles):
    assert "no interests" in run_cli("interests", bundles, "--history", "i00003", code=2)


@pytest.mark.parametrize("harm", ["cut", "swap", "lose"])
def test_damaged_bundle_names_the_file(bundles, tmp_path, harm):
    root = tmp_path / "bundles"
    shutil.copytree(bundles, root)
    file = max((root / "generation-000001").rglob("*.npy"), key=lambda path: path.stat().st_size)
    content = file.read_bytes()
    if harm == "lose":
        file.unlink()
    else:
        file.write_bytes(content[:-4] if harm == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    message = run_cli("recommend", root, "--history", "i00003", code=2)
    assert file.name in message


def test_damaged_dataset_names_the_file(shop, tmp_path):
    shutil.copytree(shop, tmp_path / "shop")
    file = max((tmp_path / "shop").rglob("*.npy"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-8])
    message = refused(tmp_path, "train", tmp_path / "shop", "--model", "popularity", "--out", tmp_path / "run")
    assert file.name in message


def test_a_path_that_is_something_else_says_what_may_be_meant(shop, run, tmp_path):
    message = refused(tmp_path, "train", run.parent, "--model", "popularity", "--out", tmp_path / "run")
    assert "is no whole tesserec dataset, manifest.json is missing" in message
    with pytest.raises(ArtefactError, match=rf"did you mean {run}/model\?"):
        tesserec.load(run)


def test_info_on_anything_else(tmp_path):
    assert str(tmp_path) in run_cli("info", tmp_path, code=2)
