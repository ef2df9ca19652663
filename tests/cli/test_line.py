"""The whole line by its commands, on a tiny world, and what scripts rely on: JSON, exit codes, files."""

import importlib.util
import json
import math
import shutil

import polars as pl
import pytest

from tesserec.data.dataset import Dataset
from tesserec.index.bundle import Bundle
from tests.cli.conftest import SHORT_SPARC, run_cli, sets

NEURAL = all(importlib.util.find_spec(name) for name in ("torch", "onnx", "onnxscript"))
HISTORY = "i00003,i00014,i00015"


def test_prepared_dataset_holds_the_whole_log(world, shop):
    dataset = Dataset.open(shop)
    assert len(dataset.users) == 300
    assert len(dataset.test.users) == 300
    held_out = 2 * 300
    assert int(dataset.train.lengths.sum()) == len(world.log) - held_out


def test_evaluate_json_has_the_promised_shape(shop, run):
    answer = json.loads(run_cli("evaluate", run, "-k", "5,20", "--json"))
    assert answer["fingerprint"] == Dataset.open(shop).fingerprint
    for name in ("recall@5", "hit@20", "ndcg@5", "mrr@20"):
        one = answer["metrics"][name]
        assert 0 <= one["low"] <= one["value"] <= one["high"] <= 1, name
    assert answer["protocol"]["ks"] == [5, 20]
    assert not any(isinstance(v, float) and math.isnan(v) for one in answer["metrics"].values() for v in one.values())


def test_each_part_has_a_page_of_its_own(run):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    run_cli("evaluate", run)
    page = (run / "report.html").read_text()
    run_cli("evaluate", run, "--part", "valid")
    assert (run / "report.html").read_text() == page != (run / "report-valid.html").read_text()


def test_a_model_without_interests_says_so(run):
    answer = json.loads(run_cli("evaluate", run, "--json"))
    assert answer["interests"]["figures"] == {}
    assert "without reading a vector" in answer["interests"]["omitted"]["interests"]
    assert json.loads(run_cli("evaluate", run, "--interest-users", "0", "--json"))["interests"] is None
    assert not (run / "interests.json").exists()


def test_measured_recall_stays_under_the_optimum_of_the_world(world, run):
    run_cli("evaluate", run, "-k", "20")
    stored = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert stored["metrics"]["recall@20"]["value"] < world.optimal_recall(20)


def test_compare_names_the_baseline_and_tests_the_difference(shop, run, tmp_path):
    other = tmp_path / "knn"
    run_cli("train", shop, "--model", "item-knn", "--out", other)
    run_cli("evaluate", other, "-k", "10,20")
    run_cli("evaluate", run, "-k", "10,20")
    answer = json.loads(run_cli("compare", run, other, "--json"))
    assert answer["baseline"] == "popularity"
    rows = {row["metric"]: row for row in answer["rows"]}
    assert set(rows) == {"recall@10", "recall@20", "ndcg@10", "ndcg@20"}
    recall = rows["recall@20"]
    assert recall["run"] == "knn"
    assert recall["difference"] == pytest.approx(recall["value"] - recall["baseline"])
    assert recall["value"] > recall["baseline"]
    assert "recall@20" in run_cli("compare", run, other, "--metric", "recall@20")


def test_recommend_json_has_the_promised_shape(bundles):
    answer = json.loads(run_cli("recommend", bundles, "--history", HISTORY + ",nobody", "-k", "7", "--json"))
    assert len(answer["candidates"]) == 7
    first = answer["candidates"][0]
    assert set(first) == {"item", "score", "interest", "probability", "explored", "propensity", "new", "title"}
    assert first["interest"] is None
    assert answer["unknown"] == ["nobody"]
    assert answer["interests"] == []
    assert answer["model"] == "popularity"
    assert answer["generation"] == "generation-000001"
    scores = [one["score"] for one in answer["candidates"]]
    assert scores == sorted(scores, reverse=True)


