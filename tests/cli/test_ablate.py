"""Studies: every variant measured alike, finished runs kept, mistakes refused before anything is trained."""

import importlib.util
import json

import pytest

from tesserec.ablations import STUDIES, Study, Variant
from tesserec.errors import TrainingRefused
from tesserec.evaluation.slices import cells_hash
from tesserec.models import MODELS, model_class
from tesserec.runs import load_run, train_run
from tesserec.training.recipe import load_recipe
from tests.cli.conftest import QUICK, QUICK_SPARC, run_cli, sets

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the train extra")


@pytest.mark.parametrize("study", STUDIES)
def test_every_variant_has_a_model_that_knows_its_settings(study):
    labels = [variant.label for variant in STUDIES[study].variants]
    assert len(set(labels)) == len(labels) >= 2
    for variant in STUDIES[study].variants:
        assert variant.model in MODELS
        load_recipe(model_class(variant.model).Config, None, variant.sets)


def test_a_study_compares_each_variant_with_the_first_and_resumes(shop, tmp_path):
    command = ("ablate", shop, "--study", "interests", "--out", tmp_path, "-k", "5,20", *sets(QUICK_SPARC))
    result = json.loads(run_cli(*command, "--json"))
    assert [row["policy"]["interests"] for row in result["rows"]] == [1, 2, 4, 8, 16]
    first, *others = result["rows"]
    assert first["against_first"] == {}
    for row in others:
        paired = row["against_first"]["recall@20"]
        assert paired["difference"] == pytest.approx(
            row["metrics"]["recall@20"]["value"] - first["metrics"]["recall@20"]["value"]
        )
    assert len({row["metrics"]["recall@20"]["value"] for row in result["rows"]}) > 1
    (run,) = (path for path in tmp_path.iterdir() if path.is_dir())
    written = (run / "config.json").stat().st_mtime_ns
    text = run_cli(*command)
    assert "SPARC, K = 8" in text
    assert (run / "config.json").stat().st_mtime_ns == written
    assert json.loads((tmp_path / "interests.json").read_text())["rows"] == result["rows"]


def test_a_study_of_novelty_measures_it_by_the_cells_of_its_first_variant(shop, tmp_path):
    settings = [*QUICK, "training.epochs=5", "codes=8", "warmup_epochs=2"]
    command = ("ablate", shop, "--study", "novelty", "--out", tmp_path, "-k", "20", *sets(settings))
    result = json.loads(run_cli(*command, "--json"))
    found = {row["policy"].get("known", 1.0): row["metrics"] for row in result["rows"][:5]}
    assert found[0.1]["recall@20/novel"]["value"] > found[1.0]["recall@20/novel"]["value"]
    assert found[0.1]["recall@20"]["value"] < found[1.0]["recall@20"]["value"]
    assert set(result["rows"][1]["against_first"]) == {"recall@20", "recall@20/novel"}
    (run,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert result["protocol"]["cells_sha256"] == cells_hash(load_run(run).model.searcher.cells)


def test_mistakes_are_refused_before_anything_is_trained(shop, tmp_path):
    out = tmp_path / "studies"
    assert "known studies: coupling" in run_cli("ablate", shop, "--study", "couplin", "--out", out, code=2)
    message = run_cli("ablate", shop, "--study", "interests", "--out", out, "--set", "epocs=3", code=2)
    assert "unknown setting 'epocs'" in message
    assert "k = 500; the catalogue has" in run_cli(
        "ablate", shop, "--study", "interests", "--out", out, "-k", "10,500", code=2
    )
    assert not out.exists()


def test_a_variant_whose_training_is_refused_is_a_row_that_says_so(shop, tmp_path, monkeypatch):
    variants = tuple(Variant(name, name) for name in ("popularity", "item-knn", "two-tower"))
    monkeypatch.setitem(STUDIES, "small", Study("Which?", variants))

    def train(dataset, model, *args, **kwargs):
        if model == refuses:
            raise TrainingRefused("its loss is not finite")
        return train_run(dataset, "popularity", *args, **kwargs)

    monkeypatch.setattr("tesserec.ablations.train_run", train)
    command = ("ablate", shop, "--study", "small", "--out", tmp_path, "-k", "10")
    refuses = "two-tower"
    first, second, third = json.loads(run_cli(*command, "--json"))["rows"]
    assert (first["refused"], second["refused"], third["refused"]) == (None, None, "its loss is not finite")
    assert second["against_first"]["recall@10"]["difference"] == 0
    assert third["metrics"] == third["against_first"] == {}
    assert "two-tower" in run_cli(*command)
    refuses = "popularity"
    assert "not finite" in run_cli(*command, code=3)