def test_recommend_prints_a_table_with_titles(world, bundles):
    best = json.loads(run_cli("recommend", bundles, "--history", HISTORY, "--json"))["candidates"][0]
    shown = run_cli("recommend", bundles, "--history", HISTORY)
    assert best["item"] in shown
    assert best["title"] == world.items.filter(pl.col("item_id") == best["item"])["title"][0]


def test_history_is_read_in_the_type_of_the_ids(tmp_path):
    log = pl.DataFrame({"user": [u for u in range(20) for _ in range(4)], "item": [i % 7 for i in range(80)],
                        "time": list(range(80))})  # fmt: skip
    log.write_csv(tmp_path / "log.csv")
    args = ["--user-column", "user", "--item-column", "item", "--time-column", "time"]
    run_cli("prepare", tmp_path / "log.csv", *args, "--split", "leave-one-out", "--out", tmp_path / "data")
    run_cli("train", tmp_path / "data", "--model", "popularity", "--out", tmp_path / "run")
    run_cli("index", tmp_path / "run", "--out", tmp_path / "bundles")
    answer = json.loads(run_cli("recommend", tmp_path / "bundles", "--history", "3, 4", "-k", "2", "--json"))
    assert answer["unknown"] == []
    assert all(isinstance(one["item"], int) for one in answer["candidates"])


def test_index_adds_generations_and_info_tells_the_current_one(run, tmp_path):
    for _ in range(2):
        run_cli("index", run, "--out", tmp_path / "root")
    facts = json.loads(run_cli("info", tmp_path / "root", "--json"))
    assert facts["current"] == "generation-000002"
    assert facts["generations"] == ["generation-000001", "generation-000002"]
    assert facts["model"] == "popularity"
    assert "generation-000002" in run_cli("info", tmp_path / "root")


def test_index_calibrates_on_a_dataset_that_was_moved_where_it_is_told(shop, tmp_path):
    pytest.importorskip("onnxscript")
    shutil.copytree(shop, tmp_path / "shop")
    run_cli("train", tmp_path / "shop", "--model", "sparc", "--out", tmp_path / "run", *sets(SHORT_SPARC))
    (tmp_path / "shop").rename(tmp_path / "moved")
    root = tmp_path / "root"
    run_cli("index", tmp_path / "run", "--out", root)
    assert Bundle.open(root).searcher.calibration is None
    run_cli("index", tmp_path / "run", "--out", root, "--dataset", tmp_path / "moved")
    assert Bundle.open(root).searcher.calibration is not None


def test_info_knows_every_directory(world, shop, run, bundles):
    assert json.loads(run_cli("info", shop, "--json"))["users"] == 300
    facts = json.loads(run_cli("info", run, "--json"))
    assert facts["state"] == "finished"
    assert facts["test_metrics"]["recall@20"] > 0
    assert json.loads(run_cli("info", run / "model", "--json"))["kind"] == "model"
    assert json.loads(run_cli("info", run / "evaluation", "--json"))["kind"] == "evaluation"
    assert json.loads(run_cli("info", bundles / "generation-000001", "--json"))["kind"] == "generation"
    assert "leave-one-out" in run_cli("info", shop)


def test_recipe_prints_settings_that_train_accepts(shop, tmp_path):
    recipe = tmp_path / "knn.toml"
    recipe.write_text(run_cli("recipe", "item-knn").replace("neighbours = 200", "neighbours = 7"))
    run_cli("train", shop, "--model", "item-knn", "--recipe", recipe, "--set", "shrink=3", "--out", tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert settings["neighbours"] == {"value": 7, "from": "recipe"}
    assert settings["shrink"] == {"value": 3.0, "from": "set"}
    assert settings["decay"]["from"] == "default"


@pytest.mark.skipif(importlib.util.find_spec("jinja2") is None, reason="needs the report extra")
def test_report_is_one_page(run):
    run_cli("evaluate", run)
    page = (run / "report.html").read_text()
    assert "recall" in page
    assert "<script src" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


@pytest.mark.skipif(not NEURAL, reason="needs the train extra")
def test_neural_line(shop, run, tmp_path):
    run_cli("train", shop, "--model", "sparc", *sets(SHORT_SPARC), "--out", tmp_path / "sparc")
    interests = json.loads(run_cli("evaluate", tmp_path / "sparc", "--interest-users", "100", "--json"))["interests"]
    assert interests["protocol"]["users"] == 100
    assert {name.partition("/")[0] for name in interests["figures"]} == {
        "concentration", "collapse", "calibration", "codebook",
    }  # fmt: skip
    assert len(interests["curves"]["usage"]) > 1
    facts = json.loads(run_cli("info", tmp_path / "sparc", "--json"))
    assert facts["test_interests"]["collapse/cosine"] == interests["figures"]["collapse/cosine"]["value"]
    run_cli("evaluate", run, "--cells", tmp_path / "sparc")
    run_cli("compare", run, tmp_path / "sparc", "--report", tmp_path / "both.html")
    assert (tmp_path / "both.html").is_file()
    run_cli("index", tmp_path / "sparc", "--out", tmp_path / "bundles")
    ask = ["recommend", tmp_path / "bundles", "--history", HISTORY, "--explore", "0.3", "-k", "10"]
    answer = json.loads(run_cli(*ask, "--json"))
    assert sum(one["explored"] for one in answer["candidates"]) == 3
    named = {one["interest"]: one for one in answer["interests"]}
    for one in answer["candidates"]:
        assert 0 < one["probability"] <= 1
        assert one["explored"] == (not named[one["interest"]]["known"]) or not one["explored"]
        assert named[one["interest"]]["name"]
    assert "explored" in run_cli(*ask)
    found = json.loads(run_cli("interests", tmp_path / "bundles", "--history", HISTORY, "-k", "8", "--json"))
    assert sum(one["probability"] for one in found["interests"]) == pytest.approx(1, abs=1e-4)
    run_cli("interests", tmp_path / "bundles", "--history", HISTORY)


def test_demo_runs_to_its_last_line(tmp_path, monkeypatch):
    from tesserec.cli import line

    monkeypatch.setattr(line, "SHORT", line.Size(users=200, items=80, interests=5, epochs=2, batch=256, codes=5))
    shown = run_cli("demo", "--short", "--out", tmp_path / "demo")
    assert "best possible" in shown
    assert "in truth:" in shown
    assert (tmp_path / "demo" / "bundles" / "CURRENT").is_file()
    assert "--overwrite" in run_cli("demo", "--short", "--out", tmp_path / "demo", code=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    assert "not an earlier demo" in run_cli("demo", "--out", tmp_path / "mine", "--overwrite", code=2)


def test_demo_takes_a_log_of_ones_own(log, tmp_path, monkeypatch):
    from tesserec.cli import line

    monkeypatch.setattr(line, "TRAINED", ())
    shown = run_cli("demo", "--data", log[0], "--items", log[1], "--out", tmp_path / "demo")
    assert "popularity" in shown
    assert "best possible" not in shown


def test_demo_measures_a_small_catalogue_at_the_cut_offs_that_it_has(tmp_path, monkeypatch):
    from tesserec.cli import line

    monkeypatch.setattr(line, "TRAINED", ())
    rows = [(f"u{n}", f"i{(n * 7 + m * m) % 30}", 1_700_000_000 + m) for n in range(60) for m in range(6)]
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_parquet(tmp_path / "log.parquet")
    shown = run_cli("demo", "--data", tmp_path / "log.parquet", "--out", tmp_path / "demo")
    assert "recall@20" in shown
    assert "recall@50" not in shown


@pytest.mark.parametrize("command", ["train", "index"])
def test_missing_extra_is_named(shop, run, tmp_path, monkeypatch, command):
    def missing(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    if command == "train":
        monkeypatch.setattr("tesserec.models.model_class", missing)
        message = run_cli("train", shop, "--model", "sparc", "--out", tmp_path / "run", code=2)
        assert not (tmp_path / "run").exists()
    else:
        monkeypatch.setattr("tesserec.models.publish.publish_bundle", missing)
        message = run_cli("index", run, "--out", tmp_path / "bundles", code=2)
    assert "pip install 'tesserec[train]'" in message
